"""Figures of merit and pictures of handwriting synthesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.datasets.generated import script
from phlogiston.datasets.readers import script_reader
from phlogiston.datasets.readers.sequences import strokes_of
from phlogiston.evaluate.figures import ACCENT, INK, new_figure
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.base import rows_of
from phlogiston.systems.drawing import drawings_of, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.handwriting.system import HandwritingModel

WRITTEN = 40  # lines written to be read
PRIMES = 30


def evaluate(system: HandwritingModel, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `HandwritingModel.evaluate`."""
    tensors = rows_of(data)
    x, length, text = system.lines(data)
    found: dict[str, Metric] = {}
    if "log_likelihood" in wanted:
        found["log_likelihood"] = system.log_prob(data).mean()
    if "attention" in wanted and "position" in tensors:
        at, _ = system.attention(data)
        inside = valid_steps(length, at.shape[1])
        gap = (at - tensors["position"][:, : at.shape[1]]).abs().double()
        for name, most in (("attention_near", 1), ("attention_exact", 0)):
            rows = torch.where(inside, (gap <= most).double(), 0.0).sum(1) / length
            found[name] = from_rows(rows, "exact", True, {"unit": "share of points, mean over lines"})
    own = "".join(system.schema["alphabet"]) == script.ALPHABET
    if "legibility" in wanted and own:
        texts = [system.text_of(row) for row in text[:WRITTEN]]
        for bias in (0.0, 1.0):
            found[f"legible_bias_{bias:g}"] = legibility(system, texts, bias)
        read = [script_reader.read(row.numpy(), int(n)) for row, n in zip(x[:WRITTEN], length, strict=False)]
        shares = [script_reader.recovered(r, t) for r, t in zip(read, texts, strict=True)]
        found["legible_data"] = from_rows(shares, "estimate", True)
    if "style" in wanted and own and "style" in tensors:
        found["style_correlation"] = style(system, x, length, text, tensors["style"][:, 0])
    return found


def legibility(system: HandwritingModel, texts: list[str], bias: float) -> Metric:
    """Share of characters that are read from what the system writes."""
    lines = system.write(texts, bias=bias, seed=0)
    rows = zip(lines["x"], lines["length"], texts, strict=True)
    shares = [script_reader.recovered(script_reader.read(x.numpy(), int(n)), text) for x, n, text in rows]
    return from_rows(shares, "estimate", True, {"lines": len(texts), "bias": bias})


def style(system: HandwritingModel, x: Tensor, length: Tensor, text: Tensor, slant: Tensor) -> Metric:
    """Correlation of the slant of primes with that of what is written after them."""
    count = min(PRIMES, len(x))
    primes = [(x[i, : int(length[i])].numpy(), system.text_of(text[i])) for i in range(count)]
    lines = system.write(["hill the dill"] * count, bias=1.0, prime=primes, seed=0)
    found, given = [], []
    for i in range(count):
        measured = slant_of(lines["x"][i].numpy(), int(lines["length"][i]))
        if measured is not None:
            found.append(measured)
            given.append(float(slant[i]))
    if len(found) < 3 or np.std(found) == 0:
        return Metric(0.0, None, len(found), "estimate", True)
    r = float(np.corrcoef(found, given)[0, 1])
    return Metric(r, (1 - r * r) / max(1, len(found) - 2) ** 0.5, len(found), "estimate", True)


def slant_of(x: Array, length: int) -> float | None:
    """Slant of the tall straight strokes of a line (those of l, h, d, t), or None where there is none."""
    slants = []
    for stroke in strokes_of(x, length):
        step = np.diff(stroke, axis=0)
        steep = step[(step[:, 1] > 0.2) & (np.abs(step[:, 0]) < 0.6 * step[:, 1])]  # downwards
        slants += [(-s[0] / s[1], s[1]) for s in steep]
    if not slants:
        return None
    values = np.array(slants)
    order = values[:, 0].argsort()
    weight = np.cumsum(values[order, 1])
    return float(values[order, 0][np.searchsorted(weight, 0.5 * weight[-1])])


# ---- pictures


def figures(system: HandwritingModel, data: Any) -> dict[str, Figure]:
    """See `HandwritingModel.figures`."""
    x, length, text = system.lines(data)
    phrase = _phrase(system, text)
    found = {"biases": _biases(system, phrase, x, length, text)}
    found["hands"] = _hands(system, phrase, x, length, text)
    found["window"] = _window(system, data)
    if system.history is not None and system.history.records:
        figure = new_figure(6.0, 3.0, "loss over training")
        axes = figure.add_subplot()
        records = system.history.records
        axes.plot([r["step"] for r in records], [r.get("loss", np.nan) for r in records], color=INK, linewidth=1.2)
        axes.set(xlabel="step", ylabel="nats per line")
        found["training"] = figure
    return found


def _phrase(system: HandwritingModel, text: Tensor) -> str:
    wanted = "hello world"
    return wanted if set(wanted) <= set(system.schema["alphabet"]) else system.text_of(text[0])


def _line(axes: Any, row: Tensor, length: Any, title: str, colour: str = INK) -> None:
    show(axes, drawings_of(row.unsqueeze(0), torch.as_tensor([int(length)]))[0], colour=colour, width=1.4)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, loc="left")


def _biases(system: HandwritingModel, phrase: str, x: Tensor, length: Tensor, text: Tensor) -> Figure:
    """Real lines, then one phrase at four biases."""
    figure = new_figure(9.0, 6.0, "lines from the data, and a phrase written at four biases")
    for k in range(2):
        axes = figure.add_subplot(5, 2, k + 1)
        _line(axes, x[k], length[k], f"data: {system.text_of(text[k])!r}")
    for r, bias in enumerate((0.0, 0.5, 1.0, 2.0)):
        lines = system.write(phrase, 2, bias=bias, seed=5)
        for k in range(2):
            axes = figure.add_subplot(5, 2, 3 + 2 * r + k)
            _line(axes, lines["x"][k], lines["length"][k], f"{phrase!r}, bias {bias:g}")
    return figure


def _hands(system: HandwritingModel, phrase: str, x: Tensor, length: Tensor, text: Tensor) -> Figure:
    """A word in the hands of lines short enough that both together are no longer than lines of the data."""
    word = phrase.split(" ")[0]
    letters = (text >= 0).sum(1)
    short = (letters + 1 + len(word) <= text.shape[1]).nonzero().squeeze(-1)
    chosen = (short if len(short) else letters.argsort())[:4].tolist()
    figure = new_figure(9.0, 1.3 * len(chosen), "examples of a hand, and a word written in each")
    for r, row in enumerate(chosen):
        prime = (x[row, : int(length[row])], system.text_of(text[row]))
        _line(figure.add_subplot(len(chosen), 2, 2 * r + 1), x[row], length[row], f"example: {prime[1]!r}", ACCENT)
        line = system.write(word, prime=prime, bias=1.0, seed=r)
        _line(figure.add_subplot(len(chosen), 2, 2 * r + 2), line["x"][0], line["length"][0], f"{word!r} in that hand")
    return figure


def _window(system: HandwritingModel, data: Any) -> Figure:
    """The window's way over a text, and the true letters where they are known."""
    tensors = rows_of(data)
    x, length, text = system.lines(data)
    row = int(length[:20].argmax())
    part = {"x": x[row : row + 1], "length": length[row : row + 1], "text": text[row : row + 1]}
    _, phi = system.attention(part)
    n = int(length[row])
    letters = system.text_of(text[row])
    figure = new_figure(7.0, 3.2, "how much of each character the network sees at each point")
    axes = figure.add_subplot()
    axes.imshow(phi[0, :n, : len(letters)].T.numpy(), aspect="auto", cmap="magma", interpolation="nearest")
    if "position" in tensors:
        axes.plot(np.arange(n), tensors["position"][row, :n].numpy(), color="white", linewidth=1.0, label="true letter")
        axes.legend(frameon=False, labelcolor="white", fontsize=8)
    axes.set_yticks(range(len(letters)), [c if c != " " else "␣" for c in letters])
    axes.set(xlabel="point")
    return figure
