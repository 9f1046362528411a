"""Games as the engine trains on them: in memory, or on disk; of either a step reads the frames it uses and no more."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phlogiston.datasets.recording.store import RecordedGames

WHOLE = 256  # frames of the longest game up to which games are trained on whole
GROUP = 32  # games encoded together
MOST = 1 << 21  # numbers in the frames encoded at once


class GameRows:
    """Rows for the engine: a row is a game.

    Args:
        tensors: `frames` uint8 (rows, T, C, H, W), or floats; `action` int64 and `done` bool (rows, T), `length` int64
            (rows,); perhaps `reward` (rows, T).

    Attributes:
        length: frames of each game, int64 (rows,).
        longest: of all.
    """

    sequences: tuple[str, ...] = ()

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._count(tensors["length"])

    def _count(self, length: Tensor) -> None:
        self.length = length
        self.longest = int(length.max())
        self.starts = torch.cat([length.new_zeros(1), length.cumsum(0)])

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {"row": index, "length": self.length[index]}

    def frames(self, row: Tensor, step: Tensor) -> Tensor:
        """Frames of games (...), at steps (...): (..., C, H, W)."""
        return self.tensors["frames"][row, step]

    def labels(self, row: Tensor, first: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Actions, ends and rewards (n, steps) of games (n,), from steps (n,) on; 0 outside of a game."""
        step = first.unsqueeze(1) + torch.arange(steps)
        inside = (step >= 0) & (step < self.length[row].unsqueeze(1))
        step = torch.where(inside, step, 0)
        found = [
            torch.where(inside, self.tensors[name][row.unsqueeze(1), step], 0)
            for name in ("action", "done", "reward")
            if name in self.tensors
        ]
        return found[0], found[1], found[2] if len(found) > 2 else None

    def frame_size(self) -> int:
        """Numbers in a frame."""
        return int(self.tensors["frames"][0, 0].numel())

    def pieces(self) -> Iterator[Tensor]:
        """All frames in order, some games at a time, or parts of games where those are large."""
        most = max(1, MOST // self.frame_size())
        for i in range(0, len(self), GROUP):
            first, last = int(self.starts[i]), int(self.starts[min(i + GROUP, len(self))])
            for at in range(first, last, most):
                row, step = self.place(torch.arange(at, min(at + most, last)))
                yield self.frames(row, step)

    def place(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Game and step of frames counted through all games."""
        row = torch.searchsorted(self.starts, index, right=True) - 1
        return row, index - self.starts[row]


class RecordedRows(GameRows):
    """Games that stay on disk.

    Args:
        games: the recording.
    """

    def __init__(self, games: RecordedGames) -> None:
        self.games = games
        self._count(torch.from_numpy(games.lengths))

    def frames(self, row: Tensor, step: Tensor) -> Tensor:
        """See `GameRows.frames`."""
        flat = self.games.frames(row.reshape(-1).numpy(), step.reshape(-1).numpy())
        return torch.from_numpy(flat).reshape(*row.shape, *self.games.shape)

    def labels(self, row: Tensor, first: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `GameRows.labels`."""
        action, reward, done = self.games.labels(row.numpy(), first.numpy(), steps)
        return torch.from_numpy(action), torch.from_numpy(done), torch.from_numpy(reward).float()

    def frame_size(self) -> int:
        """See `GameRows.frame_size`."""
        channels, height, width = self.games.shape
        return channels * height * width
