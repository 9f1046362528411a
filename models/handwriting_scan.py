"""The first layer of handwriting over known steps, with the window it steers: one operation of autograd.

What depends on the step before is all that runs step by step, into memory laid out once. The rest (derivatives of the
gates and of the window, gradients of weights) is computed for all steps together. A step written in plain operations
makes four times as many of them, and a step of training is mostly their overhead.

    i, f, g, o = gates(entered_t + recur [window_{t-1}, h_{t-1}])        a layer of long short-term memory
    c_t = f c_{t-1} + i g,     h_t = o tanh(c_t)
    log a, log b, log k = clamp(slide h_t),     kappa_t = kappa_{t-1} + k
    phi_t(u) = sum_j a_j exp(-b_j (kappa_tj - u)^2),     window_t = sum_u phi_t(u) text_u

Reference: Graves, "Generating sequences with recurrent neural networks", arXiv 1308.0850, equations 46-51.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = -8.0, 4.0  # of the logarithms of a, b and k


class Scanned(NamedTuple):
    """What the layer gives.

    Attributes:
        h: (rows, steps, hidden), outputs.
        window: (rows, steps, signs), what the windows show.
        phi: (rows, steps, U), how much of each character.
        c: (rows, hidden), cells after the last step.
        kappa: (rows, J), centres after the last step.
    """

    h: Tensor
    window: Tensor
    phi: Tensor
    c: Tensor
    kappa: Tensor


def scan(
    entered: Tensor, recur: Tensor, slide: nn.Linear, text: Tensor, start: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Scanned:
    """Run the layer over known steps.

    Args:
        entered: (rows, steps, 4 hidden), the part of the gates that does not depend on the step before.
        recur: (4 hidden, signs + hidden), weights of [window, h].
        slide: from h to the logarithms of a, b and k, 3 J numbers.
        text: (rows, U, signs), one-hot; no gradient reaches it.
        start: h (rows, hidden), c (rows, hidden), window (rows, signs) and kappa (rows, J) before the first step.
    """
    with torch.autocast(entered.device.type, enabled=False):  # sums over many steps are kept in full precision
        entered = entered.to(recur.dtype)
        results = _Scan.apply(entered, recur, slide.weight, slide.bias, text, *start)  # type: ignore[no-untyped-call]
    return Scanned(*results)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        entered: Tensor,
        recur: Tensor,
        slide: Tensor,
        bias: Tensor,
        text: Tensor,
        h: Tensor,
        c: Tensor,
        window: Tensor,
        kappa: Tensor,
    ) -> tuple[Tensor, ...]:
        rows, steps = entered.shape[:2]
        hidden, j, (letters, signs) = h.shape[1], kappa.shape[1], text.shape[1:]
        new = entered.new_empty
        states = new(steps + 1, rows, signs + hidden)  # [window, h] before each step, and after the last
        states[0] = torch.cat([window, h], -1)
        cells, apart = new(steps + 1, rows, hidden), new(steps + 1, rows, j, letters)  # kappa minus letters
        cells[0] = c
        torch.sub(kappa.unsqueeze(-1), torch.arange(letters, dtype=c.dtype, device=c.device), out=apart[0])
        active, bent = new(steps, rows, 4 * hidden), new(steps, rows, hidden)
        raw, moves = new(steps, rows, 3 * j), new(steps, rows, 3 * j)
        seen = new(steps, rows, j, letters)

        at, after = states.unbind(0), states[1:]
        into_window, into_h = after[..., :signs].unsqueeze(2).unbind(0), after[..., signs:].unbind(0)
        cell, away = cells.unbind(0), apart.unbind(0)
        enter, gates, tanh = entered.unbind(1), active.unbind(0), bent.unbind(0)
        i, f, g, o = (part.unbind(0) for part in active.unflatten(2, (4, hidden)).unbind(2))
        logs, exps, pace = raw.unbind(0), moves.unbind(0), moves[..., 2 * j :].unsqueeze(-1).unbind(0)
        log_a, b = raw[..., :j].unsqueeze(-1).unbind(0), moves[..., j : 2 * j].unsqueeze(-1).unbind(0)
        views, looks, texts = seen.unbind(0), seen.flatten(2).unsqueeze(2).unbind(0), text.repeat(1, j, 1)
        recur_t, slide_t = recur.t(), slide.t()
        total, old, square = new(rows, 4 * hidden), new(rows, hidden), new(rows, j, letters)
        candidate = total.unflatten(1, (4, hidden))[:, 2]
        for t in range(steps):
            torch.addmm(enter[t], at[t], recur_t, out=total)
            torch.sigmoid(total, out=gates[t])
            torch.tanh(candidate, out=g[t])
            torch.mul(f[t], cell[t], out=old)
            torch.addcmul(old, i[t], g[t], out=cell[t + 1])
            torch.tanh(cell[t + 1], out=tanh[t])
            torch.mul(o[t], tanh[t], out=into_h[t])
            torch.addmm(bias, into_h[t], slide_t, out=logs[t])
            logs[t].clamp_(LOWEST, HIGHEST)
            torch.exp(logs[t], out=exps[t])
            torch.add(away[t], pace[t], out=away[t + 1])
            torch.square(away[t + 1], out=square)
            torch.addcmul(log_a[t], b[t], square, value=-1.0, out=views[t])
            views[t].exp_()
            torch.bmm(looks[t], texts, out=into_window[t])
        ctx.save_for_backward(recur, slide, text, states, cells, apart, active, bent, raw, moves, seen)
        ctx.set_materialize_grads(False)
        return (
            after[..., signs:].transpose(0, 1),
            after[..., :signs].transpose(0, 1),
            seen.sum(2).transpose(0, 1),
            cells[-1].clone(),
            apart[-1, ..., 0].clone(),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return _backward(ctx.saved_tensors, gradients)


def _backward(saved: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of what `_Scan` was given, from what it saved and the gradients of its results."""
    recur, slide, text, states, cells, apart, active, bent, raw, moves, seen = saved
    for_h, for_window, for_phi, for_c, for_kappa = gradients
    steps, rows, hidden = bent.shape
    j, signs = apart.shape[2], text.shape[2]
    new = bent.new_empty

    # what each step's gradients are multiplied with, for all steps at once
    i, f, g, o = active.unflatten(2, (4, hidden)).unbind(2)
    to_cell = o * (1.0 - bent.square())
    to_gates = torch.stack([g * i * (1.0 - i), cells[:-1] * f * (1.0 - f), i * (1.0 - g.square())], 2)
    to_show = bent * o * (1.0 - o)
    inside = ((raw > LOWEST) & (raw < HIGHEST)).to(raw.dtype)
    b = moves[..., j : 2 * j].unsqueeze(-1)
    apart = apart[1:]
    slope = b * apart * seen  # minus half the derivative by kappa
    free = inside[..., : 2 * j].unflatten(2, (2, j)).unsqueeze(-1)
    by_log = torch.stack([seen, -apart * slope], 2) * free
    to_slide = torch.cat([by_log.flatten(2, 3), -2.0 * slope], 2).mT  # (steps, rows, letters, 3 j)
    pace = moves[..., 2 * j :] * inside[..., 2 * j :]

    back = new(steps + 1, rows, signs + hidden).zero_()  # gradients of [window, h] from outside
    for part, gradient in ((back[1:, :, signs:], for_h), (back[1:, :, :signs], for_window)):
        if gradient is not None:
            part.copy_(gradient.transpose(0, 1))
    of_gates, of_slide = new(steps, rows, 4 * hidden), new(steps, rows, 1, 3 * j)
    of_h = new(steps, rows, hidden)
    of_c = torch.zeros(rows, hidden, dtype=b.dtype, device=b.device) if for_c is None else for_c.clone()
    of_kappa = torch.zeros_like(apart[0, ..., 0]) if for_kappa is None else for_kappa.clone()
    of_phi = torch.zeros_like(seen[:, :, :1]) if for_phi is None else for_phi.transpose(0, 1).unsqueeze(2)

    whole, for_looks = back.unbind(0), of_phi.unbind(0)
    window, h = back[..., :signs].unsqueeze(2).unbind(0), back[..., signs:].unbind(0)
    slides, flat_slides = of_slide.unbind(0), of_slide.squeeze(2).unbind(0)
    paces = of_slide[..., 0, 2 * j :].unbind(0)
    first, last = of_gates[..., : 3 * hidden].unflatten(2, (3, hidden)).unbind(0), of_gates[..., 3 * hidden :]
    gates, shows, hs = of_gates.unbind(0), last.unbind(0), of_h.unbind(0)
    cell, gate, show, forget = to_cell.unbind(0), to_gates.unbind(0), to_show.unbind(0), f.unbind(0)
    factors, speeds, letters_t, wide = to_slide.unbind(0), pace.unbind(0), text.mT, of_c.unsqueeze(1)
    for t in range(steps - 1, -1, -1):
        looks = torch.baddbmm(for_looks[t], window[t + 1], letters_t)
        torch.bmm(looks, factors[t], out=slides[t])
        of_kappa.add_(paces[t])
        torch.mul(of_kappa, speeds[t], out=paces[t])
        torch.addmm(h[t + 1], flat_slides[t], slide, out=hs[t])
        of_c.addcmul_(hs[t], cell[t])
        torch.mul(wide, gate[t], out=first[t])
        torch.mul(hs[t], show[t], out=shows[t])
        of_c.mul_(forget[t])
        whole[t].addmm_(gates[t], recur)
    return (
        of_gates.transpose(0, 1),
        of_gates.flatten(0, 1).t() @ states[:-1].flatten(0, 1),
        of_slide.flatten(0, 2).t() @ states[1:, :, signs:].flatten(0, 1),
        of_slide.sum((0, 1, 2)),
        None,
        back[0, :, signs:],
        of_c,
        back[0, :, :signs],
        of_kappa,
    )
