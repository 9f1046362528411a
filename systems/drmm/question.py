"""From a question to linear evidence in the coordinates of a deep residual mixture: varying columns, standardised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phlogiston.datasets.standardise import rounding
from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.mixtures.conditioned_rows import Entries
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.compilation import compile_category, compile_entries, compile_vector, whole_cells
from phlogiston.inference.query.evidence import Evidence
from phlogiston.models.drmm import DRMM

CENTRED = "known values on a grid by the middles of their cells"


@dataclass(frozen=True, eq=False)
class Question:
    """One row of evidence in both coordinate systems.

    Attributes:
        original: about all columns, in the data's units.
        model: about the varying columns, standardised.
        log_constant: what is added to the log evidence of the model's coordinates, ().
        allowed: categorical column -> bool (V,), the values left.
        curved: inequalities over several columns that are mapped by their cells, about the varying columns in the
            data's units; `model` knows nothing of them. None where there are none.
        centred: True where known values on a grid stand for their cells by the middle alone.
    """

    original: LinearEvidence
    model: LinearEvidence
    log_constant: Tensor
    allowed: Mapping[str, Tensor]
    curved: Rows | None = None
    centred: bool = False


@dataclass(frozen=True, eq=False)
class EntryQuestions:
    """R questions.

    Attributes:
        original: about all columns, in the data's units; columns that never vary are known.
        model: about the varying columns, standardised.
        allowed: categorical column -> bool (R, V), the values left; only those something is said about.
        log_constant: (R,), what is added to the log evidence of the model's coordinates.
        centred: True where known values on a grid stand for their cells by the middle alone.
    """

    original: Entries
    model: Entries
    allowed: Mapping[str, Tensor]
    log_constant: Tensor
    centred: bool = False


class EvidenceCompiler:
    """Compiles questions about the columns of x and the categorical columns.

    A known value of a column on a grid means the cell around it, whose probability counts. Where the columns of a path
    are independent that is an interval like any other. Otherwise (`frame="tril"` or `"lowrank"`) the probability is the
    density in the middle times the step, which answers say of themselves (`CENTRED`).

    Args:
        columns: names of all columns, constant ones included.
        constant: position -> value of the columns that never vary.
        categorical: categorical column -> names of its values.
        model: whose coordinates the evidence is brought into.
        precision: the number format the constant values were seen in.

    Attributes:
        whole: bool (features,), columns whose known values are intervals.
        centred: bool (features,), columns whose known values are the middles of their cells.
        log_step: (features,), log width of the cells of both, 0 elsewhere.
    """

    def __init__(
        self,
        columns: Sequence[str],
        constant: Mapping[int, float],
        categorical: Mapping[str, Sequence[str]],
        model: DRMM,
        precision: str = "float64",
    ) -> None:
        self.precision, self.model = precision, model
        self.columns, self.constant, self.categorical = columns, constant, categorical
        self.varying = torch.tensor([i for i in range(len(columns)) if i not in constant])
        on_grid = torch.zeros(model.features, dtype=torch.bool)
        self.log_step = torch.zeros(model.features, dtype=torch.float64)
        if model.cells is not None:  # where noise is part of the data, values are points
            on_grid = model.cells.by_column(model.cells.whole, model.features)
            self.log_step = model.cells.by_column(model.cells.step.log() * model.cells.whole, model.features)
        mixes = model.frames[-1].mixes
        self.whole, self.centred = on_grid & (not mixes), on_grid & mixes

    def __call__(self, question: Mapping[str, tuple[Evidence, ...]], row: int) -> Question:
        """Compile one row of a normalised question.

        Raises:
            EvidenceError: malformed evidence, or statements that contradict each other or a constant column.
        """
        evidence, log_constant = compile_vector("x", question.get("x", ()), len(self.columns), row, equalities=True)
        evidence, log_constant = self._fix_constants(evidence, log_constant)
        allowed = {}
        for name, labels in self.categorical.items():
            chosen = compile_category(name, question.get(name, ()), labels, row)
            if chosen is not None:
                allowed[name] = chosen
        v = self.varying
        fixed = torch.ones(len(self.columns), dtype=torch.bool)
        fixed[v] = False
        rows = evidence.rows.given(fixed, evidence.values)
        position = torch.full((len(self.columns),), -1)
        position[v] = torch.arange(len(v))
        inner = replace(
            evidence,
            known=evidence.known[v],
            values=evidence.values[v],
            lower=evidence.lower[v],
            upper=evidence.upper[v],
            box_weight=evidence.box_weight[v],
            rows=replace(rows, coefficients=rows.coefficients[:, v]),
            soft=position[evidence.soft],
        )
        inner, curved = self._split(inner)
        inner = inner.as_intervals(inner.known & self.whole)
        observed = self._rows_at(inner.soft, inner.soft_mean)
        log_constant = log_constant + self.log_density(inner.values)[inner.known].sum()
        log_constant = log_constant + self._slope(observed).gather(1, inner.soft.unsqueeze(1)).sum()
        centred = bool((inner.known & self.centred).any())
        return Question(evidence, self._standardised(inner), log_constant, allowed, curved, centred)

    def log_density(self, x: Tensor) -> Tensor:
        """What known entries of rows (..., D) add to a log density in the model's coordinates: (..., D).

        The slope of the map to these coordinates, and the width of the cells that stand for middles.
        """
        return self._slope(x) + torch.where(self.centred, self.log_step, 0.0)

    def _slope(self, x: Tensor) -> Tensor:
        return self.model.log_slope(x).expand(x.shape)

    def _rows_at(self, columns: Tensor, values: Tensor) -> Tensor:
        """Rows (S, D) that hold one value (S,) each, at one column (S,), and the location elsewhere."""
        rows = self.model.location.repeat(len(columns), 1)
        return rows.scatter(1, columns.unsqueeze(1), values.unsqueeze(1))

    def _standardised(self, inner: LinearEvidence) -> LinearEvidence:
        """Evidence about the varying columns in the model's coordinates; its rows name no mapped column."""
        model = self.model
        linear = inner.standardised(model.location, model.scale)
        if model.cells is None:
            return linear
        at = inner.soft.unsqueeze(1)

        def soft(values: Tensor) -> Tensor:
            return model.coordinates(self._rows_at(inner.soft, values)).gather(1, at).squeeze(1)

        mapped = model.cells.mapped(model.features)
        names = [self.columns[i] for i in self.varying.tolist()]
        held = whole_cells(inner, model.cells.enclose(inner.lower, inner.upper), mapped, names)
        spread = 0.5 * (soft(inner.soft_mean + inner.soft_sd) - soft(inner.soft_mean - inner.soft_sd))
        return replace(
            linear,
            values=model.coordinates(inner.values),
            lower=model.coordinates(held.lower),
            upper=model.coordinates(held.upper),
            soft_mean=soft(inner.soft_mean),
            soft_sd=torch.where(mapped[inner.soft], spread, linear.soft_sd),
        )

    def _split(self, inner: LinearEvidence) -> tuple[LinearEvidence, Rows | None]:
        """Part the rows over mapped columns from the others: intervals of one column, or curved."""
        cells, rows = self.model.cells, inner.rows
        if cells is None or not len(rows):
            return inner, None
        known = inner.known
        free = torch.where(known, 0.0, rows.coefficients)
        mapped = cells.mapped(len(known))
        bent = (free[:, mapped] != 0).any(1)
        rows = rows.given(known & mapped, inner.values)
        if bool((bent & (rows.lower == rows.upper)).any()):
            raise EvidenceError(
                "a sum that names a column on a grid cannot be fixed exactly: give it as an interval, or fit with "
                "grid='off'"
            )
        lower, upper, weight = inner.lower, inner.upper, inner.box_weight
        single = bent & ((free != 0).sum(1) == 1)
        for r in torch.nonzero(single).squeeze(1).tolist():
            j = int(free[r].abs().argmax())
            ends = torch.stack([rows.lower[r], rows.upper[r]]) / free[r, j]
            mine = torch.arange(len(lower)) == j
            lower = torch.where(mine, lower.maximum(ends.min()), lower)
            upper = torch.where(mine, upper.minimum(ends.max()), upper)
            weight = torch.where(mine, weight.maximum(rows.weight[r]), weight)
        curved = bent & ~single
        kept = replace(
            inner, lower=lower, upper=upper, box_weight=weight, rows=rows.select(torch.nonzero(~bent).squeeze(1))
        )
        return kept, rows.select(torch.nonzero(curved).squeeze(1)) if bool(curved.any()) else None

    def entries(self, question: Mapping[str, tuple[Evidence, ...]], rows: int) -> EntryQuestions | None:
        """Compile all rows of a normalised question that names single entries and categories only; None of others.

        None, too, where a constant column is contradicted: compiling row by row has words for it.
        """
        e = compile_entries(question.get("x", ()), len(self.columns), rows)
        if e is None:
            return None
        known, value = e.known.clone(), e.value.clone()
        for i, constant in self.constant.items():
            slack = rounding(constant, self.precision)
            if bool(e.soft[:, i].any()) or bool((known[:, i] & ((value[:, i] - constant).abs() > slack)).any()):
                return None
            value[:, i] = torch.where(known[:, i], value[:, i], constant)
            known[:, i] = True
        e = Entries(known, value, e.sd.masked_fill(known, 0.0))
        allowed = {}
        for name, labels in self.categorical.items():
            pieces = question.get(name, ())
            shared = not any(getattr(getattr(p, f), "ndim", 0) for p in pieces for f in p.rowwise)
            sets = [compile_category(name, pieces, labels, r) for r in range(1 if shared else rows)]
            if any(s is not None for s in sets):
                full = torch.ones(len(labels), dtype=torch.bool)
                allowed[name] = torch.stack([full if s is None else s for s in sets]).expand(rows, -1)
        inner = e.columns(self.varying)
        said = self.log_density(inner.value).where(inner.known, self._slope(inner.value))
        said = torch.where((inner.sd < torch.inf) & ~(inner.known & self.whole), said, 0.0)
        centred = bool((inner.known & self.centred).any())
        return EntryQuestions(e, self._standardised_entries(inner), allowed, said.sum(1), centred)

    def _standardised_entries(self, e: Entries) -> Entries:
        model = self.model
        linear = e.standardised(model.location, model.scale)
        if model.cells is None:
            return linear
        sd = torch.where(e.soft, e.sd, 0.0)
        spread = 0.5 * (model.coordinates(e.value + sd) - model.coordinates(e.value - sd))
        mapped = model.cells.mapped(model.features)
        return Entries(e.known, model.coordinates(e.value), torch.where(mapped & e.soft, spread, linear.sd))

    def complete(self, x: Tensor) -> Tensor:
        """Put the columns that never vary beside the others: (..., varying) -> (..., columns)."""
        if not self.constant:
            return x
        whole = x.new_zeros(*x.shape[:-1], len(self.columns)).index_copy(-1, self.varying, x)
        for i, value in self.constant.items():
            whole[..., i] = value
        return whole

    def _fix_constants(self, evidence: LinearEvidence, log_constant: Tensor) -> tuple[LinearEvidence, Tensor]:
        """Columns that never vary are known, and must agree with what is said about them."""
        if not self.constant:
            return evidence, log_constant
        known, values = evidence.known.clone(), evidence.values.clone()
        for i, value in self.constant.items():
            slack = rounding(value, self.precision)
            said = float(values[i])
            if bool(known[i]) and abs(said - value) > slack:
                raise EvidenceError(
                    f"the evidence is impossible: column {self.columns[i]!r} was {value:g} in every training row, not "
                    f"{said:g}"
                )
            if value < float(evidence.lower[i]) - slack or value > float(evidence.upper[i]) + slack:
                raise EvidenceError(
                    f"the evidence is impossible: column {self.columns[i]!r} was {value:g} in every training row"
                )
            if not bool(known[i]):
                known[i], values[i] = True, min(max(value, float(evidence.lower[i])), float(evidence.upper[i]))
        keep = torch.ones(len(evidence.soft), dtype=torch.bool)
        for j, i in enumerate(evidence.soft.tolist()):
            if i in self.constant:
                keep[j] = False
                if bool(evidence.soft_fraction[j] == 0):
                    prior = torch.distributions.Normal(values[i], evidence.soft_sd[j])
                    log_constant = log_constant + prior.log_prob(evidence.soft_mean[j])
        return replace(
            evidence,
            known=known,
            values=values,
            soft=evidence.soft[keep],
            soft_mean=evidence.soft_mean[keep],
            soft_sd=evidence.soft_sd[keep],
            soft_fraction=evidence.soft_fraction[keep],
            soft_weight=evidence.soft_weight[keep],
        ), log_constant
