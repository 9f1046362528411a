"""What training a deep residual mixture needs beside the engine: revival of unused components, a record of depths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phlogiston.inference.svi.batches import LARGE
from phlogiston.models.drmm import DRMM


class DeadComponents:
    """Engine callback: components that no row uses are moved to rows the model explains badly.

    Every `every` steps, and not in the last `quiet` part of training, responsibilities are computed on a fixed-size
    draw of training rows. A component whose share is below `threshold / K` restarts at the residual of a badly
    explained row; its optimiser state is cleared. The perplexity of each layer's use is logged as `usage_l`.

    The draw depends on seed and step alone, so resumed runs and every process do the same.

    Args:
        every: steps between checks.
        rows: rows drawn per check.
        threshold: share of a fair share below which a component counts as dead.
        quiet: last part of training without revivals, as a fraction.
        width: beam width of the responsibilities.
        seed: of the draws.
    """

    def __init__(
        self,
        every: int = 250,
        rows: int = 4096,
        threshold: float = 1e-4,
        quiet: float = 0.4,
        width: int = 8,
        seed: int = 0,
    ) -> None:
        self.every, self.rows, self.threshold, self.quiet = every, rows, threshold, quiet
        self.width, self.seed = width, seed
        self.revived = 0

    def state_dict(self) -> dict[str, Any]:
        """How many components were revived so far."""
        return {"revived": self.revived}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.revived = int(state.get("revived", 0))

    @torch.no_grad()
    def on_step(self, state: Any) -> None:
        """Check and revive when the step is due."""
        if state.step % self.every or state.step == 0 or state.progress > 1 - self.quiet:
            return
        model: DRMM = state.model.model
        generator = torch.Generator().manual_seed(hash((self.seed, state.step)) % (2**31))
        total = len(state.data)
        index = torch.randperm(total, generator=generator)[: self.rows] if total < LARGE else None
        index = torch.randint(total, (self.rows,), generator=generator) if index is None else index
        batch = {k: v.to(model.location.device) for k, v in state.data[index].items()}
        x, mask = batch["x"], batch.get("mask")
        beam = model.find(x, width=self.width, mask=mask, streams=model.labels(batch))
        posterior = beam.log_posterior().exp()
        worst = beam.nested[:, -1].argsort()[: max(1, len(x) // 20)]
        u = model.standardise(x, mask)
        best = beam.codes.gather(1, posterior.argmax(-1)[:, None, None].expand(-1, 1, beam.codes.shape[-1])).squeeze(1)
        for l, frame in enumerate(model.frames):
            k = frame.num_components
            share = torch.zeros(k, device=u.device, dtype=u.dtype)
            share.index_put_((beam.codes[..., l].flatten(),), posterior.flatten().to(share), accumulate=True)
            share = share / share.sum()
            state.metrics[f"usage_{l + 1}"] = float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))
            dead = (share < self.threshold / k).nonzero()[:, 0].tolist()
            for i, component in enumerate(dead):
                row = worst[(i * 7919 + l) % len(worst)]
                frame.revive(component, u[row] if mask is None else u[row] * mask[row])
                model.prior.revive(l, component)
                self._forget(
                    state.optimizer,
                    [frame.mean, frame.log_scale, *(getattr(frame, name, None) for name in ("lower", "loadings"))],
                    component,
                )
            self.revived += len(dead)
            u = frame.whiten(u, best[:, l])

    @staticmethod
    def _forget(optimizer: torch.optim.Optimizer, parameters: list[Tensor | None], component: int) -> None:
        for parameter in parameters:
            for value in optimizer.state.get(parameter, {}).values() if parameter is not None else ():
                if (
                    torch.is_tensor(value)
                    and parameter is not None
                    and value.shape == parameter.shape
                    and value.dim() > 1
                ):
                    value[component] = 0.0


class DepthMonitor:
    """Engine callback: logs the mean log density after each depth as `log_prob_1`, `log_prob_2`, ...

    The training loss itself mixes all depths with weights that change while training goes on, so its curve says little.

    Args:
        every: steps between records.
        rows: training rows scored, the same ones each time.
        width: beam width.
    """

    def __init__(self, every: int = 50, rows: int = 512, width: int = 8) -> None:
        self.every, self.rows, self.width = every, rows, width

    @torch.no_grad()
    def on_step(self, state: Any) -> None:
        """Record when the step is due."""
        if state.step % self.every:
            return
        model: DRMM = state.model.model
        count = min(self.rows, len(state.data))
        index = torch.arange(count) * (len(state.data) - 1) // max(count - 1, 1)  # float32 cannot count so far
        batch = {k: v.to(model.location.device) for k, v in state.data[index].items()}
        mask = batch.get("mask")
        nested = model.find(batch["x"], width=self.width, mask=mask).nested
        nested = nested + model.log_jacobian(mask, batch["x"]).unsqueeze(-1)
        for l, value in enumerate(nested.mean(0).tolist()):
            state.metrics[f"log_prob_{l + 1}"] = value
