"""The demo: every system's recipes trained on built-in data, and one report with a section for each.

The quick one takes the trained systems that come with the package.

A section holds figures of merit with those of simpler methods beside them, the pictures that explain what was learned,
questions that were asked and what was found, and the commands that go on from there.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonError, PhlogistonWarning, RunError, RunMismatchError
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.report import Report, write_metrics
from phlogiston.files import write_json
from phlogiston.inference.query.answer import Answer
from phlogiston.systems.answer_text import numbers
from phlogiston.systems.base import System
from phlogiston.systems.commands import train_command
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.pretrained import shelf
from phlogiston.systems.run_data import data_of
from phlogiston.systems.workflow import score

DEMO = "demo.json"


def demo(out: str | Path, *, quick: bool = False, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Train every system's demo recipes and write one report, which grows from section to section.

    Called again, it goes on where it was interrupted, and finished runs are not trained again. A section that fails is
    reported in its place, with the traceback in a file beside the runs, and the others are made.

    Args:
        out: folder for the runs and `report.html`; fresh, or of an earlier demo.
        quick: take the trained systems that come with the package where there is one, and train nothing that takes
            minutes.
        say: told what is going on, line by line.

    Returns:
        `report`, `runs`, and where sections failed `failed`: title -> message.

    Raises:
        ConfigError: the folder holds something else.
    """
    top = Path(out)
    if top.exists() and (not top.is_dir() or (any(top.iterdir()) and not (top / DEMO).is_file())):
        raise ConfigError(f"{str(top)!r} holds something that is no demo. Choose another --out.")
    recipes = [(name, recipe) for name in systems.names() for recipe in systems.get(name).demo(quick)]
    top.mkdir(parents=True, exist_ok=True)
    write_json(top / DEMO, {"quick": quick, "recipes": [recipe["title"] for _, recipe in recipes]})
    command = shlex.join(["phlogiston", "demo", *(["--quick"] if quick else []), "--out", str(out)])
    report = Report("phlogiston demo", _introduction(quick, {name for name, _ in recipes}), {"This page": command})
    page = report.write(top / "report.html")
    say(f"{page} grows with every section")
    result: dict[str, Any] = {"report": str(page), "runs": []}
    for i, (name, recipe) in enumerate(recipes, 1):
        say(f"[{i}/{len(recipes)}] {recipe['title']}")
        section = _Section(top, name, recipe, quick)
        try:
            section.make(say)
            result["runs"].append(section.run)
        except Exception as error:  # whatever it is, the other sections can be made
            reason = str(error) if isinstance(error, PhlogistonError) else f"{type(error).__name__}: {error}"
            told = top / f"{section.stem}.error.txt"
            told.write_text(traceback.format_exc(), encoding="utf-8")
            section.parts["failed"] = f"This section failed while {section.stage}: {reason} ({told} has the details.)"
            result.setdefault("failed", {})[recipe["title"]] = reason
            say(f"      failed while {section.stage}: {reason}")
        report.section(recipe["title"], recipe["text"] + section.remark, pictures_first=True, **section.parts)
        report.write(page)  # after each, so that an interrupted demo has something to show, too
    return result


def _introduction(quick: bool, shown: Collection[str]) -> str:
    text = (
        "Systems trained on built-in data on this machine: what each learned, figures of merit with those of simpler "
        "methods beside them, questions it was asked, and commands that go on from here."
    )
    missing = [name for name in systems.names() if name not in shown]
    if quick and missing:
        text += (
            f"\n\nThis is the quick version. Not in it, since they need longer to show what they can: "
            f"{', '.join(missing)}. The command phlogiston demo trains them as well."
        )
    if quick:
        text += (
            "\n\nMost systems here were trained before and come with the package; phlogiston systems lists them, and "
            "their cards say how they were made."
        )
    return text


class _Section:
    """A section in the making: what is done of it stays when the rest fails.

    Attributes:
        stem: of the name of the run's folder.
        stage: what is going on.
        parts: what the report takes.
        remark: what must be said below the recipe's text.
        folder: of the run, once there is one; that of the demo before.
        run: what commands call it.
    """

    def __init__(self, top: Path, name: str, recipe: Mapping[str, Any], quick: bool) -> None:
        words = re.findall(r"[a-z0-9]+", str(recipe["title"]).lower())
        self.top, self.name, self.recipe = top, name, recipe
        self.stem = "-".join([*words, "quick"] if quick else words)
        self.stage, self.remark = "training", ""
        self.parts: dict[str, Any] = {}
        self.folder = top
        self.trained = str(recipe["trained"]) if quick and recipe.get("trained") in shelf.names() else ""

    @property
    def run(self) -> str:
        return self.trained or str(self.folder)

    def make(self, say: Callable[[str], None]) -> None:
        """Train, score, draw and ask; of a system that comes trained, tell the figures of its card."""
        system, rows = self._loaded() if self.trained else self._train()
        self.stage = "scoring"
        own = dict(system.scored or {}) if self.trained else score(system, rows, None)
        plain = own if self.trained else system.baselines(rows)
        self.parts["metrics"] = found = {**own, **plain}
        self.remark = _beaten(own, plain)
        for metric, value in list(found.items())[:2]:
            say(f"      {metric.replace('_', ' ')}: {value}")
        if not self.trained:
            write_metrics(self.folder / "metrics.json", found, run=self.run, data=rows.meta.name)
        self.stage = "drawing"
        self.parts |= {"figures": system.figures(rows, names=self.recipe.get("show")), "captions": system.captions()}
        self.stage = "asking"
        tables = {
            "Asked, and how it was answered (median and 90 % interval)": _answers(
                system, rows, self.recipe.get("ask", ())
            ),
            f"How it was made, and how to go on; docs/{_page(self.name)} tells the rest": _go_on(
                self.name, self.run, _made(self.name, system, rows), self.recipe.get("next", ()), bool(self.trained)
            ),
        }
        self.parts["tables"] = {caption: content for caption, content in tables.items() if content}

    def _loaded(self) -> tuple[System, Dataset]:
        """Take a system that comes trained, and the data it was trained on."""
        self.stage = "loading"
        system, folder = systems.load(self.trained), local_folder(self.trained)
        return system, data_of(folder, None, {}, system.schema)

    def _train(self) -> tuple[System, Dataset]:
        """Train, or take up what an earlier demo left; a run of other settings is left alone."""
        rows = datasets.load(self.recipe["data"], **self.recipe.get("data_options", {}))
        for i in range(1, 1000):
            self.folder = self.top / (self.stem if i == 1 else f"{self.stem}-{i}")
            system = systems.get(self.name)(dict(self.recipe["options"]))
            try:
                return system.fit(rows, out=self.folder, seed=0, resume="auto"), rows
            except RunMismatchError:
                continue  # a run of other settings, data or threads is left alone
        raise RunError(f"{self.top} holds a thousand runs called {self.stem}; choose another --out.")


def _beaten(own: Mapping[str, Metric], plain: Mapping[str, Metric]) -> str:
    """Say so where a simpler method is ahead: its figure is named after the system's, `log_likelihood_of_...`."""
    ahead = [
        f"{name.replace('_', ' ')} is {metric.text()}, this model's {own[stem].text()}"
        for name, metric in plain.items()
        if (stem := name.partition("_of_")[0]) in own and metric.better_than(own[stem])
    ]
    return f"\n\nA simpler method is ahead here: {'; '.join(ahead)}." if ahead else ""


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


def _made(name: str, system: System, rows: Dataset) -> str:
    """The command that trains a system of the demo again."""
    return train_command(name, rows.meta.name, rows.meta.options, dataclasses.asdict(system.config))


def _go_on(name: str, run: str, made: str, more: Sequence[tuple[str, str]], read_only: bool) -> list[dict[str, str]]:
    """Commands that go on from a run of the demo."""
    commands = [
        (made, "trained this model"),
        *more,
        (
            "phlogiston evaluate RUN --out scores" if read_only else "phlogiston evaluate RUN",
            "all figures of merit again, and a report of this run alone",
        ),
        (f"phlogiston train {name}", "the recipe of the whole demo, or with --set of your own"),
        (f"phlogiston systems {name}", "every option with its default"),
    ]
    return [{"command": command.replace("RUN", run), "what": what} for command, what in commands]
