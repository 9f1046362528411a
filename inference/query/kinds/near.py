"""Entries observed with Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds import base
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class Near(base.Evidence):
    """Soft evidence: the entries were observed as `mean` with Gaussian noise of standard deviation `sd`.

    Multiplying the model by this factor is also what a Gaussian prior on the entries does.

    Args:
        mean: number or array (..., D).
        sd: positive, broadcastable; `inf` where nothing is said.
        weight: not negative; 0 switches the evidence off. Other values than 1 ease or sharpen proposals only, unless
            the system is asked to temper.
    """

    mean: Any
    sd: Any
    weight: Any = 1.0
    kind: ClassVar[str] = "near"
    order: ClassVar[int] = 20
    fields: ClassVar[tuple[str, ...]] = ("mean", "sd", "weight")
    suffixes: ClassVar[tuple[str, ...]] = ("mean", "sd")
    rowwise: ClassVar[tuple[str, ...]] = ("mean", "sd")
    infinite: ClassVar[Mapping[str, float]] = {"sd": math.inf}

    def __post_init__(self) -> None:
        mean = base.as_tensor(self.mean, "Near.mean").double()
        sd = base.as_tensor(self.sd, "Near.sd", allow_infinite=True).double()
        weight = base.as_weight(self.weight, "Near.weight")
        if bool((sd <= 0).any()):
            raise EvidenceError(f"Near.sd must be positive; got {sd.min().item()} (use Known for exact values)")
        base.check_broadcast("Near.mean, sd and weight", mean, sd, weight)
        self._set(mean=mean, sd=sd, weight=weight)

    @classmethod
    def from_plain(cls, name: str, arrays: Mapping[str, np.ndarray]) -> list[base.Evidence]:
        """Arrays `mean` and `sd`."""
        if ("mean" in arrays) != ("sd" in arrays):
            raise EvidenceError(f"soft evidence for {name!r} needs both {name}_mean and {name}_sd")
        return [Near(arrays["mean"], arrays["sd"])] if "mean" in arrays else []

    @classmethod
    def claims(cls, statement: base.Statement) -> bool:
        """`x ~ 2.5 +- 0.1`, of one entry."""
        return statement.relation == "~" and len(statement.terms) == 1

    @classmethod
    def from_statements(cls, statements: Sequence[base.Statement]) -> list[base.Evidence]:
        """The first observation of every entry together, then the second ones, and so on."""
        size = len(statements[0].names)
        observed: dict[int, list[tuple[float, float]]] = {}
        for statement in statements:
            entry, slope, value = statement.single()
            observed.setdefault(entry, []).append((value, statement.sd / abs(slope)))
        result: list[base.Evidence] = []
        for turn in range(max(map(len, observed.values()))):
            mean, sd = torch.zeros(size, dtype=torch.float64), torch.full((size,), math.inf, dtype=torch.float64)
            for entry, pairs in observed.items():
                if turn < len(pairs):
                    mean[entry], sd[entry] = pairs[turn]
            result.append(Near(mean, sd))
        return result

    def about_entry(self, site: str, entry: int) -> list[base.Statement]:
        """`name ~ mean +- sd`."""
        if base.only_number(self.weight, "Near.weight") != 1:
            raise EvidenceError("a weight is for evidence about a whole site")
        mean, sd = base.only_number(self.mean, "Near.mean"), base.only_number(self.sd, "Near.sd")
        return [base.Statement(site, (), "~", {entry: 1.0}, -mean, sd)] if math.isfinite(sd) else []

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """`name ~ mean +- sd`, entry by entry."""
        mean, sd = (base.entries_of(value, len(names), row) for value in (self.mean, self.sd))
        return [
            f"{name} ~ {base.number(m)} +- {base.number(s)}"
            for name, m, s in zip(names, mean, sd, strict=True)
            if s < math.inf
        ]

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Observe every entry with a finite standard deviation."""
        mean, sd, weight = (vector.entries(what, t, row) for t in (self.mean, self.sd, self.weight))
        for i in torch.nonzero(torch.isfinite(sd) & (weight > 0)).flatten().tolist():
            vector.observe(i, mean[i], sd[i], torch.zeros((), dtype=torch.float64), weight[i])
