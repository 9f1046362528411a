"""Inference: one engine that trains any pair of model and guide, and one way to query a trained pair.

    svi/      the engine: loop, stages, objectives, handlers, schedules, checkpoints, run folders, processes
    query/    evidence and its text and files, importance sampling, sequential Monte Carlo, NUTS, answers

Names are loaded on first use, so that importing this package is cheap.
"""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.inference.svi import handlers, objectives, schedules
    from phlogiston.inference.svi.callbacks import EarlyStopping, KeepBest, State
    from phlogiston.inference.svi.checkpoints import load_parameters
    from phlogiston.inference.svi.engine import fit
    from phlogiston.inference.svi.handlers import per_datum, scale_sites, weight_depths
    from phlogiston.inference.svi.history import History
    from phlogiston.inference.svi.parallel import make_fabric
    from phlogiston.inference.svi.stages import Stage

__all__ = [
    "EarlyStopping",
    "History",
    "KeepBest",
    "Stage",
    "State",
    "fit",
    "handlers",
    "load_parameters",
    "make_fabric",
    "objectives",
    "per_datum",
    "scale_sites",
    "schedules",
    "weight_depths",
]
__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(("handlers", "objectives", "schedules"), "svi."),
        "fit": "svi.engine",
        "Stage": "svi.stages",
        "History": "svi.history",
        "State": "svi.callbacks",
        "EarlyStopping": "svi.callbacks",
        "KeepBest": "svi.callbacks",
        "load_parameters": "svi.checkpoints",
        "make_fabric": "svi.parallel",
        "scale_sites": "svi.handlers",
        "per_datum": "svi.handlers",
        "weight_depths": "svi.handlers",
    },
)
