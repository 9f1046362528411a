"""Arrays of every layout are read alike, and what is no data is refused in words, by every verb of every system."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from phlogiston import systems
from phlogiston.arrays import tensor_of
from phlogiston.errors import DataError, PhlogistonError, ShapeError

from .test_contract import SMALL, fitted

LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "column by column": np.asfortranarray,
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "list of tensors": lambda a: [torch.tensor(row) for row in a],
    "with a gradient": lambda a: torch.tensor(a, requires_grad=a.dtype.kind == "f"),
}


def nonsense(a: np.ndarray) -> Iterator[tuple[str, Any]]:
    """What may be passed by mistake in place of an array like `a`."""
    yield "ragged", [a[0], a[0][:-1], a[0]]
    yield "ragged inside", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0]]]
    yield "text", [["a", "b"], ["c", "d"]]
    yield "nothing", None
    yield "an empty list", []
    yield "no rows", a[:0]
    yield "objects", np.array([None] * len(a), dtype=object)
    yield "a number", 3.0
    yield "a set", {1, 2}
    yield "a generator", (row for row in a)
    yield "complex", a.astype(complex)
    yield "a string", "nonsense"
    yield "bytes", b"abc"
    yield "dates", np.array(["2020-01-01"] * len(a), dtype="M8[D]")
    yield "sparse", scipy.sparse.csr_matrix(a.reshape(len(a), -1))
    yield "a sparse tensor", torch.tensor(a).to_sparse()
    yield "a meta tensor", torch.empty(a.shape, device="meta")
    yield "a class", dict
    yield "an infinity", np.where(a == a.flat[0], np.inf, a)


def site(name: str) -> str:
    return "frames" if name in ("vdsm", "world") else "images" if name == "scene" else "x"


def three_rows(name: str) -> dict[str, np.ndarray]:
    tensors = fitted(name).data.test.tensors
    return {key: value[:3].numpy() for key, value in tensors.items()}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_layout_of_arrays_changes_no_score(name: str) -> None:
    system, rows = fitted(name).system, three_rows(name)
    want = system.log_prob(rows, seed=0).value
    for layout, form in LAYOUTS.items():
        found = system.log_prob({key: form(value) for key, value in rows.items()}, seed=0).value
        assert torch.allclose(found, want, rtol=1e-5, atol=1e-5), layout


@pytest.mark.parametrize("name", sorted(SMALL))
def test_nonsense_is_refused_in_words(name: str) -> None:
    """Whatever is accepted may be; nothing else than an error of ours may come of the rest."""
    small, rows = fitted(name), three_rows(name)
    own = site(name)
    for label, value in nonsense(rows[own]):
        attempts: dict[str, Callable[[Any], Any]] = {
            "fit": lambda v: systems.get(name)(dict(small.options)).fit(v, seed=0, progress="off"),
            "fit a mapping": lambda v: systems.get(name)(dict(small.options)).fit(
                {**rows, own: v}, seed=0, progress="off"
            ),
            "log_prob": small.system.log_prob,
            "log_prob of a mapping": lambda v: small.system.log_prob({**rows, own: v}),
            "query": lambda v: small.system.query({own: v}, num_samples=4, seed=0),
            "sample": small.system.sample,
            "seed": lambda v: small.system.sample(2, seed=v),
        }
        for verb, attempt in attempts.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    attempt(value)
            except PhlogistonError:
                pass
            except Exception as error:
                raise AssertionError(f"{verb} of {label}: {type(error).__name__}: {error}") from error


def test_numbers_keep_their_precision_and_errors_name_the_argument() -> None:
    assert tensor_of("x", np.float64([1.0])).dtype == torch.float64
    assert tensor_of("x", np.ones(2, np.uint16)).dtype == torch.int64
    assert tensor_of("x", np.longdouble([0.5])).tolist() == [0.5]
    flipped = np.arange(6.0).reshape(2, 3)[:, ::-1]
    assert tensor_of("x", flipped).tolist() == [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
    with pytest.raises(ShapeError, match=r"'clips' is a list of 2 entries of different shapes: \(2,\), \(3,\)"):
        tensor_of("clips", [np.ones(2), np.ones(3)])
    with pytest.raises(DataError, match="'clips' is a sparse tensor"):
        tensor_of("clips", torch.eye(2).to_sparse())
