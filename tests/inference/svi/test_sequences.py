"""Rows that are sequences: every row once per epoch, batches of like length, windows that follow one another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.errors import DataError
from phlogiston.inference.svi.batches import Order
from phlogiston.inference.svi.sequences import Endings, Sequences, Windows


def ragged(lengths: list[int], width: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.zeros(len(lengths), max(lengths), width)
    for i, n in enumerate(lengths):
        x[i, :n] = 100 * i + torch.arange(1.0, n + 1).unsqueeze(1)
    return x, torch.tensor(lengths)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 7), st.integers(1, 5))
def test_an_epoch_holds_every_row_once(lengths: list[int], batch: int, window: int) -> None:
    x, length = ragged(lengths)
    for rows in (Sequences({"x": x, "length": length}), Windows(x, length, window)):
        order = Order(len(rows), batch, 0, 0, arrange=rows.arrange)
        for epoch in range(2):
            seen = torch.cat([order.batch(epoch * order.per_epoch + s)[0] for s in range(order.per_epoch)])
            assert sorted(seen.tolist()) == list(range(len(rows)))


def test_padding_is_hardly_ever_computed() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 100, (2000,)).tolist()
    x, length = ragged(lengths)
    rows = Sequences({"x": x, "length": length})
    batches = [rows[index] for index in rows.arrange(torch.Generator().manual_seed(1), 50)]
    computed = sum(b["x"].shape[0] * b["x"].shape[1] for b in batches)
    assert computed < 1.1 * sum(lengths), "random batches would compute about twice as much"
    assert len({tuple(b["length"].tolist()) for b in batches}) > 30


def test_each_track_goes_on_where_it_was_until_a_sequence_ends() -> None:
    x, length = ragged([23, 5, 40, 17, 9, 31, 2, 12])
    rows = Windows(x, length, 5)
    tracks: dict[int, tuple[int, int]] = {}
    breaks = 0
    for index in rows.arrange(torch.Generator().manual_seed(3), 4):
        batch = rows[index]
        for track, (sequence, window) in enumerate(batch["place"].tolist()):
            before = tracks.get(track)
            if before is not None and (sequence, window) != (before[0], before[1] + 1):
                breaks += 1
                last = -(-int(length[before[0]]) // 5) - 1
                assert before[1] == last, "a track leaves a sequence only at its end"
            tracks[track] = (sequence, window)
    assert breaks <= 8


def test_windows_know_what_came_before_them() -> None:
    x, length = ragged([13])
    rows = Windows(x, length, 5)
    batch = rows[torch.arange(3)]
    assert batch["seen"].tolist() == [0, 5, 10]
    assert batch["length"].tolist() == [5, 5, 3]
    assert batch["last"][1, :, 0].tolist() == [4.0, 5.0]
    assert batch["x"][1, :, 0].tolist() == [6.0, 7.0, 8.0, 9.0, 10.0]
    assert batch["last"][0].abs().sum() == 0


def test_rows_that_arrange_wrongly_are_refused() -> None:
    order = Order(10, 4, 0, 0, arrange=lambda generator, size: [torch.arange(10)])
    with pytest.raises(DataError, match="arrange"):
        order.batch(0)


def test_empty_data_are_refused() -> None:
    with pytest.raises(DataError):
        Sequences({"x": torch.zeros(0, 3, 2), "length": torch.zeros(0, dtype=torch.long)})
    with pytest.raises(DataError, match="length"):
        Sequences({"x": torch.zeros(1, 3, 2), "length": torch.tensor([4])})


def test_every_step_is_the_end_of_one_piece() -> None:
    """Each piece ends with its own step, holds what came before and nothing of another sequence."""
    x, length = ragged([5, 1, 3])
    rows = Endings(x, length, 2)
    assert len(rows) == 9
    batch = rows[torch.arange(9)]
    last = batch["x"][torch.arange(9), batch["length"] - 1, 0]
    assert last.tolist() == [1, 2, 3, 4, 5, 101, 201, 202, 203]
    assert batch["length"].tolist() == [1, 2, 3, 3, 3, 1, 1, 2, 3]
    assert batch["seen"].tolist() == [0, 0, 0, 1, 2, 0, 0, 0, 0]
    assert batch["x"][4, :, 0].tolist() == [3, 4, 5]
    assert batch["last"][4, :, 0].tolist() == [1, 2]
    assert batch["last"][8, :, 0].tolist() == [0, 0]
    with pytest.raises(DataError, match="pieces"):
        Endings(x, length, 0)
