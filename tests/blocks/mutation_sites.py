"""Finds the barriers, waits and bounds masks of a rendered source, and removes one of them at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kgen.render import Source

TEXT = ""
"""The name of the rendered text among its headers."""
_WAIT = r"cp_async_wait"
_MASK = r"inside"
_BARRIERS = ("__syncthreads", "__syncwarp")
_EMULATED = "ptx/"  # the emulator has its own headers of these names
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_CLOSING = {"(": ")", "<": ">", "{": "}"}
_CONTEXT_LINES = 3
_NOTHING = {"barrier": "((void)0)", "wait": "((void)0)", "mask": "true"}


@dataclass(frozen=True)
class Site:
    """One call, known by the code that leads to it, so that programs whose constants differ share their sites."""

    file: str
    kind: str
    call: str
    context: str
    column: int
    repeat: int = 0

    def __str__(self) -> str:
        lines = " ".join(line.strip() for line in self.context.splitlines())
        return f"{self.kind} {self.call} in {self.file or 'the kernel file'}, at the end of: {lines}"


def sites(source: Source) -> dict[Site, Source]:
    """Every site of a source, each with the source that lacks it."""
    files = {TEXT: source.text, **source.headers}
    ours = {file: text for file, text in files.items() if not file.startswith(_EMULATED)}
    names = {"wait": [_WAIT], "mask": [_MASK], "barrier": [*_BARRIERS, *_wrappers(ours.values())]}
    mutants: dict[Site, Source] = {}
    for file, text in ours.items():
        for kind, calls in names.items():
            for start, end in _calls(text, calls):
                site = _site(file, kind, text, start, end, mutants)
                changed = {**files, file: text[:start] + _NOTHING[kind] + text[end:]}
                mutants[site] = Source(changed.pop(TEXT), changed, f"without {site}")
    return mutants


def _site(file: str, kind: str, text: str, start: int, end: int, known: dict[Site, Source]) -> Site:
    line_end = text.index("\n", end)
    lines = text[:line_end].splitlines()[-_CONTEXT_LINES - text[start:end].count("\n") :]
    column = start - text.rfind("\n", 0, start)
    site = Site(file, kind, text[start:end], "\n".join(lines), column)
    while site in known:
        site = replace(site, repeat=site.repeat + 1)
    return site


def _wrappers(texts: Iterable[str]) -> list[str]:
    """Names of functions without parameters that hold a barrier: each call of them is one."""
    code = _without_comments("\n".join(texts))
    found = []
    for match in re.finditer(r"\bvoid (\w+)\(\) (?=\{)", code):
        body = code[match.end() : _balanced(code, match.end())]
        if any(barrier in body for barrier in _BARRIERS):
            found.append(match[1])
    return found


def _calls(text: str, names: list[str]) -> Iterator[tuple[int, int]]:
    """Start and end of every call of the functions, which may have template arguments; not of their definitions."""
    code = _without_comments(text)
    for match in re.finditer(rf"\b(?:{'|'.join(names)})\b(?=[(<])", code):
        before = re.search(r"(\w+)\s*$", code[: match.start()])
        if before is not None and before[1] not in ("return", "else"):
            continue  # a type: this is the definition
        end = _balanced(code, match.end()) if code[match.end()] == "<" else match.end()
        yield match.start(), _balanced(code, end)


def _balanced(code: str, start: int) -> int:
    """The position behind the bracket that closes the one at ``start``."""
    opening, closing = code[start], _CLOSING[code[start]]
    depth = 0
    for at in range(start, len(code)):
        depth += (code[at] == opening) - (code[at] == closing)
        if depth == 0:
            return at + 1
    raise ValueError(f"nothing closes the {opening} in: {code[start : start + 80]}")


def _without_comments(text: str) -> str:
    """The text with its comments blanked, every character in its place."""
    return _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)
