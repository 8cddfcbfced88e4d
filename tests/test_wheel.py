"""The wheel holds everything: built from a copy of the tree, installed elsewhere, run from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOMES = {
    "kgen": "kgen",
    "search": "kgen/search",
    "templates": "kgen/templates",
    "tuned_configs": "kgen/tuned_configs",
}
SOURCES = (*HOMES, "pyproject.toml", "README.md", "LICENSE")
SETUPTOOLS = 77  # what pyproject.toml asks for

PROGRAM = """
import kgen, kgen.search, kgen.templates, kgen.tuned_configs
from kgen.blocks.convfirst import default_config, plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.render import render
device = find_device("h200")
problem = ConvFirst(1, 7, 7, 16)
source = render(plan(problem, default_config(problem, device), device))
assert "ptx/mma.cuh" in source.headers
for module in (kgen, kgen.search, kgen.templates, kgen.tuned_configs):
    print(module.__file__)
"""


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    isolation = ("--no-build-isolation",) if _has_setuptools() else ()
    run(*pip, "wheel", str(copy), "--no-deps", *isolation, "-w", str(folder))
    (wheel,) = folder.glob("kgen-*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


def _has_setuptools() -> bool:
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS
    except metadata.PackageNotFoundError:
        return False


def environment(site: Path) -> dict[str, str]:
    """For ``python -S``, which runs no .pth file: an editable install of this very tree must not help out."""
    path = [str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@pytest.mark.timeout(180)
def test_the_cli_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    out = run(sys.executable, "-S", "-m", "kgen", "devices", "--json", cwd=tmp_path, env=environment(installed))
    assert "h200" in {device["device"] for device in json.loads(out)}
    script = installed / "bin" / "kgen"
    out = run(sys.executable, "-S", str(script), "devices", "--json", cwd=tmp_path, env=environment(installed))
    assert "h200" in {device["device"] for device in json.loads(out)}


@pytest.mark.timeout(180)
def test_every_package_and_template_is_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    out = run(sys.executable, "-S", "-c", PROGRAM, cwd=tmp_path, env=environment(installed))
    assert all(Path(line).is_relative_to(installed) for line in out.splitlines()) and len(out.splitlines()) == 4


@pytest.mark.timeout(180)
def test_every_file_of_the_package_is_in_the_wheel(installed: Path) -> None:
    wanted = {
        f"{home}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, home in HOMES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert sorted(wanted - found) == []
