"""The piecewise-linear embedding: right values, edges that occur, and nothing from columns without width."""

from __future__ import annotations

import torch

from phlogiston.networks.dense import pieces, quantile_edges


def test_values_by_hand() -> None:
    edges = torch.tensor([[0.0, 1.0, 3.0]]).double()
    u = torch.tensor([[-5.0], [0.25], [1.0], [2.0], [9.0]]).double()
    expected = torch.tensor([[0.0, 0.0], [0.25, 0.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0]]).double()
    torch.testing.assert_close(pieces(u, edges), expected)


def test_columns_lie_side_by_side_and_each_is_continuous_and_rising() -> None:
    torch.manual_seed(0)
    u = torch.randn(200, 2).double()
    edges = quantile_edges(u, 6)
    line = torch.linspace(-6, 6, 2001).double()
    out = pieces(torch.stack([line, -line], 1), edges).unflatten(1, (2, 6)).sum(-1)
    assert float(out[:, 0].diff().min()) >= 0
    assert float(out[:, 1].diff().max()) <= 0
    assert float(out.diff(dim=0).abs().max()) < 0.2
    assert out[0].tolist() == [0.0, 6.0]


def test_every_piece_holds_its_share_of_the_rows() -> None:
    torch.manual_seed(0)
    u = torch.randn(1000, 1).double().exp()
    edges = quantile_edges(u, 8)[0]
    assert all(float(edge) in u.flatten().tolist() for edge in edges)
    counts = torch.histogram(u.flatten(), edges).hist
    assert float((counts - 125).abs().max()) <= 2


def test_a_column_of_few_values_has_them_as_edges_and_one_of_one_value_says_nothing() -> None:
    u = torch.tensor([[0.0, 7.0], [0.0, 7.0], [1.0, 7.0], [2.0, 7.0]]).double()
    edges = quantile_edges(u, 4)
    assert edges[0].tolist() == [0.0, 1.0, 2.0, 2.0, 2.0]
    out = pieces(u, edges)
    assert out[:, :4].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert not bool(out[:, 4:].any())
