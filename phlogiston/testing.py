"""The contract of systems, as a suite that anyone can run: ours pass it, and so should yours.

    from phlogiston.testing import check_system

    check_system(MySystem, data, {"steps": 20})      # raises AssertionError, naming the clause that does not hold

or, one test per clause:

    @pytest.mark.parametrize("clause", sorted(CLAUSES))
    def test_contract(fitted, clause):
        CLAUSES[clause](fitted)                       # fitted = Fitted.of(MySystem, data, {"steps": 20})

`systems.base.System` says in words what the clauses hold it to. Every clause works on small data: a system that is
trained for a few steps keeps the contract as well as one that is trained for hours.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phlogiston import systems
from phlogiston.counting import OperationCounts as OperationCounts
from phlogiston.counting import StepCounts as StepCounts
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import PhlogistonError, QueryWarning, UnknownNameError
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import KINDS, Score
from phlogiston.systems.base import System

ROWS = 6  # scored at once and one by one


@dataclass(frozen=True)
class Fitted:
    """A fitted system with the data it was fitted on.

    Attributes:
        system: the system.
        data: what it was fitted on; its test split (else its validation split) is scored.
        options: the options it was made with.
    """

    system: System
    data: Dataset
    options: Mapping[str, Any]

    @classmethod
    def of(cls, system: str | type[System], data: Dataset, options: Mapping[str, Any] | None = None) -> Fitted:
        """Fit a system on data.

        Args:
            system: a registered name, or the class.
            data: with a few test rows.
            options: of the system; choose few steps.
        """
        kind = systems.get(system) if isinstance(system, str) else system
        return cls(kind(dict(options or {})).fit(data, seed=0, progress="off"), data, dict(options or {}))

    @property
    def rows(self) -> Split:
        """The first rows of the held-out split."""
        split = self.data.test if len(self.data.test) else self.data.valid
        return Split(split[: min(ROWS, len(split))])


def check_system(
    system: str | type[System], data: Dataset, options: Mapping[str, Any] | None = None, skip: tuple[str, ...] = ()
) -> None:
    """Check that a system keeps the contract of `systems.base.System`.

    Args:
        system: a registered name, or the class.
        data: small, with a few test rows.
        options: of the system; choose few steps, the clauses ask nothing of the quality of the fit.
        skip: clauses left out.

    Raises:
        AssertionError: a clause does not hold; the message begins with its name.
        UnknownNameError: `skip` names a clause there is not.
    """
    for name in skip:
        if name not in CLAUSES:
            raise UnknownNameError(f"unknown clause {name!r}; choose from: {', '.join(CLAUSES)}.")
    fitted = Fitted.of(system, data, options)
    for name, clause in CLAUSES.items():
        if name in skip:
            continue
        try:
            clause(fitted)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


# ---- signatures ------------------------------------------------------------------------------------------------------

_SIGNATURES: dict[str, dict[str, Any]] = {  # verb -> argument -> default (_ANY: some default, _NONE: must be given)
    "sample": {"n": 1, "seed": None},
    "log_prob": {"data": "required", "seed": 0},
    "query": {"evidence": None, "ask": None, "num_samples": "any", "method": "auto", "seed": None},
    "evaluate": {"data": "required", "metrics": None},
    "figures": {"data": "required"},
    "example_queries": {"data": "required"},
}


def signatures(fitted: Fitted) -> None:
    """Every verb takes the common arguments under their common names; what a system adds is keyword-only."""
    for verb, expected in _SIGNATURES.items():
        given = inspect.signature(getattr(fitted.system, verb)).parameters
        for name, default in expected.items():
            assert name in given, f"{verb}() takes no argument {name!r}"
            if default == "required":
                assert given[name].default is inspect.Parameter.empty, f"{verb}({name}) must be given"
            elif default != "any":
                assert given[name].default == default, f"{verb}({name}={given[name].default!r}), expected {default!r}"
        for name, parameter in given.items():
            if name not in expected:
                assert parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD), (
                    f"{verb}({name}): keyword-only"
                )
                assert parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD, (
                    f"{verb}({name}) must have a default"
                )
        assert not {"particles", "n_samples", "samples", "n_particles"} & set(given), (
            f"{verb}() counts in words of its own; the common ones are num_particles and num_samples"
        )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def same_seed_same_numbers(fitted: Fitted) -> None:
    """Equal seeds give equal samples and scores, other seeds other samples, and torch's own generator is left alone."""
    system = fitted.system
    before = torch.get_rng_state()
    first, second, other = (system.sample(3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state()), "sample(seed=...) moves torch's own generator"
    _assert_equal(first, second, "sample(seed=1) twice")
    assert any(not torch.equal(first[name], other[name]) for name in first), "sample ignores its seed"
    _assert_equal(_scores(system, fitted.rows), _scores(system, fitted.rows), "log_prob twice")


def samples_have_one_row_each(fitted: Fitted) -> None:
    """`sample(n)` gives n rows under every name, and refuses n below 1."""
    for n in (1, 3):
        for name, value in fitted.system.sample(n, seed=0).items():
            assert len(value) == n, f"sample({n})[{name!r}] has {len(value)} rows"
            assert bool(torch.isfinite(value.double()).all()), f"sample({n})[{name!r}] is not finite"
    _assert_refused(lambda: fitted.system.sample(0), "sample(0)")


def scores_say_what_they_are(fitted: Fitted) -> None:
    """`log_prob` gives one finite number per row, its kind, and a standard error unless it is exact."""
    score = fitted.system.log_prob(fitted.rows)
    assert isinstance(score, Score), f"log_prob returns {type(score).__name__}"
    assert score.kind in KINDS, score.kind
    assert score.value.shape == (len(fitted.rows),), f"log_prob of {len(fitted.rows)} rows: {tuple(score.value.shape)}"
    assert bool(torch.isfinite(score.value).all()), "log_prob of held-out rows is not finite"


def a_score_depends_on_its_row_alone(fitted: Fitted) -> None:
    """n rows at once score as n batches of one, and permuted rows as permuted scores."""
    rows = fitted.rows
    together = fitted.system.log_prob(rows).value
    alone = torch.cat([fitted.system.log_prob(Split(rows[i : i + 1])).value for i in range(len(rows))])
    _assert_close(alone, together, "rows scored one by one, and together")
    order = torch.arange(len(rows)).flip(0)
    _assert_close(fitted.system.log_prob(Split(rows[order])).value, together[order], "permuted rows")


def every_form_of_data_scores_alike(fitted: Fitted) -> None:
    """A split and a dictionary of its arrays are the same data."""
    rows = fitted.rows
    _assert_close(
        fitted.system.log_prob(dict(rows.tensors)).value, fitted.system.log_prob(rows).value, "a dict and its split"
    )


# ---- questions -------------------------------------------------------------------------------------------------------


def answers_carry_their_diagnostics(fitted: Fitted) -> None:
    """Example queries are answered with a method, an effective sample size within bounds, and finite samples.

    Their answers are those of their seeds, whatever state torch's own generator is in.
    """

    def ask(state: int) -> list[Any]:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", QueryWarning)  # after a few steps of training answers may be poor
            torch.manual_seed(state)
            return fitted.system.example_queries(fitted.data)

    for (text, answer), (_, again) in zip(ask(1), ask(2), strict=True):
        _assert_equal(answer.samples, again.samples, f"{text}: samples under one seed")
        assert text, "an example query has no text"
        assert answer.method, f"{text}: no method"
        assert bool((answer.ess > 0).all()), f"{text}: ESS {answer.ess}"
        assert bool((answer.ess <= answer.num_samples * (1 + 1e-4)).all()), f"{text}: ESS {answer.ess}"
        for name, value in answer.samples.items():
            assert bool(torch.isfinite(value.double()).all()), f"{text}: {name} is not finite"


def unknown_names_are_refused(fitted: Fitted) -> None:
    """A metric, a site, a method, an option or a preset that does not exist is an error of ours that names it."""
    system = fitted.system
    for action, name in (
        (lambda: system.evaluate(fitted.data, ["no_such_metric"]), "no_such_metric"),
        (lambda: system.query({"no_such_site": 1.0}), "no_such_site"),
        (lambda: system.query("no_such_column >= 1"), "no_such_column"),
        (lambda: system.query(method="no_such_method"), "no_such_method"),
        (lambda: type(system)(no_such_option=1), "no_such_option"),
        (lambda: type(system)(preset="no_such_preset"), "no_such_preset"),
    ):
        _assert_refused(action, name, name)


def an_unfitted_system_says_so(fitted: Fitted) -> None:
    """Every verb of a system that was not fitted is an error of ours."""
    fresh = type(fitted.system)(dict(fitted.options))
    for action, name in (
        (lambda: fresh.sample(1), "sample"),
        (lambda: fresh.log_prob(fitted.rows), "log_prob"),
        (lambda: fresh.query(), "query"),
        (lambda: fresh.evaluate(fitted.data), "evaluate"),
    ):
        _assert_refused(action, f"{name} before fit", "fit")


# ---- copies ----------------------------------------------------------------------------------------------------------


def a_loaded_system_is_the_fitted_one(fitted: Fitted) -> None:
    """Saved and loaded, a system samples and scores bit for bit as before, and can do all it could."""
    with tempfile.TemporaryDirectory() as folder:
        path = fitted.system.save(Path(folder) / "saved")
        loaded = systems.load(path) if fitted.system.name in systems.names() else type(fitted.system).load(path)
        _assert_refused(lambda: fitted.system.save(path), "saving over a saved system")
    _assert_twins(fitted, loaded, "loaded")
    assert set(loaded.evaluate(fitted.data)) == set(fitted.system.evaluate(fitted.data)), "evaluate of a loaded system"


def copies_are_independent(fitted: Fitted) -> None:
    """`copy.deepcopy` and `pickle` give twins; changing one leaves the other as it was."""
    pickled = pickle.load(io.BytesIO(pickle.dumps(fitted.system)))
    _assert_twins(fitted, pickled, "pickled")
    twin = copy.deepcopy(fitted.system)
    _assert_twins(fitted, twin, "copied")
    before = _scores(fitted.system, fitted.rows)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.add_(1.0)
    _assert_equal(before, _scores(fitted.system, fitted.rows), "the original after its copy was changed")


def training_is_reproducible(fitted: Fitted) -> None:
    """Fitting again with the same seed gives the same parameters, bit for bit, and leaves the data alone."""
    kept = {name: value.clone() for name, value in fitted.data.train.tensors.items()}
    again = Fitted.of(type(fitted.system), fitted.data, fitted.options)
    for name, value in again.system.model.state_dict().items():
        assert torch.equal(value, fitted.system.model.state_dict()[name]), f"parameter {name} differs"
    for name, value in fitted.data.train.tensors.items():
        assert _same(value, kept[name]), f"fit changed {name!r} of the data"


def evaluation_reports_metrics(fitted: Fitted) -> None:
    """`evaluate` gives metrics with their sample sizes, all of them or the groups that were named."""
    system = fitted.system
    everything = system.evaluate(fitted.data)
    assert everything, "evaluate returned nothing"
    for name, metric in everything.items():
        assert isinstance(metric, Metric), f"{name} is a {type(metric).__name__}"
    for group in type(system).metrics():
        some = system.evaluate(fitted.data, [group])
        if set(some) & set(everything):  # not one that is computed on request only
            assert set(some) <= set(everything), f"evaluate() lists only a part of group {group!r}"
            break
    else:
        raise AssertionError("no group of metrics() gives what evaluate() lists")


CLAUSES: dict[str, Callable[[Fitted], None]] = {
    function.__name__: function
    for function in (
        signatures,
        same_seed_same_numbers,
        samples_have_one_row_each,
        scores_say_what_they_are,
        a_score_depends_on_its_row_alone,
        every_form_of_data_scores_alike,
        answers_carry_their_diagnostics,
        unknown_names_are_refused,
        an_unfitted_system_says_so,
        a_loaded_system_is_the_fitted_one,
        copies_are_independent,
        training_is_reproducible,
        evaluation_reports_metrics,
    )
}


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _scores(system: System, rows: Split) -> dict[str, Tensor]:
    return {"log_prob": system.log_prob(rows).value}


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, missing (NaN) entries included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], what: str) -> None:
    assert set(a) == set(b), f"{what}: {sorted(a)} and {sorted(b)}"
    for name in a:
        assert _same(a[name], b[name]), f"{what}: {name} differs"


def _assert_close(a: Tensor, b: Tensor, what: str) -> None:
    # batches of other sizes are added up in another order: float32 leaves some 1e-6 of the largest terms
    gap = float((a.double() - b.double()).abs().max())
    limit = 1e-4 * max(1.0, float(b.double().abs().max()))
    assert gap <= limit, f"{what} differ by up to {gap:g} nats"


def _assert_twins(fitted: Fitted, twin: System, what: str) -> None:
    _assert_equal(fitted.system.sample(2, seed=3), twin.sample(2, seed=3), f"samples of the {what} system")
    _assert_equal(_scores(fitted.system, fitted.rows), _scores(twin, fitted.rows), f"scores of the {what} system")


def _assert_refused(action: Callable[[], Any], what: str, name: str = "") -> None:
    message = None
    try:
        action()
    except PhlogistonError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__}: {error}; expected one of phlogiston's") from error
    assert message is not None, f"{what} is not refused"
    assert name in message, f"{what}: the message does not name {name!r}: {message}"
