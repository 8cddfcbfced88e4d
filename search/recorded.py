"""A recorded space: a file of what became of each config of a search space, appended to while it is measured.

The file is gzip: a header as a JSON line, then a JSON line a config. Each line is a gzip member of its own until the
space is complete, so that a killed recording loses nothing that was written, and is then packed into one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kgen.search.evaluate import Evaluation
from kgen.search.space import Extent

from kgen.blocks import family
from kgen.devices import Device
from kgen.env import atomic_write
from kgen.errors import KgenError, RecordError
from kgen.machine import Config
from kgen.tuned_file import Environment, TunedProblem

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a recorded space is of: ``size`` configs of the ``extents`` by side, chosen by ``seed``."""

    problem: TunedProblem
    device: Device
    environment: Environment
    extents: Mapping[str, Extent]
    size: int
    seed: int
    cores: int
    """Of the machine, all of which compiled."""

    def to_json(self) -> dict[str, Any]:
        """JSON-shaped, with the schema's version."""
        values = {**asdict(self), "problem": self.problem.to_json()}
        return {"schema_version": SCHEMA_VERSION, "family": self.problem.family, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Header:
        """Inverse of :meth:`to_json`; KgenError, KeyError or TypeError when it is not that."""
        return cls(
            problem=family(values["family"]).Problem(**values["problem"]),
            device=Device(**values["device"]),
            environment=Environment(**values["environment"]),
            extents={side: Extent(**extent) for side, extent in values["extents"].items()},
            size=values["size"],
            seed=values["seed"],
            cores=values["cores"],
        )


@dataclass(frozen=True)
class Recorded:
    """A recorded space: each config's evaluation, in the order they were made."""

    header: Header
    evaluations: Mapping[Config, Evaluation]

    @cached_property
    def best(self) -> Evaluation:
        """The evaluation of the highest efficiency."""
        passed = [one for one in self.evaluations.values() if one.efficiency is not None]
        return max(passed, key=lambda one: one.efficiency or 0.0)


def read_recorded(path: Path) -> Recorded:
    """The space recorded in a file, whole or as far as it was recorded.

    Raises:
        RecordError: it cannot be read, is truncated, of another schema or of something else, or has no time in it.
    """
    lines, whole_bytes = _read(path)
    if whole_bytes < path.stat().st_size:
        raise RecordError(
            f"a recorded space must end with a whole record, but {path} is truncated after {max(0, len(lines) - 1)} "
            "records; run its kgen record command again, which goes on from there, or fetch the file anew"
        )
    header = _header(path, lines)
    make_config = family(header.problem.family).config_from_json
    try:
        records = [json.loads(line) for line in lines[1:]]
        evaluations = {make_config(record["config"]): Evaluation.from_attrs(record) for record in records}
    except (KgenError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"a recorded space must hold a config and its outcome a line, but {path} does not ({error}); record it anew"
        ) from error
    if all(one.efficiency is None for one in evaluations.values()):
        raise RecordError(
            f"a recorded space must hold a config that passed, but none of the {len(evaluations)} in {path} did; "
            "record more"
        )
    return Recorded(header, evaluations)


class Recorder:
    """Appends to the file of a recorded space; ``done`` are the configs that are in it already.

    Raises:
        RecordError: the file holds another space, or cannot be written.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self.done: dict[Config, Evaluation] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                self._go_on(header)
            else:
                self._append(header.to_json())
        except OSError as error:
            raise _unwritable(path, error) from error

    def add(self, config: Config, evaluation: Evaluation) -> None:
        """Write what became of a config."""
        try:
            self._append({"config": config.to_json(), **evaluation.to_attrs()})
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self.done[config] = evaluation

    def pack(self) -> None:
        """Compress the file as one; it reads the same."""
        try:
            lines, _ = _read(self._path)
            atomic_write(self._path, gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0))
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _go_on(self, header: Header) -> None:
        lines, whole_bytes = _read(self._path)
        found = _header(self._path, lines).to_json() if lines else None
        wanted = json.loads(json.dumps(header.to_json()))
        if found is not None and json.loads(json.dumps(found)) != wanted:
            differing = ", ".join(name for name in wanted if found.get(name) != wanted[name])
            raise RecordError(
                f"a recording goes on in a file of the same space, but {self._path} differs in {differing}; "
                "pass another --out"
            )
        with self._path.open("r+b") as file:
            file.truncate(whole_bytes)  # a torn last record, which the next one must not run on from
        if found is None:
            self._append(header.to_json())
            return
        make_config = family(header.problem.family).config_from_json
        for record in map(json.loads, lines[1:]):
            self.done[make_config(record["config"])] = Evaluation.from_attrs(record)

    def _append(self, values: Mapping[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(gzip.compress(json.dumps(values).encode() + b"\n", mtime=0))


def _read(path: Path) -> tuple[list[bytes], int]:
    """The file's whole lines, and how many of its bytes hold them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"a recorded space must be a readable file, but {path} is not ({error.strerror}); check path and mode"
        ) from error
    texts, whole_bytes = [], 0
    try:
        for text, end in _members(data):
            texts.append(text)
            whole_bytes = end
    except zlib.error as error:
        raise RecordError(
            f"a recorded space must be a gzip file that kgen record wrote, but {path} is not ({error}); "
            "record it anew, or name another file"
        ) from error
    return b"".join(texts).splitlines(), whole_bytes


def _members(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each whole gzip member's text, and where the member ends."""
    rest = data
    while rest:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        text = member.decompress(rest)
        if not member.eof:
            return
        rest = member.unused_data
        yield text, len(data) - len(rest)


def _header(path: Path, lines: list[bytes]) -> Header:
    try:
        values = json.loads(lines[0])
        version = values["schema_version"]
        if version == SCHEMA_VERSION:
            return Header.from_json(values)
    except (KgenError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"a recorded space must begin with what it is of, but {path} does not ({type(error).__name__}: {error}); "
            "record it anew, or name another file"
        ) from error
    raise RecordError(
        f"a recorded space must have schema_version {SCHEMA_VERSION}, but {path} has {version!r}; "
        "use the kgen that wrote it, or record it anew"
    )


def _unwritable(path: Path, error: OSError) -> RecordError:
    reason = error.strerror or type(error).__name__
    return RecordError(f"a recorded space must be a writable file, but {path} is not ({reason}); pass another --out")
