"""Full recipes of SQAIR beyond one or two digits: crowds of several shapes and sizes, things that pass behind a bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from phlogiston import datasets
from phlogiston.systems.sqair.config import PRESETS
from phlogiston.systems.sqair.system import SQAIR

from .recorder import Entry, cpu_time
from .test_sqair import options, put_all

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]


class Scene(NamedTuple):
    """A data set, how it is learned, and what must come of it: figure -> (must, aim)."""

    title: str
    name: str
    data: dict[str, Any]
    options: dict[str, Any]
    bars: dict[str, tuple[float | None, float | None]]


# figure -> (what it is called, higher is better, key of the evaluation)
FIGURES: dict[str, tuple[str, bool, str]] = {
    "count": ("count accuracy", True, "count_accuracy"),
    "matched": ("object-frames matched within 5 pixels", True, "matched"),
    "mota": ("MOTA", True, "mota"),
    "switches": ("identity changes per object and frame", False, "id_switches"),
    "crossings": ("pairs that meet and part again: both keep their identities", True, "crossings_kept"),
    "hidden": ("objects hidden for up to five frames that keep their identity", True, "hidden_kept"),
}
PEOPLE = {"glimpse": (20, 10), "background": "static", "steps": 400, "batch_size": 16, "shares": (0.7, 0.3)}
SCENES = {
    "crowd": Scene(
        "four to six discs, squares and digits of several sizes, noise, 64 x 64",
        "moving_digits",
        {"sizes": (3_000, 128, 128), "canvas": 64, "counts": (4, 5, 6), "scale": (0.5, 0.75), "shapes": True,
         "grain": 0.05},
        PRESETS["crowd"],
        {"count": (0.97, None), "mota": (None, None), "switches": (None, None), "crossings": (None, None)},
    ),
    "behind": Scene(
        "digits that pass behind a bar wider than they are",
        "moving_digits",
        {"sizes": (3_000, 256, 256), "counts": (1, 2), "scale": (0.7, 0.7), "screen": 20},
        {"background": "static", "screen": True, "survival": 0.9999, "birth": 0.0001, "steps": 500,
         "lengths": (3, 6, 10), "shares": (0.5, 0.25, 0.25), "batch_size": 16, "reach": 18},
        {"hidden": (0.90, None), "count": (None, None), "mota": (None, None)},
    ),
    "street": Scene(
        "walkers in a street, who enter and leave",
        "walkers",
        {"sizes": (1_000, 64, 128), "colour": True, "background": "street", "noise": 0.02},
        {**PEOPLE, "survival": 0.95, "birth": 0.1, "lengths": (3, 6)},
        {"matched": (None, None), "count": (None, None), "mota": (None, None)},
    ),
    "square": Scene(
        "walkers on a square: perspective, shadows, noise, and a tree that they pass behind",
        "walkers",
        {"sizes": (1_000, 64, 128), "colour": True, "background": "square", "noise": 0.02},
        {**PEOPLE, "screen": True, "survival": 0.98, "birth": 0.05, "least_energy": 0.15, "lengths": (3, 8)},
        {"matched": (None, None), "count": (None, None), "mota": (None, None), "hidden": (None, None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_sqair_follows_what_others_hide(record: Record, scene: str) -> None:
    title, name, about, chosen, bars = SCENES[scene]
    source = options() if name == "moving_digits" else {}
    shown = ", ".join(f"{key}={value}" for key, value in chosen.items())
    entries = {}
    for figure, (must, aim) in bars.items():
        words, higher, _ = FIGURES[figure]
        limits = {key: value for key, value in (("must", must), ("aim", aim)) if value is not None}
        entries[figure] = record(
            "sqair",
            f"{scene}/{figure}",
            title=title,
            figure=words,
            higher_is_better=higher,
            configuration=f"preset cpu, {shown}; {source.get('source', '')} {name}, {about['sizes'][0]:,} videos",
            n_test=about["sizes"][2],
            steps=chosen["steps"],
            **limits,
        )
    data = datasets.load(name, **about, **source)
    for seed in next(iter(entries.values())).seeds:
        started = cpu_time()
        system = SQAIR(preset="cpu", **chosen).fit(data, seed=seed, progress="off", tensorboard=False)
        seconds = cpu_time() - started
        found = system.evaluate(data, ["count", "tracking"])
        print(scene, seed, {key: metric.text() for key, metric in found.items()}, flush=True)
        put_all(entries, FIGURES, found, seed, seconds)
    for entry in entries.values():
        entry.check()
