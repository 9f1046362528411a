"""A call of a system's method that is made here and written out as the Python that repeats it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from phlogiston.inference.query.evidence import Evidence


@dataclasses.dataclass(frozen=True)
class Named:
    """A value that a program writes by another text than its own: rows of the data, or what was computed before.

    Attributes:
        text: in the program.
        value: what it stands for here.
    """

    text: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of one method.

    Attributes:
        method: of a system.
        positional: its arguments: numbers, texts, lists, tensors, evidence, and mappings of these.
        options: its keyword arguments.
        result: the name that the text gives to what comes back.
        before: lines of the text that define what `Named` arguments say.
    """

    method: str
    positional: tuple[Any, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    result: str = "answer"
    before: tuple[str, ...] = ()

    def __call__(self, system: Any) -> Any:
        """Make the call."""
        given = [value.value if isinstance(value, Named) else value for value in self.positional]
        options = {k: value.value if isinstance(value, Named) else value for k, value in self.options.items()}
        return getattr(system, self.method)(*given, **options)

    def text(self, run: str) -> str:
        """A program that loads the run and makes this call.

        Args:
            run: what `phlogiston.load` takes.
        """
        lines = "\n".join([*self.before, self.line()])
        torch = "import torch\n\n" if "torch." in lines else ""
        return f"{torch}import phlogiston as ph\n\nsystem = ph.load({run!r})\n{lines}\n"

    def line(self) -> str:
        """The call itself, in one line or in several."""
        given = [literal(value) for value in self.positional]
        given += [f"{name}={literal(value)}" for name, value in self.options.items()]
        line = f"{self.result} = system.{self.method}({', '.join(given)})"
        if len(line) > 110:
            inside = "".join(f"    {part},\n" for part in given)
            line = f"{self.result} = system.{self.method}(\n{inside})"
        return line


def literal(value: Any) -> str:
    """A value as Python text that gives the same value back."""
    if isinstance(value, Named):
        return value.text
    if isinstance(value, Evidence):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]  # type: ignore[arg-type]
        while fields and fields[-1] is None:
            fields.pop()
        return f"ph.{type(value).__name__}({', '.join(map(literal, fields))})"
    if isinstance(value, Tensor | np.ndarray):
        kind = str(value.dtype).removeprefix("torch.")
        return f"torch.tensor({value.tolist()!r}, dtype=torch.{kind})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(literal, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    return repr(value)
