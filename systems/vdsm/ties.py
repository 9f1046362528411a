"""Segments that share a part, found by trying: two are drawn in one colour, trained on for a little, and compared.

Where there are more segments than parts, two of them share one: the legs are drawn by both, by one more than by the
other in every view, so that a colour read in one view is not the one that another view needs. How badly clips are
explained at once where such a pair has one colour says little, for masks are made for two. After some steps of training
it says all: masks move, and what was one part is explained as well as before, what were two is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.callbacks import State
from phlogiston.models.linear_frames import SegmentDecoder
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.vdsm.clips import CHUNK, ClipOperations
from phlogiston.systems.vdsm.training import Clips

ROUNDS = 4  # of six trainings on drawn figures, tried to the end, none kept a tie after the second round
ROUND = "ties {}"  # names of stages
SHARED_PIXELS = 0.1  # cosine of masks; parts that do not touch have less
MORE = 1.25  # times the squares left before the first tie; ties of one part came to 1.15, of two to 1.8 and more


def stage_names(steps: int) -> dict[str, int]:
    """Names of the stages in which ties are tried, one tie each, and their steps, as even as they go."""
    rounds = min(ROUNDS, steps)
    return {ROUND.format(i + 1): steps * (i + 1) // rounds - steps * i // rounds for i in range(rounds)}


def unexplained(said: Tensor, squares: Tensor, ties: Tensor) -> float:
    """Sum of squares that the best colours of tied segments leave of a clip, in the mean over clips.

    Args:
        said: (n, P, P + C), what `SegmentDecoder.read` says of clips where no segment is tied.
        squares: (n,), sums of squares of the clips' values.
        ties: int64 (P,), as `SegmentDecoder.ties`.
    """
    count = len(ties)
    kept = torch.eye(count, dtype=torch.float64)[ties].T[ties.unique()]  # (segments kept, P)
    gram, cross = said[..., :count].double(), said[..., count:].double()
    merged, explained = kept @ gram @ kept.T, kept @ cross
    found = torch.linalg.solve(merged + 1e-3 * torch.eye(len(kept), dtype=merged.dtype), explained)
    return float((squares.double() - (found * explained).sum((1, 2))).mean())


def next_tie(said: Tensor, squares: Tensor, ties: Tensor, tried: Collection[tuple[int, int]]) -> tuple[int, int] | None:
    """The pair of segments that clips lose least by, of those not tried whose masks share pixels.

    Args:
        said, squares, ties: as in `unexplained`.
        tried: pairs that are passed over.

    Returns:
        The smaller segment and the larger one, which it is to be part of; None where no pair is left.
    """
    own = torch.eye(len(ties), dtype=torch.float64)[ties]
    overlap = own.T @ said[..., : len(ties)].double().sum(0) @ own
    size = overlap.diagonal().clamp_min(1e-9).sqrt().tolist()
    pairs = [
        (less, more)
        for less, more in itertools.permutations(ties.unique().tolist(), 2)
        if (size[less], less) < (size[more], more)
        and overlap[less, more] > SHARED_PIXELS * size[less] * size[more]
        and (less, more) not in tried
    ]
    return min(pairs, key=lambda pair: unexplained(said, squares, tied(ties, *pair)), default=None)


def tied(ties: Tensor, less: int, more: int) -> Tensor:
    """Ties after one more: all that was part of segment `less` is part of `more`."""
    return torch.where(ties == less, more, ties)


class TieSegments:
    """Engine callback: in each of the stages `stage_names`, try one tie, and take it back if clips are explained worse.

    A tie that is taken back leaves nothing behind: parameters are again what they were when its stage began.

    Args:
        system: whose segments.
        clips: at most so many are looked at.
    """

    def __init__(self, system: ClipOperations, clips: int = 512) -> None:
        self.system, self.clips = system, clips
        self.stage = ""
        self.limit: float | None = None  # of squares left unexplained
        self.tried: list[tuple[int, int]] = []
        self.before: dict[str, Tensor] = {}  # what the stage trains, and the ties, when it began; empty: nothing tried

    @torch.no_grad()
    def on_stage(self, state: State) -> None:
        """Tie the next pair."""
        decoder = self._decoder(state)
        if decoder is None or state.stage.name == self.stage:
            return
        self.stage, self.before = state.stage.name, {}
        said, squares = self._read(state, decoder)
        ties = decoder.ties.cpu()
        if self.limit is None:
            self.limit = MORE * unexplained(said, squares, ties)
        pair = self._agreed(state, next_tie(said, squares, ties, self.tried))
        if pair is not None:
            self.tried.append(pair)
            self.before = {name: value.detach().clone() for name, value in self._named(state).items()}
            decoder.ties.copy_(tied(ties, *pair))

    @torch.no_grad()
    def on_stage_end(self, state: State) -> None:
        """Keep the tie, or take it back."""
        decoder = self._decoder(state)
        if decoder is None or not self.before:
            return
        worse = unexplained(*self._read(state, decoder), decoder.ties.cpu()) > (self.limit or 0.0)
        if self._agreed(state, worse):
            for name, value in self._named(state).items():
                value.copy_(self.before[name])
        self.before = {}

    def _decoder(self, state: State) -> Any:
        """The decoder whose segments may be tied, in a stage in which they are."""
        decoder = self.system.model.decoder
        mine = state.stage.name.startswith(ROUND.format("")) and isinstance(decoder, SegmentDecoder)
        return decoder if mine and decoder.ties is not None else None

    @staticmethod
    def _agreed(state: State, found: Any) -> Any:
        """What the first process found: sums on several devices may differ in their last digits."""
        return found if state.fabric is None else state.fabric.broadcast(found)

    @staticmethod
    def _named(state: State) -> dict[str, Tensor]:
        named = checkpoints.named_tensors({"model": state.model, "guide": state.guide})
        return {n: value for n, value in named.items() if value.requires_grad or n == "model.decoder.ties"}

    def _read(self, state: State, decoder: Any) -> tuple[Tensor, Tensor]:
        """What clips from all over the training rows say of segments that are not tied, and their sums of squares."""
        rows = state.data if isinstance(state.data, Clips) else state.data.sample()  # of clips on disk, some
        guide = self.system.guide
        ties = decoder.ties.clone()
        said, squares = [], []
        decoder.ties.copy_(torch.arange(decoder.segments))
        for index in torch.linspace(0, len(rows) - 1, min(self.clips, len(rows))).long().split(CHUNK):
            frames = pixels(rows.frames[index].to(ties.device))
            assert frames is not None
            known = frames.new_ones(frames.shape[:2]) if rows.mask is None else rows.mask[index].to(frames)
            encoded = guide.encode_frames(frames)[..., 2 * guide.pose + 2 * guide.blended :]
            said.append((encoded * known.unsqueeze(-1)).sum(1).cpu())
            squares.append((frames.square().sum((2, 3, 4)) * known).sum(1).cpu())
        decoder.ties.copy_(ties)
        return torch.cat(said).unflatten(-1, (decoder.segments, -1)), torch.cat(squares)

    def state_dict(self) -> dict[str, Any]:
        """Return the stage, the limit, and the pairs tried."""
        return {"stage": self.stage, "limit": self.limit, "tried": [list(pair) for pair in self.tried]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved memory."""
        self.stage, self.limit = state["stage"], state["limit"]
        self.tried = [(int(less), int(more)) for less, more in state["tried"]]

    def tensors(self) -> dict[str, Tensor]:
        """Return what is put back if the tie of the stage is not kept."""
        return self.before

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up saved parameters."""
        self.before = {name: value.clone() for name, value in tensors.items()}
