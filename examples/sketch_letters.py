"""Draw, complete, interpolate and mix drawings: SketchRNN on single letters of the built-in script.

    python examples/sketch_letters.py --out runs/letters

writes `drawn.svg`, `being-drawn.gif` and the system's own pictures; `--smoke` takes seconds. With drawings of your own,
or those of Quick, Draw!, replace the first line of `main`: `datasets.load("quickdraw", categories=("cat",))`.

Reference: Ha and Eck, "A neural representation of sketch drawings", ICLR 2018.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from phlogiston import datasets
from phlogiston.errors import TrainingWarning
from phlogiston.systems import drawing
from phlogiston.systems.sketch import Sketch


def main() -> None:
    """Train, then do everything one can do with drawings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/letters"))
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = datasets.load("script", sizes=(100, 20, 40) if arguments.smoke else (2000, 100, 200), letters=(1, 1))
    options = {"hidden": 16, "steps": 5} if arguments.smoke else {"hidden": 96, "steps": 2500}
    with warnings.catch_warnings():
        if arguments.smoke:
            warnings.simplefilter("ignore", TrainingWarning)  # five steps teach a latent nothing
        system = Sketch(latent=12, encoder_hidden=48, free_bits=0.0, beta=0.3, max_points=40, **options).fit(data)

    drawn = system.sample(16, temperature=0.4, seed=0)
    pictures = drawing.drawings_of(drawn["x"], drawn["length"])
    (arguments.out / "drawn.svg").write_text(drawing.svg(pictures, width=120), encoding="utf-8")
    drawing.gif(arguments.out / "being-drawn.gif", [picture for picture in pictures if picture][:4])

    tensors = data.test.tensors
    a, b, c = (tensors["x"][i, : int(tensors["length"][i])] for i in range(3))
    way = system.interpolate(a, b, 8)
    ways_on = system.complete(a[: max(1, len(a) // 2)], 5, seed=0)
    mixed = system.arithmetic([(1, a), (-1, b), (1, c)])
    print("drawn:", drawn["length"].tolist(), "points each")
    print("on the way from one letter to another:", way["length"].tolist())
    print("ways to complete the first half of a letter:", ways_on["length"].tolist())
    print("a - b + c has", int(mixed["length"][0]), "points")
    for name, metric in system.evaluate(data, ["bound", "recognition"]).items():
        print(f"{name.replace('_', ' ')}: {metric}")
    for name, figure in system.figures(data).items():
        figure.savefig(arguments.out / f"{name}.png", dpi=120)
    print(f"pictures in {arguments.out}")


if __name__ == "__main__":
    main()
