"""Figures of merit and pictures of handwriting synthesis, as tables; see `systems.evaluation`.

Metrics by group::

    log_likelihood    in nats per line
    attention         where the true letter of each point is known, `attention_near` (share of points at which the
                      window's argmax is within one character of it) and `attention_exact`
    legibility        for the built-in script, `legible_bias_0`, `_1` and `_3`, the share of characters that a reader of
                      shapes recovers from what is written, and `legible_data` from the data
    style             for the built-in script, of what is written after a prime: `hand_kept`, the share in the prime's
                      hand, and `style_correlation`, of its slant with the prime's
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.generated import script
from phlogiston.datasets.generated.script_hands import HANDS
from phlogiston.datasets.readers import script_reader
from phlogiston.evaluate.figures import ACCENT, MAP, new_figure
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.inference.query.evidence import Known
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.drawing import PEN, drawings_of, show
from phlogiston.systems.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer
    from phlogiston.systems.handwriting.system import HandwritingModel

WRITTEN = 40  # lines written to be read
PRIMES = 30
FEWEST = 5  # letters of an example


def _lines(e: Evaluation[HandwritingModel]) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out strokes (rows, points, 3), their lengths (rows,) and texts (rows, U)."""
    return e.once("lines", lambda: e.system.lines(e.rows))


def _is_script(system: HandwritingModel) -> bool:
    """Whether the alphabet is that of the built-in script, whose shapes can be read."""
    return "".join(system.schema["alphabet"]) == script.ALPHABET


def attention(e: Evaluation[HandwritingModel]) -> dict[str, Metric]:
    """How near the window is to the true letter."""
    if "position" not in e.rows.tensors:
        return {}
    _, length, _ = _lines(e)
    at, _ = e.system.attention(e.rows)
    inside = valid_steps(length, at.shape[1])
    gap = (at - e.rows.tensors["position"][:, : at.shape[1]]).abs().double()
    metrics = {}
    for name, most in (("attention_near", 1), ("attention_exact", 0)):
        shares = torch.where(inside, (gap <= most).double(), 0.0).sum(1) / length
        metrics[name] = from_rows(shares, "exact", True, {"unit": "share of points, mean over lines"})
    return metrics


def legibility(e: Evaluation[HandwritingModel]) -> dict[str, Metric]:
    """Share of characters that can be read from what the system writes, and from the data."""
    if not _is_script(e.system):
        return {}
    x, length, text = _lines(e)
    texts = [e.system.text_of(row) for row in text[:WRITTEN]]
    metrics = {}
    for bias in (0.0, 1.0, 3.0):
        lines = e.system.write(texts, bias=bias, seed=0)
        shares = _recovered(lines["x"], lines["length"], texts)
        metrics[f"legible_bias_{bias:g}"] = from_rows(shares, "estimate", True, {"lines": len(texts), "bias": bias})
    shares = _recovered(x[:WRITTEN], length[:WRITTEN], texts)
    return {**metrics, "legible_data": from_rows(shares, "estimate", True)}


def _recovered(x: Tensor, length: Tensor, texts: list[str]) -> list[float]:
    """Share of each line's characters that a reader of shapes recovers."""
    return [
        script_reader.recovered(script_reader.read(row.numpy(), int(n)), text)
        for row, n, text in zip(x, length, texts, strict=True)
    ]


def style(e: Evaluation[HandwritingModel]) -> dict[str, Metric]:
    """Whether what is written after a prime is in its hand, and slanted as it is."""
    if not _is_script(e.system) or not {"style", "hand"} <= set(e.rows.tensors):
        return {}
    x, length, text = _lines(e)
    count = min(PRIMES, len(x))
    primes = [(x[i, : int(length[i])].numpy(), e.system.text_of(text[i])) for i in range(count)]
    lines = e.system.write(["hill the dill"] * count, bias=1.0, prime=primes, seed=0)
    found = [script_reader.reading(lines["x"][i].numpy(), int(lines["length"][i])) for i in range(count)]
    hands = [HANDS[i] for i in e.rows.tensors["hand"][:count].tolist()]
    kept = [float(one.hand == hand) for one, hand in zip(found, hands, strict=True)]
    metrics = {"hand_kept": from_rows(kept, "estimate", True, {"lines": count})}
    read = np.array([one.slant for one in found])
    given = e.rows.tensors["style"][:count, 0].double().numpy()
    if count < 3 or np.std(read) == 0:
        return {**metrics, "style_correlation": Metric(0.0, None, count, "estimate", True)}
    r = float(np.corrcoef(read, given)[0, 1])
    error = (1 - r * r) / max(1, count - 2) ** 0.5
    return {**metrics, "style_correlation": Metric(r, error, count, "estimate", True)}


METRICS = {"attention": attention, "legibility": legibility, "style": style}


def one_point_lost(e: Evaluation[HandwritingModel]) -> tuple[str, Answer]:
    """A point that was lost, given the text and the points around it."""
    x, length, text = _lines(e)
    x = x[0, : min(12, int(length[0]))]
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[len(x) // 2] = False
    words = e.system.text_of(text[0])
    answer = e.system.query({"x": Known(x, mask)}, text=words, num_samples=200, seed=0)
    return f"the text '{words}' and {len(x)} points, one lost", answer


EXAMPLE_QUERIES = [one_point_lost]


# ---- pictures


def _phrase(e: Evaluation[HandwritingModel]) -> str:
    """A phrase of the alphabet, else a text of the data."""
    phrase = "hello world"
    return phrase if set(phrase) <= set(e.system.schema["alphabet"]) else e.system.text_of(_lines(e)[2][0])


def _line(axes: Any, row: Tensor, length: Any, title: str, colour: str = PEN) -> None:
    show(axes, drawings_of(row.unsqueeze(0), torch.as_tensor([int(length)]))[0], colour=colour, width=1.4)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, loc="left")


def _to_scale(figure: Figure) -> None:
    """Show all lines of a figure in one scale, beginning at the left."""
    widest = max(axes.get_xlim()[1] - axes.get_xlim()[0] for axes in figure.axes)
    for axes in figure.axes:
        left = axes.get_xlim()[0]
        axes.set_xlim(left, left + widest)
        axes.set_anchor("W")


def biases(e: Evaluation[HandwritingModel]) -> Figure:
    """Lines of the data, and below each a phrase in its hand at four biases, from the same noise: without bias letters
    vary as in the data, the larger it is the neater and the more alike they are. Every line should be legible.
    """
    system, phrase, (x, length, text) = e.system, _phrase(e), _lines(e)
    examples = _examples(e, 1)
    figure = new_figure(2.6 * len(examples), 4.6, "lines of the data, and a phrase in the hand of each at four biases")
    primes = [(x[k, : int(length[k])], system.text_of(text[k])) for k in examples]
    for column, (row, name) in enumerate(zip(primes, _names(e, examples), strict=True)):
        axes = figure.add_subplot(5, len(examples), column + 1)
        _line(axes, row[0], len(row[0]), f"{name}: {row[1]!r}", ACCENT)
    for k, bias in enumerate((0.0, 0.5, 1.0, 3.0), 1):
        lines = system.write([phrase] * len(examples), bias=bias, prime=primes, seed=0)
        for column in range(len(examples)):
            axes = figure.add_subplot(5, len(examples), k * len(examples) + column + 1)
            _line(axes, lines["x"][column], lines["length"][column], f"bias {bias:g}")
    _to_scale(figure)
    return figure


def _examples(e: Evaluation[HandwritingModel], each: int) -> list[int]:
    """Short lines, `each` in every hand; lines that do not say whose they are count as of one hand, twice as many."""
    letters = (_lines(e)[2] >= 0).sum(1)
    hand = e.rows.tensors.get("hand", torch.zeros_like(letters))
    chosen = []
    for one in hand.unique().tolist():
        own = (hand == one).nonzero().squeeze(-1)
        # some letters show a hand, and a short line leaves room for what is written after it
        order = torch.where(letters[own] >= FEWEST, letters[own], 100).argsort(stable=True)
        chosen += own[order][: each if len(hand.unique()) > 1 else 2 * each].tolist()
    return chosen


def _names(e: Evaluation[HandwritingModel], rows: list[int]) -> list[str]:
    if "hand" not in e.rows.tensors or not _is_script(e.system):
        return ["data"] * len(rows)
    return [HANDS[i] for i in e.rows.tensors["hand"][rows].tolist()]


def hands(e: Evaluation[HandwritingModel]) -> Figure:
    """Left lines of the data, each in a hand of its own (orange), right a phrase written after each of them: letters
    should be shaped, joined and slanted as the example's are.
    """
    system, (x, length, text) = e.system, _lines(e)
    phrase = _phrase(e)
    chosen = _examples(e, 2)
    figure = new_figure(7.5, 0.9 * len(chosen), "examples of a hand, and a phrase written in each")
    for r, row in enumerate(chosen):
        prime = (x[row, : int(length[row])], system.text_of(text[row]))
        _line(figure.add_subplot(len(chosen), 2, 2 * r + 1), x[row], length[row], f"example: {prime[1]!r}", ACCENT)
        line = system.write(phrase, prime=prime, bias=1.0, seed=r)
        title = f"{phrase!r} in that hand"
        _line(figure.add_subplot(len(chosen), 2, 2 * r + 2), line["x"][0], line["length"][0], title)
    _to_scale(figure)
    return figure


def window(e: Evaluation[HandwritingModel]) -> Figure:
    """Which letter the network looks at while it writes: bright steps should go down from letter to letter, along the
    line of the true letters where it is drawn. Nobody told the network where a letter ends.
    """
    system, tensors, (x, length, text) = e.system, e.rows.tensors, _lines(e)
    row = int(length[:20].argmax())
    part = {"x": x[row : row + 1], "length": length[row : row + 1], "text": text[row : row + 1]}
    _, phi = system.attention(part)
    n = int(length[row])
    letters = system.text_of(text[row])
    figure = new_figure(7.0, 3.2, "how much of each character the network sees at each point")
    axes = figure.add_subplot()
    axes.imshow(phi[0, :n, : len(letters)].T.numpy(), aspect="auto", cmap=MAP, interpolation="nearest")
    if "position" in tensors:
        axes.plot(np.arange(n), tensors["position"][row, :n].numpy(), color="white", linewidth=1.0, label="true letter")
        axes.legend(frameon=False, labelcolor="white", fontsize=8)
    axes.set_yticks(range(len(letters)), [c if c != " " else "␣" for c in letters])
    axes.set(xlabel="point")
    return figure


FIGURES = {"biases": biases, "hands": hands, "window": window}
LOSS_UNIT = "nats per line"
