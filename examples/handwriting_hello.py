"""Write "hello world": handwriting synthesis on the built-in script.

1. Train on lines of synthetic handwriting with their text; nobody says which stroke belongs to which letter.
2. Write the same words freely, neatly, and in the hand of an example.
3. Watch the window slide over the text, and have a reader that knows shapes only read what was written.

    python examples/handwriting_hello.py --out runs/hello

writes `hello.svg`, `hello.gif`, `biases.png`, `hands.png` and `window.png`. `--smoke` takes seconds, and scribbles.

Reference: Graves, "Generating sequences with recurrent neural networks", arXiv 1308.0850.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from phlogiston import datasets
from phlogiston.datasets.readers import script_reader
from phlogiston.systems import drawing
from phlogiston.systems.handwriting import HandwritingModel


def main() -> None:
    """Train, write, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/hello"))
    parser.add_argument("--text", default="hello world")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sizes = (120, 20, 20) if arguments.smoke else (4000, 200, 200)
    data = datasets.load("script", sizes=sizes)
    options = {"hidden": 16, "steps": 25} if arguments.smoke else {}
    system = HandwritingModel(**options).fit(data, progress="auto")

    for bias in (0.0, 1.0):
        line = system.write(arguments.text, bias=bias, seed=1)
        strokes = line["x"][0].numpy()
        read = script_reader.read(strokes, int(line["length"][0]))
        print(f"bias {bias:g}: {int(line['length'][0])} points, read as {read!r}")
    line = system.write(arguments.text, bias=1.0, seed=1)
    written = drawing.drawings_of(line["x"], line["length"])
    (arguments.out / "hello.svg").write_text(drawing.svg(written), encoding="utf-8")
    if any(written):  # a network that has seen next to nothing may find there is nothing to write
        drawing.gif(arguments.out / "hello.gif", written)
    for name, figure in system.figures(data).items():
        figure.savefig(arguments.out / f"{name}.png", dpi=120)
    for name, metric in system.evaluate(data, ["log_likelihood", "attention"]).items():
        print(f"{name.replace('_', ' ')}: {metric}")
    print(f"pictures in {arguments.out}")


if __name__ == "__main__":
    main()
