"""Every command of README and docs runs as printed, one after the other, in an empty folder.

In the ordinary suite training stages are cut short and generated data are few (`reading.shortened` says how), and
`phlogiston` runs in this process. `pytest tests/docs -m learn` runs the same lines by the shell, with nothing altered;
that takes the time the recipes take.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston.errors import PhlogistonWarning

from ..datasets.test_scene_files import record, scene
from .reading import Page, in_a_shell, in_this_process, pages, shortened

WITH_COMMANDS = [name for name in pages() if Page(name).commands]
ELSEWHERE = {
    "docs/own-system.md": "test_own_system_page.py runs them with the package installed",
    "docs/your-data.md": "test_your_data_page.py runs them beside the file that the page writes",
    "CONTRIBUTING.md": "they run the tests",
}
# Commands that need what no test has: only their options are checked (test_readme.py).
ONLY_READ = {
    "phlogiston explore": "it serves until Ctrl-C; tests/systems/explore drives it",
    "phlogiston data record VizdoomTakeCover-v1": "600 games of it take a minute; tests/learn runs the same recipe",
    "phlogiston train world --data cover": "it trains on those",
    "phlogiston evaluate runs/cover": "it plays hundreds of them",
    "phlogiston show runs/cover": "it plays some",
    "phlogiston practise runs/cover": "it plays six hundred",
    "phlogiston data record CarRacing-v3": "100 games of it take two minutes; tests/learn runs the same recipe",
    "phlogiston train world --data racing": "it trains on those",
    "phlogiston show runs/racing": "it drives some",
    "phlogiston fid photos/ generated/": "Inception's official weights are fetched, 95 MB",
}


def photographs() -> None:
    """What the reader of docs/evaluation.md has: pictures, a network, samples, a run."""
    from PIL import Image

    from phlogiston.systems import workflow

    noise = np.random.default_rng(0)
    for folder in ("photos", "generated"):
        Path(folder).mkdir()
        for i in range(4):
            Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"{folder}/{i}.png")
    for name in ("real", "fake"):
        np.savez(f"{name}.npz", x=noise.integers(0, 256, (60, 8, 8), dtype=np.uint8))
    np.savez("samples.npz", x=noise.random((60, 8, 8)).astype(np.float32))
    Path("my_net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, images):\n"
        "        return images.float().flatten(1)[:, :20]\n"
    )
    workflow.train("drmm", data="digits", preset="digits", steps=5, out=Path("runs/my-run"), progress="off")


def mazes() -> None:
    """What the reader of docs/scene.md has: official scene files, in the small."""
    from phlogiston.datasets.readers import tfrecord

    Path("mazes/train").mkdir(parents=True)
    for number in range(8):
        frames, cameras = scene(views=20, seed=number, side=64)
        Path(f"mazes/train/{number}.tfrecord").write_bytes(tfrecord.frame(record(frames, cameras)))


BRINGS: dict[str, Callable[[], None]] = {"docs/evaluation.md": photographs, "docs/scene.md": mazes}


def go_through(name: str, run: Callable[[str], str]) -> None:
    """Run a page's commands in the present folder, in order."""
    BRINGS.get(name, lambda: None)()
    for line in Page(name).commands:
        if not any(line.startswith(known) for known in ONLY_READ):
            run(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(WITH_COMMANDS) - set(ELSEWHERE)))
def test_the_commands_of_the_page_run_one_after_the_other(
    page: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page(name)
    with shortened(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)  # so little training is worth a warning
        go_through(name, in_this_process)


@pytest.mark.learn
@pytest.mark.parametrize("name", sorted(set(WITH_COMMANDS) - set(ELSEWHERE)))
def test_the_commands_of_the_page_run_in_a_shell_with_nothing_altered(page: Any, name: str) -> None:
    page(name)
    go_through(name, in_a_shell)


def test_what_is_only_read_is_still_printed() -> None:
    printed = [line for name in WITH_COMMANDS for line in Page(name).commands]
    assert all(any(line.startswith(known) for line in printed) for known in ONLY_READ)
    assert set(ELSEWHERE) <= set(WITH_COMMANDS)
