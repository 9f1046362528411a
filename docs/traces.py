"""Three ways through the code, as they are: which files training, a query and an evaluation enter, in their order.

    python docs/traces.py        rewrites the lists in docs/design.md

A small system does each of them under a profiler; a file stands once, with the function it is entered by first. Bodies
of modules and classes, which run when a file is imported, are no functions.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from phlogiston import datasets, systems
from phlogiston.inference.query.evidence import Within

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- traces -->", "<!-- end traces -->"


def entered(action: Callable[[], Any]) -> dict[str, str]:
    """Run `action`; return file -> the function it was entered by first, in the order of entering."""
    found: dict[str, str] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(str(ROOT)):
            parts = Path(code.co_filename).relative_to(ROOT).parts
            file = "/".join(parts[1:] if parts[0] == "phlogiston" and len(parts) > 2 else parts)
            if not file.startswith((".venv", "docs", "tests", "phlogiston/lazy")) and "<" not in code.co_name:
                found.setdefault(file, code.co_qualname)

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found


def traces() -> dict[str, dict[str, str]]:
    """Train vdsm, query drmm and evaluate scene, small, each under the profiler."""
    clips = datasets.load("figures", characters=(3, 0, 2), size=16, frames=5)
    vdsm = systems.get("vdsm")(
        experts=4, pose=3, dynamics=5, encoder_widths=(6, 6), features=16, decoder_widths=(8, 6), recurrent=8,
        steps=6, batch_size=6, warm_steps=4, sequence_steps=4, warmup=2, aggregate=2,
    )  # fmt: skip
    drmm = systems.get("drmm")(num_layers=2, num_components=4, steps=20, batch_size=64, beam=3)
    drmm.fit(datasets.load("digits"), progress="off")
    box = {"x": Within(torch.full((64,), -1e3), torch.full((64,), 1e3))}
    views = datasets.load("courts", sizes=(16, 4, 9), views=8, size=16)
    scene = systems.get("scene")(
        bins=8, values=4, code=8, encoder=(6, 8), steps_between=2, grid=4, hidden=6, latent=2, whole=0, layers=2,
        width=12, blocks=1, context=4, queries=2, batch_size=4, draft_steps=3, steps=3,
    ).fit(views, progress="off")  # fmt: skip
    return {
        "train vdsm": entered(lambda: vdsm.fit(clips, progress="off")),
        "query drmm": entered(lambda: drmm.query(box, num_samples=50, seed=0)),
        "evaluate scene": entered(lambda: scene.evaluate(views)),
    }


def text(found: dict[str, dict[str, str]]) -> str:
    """The lists as the page holds them."""
    lines = []
    for name, files in found.items():
        lines += [f"**{name}**, {len(files)} files:", ""]
        lines += [f"{i}. `{file}:{function}`" for i, (file, function) in enumerate(files.items(), 1)]
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the lists between the marks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lists = text(traces())
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{lists}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
