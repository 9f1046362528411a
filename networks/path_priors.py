"""Priors over component paths `z = (z_1, ..., z_L)`, one component per layer of a deep residual mixture.

Both answer the one question of sampling, scoring and beams: given the codes so far, how probable is each
component of the next layer?
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class AutoregressivePrior(nn.Module):
    """`z_l ~ Categorical(logits = a_l + sum_{j < l} A_{l,j}[z_j])`: ancestral, normalised over `K_l` alone.

    Args:
        sizes: components per layer, `(K_1, ..., K_L)`.
        order: how many previous codes each layer reads; None for all of them.
    """

    def __init__(self, sizes: Sequence[int], order: int | None = None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.order = len(self.sizes) if order is None else order
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(k)) for k in self.sizes)
        self.tables = nn.ParameterDict(
            {
                f"{layer}_{previous}": nn.Parameter(0.01 * torch.randn(self.sizes[previous], self.sizes[layer]))
                for layer in range(len(self.sizes))
                for previous in range(max(0, layer - self.order), layer)
            }
        )

    def log_conditional(self, codes: Tensor) -> Tensor:
        """Log p(z_l | z_<l).

        Args:
            codes: int64 (..., l - 1), the codes so far (possibly none).

        Returns:
            (..., K_l), normalised; (K_l,) when there are no codes yet, whatever the batch.
        """
        layer = codes.shape[-1]
        logits: Tensor = self.bias[layer]
        for previous in range(max(0, layer - self.order), layer):
            logits = logits + functional.embedding(codes[..., previous], self.tables[f"{layer}_{previous}"])
        return logits.log_softmax(-1)

    def log_prior(self) -> Tensor:
        """Log density of the tables under N(0, 1), up to a constant: the MAP penalty. Shape ()."""
        total = self.bias[0].new_zeros(())
        for table in self.tables.values():
            total = total - 0.5 * table.square().sum()
        return total

    def reads_previous(self, layer: int) -> bool:
        """Whether a layer's distribution has a table of the code before it, which `place` can set."""
        return f"{layer}_{layer - 1}" in self.tables

    @torch.no_grad()
    def place(self, layer: int, proportions: Tensor, conditional: Tensor | None = None) -> None:
        """Start a layer's marginal at these proportions (K,), or given the code before at `conditional` (K_prev, K)."""
        self.bias[layer].copy_(proportions.log())
        if conditional is not None:
            self.tables[f"{layer}_{layer - 1}"].copy_(conditional.log() - proportions.log())

    @torch.no_grad()
    def revive(self, layer: int, component: int) -> None:
        """Give one component a fair share of its layer again."""
        self.bias[layer][component] = self.bias[layer].mean()
        for name, table in self.tables.items():
            at, previous = (int(part) for part in name.split("_"))
            if at == layer:
                table[:, component] = 0.0
            elif previous == layer:
                table[component] = 0.0


class LatentClassPrior(nn.Module):
    """`p(z) = w[z_L] prod_{j < L} B_j[z_L, z_j]`: the codes are independent given the last one.

    This is the distribution of paths that the original implementation's density implies, written as a proper joint.

    Args:
        sizes: components per layer, `(K_1, ..., K_L)`.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.weight = nn.Parameter(torch.zeros(self.sizes[-1]))
        self.tables = nn.ParameterList(nn.Parameter(0.01 * torch.randn(self.sizes[-1], k)) for k in self.sizes[:-1])

    def log_conditional(self, codes: Tensor) -> Tensor:
        """Log p(z_l | z_<l), by summing the last code out. Shapes as in `AutoregressivePrior.log_conditional`."""
        layer = codes.shape[-1]
        given_class = self.weight.log_softmax(-1)
        for previous in range(layer):
            log_rows = self.tables[previous].log_softmax(-1)  # (C, K_j)
            given_class = given_class + functional.embedding(codes[..., previous], log_rows.T)
        given_class = given_class.log_softmax(-1)  # (..., C), the class posterior
        if layer == len(self.sizes) - 1:
            return given_class
        rows = self.tables[layer].softmax(-1)
        # A matrix product of probabilities, floored: a class posterior of 1e-38 carries no gradient worth keeping.
        return (given_class.exp() @ rows).clamp(min=torch.finfo(rows.dtype).tiny).log().log_softmax(-1)

    def log_prior(self) -> Tensor:
        """Log density of the tables under N(0, 1), up to a constant: the MAP penalty. Shape ()."""
        total = self.weight.new_zeros(())
        for table in self.tables:
            total = total - 0.5 * table.square().sum()
        return total

    def reads_previous(self, layer: int) -> bool:
        """False: `place` starts codes independent of each other."""
        return False

    @torch.no_grad()
    def place(self, layer: int, proportions: Tensor, conditional: Tensor | None = None) -> None:
        """Start a layer's marginal at these proportions (K,)."""
        assert conditional is None
        if layer == len(self.sizes) - 1:
            self.weight.copy_(proportions.log())
        else:
            self.tables[layer].add_(proportions.log())

    @torch.no_grad()
    def revive(self, layer: int, component: int) -> None:
        """Give one component a fair share of its layer again."""
        if layer == len(self.sizes) - 1:
            self.weight[component] = self.weight.mean()
            for table in self.tables:
                table[component] = table.mean(0)
        else:
            self.tables[layer][:, component] = self.tables[layer].mean(-1)


PathPriorModule = AutoregressivePrior | LatentClassPrior


def all_paths(sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Every component path, last layer fastest: int64 (K_1 ... K_L, L)."""
    return torch.cartesian_prod(*(torch.arange(k, device=device) for k in sizes)).reshape(-1, len(sizes))


def log_path_prior(prior: PathPriorModule, codes: Tensor) -> Tensor:
    """Log probability of paths (..., l), whole or truncated: (...)."""
    total = torch.zeros((), device=codes.device)
    for l in range(codes.shape[-1]):
        row = prior.log_conditional(codes[..., :l])
        row = row.expand(*codes.shape[:-1], row.shape[-1])
        total = total + row.gather(-1, codes[..., l : l + 1]).squeeze(-1)
    return total
