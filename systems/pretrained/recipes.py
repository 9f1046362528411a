"""What the trained systems in the package are made of: data, options and one figure of merit each.

All data are generated or come with scikit-learn; everything runs on one thread, from seed 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from phlogiston.systems.pretrained.shelf import names


@dataclass(frozen=True)
class Recipe:
    """How one trained system is made.

    Attributes:
        system: its kind.
        data: the built-in data it is trained on.
        preset: the options it starts from.
        figure: the metric that the tests measure again, on fresh rows.
        figures: groups of metrics for its card, the one that holds `figure` first.
        text: a sentence on what it does.
        limits: a sentence on what it does not do.
        data_options: options of the data.
        options: options beside those of the preset.
        name: what it is called after its kind; by default the name of the data.
        quick: options that make it short when it is only tried, beside the steps of training.
        quick_data: options of the data that do so, beside `sizes`.
    """

    system: str
    data: str
    preset: str
    figure: str
    figures: tuple[str, ...]
    text: str
    limits: str
    data_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    quick: dict[str, Any] = field(default_factory=dict)
    quick_data: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What `phlogiston.load` takes, such as `drmm/poses`."""
        return f"{self.system}/{self.name or self.data.replace('_', '-')}"


RECIPES = (
    Recipe(
        "drmm", "swissroll", "swissroll", "log_likelihood", ("log_likelihood", "depths"),
        "The density of a noisy spiral in the plane; every question about x0 and x1 is answered exactly.",
        "Two columns in the range of the spiral; beyond it the density is that of its outermost components.",
    ),
    Recipe(
        "mdn", "arcsine", "arcsine", "log_likelihood", ("log_likelihood", "rmse", "coverage"),
        "The density of y given x where up to five values of y are right.",
        "Inputs from -15 to 15 were seen in training; beyond them the answer is an extrapolation.",
        data_options={"sizes": (2550, 450, 2000)},
    ),
    Recipe(
        "drmm", "poses", "poses", "log_likelihood", ("log_likelihood",),
        "Root, joint angles and limb ends of a body in the plane: give some, ask for the others.",
        "One body of fixed proportions in the plane; ends reached are off by a few hundredths of its height "
        "unless refined on the true kinematics.",
        data_options={"sizes": (20_000, 0, 500)},
    ),
    Recipe(
        "drmm", "digits", "digits", "log_likelihood", ("log_likelihood", "accuracy"),
        "The 8x8 digits of scikit-learn with their labels: draws, completes and names them.",
        "8x8 pixels, 1,437 training digits; nothing larger, and no other script.",
    ),
    Recipe(
        "drmm", "jumper", "default", "log_likelihood", ("log_likelihood",),
        "Flights of an agent that falls unless it jumps: way-points are known heights, gaps are boxes.",
        "Flights of 32 steps in one world; nothing is known of obstacles but what is asked.",
        data_options={"sizes": (8_000, 0, 500)},
        options={"frame": "diag", "num_layers": 3, "num_components": 64, "steps": 800},
        name="flights",
    ),
    Recipe(
        "sqair", "moving_digits", "cpu", "count_accuracy", ("count", "tracking", "bound"),
        "Finds, counts and follows none, one or two moving digits, without labels.",
        "White digits of this size on black, 50 x 50 pixels; predictions drift within a few frames.",
        data_options={"source": "digits", "sizes": (2_000, 64, 128)},
        options={"steps": 400},
    ),
    Recipe(
        "vdsm", "figures", "figures", "excess_sequence", ("error", "swap"),
        "Tells who is in a short clip from what is done there: swaps people and actions, and invents clips.",
        "Generated figures of 32 pixels in nine actions; trained on pairs of clips of one figure. "
        "Skin is read worst, dark skin turns greenish.",
        data_options={"size": 32},
        quick_data={"characters": (2, 0, 1)},
    ),
    Recipe(
        "world", "dodge", "default", "frame_error", ("frames", "memory", "survival"),
        "Dreams a game of dodging balls: frames as codes, what comes next, and when a game is over.",
        "Learned from games played at random: of skilful play it knows what random play happens to show.",
        data_options={"sizes": (1_500, 20, 100)},
        quick={"generations": 1, "population": 4, "rollouts": 1},
    ),
    Recipe(
        "scene", "courts", "courts", "generation_mse", ("generation", "baselines"),
        "Paints a room from a viewpoint never photographed, from up to eight photographs.",
        "Rooms of this kind, 32 x 32 pixels; edges are not sharp.",
        data_options={"sizes": (1200, 9, 48)},
        options={"draft_steps": 700, "steps": 250},
    ),
    Recipe(
        "handwriting", "script", "default", "log_likelihood", ("log_likelihood", "legibility"),
        "Writes a given text in one of three hands; a bias makes it neat, an example sets the hand.",
        "The twelve letters of the built-in script; lines much longer than a dozen letters go wrong now and then.",
    ),
    Recipe(
        "sequence", "touches", "touches", "nats_per_step", ("nats_per_step", "generated"),
        "Music played with one finger on a screen: plays, answers what was played, and goes on with it.",
        "Generated gestures on one kind of screen; it keeps the manner of a bar and seldom repeats it note by note.",
        name="touch",
    ),
    Recipe(
        "sketch", "script", "default", "negative_bound", ("bound", "recognition"),
        "Single printed letters of the built-in script as a few numbers, and drawn again from them.",
        "Single printed letters, at most 40 points; of those drawn from nothing about half can be read.",
        data_options={"sizes": (1500, 100, 100), "letters": (1, 1), "hands": ("print",)},
        options={
            "hidden": 64, "encoder_hidden": 32, "latent": 8, "free_bits": 0.0, "beta": 0.2, "max_points": 40,
            "learning_rate": 0.005, "steps": 3_000,
        },
        name="letters",
    ),
)  # fmt: skip


def told() -> dict[str, str]:
    """The trained systems there are: name -> what it does."""
    texts = {recipe.address: recipe.text for recipe in RECIPES}
    return {name: texts[name] for name in names() if name in texts}
