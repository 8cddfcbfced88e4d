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
        """Keep this in ``study``, unless an earlier tuner of it, whose GPU must be of the same model, did.

        Raises:
            StudyError: it is of another GPU.
        """
        try:
            before = About.read(study).device
        except StudyError:  # it is new, or of another kgen
            self.write(study)
            return
        if _model(before) != _model(self.device):
            raise StudyError(
                f"tuners of a study must have GPUs of one model, but {study.study_name!r} has times of "
                f"{_shown(before)}, and this is {_shown(self.device)}; pass another --storage"
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
                f"{found!r}; run its kgen tune command again with this kgen, or name another study by --study"
            )
        try:
            return cls(family(values["family"]).Problem(**values["problem"]), Device(**values["device"]))
        except (KgenError, KeyError, TypeError) as error:
            raise StudyError(
                f"a study's problem and device must be ones that kgen knows, but those of {study.study_name!r} are not "
                f"({error}); name another study by --study"
            ) from error


def _model(device: Device) -> tuple[object, ...]:
    """Equal for devices whose efficiencies can be compared."""
    return device.title, device.arch, device.sms, device.clock_mhz, device.peak_flops


def _shown(device: Device) -> str:
    return f"{device.title} ({device.sms} SMs, {device.clock_mhz} MHz, peak {device.peak_flops / 1e12:g} TFLOP/s)"
