"""Candidates that are bad on purpose: configs that do something as soon as a worker process has them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
from stubs import stub

from kgen import render
from kgen.blocks.convfirst.config import PortableConfig
from kgen.cases import cached_case
from kgen.verify import smaller_program


class Planted:
    """A config that does ``action`` as soon as the planner looks at it."""

    def __init__(self, action: str) -> None:
        self.action = action

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            exec(self.action, {"os": os, "signal": signal, "time": time})
        raise AttributeError(name)


class Replaced(PortableConfig):
    """A config whose kernels are replaced, the next time that they are rendered where it is unpickled, by stubs."""

    body: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _replace_kernels, (self.to_json(), self.body)

    @classmethod
    def of(cls, config: Any, body: str) -> Replaced:
        one = cls(**config.to_json())
        object.__setattr__(one, "body", body)
        return one


def truth_but(problem: Any, config: Any, device: Any, where: str) -> str:
    """Body of kernels that write the float64 truth but where ``where``, in C++, says so: there, that of a neighbour."""
    smaller, _ = smaller_program(problem, config, device)
    case = cached_case(smaller)
    _, height, width, channels = case.reference.shape
    truth = ", ".join(map(str, case.reference[case.index].astype(np.float16).view(np.uint16).ravel()))
    return f"""
        static const unsigned short truth[] = {{{truth}}};
        const int width = {width}, height = {height}, channels = {channels};
        for (int i = 0; i < batch * height * width * channels; ++i) {{
            int channel = i % channels, column = i / channels % width, row = i / channels / width % height;
            int image = i / channels / width / height;
            y[i] = truth[{where} ? i - 1 : i];
        }}
    """


LAST_COLUMN = "column == width - 1"


def _replace_kernels(fields: dict[str, Any], body: str) -> PortableConfig:
    right = render.render

    def once(program: Any) -> Any:
        render.render = right
        return stub(program, body)

    render.render = once
    return PortableConfig(**fields)
