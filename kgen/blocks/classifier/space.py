"""The classifier search space: the values each field may take, and feasible configs drawn from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from kgen.blocks.classifier.config import SIDE, ClassifierConfig
from kgen.blocks.classifier.plan import RULES, check, plan
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.weights import padded_classes
from kgen.blocks.configs import changed
from kgen.blocks.drawing import Picker, thriftier
from kgen.blocks.favourites import Space, single_changes
from kgen.blocks.favourites import favourites as favourites_of
from kgen.blocks.requirements import Rule
from kgen.devices import Device

Choices = dict[str, tuple[Any, ...]]

_RELAXATIONS: tuple[dict[str, Any], ...] = ({"stages": 2}, {"parts": 1}, {"warps_k": 1})
"""Steps towards fewer resources, taken one after another."""
_KIND = ("images", "slice", "chunk", "warps_n", "warps_k")


def choices(problem: Classifier, device: Device) -> dict[str, Choices]:
    """Values by side and field; there is one side."""
    classes, blocks = padded_classes(problem), problem.channels // 16
    values: Choices = {
        "images": tuple(n for n in (1, 2, 4, 8, 16) if n < 2 * problem.batch),
        "slice": tuple(n for n in (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024) if n < 2 * classes),
        "chunk": (16, 32, 48, 64),
        "warps_n": (1, 2, 4),
        "warps_k": tuple(n for n in (1, 2, 3, 4, 6, 8, 12) if blocks % n == 0),
        "parts": tuple(n for n in (1, 2, 4, 7, 8, 16) if n <= problem.pixels),
        "stages": (2, 3, 4),
    }
    return {SIDE: values}


def rules(side: str) -> tuple[Rule, ...]:
    """What ties the fields of a side's configs."""
    return RULES


def default_config(problem: Classifier, device: Device) -> ClassifierConfig:
    """A config that is feasible for every problem on every device with 99 KB of shared memory a CTA."""
    return ClassifierConfig("portable", images=1, slice=16, chunk=16, warps_n=1, warps_k=1, parts=1, stages=2)


def draw(problem: Classifier, device: Device, rng: random.Random) -> ClassifierConfig | None:
    """A random config whose fields fit each other; None where it breaks a rule after all."""
    values = choices(problem, device)[SIDE]
    picker = Picker(values, rng)
    whole = picker.pick("slice")
    chunk = picker.pick("chunk", lambda c: whole % c == 0)
    picker.pick("warps_n", lambda n: chunk % (16 * n) == 0)
    return relax(problem, ClassifierConfig(**{"boundary": SIDE, **picker.rest()}), device)


def relax(problem: Classifier, config: ClassifierConfig, device: Device) -> ClassifierConfig | None:
    """The config, or the first of a fixed series of thriftier ones that is feasible, or None."""
    relaxed: ClassifierConfig | None = thriftier(problem, config, device, _RELAXATIONS, (check,))
    return relaxed


def neighbours(problem: Classifier, config: ClassifierConfig, device: Device) -> Iterator[ClassifierConfig | None]:
    """One field changed, or a slice with its chunk; made feasible where possible."""
    values = choices(problem, device)[SIDE]
    slices = [{"slice": s, "chunk": c} for s in values["slice"] for c in values["chunk"] if s % c == 0]
    for change in (*single_changes(config, values), *slices):
        yield relax(problem, changed(config, change), device)


favourites = partial(favourites_of, Space(plan, choices, draw, neighbours, _KIND))
"""The feasible configs of a problem on a device that the model predicts fastest: (problem, device, count)."""
