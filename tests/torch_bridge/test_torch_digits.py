"""The example: train, export, and run with kgen."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parents[2] / "docs" / "digits.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(example: ModuleType, path: Path) -> None:
    stock, ours = example.main(path)
    assert stock >= 0.97 and ours == pytest.approx(stock, abs=1 / 360)


@pytest.mark.timeout(180)
@pytest.mark.skipif(torch.cuda.is_available(), reason="its test with a GPU runs instead")
def test_digits_are_learnt_and_classified_alike(example: ModuleType, tmp_path: Path) -> None:
    check(example, tmp_path / "digits.safetensors")


@pytest.mark.gpu
@pytest.mark.timeout(180)
def test_digits_are_classified_alike_on_a_gpu(example: ModuleType, tmp_path: Path) -> None:
    check(example, tmp_path / "digits.safetensors")
