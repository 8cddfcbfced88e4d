"""Tuned configs: nothing saved is lost, and lookup finds the right entry."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from tuned_samples import A100, CONFIG, FRESH, H200, PROBLEM, entry, file_of

from kgen import tuned
from kgen.blocks import family
from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import local_devices
from kgen.errors import InfeasibleError, TunedConfigError
from kgen.tuned import load_file, lookup, near, save

PACKAGED_DIR = tuned.packaged_dir


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Folders of their own for the three places, present templates, and a plan to which every config is feasible."""
    places = SimpleNamespace(**{name: tmp_path / name for name in ("explicit", "user", "packaged")})
    monkeypatch.setenv("KGEN_TUNED_DIR", str(places.user))
    monkeypatch.setattr(tuned, "packaged_dir", lambda: places.packaged)
    monkeypatch.setattr(tuned, "_template_digest", lambda block: FRESH)
    plan_with(monkeypatch, lambda problem, config, device: None)
    return places


def plan_with(monkeypatch: pytest.MonkeyPatch, plan: Callable[..., object]) -> None:
    monkeypatch.setattr(tuned, "family", lambda name: SimpleNamespace(plan=plan))


def test_a_saved_entry_comes_back(folders: SimpleNamespace) -> None:
    path = save(entry(), H200)
    assert path == file_of(folders.user)
    found = load_file(path)
    assert found.block == "convfirst"
    assert found.entries == (entry(),)
    assert (found.environment.gpu, found.environment.sms, found.environment.driver) == ("NVIDIA H200", 132, None)
    assert found.environment.template_digest == FRESH


def test_entries_are_sorted_and_only_the_same_problem_is_replaced(tmp_path: Path) -> None:
    problems = [ConvFirst(batch, 14, 14, channels) for channels in (128, 16, 64) for batch in (32, 1)]
    for problem in problems:
        save(entry(problem), H200, tmp_path)
    path = save(entry(ConvFirst(1, 14, 14, 64, expansion=4.0), trials=7), H200, tmp_path)
    found = load_file(path).entries
    keys = [(item.problem.channels, item.problem.batch) for item in found]
    assert keys == [(16, 1), (16, 32), (64, 1), (64, 32), (128, 1), (128, 32)]
    assert [item.trials for item in found] == [200, 200, 7, 200, 200, 200]


def test_files_do_not_depend_on_the_order_of_saving(tmp_path: Path) -> None:
    entries = [entry(ConvFirst(1, size, size, 64, activation=act)) for size in (7, 14) for act in ("silu", "relu")]
    for folder, items in ((tmp_path / "a", entries), (tmp_path / "b", entries[::-1])):
        for item in items:
            save(item, H200, folder)
    assert file_of(tmp_path / "a").read_bytes() == file_of(tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b'{"schema_version": 1, "entr', b"\xff\xfe\xfa", b"[" * 100_000, b"NaN", b"[]"]
)
def test_a_corrupt_file_is_named_and_never_overwritten(content: bytes, folders: SimpleNamespace) -> None:
    path = file_of(folders.user)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for use in (lambda: load_file(path), lambda: lookup(PROBLEM, H200), lambda: save(entry(), H200)):
        with pytest.raises(TunedConfigError, match="move it away") as caught:
            use()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("fields", [{"seconds": float("nan")}, {"trials": 1.5}, {"modelled_us": float("inf")}])
def test_what_could_not_be_read_again_is_not_saved(fields: dict[str, Any], tmp_path: Path) -> None:
    path = save(entry(), H200, tmp_path)
    before = path.read_bytes()
    with pytest.raises(TunedConfigError, match=f"the tuned config to save: .*{next(iter(fields))} must be"):
        save(entry(ConvFirst(1, 7, 7, 16), **fields), H200, tmp_path)
    assert path.read_bytes() == before


def test_a_missing_file_is_an_error_to_load_but_not_to_look_up(tmp_path: Path) -> None:
    with pytest.raises(TunedConfigError, match=r"must be a readable file, but reading it failed \(No such file"):
        load_file(tmp_path / "none.json")
    assert lookup(PROBLEM, H200, tmp_path) is None


def test_a_folder_that_cannot_be_examined_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TunedConfigError, match=r"reading it failed \(File name too long\); check path and mode"):
        lookup(PROBLEM, H200, tmp_path / ("x" * 5000))


def test_an_unwritable_folder_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TunedConfigError, match=r"must be writable, but writing .* failed .*; choose another"):
        save(entry(), H200, tmp_path / "file")
    path = save(entry(), H200, tmp_path)
    before = path.read_bytes()

    def full_disk(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuned, "atomic_write", full_disk)
    with pytest.raises(TunedConfigError, match="No space left on device"):
        save(entry(trials=1), H200, tmp_path)
    assert path.read_bytes() == before


def test_a_lock_held_by_another_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(entry(), H200, tmp_path)
    monkeypatch.setattr(tuned, "_LOCK_TIMEOUT_S", 0.05)
    with (
        FileLock(path.with_name(f".{path.name}.lock")),
        pytest.raises(TunedConfigError, match=r"within 0.05 s, but anoth"),
    ):
        save(entry(trials=1), H200, tmp_path)
    assert load_file(path).entries[0].trials == 200


PRELUDE = """
import os, signal, sys
from pathlib import Path
from kgen.devices import find_device
from kgen.tuned import load_file, save
from dataclasses import replace
device, folder = find_device("h200"), Path(sys.argv[1])
(entry,) = load_file(folder / "seed" / "convfirst" / "nvidia-h200.json").entries
"""


def start(folder: Path, script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PRELUDE + script, str(folder), *arguments])


def test_four_processes_saving_at_once_lose_nothing(tmp_path: Path) -> None:
    save(entry(), H200, tmp_path / "seed")
    script = """
for batch in range(1, 11):
    save(replace(entry, problem=replace(entry.problem, batch=batch, channels=16 * int(sys.argv[2]))), device, folder)
"""
    savers = [start(tmp_path, script, str(number)) for number in range(1, 5)]
    assert [saver.wait(timeout=60) for saver in savers] == [0, 0, 0, 0]
    found = [(item.problem.channels, item.problem.batch) for item in load_file(file_of(tmp_path)).entries]
    assert found == [(16 * number, batch) for number in range(1, 5) for batch in range(1, 11)]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_between_write_and_replace_leaves_the_old_file(tmp_path: Path) -> None:
    save(entry(), H200, tmp_path / "seed")
    path = save(entry(), H200, tmp_path)
    before = path.read_bytes()
    script = """
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.rename = Path.replace = Path.rename = die
save(replace(entry, trials=1), device, folder)
"""
    assert start(tmp_path, script).wait(timeout=60) == -signal.SIGKILL
    assert len(list(path.parent.glob(".*.tmp"))) == 1, "it was killed after the temporary file was written"
    assert path.read_bytes() == before
    save(entry(trials=2), H200, tmp_path)
    assert [item.trials for item in load_file(path).entries] == [2]


def test_an_exact_fresh_entry_needs_no_words(folders: SimpleNamespace) -> None:
    path = save(entry(), H200)
    found = lookup(ConvFirst(32, 14, 14, 64, expansion=4.0), H200)
    assert found is not None
    assert (found.entry, found.path, found.exact, found.stale) == (entry(), path, True, False)
    assert found.sentence() is None


def test_entries_of_another_gpu_are_not_used(folders: SimpleNamespace) -> None:
    save(entry(), A100, folders.explicit)
    assert lookup(PROBLEM, H200, folders.explicit) is None


@pytest.mark.parametrize("places", [("explicit", "user", "packaged"), ("user", "packaged"), ("packaged",)])
def test_earlier_folders_win_among_exact_entries(places: tuple[str, ...], folders: SimpleNamespace) -> None:
    for number, place in enumerate(places):
        save(entry(trials=number), H200, getattr(folders, place))
    found = lookup(PROBLEM, H200, folders.explicit)
    assert found is not None
    assert found.entry.trials == 0
    assert found.path == file_of(getattr(folders, places[0]))


OTHER = replace(PROBLEM, batch=64)
RANKED = [(PROBLEM, FRESH), (PROBLEM, "old"), (OTHER, FRESH), (OTHER, "old")]


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(range(4), 2)))
def test_fresh_exact_beats_stale_exact_beats_fresh_nearest_beats_stale_nearest(
    better: int, worse: int, folders: SimpleNamespace
) -> None:
    for place, (problem, digest) in ((folders.explicit, RANKED[worse]), (folders.packaged, RANKED[better])):
        save(entry(problem, template_digest=digest), H200, place)
    found = lookup(PROBLEM, H200, folders.explicit)
    assert found is not None
    assert (found.entry.problem, found.entry.template_digest) == RANKED[better]
    assert (found.exact, found.stale) == (better < 2, better % 2 == 1)


def test_sentences_name_problem_file_and_what_is_stale(folders: SimpleNamespace) -> None:
    path = save(entry(template_digest="old"), H200)
    exact, nearest = lookup(PROBLEM, H200), lookup(OTHER, H200)
    assert exact is not None
    assert nearest is not None
    assert exact.sentence() == (
        f"the tuned config for {PROBLEM} in {path} was tuned with other templates than the present ones; tune it again"
    )
    assert nearest.sentence() == (
        f"{OTHER} has no tuned config for this GPU, so the nearest one is used, {PROBLEM} in {path}, "
        f"which was tuned with other templates than the present ones; tune it for more speed"
    )
    save(entry(), H200)
    fresh = lookup(OTHER, H200)
    assert fresh is not None
    assert fresh.sentence() == (
        f"{OTHER} has no tuned config for this GPU, so the nearest one is used, {PROBLEM} in {path}; "
        f"tune it for more speed"
    )


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [
        ({"batch": 48}, {"batch": 8}),
        ({"channels": 80}, {"channels": 32}),
        ({"height": 28, "width": 7}, {"height": 15}),
        ({"height": 16, "width": 16}, {"height": 28}),
        ({"activation": "relu", "dtype": "bfloat16", "residual": False}, {"batch": 33}),
        ({"expansion": 5}, {"expansion": 3}),
        ({"batch": 16, "dtype": "float16"}, {"batch": 16, "dtype": "bfloat16"}),
        ({"batch": 16}, {"batch": 64}),
    ],
)
def test_nearest_is_by_log2_of_channels_pixels_batch_and_expansion(
    nearer: dict[str, Any], farther: dict[str, Any], folders: SimpleNamespace
) -> None:
    for place, fields in ((folders.explicit, farther), (folders.packaged, nearer)):
        save(entry(replace(PROBLEM, **fields)), H200, place)
    found = lookup(PROBLEM, H200, folders.explicit)
    assert found is not None
    assert found.entry.problem == replace(PROBLEM, **nearer)
    assert not found.exact


def test_a_config_that_cannot_run_the_problem_is_passed_over(
    folders: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch, tile_w in ((32, 8), (64, 8), (128, 14)):
        save(entry(replace(PROBLEM, batch=batch), config=replace(CONFIG, tile_w=tile_w)), H200)
    asked: list[ConvFirst] = []

    def plan(problem: ConvFirst, config: PortableConfig, device: object) -> None:
        asked.append(problem)
        if config.tile_w == 8:
            raise InfeasibleError("tile_w", "tile_w must be 14")

    plan_with(monkeypatch, plan)
    found = lookup(PROBLEM, H200)
    assert found is not None
    assert found.entry.problem.batch == 128
    assert asked == [PROBLEM] * 3
    plan_with(monkeypatch, lambda *_: plan(PROBLEM, CONFIG, H200))
    assert lookup(PROBLEM, H200) is None


def test_feasibility_is_the_plan_of_the_family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuned, "family", family)
    config = family("convfirst").default_config(PROBLEM, H200)
    save(entry(config=config), H200, tmp_path)
    found = lookup(replace(PROBLEM, height=15), H200, tmp_path)
    assert found is not None
    assert found.entry.config == config
    save(entry(config=replace(config, warps_m=64)), H200, tmp_path)
    assert lookup(PROBLEM, H200, tmp_path) is None


def test_environment_is_the_device_tuned_for(tmp_path: Path) -> None:
    environment = asdict(load_file(save(entry(), A100, tmp_path)).environment)
    assert list(environment) == ["gpu", "arch", "sms", "clock_mhz", "driver", "nvrtc", "kgen", "template_digest"]
    assert environment["arch"] == "sm_80"


@pytest.mark.gpu
def test_environment_of_a_local_gpu_has_its_driver(tmp_path: Path) -> None:
    environment = load_file(save(entry(), local_devices()[0], tmp_path)).environment
    assert environment.driver is not None
    assert int(environment.driver.split(".")[0]) >= 11


def test_packaged_files_can_be_read() -> None:
    assert (PACKAGED_DIR() / "__init__.py").is_file()
    for path in PACKAGED_DIR().glob("*/*.json"):
        assert load_file(path).block == path.parent.name


def test_near_configs_are_of_every_gpu_and_can_run_here(
    folders: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(problem: ConvFirst, config: PortableConfig, device: Any) -> None:
        if config.stages == 6:
            raise InfeasibleError("stages", "stages must be less")

    plan_with(monkeypatch, plan)
    near_here, near_there, far, illegal = (replace(CONFIG, stages=stages) for stages in (2, 3, 4, 6))
    save(entry(replace(PROBLEM, batch=1024), config=far), A100, folders.user)
    save(entry(replace(PROBLEM, batch=64), config=near_there), A100, folders.explicit)
    save(entry(replace(PROBLEM, batch=64), config=near_here), H200, folders.user)
    save(entry(PROBLEM, config=illegal), H200, folders.user)
    assert near(PROBLEM, H200, folders.explicit, 9) == [near_here, near_there, far]
    assert near(PROBLEM, A100, folders.explicit, 2) == [near_there, near_here]
