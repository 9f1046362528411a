"""Search for options on a Ray cluster: the space of `phlogiston sweep`, with Ray Tune in place of processes here.

    pip install "phlogiston[ray]"
    python examples/cluster/ray_tune.py --space space.toml --data swissroll --trials 64 --out /shared/search

The folder is on a file system that all machines see. Every trial is a run folder below it; a trial that is lost with
its machine goes on from its newest checkpoint where Ray starts it again. Trials that lag behind end early (ASHA).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from phlogiston.systems.sweep.space import Axis, axes, read_space


def train(chosen: dict[str, Any], settings: dict[str, Any]) -> None:
    """What a trial runs: a training that tells its validation loss at every checkpoint."""
    from ray import tune

    from phlogiston import datasets, systems

    class Tell:
        def on_checkpoint(self, state: Any) -> None:
            if state.valid_loss is not None:
                tune.report({"valid_loss": state.valid_loss, "at": int(1000 * state.progress)})

    labels = {axis.name: dict(zip(axis.labels, axis.choices, strict=True)) for axis in settings["searched"]}
    options = {name: labels[name].get(value, value) for name, value in chosen.items()}
    data = datasets.load(settings["data"], **settings["data_options"])
    system = systems.get(settings["system"])({**settings["fixed"], **options})
    run = Path(settings["out"]) / "trials" / tune.get_context().get_trial_id()
    system.fit(data, out=run, callbacks=[Tell()], progress="off", threads=settings["threads"])


def domain(axis: Axis) -> Any:
    """An option's interval or choices as Ray Tune has them."""
    from ray import tune

    if axis.choices:
        return tune.choice(axis.labels)
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        if axis.step:
            return tune.qrandint(axis.low, axis.high, int(axis.step))
        return (tune.lograndint if axis.log else tune.randint)(axis.low, axis.high + 1)
    if axis.step:
        return tune.quniform(axis.low, axis.high, axis.step)
    return (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)


def main() -> None:
    """Search, and print the best run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="see `phlogiston sweep --help`")
    parser.add_argument("--system", default="drmm")
    parser.add_argument("--data", default="swissroll")
    parser.add_argument("--data-options", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="of the system, that stay")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="cores of a trial")
    parser.add_argument("--gpu", type=float, default=0.0, help="accelerators of a trial; a share lets several have one")
    parser.add_argument("--out", type=Path, required=True, help="folder that all machines see")
    given = vars(parser.parse_args())

    from ray import tune

    searched, fixed = axes(read_space(given["space"]), given["system"], given["options"], repr(given["space"]))
    settings = {
        **given,
        "out": str(given["out"].absolute()),
        "searched": searched,
        "fixed": {**given["options"], **fixed},
    }
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(train, settings=settings), {"cpu": given["threads"], "gpu": given["gpu"]}
        ),
        param_space={axis.name: domain(axis) for axis in searched},
        tune_config=tune.TuneConfig(
            metric="valid_loss",
            mode="min",
            num_samples=given["trials"],
            scheduler=tune.schedulers.ASHAScheduler(time_attr="at", max_t=1000, grace_period=200),
        ),
        run_config=tune.RunConfig(
            storage_path=settings["out"] + "/ray", failure_config=tune.FailureConfig(max_failures=3)
        ),
    )
    best = tuner.fit().get_best_result()
    run = Path(settings["out"]) / "trials" / best.metrics["trial_id"]
    print(json.dumps({"best": str(run), "valid_loss": best.metrics["valid_loss"], "options": best.config}))


if __name__ == "__main__":
    main()
