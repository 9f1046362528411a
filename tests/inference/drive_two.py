"""Trains small pairs and systems on two processes, forked here so that imports are paid for once.

    python drive_two.py FOLDER

Started by test_parallel.py. Writes FOLDER/<job>-<rank>.json for each job: what each process ended with.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from inference_pairs import LinearGaussian, flat, pair, rows

from phlogiston import datasets, systems
from phlogiston.errors import ProcessLostError, TrainingError, TrainingWarning
from phlogiston.inference.svi import loop, objectives, parallel, step
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.processes.exchange import Bucketed, Flat

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # name: (pair, rows, stage)
    "elbo": ("point", 60, {"objective": "elbo", "batch_size": 16}),
    "mean_field": ("point", 60, {"objective": "mean_field", "batch_size": 16}),
    "enum": ("enumerated", 60, {"objective": "enum", "batch_size": 16}),
    "iwae": ("point", 60, {"objective": "iwae", "batch_size": 16}),
    "global terms": ("global", 60, {"batch_size": 16}),
    "ragged": ("point", 15, {"batch_size": 15}),
    "fewer rows than processes": ("point", 5, {"batch_size": 1}),
    "clipped": ("point", 60, {"batch_size": 16, "clip": 0.5}),
}
SYSTEMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vdsm": (
        "figures",
        {"characters": (3, 0, 2), "size": 16, "frames": 5},
        {
            "experts": 4, "pose": 3, "dynamics": 5, "encoder_widths": (6, 6), "features": 16, "decoder_widths": (8, 6),
            "recurrent": 8, "steps": 10, "batch_size": 5, "warm_steps": 4, "sequence_steps": 6, "warmup": 2,
            "aggregate": 2,
        },
    ),
    "sqair": (
        "moving_digits",
        {"sizes": (8, 2, 2)},
        {"steps": 12, "lengths": (2, 3), "shares": (0.5, 0.5), "batch_size": 3, "hidden": 16, "memory": 8},
    ),
}  # fmt: skip


class Foreign(ELBO):
    """An ELBO of somebody else, which does its backward pass itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = objectives.make("elbo")

    def _get_trace(self, *_: Any) -> Any:
        raise NotImplementedError

    def loss_and_grads(self, model: Any, guide: Any, **batch: Any) -> float:
        loss = self.inner.differentiable_loss(model, guide, **batch)  # type: ignore[attr-defined]
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())


def train(case: str, fabric: Any = None, out: Path | None = None, **options: Any) -> tuple[Any, Any, Any]:
    kind, count, stage = CASES[case]
    stage = {**stage, **options.pop("stage", {})}
    model, guide = pair(kind)
    recipe = [
        Stage("a", 30, learning_rate=0.01, **stage),
        Stage("b", 20, learning_rate=0.01, trainable=("model.*",), **stage),
    ]
    history = fit(
        model,
        guide,
        rows(kind, count),
        stages=recipe,
        fabric=fabric,
        out=out,
        log_every=10,
        tensorboard=False,
        **options,
    )
    return model, guide, history


def digest(*modules: torch.nn.Module) -> str:
    return hashlib.sha256(flat(*modules).numpy().tobytes()).hexdigest()


class Poisoned(LinearGaussian):
    """Not a number at one step, on the second process only."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.calls = rank, 0
        self.load_state_dict(pair()[0].state_dict())

    def forward(self, x: torch.Tensor) -> None:
        self.calls += 1
        super().forward(x * float("nan") if self.rank == 1 and 5 <= self.calls <= 6 else x)


class Refusing(Poisoned):
    """Likewise, and as Pyro's distributions do it: the program fails before it has a loss."""

    def forward(self, x: torch.Tensor) -> None:
        self.calls += 1
        bad = self.rank == 1 and 5 <= self.calls <= 8  # a failure is looked into: the program runs once more
        if bad:
            LinearGaussian.forward(self, x * float("nan"))
            raise ValueError("NaN in a parameter")
        LinearGaussian.forward(self, x)


class Interrupt:
    def on_step(self, state: Any) -> None:
        if state.step == 7 and state.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Die:
    """Ends a process without notice."""

    def __init__(self, rank: int, at: int) -> None:
        self.rank, self.at = rank, at

    def on_step(self, state: Any) -> None:
        if state.step == self.at and state.fabric.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


# ---- one process that does the work of two, one after the other


class OneAfterTheOther:
    """Takes the stepper's place in the loop: computes the shards of two processes in turn, with their seeds."""

    def __init__(self, model: Any, guide: Any, data: Any, seed: int, processes: Any, others: bool = False) -> None:
        self.parts = []
        for rank in range(2):
            alone = parallel.Processes()
            alone.rank, alone.size = rank, 2
            self.parts.append(step.Stepper(model, guide, data, seed, alone, others))
        self.kept: tuple[dict[int, Tensor], list[float]] = ({}, [])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parts[0], name)

    def begin(self, *arguments: Any) -> None:
        for part in self.parts:
            part.begin(*arguments)
        self.parts[0]._exchange = self._added
        self.parts[1]._exchange = self._remembered

    def gradients(self, *arguments: Any) -> Any:
        self.parts[1].active.apply(arguments[0], 1.0)
        self.parts[1].gradients(*arguments)
        return self.parts[0].gradients(*arguments)

    def _computed(self, compute: Any, numbers: list[float]) -> list[float]:
        loss, failed = compute()
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        return [float(loss.detach() if isinstance(loss, Tensor) else loss), numbers[0] + failed, *numbers[1:]]

    def _remembered(self, compute: Any, numbers: list[float]) -> list[float]:
        sums = self._computed(compute, numbers)
        grads = {id(p): p.grad.clone() for p in self.parts[1].parameters if p.grad is not None}
        self.kept = grads, sums
        return sums

    def _added(self, compute: Any, numbers: list[float]) -> list[float]:
        sums = self._computed(compute, numbers)
        for parameter in self.parts[0].parameters:
            other = self.kept[0].get(id(parameter))
            if other is not None:
                parameter.grad = other if parameter.grad is None else parameter.grad + other
        return [a + b for a, b in zip(sums, self.kept[1], strict=True)]


def system(name: str, fabric: Any = None) -> tuple[list[float], list[float]]:
    """Train a small system; return its parameters and losses."""
    source, options, config = SYSTEMS[name]
    data = datasets.load(source, **options)
    fitted = systems.get(name)(config).fit(data.train, fabric=fabric, threads=1, log_every=4, progress="off")
    return flat(fitted.model, fitted.guide).tolist(), fitted.history.loss.tolist()


# ---- jobs: each runs on both processes, and returns what is written


def cases(folder: Path, fabric: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for case in CASES:
        model, guide, history = train(case, fabric, folder / case)
        result[case] = {
            "end": flat(model, guide).tolist(),
            "digest": digest(model, guide),
            "loss": history.loss.tolist(),
        }
    return result


def roads(folder: Path, fabric: Any) -> dict[str, Any]:
    """The same training by buckets and in one piece: an ELBO of ours, and the same as a foreign one."""
    result: dict[str, Any] = {}
    for case in ("elbo", "global terms", "fewer rows than processes"):
        used = []
        for objective in ("elbo", Foreign()):
            with Used() as made:
                model, guide, _ = train(case, fabric, stage={"objective": objective})
            used.append([sorted(made.names), digest(model, guide)])
        result[case] = used
    return result


class Used:
    """Notes which exchange the engine makes."""

    def __enter__(self) -> Used:
        self.names: set[str] = set()
        for kind in (Bucketed, Flat):

            def make(*arguments: Any, kind: Any = kind) -> Any:
                self.names.add(kind.__name__)
                return kind(*arguments)

            setattr(step, kind.__name__, make)
        return self

    def __exit__(self, *_: object) -> None:
        step.Bucketed, step.Flat = Bucketed, Flat  # type: ignore[misc]


def noise(folder: Path, fabric: Any) -> dict[str, Any]:
    """Sampled noise, beginnings that differ (the first process's counts), and numbers that go bad on one process."""
    result: dict[str, Any] = {}
    model, guide = pair("gaussian", seed=fabric.global_rank)
    fit(model, guide, rows(), stages=Stage("a", 20, batch_size=16), fabric=fabric)
    result["sampled"] = digest(model, guide)
    for kind in (Poisoned, Refusing):
        poisoned, guide = kind(fabric.global_rank), pair()[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)
            history = fit(poisoned, guide, rows(), stages=Stage("a", 20, batch_size=16), fabric=fabric)
        told = {"digest": digest(poisoned, guide), "skipped": history.skipped, "rollbacks": history.rollbacks}
        result[kind.__name__] = told
    spare = pair()[0]
    spare.spare = torch.nn.Parameter(torch.zeros(3))
    try:
        fit(spare, pair()[1], rows(), stages=Stage("a", 10, batch_size=16), fabric=fabric)
    except TrainingError as error:
        result["spare"] = str(error)
    return result


def decisions(folder: Path, fabric: Any) -> dict[str, Any]:
    """A signal to one process, an error on the one that writes, a validation in shares."""
    result: dict[str, Any] = {}
    try:
        train("elbo", fabric, folder / "signal", callbacks=[Interrupt()])
    except SystemExit as error:
        result["signal"] = error.code
    model, guide, history = train("elbo", fabric, folder / "signal")
    result["continued"] = flat(model, guide).tolist()
    try:
        train("ragged", fabric, folder / "elbo")
    except Exception as error:
        result["refused"] = type(error).__name__ + ": " + str(error)
    model, guide, history = train("elbo", fabric, valid=rows("point", 11, seed=5), checkpoint_every=25)
    result["valid_loss"] = history.records[-1]["valid_loss"]
    return result


def shards(folder: Path, fabric: Any) -> dict[str, Any]:
    return {name: system(name, fabric) for name in SYSTEMS}


def killed(rank: int) -> Callable[[Path, Any], dict[str, Any]]:
    def job(folder: Path, fabric: Any) -> dict[str, Any]:
        began = time.monotonic()
        try:
            train("elbo", fabric, folder / f"killed-{rank}", callbacks=[Die(rank, 15)], checkpoint_every=10)
        except ProcessLostError as error:
            return {"error": str(error), "seconds": time.monotonic() - began}
        return {}

    return job


def elastic(folder: Path, fabric: Any) -> dict[str, Any]:
    """A part of a run that goes on with however many processes there are."""
    until = {"elastic-2": 17, "elastic-1": 38}.get(os.environ["JOB"], 50)
    model, guide, history = train(
        "elbo", fabric, folder / "elastic", callbacks=[Until(until)], checkpoint_every=10, progress="off"
    )
    return {"steps": history.records[-1]["step"], "end": flat(model, guide).tolist(), "loss": history.loss.tolist()}


def srun(folder: Path, fabric: Any) -> dict[str, Any]:
    model, guide, _ = train("elbo", fabric)
    return {"rank": fabric.global_rank, "size": fabric.world_size, "end": flat(model, guide).tolist()}


class Until:
    """Interrupts training after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: Any) -> None:
        if state.step == self.step - 1 and state.total > self.step:
            os.kill(os.getpid(), signal.SIGTERM)


# ---- processes


def on(size: int, folder: Path, name: str, job: Callable[[Path, Any], dict[str, Any]]) -> list[int]:
    """Run a job on so many forked processes; each writes what it returns. Returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ.update(JOB=name, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
                if name == "srun":  # two tasks on two machines, as SLURM has it
                    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": 0, "SLURM_NODEID": rank, "SLURM_NTASKS": size}
                    own |= {"SLURM_STEP_NUM_TASKS": size, "SLURM_STEP_NUM_NODES": size, "SLURM_NNODES": size}
                    os.environ.update({key: str(value) for key, value in own.items()})
                    fabric = parallel.make_fabric(accelerator="cpu")
                else:
                    os.environ.update(NODE_RANK="0", LOCAL_RANK=str(rank))
                    fabric = parallel.make_fabric(devices=size, accelerator="cpu")
                result = job(folder, fabric)
                (folder / f"{name}-{rank}.json").write_text(json.dumps(result))
                code = 0
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


JOBS: dict[str, tuple[int, Callable[[Path, Any], dict[str, Any]]]] = {
    "cases": (2, cases),
    "roads": (2, roads),
    "noise": (2, noise),
    "decisions": (2, decisions),
    "shards": (2, shards),
    "srun": (2, srun),
    "killed-0": (2, killed(0)),
    "killed-1": (2, killed(1)),
    "elastic-2": (2, elastic),
    "elastic-1": (1, elastic),
    "elastic-end": (2, elastic),
}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    import lightning_fabric  # noqa: F401  (what children then share)

    codes = {name: on(JOBS[name][0], folder, name, JOBS[name][1]) for name in names or JOBS}
    if "shards" in codes:
        loop.Stepper, step.Bucketed = OneAfterTheOther, lambda *_: None  # type: ignore[misc, assignment]
        codes["in turn"] = on(1, folder, "turn", lambda *_: {name: system(name) for name in SYSTEMS})
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
