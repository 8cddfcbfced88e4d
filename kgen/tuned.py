"""Tuned configs: saving one, and finding the one for a problem in the caller's, the user's and the packaged folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from filelock import FileLock, Timeout

from kgen.blocks import family
from kgen.devices import Device
from kgen.env import atomic_write, nvrtc_version, user_tuned_dir, version
from kgen.errors import InfeasibleError, ProblemError, TunedConfigError
from kgen.machine import Config
from kgen.tuned_file import Environment, Measurement, TunedEntry, TunedFile, TunedProblem, load_file, order

__all__ = [
    "Environment",
    "Lookup",
    "Measurement",
    "TunedEntry",
    "TunedFile",
    "environment",
    "load_file",
    "lookup",
    "save",
    "save_unless",
    "take_out_of_service",
]

_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Lookup:
    """An entry found for the problem ``asked``, and the file it comes from.

    ``exact``: the entry is of that very problem, else of the nearest one whose config can run it. ``stale``: it was
    tuned with other templates than the present ones.
    """

    entry: TunedEntry
    path: Path
    exact: bool
    stale: bool
    asked: TunedProblem

    def sentence(self) -> str | None:
        """What the user should know of the entry; None when it is exact and fresh."""
        stale = "was tuned with other templates than the present ones" if self.stale else ""
        if self.exact:
            return f"the tuned config for {self.asked} in {self.path} {stale}; tune it again" if stale else None
        nearest = f"{self.asked} has no tuned config for this GPU, so the nearest one is used, {self.entry.problem}"
        return f"{nearest} in {self.path}{f', which {stale}' if stale else ''}; tune it for more speed"


def save(entry: TunedEntry, device: Device, folder: Path | None = None) -> Path:
    """Put ``entry`` into the file of its block and GPU in ``folder`` (default: the user's); returns the file's path.

    Only an entry of the same problem is replaced. Savers in other processes wait for each other, and a crash leaves
    the file as it was.

    Raises:
        TunedConfigError: the folder cannot be written, or the file there is corrupt; it is then left untouched.
    """
    return save_unless(entry, device, folder, keep=lambda saved: False)[0]


def save_unless(
    entry: TunedEntry, device: Device, folder: Path | None, *, keep: Callable[[TunedEntry], bool]
) -> tuple[Path, TunedEntry | None]:
    """:func:`save`, unless the problem's entry is one to ``keep``, which is then returned: nobody saves in between."""
    path = _file(user_tuned_dir() if folder is None else folder, entry.problem, device)
    recorded = environment(device, entry.template_digest)
    kept: list[TunedEntry] = []

    def change(old: TunedFile | None) -> TunedFile | None:
        old = old or TunedFile(entry.problem.family, recorded, ())
        kept.extend(one for one in old.entries if one.problem == entry.problem and keep(one))
        return None if kept else old.in_environment(recorded).with_entry(replace(entry, environment=None))

    _update(path, change)
    return path, next(iter(kept), None)


def take_out_of_service(entry: TunedEntry, path: Path, reason: str) -> TunedEntry:
    """Mark an entry of the file as failed, unless it was replaced meanwhile; look-ups then pass over it.

    Raises:
        TunedConfigError: the file cannot be written, or is corrupt; it is then left untouched.
    """

    def change(old: TunedFile | None) -> TunedFile | None:
        present = next((one for one in old.entries if one.same(entry)), None) if old is not None else None
        return old.with_entry(replace(present, failed=reason)) if old is not None and present is not None else None

    _update(path, change)
    return replace(entry, failed=reason)


def _update(path: Path, change: Callable[[TunedFile | None], TunedFile | None]) -> None:
    """Replace the file by what ``change`` makes of it under its lock: None is no file before, and no change after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_S):
            new = change(load_file(path) if path.exists() else None)
            if new is not None:
                atomic_write(path, new.dump())
    except Timeout as error:
        raise TunedConfigError(
            f"tuned config file {path} must be free to write within {_LOCK_TIMEOUT_S:g} s, but another process holds "
            f"its lock; end that process and save again"
        ) from error
    except OSError as error:
        raise TunedConfigError(
            f"tuned config folder {path.parent} must be writable, but writing {path.name} failed "
            f"({error.strerror or type(error).__name__}); choose another folder"
        ) from error


def lookup(problem: TunedProblem, device: Device, folder: Path | None = None) -> Lookup | None:
    """The tuned entry to use for ``problem`` on ``device``, None when no entry's config can run it.

    Files are those of ``folder``, of the user and of the package. A fresh entry of the problem itself is best, then a
    stale one, then the nearest problem's, fresh before stale; earlier folders win among equals.

    Raises:
        TunedConfigError: one of the files is corrupt.
    """
    found = list(_entries(problem, device, folder))
    ranked = sorted(range(len(found)), key=lambda i: (*_rank(found[i]), i))
    return next((found[i] for i in ranked if _feasible(found[i], device)), None)


def near(problem: TunedProblem, device: Device, folder: Path | None, count: int) -> list[Config]:
    """Configs of ``count`` entries of the nearest problems, this GPU's and others', that can run ``problem`` here.

    Nearest first, and among equals this GPU's; stale ones too.

    Raises:
        TunedConfigError: one of the files is corrupt.
    """
    paths = {path: path == _file(path.parents[1], problem, device) for path in _siblings(problem, folder)}
    found = [(entry, own) for path, own in paths.items() for entry in load_file(path).entries if not entry.failed]
    found.sort(key=lambda pair: (_distance(problem, pair[0].problem), not pair[1], order(pair[0].problem)))
    configs = dict.fromkeys(entry.config for entry, _ in found if _runs(entry.config, problem, device))
    return list(configs)[:count]


def _siblings(problem: TunedProblem, folder: Path | None) -> list[Path]:
    """The block's file of every GPU, folder by folder."""
    places = (place for place in (folder, user_tuned_dir(), packaged_dir()) if place is not None)
    return [path for place in places for path in sorted((place / problem.family).glob("[!.]*.json"))]


def is_tuned(problem: TunedProblem, device: Device, folder: Path | None = None, objective: str | None = None) -> bool:
    """Whether there is a fresh config of this very problem; for a GPU of this machine, a measured one.

    With ``objective``, as :attr:`TunedEntry.objective` names it, one that is the best by it.

    Raises:
        TunedConfigError: one of the files is corrupt.
    """
    found = lookup(problem, device, folder)
    if found is None or not found.exact or found.stale:
        return False
    if objective is not None and (found.entry.objective or "efficiency") != objective:
        return False
    return found.entry.measured is not None or device.ordinal is None


def _entries(problem: TunedProblem, device: Device, folder: Path | None) -> Iterator[Lookup]:
    """Every entry in service of the problem's block and this GPU, folder by folder."""
    for place in (folder, user_tuned_dir(), packaged_dir()):
        path = None if place is None else _file(place, problem, device)
        if path is not None and _present(path):
            for entry in load_file(path).entries:
                if entry.failed is not None:
                    continue
                stale = entry.template_digest != _template_digest(entry.config.template)
                yield Lookup(entry, path, entry.problem == problem, stale, problem)


def _present(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # reading it will say what is wrong


def _rank(found: Lookup) -> tuple[bool, bool, float, int, tuple[object, ...]]:
    """Least is best; among problems at the same distance, the one that agrees in more fields."""
    asked, tuned = found.asked.to_json(), found.entry.problem.to_json()
    differing = sum(asked[name] != tuned[name] for name in asked)
    distance = round(_distance(found.asked, found.entry.problem), 6)  # so that rounding does not decide between equals
    return not found.exact, found.stale, distance, differing, order(found.entry.problem)


def _distance(one: TunedProblem, other: TunedProblem) -> float:
    """Euclidean distance of the sizes' log2."""
    return math.dist([math.log2(size) for size in one.sizes], [math.log2(size) for size in other.sizes])


def _feasible(found: Lookup, device: Device) -> bool:
    return _runs(found.entry.config, found.asked, device)


def _runs(config: Config, problem: TunedProblem, device: Device) -> bool:
    try:
        family(problem.family).plan(problem, config, device)
    except (InfeasibleError, ProblemError):
        return False
    return True


def packaged_dir() -> Path:
    """The folder of tuned configs that come with kgen."""
    return Path(str(resources.files("kgen.tuned_configs")))


def _file(folder: Path, problem: TunedProblem, device: Device) -> Path:
    return folder / problem.family / f"{device.slug}.json"


def _template_digest(template: str) -> str:
    from kgen.render import template_digest  # here, since the template engine is slow to import

    return template_digest(template)


def environment(device: Device, template_digest: str) -> Environment:
    """What measurements on ``device`` are made with, here and now."""
    return Environment(
        gpu=device.title,
        arch=device.arch,
        sms=device.sms,
        clock_mhz=device.clock_mhz,
        driver=_driver_version() if device.ordinal is not None else None,
        nvrtc=nvrtc_version(),
        kgen=version(),
        template_digest=template_digest,
    )


def _driver_version() -> str:
    """The CUDA version that the installed driver offers, such as ``"13.0"``."""
    from cupy_backends.cuda.api import runtime

    number = int(runtime.driverGetVersion())
    return f"{number // 1000}.{number % 1000 // 10}"
