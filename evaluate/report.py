"""Reports: one HTML page that holds everything (pictures inside, no scripts, nothing fetched), and `metrics.json`.

The page reads in light and dark, on paper and on a narrow screen, and gives the sample size, the error bar and the
kind of each figure it shows. `report.html` beside this file is its template.
"""

from __future__ import annotations

import base64
import datetime
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phlogiston.datasets.untrusted.documents import read_json
from phlogiston.errors import DataError, RunError
from phlogiston.evaluate.metric import Metric
from phlogiston.files import write_bytes, write_json

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

    Picture = Figure | bytes | str | Path

Rows = Sequence[Mapping[str, Any]]


@dataclass
class _Section:
    title: str
    text: str
    failed: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list)


class Report:
    """A page under construction.

    Args:
        title: the page's heading.
        text: a paragraph below it; an empty line begins a new one, here and wherever text is taken.
        made: what was done -> the command that did it, for the last section, "How this was made".

    Example:
        >>> report = Report("A small run").section("Fit", "How well?", metrics={"accuracy": Metric(0.99, 0.01, 100)})
        >>> "0.990 ± 0.010" in report.html()
        True
    """

    def __init__(self, title: str, text: str = "", made: Mapping[str, str] | None = None) -> None:
        self.title = title
        self.text = text
        self.made = dict(made or {})
        self.metrics: dict[str, Metric] = {}
        self._sections: list[_Section] = []

    def section(
        self,
        title: str,
        text: str = "",
        *,
        metrics: Mapping[str, Metric] | None = None,
        figures: Mapping[str, Picture] | None = None,
        captions: Mapping[str, str] | None = None,
        tables: Mapping[str, Rows] | None = None,
        pictures_first: bool = False,
        failed: str = "",
    ) -> Report:
        """Add a section.

        Args:
            title: its heading.
            text: plain text.
            metrics: name -> metric, shown as a table, and collected in `Report.metrics`.
            figures: name -> matplotlib Figure, or a PNG, JPEG or GIF as bytes or as a path. A Figure becomes an SVG
                whose black turns light in dark mode; what its `set_label` was given becomes the alternative text.
            captions: name of a figure -> a sentence that says what to look for.
            tables: caption -> rows, each a dict of column -> cell; a `Metric` in a cell is written with its error.
            pictures_first: pictures stand above the tables instead of below them.
            failed: what went wrong, where something did; set apart from the rest.

        Returns:
            The report, so that calls chain.

        Raises:
            DataError: a picture that is none of the known formats.
        """
        notes = captions or {}
        drawn = [_figure(name, picture, notes.get(name, "")) for name, picture in (figures or {}).items()]
        section = _Section(title, text, failed, drawn if pictures_first else [])
        if metrics:
            self.metrics.update(metrics)
            section.blocks.append({"kind": "metrics", "metrics": metrics})
        for caption, rows in (tables or {}).items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            section.blocks.append({"kind": "table", "caption": caption, "columns": columns, "rows": rows})
        section.blocks += [] if pictures_first else drawn
        self._sections.append(section)
        return self

    def comparison(self, title: str, runs: Mapping[str, Mapping[str, Metric]], text: str = "") -> Report:
        """Add a table with one row per metric and one column per run, the best of each row marked.

        Several runs are marked when they lie within two joint standard errors of the best.

        Args:
            title: the section's heading.
            runs: name of a run -> its metrics; a run may lack some.
            text: plain text above the table.

        Raises:
            DataError: no runs.
        """
        if not runs:
            raise DataError("a comparison needs at least one run.")
        rows = []
        for name in dict.fromkeys(name for metrics in runs.values() for name in metrics):
            present = {run: metrics[name] for run, metrics in runs.items() if name in metrics}
            first = next(iter(present.values()))
            rows.append({"name": name, "first": first, "present": present, "best": _best(present)})
        block = {"kind": "comparison", "runs": list(runs), "rows": rows}
        self._sections.append(_Section(title, text, blocks=[block]))
        return self

    def html(self) -> str:
        """Return the whole page."""
        when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        return _template().render(
            title=self.title, text=self.text, when=when, sections=self._sections, made=self.made, versions=_versions()
        )

    def write(self, path: str | Path) -> Path:
        """Write the page as one file that needs no other; a reader never sees half of it.

        Returns:
            The path.
        """
        return write_bytes(path, self.html().encode())


@cache
def _template() -> jinja2.Template:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"detail": _detail, "cell": _plain}
    environment.tests["metric"] = lambda value: isinstance(value, Metric)
    return environment.get_template("report.html")


def _versions() -> str:
    import torch

    from phlogiston import __version__

    return f"phlogiston {__version__}, torch {torch.__version__}, Python {platform.python_version()}."


def write_metrics(path: str | Path, metrics: Mapping[str, Metric], **context: Any) -> Path:
    """Write `metrics.json`: whatever `context` says (run, data), and `metrics` by name."""
    return write_json(path, {**context, "metrics": {name: metric.to_json() for name, metric in metrics.items()}})


def read_metrics(path: str | Path) -> dict[str, Metric]:
    """Read the metrics of a `metrics.json`, given the file or the run folder that holds it.

    Raises:
        RunError: there is none.
        DataError: the file is no metrics file.
    """
    path = Path(path)
    path = path / "metrics.json" if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"{path} does not exist; `phlogiston evaluate RUN` writes it.")
    content = read_json(path, "metrics of a run, in JSON")
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise DataError(f"{path} has no 'metrics'.")
    return {name: Metric.from_json(entry) for name, entry in content["metrics"].items()}


def compare_runs(folders: Sequence[str | Path], title: str = "Runs compared") -> Report:
    """Set the metrics of several evaluated runs side by side.

    Args:
        folders: run folders with a `metrics.json` each; shown by folder name, by whole path where names repeat. Runs
            that were unfinished when they were scored are named as such.
        title: the page's heading.

    Raises:
        RunError: a run was not evaluated.
    """
    short = [Path(folder).name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = {name: read_metrics(folder) for name, folder in zip(names, folders, strict=True)}
    notes = [
        f"{name}: {text}." for name, folder in zip(names, folders, strict=True) if (text := _circumstances(folder))
    ]
    return Report(title, " ".join(notes)).comparison("Figures of merit", runs)


def _circumstances(folder: str | Path) -> str:
    """What a reader of a run's figures must know: that it was not finished, that they are of validation rows."""
    path = Path(folder)
    content = read_json(path / "metrics.json" if path.is_dir() else path, "metrics of a run, in JSON")
    notes = []
    if content.get("finished") is False:
        notes.append(f"unfinished, scored at step {content.get('step')} of {content.get('steps')}")
    if content.get("rows") == "validation":
        notes.append("scored on validation rows")
    return ", ".join(notes)


def _detail(metric: Metric) -> str:
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in metric.detail.items())


def _plain(value: Any) -> str:
    if isinstance(value, Metric):
        return value.text()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value[:12]) + (", …" if len(value) > 12 else "")
    return str(value)


def _best(present: Mapping[str, Metric]) -> set[str]:
    """Return the runs that nothing else beats by more than two joint standard errors."""
    if len(present) < 2 or any(metric.higher_is_better is None for metric in present.values()):
        return set()
    if len({metric.kind for metric in present.values()}) > 1:
        return set()  # a bound and an exact figure do not compete
    return {run for run, m in present.items() if not any(other.better_than(m) for other in present.values())}


_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"<?xml": "svg+xml"}


def _figure(name: str, picture: Picture, caption: str) -> dict[str, Any]:
    """What the template needs of a picture: its source as a data URI, alternative text, width in CSS pixels."""
    alt, width = caption or name, None
    if isinstance(picture, str | Path):
        try:
            content = Path(picture).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the picture {str(picture)!r}: {error}") from error
    elif isinstance(picture, bytes):
        content = picture
    else:
        alt = str(picture.get_label() or alt)
        content, width = svg(picture), round(96 * picture.get_figwidth())
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)
    if kind is None:
        raise DataError(f"the picture {name!r} is neither PNG, JPEG, GIF nor SVG.")
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"kind": "figure", "name": name, "caption": caption, "alt": alt, "source": source, "width": width}


_THEMES = (
    "<style>svg {color: #1d2430; fill: #1d2430} "
    "@media screen and (prefers-color-scheme: dark) {svg {color: #e8e6e1; fill: #e8e6e1}}</style>"
)


def svg(figure: Figure, themes: bool = True) -> bytes:
    """Write a figure as SVG that follows light and dark: what is black becomes the text colour, what is white stays.

    The ground is transparent. Other colours must be legible on both grounds, as those of `evaluate.figures` are.

    Args:
        figure: what to write.
        themes: whether it says itself what the text colour is in light and in dark; else that is for the page it
            stands in.
    """
    white = [axes for axes in figure.axes if axes.get_facecolor() == (1.0, 1.0, 1.0, 1.0)]
    for axes in white:
        axes.set_facecolor("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=144, facecolor="none")
    for axes in white:
        axes.set_facecolor("white")
    text = buffer.getvalue().decode()
    start = text.index(">", text.index("<svg")) + 1  # black fills carry no colour of their own, black lines do
    return (text[:start] + _THEMES * themes + text[start:].replace("stroke: #000000", "stroke: currentColor")).encode()
