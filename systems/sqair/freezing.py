"""An object of a video that is held where it is, while everything else goes on as it was inferred or as it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from phlogiston.errors import DataError

HELD = ("presence", "where", "what")

Scene = dict[str, Tensor]


def freeze(scenes: Sequence[Scene], name: int, first: int = 0) -> list[Scene]:
    """Hold an object where it is in the first frame that shows it, from a frame on, and with the looks it has there.

    Where the object was lost later on, it takes a free slot and stays.

    Args:
        scenes: of one video, as `posterior.latents` gives them.
        name: its identity.
        first: the first frame it may be held in.

    Raises:
        DataError: it is in none of these frames, or there is no slot for it in one.
    """
    out: list[Scene] = []
    given: Scene | None = None
    for t, scene in enumerate(scenes):
        changed = {key: part.clone() for key, part in scene.items()}
        slots = (changed["ids"][0] == name).nonzero().flatten()
        if t >= first and given is None and len(slots):
            given = {key: changed[key][0, slots[0]].clone() for key in (*HELD, "ids")}
        elif given is not None:
            free = (changed["presence"][0] == 0).nonzero().flatten()
            if not len(slots) and not len(free):
                raise DataError(f"object {name} left before frame {t}, and no slot is free to hold it in there.")
            for key, value in given.items():
                changed[key][0, (slots if len(slots) else free)[0]] = value
        out.append(changed)
    if given is None:
        known = sorted({int(i) for scene in scenes[first:] for i in scene["ids"].flatten() if i >= 0})
        raise DataError(f"there is no object {name} from frame {first} on; the identities there are {known}.")
    return out


class Held(Messenger):  # type: ignore[misc]
    """Holds an object in what the model draws: its slot keeps presence, place and looks, whatever is drawn there.

    Args:
        scene: the last one, of which the object is held.
        name: its identity; None holds nothing.
    """

    def __init__(self, scene: Mapping[str, Tensor], name: int | None) -> None:
        super().__init__()
        self.scene = scene
        self.slots = torch.zeros_like(scene["ids"], dtype=torch.bool) if name is None else scene["ids"] == name

    def _pyro_post_sample(self, msg: Any) -> None:
        key = str(msg["name"]).rpartition("/")[2]
        if key in HELD and bool(self.slots.any()):
            value = msg["value"]
            slots = self.slots if key == "presence" else self.slots.unsqueeze(-1)
            msg["value"] = torch.where(slots, self.scene[key].to(value.dtype), value)
