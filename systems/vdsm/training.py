"""How VDSM reads its training clips: pairs of one individual, frames drawn from them, codes of a frozen encoder."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import DataError
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.inference.svi.callbacks import State
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.vdsm.clips import ClipOperations


class Clips:
    """Rows for the engine: a row is a clip, paired with another clip of the same individual where there are groups.

    Args:
        frames: uint8 (rows, T, C, H, W).
        mask: bool (rows, T), True where a frame is known, or None.
        group: int64 (rows,), who is seen; None for clips without partners.
    """

    sequences: tuple[str, ...] = ()

    def __init__(self, frames: Tensor, mask: Tensor | None = None, group: Tensor | None = None) -> None:
        self.frames, self.mask, self.paired = frames, mask, group is not None
        if group is not None:  # rows sorted by group; per row: its position there, where its group starts, how large
            self.order = group.argsort(stable=True)
            _, counts = group[self.order].unique_consecutive(return_counts=True)
            self.start = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            self.count = counts.repeat_interleave(counts)
            self.position = self.order.argsort()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        out = {"frames": self.frames[index], "row": index}
        if self.mask is not None:
            out["mask"] = self.mask[index]
        if self.paired:
            other = self._partners(index)
            out["partner"] = self.frames[other]
            if self.mask is not None:
                out["partner_mask"] = self.mask[other]
        return out

    def _partners(self, index: Tensor) -> Tensor:
        """Another clip of the same group, drawn at random; the clip itself where it is alone."""
        position = self.position[index]
        start, count = self.start[position], self.count[position]
        step = 1 + (torch.rand(len(index)) * (count - 1)).long().clamp(max=(count - 2).clamp(min=0))
        return self.order[start + (position - start + step) % count]


class DrawFrames:
    """Batch of stage 1: some frames of each clip, drawn at random among those known.

    Where clips have partners, frames of the partner are drawn as well, for the identity to be read from (`who`); or
    other frames of the clip itself.

    Args:
        count: how many; 0 for all.
        share: of so many frames, drawn from the partner or the rest of the clip.
        recolour: how strongly the frames that poses are read from are recoloured (`posed`); see `recoloured`. 0: not
            at all.
        others: draw `who` from the rest of the clip, where there is no partner.
    """

    def __init__(self, count: int, share: float = 0.5, recolour: float = 0.0, others: bool = False) -> None:
        self.count, self.share, self.recolour, self.others = count, share, recolour, others

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        about = {"transform": "frames of clips, identity from partners", "count": self.count, "share": self.share}
        about = {**about, "recolour": self.recolour} if self.recolour else about
        return {**about, "others": True} if self.others else about

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = batch.get("mask")
        length = batch["frames"].shape[1]
        count = min(self.count or length, length)
        shown = max(1, math.ceil(self.share * count))
        apart = self.others and "partner" not in batch
        frames, known, rest = _draw(batch["frames"], mask, count, shown if apart else 0)
        out = {"frames": frames} if known is None else {"frames": frames, "mask": known}
        if "partner" in batch:
            partner_mask = batch.get("partner_mask")
            if partner_mask is not None:  # as many as every partner has
                shown = min(shown, int(partner_mask.sum(1).min()))
            out["who"] = _draw(batch["partner"], partner_mask, shown)[0]
        elif apart:
            out["who"] = rest
        if self.recolour:
            out["posed"] = recoloured(out["frames"], self.recolour)
        return out


def recoloured(frames: Tensor, strength: float) -> Tensor:
    """Change the colours of clips at random, each clip in its own way, and leave shapes and movements as they are.

    Channels are permuted; each is then dimmed and bent, x -> a x^g with log g ~ U(-s, s) and log a ~ U(-s, 0). Clips
    as they were are among the outcomes. Black stays black, and a colour stays the same colour all over a clip.

    Args:
        frames: (rows, T, C, H, W), floats in [0, 1].
        strength: `s`.

    Returns:
        The same shape.
    """
    rows, _, channels = frames.shape[:3]
    permuted = torch.rand(rows, channels, device=frames.device).argsort(1)
    mixed = frames[torch.arange(rows, device=frames.device).unsqueeze(1), :, permuted].transpose(1, 2)
    shape = (rows, 1, channels, 1, 1)
    bend = (strength * (2.0 * torch.rand(shape, device=frames.device) - 1.0)).exp()
    dim = (-strength * torch.rand(shape, device=frames.device)).exp()
    return dim * mixed.clamp(0.0, 1.0) ** bend


def _draw(frames: Tensor, mask: Tensor | None, count: int, more: int = 0) -> tuple[Tensor, Tensor | None, Tensor]:
    """Draw frames, known ones first.

    Args:
        frames: (rows, T, C, H, W).
        mask: bool (rows, T), True where a frame is known, or None.
        count: how many.
        more: how many of the others besides; known ones, and where these do not suffice, of those drawn already.

    Returns:
        Floats (rows, count, C, H, W); which of them are known, or None; and floats (rows, more, C, H, W).
    """
    rows, length = frames.shape[:2]
    if count == length and not more:
        drawn = pixels(frames)
        assert drawn is not None
        return drawn, mask, drawn[:, :0]
    order = torch.rand(rows, length, device=frames.device)
    if mask is not None:
        order = order.masked_fill(~mask, 2.0)
    order = order.argsort(1)
    available = torch.full((rows, 1), length, device=frames.device) if mask is None else mask.sum(1, keepdim=True)
    later = order.gather(1, (count + torch.arange(more, device=frames.device)) % available)
    each = torch.arange(rows, device=frames.device).unsqueeze(1)
    chosen = order[:, :count]
    drawn, others = pixels(frames[each, chosen]), pixels(frames[each, later])
    assert drawn is not None
    assert others is not None
    return drawn, None if mask is None else mask.gather(1, chosen), others


class Codes:
    """Batch of stage 2: frames with their codes by the frozen encoder, computed once per clip.

    Args:
        guide: has the encoder.
        chunk: frames encoded at once.
    """

    takes_rows = True

    def __init__(self, guide: VDSMGuide, chunk: int = 160) -> None:
        self.guide, self.chunk = guide, chunk
        self._codes: WeakKeyDictionary[Clips, Tensor] = WeakKeyDictionary()

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        return {"transform": "codes of the frozen encoder"}

    def __call__(self, batch: dict[str, Tensor], clips: Clips) -> dict[str, Tensor]:
        frames = pixels(batch["frames"])
        assert frames is not None
        held = isinstance(clips, Clips)  # of clips on disk, codes are made when they are read
        encoded = self._encoded(clips, frames.device)[batch["row"]] if held else self._encode(frames)
        out = {"frames": frames, "encoded": encoded}
        return {**out, "mask": batch["mask"]} if "mask" in batch else out

    def _encoded(self, clips: Clips, device: torch.device) -> Tensor:
        """Codes of all clips, (rows, T, 2 Z + 2 K), in full precision wherever they are first needed."""
        if clips not in self._codes:
            chunk = max(1, self.chunk // clips.frames.shape[1])
            self._codes[clips] = torch.cat([self._encode(block.to(device)) for block in clips.frames.split(chunk)])
        return self._codes[clips]

    def _encode(self, frames: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            return self.guide.encode_frames(frames)


def plain(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch of stage 3: frames alone."""
    frames = pixels(batch["frames"])
    assert frames is not None
    return {"frames": frames, "mask": batch["mask"]} if "mask" in batch else {"frames": frames}


class Aggregate:
    """Engine callback: at the end, fit mixtures of Gaussians to the training clips' codes, as a prior to sample from.

    Args:
        system: whose codes.
    """

    def __init__(self, system: ClipOperations) -> None:
        self.system = system

    def on_checkpoint(self, state: State) -> None:
        """Fit before the last checkpoint is written."""
        if state.step == state.total:
            model = self.system.model
            clips = state.data if isinstance(state.data, Clips) else state.data.sample()  # of clips on disk, some
            device = next(model.parameters()).device
            codes = self.system.codes_of(clips.frames, clips.mask, device)
            for name, mixture in (("identity", model.identity_codes), ("dynamics", model.dynamics_codes)):
                fitted = fit_mixture(codes[f"{name}_loc"], self.system.config.aggregate)
                mixture.set(*(value.to(device) for value in fitted))


def fit_mixture(codes: Tensor, components: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture of Gaussians with full covariances.

    Args:
        codes: (n, d).
        components: at most this many; fewer where there are few codes.
        seed: of the start.

    Returns:
        Weights (m,), means (m, d) and Cholesky factors (m, d, d).

    Raises:
        DataError: fewer than two codes.
    """
    from sklearn.mixture import GaussianMixture

    rows = codes.detach().cpu().double().numpy()
    if len(rows) < 2:
        raise DataError("an aggregate prior needs at least two training clips.")
    spread = float(rows.var(0).mean()) or 1.0
    count = max(1, min(components, len(rows) // (2 * rows.shape[1])))
    mixture = GaussianMixture(count, covariance_type="full", reg_covar=1e-3 * spread, random_state=seed, max_iter=200)
    mixture.fit(rows)
    parts = (mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_))
    weights, means, factors = (torch.from_numpy(part).float() for part in parts)
    return weights, means, factors
