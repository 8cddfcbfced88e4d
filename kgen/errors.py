"""The exception family: every error a user can cause is a :class:`KgenError` whose text is one sentence.

The sentence names the subject, the rule it breaks, the values found and the next step.
"""

from __future__ import annotations


class KgenError(Exception):
    """Base of every error that kgen raises on purpose; the CLI prints it and exits with code 2."""


class ProblemError(KgenError, ValueError):
    """A problem, a config or an argument breaks a rule."""


class InfeasibleError(KgenError):
    """A config cannot run a problem on a device.

    ``rule`` is the short name of the broken rule (for example ``"shared_memory"``), used to count failures by kind.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class DeviceError(KgenError):
    """A device is unknown, absent, or lacks what was asked of it."""


class CompileError(KgenError):
    """The GPU compiler or the emulator's host compiler is missing or rejected a source; ``log`` is its output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class EmulatorError(KgenError):
    """An emulated kernel did something illegal, such as an access out of bounds or a deadlock."""


class WeightsError(KgenError, ValueError):
    """Weights have a wrong shape, dtype or value."""


class ArrayError(KgenError, ValueError):
    """An array handed to a block has a wrong shape, dtype, layout, alignment or device."""


class TunedConfigError(KgenError):
    """A tuned-config file is corrupt, of another schema version, or cannot be read or written."""


class StudyError(KgenError):
    """A study's storage cannot be opened or holds something else."""


class RecordError(KgenError):
    """A recorded search space is truncated, of another schema or of something else, or cannot be written."""


class VerificationError(KgenError):
    """A kernel's output differs from the float64 reference by more than the rule allows."""
