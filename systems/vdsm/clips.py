"""What VDSM does with clips: take them apart, put them together anew, continue them, fill them in.

Clips become codes by the guide (`codes_of`), codes become poses by its chain or by the model's transitions, and poses
with a blend of experts become pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from phlogiston.arrays import at_least, tensor_of
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.evaluate.held_out import held_out
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.base import System
from phlogiston.systems.calls import evaluating, seeded
from phlogiston.systems.frames import fit_frames
from phlogiston.systems.vdsm.config import Config as VDSMConfig

CHUNK = 32  # clips encoded or rendered at once


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse what is no batch of clips, or clips of another form.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no clips, or values outside [0, 1].
    """
    if frames.ndim != 5:
        advice = " Grey clips (rows, T, H, W): frames[:, :, None]" if frames.ndim == 4 else ""
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W).{advice}")
    if frames.shape[2] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, 2)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one clip of one frame is needed")
    return fit_frames(frames, schema)


def frames_of(tensors: Mapping[str, Tensor], schema: Mapping[str, Any] | None = None) -> Tensor:
    """Take the frames out of tensors by name, checked like `check_frames` does.

    Raises:
        ShapeError: there are none.
    """
    if "frames" not in tensors:
        raise ShapeError(
            f"VDSM needs clips: a tensor 'frames' (rows, T, C, H, W); the data hold {sorted(tensors)}. A video, a "
            "folder of videos or an npz with 'frames' is read by its path, --data PATH."
        )
    return check_frames(tensors["frames"], schema)


def check_mask(mask: Any, frames: Tensor) -> Tensor | None:
    """Refuse a mask that does not fit.

    Raises:
        ShapeError: another shape.
        DataError: not bool, or a clip without a known frame.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise DataError(f"mask holds {mask.dtype} values; expected bool, True where a frame is known")
    if mask.shape != frames.shape[:2]:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected (rows, T) = {tuple(frames.shape[:2])}")
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise DataError(f"mask: clip {row} has no known frame")
    return None if bool(mask.all()) else mask


class ClipOperations(System):
    """The operations of VDSM on clips; see there for what they take."""

    config: VDSMConfig
    model: VDSMModel
    guide: VDSMGuide

    # ----- codes --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def codes_of(
        self, frames: Tensor, mask: Tensor | None = None, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Codes of clips that have been checked; see `encode`."""
        with evaluating(self.model, self.guide):
            parts = []
            for i in range(0, len(frames), CHUNK):
                block = frames[i : i + CHUNK].to(device) if device is not None else frames[i : i + CHUNK]
                known = None if mask is None else mask[i : i + CHUNK].to(block.device)
                encoded = self.guide.encode_frames(block)
                who, spread = self.guide.pool_identity(encoded, known)
                what, width, outputs = self.guide.read(encoded, known)
                z = self.config.pose
                parts.append(
                    {
                        "identity_loc": who,
                        "identity_scale": spread,
                        "blend": self._blend(who),
                        "dynamics_loc": what,
                        "dynamics_scale": width,
                        "pose_loc": encoded[..., :z],
                        "pose_scale": encoded[..., z : 2 * z],
                        "outputs": outputs,
                    }
                )
            return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def _blend(self, identity_loc: Tensor) -> Tensor:
        """Blend weights of the most probable identity."""
        if self.config.identity == "continuous":
            return self.model.blend(identity_loc)
        return torch.nn.functional.one_hot(identity_loc.argmax(-1), self.config.experts).to(identity_loc.dtype)

    def encode(self, x: Any, mask: Any = None) -> dict[str, Tensor]:
        """Take clips apart.

        Args:
            x: a dataset (its test rows), a split, a dict with `frames`, or clips (rows, T, C, H, W); `T` may be any.
            mask: bool (rows, T), True where a frame is known; what other frames hold has no influence.

        Returns:
            `identity_loc`, `identity_scale` (rows, K); `blend` (rows, K), the experts' weights; `dynamics_loc`,
            `dynamics_scale` (rows, D); `pose_loc`, `pose_scale` (rows, T, Z), of each frame by itself.

        Raises:
            ShapeError, DataError: clips of another form than the system was trained on.
        """
        frames, known = self.clips(x, mask)
        codes = self.codes_of(frames, known)
        codes.pop("outputs")
        return codes

    # ----- clips from codes ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def render(self, pose: Tensor, blend: Tensor) -> Tensor:
        """Pictures (rows, T, C, H, W) of poses (rows, T, Z) with experts blended by (rows, K)."""
        with evaluating(self.model):
            parts = [
                self.model.picture(self.model.decoder(z, w))
                for z, w in zip(pose.split(CHUNK), blend.split(CHUNK), strict=True)
            ]
        return torch.cat(parts)

    @torch.no_grad()
    def _poses(
        self, codes: Mapping[str, Tensor], length: int, means: bool = True, mask: Tensor | None = None
    ) -> Tensor:
        """Poses re-created from the dynamics code alone (or with a smoothing guide from the clip): (rows, T, Z)."""
        with evaluating(self.guide):
            outputs = codes.get("outputs")
            if self.config.pose_guide == "smoothing" and outputs is not None and outputs.shape[1] != length:
                raise ConfigError("the smoothing guide reads the clip itself; it cannot make clips of another length")
            dynamics = codes["dynamics_loc"]
            if not means:
                dynamics = dynamics + codes["dynamics_scale"] * torch.randn_like(dynamics)
            chain = self.guide.pose_chain(dynamics, length, outputs)
            poses: Tensor = chain.means() if means else chain.sample()
            return poses

    def reconstruct(
        self, x: Any, mode: Literal["frame", "sequence"] = "sequence", *, mask: Any = None, samples: bool = False
    ) -> Tensor:
        """Make clips again from their codes.

        Args:
            x: clips, as in `encode`.
            mode: "frame": poses by the frame encoder; "sequence": poses re-created from the dynamics code.
            mask: frames that are known.
            samples: draw dynamics and poses instead of taking their locations.

        Returns:
            (rows, T, C, H, W), means of pixels in [0, 1].
        """
        frames, known = self.clips(x, mask)
        codes = self.codes_of(frames, known)
        return self.render(self._mode(codes, mode, frames.shape[1], samples), codes["blend"])

    def _mode(self, codes: Mapping[str, Tensor], mode: str, length: int, samples: bool = False) -> Tensor:
        if mode == "frame":
            return codes["pose_loc"]
        if mode != "sequence":
            raise unknown_name("mode", mode, ("frame", "sequence"))
        return self._poses(codes, length, means=not samples)

    def swap(self, who: Any, what: Any, mode: Literal["frame", "sequence"] = "sequence") -> Tensor:
        """Show the people of some clips in the actions of others, row by row.

        Args:
            who: clips that give the identity.
            what: clips that give dynamics and poses; as many.
            mode: as in `reconstruct`.

        Returns:
            (rows, T, C, H, W).

        Raises:
            ShapeError: not as many.
        """
        donors, known = self.clips(who)
        actors, also = self.clips(what)
        if len(donors) != len(actors):
            raise ShapeError(f"who has {len(donors)} clips, what {len(actors)}; they are taken row by row")
        codes = self.codes_of(actors, also)
        return self.render(self._mode(codes, mode, actors.shape[1]), self.codes_of(donors, known)["blend"])

    def swap_grid(self, x: Any, mode: Literal["frame", "sequence"] = "sequence") -> Tensor:
        """Every action with every person.

        Args:
            x: n clips.
            mode: as in `reconstruct`.

        Returns:
            (n, n, T, C, H, W): row i has the action of clip i, column j the person of clip j.
        """
        frames, known = self.clips(x)
        codes = self.codes_of(frames, known)
        n = len(frames)
        pose = self._mode(codes, mode, frames.shape[1]).repeat_interleave(n, 0)
        return self.render(pose, codes["blend"].repeat(n, 1)).unflatten(0, (n, n))

    def generate(self, x: Any, length: int, *, mask: Any = None) -> Tensor:
        """Continue clips to any length: the chain of poses runs freely from the inferred dynamics code.

        Args:
            x: clips, as in `encode`.
            length: frames to make, from the first on; may be more than the clips have.
            mask: frames that are known.

        Returns:
            (rows, length, C, H, W).
        """
        at_least("length", length, 1)
        frames, known = self.clips(x, mask)
        codes = self.codes_of(frames, known)
        return self.render(self._poses(codes, length), codes["blend"])

    @torch.no_grad()
    def predict(
        self, x: Any, horizon: int, *, mask: Any = None, samples: bool = False, seed: int | None = None
    ) -> Tensor:
        """Predict what follows clips: infer dynamics and poses, then let the *prior's* transitions run on.

        Args:
            x: the first frames of clips, as in `encode`.
            horizon: frames to add.
            mask: frames that are known.
            samples: draw each step instead of taking its location.
            seed: of the draws.

        Returns:
            (rows, horizon, C, H, W), what comes after the frames of `x`.
        """
        at_least("horizon", horizon, 1)
        frames, known = self.clips(x, mask)
        codes = self.codes_of(frames, known)
        pose = self._poses(codes, frames.shape[1])[:, -1]
        with seeded(seed):
            return self.render(self._roll(pose, codes["dynamics_loc"], horizon, samples), codes["blend"])

    @torch.no_grad()
    def rollout(self, x: Any, length: int, *, samples: bool = False, seed: int | None = None) -> Tensor:
        """Run the prior's transitions from the first pose of clips and their dynamics code: (rows, length, C, H, W)."""
        at_least("length", length, 1)
        frames, known = self.clips(x)
        codes = self.codes_of(frames, known)
        first = self._poses(codes, frames.shape[1])[:, :1]
        with seeded(seed):
            later = self._roll(first[:, 0], codes["dynamics_loc"], length - 1, samples) if length > 1 else first[:, :0]
        return self.render(torch.cat([first, later], 1), codes["blend"])

    def _roll(self, pose: Tensor, dynamics: Tensor, steps: int, samples: bool) -> Tensor:
        with evaluating(self.model):
            path = []
            for _ in range(steps):
                pose, scale = self.model.transition(pose, dynamics)
                pose = pose + scale * torch.randn_like(pose) if samples else pose
                path.append(pose)
            return torch.stack(path, 1)

    def infill(self, x: Any, mask: Any) -> Tensor:
        """Fill in missing frames: known ones come back as they are, the others from the codes of the known ones.

        Args:
            x: clips; what missing frames hold has no influence.
            mask: bool (rows, T), True where a frame is known.

        Returns:
            (rows, T, C, H, W).
        """
        frames, known = self.clips(x, mask)
        if known is None:
            raise ConfigError("infill needs a mask, True where a frame is known")
        made = self.reconstruct({"frames": frames}, mask=known)
        given = pixels(frames)
        assert given is not None
        return torch.where(known[:, :, None, None, None], given, made)

    # ----- clips that come in ------------------------------------------------------------------------------------

    def clips(self, x: Any, mask: Any = None) -> tuple[Tensor, Tensor | None]:
        """Read clips in any accepted form, checked, and their mask (None where every frame is known); see `encode`."""
        self._need_fit()
        if isinstance(x, Dataset):
            x = held_out(x)
        if isinstance(x, Split | Mapping):
            tensors = x.tensors if isinstance(x, Split) else {name: tensor_of(name, value) for name, value in x.items()}
            mask = tensors.get("mask") if mask is None else mask
            frames = frames_of(tensors, self.schema)
        else:
            frames = check_frames(tensor_of("frames", x), self.schema)
        return frames, check_mask(mask, frames)
