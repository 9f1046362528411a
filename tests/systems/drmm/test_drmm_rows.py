"""Many questions at once to DRMM: what one after the other gives, and the general path."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.errors import EvidenceError, QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.evidence import Known, Near
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery


def made(frame: str, features: int = 6, **options: Any) -> DRMMQuery:
    torch.manual_seed(3)
    model = DRMM(features, 2, 5, frame, categorical={"kind": 3}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        model.location.copy_(torch.arange(features) * 3.0)
        model.scale.copy_(torch.linspace(0.5, 4.0, features))
    return DRMMQuery(model, **options)


def one_by_one(query: DRMMQuery, *arguments: Any, **options: Any) -> Answer:
    """The general path, which compiles and conditions row after row."""
    with mock.patch.object(query.compile, "entries", return_value=None):
        return query.ask(*arguments, **options)


def same(ours: Answer, theirs: Answer) -> None:
    assert ours.method == theirs.method
    assert list(ours.samples) == list(theirs.samples)
    assert set(ours.details) == set(theirs.details)
    pairs = {name: (ours.samples[name], theirs.samples[name]) for name in ours.samples}
    pairs |= {name: (ours.details[name], theirs.details[name]) for name in ours.details}
    for name in ("log_weights", "log_evidence", "log_evidence_error", "ess"):
        pairs[name] = getattr(ours, name), getattr(theirs, name)
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def rows(n: int, features: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.arange(features) * 3.0 + 4 * torch.randn(n, features, generator=generator, dtype=torch.float64)
    return values, torch.rand(n, features, generator=generator) < share


@settings(max_examples=25, deadline=None)
@given(
    frame=st.sampled_from(["shift", "iso", "diag", "tril"]),
    n=st.integers(1, 9),
    samples=st.sampled_from([1, 7, 40]),
    share=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    soft=st.sampled_from(["no", "same", "own"]),
    labels=st.sampled_from(["no", "same", "own"]),
    noise=st.sampled_from(["model", "mean"]),
    seed=st.integers(0, 1000),
)
def test_rows_at_once_are_the_rows_one_by_one(
    frame: str, n: int, samples: int, share: float, soft: str, labels: str, noise: Any, seed: int
) -> None:
    query = made(frame)
    values, mask = rows(n, 6, share, seed)
    question: dict[str, Any] = {"x": [Known(values, mask)]}
    if soft != "no":
        sd = torch.full((n, 6), torch.inf, dtype=torch.float64)
        mask[:, 2] = False
        sd[:, 2] = 0.7 if soft == "same" else torch.linspace(0.2, 2.0, n)
        question["x"] = [Known(values, mask), Near(values, sd)]
    if labels != "no":
        question["kind"] = {0, 2} if labels == "same" else Known(torch.arange(n) % 4 - 1)  # -1 is missing
    ask = {"num_samples": samples, "noise": noise, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        ours, theirs = query.ask(question, **ask), one_by_one(query, question, **ask)
    same(ours, theirs)
    kept = ours.samples["x"].transpose(0, 1)
    there = mask.unsqueeze(1).expand_as(kept)
    assert torch.equal(kept[there], values.unsqueeze(1).expand_as(kept)[there])  # bit for bit


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_batches_of_one_in_turn_draw_what_one_batch_draws(frame: str) -> None:
    query = made(frame)
    values, mask = rows(8, 6, 0.5, 1)
    torch.manual_seed(5)
    together = query.ask({"x": Known(values, mask)}, num_samples=20)
    torch.manual_seed(5)
    alone = [query.ask({"x": Known(v, m)}, num_samples=20) for v, m in zip(values, mask, strict=True)]
    for r, answer in enumerate(alone):
        same(together.row(r), answer)


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_constant_columns_and_chosen_sites(frame: str) -> None:
    query = made(frame, columns=list("abcdefg"), constant={3: 2.5}, precision="float32")
    values, mask = rows(5, 7, 0.5, 2)
    values[:, 3], mask[0, 3] = 2.5, True
    question = {"x": Known(values, mask)}
    ours = query.ask(question, ["kind", "x"], 10, seed=4)
    same(ours, one_by_one(query, question, ["kind", "x"], 10, seed=4))
    assert bool((ours.samples["x"][..., 3] == 2.5).all())
    values[4, 3], mask[4, 3] = 2.6, True
    with pytest.raises(EvidenceError, match=r"column 'd' was 2\.5 in every training row"):
        query.ask({"x": Known(values, mask)}, num_samples=3)


@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("where", [(1, 2, 900.0), (3, 0, -40.0)])
def test_what_lies_far_out_is_said_of_rows_too(frame: str, where: tuple[int, int, float]) -> None:
    query = made(frame)
    values, mask = rows(5, 6, 0.5, 2)
    values[where[:2]], mask[where[:2]] = where[2], True
    said = []
    for ask in (query.ask, lambda *a, **k: one_by_one(query, *a, **k)):
        with pytest.warns(QueryWarning, match="far outside everything the model knows") as caught:
            ask({"x": Known(values, mask)}, num_samples=3)
        said.append(str(caught[0].message))
    assert said[0] == said[1]


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_evidence_that_no_path_explains_is_refused(frame: str) -> None:
    query = made(frame)
    values = torch.zeros(2, 6, dtype=torch.float64)
    values[1] = 1e200
    with pytest.raises(EvidenceError, match="none of 3 draws satisfied"):
        query.ask({"x": Known(values)}, num_samples=3)


@pytest.mark.parametrize(
    "question",
    [
        {"x": [Known([1.0] * 6, [1, 0, 0, 0, 0, 0]), Known([2.0] * 6, [1, 0, 0, 0, 0, 0])]},
        {"x": Known([1.0, 2.0])},
        {"kind": 7},
        {"x": {1}},
    ],
)
def test_malformed_questions_are_refused_as_before(question: Mapping[str, Any]) -> None:
    query = made("diag")
    with pytest.raises(EvidenceError) as theirs:
        one_by_one(query, question)
    with pytest.raises(EvidenceError) as ours:
        query.ask(question)
    assert str(ours.value) == str(theirs.value)
