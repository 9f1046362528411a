"""What VDSM does with clips: take them apart, put them together anew, go on, fill in, invent and score.

Clips become codes by the guide (`codes_of`), codes become poses by its chain or by the model's transitions, and poses
with a blend of experts become pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.base import System
from phlogiston.systems.calls import at_least, evaluating, seeded
from phlogiston.systems.vdsm.clips import check_frames, check_mask
from phlogiston.systems.vdsm.config import Config as VDSMConfig

CHUNK = 32  # clips looked at together


class ClipVerbs(System):
    """The verbs of VDSM; see there for what they take."""

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
        frames, known = self._clips(x, mask)
        found = self.codes_of(frames, known)
        found.pop("outputs")
        return found

    # ----- clips from codes ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _render(self, pose: Tensor, blend: Tensor) -> Tensor:
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
                raise ConfigError("the smoothing guide looks at the clip; it cannot make clips of another length")
            dynamics = codes["dynamics_loc"]
            if not means:
                dynamics = dynamics + codes["dynamics_scale"] * torch.randn_like(dynamics)
            chain = self.guide.pose_chain(dynamics, length, outputs)
            found: Tensor = chain.means() if means else chain.sample()
            return found

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
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        return self._render(self._mode(codes, mode, frames.shape[1], samples), codes["blend"])

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
        donors, known = self._clips(who)
        actors, also = self._clips(what)
        if len(donors) != len(actors):
            raise ShapeError(f"who has {len(donors)} clips, what {len(actors)}; they are taken row by row")
        codes = self.codes_of(actors, also)
        return self._render(self._mode(codes, mode, actors.shape[1]), self.codes_of(donors, known)["blend"])

    def swap_grid(self, x: Any, mode: Literal["frame", "sequence"] = "sequence") -> Tensor:
        """Every action with every person.

        Args:
            x: n clips.
            mode: as in `reconstruct`.

        Returns:
            (n, n, T, C, H, W): row i has the action of clip i, column j the person of clip j.
        """
        frames, known = self._clips(x)
        codes = self.codes_of(frames, known)
        n = len(frames)
        pose = self._mode(codes, mode, frames.shape[1]).repeat_interleave(n, 0)
        return self._render(pose, codes["blend"].repeat(n, 1)).unflatten(0, (n, n))

    def generate(self, x: Any, length: int, *, mask: Any = None) -> Tensor:
        """Go on with clips for as long as asked: the chain of poses runs freely from the inferred dynamics code.

        Args:
            x: clips, as in `encode`.
            length: frames to make, from the first on; may be more than the clips have.
            mask: frames that are known.

        Returns:
            (rows, length, C, H, W).
        """
        at_least("length", length, 1)
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        return self._render(self._poses(codes, length), codes["blend"])

    @torch.no_grad()
    def predict(
        self, x: Any, horizon: int, *, mask: Any = None, samples: bool = False, seed: int | None = None
    ) -> Tensor:
        """Say what follows clips: infer dynamics and poses, then let the *prior's* transitions run on.

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
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        pose = self._poses(codes, frames.shape[1])[:, -1]
        with seeded(seed):
            return self._render(self._roll(pose, codes["dynamics_loc"], horizon, samples), codes["blend"])

    @torch.no_grad()
    def rollout(self, x: Any, length: int, *, samples: bool = False, seed: int | None = None) -> Tensor:
        """Run the prior's transitions from the first pose of clips and their dynamics code: (rows, length, C, H, W)."""
        at_least("length", length, 1)
        frames, known = self._clips(x)
        codes = self.codes_of(frames, known)
        first = self._poses(codes, frames.shape[1])[:, :1]
        with seeded(seed):
            later = self._roll(first[:, 0], codes["dynamics_loc"], length - 1, samples) if length > 1 else first[:, :0]
        return self._render(torch.cat([first, later], 1), codes["blend"])

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
        frames, known = self._clips(x, mask)
        if known is None:
            raise ConfigError("infill needs a mask, True where a frame is known")
        made = self.reconstruct({"frames": frames}, mask=known)
        given = pixels(frames)
        assert given is not None
        return torch.where(known[:, :, None, None, None], given, made)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        length: int | None = None,
        identity: Any = None,
        dynamics: Any = None,
        prior: Literal["standard", "aggregate"] = "aggregate",
        chain: Literal["prior", "guide"] = "guide",
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Invent clips; either factor may be fixed: the same person in new actions, the same action by new people.

        Args:
            n: how many.
            length: frames of each; as many as the training clips had by default.
            identity: codes (K,) or (n, K), as `encode` gives in `identity_loc`; drawn if not given.
            dynamics: codes (D,) or (n, D), as in `dynamics_loc`; drawn if not given.
            prior: where what is not given is drawn from: the model's own prior, or the mixture fitted to the training
                clips' codes.
            chain: how poses follow from the dynamics: by the model's first pose and transitions, or by the guide's
                free-running chain, whose first pose knows the dynamics.
            seed: of this call; None draws from torch's generator.

        Returns:
            `frames` (n, length, C, H, W), means of pixels; `identity` (n, K), `dynamics` (n, D).

        Raises:
            ConfigError: no such prior, or codes of another size.
        """
        self._need_fit()
        at_least("n", n, 1)
        length = length if length is not None else self.schema["length"]
        at_least("length", length, 1)
        if prior not in ("standard", "aggregate"):
            raise unknown_name("prior", prior, ("standard", "aggregate"))
        if chain not in ("prior", "guide"):
            raise unknown_name("chain", chain, ("prior", "guide"))
        model = self.model
        with seeded(seed), evaluating(model, self.guide):
            who = self._given("identity", identity, n, self.config.experts)
            what = self._given("dynamics", dynamics, n, self.config.dynamics)
            standard = prior == "standard" or self.config.identity != "continuous"
            if who is None:
                who = (model.identity_prior() if standard else model.identity_codes.law()).sample((n,))
            if what is None:
                what = (model.dynamics_prior() if prior == "standard" else model.dynamics_codes.law()).sample((n,))
            law = model.pose_prior(what, length) if chain == "prior" else self.guide.pose_chain(what, length)
            pose = law.sample() if chain == "prior" else law.means()
            return {"frames": self._render(pose, model.blend(who)), "identity": who, "dynamics": what}

    def _given(self, name: str, code: Any, n: int, size: int) -> Tensor | None:
        if code is None:
            return None
        value = torch.as_tensor(code, dtype=torch.float32)
        if value.shape not in ((size,), (n, size)):
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; expected ({size},) or ({n}, {size})")
        return value.expand(n, size)

    @torch.no_grad()
    def log_prob(self, x: Any, *, mask: Any = None, n_samples: int = 50, seed: int = 0) -> Score:  # type: ignore[override]
        """Bound the log density of clips from below by importance sampling from the guide.

        Args:
            x: clips, as in `encode`.
            mask: frames that are known; only they are scored.
            n_samples: draws per clip.
            seed: of the draws.

        Returns:
            Scores (rows,), nats per clip. With the Bernoulli likelihood grey pixels are soft targets: the figure is a
            cross-entropy then, which has a floor (`entropy_floor`), and no log density.

        Raises:
            ConfigError: fewer than one sample.
        """
        from phlogiston.inference.svi.objectives import IWAE

        at_least("n_samples", n_samples, 1)
        frames, known = self._clips(x, mask)
        if self.config.identity != "continuous":
            raise ConfigError("log_prob needs a continuous identity; one-hot ones are not reparameterised")
        keys = row_keys(*((frames,) if known is None else (frames, known)), valid=known, seed=seed).tolist()
        found, errors = [], []
        bound = IWAE(num_particles=n_samples, max_plate_nesting=2 + int(n_samples > 1))
        with seeded(seed), evaluating(self.model, self.guide):
            for i, key in enumerate(keys):
                batch: dict[str, Any] = {"frames": pixels(frames[i : i + 1])}
                if known is not None:
                    batch["mask"] = known[i : i + 1]
                torch.manual_seed(key)  # a clip's own, so that its score does not depend on the others
                weights, _ = bound.log_weights(self.model, self.guide, **batch)
                value, error = mean_and_error(weights.double())
                found.append(value)
                errors.append(error)
        return Score(torch.cat(found), "lower bound", torch.cat(errors) if n_samples > 1 else None)

    # ----- inside ---------------------------------------------------------------------------------------------------

    def _clips(self, x: Any, mask: Any = None) -> tuple[Tensor, Tensor | None]:
        """Clips in any accepted form, checked; and their mask."""
        self._need_fit()
        if isinstance(x, Dataset):
            x = held_out(x)
        if isinstance(x, Split | Mapping):
            tensors = x.tensors if isinstance(x, Split) else {k: torch.as_tensor(v) for k, v in x.items()}
            mask = tensors.get("mask") if mask is None else mask
            frames = self._frames(tensors)
        else:
            frames = check_frames(torch.as_tensor(x), self.schema)
        return frames, check_mask(mask, frames)

    def _frames(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if "frames" not in tensors:
            raise ShapeError(f"VDSM needs clips: a tensor 'frames' (rows, T, C, H, W); the data hold {sorted(tensors)}")
        return check_frames(tensors["frames"], self.schema or None)
