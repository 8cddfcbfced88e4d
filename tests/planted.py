"""Candidates that are bad on purpose: configs that do something as soon as a worker process has them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from stubs import stub

from kgen import render
from kgen.blocks.convfirst.config import PortableConfig


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


def _replace_kernels(fields: dict[str, Any], body: str) -> PortableConfig:
    right = render.render

    def once(program: Any) -> Any:
        render.render = right
        return stub(program, body)

    render.render = once
    return PortableConfig(**fields)
