"""Rules that a reader relies on: where PTX and Jinja may stand, clean linters, a quick import, no machine's paths."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "templates"
END_OF_PROLOGUE = "// --- end of prologue ---"
IMPORT_LIMIT_S = 0.3


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inline_ptx_stands_in_its_folder_only() -> None:
    sources = [path for path in TEMPLATES.rglob("*") if path.suffix in (".cuh", ".j2")]
    assert len(sources) > 5
    outside = [path.name for path in sources if path.parent.name != "ptx" and re.search(r"\basm\b", path.read_text())]
    assert not outside
    assert any("asm" in path.read_text() for path in (TEMPLATES / "ptx").glob("*.cuh"))


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.cu.j2")), ids=lambda path: path.name)
def test_jinja_after_the_prologue_says_why(path: Path) -> None:
    text = path.read_text()
    assert text.count(END_OF_PROLOGUE) == 1
    lines = text[text.index(END_OF_PROLOGUE) :].splitlines()
    closing = re.compile(r"{%-?\s*end")
    for before, line in itertools.pairwise(lines):
        if re.search(r"{{|{%", line) and not closing.search(line):
            assert "{#" in line or "{#" in before, f"{path.name} uses Jinja without a reason: {line.strip()}"


def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.timeout(300)
def test_mypy(tmp_path: Path) -> None:
    """The packages as they are installed, which mypy cannot read off setuptools' package-dir mapping."""
    package = tmp_path / "kgen"
    package.mkdir()
    for entry in (ROOT / "kgen").iterdir():
        (package / entry.name).symlink_to(entry)
    for name in ("search", "templates", "tuned_configs"):
        (package / name).symlink_to(ROOT / name)
    cache = ROOT / ".mypy_cache"
    options = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache))
    run(sys.executable, "-m", "mypy", *options, "-p", "kgen", cwd=tmp_path)


def test_clang_format() -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    clang_format = shutil.which("clang-format", path=path)
    assert clang_format is not None, "clang-format comes with the extra test"
    sources = [*TEMPLATES.rglob("*.cuh"), *(ROOT / "kgen" / "emulator").rglob("*.cuh")]
    run(clang_format, "--dry-run", "--Werror", *map(str, sorted(sources)))


def test_import_is_quick() -> None:
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        run(sys.executable, "-c", "import kgen")
        times_s.append(time.perf_counter() - start_s)
    assert statistics.median(times_s) < IMPORT_LIMIT_S


def test_import_brings_no_heavy_library() -> None:
    heavy = ("cupy", "optuna", "typer", "rich", "torch", "jinja2", "sqlalchemy")
    run(sys.executable, "-c", f"import sys, kgen; assert not set({heavy}) & set(sys.modules)")


def test_no_file_names_a_machines_folders() -> None:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    folder = re.compile(rb"(?<![\w.$}])/(?:" + rb"|".join((b"home", b"root", b"Users", b"work")) + rb")/\w")
    assert len(paths) > 20
    assert not [path.name for path in paths if path.is_file() and folder.search(path.read_bytes())]
