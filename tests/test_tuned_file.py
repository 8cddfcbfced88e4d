"""The JSON of tuned configs: what is written, and that anything wrong inside a file is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuned_samples import CONFIG, H200, entry

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.errors import TunedConfigError
from kgen.tuned import Measurement, load_file, packaged_dir, save
from kgen.tuned_file import ParetoPoint


def edited(folder: Path, change: Callable[[Any], object]) -> Path:
    """A saved file after ``change`` was applied to its JSON."""
    path = save(entry(), H200, folder)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_a_modelled_entry_has_null_for_what_was_not_measured(tmp_path: Path) -> None:
    path = save(entry(measured=None, error=None), H200, tmp_path)
    assert json.loads(path.read_text())["entries"][0]["measured"] is None
    assert load_file(path).entries[0].measured is None
    assert load_file(path).entries[0].modelled_us == 11.5


def test_the_file_is_for_reading(tmp_path: Path) -> None:
    noisy = Measurement(median_us=12.3456789, p20_us=12.0, p80_us=13.98765, efficiency=0.123456789, error=0.00123456)
    path = save(entry(ConvFirst(1, 7, 7, 32, expansion=2.0), measured=noisy, intensity=1234.567), H200, tmp_path)
    text = path.read_text()
    assert text.startswith('{\n  "schema_version": 1,\n  "block": "convfirst",\n  "environment": {\n    "gpu"')
    assert text.endswith("}\n")
    assert '"expansion": 2,' in text
    saved = json.loads(text)["entries"][0]
    assert saved["measured"] == {
        "median_us": 12.346,
        "p20_us": 12.0,
        "p80_us": 13.988,
        "efficiency": 0.1235,
        "error": 0.001235,
    }
    assert saved["intensity"] == 1235
    assert saved["config"] == CONFIG.to_json()


def test_shots_clock_and_ties_are_saved_where_they_are_known(tmp_path: Path) -> None:
    measured = Measurement(12.0, 11.9, 12.1, 0.3, 1e-3, shots=100, clock_mhz=1980)
    tied = (replace(CONFIG, stages=3), replace(CONFIG, sigmoid="tanh"))
    path = save(entry(measured=measured, tied=tied), H200, tmp_path)
    saved = json.loads(path.read_text())["entries"][0]
    assert (saved["measured"]["shots"], saved["measured"]["clock_mhz"]) == (100, 1980)
    assert saved["tied"] == [one.to_json() for one in tied]
    assert load_file(path).entries == (entry(measured=measured, tied=tied),)
    save(entry(tied=()), H200, tmp_path)
    assert json.loads(path.read_text())["entries"][0]["tied"] == [] and load_file(path).entries[0].tied == ()


def test_entries_from_before_ties_read_and_have_no_more_when_their_file_is_saved(tmp_path: Path) -> None:
    path = save(entry(), H200, tmp_path)
    old = json.loads(path.read_bytes())["entries"][0]
    assert {"shots", "clock_mhz", "tied"} & {*old, *old["measured"]} == set()
    assert load_file(path).entries == (entry(),) and load_file(path).dump() == path.read_bytes()
    paths = sorted(packaged_dir().glob("*/*.json"))
    assert paths
    for path in paths:
        before, after = (json.loads(data)["entries"] for data in (path.read_bytes(), load_file(path).dump()))
        assert [(set(one), one["measured"]) for one in after] == [(set(one), one["measured"]) for one in before]


def test_problems_from_before_float8_have_16_bit_matmuls(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda data: data["entries"][0]["problem"].pop("matmul"))
    assert load_file(path).entries[0].problem == entry().problem


def test_float8_is_another_problem(tmp_path: Path) -> None:
    float8 = entry(ConvFirst(32, 14, 14, 64, matmul="float8"))
    save(entry(), H200, tmp_path)
    path = save(float8, H200, tmp_path)
    assert '"matmul": "float8"' in path.read_text()
    assert {one.problem.to_json()["matmul"] for one in load_file(path).entries} == {"storage", "float8"}
    assert float8 in load_file(path).entries


@pytest.mark.parametrize("length", [1, 40, 300, 900])
def test_every_truncation_is_corrupt(length: int, tmp_path: Path) -> None:
    path = save(entry(), H200, tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TunedConfigError, match="must be JSON, but it is corrupt or truncated"):
        load_file(path)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_schema_version_is_refused(version: object, tmp_path: Path) -> None:
    path = edited(tmp_path, lambda data: data.update(schema_version=version))
    before = path.read_bytes()
    with pytest.raises(TunedConfigError, match=r"must have schema_version 1, but got .*; use the kgen that wrote it"):
        save(entry(), H200, tmp_path)
    assert path.read_bytes() == before


def at(*keys: Any, value: object = ...) -> Callable[[Any], object]:
    """A change that sets (or, without a value, deletes) what lies at ``keys``."""

    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        if value is ...:
            del data[keys[-1]]
        else:
            data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (at("block", value="resnet"), "a block must be one of convfirst, patchconv, classifier, but got 'resnet'"),
        (at("block", value=["convfirst"]), "block must be a string, but got"),
        (at("environment", value=None), "environment must be an object, but got None"),
        (at("environment", "sms", value="132"), "environment.sms must be an integer, but got '132'"),
        (at("entries", value={}), "entries must be a list, but got {}"),
        (at("entries", 0, value=3), r"entries\[0\] must be an object, but got 3"),
        (at("entries", 0, "config"), r"entries\[0\] must have the fields problem, .*, but it misses config"),
        (at("entries", 0, "note", value=1), r"entries\[0\] must have the fields .*, but it has 'note'"),
        (at("entries", 0, "tied", value=None), r"entries\[0\].tied must be a list, but got None"),
        (at("entries", 0, "tied", value=[{"boundary": "x"}]), r"entries\[0\].tied\[0\] must be legal, but"),
        (at("entries", 0, "measured", "shots", value=1.5), r"measured.shots must be an integer, but got 1.5"),
        (at("entries", 0, "trials", value=1.5), r"entries\[0\].trials must be an integer, but got 1.5"),
        (at("entries", 0, "when", value=5), r"entries\[0\].when must be a string, but got 5"),
        (at("entries", 0, "measured", value=12.0), r"entries\[0\].measured must be an object, but got 12.0"),
        (
            at("entries", 0, "measured", "median_us", value="9"),
            r"median_us must be a finite number, but got '9'",
        ),
        (
            at("entries", 0, "measured", "p20_us", value=float("nan")),
            r"measured.p20_us must be a finite number, but",
        ),
        (at("entries", 0, "intensity", value=True), r"entries\[0\].intensity must be a finite number, but got True"),
        (at("entries", 0, "config", "tile_w", value=8.0), r"config.tile_w must be an integer, but got 8.0"),
        (at("entries", 0, "config", "tile_w", value=True), r"config.tile_w must be an integer, but got True"),
        (at("entries", 0, "config", "boundary", value="both"), r"config must .* boundary must be one of fused, split"),
        (at("entries", 0, "config", "boundary"), r"entries\[0\].config must be legal, but .*boundary is missing"),
        (at("entries", 0, "config", "tile_w"), r"entries\[0\].config must be legal, but .*tile_w is missing"),
        (at("entries", 0, "config", "tile_d", value=1), r"entries\[0\].config must be legal, but .*tile_d is unknown"),
        (at("entries", 0, "config", value=3), r"entries\[0\].config must be an object, but got 3"),
        (
            at("entries", 0, "config", "project_chunk", value="x"),
            r"project_chunk must be an integer, but got 'x'",
        ),
        (at("entries", 0, "problem", "channels", value=17), r"problem must be legal, but channels must be a multiple"),
        (at("entries", 0, "problem", "residual", value=1), r"problem.residual must be true or false, but got 1"),
        (at("entries", 0, "problem", "family", value="convfirst"), r"problem must have the fields .*, but it has 'fam"),
    ],
)
def test_what_is_wrong_inside_a_file_is_named(change: Callable[[Any], object], sentence: str, tmp_path: Path) -> None:
    path = edited(tmp_path, change)
    with pytest.raises(TunedConfigError, match=sentence) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"tuned config file {path}")
    assert "; " in str(caught.value)


def test_config_fields_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    path = edited(tmp_path, at("entries", 0, "config", "project_chunk"))
    assert load_file(path).entries == (entry(),)


PARETO = (
    ParetoPoint(CONFIG, latency_us=12.25, error=0.002, energy_j=0.0123456),
    ParetoPoint(replace(CONFIG, stages=3), latency_us=13.0, error=0.001),
)


def test_objectives_pareto_sets_and_energies_are_said_where_there_are_any(tmp_path: Path) -> None:
    """Files of searches for efficiency alone are as they were before, to the byte."""
    plain = json.loads(save(entry(), H200, tmp_path / "plain").read_text())["entries"][0]
    assert not {"objective", "pareto"} & set(plain) and "energy_j" not in plain["measured"]
    measured = Measurement(12.25, 12.0, 12.5, 0.31, 0.002, energy_j=0.0123456)
    path = save(entry(measured=measured, objective="efficiency,energy", pareto=PARETO), H200, tmp_path)
    saved = json.loads(path.read_text())["entries"][0]
    assert saved["measured"]["energy_j"] == 0.01235 and saved["objective"] == "efficiency,energy"
    first, second = saved["pareto"]
    assert first == {"config": CONFIG.to_json(), "latency_us": 12.25, "error": 0.002, "energy_j": 0.01235}
    assert "energy_j" not in second
    (read,) = load_file(path).entries
    assert read.pareto is not None and read.pareto[1] == PARETO[1]
    assert load_file(path).dump() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: one.update(pareto=3), r"entries\[0\]\.pareto must be a list, but got 3"),
        (lambda one: one["pareto"].append(3), r"entries\[0\]\.pareto\[2\] must be an object, but got 3"),
        (lambda one: one["pareto"][1].pop("error"), r"pareto\[1\] must have the fields .*, but it misses error"),
        (lambda one: one["pareto"][0]["config"].update(stages="2"), r"pareto\[0\]\.config"),
        (lambda one: one["pareto"][0].update(energy_j="1"), r"pareto\[0\]\.energy_j must be a finite number"),
    ],
)
def test_a_wrong_pareto_set_is_named(change: Callable[[Any], object], sentence: str, tmp_path: Path) -> None:
    path = save(entry(objective="efficiency,energy", pareto=PARETO), H200, tmp_path)
    data = json.loads(path.read_text())
    change(data["entries"][0])
    path.write_text(json.dumps(data))
    with pytest.raises(TunedConfigError, match=sentence):
        load_file(path)
