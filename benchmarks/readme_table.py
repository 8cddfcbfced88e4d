"""Writes the README's result table from the recorded benchmark: ``python benchmarks/readme_table.py``."""

from __future__ import annotations

import json
from pathlib import Path

from kgen.blocks.convfirst.config import SIDES
from kgen.render import template_digest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "convfirst-nvidia-h200.json"
BEGIN, END = "<!-- results: begin", "<!-- results: end -->"


def table() -> str:
    """The recorded rows as a Markdown table, with the environment they were measured in."""
    recorded = json.loads(RESULTS.read_text())
    environment = recorded["environment"]
    lines = [
        f"ConvFirst (float16, SiLU, expansion 4) on an {environment['gpu']}, against the fastest of `torch.compile`'s "
        f"modes (default, max-autotune) and layouts in the same run (PyTorch {environment['torch']}, driver "
        f"{environment['driver']}):",
        "",
        "| channels, size | batch | kgen us | Inductor us | ratio | efficiency |",
        "|---|---|---|---|---|---|",
    ]
    today = {template_digest(side.template) for side in SIDES.values()}
    for row in recorded["rows"]:
        problem, mark = row["problem"], "" if row.get("template_digest") in today else " *"
        lines.append(
            f"| {problem['channels']}, {problem['height']} | {problem['batch']} | {row['kgen_us']:.1f}{mark} | "
            f"{row['peer_us']:.1f} | {row['ratio']:.2f} | {row['efficiency']:.1%} |"
        )
    if any(" * |" in line for line in lines):
        lines += ["", "\\* measured with earlier templates of the kernels."]
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    start = text.index("\n", text.index(BEGIN)) + 1
    readme.write_text(text[:start] + table() + "\n" + text[text.index(END) :])


if __name__ == "__main__":
    main()
