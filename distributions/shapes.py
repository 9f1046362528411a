"""The shape that several broadcast to."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def joint_shape(*shapes: Sequence[int]) -> torch.Size:
    """The shape that several broadcast to.

    `torch.broadcast_shapes` says the same in a hundred times the time, and loads a library for symbolic mathematics at
    its first call, which is half a second.

    Raises:
        RuntimeError: they do not broadcast.

    Example:
        >>> joint_shape((3, 1), (4,), ())
        torch.Size([3, 4])
    """
    first = shapes[0] if shapes else ()
    if all(len(shape) == 0 or shape == first for shape in shapes):
        return torch.Size(first)
    joint = [1] * max(map(len, shapes))
    for shape in shapes:
        for i, size in enumerate(shape, len(joint) - len(shape)):
            if joint[i] == 1:
                joint[i] = size
            elif size not in (1, joint[i]):
                raise RuntimeError(f"shapes {', '.join(str(tuple(s)) for s in shapes)} do not broadcast")
    return torch.Size(joint)
