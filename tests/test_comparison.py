from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kgen.cli import main
from kgen.comparison import compare
from kgen.errors import TunedConfigError
from kgen.tuned import packaged_dir
from kgen.tuned_file import TunedFile, load_file

H200 = load_file(packaged_dir() / "convfirst" / "nvidia-h200.json")


def changed(slower: float = 1.0, gpu: str = "NVIDIA H200", **fields: Any) -> TunedFile:
    """The first two entries, as another search might have left them."""
    entries = []
    for entry in H200.entries[:2]:
        assert entry.measured is not None
        measured = replace(entry.measured, median_us=entry.measured.median_us * slower)
        entries.append(replace(entry, measured=measured, config=replace(entry.config, **fields)))  # type: ignore[type-var]
    return replace(H200, environment=replace(H200.environment, gpu=gpu), entries=tuple(entries))


def test_problems_in_common_are_compared_in_order() -> None:
    found = compare(H200, changed(slower=2.0, x_slots=1, sigmoid="exp2"))
    assert [one.problem for one in found] == [entry.problem for entry in H200.entries[:2]]
    assert [one.ratio for one in found] == pytest.approx([0.5, 0.5])
    first = found[0].left.entry.config.to_json()
    new = {"x_slots": 1, "sigmoid": "exp2"}
    wanted = [f"{name}: {first[name]}, {value}" for name, value in new.items() if first[name] != value]
    assert list(found[0].differences) == wanted and "sigmoid: tanh, exp2" in wanted
    program = found[0].left.program
    assert program is not None and program.problem == found[0].problem


def test_a_gpu_that_is_not_known_has_no_plan() -> None:
    (one, _) = compare(H200, changed(gpu="NVIDIA Unheard-of"))
    assert one.right.program is None and one.right.us == one.left.us and not one.differences


def test_nothing_in_common_is_an_error() -> None:
    sentence = f"must have a problem in common, but {len(H200.entries)} convfirst and 0 convfirst entries have none"
    with pytest.raises(TunedConfigError, match=sentence):
        compare(H200, replace(H200, entries=()))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for name, file in (("a.json", changed()), ("b.json", changed(slower=0.5, x_slots=1))):
        (tmp_path / name).write_bytes(file.dump())
        paths.append(str(tmp_path / name))
    return paths


def run(*arguments: str) -> int | None:
    sys.argv = ["kgen", "compare", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else None


def test_the_command_prints_speed_resources_and_stages(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert not run(*files, "--stages")
    shown = capsys.readouterr().out
    assert "2.00" in shown and "measured" in shown and "grouped conv" in shown and "shared KB" in shown
    assert not run(*files, "--json")
    (first, _) = json.loads(capsys.readouterr().out)
    assert first["ratio"] == pytest.approx(2.0) and first["sides"][0]["kernels"][0]["stage"] == "load x and weights"


def test_a_missing_file_is_a_sentence(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run(files[0], files[1] + ".missing") == 2
    assert capsys.readouterr().err.startswith("kgen: ")
