"""``python -m kgen`` is the command line."""

from __future__ import annotations

from kgen.cli import main

if __name__ == "__main__":
    main()
