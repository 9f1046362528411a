"""The engine: one loop that trains any pair of model and guide.

    history = fit(model, guide, data, stages=[Stage("all", steps=2000)], out="runs/mine")

The loss is per data point, in nats, whatever the batch size and the number of processes: local sites count once per
row, sites outside the plate "data" count 1/N. Training in a run folder can be killed at any moment and started again
with the same call; the parameters it ends with are those of the uninterrupted run, bit for bit.

If model and guide take an argument `row_index`, they get the numbers of the batch's rows in the data (LongTensor,
(rows,)), to look up parameters with an entry per row, or to declare `pyro.plate("data", number of all rows,
subsample=row_index)`. Such parameters without `row_index` need batches of all rows, which keep their order, one
process, and no `valid`; else they are refused.

    >>> import torch, pyro, pyro.distributions as dist
    >>> class Model(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.loc = torch.nn.Parameter(torch.zeros(()))
    ...     def forward(self, x):
    ...         with pyro.plate("data", len(x)):
    ...             pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)
    >>> model = Model()
    >>> history = fit(model, None, {"x": torch.full((64,), 3.0)}, stages=Stage("all", 200, learning_rate=0.1))
    >>> round(model.loc.item(), 1)
    3.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.errors import ConfigError
from phlogiston.inference.svi.batches import as_rows
from phlogiston.inference.svi.callbacks import Callbacks, EarlyStopping, State
from phlogiston.inference.svi.history import History
from phlogiston.inference.svi.isolation import isolated, on_threads, preserved_modes, sole_training
from phlogiston.inference.svi.loop import Loop
from phlogiston.inference.svi.parallel import Processes
from phlogiston.inference.svi.progress import make as make_progress
from phlogiston.inference.svi.stages import Stage

__all__ = ["EarlyStopping", "History", "Stage", "State", "fit"]


def fit(
    model: nn.Module,
    guide: nn.Module | None,
    data: Any,
    *,
    stages: Sequence[Stage] | Stage,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool | str = "auto",
    lr_resume: float = 1.0,
    callbacks: Sequence[Any] = (),
    fabric: Any = None,
    valid: Any = None,
    config: Mapping[str, Any] | None = None,
    checkpoint_every: int | None = None,
    log_every: int = 50,
    progress: str = "auto",
    tensorboard: bool = True,
    threads: int | None = None,
    source: tuple[Any, Any] | None = None,
) -> History:
    """Train a pair of model and guide, in place.

    Args:
        model: a module whose `forward(**batch)` is a Pyro program with its data sites under `pyro.plate("data", rows)`.
        guide: a module with the same keyword arguments (an AutoGuide, say), or None if the model has no latent site.
        data: a dictionary of tensors with equal first dimension, or rows with `len(data)` and
            `data[LongTensor] -> dict` (its attribute `sequences` names tensors whose axis 1 is time).
        stages: the recipe, one stage after the other.
        seed: determines data order and noise. The caller's own random state is restored.
        out: run folder; None trains in memory, without checkpoints on disk.
        resume: `"auto"` continues an existing run of the same settings, True demands one, False refuses one. Other
            data, precision or threads would not continue it bit for bit: an error, unless `"force"`, which names them.
        lr_resume: factor on all learning rates from a resume on; a fresh run ignores it.
        callbacks: objects with some of the methods `on_start` ... `on_end`; see `callbacks`.
        fabric: a launched Lightning Fabric (`parallel.make_fabric`); None is one process where the modules are.
        valid: rows like `data`; their loss is computed at each checkpoint and chooses the best one.
        config: JSON-able settings of the caller, kept in config.json and compared on resume.
        checkpoint_every: steps between checkpoints, besides one per stage; if None a twentieth of all, 100 to 2000.
        log_every: steps between records in metrics.jsonl and the history.
        progress: `"auto"` (a bar on a terminal), `"bar"`, `"json"` (a line per record on stderr) or `"off"`.
        tensorboard: also write TensorBoard events into the run folder.
        threads: that torch computes on meanwhile, None for as many as it has. On another number sums round otherwise.
        source: the rows of which `data` and `valid` were made, if not these: a resumed run compares their content.

    Returns:
        The history: loss and other records over the whole run, including what was done before a resume.

    Raises:
        ConfigError: for arguments that contradict each other or the pair, and for `pyro.param` in a program.
        DataError: for data the engine cannot read.
        RunError: if the run folder is in use, holds something else, cannot hold two checkpoints, was lost meanwhile, or
            would not take the last checkpoint; `RunMismatchError` if it holds another run.
        TrainingError: if another thread trains, a parameter gets no gradient for long, or losses stay non-finite.
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM (code 143), once a checkpoint is written.
    """
    recipe = [stages] if isinstance(stages, Stage) else list(stages)
    guide = _NoGuide() if guide is None else guide
    _check_arguments(model, guide, recipe, checkpoint_every, log_every)
    _check_resume(resume, lr_resume, out)
    own_parameters(model, guide)
    processes = Processes(fabric)
    with sole_training(), on_threads(threads), isolated(processes.device), preserved_modes([model, guide]):
        processes.place(model, guide)
        return Loop(
            model=model,
            guide=guide,
            data=as_rows(data),
            valid=None if valid is None or len(valid) == 0 else as_rows(valid, "valid"),
            stages=recipe,
            seed=int(seed),
            processes=processes,
            callbacks=Callbacks(callbacks),
            progress=make_progress(progress if processes.leader else "off", sum(stage.steps for stage in recipe)),
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            tensorboard=tensorboard,
            lr_resume=float(lr_resume),
            source=source,
        ).train(out, resume, dict(config or {}))


def _check_arguments(
    model: Any, guide: Any, stages: Sequence[Any], checkpoint_every: int | None, log_every: int
) -> None:
    """Refuse arguments of `fit` that cannot work.

    Raises:
        ConfigError: naming the argument, what was given and what is expected.
    """
    for name, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nn.Module):
            raise ConfigError(f"{name}: a {type(module).__name__} was given; a torch.nn.Module is expected.")
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise ConfigError("stages: give at least one Stage.")
    for name, value in (("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name}={value!r}: an integer of at least 1 is expected.")


def _check_resume(resume: bool | str, lr_resume: float, out: str | Path | None) -> None:
    if resume not in (True, False, "auto", "force"):
        raise ConfigError(f"resume={resume!r}: choose 'auto', True, False or 'force'.")
    if not 0 < lr_resume < float("inf"):
        raise ConfigError(f"lr_resume={lr_resume!r}: a positive factor on the learning rates is expected.")
    if out is None and resume is True:
        raise ConfigError("resume=True needs the run folder: give out=...")


class _NoGuide(nn.Module):
    """The guide of a model without latent sites."""

    def forward(self, **batch: Any) -> None:
        """Sample nothing."""
