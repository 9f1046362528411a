"""Threads: a system's own number while it works, the caller's afterwards, and the run's when it is gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston.errors import ConfigError, RunMismatchError
from phlogiston.inference.svi.isolation import on_threads
from phlogiston.systems.drmm.system import DRMM

ROWS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _two_outside() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Noted:
    """A callback that notes on how many threads each step ran."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def on_step(self, state: Any) -> None:
        self.threads.add(torch.get_num_threads())


def fitted(noted: Noted | None = None, **options: Any) -> DRMM:
    system = DRMM(num_layers=1, num_components=2, steps=4)
    return system.fit(ROWS, progress="off", callbacks=[noted] if noted else [], **options)


def in_force(system: DRMM, monkeypatch: pytest.MonkeyPatch) -> int:
    """On how many threads the system samples."""
    seen = []
    generate = system.model.generate_parts

    def noting(*args: Any, **options: Any) -> Any:
        for part in generate(*args, **options):
            seen.append(torch.get_num_threads())
            yield part

    monkeypatch.setattr(system.model, "generate_parts", noting)
    system.sample(3)
    assert torch.get_num_threads() == 2
    return seen[0]


def test_small_steps_and_verbs_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()
    system = fitted(noted)
    assert noted.threads == {1}
    assert torch.get_num_threads() == 2
    assert in_force(system, monkeypatch) == 1


def test_every_public_method_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fitted()
    seen = []
    read = system.read_rows
    monkeypatch.setattr(system, "read_rows", lambda data: (seen.append(torch.get_num_threads()), read(data))[1])
    system.evaluate({"x": ROWS})
    system.log_prob(ROWS)
    assert set(seen) == {1}


def test_a_number_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()
    system = fitted(noted, threads=3)
    assert noted.threads == {3}
    assert in_force(system, monkeypatch) == 3
    system.threads = None
    assert in_force(system, monkeypatch) == 2


def test_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DRMM, "threads", 8)
    noted = Noted()
    fitted(noted)
    assert noted.threads == {2}


def test_a_method_that_fails_puts_the_number_back() -> None:
    with pytest.raises(ConfigError):
        fitted().sample(0)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_what_is_no_number_is_refused(threads: Any) -> None:
    with pytest.raises(ConfigError, match="whole number"), on_threads(threads):
        pass


def test_a_resumed_run_stays_on_its_threads(tmp_path: Path) -> None:
    whole = fitted(out=tmp_path / "whole", threads=2)
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["identity"]["threads"] == 2

    class Stop(Exception):
        pass

    class Stopping(Noted):
        def on_step(self, state: Any) -> None:
            if state.step == 2:
                raise Stop

    with pytest.raises(Stop):
        fitted(Stopping(), out=tmp_path / "run", threads=2, checkpoint_every=1)
    with pytest.raises(RunMismatchError, match=r"threads \(2 there, 1 here"):
        fitted(out=tmp_path / "run", threads=1, checkpoint_every=1)
    noted = Noted()
    system = fitted(noted, out=tmp_path / "run", checkpoint_every=1)
    assert noted.threads == {2}
    for a, b in zip(system.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
