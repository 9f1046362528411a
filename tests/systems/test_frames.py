"""Tables in and out: frames of three libraries, dates and labels that survive, rows filled in and made up."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from phlogiston.errors import DataError, EvidenceError, ShapeError
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN

KINDS = {"pandas": pandas.DataFrame, "polars": polars.DataFrame, "pyarrow": pyarrow.Table}


def rows(n: int = 240) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    height = 1.6 + 0.2 * side + 0.02 * rng.normal(size=n)
    frame = pandas.DataFrame(
        {
            "patient_id": np.arange(n) + 7,
            "height [m]": height,
            "seen": pandas.to_datetime("2024-01-01") + pandas.to_timedelta(np.round(100 * (height - 1.5), 3), "D"),
            "side": np.where(side == 1, "left", "right"),
            "dose": pandas.array(rng.integers(1, 4, n), dtype="Int64"),
        }
    )
    frame["side"] = frame["side"].astype("category")
    return frame


def as_kind(frame: pandas.DataFrame, kind: str) -> Any:
    return {"pandas": lambda f: f, "polars": polars.from_pandas, "pyarrow": pyarrow.Table.from_pandas}[kind](frame)


@pytest.fixture(scope="module")
def fitted() -> dict[str, DRMM]:
    options: dict[str, Any] = {"num_layers": 1, "num_components": 12, "frame": "tril", "steps": 600}
    with pytest.warns(UserWarning, match="set aside: 'patient_id'"):
        return {kind: DRMM(**options).fit(as_kind(rows(), kind), progress="off") for kind in KINDS}


@pytest.mark.parametrize("kind", list(KINDS))
def test_frames_come_back_as_they_came_in(fitted: dict[str, DRMM], kind: str) -> None:
    system, names = fitted[kind], ["height [m]", "seen", "dose", "side"]
    for frame in (
        system.synthesize(5, seed=0),
        system.sample(5, seed=0).to_frame(),
        system.query("side = left", num_samples=5, seed=0).to_frame(),
    ):
        assert isinstance(frame, KINDS[kind])
        assert list(frame.columns if kind != "pyarrow" else frame.column_names) == names
        table = pandas.DataFrame(frame) if kind == "pandas" else frame.to_pandas()
        assert set(table["side"]) <= {"left", "right"}
        assert table["seen"].dt.year.isin([2023, 2024]).all()
    scores = system.log_prob(as_kind(rows(9), kind)).to_frame()
    assert isinstance(scores, KINDS[kind])
    assert scores.shape == (9, 1)
    assert isinstance(system.sample(2, seed=0).to_polars(), polars.DataFrame)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_missing_is_filled_in_and_all_else_stays(fitted: dict[str, DRMM], kind: str) -> None:
    whole = rows(40)
    gaps = whole.copy()
    gaps.loc[0, "height [m]"] = np.nan
    gaps.loc[1, "side"] = None
    gaps.loc[2, "seen"] = pandas.NaT
    gaps.loc[3, ["height [m]", "side", "seen"]] = [np.nan, None, pandas.NaT]
    given = as_kind(gaps, kind)
    full = fitted[kind].impute(given)
    assert isinstance(full, KINDS[kind])
    table = full if kind == "pandas" else full.to_pandas()
    assert list(table.columns) == list(whole.columns)
    assert not table.isna().any().any()
    assert abs(table["height [m]"][0] - whole["height [m]"][0]) < 0.1
    assert table["side"][1] == whole["side"][1]
    assert abs((table["seen"][2] - whole["seen"][2]).days) < 8
    for name in whole.columns:  # what was known is what it was, bit for bit
        known = ~gaps[name].isna()
        assert list(table[name][known]) == list(whole[name][known]), name
    assert fitted[kind].impute(given).equals(full)


def test_draws_differ_and_follow_the_conditional(fitted: dict[str, DRMM]) -> None:
    gaps = rows(60)
    gaps.loc[:, "side"] = None
    one, two = (fitted["pandas"].impute(gaps, how="draw", seed=s) for s in (0, 1))
    assert (one["side"] == rows(60)["side"]).mean() > 0.75
    gaps = rows(60)
    gaps.loc[:, "height [m]"] = np.nan
    one, two = (fitted["pandas"].impute(gaps, how="draw", seed=s) for s in (0, 1))
    assert not one.equals(two)


def test_arrays_and_mappings_are_filled_in_too(fitted: dict[str, DRMM]) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[:, 1] += x[:, 0]
    system = DRMM(num_layers=1, num_components=2, frame="tril", steps=100).fit(x, progress="off")
    some = x[:5].copy()
    some[0, 1] = np.nan
    full = system.impute(some)
    assert np.isfinite(full).all()
    assert full[0, 0] == x[0, 0]
    assert abs(full[0, 1] - x[0, 0]) < 1
    mapped = system.impute({"x0": some[:, 0], "x1": some[:, 1], "note": ["a"] * 5})
    assert mapped["x1"][0] == full[0, 1]
    assert mapped["note"] == ["a"] * 5
    with pytest.raises(ShapeError, match=r"expected \(rows, 2\)"):
        system.impute(np.zeros((3, 4)))
    with pytest.raises(DataError, match="none of the columns"):
        system.impute({"other": some[:, 0]})


def test_categories_that_training_never_saw_are_refused(fitted: dict[str, DRMM]) -> None:
    gaps = rows(3)
    gaps["side"] = ["left", "middle", "right"]
    gaps.loc[1, "height [m]"] = np.nan
    with pytest.raises(EvidenceError, match="unknown value of 'side' 'middle'"):
        fitted["pandas"].impute(gaps)


def test_dates_are_asked_as_dates(fitted: dict[str, DRMM], capsys: pytest.CaptureFixture[str]) -> None:
    system = fitted["polars"]
    frame = system.query("seen >= 2024-02-01", num_samples=50, seed=0).to_polars()
    assert frame["seen"].min() >= datetime.datetime(2024, 2, 1)
    same = system.query({"seen": [datetime.date(2024, 2, 1), None]}, num_samples=50, seed=0).to_polars()
    assert same.equals(frame)
    system.explain("seen >= 2024-02-01")
    assert capsys.readouterr().out.splitlines()[0] == "seen >= 2024-02-01"


@pytest.mark.parametrize("kind", list(KINDS))
def test_dates_of_a_time_zone_are_filled_in_beside_those_that_are_known(kind: str) -> None:
    rng = np.random.default_rng(0)
    start = pandas.Timestamp("2024-03-01", tz="Europe/Berlin")
    frame = pandas.DataFrame({"a": rng.normal(size=200)})
    frame["seen"] = start + pandas.to_timedelta(np.round(20 + 5 * frame["a"], 4), "D")  # the clocks change inside
    frame["took"] = pandas.to_timedelta(np.round(3 + frame["a"], 4), "D").astype("timedelta64[us]")
    system = DRMM(num_layers=1, num_components=2, frame="tril", steps=300).fit(as_kind(frame, kind), progress="off")
    gaps = frame.copy()
    gaps.loc[0, "seen"], gaps.loc[1, "took"] = pandas.NaT, pandas.NaT
    full = system.impute(as_kind(gaps, kind))
    table = full if kind == "pandas" else full.to_pandas()
    assert str(table["seen"].dt.tz) == "Europe/Berlin"
    close = pandas.Timedelta(1, "us")  # what Arrow and polars keep
    assert ((table["seen"][1:] - frame["seen"][1:]).abs() < close).all()
    assert abs(table["seen"][0] - frame["seen"][0]) < pandas.Timedelta(1, "D")
    assert ((table["took"][2:] - frame["took"][2:]).abs() < close).all()
    assert abs(table["took"][1] - frame["took"][1]) < pandas.Timedelta(1, "D")
    elsewhere = frame.assign(seen=frame["seen"].dt.tz_convert("Asia/Tokyo"))
    same, own = (np.asarray(system.log_prob(as_kind(f, kind)).value) for f in (elsewhere, frame))
    np.testing.assert_allclose(same, own, atol=1e-6)


def test_a_regression_fills_in_its_target() -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.normal(size=200), "kind": rng.choice(["u", "v"], 200)})
    frame["b"] = 2 * frame["a"] + (frame["kind"] == "u") + 0.05 * rng.normal(size=200)
    system = MDN(target=["b"], num_components=2, steps=300).fit(frame, progress="off")
    gaps = frame.copy()
    gaps.loc[:9, "b"] = np.nan
    full = system.impute(gaps)
    assert np.abs(full["b"][:10] - frame["b"][:10]).max() < 0.8
    assert full["a"].equals(frame["a"])
    answer = system.query("kind = v", "a = 1", num_samples=4, seed=0).to_frame()
    assert list(answer.columns) == ["a", "b", "kind"]
    assert set(answer["kind"]) == {"v"}


def test_summary_tells_what_a_system_is(fitted: dict[str, DRMM]) -> None:
    text = fitted["pandas"].summary()
    for words in ("drmm", "seen [days since 1970-01-01]", "categories of side", "600 steps"):
        assert words in text


def test_what_is_made_up_is_rounded_as_the_data_are() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    start = pandas.Timestamp("2024-01-01")
    frame = pandas.DataFrame(
        {
            "income": np.round(50_000 + 20_000 * z).astype(int),
            "price": np.round(100 + 30 * z, 2),
            "mass": 70 + 10 * z,
            "day": start + pandas.to_timedelta(np.round(2000 * z), "D"),
            "minute": start + pandas.to_timedelta(np.round(1e6 * z), "min"),
            "moment": start + pandas.to_timedelta(2000 * z, "D"),
            "span": pandas.to_timedelta(np.round(5000 * z), "h"),
        }
    )
    system = DRMM(num_layers=1, num_components=2, steps=20).fit(frame, progress="off")
    assert system.schema["steps"] == {
        "income": 1.0,
        "price": 0.01,
        "mass": None,
        "day": 1.0,
        "minute": 1 / 1440,
        "moment": None,
        "span": 1 / 24,
    }
    gaps = frame.head(50).assign(income=np.nan, day=pandas.NaT, span=pandas.NaT)
    for made in (system.synthesize(200, seed=0), system.impute(gaps, how="draw")):
        assert np.array_equal(made["income"], np.round(made["income"]))
        assert np.array_equal(made["price"], np.round(made["price"], 2))
        assert not np.array_equal(made["mass"], np.round(made["mass"], 3))
        assert (made["day"] == made["day"].dt.normalize()).all()
        assert (made["minute"] == made["minute"].dt.round("min")).all()
        assert (made["span"] == made["span"].dt.round("h")).all()
        assert not (made["moment"] == made["moment"].dt.round("s")).all()
    assert system.synthesize(3)["income"].dtype == np.int64
    answer = system.query("50000.2 <= income <= 50000.4", num_samples=20, seed=0).to_frame()
    assert answer["income"].between(50_000.2, 50_000.4).all()  # a question's bounds are kept
