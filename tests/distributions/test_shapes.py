"""The joint shape is the one that torch finds, and what does not broadcast is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.distributions.shapes import joint_shape

SHAPES = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=3).map(tuple), min_size=1, max_size=3)


@settings(deadline=None)
@given(SHAPES)
def test_it_is_what_torch_finds(shapes: list[tuple[int, ...]]) -> None:
    try:
        wanted = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="broadcast"):
            joint_shape(*shapes)
    else:
        found = joint_shape(*map(torch.Size, shapes))
        assert found == wanted
        assert isinstance(found, torch.Size)
