"""Many questions to a mixture density network at once: answers against the mixture's own closed forms, row by row."""

from __future__ import annotations

import pytest
import torch

from phlogiston.errors import EvidenceError, QueryWarning
from phlogiston.inference.query.evidence import Known, Near, Within
from phlogiston.models.mdn import MDN
from phlogiston.systems.mdn.query import MDNQuery

FEATURES, ROWS = 2, 7


def network(kind: str, targets: int) -> tuple[MDN, MDNQuery]:
    torch.manual_seed(0)
    model = MDN(FEATURES, targets, num_components=4, kind=kind).eval().requires_grad_(False)
    return model, MDNQuery(model.likelihood, FEATURES, targets, torch.randn(30, FEATURES))


@pytest.mark.parametrize(("kind", "targets"), [("diag", 3), ("full", 3), ("factorised", 2), ("bivariate", 2)])
def test_rows_with_targets_of_their_own_known_are_answered_as_by_the_mixture(kind: str, targets: int) -> None:
    model, query = network(kind, targets)
    x, y = torch.randn(ROWS, FEATURES), torch.randn(ROWS, targets)
    mask = torch.rand(ROWS, targets) < 0.5
    mask[0], mask[1] = False, True
    answer = query.ask({"x": Known(x), "y": Known(y, mask)}, num_samples=2000, seed=0)
    assert answer.method == "exact"
    assert torch.equal(answer.samples["x"], x.double().expand(2000, -1, -1))
    assert torch.equal(answer.samples["y"][:, mask], y.double()[mask].expand(2000, -1))
    given = model.likelihood(x).joint() if kind == "factorised" else model.likelihood(x)
    given = given.given(y.double(), mask)
    torch.testing.assert_close(answer.log_evidence.float(), given.log_evidence.float(), rtol=1e-4, atol=1e-4)
    share = given.logits.softmax(-1)
    spread = answer.samples["y"].std(0) / 2000**0.5
    assert bool(((answer.mean("y") - given.mean).abs() <= 5 * spread + 1e-6).all())
    counts = torch.nn.functional.one_hot(answer.details["component"], share.shape[-1]).double().mean(0)
    assert bool(((counts - share).abs() < 1e-3).all())  # chosen at equal steps, not at random


def test_rows_at_once_are_the_answers_of_questions_one_after_the_other() -> None:
    _, query = network("full", 3)
    x, y = torch.randn(ROWS, FEATURES), torch.randn(ROWS, 3)
    mask = torch.rand(ROWS, 3) < 0.5
    soft = torch.where(torch.rand(ROWS, 3) < 0.5, 0.3, torch.inf).masked_fill(mask, torch.inf)
    pieces = [Known(y, mask), Near(y, soft)]
    together = query.ask({"x": Known(x), "y": pieces}, num_samples=20, seed=0)
    # a box that holds everything has no row-wise form: this question is answered row by row
    box = Within(torch.full((3,), -1e6), torch.inf)
    each = query.ask({"x": Known(x), "y": [*pieces, box]}, num_samples=20, seed=0)
    torch.testing.assert_close(together.log_evidence, each.log_evidence, rtol=1e-5, atol=1e-5)
    for r in range(ROWS):
        pieces = [Known(y[r], mask[r]), Near(y[r], soft[r])]
        alone = query.ask({"x": Known(x[r]), "y": pieces}, num_samples=20, seed=0)
        torch.testing.assert_close(alone.log_evidence, together.log_evidence[r], rtol=1e-5, atol=1e-5)
        if r == 0:  # which takes the same random numbers
            torch.testing.assert_close(alone.samples["y"], together.samples["y"][:, 0], rtol=1e-5, atol=1e-5)


def test_what_lies_far_out_is_named_and_what_cannot_be_is_refused() -> None:
    _, query = network("diag", 2)
    x = torch.randn(ROWS, FEATURES)
    x[3, 1] = 100.0
    with pytest.warns(QueryWarning, match="input 'x1'"):
        query.ask({"x": Known(x)}, num_samples=5)
    y = torch.zeros(ROWS, 2)
    y[2, 0] = 1e9
    with pytest.warns(QueryWarning, match="target 'y0'"):
        query.ask({"x": Known(x.clamp(-1, 1)), "y": Known(y, torch.tensor([1, 0]))}, num_samples=5)
    with pytest.raises(EvidenceError, match="has no distribution"):
        query.ask({"x": Known(x, torch.tensor([1, 0])), "y": Known(y)}, num_samples=5)
