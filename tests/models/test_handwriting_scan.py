"""The scan of handwriting's first layer: values and gradients of a run step by step, and few operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phlogiston.models.handwriting import Handwriting, WritingState
from phlogiston.models.handwriting_scan import scan

STEPS, ROWS = 6, 3
TEXT = torch.tensor([[0, 1, 2, 3], [2, 2, -1, -1], [1, 0, 3, -1]])


def made() -> tuple[Handwriting, WritingState, Tensor]:
    torch.manual_seed(0)
    model = Handwriting(4, 5, 2, 3).double()
    with torch.no_grad():  # the logarithms of some steps run into their limits
        model.slide.weight.mul_(12.0)
        model.slide.bias[-1] = 3.5
    state = model.start(ROWS, TEXT)
    drawn = {
        name: torch.randn(getattr(state, name).shape, dtype=torch.float64).requires_grad_()
        for name in ("first", "window", "kappa")
    }
    return model, state._replace(**drawn), torch.randn(ROWS, STEPS, 20, dtype=torch.float64).requires_grad_()


def by_steps(model: Handwriting, state: WritingState, entered: Tensor) -> tuple[Tensor, ...]:
    """The equations, one step after the other."""
    h, c = state.first.unbind(1)
    window, kappa, out = state.window, state.kappa, []
    index = torch.arange(state.text.shape[1])
    for t in range(entered.shape[1]):
        i, f, g, o = (entered[:, t] + torch.cat([window, h], -1) @ model.recur.weight.T).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        a, b, k = model.slide(h).clamp(-8.0, 4.0).exp().unsqueeze(-1).chunk(3, 1)
        kappa = kappa + k.squeeze(-1)
        phi = (a * torch.exp(-b * (kappa.unsqueeze(-1) - index) ** 2)).sum(1)
        window = torch.einsum("ru,rus->rs", phi, state.text)
        out.append((h, window, phi))
    return (*(torch.stack(part, 1) for part in zip(*out, strict=True)), c, kappa)


def scanned(model: Handwriting, state: WritingState, entered: Tensor) -> tuple[Tensor, ...]:
    h, c = state.first.unbind(1)
    return scan(entered, model.recur.weight, model.slide, state.text, (h, c, state.window, state.kappa))


@pytest.mark.parametrize("used", [(0, 1), (2,), (3, 4), (0, 1, 2, 3, 4)])
def test_values_and_gradients_are_those_of_single_steps(used: tuple[int, ...]) -> None:
    model, state, entered = made()
    inputs = [entered, model.recur.weight, model.slide.weight, model.slide.bias, state.first, state.window, state.kappa]
    results = []
    for way in (scanned, by_steps):
        out = way(model, state, entered)
        torch.manual_seed(1)
        weights = [torch.randn(part.shape, dtype=torch.float64) for part in out]
        loss = sum((out[i] * weights[i]).sum() for i in used)
        results.append((out, torch.autograd.grad(loss, inputs)))
    (ours, our_gradients), (plain, gradients) = results
    for mine, other in zip((*ours, *our_gradients), (*plain, *gradients), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    logs = model.slide(ours[0])
    assert bool((logs > 4.0).any() and (logs < 4.0).any())


def test_one_step_and_many_agree() -> None:
    model, state, entered = made()
    whole = model.first_layer(entered, state)
    for t in range(STEPS):
        one = model.first_layer(entered[:, t : t + 1], state)
        torch.testing.assert_close(one.phi[:, 0], whole.phi[:, t], rtol=1e-10, atol=1e-12)
        state = state._replace(
            first=torch.stack([one.h[:, 0], one.c], 1), window=one.window[:, 0], phi=one.phi[:, 0], kappa=one.kappa
        )
    torch.testing.assert_close(state.first[:, 1], whole.c, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.kappa, whole.kappa, rtol=1e-10, atol=1e-12)
