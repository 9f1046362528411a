"""phlogiston: deep generative models on Pyro.

Five published systems as model/guide pairs, one engine that trains any pair, one query interface that asks any
trained pair anything, one harness that scores what comes out. The rooms of the house:

    phlogiston.datasets     data, generated or loaded            phlogiston.networks       torch.nn blocks
    phlogiston.models       the generative programs              phlogiston.distributions  densities of our own
    phlogiston.guides       the inference programs               phlogiston.inference      the engine and the questions
    phlogiston.evaluate     scores, judges and reports           phlogiston.systems        a pair as a product

Importing the package loads neither torch nor Pyro; each room loads what it needs.
"""

from pathlib import Path

__version__ = "0.1.0"

# A checkout that lost its links (some Windows clones): look one level up.
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))
