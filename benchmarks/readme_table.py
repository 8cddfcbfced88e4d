"""Writes the README's result tables from the recorded benchmarks: ``python benchmarks/readme_table.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kgen.blocks.convfirst.config import SIDES
from kgen.render import template_digest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin", "<!-- results: end -->"
BATCHES = (256, 32, 1)
HEADINGS = [f"batch {batch}: kgen, ratio, efficiency" for batch in BATCHES]


def networks() -> list[str]:
    """Whole networks as lines of Markdown."""
    recorded = json.loads((RESULTS / "networks-nvidia-h200.json").read_text())
    described = recorded["environment"]
    cells = {
        (row["network"], row["batch"]): f"{row['kgen_us'] / 1000:.2f} ms, {row['ratio']:.2f}x, {row['efficiency']:.0%}"
        for row in recorded["rows"]
    }
    rows = sorted(recorded["rows"], key=lambda row: row["parameters"])
    peers = {row["network"]: row["peer"].split()[0] for row in rows}
    return [
        f"Whole networks (224x224, float16) on an {described['gpu']}, by latency against timm's network of the same "
        "widths and depths under `torch.compile`, the faster of both layouts, all as CUDA graphs in the same run "
        f"(PyTorch {described['torch']}, timm {described['timm']}, driver {described['driver']}):",
        "",
        *matrix("network and peer", cells, {name: f"{name}, {peer}" for name, peer in peers.items()}),
    ]


def blocks() -> list[str]:
    """ConvFirst blocks as lines of Markdown."""
    recorded = json.loads((RESULTS / "convfirst-nvidia-h200.json").read_text())
    described, today = recorded["environment"], {template_digest(side.template) for side in SIDES.values()}
    cells, names = {}, {}
    for row in recorded["rows"]:
        problem, mark = row["problem"], "" if row.get("template_digest") in today else " *"
        shape = (problem["channels"], problem["height"])
        names[shape] = f"{shape[0]}, {shape[1]}"
        cells[shape, problem["batch"]] = f"{row['kgen_us']:.1f} us, {row['ratio']:.2f}x, {row['efficiency']:.0%}{mark}"
    lines = [
        f"ConvFirst blocks (float16, SiLU, expansion 4) on an {described['gpu']}, against the fastest of "
        f"`torch.compile`'s modes (default, max-autotune) and layouts in the same run (PyTorch {described['torch']}, "
        f"driver {described['driver']}):",
        "",
        *matrix("channels, size", cells, names),
    ]
    marked = any(cell.endswith("*") for cell in cells.values())
    return [*lines, *(["", "\\* measured with earlier templates of the kernels."] if marked else [])]


def matrix(title: str, cells: dict[tuple[Any, int], str], names: dict[Any, str]) -> list[str]:
    """A row for each name, a column for each batch; what was not measured is a dash."""
    rows = [[names[key], *(cells.get((key, batch), "-") for batch in BATCHES)] for key in names]
    return [f"| {' | '.join(row)} |" for row in ([title, *HEADINGS], ["---"] * (1 + len(BATCHES)), *rows)]


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    start = text.index("\n", text.index(BEGIN)) + 1
    readme.write_text(text[:start] + "\n".join([*networks(), "", *blocks()]) + "\n" + text[text.index(END) :])


if __name__ == "__main__":
    main()
