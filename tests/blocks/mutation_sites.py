"""Finds the synchronisation and the bounds masks of a rendered source, and removes one of them at a time.

All mutants of a source are one source: each site looks at a global variable, which says the one that is removed. So a
program is built once for all of its mutants.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kgen.emulator import HostLibrary
from kgen.render import Source

TEXT = ""
"""The name of the rendered text among its headers."""
CALLS: Mapping[str, tuple[str, ...]] = {
    "barrier": ("__syncthreads", "__syncwarp", "named_barrier_sync"),
    "wait": ("cp_async_wait", "mbarrier_wait", "wgmma_wait", "cluster_wait"),
    "arrival": ("mbarrier_arrive", "mbarrier_arrive_at", "mbarrier_arrive_expect", "cluster_arrive"),
    "fence": ("mbarrier_init_fence", "wgmma_fence", "fence_proxy_async"),
    "commit": ("cp_async_commit", "wgmma_commit"),
    "start": ("mbarrier_init", "bulk_copy", "bulk_copy_multicast", "bulk_copy_to_cta"),
    "hint": ("wgmma_pin", "raise_registers", "lower_registers"),
    "order": ("wait_for_kernel_before", "let_kernel_after_begin"),
    "expectation": ("mbarrier_arrive_expect",),
    "mask": ("inside",),
    "guard": ("if",),
}
"""What a site of each kind calls; ``wrapper`` comes on top: functions that do little else."""
_EXPECT = "mbarrier_arrive_expect"
_WRAPPED = tuple(name for kind in ("barrier", "wait", "arrival") for name in CALLS[kind])
_WRAPPER_LINES = 4
_EMULATED = "ptx/"  # the emulator has its own headers of these names
_VARIABLE = "kgen_removed_site"
_DECLARATION = f'extern "C" {{ __attribute__((visibility("default"))) int {_VARIABLE} = -1; }}\n'
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_FUNCTION = re.compile(r"(?:\bvoid (\w+)\([^()]*\)(?: const)?|\bauto (\w+) = \[&\]) (?=\{)")
_CLOSING = {"(": ")", "<": ">", "{": "}"}
_CONTEXT_LINES = 3


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


def sites(source: Source, masks: Collection[str] = ()) -> tuple[list[Site], Source]:
    """Every site of a source, and the source of all mutants: :func:`remove` chooses one by its place in the list.

    ``masks`` are comparisons that mask something beside what a ``bool real`` is made of and calls of ``inside``.
    """
    files = {TEXT: source.text, **source.headers}
    ours = {file: text for file, text in files.items() if not file.startswith(_EMULATED)}
    names = {**CALLS, "wrapper": tuple(_wrappers(ours.values()))}
    found: list[Site] = []
    for file, text in ours.items():
        edits = []
        for kind, calls in names.items():
            for start, end in _spans(kind, text, calls, masks):
                number = len(found)
                found.append(_site(file, kind, text, start, end, found))
                edits += _edits(kind, text, start, end, f"({_VARIABLE} == {number})")
        files[file] = _edited(text, edits)
    return found, Source(_DECLARATION + files.pop(TEXT), files, f"all mutants of {source.digest}")


def remove(library: HostLibrary, number: int) -> None:
    """Let a library of :func:`sites`' source run without the site of that number; at first it has all of them."""
    ctypes.c_int.in_dll(library._library, _VARIABLE).value = number


def _spans(kind: str, text: str, calls: tuple[str, ...], masks: Collection[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the sites of one kind."""
    for start, end in _calls(text, calls) if calls else ():
        if kind != "guard":
            yield start, end
        elif text.startswith(" return;", end):
            yield start + len("if "), end
    if kind == "mask":
        yield from _comparisons(text)
        code = _without_comments(text)
        for mask in masks:
            yield from (found.span() for found in re.finditer(rf"(?<!\w){re.escape(mask)}(?!\w)", code))


def _edits(kind: str, text: str, start: int, end: int, removed: str) -> list[tuple[int, str]]:
    """Insertions, each with its position, that let a site do nothing when ``removed``."""
    if kind == "mask":
        return [(start, f"({removed} || "), (end, ")")]
    if kind == "guard":
        return [(start, f"(!{removed} && "), (end, ")")]
    if kind == "expectation":
        arguments = start + len(_EXPECT)
        return [(arguments + _last_comma(text[arguments:end]) + 1, f" {removed} ? 0u :")]
    return [(start, f"({removed} ? (void)0 : "), (end, ")")]


def _edited(text: str, edits: list[tuple[int, str]]) -> str:
    parts, last = [], 0
    for position, inserted in sorted(edits):
        parts += [text[last:position], inserted]
        last = position
    return "".join([*parts, text[last:]])


def _last_comma(arguments: str) -> int:
    """The position of the comma before the last of these arguments in brackets."""
    depth, last = 0, 0
    for at, character in enumerate(arguments):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 1:
            last = at
    return last


def _site(file: str, kind: str, text: str, start: int, end: int, known: list[Site]) -> Site:
    line_end = text.index("\n", end)
    lines = text[:line_end].splitlines()[-_CONTEXT_LINES - text[start:end].count("\n") :]
    column = start - text.rfind("\n", 0, start)
    site = Site(file, kind, text[start:end], "\n".join(lines), column)
    while site in known:
        site = replace(site, repeat=site.repeat + 1)
    return site


def _wrappers(texts: Iterable[str]) -> list[str]:
    """Names of short functions without a result that synchronise: each call of them is a site, too."""
    code = _without_comments("\n".join(texts))
    found = []
    for match in _FUNCTION.finditer(code):
        body = code[match.end() : _balanced(code, match.end())]
        short = body.count("\n") <= _WRAPPER_LINES + 1 and not re.search(r"\breturn\b", body)
        if short and re.search(rf"\b(?:{'|'.join(_WRAPPED)})\b", body):
            found.append(match[1] or match[2])
    return sorted(set(found))


def _calls(text: str, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and end of every call of the functions, which may have template arguments; not of their definitions."""
    code = _without_comments(text)
    for match in re.finditer(rf"(?:\b\w+(?:\.|->|::))*\b(?:{'|'.join(names)})\b ?(?=[(<])", code):
        before = re.search(r"(\w+)\s*$", code[: match.start()])
        if before is not None and before[1] not in ("return", "else"):
            continue  # a type: this is the definition
        end = _balanced(code, match.end()) if code[match.end()] == "<" else match.end()
        yield match.start(), _balanced(code, end)


def _comparisons(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of those that a ``bool real`` is made of, beside calls of ``inside``."""
    code = _without_comments(text)
    for mask in re.finditer(r"\bbool real = ([^;]+);", code):
        for part in re.finditer(r"[^&\s](?:[^&]*[^&\s])?", mask[1]):
            if "inside(" not in part[0] and "||" not in part[0]:
                yield mask.start(1) + part.start(), mask.start(1) + part.end()


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
