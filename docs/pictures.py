"""Draw the pictures of README and docs from real runs: `make pictures` (or `python docs/pictures.py NAME ...`).

Each picture is trained for and drawn anew; nothing is cached, so a picture always shows what the code does today.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from phlogiston.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.datasets.base import Dataset
    from phlogiston.systems.scene.system import Scene
    from phlogiston.systems.sqair.system import SQAIR
    from phlogiston.systems.world.system import WorldModel

sys.path.insert(0, str(Path(__file__).resolve().parent))

import readme_pictures

IMAGES = Path(__file__).resolve().parent / "images"


def swissroll() -> Figure:
    """The noisy Swiss roll: data, truth, density and samples after each of two layers."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.system import DRMM

    data = datasets.load("swissroll")
    return DRMM(preset="swissroll").fit(data).figures(data)["density"]


def sierpinski() -> Figure:
    """The Sierpinski triangle: density and samples after each of five layers of three components."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.system import DRMM

    data = datasets.load("sierpinski")
    return DRMM(preset="sierpinski").fit(data).figures(data)["density"]


def digits() -> Figure:
    """The 8x8 digits: held-out images, and samples."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.system import DRMM

    data = datasets.load("digits")
    return DRMM(preset="digits").fit(data).figures(data)["samples"]


def example(name: str) -> ModuleType:
    """An example as a module, to draw with its own functions."""
    spec = importlib.util.spec_from_file_location(name, IMAGES.parent.parent / "examples" / f"{name}.py")
    if spec is None or spec.loader is None:
        sys.exit(f"examples/{name}.py is not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queries() -> Figure:
    """The Swiss roll under five kinds of evidence."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.system import DRMM

    data = datasets.load("swissroll")
    figure: Figure = example("drmm_swissroll_queries").picture(DRMM(preset="swissroll").fit(data), data)
    return figure


def flights() -> Figure:
    """Flights through way-points and between obstacles."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.panels import flights as planned
    from phlogiston.systems.drmm.system import DRMM

    return planned(DRMM(**example("drmm_trajectories").OPTIONS).fit(datasets.load("jumper")))


def kinematics() -> Figure:
    """Stick figures that reach for targets, sampled and refined."""
    from phlogiston import datasets
    from phlogiston.systems.drmm.kinematics import Kinematics
    from phlogiston.systems.drmm.panels import reaching
    from phlogiston.systems.drmm.system import DRMM

    return reaching(Kinematics(DRMM(**example("drmm_kinematics").OPTIONS).fit(datasets.load("poses"))))


def completion() -> Figure:
    """Held-out digits completed from their upper halves."""
    from phlogiston import datasets

    shown = example("drmm_completion")
    data = datasets.load("digits", valid=0)
    figure: Figure = shown.gallery(shown.fit(data), data)
    return figure


def drmm_gaps() -> Figure:
    """Two columns of a table with gaps: what was taken out, filled in, made up."""
    shown = example("drmm_gaps")
    table, gappy = shown.load()
    system = shown.DRMM(preset="small_table").fit(gappy)
    filled = {"five nearest rows": shown.by_neighbours(gappy), "DRMM": system.impute(gappy)}
    figure: Figure = shown.picture(table, gappy, filled, shown.made_up(system, len(table)))
    return figure


def classification() -> Figure:
    """Confusion matrices with all labels, few labels, and the labelled rows alone."""
    from phlogiston import datasets

    shown = example("drmm_classification")
    data = datasets.load("digits", valid=0)
    figure: Figure = shown.picture(shown.fit_all(data), data)
    return figure


def mdn_answers() -> Figure:
    """The inverse sine: data, the answers of squared error, and draws from a mixture density network."""
    from phlogiston import datasets
    from phlogiston.systems.mdn.system import MDN

    shown = example("mdn_inverse_sine")
    data = datasets.load("arcsine")
    net, _ = shown.squared_error_network(data, 200)
    figure: Figure = shown.answers(data, net, MDN(preset="paper").fit(data))
    return figure


def mdn_at_one_input() -> Figure:
    """One input of the inverse sine: the density, its branches, and two kinds of interval."""
    from phlogiston import datasets
    from phlogiston.systems.mdn.system import MDN

    system = MDN(preset="paper").fit(datasets.load("arcsine"))
    figure: Figure = example("mdn_inverse_sine").at_one_input(system, 0.0)
    return figure


def mdn_ignorance() -> Figure:
    """Noise and ignorance of a network with random weights, from 150 rows of the inverse sine."""
    from phlogiston import datasets
    from phlogiston.systems.mdn.system import MDN

    data = datasets.load("arcsine", sizes=(150, 0, 1000))
    return MDN(preset="bayesian").fit(data).figures(data)["where the uncertainty comes from"]


@cache
def _digits_followed() -> tuple[SQAIR, Dataset]:
    """Moving digits, after four minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.sqair.system import SQAIR

    data = datasets.load("moving_digits")
    return SQAIR(preset="cpu").fit(data), data


@cache
def _followed() -> dict[str, Figure]:
    """Pictures of moving digits that were followed."""
    from phlogiston.systems.sqair.pictures import interesting

    shown = example("sqair_moving_digits")
    system, data = _digits_followed()
    videos = data.test.tensors["x"]
    crowded = videos[interesting(system, videos, 3)]
    edits, gaps = shown.what_if(system, crowded[:1]), shown.hidden(system, crowded)
    return {**system.figures(data), "what-if": edits, "hidden": gaps}


def sqair_tracked() -> Figure:
    """Moving digits with boxes in the colours of their identities, above what is rendered."""
    return _followed()["tracked"]


def sqair_predicted() -> Figure:
    """Videos of which five frames were seen, with two continuations each."""
    return _followed()["predicted"]


def sqair_what_if() -> Figure:
    """One video as it was, without one of its digits, with one moved, and with appearances swapped."""
    return _followed()["what-if"]


def sqair_hidden() -> Figure:
    """Videos of which two frames were hidden, above what was filled in."""
    return _followed()["hidden"]


CROWD: dict[str, Any] = {"canvas": 64, "counts": (4, 5, 6), "scale": (0.5, 0.75), "shapes": True, "grain": 0.05}


def sqair_crowd() -> Figure:
    """Four to six discs, squares and digits, followed through noise and through each other."""
    from phlogiston import datasets
    from phlogiston.systems.sqair.system import SQAIR

    data = datasets.load("moving_digits", sizes=(3_000, 8, 48), **CROWD)
    return SQAIR(preset="crowd").fit(data).figures(data)["tracked"]


def _walkers(square: bool) -> Figure:
    """People in a street or on a square, followed."""
    from phlogiston.systems.sqair.system import SQAIR

    shown = example("sqair_walkers")
    data = shown.videos(square)
    return SQAIR(preset="cpu", **(shown.SQUARE if square else shown.OPTIONS)).fit(data).figures(data)["tracked"]


def sqair_street() -> Figure:
    """Walkers in a street, with boxes in the colours of their identities, above what is rendered."""
    return _walkers(square=False)


def sqair_square() -> Figure:
    """Walkers on a square who pass behind a tree."""
    return _walkers(square=True)


def vdsm_swap() -> Figure:
    """Characters nobody trained on, in the actions of others; nothing told. Three minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.vdsm.pictures import swap_figure
    from phlogiston.systems.vdsm.system import VDSM

    data = datasets.load("figures", size=32)
    return swap_figure(VDSM(preset="cpu-segments").fit(data, seed=0), data.test)


def touch_music() -> Figure:
    """Touch-screen performances: recorded, invented, and answers to the recorded ones. Ten minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.sequence.system import SequenceModel

    data = datasets.load("tinyperf")
    return SequenceModel(preset="tinyperf").fit(data).figures(data)["performances"]


def sketch_drawings() -> Figure:
    """Omniglot: real characters, and drawings at three temperatures. Ten minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.sketch.system import Sketch

    data = datasets.load("omniglot", max_length=40)
    return Sketch(preset="omniglot-unconditional").fit(data).figures(data)["drawings"]


@cache
def _again() -> dict[str, Figure]:
    """Pictures of drawings drawn again from their latents, after ten minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.sketch.system import Sketch

    data = datasets.load("omniglot", max_length=40)
    return Sketch(preset="omniglot-codes").fit(data).figures(data)


def sketch_reconstructions() -> Figure:
    """Omniglot: real characters, and the same drawn again from what the latent keeps of them."""
    return _again()["reconstructions"]


def sketch_interpolations() -> Figure:
    """Omniglot: characters that lie between two others."""
    return _again()["interpolations"]


@cache
def _written() -> dict[str, Figure]:
    """Pictures of handwriting, after ten minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.handwriting.system import HandwritingModel

    data = datasets.load("script")
    return HandwritingModel().fit(data).figures(data)


def handwriting_biases() -> Figure:
    """Lines from the data, and a phrase written at four biases."""
    return _written()["biases"]


def handwriting_hands() -> Figure:
    """Lines from the data, and a word written in the hand of each."""
    return _written()["hands"]


def handwriting_window() -> Figure:
    """Which letter the network looks at while it writes."""
    return _written()["window"]


@cache
def _courts() -> tuple[Scene, Dataset]:
    """Courts, after five minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.scene.system import Scene

    data = datasets.load("courts", views=24)
    return Scene(preset="courts").fit(data), data


def scene_views() -> Figure:
    """Photographs seen, the truth, and what is painted instead."""
    from phlogiston.systems.scene.pictures import painted_views

    system, data = _courts()
    return painted_views(system, data.test)


def scene_turn() -> Figure:
    """Turning round in rooms that stand side by side in one memory."""
    from phlogiston.systems.scene.pictures import turn_stills

    return turn_stills(_courts()[0])


def scene_errors() -> Figure:
    """Errors against the number of rooms, and of photographs."""
    from phlogiston.systems.scene.pictures import curves
    from phlogiston.systems.scene.scoring import context_sweep, grid_sweep

    system, data = _courts()
    return curves(system, data.test, grid_sweep(system, data), context_sweep(system, data))


@cache
def _dodge() -> tuple[WorldModel, Dataset]:
    """Dodge, after five minutes of training."""
    from phlogiston import datasets
    from phlogiston.systems.world.system import WorldModel

    data = datasets.load("dodge")
    return WorldModel().fit(data), data


def world_dream() -> Figure:
    """Two games above dreams that begin like them."""
    from phlogiston.systems.world.report import dream_figure

    system, data = _dodge()
    return dream_figure(system, data.test)


def world_cover() -> Figure:
    """An agent in VizDoom's take cover, and in its dream; ten minutes of recording and training, phlogiston[games]."""
    from phlogiston import datasets
    from phlogiston.systems.world.system import WorldModel

    with tempfile.TemporaryDirectory() as folder:
        view = {"crop": (90, 154, 0, 320), "size": 32, "skip": 4, "cap": 2_100}
        data = datasets.record("VizdoomTakeCover-v1", f"{folder}/cover", episodes=600, policy="sticky:0.7", **view)
        return played_beside(WorldModel(preset="take-cover").fit(data))


def world_race() -> Figure:
    """An agent that drives CarRacing, and in its dream; six minutes of recording and training, phlogiston[games]."""
    from phlogiston import datasets
    from phlogiston.systems.world.system import WorldModel

    with tempfile.TemporaryDirectory() as folder:
        view: dict[str, Any] = {"crop": (0, 84, 0, 96), "size": 32, "skip": 6, "grey": True}
        view |= {"options": {"continuous": False}, "policy": "sticky:0.3:.5,1,1,2,.25"}
        data = datasets.record("CarRacing-v3", f"{folder}/racing", episodes=100, **view)
        return played_beside(WorldModel(preset="racing").fit(data))


def played_beside(system: WorldModel) -> Figure:
    """Moments of a game and of a dream that a trained agent plays."""
    from phlogiston.evaluate.image_figures import image_rows
    from phlogiston.systems.world.videos import beside

    clips = beside(system, 1, 3)["frames"].float() / 255.0
    moments = torch.linspace(20, clips.shape[1] - 1, 8).long()
    return image_rows([("game", clips[0, moments]), ("dream", clips[1, moments])], size=0.95)[0]


def world_player() -> Figure:
    """Agents over generations in the dream, and the last one in the game."""
    from phlogiston.systems.world.report import agent_figure

    return agent_figure(_dodge()[0])


def readme_questions() -> Figure:
    """The Swiss roll without a question, in a box, and under two inequalities."""
    return readme_pictures.questions(queries())


def readme_poses() -> Figure:
    """Bodies that reach for targets."""
    return readme_pictures.kept_poses(kinematics())


def readme_answers() -> Figure:
    """One answer by squared error, and draws from a mixture."""
    return readme_pictures.several_answers(mdn_answers())


def readme_completed() -> Figure:
    """Held-out digits, their upper halves, and two samples of the rest."""
    from phlogiston import datasets

    shown, data = example("drmm_completion"), datasets.load("digits", valid=0)
    return readme_pictures.completed(shown.fit(data), data, shown)


def readme_survival() -> Figure:
    """How long an agent from the dream lasts in the game itself."""
    return readme_pictures.survival(world_player())


def readme_tracks(path: Path) -> None:
    """Two videos of two digits each, followed, above what is rendered; moving."""
    from phlogiston.systems.sqair.pictures import interesting

    system, data = _digits_followed()
    videos = data.test.tensors["x"]
    readme_pictures.tracks(path, system, videos[interesting(system, videos[:48], 4)[2:]])


MOVING: dict[str, Callable[[Path], None]] = {"readme-tracks": readme_tracks}
PICTURES: dict[str, Callable[[], Figure]] = {
    draw.__name__.replace("_", "-"): draw
    for draw in (
        *(swissroll, sierpinski, digits, queries, flights, kinematics, completion, drmm_gaps, classification),
        *(mdn_answers, mdn_at_one_input, mdn_ignorance),
        vdsm_swap,
        *(sqair_tracked, sqair_predicted, sqair_what_if, sqair_hidden),
        *(sqair_crowd, sqair_street, sqair_square),
        *(scene_views, scene_turn, scene_errors),
        *(touch_music, sketch_drawings, sketch_reconstructions, sketch_interpolations),
        *(handwriting_biases, handwriting_hands, handwriting_window),
        *(world_dream, world_player, world_cover, world_race),
        *(readme_questions, readme_poses, readme_answers, readme_completed, readme_survival),
    )
}


def main(names: list[str]) -> None:
    """Draw the named pictures, or all."""
    known = [*PICTURES, *MOVING]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown picture {unknown[0]!r}; choose from {', '.join(known)}")
    IMAGES.mkdir(exist_ok=True)
    for name in names or known:
        path = IMAGES / f"{name}.{'gif' if name in MOVING else 'png'}"
        try:
            if name in MOVING:
                MOVING[name](path)
            else:
                PICTURES[name]().savefig(path, dpi=200 if name.startswith("readme") else 110)
        except DataError as error:  # data that may not be passed on, and are not here
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
