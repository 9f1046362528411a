"""The pictures of the README, small enough to be read at 350 pixels: `make pictures` draws them with the others.

They are the figures of the reports and the examples, of which the telling panels are kept, and one video.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.datasets.base import Dataset
    from phlogiston.systems.drmm.system import DRMM
    from phlogiston.systems.sqair.system import SQAIR

WIDTH = 3.5  # inches; saved at 200 dots per inch and shown at 350 pixels
MILLISECONDS = 450  # a frame of the video is shown


def keep(figure: Figure, panels: list[int], titles: list[str], height: float) -> Figure:
    """Keep some panels of a figure, side by side, at the width of the README's pictures."""
    from matplotlib.gridspec import GridSpec

    kept = [figure.axes[i] for i in panels]
    for panel in list(figure.axes):
        if panel not in kept:
            panel.remove()
    grid = GridSpec(1, len(kept), figure=figure)
    for panel, title, place in zip(kept, titles, grid, strict=True):
        panel.set_subplotspec(place)
        panel.set_title(title, fontsize=9)
    figure.set_size_inches(WIDTH, height)
    return figure


def questions(picture: Figure) -> Figure:
    """The Swiss roll without a question, in a box, and under two inequalities (of examples/drmm_swissroll_queries)."""
    figure = keep(picture, [0, 3, 4], ["no question", "in a box", "two inequalities"], 1.45)
    for panel in figure.axes:
        panel.set_xlabel("")
        for points, size in zip(panel.collections[-2:], (1.0, 2.0), strict=True):
            points.set_sizes([size])
    return figure


def kept_poses(reaching: Figure) -> Figure:
    """Bodies that reach for two and three targets, the last one under a beam (of systems.drmm.panels)."""
    figure = keep(reaching, [3, 4, 5], ["hands and feet", "one hand", "and head below"], 1.45)
    for panel in figure.axes:
        panel.set_xlabel("")
        for line in panel.lines:
            line.set_linewidth(0.6 * line.get_linewidth())
        for targets in panel.collections:
            targets.set_sizes([22])
    return figure


def several_answers(answers: Figure) -> Figure:
    """One answer by squared error, and draws from a mixture (of examples/mdn_inverse_sine)."""
    figure = keep(answers, [1, 2], ["squared error: one answer", "a mixture: all of them"], 1.85)
    for panel in figure.axes:
        panel.set_xlabel("")
        panel.tick_params(labelsize=7, left=panel is figure.axes[0], labelleft=panel is figure.axes[0])
    return figure


def survival(agents: Figure) -> Figure:
    """How long an agent that was trained in the dream alone lasts in the game itself (of systems.world.report)."""
    figure = keep(agents, [1], [""], 2.3)
    (panel,) = figure.axes
    panel.set_xlabel(panel.get_xlabel(), fontsize=9)
    panel.set_ylabel(panel.get_ylabel(), fontsize=9)
    panel.tick_params(labelsize=8)
    panel.legend(*panel.get_legend_handles_labels(), frameon=False, fontsize=9, loc="upper right")
    return figure


def completed(system: DRMM, data: Dataset, shown: ModuleType, digits: int = 7) -> Figure:
    """Held-out digits, their upper halves, and two samples of the rest (with examples/drmm_completion, `shown`)."""
    x = data.test.numpy().reshape(len(data.test), -1)[:digits].astype(np.float64)
    half = x.copy()
    half[:, x.shape[1] // 2 :] = np.nan
    drawn = [shown.complete(system, x, seed=seed)[1] for seed in (1, 2)]
    rows = {"digit": x, "given": half, "sample": drawn[0], "another": drawn[1]}
    figure: Figure = shown.picture(rows, data.meta.image_shape or (8, 8), digits)
    figure.set_size_inches(WIDTH, 2.0)
    return figure


def tracks(path: Path, system: SQAIR, videos: object, zoom: int = 3) -> None:
    """Write an animated GIF: videos above what the model renders, with boxes in the colour of their identity."""
    from PIL import Image

    from phlogiston.systems.sqair.pictures import video

    moving = np.array(video(system, videos, zoom=zoom))
    moving[:, moving.shape[1] // 2 - 1 : moving.shape[1] // 2 + 1] = moving[:, :, moving.shape[2] // 2] = 96  # lines
    frames = [Image.fromarray(frame) for frame in moving]
    colours = frames[0].quantize(64)  # one palette, so that nothing flickers
    pictures = [frame.quantize(64, palette=colours, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0, optimize=True)
