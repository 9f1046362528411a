"""The decoder of `networks.draw` as its equations are written: the oracle of tests, and what benchmarks compare with.

Same parameters, same function: the canvas exists, Up and Down are applied to it, the context is blown up and convolved
again in every layer, and each gate is a convolution of its own over all inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.networks.draw import DrawDecoder, DrawEncoder
from phlogiston.networks.latents import bent


class Run(NamedTuple):
    """What a pass computed: pictures (N, 3, H, W), latents, and means and log-variances of priors and posteriors."""

    pictures: Tensor
    latents: list[Tensor]
    priors: list[tuple[Tensor, Tensor]]
    posteriors: list[tuple[Tensor, Tensor]]


def run(
    decoder: DrawDecoder,
    encoder: DrawEncoder | None,
    code: Tensor,
    poses: Tensor,
    images: Tensor | None,
    noise: Sequence[Tensor],
) -> Run:
    """Decode queries, with latents from the guide's side if there is an encoder, else from the prior.

    Args:
        decoder: the generator.
        encoder: the inference side, or None.
        code: (N, R).
        poses: (N, 6).
        images: (N, 3, H, W), with an encoder.
        noise: one standard normal (N, *shape) per layer, of the decoder's `shapes`.
    """
    cells, side = decoder.size, decoder.hidden
    nothing = code.new_zeros(len(code), side, cells, cells)
    state, memory = nothing, nothing
    canvas = _start(decoder, code, poses)
    draft = _picture(decoder, canvas)
    own = own_memory = None
    if encoder is not None:
        own = own_memory = code.new_zeros(len(code), encoder.hidden, cells, cells)
    latents, priors, posteriors = [], [], []
    for layer in range(decoder.layers):
        context = decoder.expand(code[:, None], poses[:, None])[:, 0]
        prior = _prior(decoder, context, state, layer)
        chosen = prior
        if encoder is not None:
            assert images is not None
            assert own is not None
            assert own_memory is not None
            seen = images if encoder.reduce == "linear" else torch.cat([images, images - draft.detach()], 1)
            back = decoder.down(canvas) if decoder.output == "linear" else canvas
            inputs = torch.cat([encoder.look(seen), context, state, back, own], 1)
            kernels = (encoder.seen.weight, encoder.static.weight, encoder.recurrent.weight)
            own, own_memory = _cell(inputs, kernels, encoder.static.bias, own_memory)
            head = encoder.summary if decoder.whole and layer == 0 else encoder.head
            assert head is not None
            mean, logvar = head(own).chunk(2, 1)
            chosen = (prior[0] + mean, bent(prior[1] + logvar)) if encoder.residual else (mean, bent(logvar))
        z = chosen[0] + (0.5 * chosen[1]).exp() * noise[layer]
        local: Tensor = z
        laid: Tensor | float = 0.0
        if decoder.spread is not None and layer == 0:
            local = z.new_zeros(len(z), decoder.latent, cells, cells)
            laid = decoder.spread.layers(z[..., 0, 0]).reshape(len(z), 4 * side, cells, cells)
        inputs = torch.cat([context, local, state], 1)
        own_kernels = (decoder.static.weight, decoder.recurrent.weight)
        state, memory = _cell(inputs, own_kernels, decoder.static.bias, memory, laid)
        canvas = canvas + (decoder.up(state) if decoder.output == "linear" else state)
        latents.append(z)
        priors.append(prior)
        posteriors.append(chosen)
    return Run(_picture(decoder, canvas), latents, priors, posteriors)


def _start(decoder: DrawDecoder, code: Tensor, poses: Tensor) -> Tensor:
    state = code.new_zeros(len(code), decoder.hidden, decoder.size, decoder.size)
    if decoder.draft is not None:
        state = decoder.draft(decoder.expand(code[:, None], poses[:, None])[:, 0])
    return decoder.up(state) if decoder.output == "linear" else state  # type: ignore[no-any-return]


def _picture(decoder: DrawDecoder, canvas: Tensor) -> Tensor:
    return decoder.out(canvas) if decoder.output == "linear" else decoder.head(canvas) + 0.5  # type: ignore[no-any-return]


def _prior(decoder: DrawDecoder, context: Tensor, state: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    if decoder.whole and layer == 0:
        return (context.new_zeros(len(context), decoder.whole, 1, 1),) * 2
    raw = decoder.prior_head(state)
    if decoder.prior_context is not None:
        local = decoder.layers - (decoder.whole > 0)
        raw = raw + decoder.prior_context(context).unflatten(1, (local, -1))[:, layer - decoder.layers + local]
    mean, logvar = raw.chunk(2, 1)
    return mean, bent(logvar)


def _cell(
    inputs: Tensor, kernels: Sequence[Tensor], bias: Tensor | None, memory: Tensor, more: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """A ConvLSTM cell over concatenated inputs, gate by gate; smaller kernels are widened by zeros. `more` is added."""
    width = max(kernel.shape[-1] for kernel in kernels)
    whole = torch.cat([functional.pad(k, ((width - k.shape[-1]) // 2,) * 4) for k in kernels], 1)
    biases = bias.chunk(4) if bias is not None else (None,) * 4
    parts = zip(whole.chunk(4), biases, strict=True)
    sums = torch.cat([functional.conv2d(inputs, k, b, padding=width // 2) for k, b in parts], 1)
    enter, keep, show, candidate = (sums + more).chunk(4, 1)
    memory = torch.sigmoid(keep) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(show) * torch.tanh(memory), memory
