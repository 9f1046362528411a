"""Sequences into files: drawings as SVG, PNG and GIF, performances as MIDI, WAV and a plot, all of them as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError
from phlogiston.evaluate.figures import INK, new_figure
from phlogiston.systems import drawing, music

SUFFIXES = (".svg", ".mid", ".wav")
_SHOWN = 36


def is_sequences(tensors: Mapping[str, Array]) -> bool:
    """Say whether samples are sequences: `x` (rows, steps, columns) and `length` (rows,)."""
    x, length = tensors.get("x"), tensors.get("length")
    return x is not None and length is not None and x.ndim == 3 and length.ndim == 1


def write(path: Path, x: Array, length: Array, names: tuple[str, ...] = ()) -> None:
    """Write sequences in the form the suffix asks for.

    `.svg`, `.png`, `.gif`: drawings. `.mid`, `.wav`: the first performance as notes or sound; `.png` shows performances
    on their screen. `.csv`: one row per step, with the number of its sequence.

    Args:
        path: the file.
        x: (rows, steps, columns).
        length: (rows,), steps that count.
        names: of the columns; numbered by default.

    Raises:
        ConfigError: these sequences cannot be shown in that form.
    """
    kind = path.suffix.lower()
    columns = names or tuple(f"x{i}" for i in range(x.shape[2]))
    if kind == ".csv":
        _write_csv(path, x, length, columns)
    elif kind in (".mid", ".wav"):
        rows = [x[i, : int(n)] for i, n in enumerate(length) if n > 0]
        if not rows:
            raise ConfigError("there is no step to play")
        path.write_bytes(music.midi(rows[0], columns) if kind == ".mid" else music.wav(rows[0], columns))
    elif columns == ("dx", "dy", "pen"):
        drawings = drawing.drawings_of(x[:_SHOWN], length[:_SHOWN])
        if kind == ".svg":
            path.write_text(drawing.svg(drawings), encoding="utf-8")
        elif kind == ".png":
            drawing.png(path, drawings)
        elif kind == ".gif":
            drawing.gif(path, drawings)
        else:
            raise ConfigError(f"drawings are no {kind} file; use .svg, .png, .gif, .csv or .npz")
    elif kind == ".png":
        _plot(path, x, length, columns)
    else:
        raise ConfigError(f"sequences of {', '.join(columns)} are no {kind} file; use .mid, .wav, .png, .csv or .npz")


def _write_csv(path: Path, x: Array, length: Array, columns: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sequence", "step", *columns])
        for i, n in enumerate(length):
            writer.writerows([i, t, *(f"{v:.9g}" for v in row)] for t, row in enumerate(x[i, : int(n)].tolist()))


def _plot(path: Path, x: Array, length: Array, columns: tuple[str, ...]) -> None:
    """Touches on their screen where the columns are those of touches, otherwise every column over time."""
    count = min(len(x), 16)
    touch = {"x", "y", "dt"} <= set(columns)
    across = min(4, count)
    figure = new_figure(2.2 * across, 2.2 * -(-count // across), "sequences")
    for i in range(count):
        own = x[i, : int(length[i])]
        axes = figure.add_subplot(-(-count // across), across, i + 1)
        times = np.cumsum(own[:, columns.index("dt")]) if "dt" in columns else np.arange(len(own))
        if touch:
            axes.scatter(
                own[:, columns.index("x")], own[:, columns.index("y")], c=times, s=6, cmap="plasma", linewidths=0
            )
            axes.set(xlim=(-0.03, 1.03), ylim=(1.03, -0.03), xticks=[], yticks=[], aspect="equal")
            continue
        for k, name in enumerate(columns):
            if name != "dt":
                axes.plot(times, own[:, k], linewidth=0.8, label=name, color=INK if len(columns) < 3 else None)
        axes.tick_params(labelsize=6)
    figure.savefig(path, dpi=120)
