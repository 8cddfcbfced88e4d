"""The command line: JSON on stdout, one sentence and exit code 2 for bad input, and the commands end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kgen.blocks.convfirst import default_config
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cli import main
from kgen.devices import find_device
from kgen.env import nvrtc_version

needs_nvrtc = pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
SMALL = ("convfirst", "--channels", "16", "--size", "7", "--device", "h200")
UNTUNED = (*SMALL[:-1], "a100")
"""On a GPU for which nothing is tuned, so that no other problem's config stands in."""
FILE = Path("convfirst") / "nvidia-h200.json"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def own_folders(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))


@pytest.fixture
def kgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kgen", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def test_devices(kgen: Any) -> None:
    ran = kgen("devices", "--json")
    known = {device["device"]: device for device in ran.json}
    assert ran.code == 0 and {"h200", "h100", "a100", "l4", "rtx3090", "rtx4090", "rtx5090", "b200"} <= set(known)
    assert all(device["source"] and device["peak_flops"] > 1e13 for device in known.values())
    text = kgen("devices").out
    assert "NVIDIA GeForce RTX 4090" in text and known["a100"]["source"] in text


def test_explain(kgen: Any) -> None:
    ran = kgen("explain", *UNTUNED, "--json")
    assert ran.code == 0 and ran.json["origin"] == "default" and ran.json["device"] == "a100"
    figures = ran.json
    ideal_us = figures["flops"] / find_device("a100").peak_flops * 1e6
    assert figures["ideal_us"] == pytest.approx(ideal_us)
    assert figures["intensity_flop_per_byte"] == pytest.approx(figures["flops"] / figures["dram_bytes"])
    assert figures["attainable_efficiency"] == pytest.approx(ideal_us / figures["attainable_us"])
    stages = [stage for kernel in figures["kernels"] for stage in kernel["stages"]]
    assert sum(stage["dram_bytes"] for stage in stages) == figures["dram_bytes"]
    text = kgen("explain", *UNTUNED).out
    for word in ("grouped conv", "shared KB", "threads", "ideal latency", "intensity", "waterline", "attainable eff"):
        assert word in text


def test_explain_tells_what_was_measured_from_what_is_modelled(kgen: Any) -> None:
    tuned = ("convfirst", "--channels", "64", "--size", "56", "--device", "h200")
    ran = kgen("explain", *tuned, "--batch", "256")
    (row,) = [line for line in ran.out.splitlines() if "measured latency" in line]
    exact = kgen("explain", *tuned, "--batch", "256", "--json").json
    assert f"{exact['measured_us']:.1f} us" in row and "not measured" not in ran.out
    near = kgen("explain", *tuned, "--batch", "255")
    assert "modelled latency (not measured)" in near.out and "measured latency " not in near.out


def test_explain_takes_a_config_as_text_or_file(kgen: Any, tmp_path: Path) -> None:
    config = kgen("explain", *UNTUNED, "--json").json["config"] | {"stages": 3}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    for given in (json.dumps(config), str(path)):
        ran = kgen("explain", *UNTUNED, "--json", "--config", given)
        assert ran.json["origin"] == "--config" and ran.json["config"]["stages"] == 3


PROBLEM = ("--channels", "16", "--size", "7")
FLOAT8 = ("--channels", "64", "--size", "5", "--matmul", "float8")
BAD = {
    "channels": (("explain", "convfirst", "--channels", "65", "--size", "7"), "channels must be a multiple of 16"),
    "size": (
        ("tune", "convfirst", "--channels", "64", "--size", "0"),
        "height must be an integer >= 1, but got height=0",
    ),
    "no size": (("tune", "convfirst", "--channels", "64"), "needs a height and a width"),
    "one side": (("tune", "convfirst", "--channels", "64", "--height", "7"), "needs a height and a width"),
    "both": (("tune", "convfirst", *PROBLEM, "--width", "7"), "either --size or --height and --width"),
    "activation": (("check", "convfirst", *PROBLEM, "--act", "swish"), "activation must be one of silu, relu"),
    "dtype": (("check", "convfirst", *PROBLEM, "--dtype", "float32"), "dtype must be one of float16, bfloat16"),
    "expansion": (("check", "convfirst", *PROBLEM, "--expansion", "9"), "expansion must be a number from 1 to 8"),
    "nan": (("check", "convfirst", *PROBLEM, "--expansion", "nan"), "expansion must be a number from 1 to 8"),
    "matmul": (("check", "convfirst", *PROBLEM, "--matmul", "fp8"), "matmul must be one of storage, float8"),
    "float8 device": (
        ("tune", "convfirst", *FLOAT8, "--device", "l4"),
        "float8 matmuls need a Hopper GPU (sm_90), but l4 is sm_89",
    ),
    "patch": (("tune", "patchconv", *PROBLEM, "--outputs", "32", "--patch", "3"), "patch must be one of 1, 2, 4"),
    "classes": (("explain", "classifier", *PROBLEM, "--classes", "0"), "classes must be an integer >= 1"),
    "device": (("tune", "convfirst", *PROBLEM, "--device", "h201"), "device must be one of"),
    "no gpu": (("check", *SMALL), "kernels run on a local GPU only, but h200 is a datasheet's; pass --emulate"),
    "record without a GPU": (("record", *SMALL), "a space is recorded on a local GPU, but h200 names a datasheet"),
    "batches": (("record", *SMALL, "--batches", "1;2"), "--batches must be integers with commas between"),
    "sampler": (("tune", *SMALL, "--sampler", "best"), "sampler must be one of kgen, tpe, random, gp, cmaes"),
    "trials": (("tune", *SMALL, "--trials", "0"), "trials must be greater than 0"),
    "budget": (
        ("tune", *SMALL, "--budget", "90"),
        "--budget must be a time greater than 0 with its unit, but got '90'",
    ),
    "budget too small": (
        ("tune", *SMALL, "--budget", "0.001s"),
        "a budget must suffice for one candidate of convfirst(batch 1, 7x7, 16 channels, expansion 4, silu, float16), "
        "but 0.001 s for it were spent before the first was evaluated; pass a larger --budget",
    ),
    "until": (("tune", *SMALL, "--until", "0.01"), "--until must be a percentage between 0% and 100%, but got '0.01'"),
    "until of another sampler": (
        ("tune", *SMALL, "--until", "1%", "--sampler", "tpe"),
        "--until needs the sampler kgen",
    ),
    "objective": (
        ("tune", *SMALL, "--objective", "speed"),
        "--objective must be of efficiency, latency, energy, error",
    ),
    "objective twice": (("tune", *SMALL, "--objective", "latency,efficiency"), "(latency ranks as efficiency does)"),
    "energy of a named device": (
        ("tune", *SMALL, "--objective", "latency,energy"),
        "energy is measured on a GPU of this machine only, but h200 is a datasheet's; drop it from --objective",
    ),
    "several objectives of cmaes": (
        ("tune", *SMALL, "--objective", "latency,error", "--sampler", "cmaes"),
        "sampler cmaes takes one objective, but got 2",
    ),
    "objective of a replay": (
        ("tune", "--replay", "a.jsonl.gz", "--objective", "error"),
        "a recorded space is searched for efficiency only, but got 'error'",
    ),
    "config text": (("explain", *SMALL, "--config", '{"stages": '), "--config must be JSON"),
    "config file": (
        ("explain", *SMALL, "--config", "no/such/file.json"),
        "--config must be JSON text or a readable file",
    ),
    "config side": (("explain", *SMALL, "--config", '{"stages": 2}'), "boundary is missing"),
    "config field": (("explain", *SMALL, "--config", '{"boundary": "fused", "stages": 2}'), "tile_h is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(name: str, kgen: Any) -> None:
    arguments, sentence = BAD[name]
    ran = kgen(*arguments, "--json")
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err and ran.err.startswith("kgen: ") and ran.err.count("\n") == 1


def test_a_budget_too_small_for_a_network_is_a_sentence(kgen: Any) -> None:
    ran = kgen("tune", "--network", "convfirst_tiny", "--batch", "3", "--budget", "0.001s", "--device", "h200")
    assert ran.code == 2 and "kgen: a budget must suffice for one candidate of patchconv(" in ran.err and ran.out == ""


def test_an_infeasible_config_is_bad_input(kgen: Any) -> None:
    config = default_config(ConvFirst(1, 7, 7, 16), find_device("h200")).to_json()
    ran = kgen("explain", *SMALL, "--config", json.dumps(config | {"stages": 1}))
    assert ran.code == 2 and "stages must be >= 2" in ran.err
    ran = kgen("explain", *SMALL, "--config", json.dumps(config | {"pixels": "many"}))
    assert ran.code == 2 and "pixels must be an integer >= 1" in ran.err


def test_usage_errors_exit_with_2(kgen: Any) -> None:
    for arguments in (("tune", "convfirst"), ("tune", "mbconv"), ("explain", *SMALL, "--batch", "many"), ("nothing",)):
        ran = kgen(*arguments)
        assert ran.code == 2 and ran.out == "" and "Traceback" not in ran.err


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b'{"schema_version": 1, "block": "convfi', "corrupt or truncated"),
        (b"\x00\xff\x00", "corrupt or truncated"),
        (b'{"schema_version": 2, "block": "convfirst", "environment": {}, "entries": []}', "schema_version 1"),
        (b'{"schema_version": 1, "block": "convfirst", "environment": {}, "entries": 3}', "entries must be a list"),
    ],
)
def test_a_bad_tuned_file_is_named_and_kept(content: bytes, sentence: str, kgen: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for arguments in (
        ("show", "--folder", str(tmp_path / "out")),
        ("explain", *SMALL, "--folder", str(tmp_path / "out")),
        ("check", *SMALL, "--emulate", "--folder", str(tmp_path / "out")),
        ("tune", *SMALL, "--out", str(tmp_path / "out"), "--trials", "1"),
    ):
        ran = kgen(*arguments)
        assert ran.code == 2 and sentence in ran.err and str(path) in ran.err and ran.out == ""
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "titles", "sentence"),
    [
        (("--gpus", "all"), [], "but none was found; check nvidia-smi or drop it"),
        (("--gpus", "some"), ["H200"], "--gpus must be all, or ordinals with commas between, but got 'some'"),
        (("--gpus", "0,7"), ["H200", "H200"], "device must be one of cuda:0, cuda:1, .*but got 'cuda:7'"),
        (("--gpus", "all"), ["H200", "L4"], "of one model, but got cuda:0 NVIDIA H200, cuda:1 NVIDIA L4; name equal"),
        (("--gpus", "0", "--device", "cuda:0"), ["H200"], "either --device or --gpus, but got 'cuda:0' and '0'"),
    ],
)
def test_gpus_that_cannot_search_together(
    kgen: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], titles: list[str], sentence: str
) -> None:
    local = tuple(replace(find_device(title.lower()), ordinal=number) for number, title in enumerate(titles))
    for module in ("kgen.devices", "kgen.cli.options"):
        monkeypatch.setattr(f"{module}.local_devices", lambda: local)
    ran = kgen("tune", *SMALL[:-2], *arguments, "--trials", "1")
    assert ran.code == 2 and re.search(sentence, ran.err) and ran.out == ""


@needs_nvrtc
def test_a_database_that_refuses_is_named_without_its_password(kgen: Any) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://kgen:secret@127.0.0.1:1/studies"
    ran = kgen("tune", *SMALL, "--storage", url, "--trials", "1", "--json")
    assert ran.code == 2 and "127.0.0.1:1 did not" in ran.err and "Connection refused" in ran.err
    assert "secret" not in ran.err and "Traceback" not in ran.err


@needs_nvrtc
def test_a_storage_that_is_no_study_is_named_and_kept(kgen: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    ran = kgen("tune", *SMALL, "--storage", str(path), "--trials", "1", "--json")
    assert ran.code == 2 and "holds something else; pass another --storage" in ran.err and ran.out == ""
    assert path.read_text() == "my notes\n"


@needs_nvrtc
@pytest.mark.timeout(120)
def test_an_output_folder_that_cannot_be_written(kgen: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = kgen("tune", *SMALL, "--out", str(tmp_path / "file"), "--trials", "1", "--json")
    assert ran.code == 2 and "must be writable" in ran.err and "choose another folder" in ran.err and ran.out == ""
    resumed = kgen("tune", *SMALL, "--out", str(tmp_path / "out"), "--trials", "1", "--json")
    assert resumed.code == 0 and resumed.json["entry"]["trials"] == 1  # what was evaluated is not lost


@needs_nvrtc
@pytest.mark.timeout(120)
def test_a_study_is_reported_on(kgen: Any, tmp_path: Path) -> None:
    storage, page = str(tmp_path / "a.journal"), tmp_path / "report.html"
    tuned = kgen("tune", *SMALL, "--storage", storage, "--trials", "2", "--json").json["entry"]
    ran = kgen("report", storage, "--out", str(page))
    assert ran.code == 0 and ran.err == "" and f"written to {page}" in ran.out
    assert f"takes {tuned['modelled_us']:.3g} us by the model (not measured)" in ran.out
    assert "<!DOCTYPE html>" in page.read_text() and "modelled, not measured" in page.read_text()


@needs_nvrtc
def test_no_compiler_for_the_emulator(kgen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    for command in (("tune", *SMALL), ("check", *SMALL, "--emulate")):
        ran = kgen(*command)
        assert ran.code == 2 and "CXX must name a working C++ compiler" in ran.err and ran.out == ""


@needs_nvrtc
@pytest.mark.timeout(240)
def test_tune_show_explain_check(kgen: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    tuned = kgen("tune", *SMALL, "--trials", "3", "--out", out, "--json")
    assert tuned.code == 0 and tuned.err == ""
    assert tuned.json["path"] == str(tmp_path / "out" / FILE) and tuned.json["kept"] is False
    entry = tuned.json["entry"]
    assert entry["measured"] is None and entry["modelled_us"] > 0 and entry["trials"] == 3

    (file,) = [file for file in kgen("show", "--folder", out, "--json").json if file["path"] == tuned.json["path"]]
    assert file["entries"] == [entry] and file["environment"]["gpu"] == "NVIDIA H200"
    assert "modelled" in kgen("show", "--folder", out).out

    explained = kgen("explain", *SMALL, "--folder", out, "--json").json
    assert explained["origin"] == tuned.json["path"] and explained["config"] == entry["config"]
    assert explained["attainable_efficiency"] == pytest.approx(entry["attainable_efficiency"], rel=1e-3)

    checked = kgen("check", *SMALL, "--emulate", "--folder", out, "--json")
    assert checked.code == 0 and checked.json["passed"] and checked.json["config"] == entry["config"]
    assert 0 < checked.json["error"] <= checked.json["bound"]
    near = kgen("check", *SMALL, "--size", "8", "--emulate", "--folder", out)
    assert near.code == 0 and "the nearest one is used" in near.err and near.out.startswith("passed: ")

    again = kgen("tune", *SMALL, "--trials", "3", "--out", out)
    assert again.code == 0 and f"saved in {tuned.json['path']}" in again.out and "modelled (not measured)" in again.out


@needs_nvrtc
@pytest.mark.timeout(240)
def test_several_objectives_are_listed_as_a_pareto_set(kgen: Any, tmp_path: Path) -> None:
    out, storage = str(tmp_path / "out"), str(tmp_path / "a.journal")
    search = ("tune", *SMALL, "--objective", "error,latency", "--trials", "3", "--storage", storage, "--out", out)
    entry = kgen(*search, "--json").json["entry"]
    assert entry["objective"] == "error,efficiency" and entry["pareto"][0]["config"] == entry["config"]
    again = kgen(*search, "--budget", "5m")
    for text in (again.out, kgen("show", "--folder", out).out):
        assert "Pareto set by error,efficiency" in text and f"{entry['pareto'][0]['latency_us']:.4g} " in text
    assert "the search ended: 3 candidates were evaluated\n" in again.out
    assert "modelled, for error,efficiency" in kgen("show", "--folder", out).out
    answers = kgen("report", storage, "--out", str(tmp_path / "a.html"), "--json").json["studies"][0]["answers"]
    assert answers["What can be had for what?"].startswith("By error, efficiency no config is preferable to these")


LAYERS = {
    "patchconv": (
        "--channels",
        "3",
        "--outputs",
        "32",
        "--height",
        "9",
        "--width",
        "8",
        "--patch",
        "4",
        "--pixels",
        "uint8",
    ),
    "classifier": ("--channels", "32", "--size", "3", "--classes", "10", "--batch", "2"),
}


@needs_nvrtc
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", LAYERS)
def test_other_families_go_the_same_way(kgen: Any, tmp_path: Path, name: str) -> None:
    out, problem = str(tmp_path / "out"), (name, *LAYERS[name], "--device", "h200")
    explained = kgen("explain", *problem, "--json")
    assert explained.code == 0 and [kernel["symbol"] for kernel in explained.json["kernels"]] == [name]
    tuned = kgen("tune", *problem, "--trials", "1", "--out", out, "--json")
    assert tuned.code == 0 and Path(tuned.json["path"]) == Path(out) / name / "nvidia-h200.json"
    checked = kgen("check", *problem, "--emulate", "--folder", out, "--json")
    assert checked.code == 0 and checked.json["config"] == tuned.json["entry"]["config"]
    assert f"{name}(batch" in kgen("show", "--folder", out).out


@needs_nvrtc
@pytest.mark.timeout(240)
def test_float8_is_tuned_when_asked_for_and_its_error_shown(kgen: Any, tmp_path: Path) -> None:
    out, problem = str(tmp_path / "out"), ("convfirst", *FLOAT8, "--device", "h200")
    tuned = kgen("tune", *problem, "--trials", "2", "--out", out)
    assert tuned.code == 0 and "float8 matmuls" in tuned.out and "boundary=wgmma_layers" in tuned.out
    error = re.search(r"relative error (0\.0\d+) against float64", tuned.out)
    assert error is not None and 0.01 < float(error[1]) < 0.1
    shown = kgen("show", "--folder", out).out
    assert "float16, float8" in shown and error[1] in shown
    assert kgen("check", *problem, "--emulate", "--folder", out).code == 0


def test_a_wrong_kernel_exits_with_1(kgen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen import worker
    from kgen.compile import Cubin

    class Wrong:
        def __init__(self, device: Any) -> None: ...
        def __enter__(self) -> Wrong:
            return self

        def __exit__(self, *_: object) -> None: ...
        def run(self, job: Any, timeout_s: float) -> worker.Result:
            return worker.Result(worker.Outcome.WRONG_ANSWER, "the error is too large")

    monkeypatch.setattr(worker, "Worker", Wrong)
    monkeypatch.setattr("kgen.compile.compile_cubin", lambda source, arch: Cubin(b"", arch, "", {}, "", 0.0))
    ran = kgen("check", *SMALL, "--emulate", "--json")
    assert ran.code == 1 and ran.json["outcome"] == "wrong_answer" and ran.json["reason"] == "the error is too large"
    assert "wrong_answer: convfirst(batch 1, 7x7" in kgen("check", *SMALL, "--emulate").out


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kgen", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str], limit_s: float = 90.0) -> None:
    end_s = time.monotonic() + limit_s
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end_s, process.communicate()
        time.sleep(0.05)


@needs_nvrtc
@pytest.mark.timeout(240)
def test_ctrl_c_and_sigkill_keep_what_was_found(kgen: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("tune", *SMALL, "--trials", "100000", "--budget", "5m", "--out", str(out), "--json")
    process = spawn(*command)
    wait_for(out / FILE, process)
    os.kill(process.pid, signal.SIGINT)
    printed, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (130, "")
    first = json.loads(printed)["entry"]
    assert first == json.loads((out / FILE).read_bytes())["entries"][0]

    process = spawn(*command)
    time.sleep(4.0)
    process.kill()
    process.communicate(timeout=30)
    survived = json.loads((out / FILE).read_bytes())["entries"][0]
    assert survived["trials"] >= first["trials"]
    resumed = kgen("tune", *SMALL, "--trials", "1", "--out", str(out), "--json")
    assert resumed.code == 0 and resumed.json["entry"]["trials"] >= survived["trials"]


@pytest.mark.gpu
def test_tune_and_check_on_the_gpu(kgen: Any, tmp_path: Path) -> None:
    problem = ("convfirst", "--channels", "64", "--size", "14", "--batch", "4")
    tuned = kgen("tune", *problem, "--trials", "4", "--out", str(tmp_path / "out"), "--json")
    assert tuned.code == 0 and tuned.json["entry"]["measured"]["median_us"] > 0
    checked = kgen("check", *problem, "--folder", str(tmp_path / "out"), "--json")
    assert checked.code == 0 and checked.json["passed"] and checked.json["error"] <= checked.json["bound"]
