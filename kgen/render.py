"""Rendering: a program becomes the one source text that both NVRTC and the emulator compile."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from kgen.machine import Program

_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A rendered translation unit: its text, the headers it includes (transitively, by include name), their digest."""

    text: str
    headers: Mapping[str, str]
    digest: str


def render(program: Program) -> Source:
    """The source of a program's kernels; the same program always gives the same text."""
    template = _environment().from_string(_read(program.template))
    text = template.render(constants=program.constants, **program.fields)
    headers = _headers(text)
    return Source(text, headers, _digest(text, headers))


def template_digest(template: str) -> str:
    """Digest of a template, named as in :class:`Program`, and its headers: a tuned config made from others is stale."""
    return _digest_of([template])


def family_digest(family: str) -> str:
    """Digest of all templates of a family and their headers: trials of a search over others cannot be compared."""
    template = re.compile(rf"{family}(_\w+)?\.cu\.j2")
    return _digest_of(sorted(one.name for one in files("kgen.templates").iterdir() if template.fullmatch(one.name)))


def _digest_of(names: Sequence[str]) -> str:
    text = "".join(map(_read, names))
    return _digest(text, _headers(text))[:16]


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cpp_literal"] = _cpp_literal
    return environment


def _cpp_literal(value: int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(name: str) -> str:
    return files("kgen.templates").joinpath(name).read_text(encoding="utf-8")


def _headers(text: str) -> dict[str, str]:
    """Every header that ``text`` includes, directly or through another, in order of first inclusion."""
    found: dict[str, str] = {}
    pending = _INCLUDE.findall(text)
    while pending:
        name = pending.pop(0)
        if name not in found:
            found[name] = _read(name)
            pending += _INCLUDE.findall(found[name])
    return found


def _digest(text: str, headers: Mapping[str, str]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(headers):
        digest.update(f"\0{name}\0{headers[name]}".encode())
    return digest.hexdigest()
