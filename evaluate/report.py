"""Reports: one HTML page that holds everything (pictures inside, no scripts, nothing fetched), and `metrics.json`.

The page reads in light and dark, on paper and on a narrow screen, and tells the sample size, the error bar and the
kind of each figure it shows.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phlogiston.errors import DataError, RunError
from phlogiston.evaluate.metric import Metric
from phlogiston.files import write_bytes, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Picture = Figure | bytes | str | Path

Rows = Sequence[Mapping[str, Any]]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --paper: #fbfaf7; --card: #ffffff; --line: #e2dfd8;
  --accent: #9a3412; --good: #e8f3ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #a7adb8; --paper: #15171b; --card: #1d2026;
  --line: #343943; --accent: #fb923c; --good: #20352a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 Charter, "Bitstream Charter", Georgia,
  serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; } h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 0 0 .5rem; padding-top: .25rem; } .when { color: var(--soft); margin: 0 0 1rem; }
nav ol { columns: 20rem; column-gap: 3rem; padding: 0 0 0 1.8rem; margin: 0 0 1rem; }
nav li { break-inside: avoid; }
a { color: var(--accent); } section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem 1.5rem; margin: 0 0 1.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .75rem 0 1rem; font: 14px/1.45 system-ui,
  sans-serif; font-variant-numeric: tabular-nums; } caption { text-align: left; color: var(--soft);
  padding: 0 0 .35rem; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; } td.best { background: var(--good); font-weight: 650; }
.direction, .detail { color: var(--soft); font-size: 12.5px; } figure { margin: 1rem 0 0; }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font: 14px/1.45 system-ui, sans-serif; margin-top: .3rem; }
footer { color: var(--soft); font-size: 13px; padding-bottom: 2.5rem; }
@media print { :root { color-scheme: light; --ink: #000000; --soft: #444444; --paper: #ffffff; --card: #ffffff;
  --line: #bbbbbb; --accent: #7c2d12; --good: #eeeeee; } body { font-size: 12px; } section { border: 0; padding: 0; }
  section + section { break-before: page; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  figure img { max-height: 15cm; } .wide { overflow: visible; } table { font-size: 10.5px; } a { color: inherit; } }
"""

_KINDS_EXPLAINED = (
    "± is one standard error. <em>exact</em>: each row's figure is computed exactly, the error bar is that of the "
    "choice of rows; <em>lower bound</em>, <em>upper bound</em>: the true figure is on the other side in expectation; "
    "<em>estimate</em>: neither."
)


class Report:
    """A page under construction.

    Args:
        title: the page's heading.
        text: a paragraph below it.

    Example:
        >>> report = Report("A small run").section("Fit", "How well?", metrics={"accuracy": Metric(0.99, 0.01, 100)})
        >>> "0.990 ± 0.010" in report.html()
        True
    """

    def __init__(self, title: str, text: str = "") -> None:
        self.title = title
        self.text = text
        self.metrics: dict[str, Metric] = {}
        self._sections: list[tuple[str, str]] = []

    def section(
        self,
        title: str,
        text: str = "",
        *,
        metrics: Mapping[str, Metric] | None = None,
        figures: Mapping[str, Picture] | None = None,
        tables: Mapping[str, Rows] | None = None,
        pictures_first: bool = False,
    ) -> Report:
        """Add a section.

        Args:
            title: its heading.
            text: plain text; an empty line begins a new paragraph.
            metrics: name -> metric, shown as a table, and collected in `Report.metrics`.
            figures: caption -> matplotlib Figure, or a PNG, JPEG or GIF as bytes or as a path. What a Figure's
                `set_label` was given becomes the alternative text, else the caption does.
            tables: caption -> rows, each a dict of column -> cell; a `Metric` in a cell is written with its error.
            pictures_first: pictures stand above the tables instead of below them.

        Returns:
            The report, so that calls chain.

        Raises:
            DataError: a picture that is none of the known formats.
        """
        drawn = [_figure(caption, picture) for caption, picture in (figures or {}).items()]
        parts = [_paragraphs(text), *(drawn if pictures_first else [])]
        if metrics:
            self.metrics.update(metrics)
            parts.append(_metric_table(metrics))
        parts += [_table(caption, rows) for caption, rows in (tables or {}).items()]
        parts += [] if pictures_first else drawn
        self._sections.append((title, "\n".join(part for part in parts if part)))
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
        names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))
        head = "".join(f'<th scope="col" class="number">{escape(run)}</th>' for run in runs)
        body = []
        for name in names:
            present = {run: metrics[name] for run, metrics in runs.items() if name in metrics}
            marked = _best(present)
            cells = "".join(_compared(present.get(run), run in marked) for run in runs)
            first = next(iter(present.values()))
            body.append(f'<tr><th scope="row">{escape(name)} {_direction(first)}</th>{cells}</tr>')
        table = (
            f'<div class="wide"><table><caption>{_KINDS_EXPLAINED} Shaded: the best, and all within two joint standard '
            f'errors of it.</caption><thead><tr><th scope="col">figure</th>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        self._sections.append((title, _paragraphs(text) + table))
        return self

    def html(self) -> str:
        """Return the whole page."""
        when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        links = "".join(f'<li><a href="#s{i}">{escape(t)}</a></li>' for i, (t, _) in enumerate(self._sections))
        contents = f'<nav aria-label="contents"><ol>{links}</ol></nav>' if len(self._sections) > 1 else ""
        sections = "\n".join(
            f'<section id="s{i}"><h2>{escape(title)}</h2>\n{body}</section>'
            for i, (title, body) in enumerate(self._sections)
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
            f'<header><h1>{escape(self.title)}</h1><p class="when">{escape(when)}</p>{_paragraphs(self.text)}{contents}'
            f"</header>\n<main>\n{sections}\n</main>\n<footer><p>Written by phlogiston.</p></footer>\n</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page as one file that needs no other; a reader never sees half of it.

        Returns:
            The path.
        """
        return write_bytes(path, self.html().encode())


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; `phlogiston evaluate RUN` writes it.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
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
    told = [f"{name}: {text}." for name, folder in zip(names, folders, strict=True) if (text := _circumstances(folder))]
    return Report(title, " ".join(told)).comparison("Figures of merit", runs)


def _circumstances(folder: str | Path) -> str:
    """What a reader of a run's figures must know: that it was not finished, that they are of validation rows."""
    path = Path(folder)
    content = json.loads((path / "metrics.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    told = []
    if content.get("finished") is False:
        told.append(f"unfinished, scored at step {content.get('step')} of {content.get('steps')}")
    if content.get("rows") == "validation":
        told.append("scored on validation rows")
    return ", ".join(told)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _direction(metric: Metric) -> str:
    if metric.higher_is_better is None:
        return ""
    word, arrow = ("higher", "↑") if metric.higher_is_better else ("lower", "↓")
    return f'<span class="direction" title="{word} is better" aria-label="({word} is better)">{arrow}</span>'


def _detail(metric: Metric) -> str:
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in metric.detail.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value[:12]) + (", …" if len(value) > 12 else "")
    return str(value)


def _metric_table(metrics: Mapping[str, Metric]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)} {_direction(m)}</th><td class="number">{escape(m.text())}</td>'
        f'<td class="number">{m.n}</td><td>{m.kind}</td><td class="detail">{escape(_detail(m))}</td></tr>'
        for name, m in metrics.items()
    )
    return (
        f'<div class="wide"><table><caption>{_KINDS_EXPLAINED}</caption><thead><tr><th scope="col">figure</th>'
        '<th scope="col" class="number">value</th><th scope="col" class="number">n</th><th scope="col">kind</th>'
        f'<th scope="col">detail</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _table(caption: str, rows: Rows) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in columns)
    body = "".join("<tr>" + "".join(_cell(row.get(column, "")) for column in columns) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, Metric):
        return f'<td class="number">{escape(value.text())}</td>'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number">{escape(_plain(value))}</td>'
    return f"<td>{escape(str(value))}</td>"


def _best(present: Mapping[str, Metric]) -> set[str]:
    """Return the runs that nothing else beats by more than two joint standard errors."""
    if len(present) < 2 or any(metric.higher_is_better is None for metric in present.values()):
        return set()
    if len({metric.kind for metric in present.values()}) > 1:
        return set()  # a bound and an exact figure do not compete
    return {run for run, m in present.items() if not any(other.better_than(m) for other in present.values())}


def _compared(metric: Metric | None, best: bool) -> str:
    if metric is None:
        return '<td class="number">–</td>'
    mark = ' class="number best"' if best else ' class="number"'
    return (
        f'<td{mark} title="{escape(_detail(metric))}">{escape(metric.text())}<br>'
        f'<span class="detail">n = {metric.n}, {metric.kind}</span></td>'
    )


_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


def _figure(caption: str, picture: Picture) -> str:
    alt = caption
    if isinstance(picture, str | Path):
        try:
            content = Path(picture).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the picture {str(picture)!r}: {error}") from error
    elif isinstance(picture, bytes):
        content = picture
    else:
        alt = str(picture.get_label() or caption)
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=120, facecolor="white")
        content = buffer.getvalue()
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)
    if kind is None:
        raise DataError(f"the picture {caption!r} is neither PNG, JPEG nor GIF.")
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
