"""VDSM's path through the query interface: the guide proposes from the known frames, importance weights correct.

Sites are `identity` (K), `dynamics` (D), `pose` (T, Z) and `frames` (T, C, H, W), all of one clip; `batch` may hold one
clip that is known, in whole or (with `mask`) in part. Known entries come back as they are, everything else in agreement
with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from phlogiston.arrays import tensor_of
from phlogiston.errors import ConfigError, ShapeError
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import Evidence, normalise
from phlogiston.models.vdsm import VDSM
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.frames import fit_frames


class OneClip(nn.Module):
    """A program of one clip, known or not: what `inference.query.ask` runs.

    Args:
        program: model or guide.
        length: frames of the clip.
    """

    def __init__(self, program: nn.Module, length: int) -> None:
        super().__init__()
        self.program, self.length = program, length

    def forward(self, frames: Any = None, mask: Any = None) -> Any:
        """Run the program on one clip, known or not."""
        return self.program(frames, mask, rows=1, length=self.length)


def query_clip(
    model: VDSM,
    guide: VDSMGuide,
    length: int,
    evidence: Any = None,
    ask: Sequence[str] | None = None,
    num_samples: int = 100,
    *,
    batch: Mapping[str, Any] | None = None,
    **options: Any,
) -> Answer:
    """Sample sites of a clip given evidence about others.

    Args:
        model: the generative program.
        guide: proposes where the batch holds frames.
        length: frames of a clip that is not known.
        evidence: by site, see `inference.query.evidence`; about `frames` in their own shape or flattened.
        ask: sites to return; all that are not in the batch by default.
        num_samples: how many.
        batch: `frames` (T, C, H, W) or (1, T, C, H, W) and `mask` (T,) or (1, T) of a clip that is known.
        **options: of `inference.query.ask.query`.

    Raises:
        ConfigError: a pair with one-hot identities, or a site per pose.
        ShapeError: a batch of more than one clip; ask about one at a time.
        DataError: values that are no pixels.
        EvidenceError: malformed or impossible evidence.
    """
    if model.identity_kind != "continuous" or model.chain_kind != "fused":
        raise ConfigError("queries need a continuous identity and a fused chain")
    known, question = None, dict(normalise(evidence))
    if batch is not None and batch.get("frames") is not None:
        frames, mask = tensor_of("frames", batch["frames"]), batch.get("mask")
        frames = frames if frames.ndim == 5 else frames.unsqueeze(0)
        if frames.ndim != 5 or len(frames) != 1:
            raise ShapeError(f"batch['frames'] has shape {tuple(frames.shape)}; ask about one clip at a time")
        known = {"frames": pixels(fit_frames(frames))}
        if mask is not None:
            known["mask"] = torch.as_tensor(mask).reshape(1, -1)
        length = frames.shape[1]
    if "frames" in question:
        question["frames"] = tuple(_flat(piece) for piece in question["frames"])
    answer = query(
        OneClip(model, length),
        OneClip(guide, length) if known is not None else None,
        question,
        ask,
        num_samples,
        batch=known,
        **options,
    )
    # one clip: the axes of clips and frames that plates left in the values go
    event = {"identity": 1, "dynamics": 1, "pose": 2, "frames": 4}
    samples = {n: v.reshape(len(v), *v.shape[v.ndim - event[n] :]) for n, v in answer.samples.items()}
    return replace(answer, samples=samples)


def _flat(piece: Evidence) -> Evidence:
    """A piece about frames (..., T, C, H, W) with their axes made one."""
    values = {field: getattr(piece, field) for field in piece.fields}
    flat = {k: v.flatten(-4) if isinstance(v, Tensor) and v.dim() >= 4 else v for k, v in values.items()}
    return type(piece)(**flat)
