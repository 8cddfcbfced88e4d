"""What a study is of, kept in its attributes, so that it can be read without the command that made it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import optuna

from kgen.blocks import family
from kgen.devices import Device
from kgen.errors import KgenError, StudyError
from kgen.tuned_file import TunedProblem

ATTRIBUTE = "kgen"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class About:
    """A study's problem and device; its times are measured when the device has an ordinal, else modelled."""

    problem: TunedProblem
    device: Device

    def join(self, study: optuna.Study) -> None:
        """Keep this in ``study`` if it is new; else it must be of this problem, and of GPUs of this model.

        Raises:
            StudyError: it is of another problem, another GPU, or another kgen.
        """
        if ATTRIBUTE not in study.user_attrs and not study.get_trials(deepcopy=False):
            self.write(study)
            return
        before = About.read(study)
        if before.problem != self.problem:
            raise StudyError(
                f"tuners of a study must be at one problem, but {study.study_name!r} is of {before.problem}, and this "
                f"is {self.problem}; pass another --storage"
            )
        if _model(before.device) != _model(self.device):
            raise StudyError(
                f"tuners of a study must have GPUs of one model, but {study.study_name!r} has times of "
                f"{_shown(before.device)}, and this is {_shown(self.device)}; pass another --storage"
            )

    def write(self, study: optuna.Study) -> None:
        """Keep this in ``study``."""
        values = {"schema_version": SCHEMA_VERSION, "family": self.problem.family, "problem": self.problem.to_json()}
        study.set_user_attr(ATTRIBUTE, {**values, "device": asdict(self.device)})

    @classmethod
    def read(cls, study: optuna.Study) -> About:
        """What ``study`` is of.

        Raises:
            StudyError: it does not say so, or in another schema.
        """
        values = study.user_attrs.get(ATTRIBUTE)
        found = values.get("schema_version") if isinstance(values, dict) else None
        if not isinstance(values, dict) or found != SCHEMA_VERSION:
            raise StudyError(
                f"a study must say what it is of in schema_version {SCHEMA_VERSION}, but {study.study_name!r} has "
                f"{found!r}; use the kgen that wrote it, or another --storage or --study"
            )
        try:
            return cls(family(values["family"]).Problem(**values["problem"]), Device(**values["device"]))
        except (KgenError, KeyError, TypeError) as error:
            raise StudyError(
                f"a study's problem and device must be ones that kgen knows, but those of {study.study_name!r} are not "
                f"({error}); use the kgen that wrote it, or another --storage or --study"
            ) from error


def _model(device: Device) -> tuple[object, ...]:
    """Equal for devices whose efficiencies can be compared."""
    return device.title, device.arch, device.sms, device.clock_mhz, device.peak_flops


def _shown(device: Device) -> str:
    return f"{device.title} ({device.sms} SMs, {device.clock_mhz} MHz, peak {device.peak_flops / 1e12:g} TFLOP/s)"
