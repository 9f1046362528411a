"""phlogiston: deep generative models on Pyro.

Published systems as model/guide pairs, one engine that trains any pair, one query interface that asks any
trained pair anything, one harness that scores what comes out.

    import phlogiston as ph

    data = ph.datasets.load("swissroll")
    system = ph.DRMM(num_layers=2).fit(data)
    answer = system.query({"x": ph.Within([0, -1], [2, 1])})
    again = ph.load("runs/roll")

Below it lie, each loading what it needs when it is used:

    phlogiston.datasets     data, generated or loaded            phlogiston.networks       torch.nn blocks
    phlogiston.models       the generative programs              phlogiston.distributions  distributions of our own
    phlogiston.guides       the inference programs               phlogiston.inference      the engine and the queries
    phlogiston.evaluate     scores, judges and reports           phlogiston.systems        a pair as a product

Importing the package loads neither torch nor Pyro.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston import datasets, sklearn, systems
    from phlogiston.inference.query.answer import Answer
    from phlogiston.inference.query.ask import query
    from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
    from phlogiston.inference.query.explain import explain
    from phlogiston.inference.query.kinds.sum import Sum
    from phlogiston.inference.svi.engine import fit
    from phlogiston.inference.svi.stages import Stage
    from phlogiston.systems.drmm.system import DRMM
    from phlogiston.systems.handwriting.system import HandwritingModel
    from phlogiston.systems.mdn.system import MDN
    from phlogiston.systems.registry import load
    from phlogiston.systems.scene.system import Scene
    from phlogiston.systems.sequence.system import SequenceModel
    from phlogiston.systems.sketch.system import Sketch
    from phlogiston.systems.sqair.system import SQAIR
    from phlogiston.systems.vdsm.system import VDSM
    from phlogiston.systems.world.system import WorldModel

__version__ = "0.1.0"

__all__ = [
    "DRMM",
    "MDN",
    "SQAIR",
    "VDSM",
    "Answer",
    "HalfSpace",
    "HandwritingModel",
    "Known",
    "Near",
    "OneOf",
    "Scene",
    "SequenceModel",
    "Sketch",
    "Stage",
    "Sum",
    "Within",
    "WorldModel",
    "datasets",
    "explain",
    "fit",
    "load",
    "query",
    "sklearn",
    "systems",
]

# Pyro loads a bar for notebooks that asks for ipywidgets; nothing here draws with it.
warnings.filterwarnings("ignore", message="IProgress not found")

# A checkout that lost its links (some Windows clones): look one level up.
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

__getattr__ = lazy(
    __name__,
    {
        "datasets": ".",
        "sklearn": ".",
        "systems": ".",
        "load": "systems.registry",
        "fit": "inference.svi.engine",
        "Stage": "inference.svi.stages",
        "query": "inference.query.ask",
        "Answer": "inference.query.answer",
        **dict.fromkeys(("HalfSpace", "Known", "Near", "OneOf", "Within"), "inference.query.evidence"),
        "explain": "inference.query.explain",
        "Sum": "inference.query.kinds.sum",
        "DRMM": "systems.drmm.system",
        "MDN": "systems.mdn.system",
        "SequenceModel": "systems.sequence.system",
        "Sketch": "systems.sketch.system",
        "HandwritingModel": "systems.handwriting.system",
        "SQAIR": "systems.sqair.system",
        "VDSM": "systems.vdsm.system",
        "Scene": "systems.scene.system",
        "WorldModel": "systems.world.system",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
