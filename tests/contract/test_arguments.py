"""Counts, names of sites and evidence that make no sense are refused in words, by every system."""

from __future__ import annotations

import re
from typing import Any

import pytest

from phlogiston.errors import ConfigError, EvidenceError, PhlogistonError

from .test_contract import SMALL, fitted

NO_COUNTS = (0, -1, 2.5, "a", None, True, [3])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_is_no_count_is_refused_by_the_name_of_the_argument(name: str) -> None:
    system, rows = fitted(name).system, fitted(name).data.test
    site = next(iter(system.vocabulary()[0]), "frames")
    for count in NO_COUNTS:
        with pytest.raises(ConfigError, match=f"^n(um_samples)? is {re.escape(repr(count))}"):
            system.sample(count)
        with pytest.raises(ConfigError, match=f"^num_samples is {re.escape(repr(count))}"):
            system.query({}, ask=[site], num_samples=count)
    exact = {"drmm", "handwriting", "sequence", "world"}  # scores without draws, or draws that no argument counts
    for count in NO_COUNTS if name not in exact else ():
        if name == "mdn" and count is None:
            continue  # as many as it sees fit
        with pytest.raises(ConfigError, match=f"^num_particles is {re.escape(repr(count))}"):
            system.log_prob(rows.select(slice(0, 2)), num_particles=count)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_names_that_are_none_are_refused_and_one_alone_is_a_list_of_one(name: str) -> None:
    system = fitted(name).system
    site = next(iter(system.vocabulary()[0]), "frames")
    alone = system.query({}, ask=site, num_samples=2, seed=0).samples
    assert set(alone) == set(system.query({}, ask=[site], num_samples=2, seed=0).samples)
    wrong: list[Any] = [3, ["nosuch"], "nosuch"]
    for ask in wrong:
        with pytest.raises(PhlogistonError, match=r"ask is 3|nosuch"):
            system.query({}, ask=ask, num_samples=2)
    with pytest.raises(EvidenceError, match="evidence for 3"):
        system.query({3: 1.0}, ask=[site], num_samples=2)
