"""Two files of tuned configs side by side: of two GPUs, two versions of kgen, or two searches."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks import family
from kgen.devices import Device, known_devices, local_devices
from kgen.errors import InfeasibleError, TunedConfigError
from kgen.machine import Program
from kgen.tuned_file import TunedEntry, TunedFile, TunedProblem


@dataclass(frozen=True)
class Side:
    """One file's entry. ``program`` is its config's plan on that file's GPU, None where the GPU is not known here."""

    gpu: str
    entry: TunedEntry
    program: Program | None

    @property
    def us(self) -> float | None:
        """Measured latency, else the modelled one."""
        return self.entry.measured.median_us if self.entry.measured else self.entry.modelled_us

    @property
    def how(self) -> str:
        return "measured" if self.entry.measured else "modelled"


@dataclass(frozen=True)
class Comparison:
    """Both entries of one problem."""

    problem: TunedProblem
    left: Side
    right: Side

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the left the right is."""
        left_us, right_us = self.left.us, self.right.us
        return left_us / right_us if left_us and right_us else None

    @property
    def differences(self) -> tuple[str, ...]:
        """Fields in which the configs differ, as ``name: left, right``; a field that a side lacks is ``-``."""
        left, right = self.left.entry.config.to_json(), self.right.entry.config.to_json()
        names = dict.fromkeys([*left, *right])
        pairs = {name: (left.get(name, "-"), right.get(name, "-")) for name in names}
        return tuple(f"{name}: {one}, {other}" for name, (one, other) in pairs.items() if one != other)


def compare(left: TunedFile, right: TunedFile) -> tuple[Comparison, ...]:
    """The problems that both files have, in the left one's order.

    Raises:
        TunedConfigError: they have none in common.
    """
    others = {entry.problem: entry for entry in right.entries}
    common = [(entry, others[entry.problem]) for entry in left.entries if entry.problem in others]
    if not common:
        raise TunedConfigError(
            f"files to compare must have a problem in common, but {len(left.entries)} {left.block} and "
            f"{len(right.entries)} {right.block} entries have none; tune the same problem for both"
        )
    gpus = left.environment.gpu, right.environment.gpu
    return tuple(Comparison(one.problem, _side(gpus[0], one), _side(gpus[1], other)) for one, other in common)


def _side(gpu: str, entry: TunedEntry) -> Side:
    return Side(gpu, entry, _program(entry, _device(gpu)))


def _program(entry: TunedEntry, device: Device | None) -> Program | None:
    if device is None:
        return None
    try:
        program: Program = family(entry.problem.family).plan(entry.problem, entry.config, device)
    except InfeasibleError:  # of another version, whose rules were other ones
        return None
    return program


def _device(title: str) -> Device | None:
    return next((device for device in (*local_devices(), *known_devices()) if device.title == title), None)
