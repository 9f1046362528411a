"""Take clips apart and put them together: who from one, what from another.

Characters walk, cast and slash. The model is told which clips show the same character, nothing else; it learns a code
for the person, one for the action and a pose per frame. The script trains it for a minute, then writes

    grid.png, grid.gif    every action (rows) with every person (columns), none of them seen in training
    longer.gif            the same actions, four times as long as any training clip
    invented.gif          people and actions drawn from where the training clips' codes are

    python examples/vdsm_swap.py --out runs/swap

`--smoke` takes seconds and shows little. For figures of merit: `phlogiston evaluate` on a run of preset cpu-figures.

After Vowels, Camgoz and Bowden, VDSM, CVPR 2021.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from phlogiston import datasets
from phlogiston.systems.export import Samples, write
from phlogiston.systems.vdsm import VDSM
from phlogiston.systems.vdsm.config import PAIRS, PRESETS
from phlogiston.systems.vdsm.pictures import swap_figure

SMOKE: dict[str, Any] = {"steps": 10, "warm_steps": 5, "sequence_steps": 3, "aggregate": 1}


def main() -> None:
    """Train, swap, continue, invent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/swap"), help="folder for the pictures")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    options = parser.parse_args()

    data = datasets.load("figures", size=32, characters=(4, 0, 6) if options.smoke else (96, 0, 16))
    system = VDSM({**PAIRS, **PRESETS["cpu-demo"], **(SMOKE if options.smoke else {})}).fit(data)
    metrics = system.evaluate(data, ["error", "probes"])
    for name in ("excess_frame", "excess_sequence", "probe_identity_top", "probe_dynamics_action", "chance_action"):
        print(f"{name.replace('_', ' ')}: {metrics[name]}")

    options.out.mkdir(parents=True, exist_ok=True)
    swap_figure(system, data.test).savefig(options.out / "grid.png", dpi=120)
    views = system.views()
    for view, name in (("swap_grid", "grid"), ("generate", "longer"), ("samples", "invented")):
        laid = views[view](system, data.test, 6, 0)
        write(options.out / f"{name}.gif", Samples({key: value.numpy() for key, value in laid.items()}))
    print(options.out)


if __name__ == "__main__":
    main()
