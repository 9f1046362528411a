"""Handwriting synthesis: pen movements that write a given text, by a window that slides over its characters.

    h1_t = lstm1([step_{t-1}, w_{t-1}], h1_{t-1})
    (a, b, k)_t = exp(W h1_t);  kappa_t = kappa_{t-1} + k_t               J windows each
    phi(t, u) = sum_j a_j exp(-b_j (kappa_j - u)^2);  w_t = sum_u phi(t, u) c_u,   u = 0 ... U - 1
    h2 = lstm2([step, w, h1]);  h3 = lstm3([step, w, h2])
    pen_t ~ Categorical(head([h1, h2, h3]))         0 stays down, 1 lifts after this point, 2 the writing is over
    offset_t ~ bivariate mixture(head([h1, h2, h3]))

Only the first layer has to be run step by step, since its input needs the window of the step before; the others are one
call over the whole line. `kappa` and `u` share their origin: both start at 0.

Differs on purpose from the reference: the end is a state of the pen that is learned like any other, where the reference
guesses it from the window, and a sign behind the last character lets the network see it come; the network also sees how
far the pen is from the line it started on.

Reference: Graves, "Generating sequences with recurrent neural networks", arXiv 1308.0850, section 5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError, ShapeError
from phlogiston.models.drawing import Drawing
from phlogiston.models.handwriting_scan import HIGHEST, LOWEST, Scanned, scan
from phlogiston.models.stepwise import Prediction, valid_steps
from phlogiston.networks.host import one_hot, require
from phlogiston.networks.recurrent import Recurrent

FEATURES = 7


class WritingState(NamedTuple):
    """What the past comes down to.

    Attributes:
        first: (rows, 2, hidden), output and cell of the first layer.
        second: (rows, 2, hidden).
        third: (rows, 2, hidden).
        kappa: (rows, J), centres of the windows, in characters.
        window: (rows, characters + 1), what they show.
        phi: (rows, U + 1), how much of each character, and of the end.
        last: (rows, 3), the last step.
        height: (rows,), of the pen over where it began, in data units.
        seen: (rows,), steps so far.
        text: (rows, U + 1, characters + 1), one-hot: the characters, then a sign for the end, then zeros.
    """

    first: Tensor
    second: Tensor
    third: Tensor
    kappa: Tensor
    window: Tensor
    phi: Tensor
    last: Tensor
    height: Tensor
    seen: Tensor
    text: Tensor


class Handwriting(Drawing):
    """The generative program.

    Args:
        characters: size of the alphabet.

    The other arguments are options of `systems.handwriting.config.Config`, described there.
    """

    def __init__(
        self, characters: int, hidden: int = 128, windows: int = 5, num_components: int = 10, min_scale: float = 0.01
    ) -> None:
        super().__init__(num_components, min_scale)
        if min(characters, hidden, windows, num_components) < 1:
            raise ConfigError(
                f"characters={characters}, hidden={hidden}, windows={windows}, num_components={num_components}: all "
                "must be at least 1"
            )
        self.characters, self.hidden, self.windows = characters, hidden, windows
        self.enter = nn.Linear(FEATURES, 4 * hidden)
        signs = characters + 1  # the last one stands behind every text: where it is seen, the writing is nearly over
        self.recur = nn.Linear(signs + hidden, 4 * hidden, bias=False)
        nn.init.orthogonal_(self.recur.weight[:, signs:])
        with torch.no_grad():
            self.enter.bias[hidden : 2 * hidden] = 1.0  # forget gates
        self.slide = nn.Linear(hidden, 3 * windows)
        self.second = Recurrent(FEATURES + signs + hidden, hidden)
        self.third = Recurrent(FEATURES + signs + hidden, hidden)
        self.head = nn.Linear(3 * hidden, self.num_outputs)

    @torch.no_grad()
    def initialise(self, x: Tensor, length: Tensor, text: Tensor) -> None:
        """Set the unit, spread the components, and let the window move at the pace of the data.

        Args:
            x: (rows, points, 3).
            length: (rows,).
            text: int64 (rows, U), -1 after the end.
        """
        offsets = x[..., :2][valid_steps(length, x.shape[1])].double()
        unit = float(offsets.std(correction=0))
        self.unit.fill_(unit if unit > 0 else 1.0)
        k, j = self.num_components, self.windows
        self.head.weight.mul_(0.3)
        self.head.bias.zero_()
        chosen = offsets[torch.randperm(len(offsets))[:k]] / self.unit
        self.head.bias[k : k + 2 * len(chosen)] = 0.7 * chosen.float().flatten()
        self.head.bias[3 * k : 5 * k] = -0.7
        pace = float((text >= 0).sum()) / max(1.0, float(length.sum()))
        self.slide.weight.mul_(0.3)
        self.slide.bias.copy_(
            torch.cat([torch.full((j,), -math.log(j)), torch.full((j,), 0.3), torch.full((j,), math.log(pace))])
        )

    # ----- the window ---------------------------------------------------------------------------------------------

    def one_hot(self, text: Tensor) -> Tensor:
        """Codes (rows, U), -1 after the end, as (rows, U + 1, characters + 1) of zeros and ones, the end marked.

        Raises:
            ShapeError: codes beyond the alphabet, or a row without a character.
        """

        def error() -> ShapeError:
            return ShapeError(
                f"text has shape {tuple(text.shape)} and codes up to {int(text.max())}; expected (rows, characters) "
                f"with codes below {self.characters} and at least one in every row"
            )

        if text.dim() != 2:
            raise error()
        require((text < self.characters).all() & (text >= 0).any(1).all(), error)
        longer = torch.cat([text, torch.full_like(text[:, :1], -1)], 1)
        ends = torch.arange(longer.shape[1], device=text.device) == (text >= 0).sum(1, keepdim=True)
        signs = torch.where(ends, self.characters, longer)
        return one_hot(signs, self.characters + 1, self.unit.dtype)

    def first_layer(self, entered: Tensor, state: WritingState) -> Scanned:
        """Run the first layer and the window over known steps; `entered` is (rows, steps, 4 hidden)."""
        h, c = state.first.unbind(1)
        if entered.shape[1] > 1:
            start = (h, c, state.window, state.kappa)
            return scan(entered, self.recur.weight, self.slide, state.text, start)
        index = torch.arange(state.text.shape[1], dtype=h.dtype, device=h.device)
        h, c = self._advance(entered[:, 0], state.window, h, c)
        window, phi, kappa = self._look(h, state.kappa, state.text, index)
        return Scanned(h.unsqueeze(1), window.unsqueeze(1), phi.unsqueeze(1), c, kappa)

    def _look(self, h: Tensor, kappa: Tensor, text: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Move the windows and look: (window, phi, kappa)."""
        a, b, k = self.slide(h).clamp(LOWEST, HIGHEST).exp().chunk(3, -1)
        kappa = kappa + k
        phi = (a.unsqueeze(-1) * torch.exp(-b.unsqueeze(-1) * (kappa.unsqueeze(-1) - index).square())).sum(1)
        return torch.bmm(phi.unsqueeze(1), text).squeeze(1), phi, kappa

    def _advance(self, entered: Tensor, window: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the first layer."""
        gates = entered + self.recur(torch.cat([window, h], -1))
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def _features(self, last: Tensor, height: Tensor, seen: Tensor) -> Tensor:
        state = last[..., 2]
        flags = [(state == s).to(last.dtype) for s in (0, 1, 2)] + [(seen == 0).to(last.dtype)]
        tall = (height / self.unit[0]).clamp(-20.0, 20.0)
        return torch.cat([last[..., :2] / self.unit, tall.unsqueeze(-1), torch.stack(flags, -1)], -1)

    # ----- steps --------------------------------------------------------------------------------------------------

    def start(self, rows: int, text: Tensor | None = None) -> WritingState:
        """The state before the first step.

        Args:
            rows: how many lines.
            text: int64 (rows, U), what to write, -1 after the end; one line's text serves all.
        """
        if text is None:
            raise ConfigError("handwriting needs a text to write")
        hot = self.one_hot(text).expand(rows, -1, -1)
        zero = self.unit.new_zeros
        cells = zero(rows, 2, self.hidden)
        return WritingState(
            cells, cells, cells, zero(rows, self.windows), zero(rows, self.characters + 1), zero(rows, hot.shape[1]),
            zero(rows, 3), zero(rows), torch.zeros(rows, dtype=torch.long, device=self.unit.device), hot,
        )  # fmt: skip

    def run(self, state: WritingState, x: Tensor) -> tuple[Tensor, Tensor, WritingState]:
        """Go over known steps.

        Args:
            state: to begin from.
            x: (rows, steps, 3), the step *before* each of the steps to predict; the first is `state.last`.

        Returns:
            Outputs of all layers (rows, steps, 3 hidden), phi (rows, steps, U + 1), and the state after the last step
            (its `last`, `height` and `seen` as they were).
        """
        steps = x.shape[1]
        # the last step's own offset is part of where the pen is now, and `state.height` holds it already
        rise = torch.cat([torch.zeros_like(x[:, :1, 1]), x[:, 1:, 1]], 1).cumsum(1)
        count = state.seen.unsqueeze(-1) + torch.arange(steps, device=x.device)
        features = self._features(x, state.height.unsqueeze(-1) + rise, count)
        entered = self.enter(features)
        first, window, phi, c, kappa = self.first_layer(entered, state)
        seen = torch.cat([features, window], -1)
        second, after_second = self.second(torch.cat([seen, first], -1), state.second)
        third, after_third = self.third(torch.cat([seen, second], -1), state.third)
        new = state._replace(
            first=torch.stack([first[:, -1], c], 1),
            second=after_second,
            third=after_third,
            kappa=kappa,
            window=window[:, -1],
            phi=phi[:, -1],
        )
        return torch.cat([first, second, third], -1), phi, new

    def predict(self, state: WritingState) -> tuple[Prediction, WritingState]:
        """See `Stepwise.predict`."""
        out, _, state = self.run(state, state.last.unsqueeze(1))
        return self._prediction(out[:, 0]), state

    def observe(self, state: WritingState, value: Tensor) -> WritingState:
        """See `Stepwise.observe`."""
        value = value.to(state.last.dtype)
        return state._replace(last=value, height=state.height + value[:, 1], seen=state.seen + 1)

    def unfinished(self, state: WritingState) -> Tensor:
        """Lines whose window has not come to the last character, bool (rows,): more is to be written.

        The model gives the end a small probability at every lifted pen, a larger one in a hand that is unlike the
        training data; the text itself is certain.
        """
        letters = (state.text[..., : self.characters].sum((1, 2))).long()
        return state.phi.argmax(-1) < letters - 1

    def consume(self, state: WritingState, x: Tensor) -> WritingState:
        """The state after known steps (rows, steps, 3)."""
        if x.shape[1] == 0:
            return state
        _, _, after = self.run(state, torch.cat([state.last.unsqueeze(1), x[:, :-1]], 1))
        return after._replace(last=x[:, -1], height=state.height + x[..., 1].sum(1), seen=state.seen + x.shape[1])

    def predictions(self, x: Tensor, text: Tensor) -> tuple[Prediction, Tensor]:
        """The distributions of all steps of known lines at once, and the window's attention.

        Args:
            x: (rows, steps, 3) with the end as a step.
            text: int64 (rows, U).

        Returns:
            The prediction, batch (rows, steps), and phi (rows, steps, U + 1).
        """
        state = self.start(len(x), text)
        out, phi, _ = self.run(state, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1))
        return self._prediction(out), phi

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | None = None,
        length: Tensor | None = None,
        text: Tensor | None = None,
        *,
        steps: int | None = None,
        rows: int = 1,
    ) -> Tensor:
        """Run the program.

        With `x` and no `steps` all steps at once: sites `offset` and `pen`. With `steps` one at a time: `pen_0`, `x_0`,
        ..., of which the first ones are `x`.

        Args:
            x: (rows, points, 3): dx, dy, pen 0 or 1; without the end.
            length: (rows,), how many points; all by default.
            text: int64 (rows, U) or (1, U), -1 after the end. Always needed: the model has no distribution over texts.
            steps: run step by step, this far; the end is a step.
            rows: lines to write, where `x` is None.

        Returns:
            (rows, steps, 3), with the end as a step.
        """
        if text is None:
            raise ConfigError("handwriting needs a text to write")
        if x is not None:
            x, length = self.checked(x, length)
        if steps is not None or x is None:
            count = rows if x is None else len(x)
            with pyro.plate("data", count, dim=-1):
                return self.unroll(self.start(count, text), steps if steps is not None else 300, x, length)
        assert length is not None
        prediction, _ = self.predictions(x, text)
        with pyro.plate("data", len(x), dim=-2):
            self.sample_steps(prediction, x, length)
        return x

    def log_likelihood(self, x: Tensor, length: Tensor, text: Tensor) -> Tensor:
        """log p(strokes | text) in nats per line, (rows,); arguments as `forward`."""
        x, length = self.finish(x, length)
        prediction, _ = self.predictions(x, text)
        return torch.where(valid_steps(length, x.shape[1]), prediction.log_prob(x), 0.0).sum(-1)
