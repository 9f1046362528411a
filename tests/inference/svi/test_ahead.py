"""Rows for an accelerator are copied ahead, from pinned memory; without one, stand-ins see the calls in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from phlogiston.inference.svi.batches import Ahead, prepare
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.parallel import make_fabric
from phlogiston.inference.svi.step import Stepper

from ..inference_pairs import flat, pair, rows


class Streams:
    """Stands in for `torch.cuda`'s streams and writes down what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copies")
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=self.waits))

    @contextlib.contextmanager
    def entered(self, stream: str) -> Iterator[None]:
        self.calls.append(f"enter {stream}")
        yield
        self.calls.append(f"leave {stream}")

    def waits(self, stream: str) -> None:
        self.calls.append(f"wait for {stream}")


class Noisy:
    """Rows that are another draw each time they are read."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.data["x"])

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        self.read.append(len(index))
        return {"x": self.data["x"][index] + 0.1 * torch.randn(len(index), 1)}


def test_rows_copied_ahead_train_the_same_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Stage("a", 7, batch_size=16), Stage("b", 5, batch_size=25)]
    ends, reads = [], []
    for ahead in (False, True):
        streams = Streams(monkeypatch)
        if ahead:
            begin = Stepper.begin

            def patched(self: Stepper, *args: Any, begin: Any = begin) -> None:
                self._ahead = self._ahead or Ahead(torch.device("cpu"))
                begin(self, *args)

            monkeypatch.setattr(Stepper, "begin", patched)
        model, guide = pair()
        data = Noisy(rows())
        fit(model, guide, data, stages=stages, seed=3, progress="off")
        ends.append(flat(model, guide))
        reads.append(len(data.read))
        if ahead:  # every step but the first of each stage
            assert streams.calls == ["enter copies", "leave copies", "wait for copies"] * (6 + 4)
    assert torch.equal(*ends)
    assert reads[0] == reads[1], "rows are read once"


def test_rows_of_another_step_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    Streams(monkeypatch)
    ahead = Ahead(torch.device("cpu"))
    assert ahead.take((0, 1)) is None
    ahead.fetch((0, 1), 5, lambda: {"x": torch.ones(2)})
    assert ahead.take((0, 2)) is None
    ahead.fetch((0, 2), 5, lambda: {"x": torch.randn(2)})
    torch.manual_seed(0)
    taken = ahead.take((0, 2))
    assert taken is not None
    drawn = torch.cat([taken["x"], torch.randn(2)])
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.cat([torch.randn(2), torch.randn(2)])), "random numbers go on where reading ended"
    assert ahead.take((0, 2)) is None, "once"


def test_rows_are_pinned_before_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def pin(self: Tensor) -> Tensor:
        calls.append("pin")
        return self

    def to(self: Tensor, device: Any, non_blocking: bool = False) -> Tensor:
        calls.append((device.type, non_blocking))
        return self

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", to)
    cuda: Any = SimpleNamespace(type="cuda")
    prepare({"x": torch.ones(2)}, cuda, None)
    assert calls == ["pin", ("cuda", True)]
    calls.clear()
    prepare({"x": torch.ones(2)}, torch.device("cpu"), None)
    assert calls == [("cpu", True)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_takes_the_same_rows_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(Ahead, "take", lambda self, key: None)
        model, guide = pair()
        fit(model, guide, rows(), stages=Stage("a", 20, batch_size=16), fabric=make_fabric(accelerator="cuda"))
        ends.append(flat(model.cpu(), guide.cpu()))
    assert torch.equal(*ends)
