from __future__ import annotations

import pytest
from fake_gpu import FakeGpu, install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A GPU that the emulator plays."""
    return install(monkeypatch)
