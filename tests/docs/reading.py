"""A page as a reader meets it: its snippets, its commands, its pictures; and running them where the reader stands."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


class Page:
    """A page of Markdown.

    Args:
        path: relative to the repository's top, as in "docs/mdn.md".
    """

    def __init__(self, path: str) -> None:
        self.path = ROOT / path
        self.name = path
        self.text = self.path.read_text(encoding="utf-8")
        self.prose = FENCED.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Return the fenced blocks of a language, in order; those without one for an empty string."""
        return [content for name, content in FENCED.findall(self.text) if name == language]

    @property
    def snippets(self) -> list[str]:
        """What is printed in Python."""
        return self.blocks("python")

    @property
    def commands(self) -> list[str]:
        """What is printed for the shell, line by line, comments included."""
        return [line for block in self.blocks("bash") for line in block.splitlines() if line.strip()]

    @property
    def pictures(self) -> dict[str, str]:
        """Target -> alternative text."""
        return {target: alt for alt, target in PICTURE.findall(self.prose)}

    def pictures_are_there(self) -> bool:
        """Say whether every picture of the page is a file."""
        return all((self.path.parent / target).is_file() for target in self.pictures)

    def run(self, ignore: type[Warning] | None = None) -> dict[str, Any]:
        """Execute the snippets one after the other, as printed; return what names they leave."""
        names: dict[str, Any] = {"__name__": "page"}
        with warnings.catch_warnings():
            if ignore is not None:
                warnings.simplefilter("ignore", ignore)
            for snippet in self.snippets:
                exec(compile(snippet, str(self.path), "exec"), names)
        return names


def pages() -> list[str]:
    """Name every page a reader may open."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


# ---- the shell


def in_this_process(line: str) -> str:
    """Run a printed command: `phlogiston` here, for speed, everything else in a shell; return what it printed last."""
    words = shlex.split(line, comments=True)
    if words[0] != "phlogiston" or {"|", ">", "&&"} & set(words):
        return in_a_shell(line)
    from phlogiston.cli.main import main

    with pytest.raises(SystemExit) as left:
        main(words[1:])
    assert left.value.code in (0, None), f"`{line}` left with exit code {left.value.code}"
    return line


def in_a_shell(line: str) -> str:
    """Run a printed command as a reader does: bash, and the installed `phlogiston`."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"`{line}` left with exit code {done.returncode}:\n{done.stderr[-2000:]}"
    return done.stdout


# Rows of generated data where a page asks for no number of its own. Rendering and drawing thousands takes longer than
# all else; the commands are the printed ones.
FEWER: Mapping[str, Mapping[str, Any]] = {
    "courts": {"sizes": (24, 4, 9)},
    "figures": {"characters": (4, 0, 2)},
    "script": {"sizes": (40, 8, 8)},
    "moving_digits": {"sizes": (64, 8, 8)},
    "dodge": {"sizes": (24, 4, 4), "limit": 30},
}


@contextlib.contextmanager
def shortened(steps: int = 3) -> Iterator[None]:
    """Let every training stage end after a few steps and let built-in data be few, whatever the words ask for.

    This is all the ordinary tests alter: the engine's `Stage` takes `min(steps, 3)`, a judge 2 epochs, `datasets.load`
    the rows of `FEWER`. Not a character of a page is changed. `pytest tests/docs -m learn` alters nothing.
    """
    from phlogiston import datasets
    from phlogiston.evaluate.judge import JudgeConfig
    from phlogiston.inference.svi import stages

    check, check_judge, load = stages.Stage.__post_init__, JudgeConfig.__post_init__, datasets.load

    def fewer_steps(stage: Any) -> None:
        check(stage)
        object.__setattr__(stage, "steps", min(stage.steps, steps))

    def fewer_epochs(judge: Any) -> None:
        check_judge(judge)
        object.__setattr__(judge, "epochs", min(judge.epochs, 2))

    def fewer_rows(name: Any, root: Any = None, **options: Any) -> Any:
        given = FEWER.get(name, {}) if isinstance(name, str) else {}
        return load(name, root, **{**given, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.Stage, "__post_init__", fewer_steps)
        patch.setattr(JudgeConfig, "__post_init__", fewer_epochs)
        patch.setattr(datasets, "load", fewer_rows)
        yield
