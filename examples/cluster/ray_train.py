"""Train a system on a Ray cluster: the same `fit`, inside Ray's `TorchTrainer`.

    pip install "phlogiston[ray]"
    python examples/cluster/ray_train.py --system sqair --workers 16 --gpu --out /shared/runs/sqair

Ray starts the workers and makes their process group; `make_fabric` takes it as it is. The run folder, on a file system
that all workers see, is where checkpoints go: a worker that is lost makes Ray start all of them again, and `fit` goes
on from the newest one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def train(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train

    from phlogiston import datasets, systems
    from phlogiston.inference import make_fabric

    fabric = make_fabric(accelerator="cuda" if settings["gpu"] else "cpu")
    data = datasets.load(settings["data"], **settings["data_options"])
    system = systems.get(settings["system"])(settings["options"])
    system.fit(data, out=settings["out"], fabric=fabric, progress="off")
    assert system.history is not None
    ray.train.report({"loss": float(system.history.loss[-1])})


def main() -> None:
    """Start the workers and print where the run is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="drmm")
    parser.add_argument("--data", default="swissroll")
    parser.add_argument("--data-options", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="of the system")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="one accelerator per worker")
    parser.add_argument("--out", type=Path, required=True, help="run folder, seen by all workers")
    given = vars(parser.parse_args())

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    given["out"] = str(given["out"].absolute())
    trainer = TorchTrainer(
        train,
        train_loop_config=given,
        scaling_config=ScalingConfig(num_workers=given["workers"], use_gpu=given["gpu"]),
        run_config=RunConfig(storage_path=given["out"] + "-ray", failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()  # raises what a worker raised, once it has failed too often
    print(json.dumps({"run": given["out"]}))


if __name__ == "__main__":
    main()
