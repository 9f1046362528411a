"""A recurrent decoder that paints a picture in steps: DRAW with convolutional states, and what makes it cheap.

With states of s x s cells, a context c of the query (its rays and what the memory says), and latents z_1 .. z_L:

    h_l, k_l = ConvLSTM([c, z_l]; h_{l-1}, k_{l-1})           the generator
    u_l      = u_{l-1} + Up(h_l)                              the canvas
    picture  = out(u_L)

Up, Down and `out` meet no nonlinearity on the way, so the canvas never has to exist: the sum H_l = draft + h_1 + ..
+ h_l of states is kept instead, Down(Up(.)) is one matrix folded into a kernel, out(Up(.)) one small deconvolution.
What does not change from step to step is convolved once, states that are nothing yet not at all, and the four gates are
one convolution. `draw_plain` has the same function with the same parameters, written as the equations are.

References: Gregor et al., *DRAW* (2015); Eslami et al., *Neural scene representation and rendering* (Science 2018),
supplement, section on the generation and inference architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.networks.latents import Foresight, Spread, bent
from phlogiston.networks.query_context import Expanded, Rays, apply_over
from phlogiston.networks.scene_memory import SceneMemory
from phlogiston.networks.view_rays import VECTOR


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve (..., c, h, w) with a kernel."""
    lead = x.shape[:-3]
    y = functional.conv2d(x.reshape(-1, *x.shape[-3:]), weight, bias, padding=padding)
    return y.reshape(*lead, *y.shape[1:])


def gates(total: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The rest of an LSTM cell once input, forget, output and candidate are summed up: new state and memory."""
    enter, keep, show, candidate = total.chunk(4, dim=-3)
    memory = torch.sigmoid(keep) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(show) * torch.tanh(memory), memory


@dataclass(frozen=True, eq=False)
class Context:
    """What is known of a query before any latent: all (B, Q, ..., s, s).

    Attributes:
        values: the context itself.
        generator: its part of the generator's gates.
        prior: its part of the priors' parameters.
        draft: the state a picture begins with.
        scarce: how few photographs were seen, (B, Q) or nothing; see `DrawDecoder.temperature`.
    """

    values: Tensor
    generator: Tensor
    prior: Tensor
    draft: Tensor
    scarce: Tensor


@dataclass(frozen=True, eq=False)
class Painting:
    """A picture in the making: after how many latents, the LSTM's state and memory, and the sum of states."""

    context: Context
    layer: int
    state: Tensor
    memory: Tensor
    total: Tensor


OUTPUTS = ("shuffle", "layers", "linear")


class LayeredHead(nn.Module):
    """States to pictures made of layers: smooth fields of colour, each seen where its mask says so.

    Masks are a softmax of fields that need not be steep themselves to make an edge, at any place within a cell. They
    are made at half the pictures' size, the states being enlarged by two time and again, and shuffled to full size,
    together with details that are added to the colours. What every picture has at the same pixels is learned pixel by
    pixel.

    Args:
        hidden: channels of the states.
        size: s.
        factor: pixels along a cell's side, a power of two, at least 2.
        layers: K, of colour.
    """

    def __init__(self, hidden: int, size: int, factor: int, layers: int = 4) -> None:
        super().__init__()
        self.layers, self.image = layers, size * factor
        self.enter = nn.Conv2d(hidden, 2 * hidden, 3, padding=1)
        self.colours = nn.Conv2d(2 * hidden, 3 * layers, 1)
        width, self.enlarge, self.refine = 2 * hidden, nn.ModuleList(), nn.ModuleList()
        while factor > 2:
            narrow = max(16, width // 2)
            self.enlarge.append(nn.Sequential(nn.Conv2d(width, 4 * narrow, 1), nn.PixelShuffle(2)))
            self.refine.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            width, factor = narrow, factor // 2
        self.leave = nn.Sequential(nn.Conv2d(width, 4 * (layers + 3), 1), nn.PixelShuffle(2))
        self.fixed = nn.Parameter(torch.zeros(layers + 3, self.image, self.image))
        cells = torch.eye(size)[None]
        between = functional.interpolate(cells, self.image, mode="linear")[0].mT  # a product is faster than the layer
        self.register_buffer("between", between.contiguous(), persistent=False)

    between: Tensor

    def forward(self, states: Tensor) -> Tensor:
        """Paint (n, hidden, s, s): (n, 3, H, W)."""
        x = torch.relu(self.enter(states))
        colours = self.between @ self.colours(x) @ self.between.mT
        for enlarge, refine in zip(self.enlarge, self.refine, strict=True):
            x = torch.relu(enlarge(x))
            x = x + torch.relu(refine(x))
        masks, details = (self.leave(x) + self.fixed).split((self.layers, 3), 1)
        seen = torch.softmax(3.0 * masks, 1)[:, :, None] * colours.unflatten(1, (self.layers, 3))
        return 0.3 * details + seen.sum(1)


class DrawDecoder(nn.Module):
    """The generator; see the module's description.

    Args:
        memory: the memory it reads; referenced, not owned.
        image: height and width of pictures, a multiple of `size`.
        size: s, cells a side; the option `grid`.

    The other arguments are options of `systems.scene.config.Config`, described there.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    def __init__(
        self,
        memory: SceneMemory,
        image: int = 32,
        size: int = 8,
        hidden: int = 32,
        latent: int = 4,
        layers: int = 2,
        kernel: int = 3,
        static_kernel: int = 1,
        width: int = 64,
        poses: str = "rays",
        output: str = "shuffle",
        canvas: int = 48,
        draft: bool = True,
        prior_context: bool = True,
        blocks: int = 2,
        whole: int = 0,
        parts: int = 1,
        prior_temperature: float = 1.0,
        prior_growth: float = 0.0,
    ) -> None:
        super().__init__()
        if image % size:
            raise ConfigError(f"pictures of {image} pixels do not divide into {size} cells a side.")
        if kernel % 2 != 1 or static_kernel % 2 != 1:
            raise ConfigError(f"kernel={kernel}, static_kernel={static_kernel}; odd numbers are expected.")
        if poses not in ("rays", "vector"):
            raise unknown_name("way to enter poses", poses, ("rays", "vector"))
        if output not in OUTPUTS:
            raise unknown_name("output", output, OUTPUTS)
        if output == "layers" and (image // size < 2 or image // size & (image // size - 1)):
            raise ConfigError(
                f"output 'layers' doubles {size} cells a side, and pictures have {image} pixels a side; "
                "set grid to fit, or output='shuffle'."
            )
        self.image, self.size, self.hidden, self.latent, self.layers = image, size, hidden, latent, layers
        self.padding, self.output = kernel // 2, output
        self.prior_temperature, self.prior_growth = prior_temperature, prior_growth
        rays = poses == "rays"
        self.expand = Rays(memory, width, size, blocks) if rays else Expanded(memory, width, size)
        self.width = width if poses == "rays" else width + VECTOR
        self.static = nn.Conv2d(self.width, 4 * hidden, static_kernel, padding=static_kernel // 2)
        self.recurrent = nn.Conv2d(latent + hidden, 4 * hidden, kernel, padding=self.padding, bias=False)
        self.prior_head = nn.Conv2d(hidden, 2 * latent, kernel, padding=self.padding)
        self.whole = whole if layers else 0
        local = layers - (self.whole > 0)
        self.prior_context = (
            nn.Conv2d(self.width, 2 * latent * local, 1, bias=False) if prior_context and local else None
        )
        self.spread = Spread(self.whole, hidden, size) if self.whole else None
        self.foresight = Foresight(self.whole, parts, self.width, size) if self.whole and parts > 1 else None
        self.draft = nn.Conv2d(self.width, hidden, static_kernel, padding=static_kernel // 2) if draft else None
        factor = image // size
        self.factor = factor
        if self.whole and not local:  # no latent has a part per cell
            for unused in (self.recurrent, self.prior_head):
                unused.requires_grad_(False)
        cells = torch.Size([latent, size, size])
        self.shapes = [torch.Size([whole, 1, 1]) if self.whole and not layer else cells for layer in range(layers)]
        if output == "shuffle":
            self.head: nn.Module = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(hidden, 2 * hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(2 * hidden, 3 * factor**2, 1),
                nn.PixelShuffle(factor),
            )
        elif output == "layers":
            self.head = LayeredHead(hidden, size, factor)
        else:
            self.up = nn.ConvTranspose2d(hidden, canvas, factor, stride=factor, bias=False)
            self.down = nn.Conv2d(canvas, canvas, factor, stride=factor, bias=False)
            self.out = nn.Conv2d(canvas, 3, 1)

    @property
    def feedback(self) -> int:
        """Channels in which the inference side reads the canvas."""
        return self.hidden if self.output != "linear" else self.down.out_channels

    def context(self, code: Tensor, poses: Tensor, scarce: Tensor | None = None) -> Context:
        """Prepare a query: everything that does not depend on latents.

        Args:
            code: (B, Q, R), read from the memory.
            poses: (B, Q, 6), in the memory's local coordinates.
            scarce: (B, Q), how few photographs were seen, see `temperature`; None for as many as in training.
        """
        values = self.expand(code, poses)
        draft = values.new_zeros(*values.shape[:-3], self.hidden, self.size, self.size)
        if self.draft is not None:
            draft = apply_over(self.draft, values)
        prior = values.new_zeros(())
        if self.prior_context is not None:
            prior = apply_over(self.prior_context, values).unflatten(-3, (-1, 2 * self.latent))
        scarce = values.new_zeros(()) if scarce is None else scarce
        return Context(values, apply_over(self.static, values), prior, draft, scarce)

    def temperature(self, context: Context) -> Tensor | float:
        """Factor on the priors' deviations, `prior_temperature` exp(`prior_growth` scarce): one number, or (B, Q)."""
        if not self.prior_growth:
            return self.prior_temperature
        return self.prior_temperature * (self.prior_growth * context.scarce).exp()

    def begin(self, context: Context) -> Painting:
        """The picture before the first latent."""
        nothing = torch.zeros_like(context.draft)
        return Painting(context, 0, nothing, nothing, context.draft)

    def prior(self, painting: Painting) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the next latent, (..., *shapes[layer]) each; where it is a mixture, 0 and 0.

        They are what was trained, before `temperature`.
        """
        if self.whole and painting.layer == 0:
            lead = painting.context.values.shape[:-3]
            return (painting.total.new_zeros(*lead, self.whole, 1, 1),) * 2
        raw = apply_over(self.prior_head, painting.state)
        if self.prior_context is not None:
            raw = raw + painting.context.prior[..., painting.layer - (self.whole > 0), :, :, :]
        mean, logvar = raw.chunk(2, -3)
        return mean, bent(logvar)

    def advance(self, painting: Painting, z: Tensor) -> Painting:
        """Take one step with a latent z, (..., *shapes[layer]); leading axes may have grown."""
        lead = torch.broadcast_shapes(z.shape[:-3], painting.state.shape[:-3])
        z = z.expand(*lead, *z.shape[-3:])
        if painting.layer:
            state = painting.state.expand(*lead, *painting.state.shape[-3:])
            total = apply_over(self.recurrent, torch.cat([z, state], -3))
        elif self.spread is not None:
            total = self.spread(z)
        else:  # the state is nothing yet
            total = convolve(z, self.recurrent.weight[:, : self.latent], None, self.padding)
        state, memory = gates(total + painting.context.generator, painting.memory)
        return Painting(painting.context, painting.layer + 1, state, memory, painting.total + state)

    def picture(self, total: Tensor) -> Tensor:
        """Turn a sum of states (..., hidden, s, s) into pictures (..., 3, H, W)."""
        if self.output != "linear":
            return apply_over(self.head, total) + 0.5
        # out(Up(H)) as one deconvolution
        kernel = torch.einsum("hcij,oc->hoij", self.up.weight, self.out.weight[:, :, 0, 0])
        lead = total.shape[:-3]
        flat = functional.conv_transpose2d(
            total.reshape(-1, *total.shape[-3:]), kernel, self.out.bias, stride=self.factor
        )
        return flat.reshape(*lead, *flat.shape[1:])

    def folded(self, kernel: Tensor) -> Tensor:
        """Fold Down(Up(.)) into a kernel over feedback channels: (out, feedback, k, k) to (out, hidden, k, k)."""
        if self.output != "linear":
            return kernel
        matrix = torch.einsum("fcij,hcij->fh", self.down.weight, self.up.weight)
        return torch.einsum("ofij,fh->ohij", kernel, matrix)


class DrawEncoder(nn.Module):
    """The inference side: a second ConvLSTM that reads the picture and what the generator has painted so far.

    Args:
        decoder: the generator it serves.
        features: channels the picture is brought to.

    The other arguments are options of `systems.scene.config.Config`, described there.
    """

    def __init__(
        self,
        decoder: DrawDecoder,
        hidden: int = 32,
        kernel: int = 3,
        features: int = 32,
        reduce: str = "conv",
        residual: bool = True,
    ) -> None:
        super().__init__()
        if reduce not in ("conv", "linear"):
            raise unknown_name("way to reduce pictures", reduce, ("conv", "linear"))
        self.hidden, self.residual, self.reduce, self.padding = hidden, residual, reduce, kernel // 2
        factor = decoder.factor
        if reduce == "linear":
            features = 3
            self.look: nn.Module = nn.Conv2d(3, 3, factor, stride=factor, bias=False)
        else:
            first = 2 if factor % 2 == 0 else factor
            self.look = nn.Sequential(
                nn.Conv2d(6, features, first, stride=first),
                nn.ReLU(),
                nn.Conv2d(features, features, factor // first, stride=factor // first),
                nn.ReLU(),
            )
        self.seen = nn.Conv2d(features, 4 * hidden, kernel, padding=self.padding, bias=False)
        around = decoder.static.kernel_size[0]
        self.static = nn.Conv2d(decoder.width, 4 * hidden, around, padding=around // 2)
        inputs = decoder.hidden + decoder.feedback + hidden
        self.recurrent = nn.Conv2d(inputs, 4 * hidden, kernel, padding=self.padding, bias=False)
        self.head = nn.Conv2d(hidden, 2 * decoder.latent, kernel, padding=self.padding)
        self.summary = nn.Conv2d(hidden, 2 * decoder.whole, decoder.size) if decoder.whole else None
        self.head.requires_grad_(decoder.layers > (decoder.whole > 0))
        if residual:  # near the prior, yet not on it: from there the latents would never wake
            for head in (self.head, self.summary):
                if head is not None:
                    _start_near(head)
        # the generator's channels are seen, not owned
        self._split = (decoder.hidden, decoder.feedback, hidden)

    def begin(self, images: Tensor, draft: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Encode pictures (..., 3, H, W): the part of the gates that stays, and the first state and memory."""
        seen = images if self.reduce == "linear" else torch.cat([images, images - draft], -3)
        static = apply_over(self.seen, apply_over(self.look, seen)) + apply_over(self.static, context.values)
        nothing = static.new_zeros(*static.shape[:-3], self.hidden, *static.shape[-2:])
        return static, nothing, nothing

    def kernel(self, decoder: DrawDecoder) -> Tensor:
        """The recurrent kernel over [generator state, sum of states, own state], the canvas folded in."""
        own, canvas, mine = self.recurrent.weight.split(self._split, dim=1)
        return torch.cat([own, decoder.folded(canvas), mine], 1)

    def advance(
        self, kernel: Tensor, static: Tensor, painting: Painting, state: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one step: new state and memory."""
        lead = torch.broadcast_shapes(painting.state.shape[:-3], state.shape[:-3])
        parts = [p.expand(*lead, *p.shape[-3:]) for p in (painting.state, painting.total, state)]
        if painting.layer == 0:  # both states are nothing yet
            own = painting.state.shape[-3]
            kernel, parts = kernel[:, own : own + painting.total.shape[-3]], parts[1:2]
        return gates(convolve(torch.cat(parts, -3), kernel, None, self.padding) + static, memory)

    def posterior(self, state: Tensor, prior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the next latent, given the prior's."""
        head = self.head if self.summary is None or prior[0].shape[-1] > 1 else self.summary
        mean, logvar = apply_over(head, state).chunk(2, -3)
        if self.residual:
            return prior[0] + mean, bent(prior[1] + logvar)
        return mean, bent(logvar)


@torch.no_grad()
def _start_near(head: nn.Conv2d) -> None:
    """Let a head begin near the prior: half its weights, means as they are, log-variances 1 below."""
    assert head.bias is not None
    head.weight.mul_(0.5)
    head.bias.zero_()
    head.bias[len(head.bias) // 2 :] = -1.0
