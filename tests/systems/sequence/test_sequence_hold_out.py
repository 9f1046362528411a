"""What is set aside of sequences that come without validation rows, and what it is good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston.datasets.base import Split
from phlogiston.systems.sequence import SequenceModel
from phlogiston.systems.sequence.rows import LEAST_END, parted


@pytest.mark.parametrize(("rows", "held"), [(5, 1), (20, 4), (100, 20), (400, 40)])
def test_whole_sequences_are_set_aside(rows: int, held: int) -> None:
    x = torch.arange(rows, dtype=torch.float32).reshape(-1, 1, 1).expand(-1, 4, 2)
    train, valid = parted(Split({"x": x, "length": torch.full((rows,), 4)}))
    assert valid is not None
    assert (len(train), len(valid)) == (rows - held, held)
    assert sorted([*train.tensors["x"][:, 0, 0].tolist(), *valid.tensors["x"][:, 0, 0].tolist()]) == list(range(rows))


def test_of_a_few_sequences_the_ends_are_set_aside() -> None:
    x = torch.arange(120, dtype=torch.float32).reshape(2, 60, 1)
    train, valid = parted(Split({"x": x, "length": torch.tensor([60, 36])}))
    assert valid is not None
    assert train.tensors["length"].tolist() == [50, 30]
    assert valid.tensors["length"].tolist() == [10, 6]
    assert valid.tensors["x"][1, :6, 0].tolist() == [90.0, 91.0, 92.0, 93.0, 94.0, 95.0]
    assert parted(Split({"x": x[:, : 6 * LEAST_END - 1]}))[1] is None


def test_noise_is_not_learned_by_heart() -> None:
    """Ten short sequences of standard normal noise; to the end of training, new ones lost many nats a step."""
    x = np.random.default_rng(0).normal(size=(30, 15, 1)).astype(np.float32)
    options = {"hidden": 48, "steps": 400, "learning_rate": 0.01, "batch_size": 10}
    gaps = []
    for hold_out in (True, False):
        system = SequenceModel(**options, hold_out=hold_out).fit(x[:10], progress="off")
        gaps.append(float(-system.log_prob(x[10:]).value.mean() / 15) - 1.419)
    assert gaps[0] < 0.6
    assert gaps[1] > gaps[0]


def test_a_run_that_was_interrupted_ends_at_the_same_parameters(tmp_path: Path) -> None:
    class Stop:
        def on_step(self, state: object) -> None:
            if state.step == 60 and not (tmp_path / "stopped").exists():  # type: ignore[attr-defined]
                (tmp_path / "stopped").touch()
                raise KeyboardInterrupt

    x = np.random.default_rng(0).normal(size=(12, 10, 1)).astype(np.float32)
    options = {"hidden": 16, "steps": 120, "learning_rate": 0.02, "batch_size": 8}
    whole = SequenceModel(**options).fit(x, out=tmp_path / "whole", checkpoint_every=10, progress="off")
    with pytest.raises(KeyboardInterrupt):
        SequenceModel(**options).fit(x, out=tmp_path / "run", checkpoint_every=10, progress="off", callbacks=[Stop()])
    again = SequenceModel(**options).fit(x, out=tmp_path / "run", checkpoint_every=10, progress="off")
    for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)
    losses = [record["valid_loss"] for record in whole.history.records if "valid_loss" in record]
    held = parted(Split({"x": x}))[1]
    assert -float(whole.log_prob(held).value.mean()) / 10 <= min(losses) + 1e-5
