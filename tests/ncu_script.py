"""A script in the place of Nsight Compute."""

from __future__ import annotations

import sys
from pathlib import Path

from kgen.ncu import Profiler


def fake_ncu(folder: Path, body: str) -> Profiler:
    """A profiler whose ncu runs ``body``; ``log`` and ``wanted`` are its --log-file and its --metrics."""
    path = folder / "ncu"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\na = sys.argv\n"
        "if '--version' in a: sys.exit(print('Version 1'))\n"
        "if '--query-metrics' in a: sys.exit(print('Metric Name\\n' + 'dram__bytes_read  Counter  byte'))\n"
        f"log, wanted = Path(a[a.index('--log-file') + 1]), a[a.index('--metrics') + 1].split(',')\n{body}\n"
    )
    path.chmod(0o755)
    return Profiler(str(path), 20.0)
