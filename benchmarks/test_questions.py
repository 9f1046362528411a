"""What many questions at once cost, and one alone.

python -P -m pytest benchmarks/test_questions.py -m bench -s
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phlogiston.inference.query.evidence import Known
from phlogiston.models.drmm import DRMM
from phlogiston.models.mdn import MDN
from phlogiston.models.sequence import MDNRNN
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.mdn.query import MDNQuery
from phlogiston.systems.particle_filter import filter_particles

from .rows import Rows, cpu_seconds, shown

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")]


def drmm(features: int, frame: str, layers: int = 3) -> DRMMQuery:
    torch.manual_seed(0)
    return DRMMQuery(DRMM(features, layers, 16, frame))


def fifty(ask: Callable[..., Any], features: int, site: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Fifty questions of one form in one call, and in fifty; the first half of the entries is known."""
    values = torch.randn(50, features, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(features) < (features + 1) // 2
    return (
        lambda: ask({site: Known(values, mask.expand(50, -1))}, num_samples=1, seed=0),
        lambda: [ask({site: Known(row, mask)}, num_samples=1, seed=0) for row in values],
    )


@pytest.mark.parametrize(("frame", "features"), [("diag", 2), ("tril", 2), ("diag", 20)])
def test_fifty_questions_in_one_call(row: Rows, frame: str, features: int) -> None:
    together, each = fifty(drmm(features, frame).ask, features, "x")
    row(
        f"questions/drmm-{frame}-{features}",
        work=f"50 questions of one form to a DRMM, `{frame}` 3x16, {features} columns, one sample each",
        ours=together,
        alternative=each,
        against="50 calls",
        bar=0.1,
        rounds=7,
    )


@pytest.mark.parametrize(("kind", "targets"), [("diag", 2), ("full", 4)])
def test_fifty_questions_to_a_network_in_one_call(row: Rows, kind: str, targets: int) -> None:
    torch.manual_seed(0)
    model = MDN(8, targets, 5, kind).eval().requires_grad_(False)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    query = MDNQuery(model.likelihood, 8, targets, x)

    def ask(question: dict[str, Known], **options: Any) -> Any:
        rows = x if len(question["y"].value) == 50 else x[0]
        return query.ask({"x": Known(rows), **question}, **options)

    together, each = fifty(ask, targets, "y")
    row(
        f"questions/mdn-{kind}-{targets}",
        work=f"50 questions of one form to an MDN, `{kind}`, 5 components, {targets} targets of which half are known",
        ours=together,
        alternative=each,
        against="50 calls",
        bar=0.1,
        rounds=7,
    )


def test_one_question(row: Rows) -> None:
    values = torch.randn(2, generator=torch.Generator().manual_seed(1))
    query = drmm(2, "tril", 2)
    seconds = cpu_seconds([lambda: query.ask({"x": Known(values, [1, 0])}, num_samples=1)], 15)[0]
    row.figure(
        "questions/one", "one question to a warm DRMM, `tril` 2x16, one sample", seconds / 1e-3, 1.0, shown(seconds),
        "1 ms",
    )  # fmt: skip


def test_filling_in_a_table(row: Rows) -> None:
    generator = torch.Generator().manual_seed(1)
    values, mask = torch.randn(10_000, 20, generator=generator), torch.rand(10_000, 20, generator=generator) < 0.7
    query = drmm(20, "diag")
    seconds = cpu_seconds([lambda: query.ask({"x": Known(values, mask)}, num_samples=1, seed=0)], 1)[0]
    row.figure(
        "questions/impute", "filling in 10,000 rows of 20 columns, 30 % missing at random, DRMM `diag` 3x16",
        seconds / 5, 1.0, shown(seconds), "5 s",
    )  # fmt: skip


def test_fifty_questions_to_a_sequence_in_one_call(row: Rows) -> None:
    torch.manual_seed(0)
    model = MDNRNN(2, num_components=5).eval().requires_grad_(False)
    values = torch.randn(50, 10, 2, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(20) % 4 < 2).reshape(10, 2)  # every other step is known

    def ask(value: torch.Tensor, known: torch.Tensor) -> Any:
        return filter_particles(model, {"x": Known(value, known)}, None, 20, None, 10, 0)

    row(
        "questions/sequence",
        work="50 questions of one form to a sequence model of 10 steps, 20 particles each",
        ours=lambda: ask(values, mask.expand(50, -1, -1)),
        alternative=lambda: [ask(value, mask) for value in values],
        against="50 calls",
        bar=0.1,
        rounds=5,
    )
