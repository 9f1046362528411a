"""The demo: every system's recipes trained on built-in data, and one report with a section for each.

A section holds figures of merit with those of simpler methods beside them, the pictures that explain what was learned,
questions that were asked and what was found, and the commands that go on from there.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonWarning, RunError
from phlogiston.evaluate.report import Report, write_metrics
from phlogiston.files import write_json
from phlogiston.inference.query.answer import Answer
from phlogiston.systems.answer_text import numbers
from phlogiston.systems.base import System
from phlogiston.systems.workflow import score

DEMO = "demo.json"


def demo(out: str | Path, *, quick: bool = False, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Train every system's demo recipes and write one report.

    Called again, it goes on where it was interrupted, and finished runs are not trained again.

    Args:
        out: folder for the runs and `report.html`; fresh, or of an earlier demo.
        quick: fewer steps.
        say: told what is going on, line by line.

    Returns:
        `report` and `runs`.

    Raises:
        ConfigError: the folder holds something else.
    """
    top = Path(out)
    if top.exists() and (not top.is_dir() or (any(top.iterdir()) and not (top / DEMO).is_file())):
        raise ConfigError(f"{str(top)!r} holds something that is no demo. Choose another --out.")
    recipes = [(name, recipe) for name in systems.names() for recipe in systems.get(name).demo(quick)]
    top.mkdir(parents=True, exist_ok=True)
    write_json(top / DEMO, {"quick": quick, "recipes": [recipe["title"] for _, recipe in recipes]})
    report = Report(
        "phlogiston demo",
        "Every system, trained on built-in data on this machine: what it learned, figures of merit with those of "
        "simpler methods beside them, questions it was asked, and commands that go on from here."
        + (" This was the quick version: a fraction of the steps the systems need to show what they can." * quick),
    )
    folders = []
    for i, (name, recipe) in enumerate(recipes, 1):
        say(f"[{i}/{len(recipes)}] {recipe['title']}")
        folder, system, rows = _demo_run(top, name, recipe, quick)
        say("      trained; scoring, asking and drawing")
        found = {**score(system, rows, None), **system.baselines(rows)}
        for metric, value in list(found.items())[:2]:
            say(f"      {metric.replace('_', ' ')}: {value}")
        tables = {
            "Asked, and how it was answered (median and 90 % interval)": _answers(system, rows, recipe.get("ask", ())),
            f"How to go on; docs/{_page(name)} tells the rest": _go_on(name, folder, recipe),
        }
        report.section(
            recipe["title"],
            recipe["text"],
            metrics=found,
            figures=system.figures(rows),
            pictures_first=True,
            tables={caption: content for caption, content in tables.items() if content},
        )
        write_metrics(folder / "metrics.json", found, run=str(folder), data=rows.meta.name)
        folders.append(str(folder))
        report.write(top / "report.html")  # after each, so that an interrupted demo has something to show, too
    return {"report": str(top / "report.html"), "runs": folders}


def _answers(system: System, rows: Dataset, ask: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Ask the questions of a recipe and those of the system; one row of words per answer."""
    from phlogiston.inference.query.text import parse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)  # the table tells how many samples an answer is worth
        found = list(system.example_queries(rows))
        if ask:
            columns, categories = system.vocabulary()
            words = ["; ".join(statements) for statements in ask]
            answers = [system.query(parse(s, columns, categories), num_samples=1000, seed=0) for s in ask]
            found = [*zip(words, answers, strict=True), *found]
        return [
            {
                "given": question,
                "found": _found(system, answer),
                "log evidence": "" if answer.log_evidence is None else f"{float(answer.log_evidence):.3f}",
                "samples": f"{answer.num_samples}, worth {numbers(answer.ess.tolist())}",
                "method": answer.method,
            }
            for question, answer in found
        ]


def _found(system: System, answer: Answer) -> str:
    """Say the heart of an answer: the probable categories, and the medians of up to three columns with their spread."""
    columns, categories = system.vocabulary()
    said = []
    for site, value in answer.samples.items():
        if site not in columns and value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim == 1 and bool((value == value.round()).all()):
            labels = categories.get(site)
            share = answer.weights.new_zeros(int(value.max()) + 1).index_add_(0, value.long(), answer.weights)
            best = [i for i in share.argsort(descending=True)[:2].tolist() if share[i] > 0.005]
            said += [f"{site} {labels[i] if labels else i}: {float(share[i]):.2f}" for i in best]
        elif site in columns and value.ndim == 2:
            low, middle, high = (answer.quantile(site, q).tolist() for q in (0.05, 0.5, 0.95))
            rows = zip(columns[site], middle, low, high, strict=False)
            loose = [f"{name} {m:.3g} [{a:.3g}, {b:.3g}]" for name, m, a, b in rows if b - a > 1e-9]
            said += loose[:3]
    shapes = (f"{name} {tuple(value.shape[1:])}" for name, value in answer.samples.items())
    return "; ".join(said) or "samples of " + ", ".join(shapes)


def _page(name: str) -> str:
    """The page of the documentation that tells of a system."""
    together = {"sequence": "sequences", "sketch": "sequences", "handwriting": "sequences"}
    return f"{together.get(name, name)}.md"


def _go_on(name: str, folder: Path, recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """Commands that go on from a run of the demo."""
    commands = [
        *recipe.get("next", ()),
        ("phlogiston evaluate RUN", "all figures of merit again, and a report of this run alone"),
        (f"phlogiston train {name} --data {recipe['data']}", "the recipe in full, or with --set of your own"),
        (f"phlogiston systems {name}", "every option with its default"),
    ]
    return [{"command": command.replace("RUN", str(folder)), "what": what} for command, what in commands]


def _demo_run(top: Path, name: str, recipe: Mapping[str, Any], quick: bool) -> tuple[Path, System, Dataset]:
    """Train one recipe, or take up what an earlier demo left; a run of other settings is left alone."""
    rows = datasets.load(recipe["data"], **recipe.get("data_options", {}))
    words = re.findall(r"[a-z0-9]+", str(recipe["title"]).lower())
    stem = "-".join([*words, "quick"] if quick else words)
    for i in range(1, 1000):
        folder = top / (stem if i == 1 else f"{stem}-{i}")
        system = systems.get(name)(dict(recipe["options"]))
        try:
            return folder, system.fit(rows, out=folder, seed=0, resume="auto"), rows
        except RunError as error:
            if "another configuration" not in str(error):
                raise
    raise RunError(f"{top} holds a thousand runs called {stem}; choose another --out.")
