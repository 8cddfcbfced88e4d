"""A tuned-config file: what it holds, and its JSON, checked field by field when it is read.

``{"schema_version": 1, "block": ..., "environment": {...}, "entries": [{"problem", "config", "measured", ...}]}``:
times are microseconds, ``intensity`` operations per DRAM byte, ``seconds`` what tuning took. ``environment`` is that of
whoever saved last; an entry that was measured in another one has its own, and each has its own template digest. An
entry that ``failed`` a later check stays, with the reason, and is not used. What older entries do not have, ``shots``,
``clock_mhz`` and ``tied``, is left out where it is not known.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, get_args, get_origin, get_type_hints

from kgen.blocks import family
from kgen.errors import ProblemError, TunedConfigError
from kgen.machine import Config, Problem

SCHEMA_VERSION = 1
_UNSAID = ("environment", "failed", "tied", "objective", "pareto", "shots", "clock_mhz", "energy_j")
"""Fields that are left out when they are None."""
_REMEDY = "correct the file or move it away, and tune again"
_NAMES = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}

T = TypeVar("T")
Readers = dict[str, Callable[[object, str], object]]
"""By field, what makes its value of JSON; the second argument is what messages call it."""


class TunedProblem(Problem, Protocol):
    """A problem whose shape can be compared with another's of the same family."""

    family: ClassVar[str]

    @property
    def sizes(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Measurement:
    """Latency of one launch in microseconds, its computational efficiency, and the verified error.

    ``shots`` is how many times it was measured, with the SM clock at ``clock_mhz`` (the median); ``energy_j`` is the
    energy of one launch in joules. They are None where they are not known.
    """

    median_us: float
    p20_us: float
    p80_us: float
    efficiency: float
    error: float
    shots: int | None = None
    clock_mhz: int | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class ParetoPoint:
    """A config to which no other one of its search is preferable in every objective, and its figures.

    They are those of one launch: microseconds, modelled where the entry's are; joules, None where they were not
    measured; relative error.
    """

    config: Config
    latency_us: float
    error: float
    energy_j: float | None = None


@dataclass(frozen=True)
class TunedEntry:
    """The best config found for a problem. ``measured`` is None when no GPU was at hand and the time is modelled."""

    problem: TunedProblem
    config: Config
    measured: Measurement | None
    modelled_us: float | None
    intensity: float
    attainable_efficiency: float
    error: float | None
    trials: int
    seconds: float
    when: str
    """ISO 8601, UTC."""
    template_digest: str
    environment: Environment | None = None
    """Where it was measured; None when that is the file's."""
    failed: str | None = None
    """Why it is out of service, in a sentence: it did not pass when it was retested."""
    tied: tuple[Config, ...] | None = None
    """Other configs whose times could not be told apart from this one's; None when it was not timed beside others."""
    objective: str | None = None
    """What it is the best by, as ``--objective`` names it, the first of several; None for efficiency alone."""
    pareto: tuple[ParetoPoint, ...] | None = None
    """With several objectives, the configs between which they leave the choice, the best by the first one first."""

    def same(self, other: TunedEntry) -> bool:
        """Whether both are one entry, wherever its environment is written."""
        return replace(self, environment=None) == replace(other, environment=None)


@dataclass(frozen=True)
class Environment:
    """Where the file was last saved. ``driver`` is the CUDA version that the driver offers, None without a GPU."""

    gpu: str
    arch: str
    sms: int
    clock_mhz: int
    driver: str | None
    nvrtc: str | None
    kgen: str
    template_digest: str


@dataclass(frozen=True)
class TunedFile:
    """All entries of one block on one GPU."""

    block: str
    environment: Environment
    entries: tuple[TunedEntry, ...]

    def environment_of(self, entry: TunedEntry) -> Environment:
        """Where an entry of this file was measured."""
        return replace(entry.environment or self.environment, template_digest=entry.template_digest)

    def in_environment(self, environment: Environment) -> TunedFile:
        """This file with another environment; entries that were measured in a different one say so."""
        entries = []
        for entry in self.entries:
            own = self.environment_of(entry)
            same = replace(own, template_digest=environment.template_digest) == environment
            entries.append(replace(entry, environment=None if same else own))
        return TunedFile(self.block, environment, tuple(entries))

    def with_entry(self, entry: TunedEntry) -> TunedFile:
        """This file with ``entry`` in place of any entry of the same problem, in a fixed order."""
        others = [other for other in self.entries if other.problem != entry.problem]
        return TunedFile(self.block, self.environment, tuple(sorted([*others, entry], key=lambda e: order(e.problem))))

    def dump(self) -> bytes:
        """The file's JSON: two-space indent, times to a nanosecond, other figures to four digits.

        Raises:
            TunedConfigError: an entry holds something that :func:`parse` would refuse, such as NaN.
        """
        data = {
            "schema_version": SCHEMA_VERSION,
            "block": self.block,
            "environment": asdict(self.environment),
            "entries": [_entry_to_json(entry) for entry in self.entries],
        }
        text = json.dumps(data, indent=2) + "\n"
        parse(text.encode(), "the tuned config to save")
        return text.encode()


def order(problem: TunedProblem) -> tuple[object, ...]:
    """A total order of the problems of one family."""
    return (*problem.sizes, json.dumps(problem.to_json(), sort_keys=True))


def load_file(path: Path) -> TunedFile:
    """Read a tuned-config file.

    Raises:
        TunedConfigError: it cannot be read, is corrupt, or is of another schema version; it names field and value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TunedConfigError(
            f"tuned config file {path} must be a readable file, but reading it failed ({reason}); check path and mode"
        ) from error
    return parse(data, f"tuned config file {path}")


def parse(data: bytes, where: str) -> TunedFile:
    """A file's content; ``where`` is what messages call it.

    Raises:
        TunedConfigError: it is corrupt or of another schema version.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TunedConfigError(f"{where} must be JSON, but it is corrupt or truncated ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        _refuse(where, "a JSON object", content)
    version = content.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise TunedConfigError(
            f"{where} must have schema_version {SCHEMA_VERSION}, but got {reprlib.repr(version)}; "
            f"use the kgen that wrote it, or move it away and tune again"
        )
    entries = content.get("entries")
    if not isinstance(entries, list):
        _refuse(f"{where}: entries", "a list", entries)
    block = content.get("block")
    if not isinstance(block, str):
        _refuse(f"{where}: block", _NAMES[str], block)
    try:
        kinds = family(block)
    except ProblemError as error:
        raise TunedConfigError(f"{where}: {error}") from error
    readers: Readers = {
        "problem": partial(_build, kinds.Problem, {}),
        "config": partial(_config, kinds.config_from_json),
        "tied": partial(_configs, kinds.config_from_json),
        "pareto": partial(_points, kinds.config_from_json),
    }
    return TunedFile(
        block,
        _build(Environment, {}, content.get("environment"), f"{where}: environment"),
        tuple(_build(TunedEntry, readers, entry, f"{where}: entries[{i}]") for i, entry in enumerate(entries)),
    )


def _build(cls: type[T], readers: Readers, data: object, where: str) -> T:
    """``data`` as the dataclass ``cls``; fields without a reader are read as their annotations say."""
    if not isinstance(data, dict):
        _refuse(where, "an object", data)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    missing = [name for name, field in known.items() if field.default is MISSING and name not in data]
    unknown = [name for name in data if name not in known]
    if missing or unknown:
        found = f"misses {', '.join(missing)}" if missing else f"has {', '.join(map(reprlib.repr, unknown))}"
        raise TunedConfigError(f"{where} must have the fields {', '.join(known)}, but it {found}; {_REMEDY}")
    readers = {name: partial(_value, hint) for name, hint in get_type_hints(cls).items()} | readers
    values = {name: readers[name](value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ProblemError as error:
        raise TunedConfigError(f"{where} must be legal, but {error}") from error


def _config(make: Callable[[Mapping[str, Any]], Config], data: object, where: str) -> Config:
    """``data`` as a config of the class that ``make`` chooses, whose annotations its values must fit."""
    if not isinstance(data, dict):
        _refuse(where, "an object", data)
    try:
        config = make(data)
    except ProblemError as error:
        raise TunedConfigError(f"{where} must be legal, but {error}") from error
    hints = get_type_hints(type(config))
    for name, value in data.items():
        _value(hints[name], value, f"{where}.{name}")
    return config


def _configs(make: Callable[[Mapping[str, Any]], Config], data: object, where: str) -> tuple[Config, ...]:
    if not isinstance(data, list):
        _refuse(where, "a list", data)
    return tuple(_config(make, one, f"{where}[{i}]") for i, one in enumerate(data))


def _points(make: Callable[[Mapping[str, Any]], Config], data: object, where: str) -> tuple[ParetoPoint, ...]:
    """``data`` as a Pareto set."""
    if not isinstance(data, list):
        _refuse(where, "a list", data)
    reader: Readers = {"config": partial(_config, make)}
    return tuple(_build(ParetoPoint, reader, point, f"{where}[{i}]") for i, point in enumerate(data))


def _value(hint: Any, value: object, where: str) -> object:
    """``value`` checked against an annotation: a scalar, a Literal, a dataclass, or one of these or None."""
    arms = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in arms:
            _refuse(where, f"one of {', '.join(arms)}", value)
    elif type(None) in arms:
        return None if value is None else _value(arms[0], value, where)
    elif is_dataclass(hint):
        return _build(hint, {}, value, where)  # type: ignore[arg-type]
    elif hint is float:
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            _refuse(where, _NAMES[float], value)
    elif type(value) is not hint:  # bool is a subclass of int, and not an integer here
        _refuse(where, _NAMES[hint], value)
    return value


def _refuse(where: str, wanted: str, found: object) -> NoReturn:
    raise TunedConfigError(f"{where} must be {wanted}, but got {reprlib.repr(found)}; {_REMEDY}")


def _entry_to_json(entry: TunedEntry) -> dict[str, Any]:
    measured = entry.measured
    return _told(entry) | {
        "problem": entry.problem.to_json(),
        "config": entry.config.to_json(),
        "measured": measured and _told(measured),
        **({"environment": asdict(entry.environment)} if entry.environment else {}),
        **({"tied": [one.to_json() for one in entry.tied]} if entry.tied is not None else {}),
        **({"pareto": [_told(one) | {"config": one.config.to_json()} for one in entry.pareto]} if entry.pareto else {}),
    }


def _told(record: TunedEntry | Measurement | ParetoPoint) -> dict[str, Any]:
    """Its fields, without those that are left out."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: _short(name, value) for name, value in values.items() if name not in _UNSAID or value is not None}


def _short(name: str, value: Any) -> Any:
    """A float without the digits that no measurement has; anything else as it is."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return round(value, 3) if name.endswith("_us") else float(f"{value:.4g}")
