"""What goes wrong is said in one line, with the right exit code, and a traceback only on demand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phlogiston import errors
from phlogiston.cli import main as top

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trani"], "Did you mean 'train'"),
        (["train", "drmm", "--stesp", "3"], "--steps"),
        (["train"], "Missing argument"),
        (["train", "drmm", "--steps", "0"], "--steps"),
        (["train", "drm"], "Did you mean 'drmm'"),
        (["train", "drmm", "--preset", "swisroll"], "Did you mean 'swissroll'"),
        (["train", "drmm", "--set", "nm_layers=2"], "Did you mean 'num_layers'"),
        (["train", "drmm", "--set", "num_layers=two"], "num_layers"),
        (["train", "drmm", "--set", "num_layers=0"], "num_layers must be at least 1"),
        (["train", "drmm", "--set", "num_layers"], "expected key=value"),
        (["train", "drmm", "--set", "beam=2", "--set", "beam=3"], "given twice"),
        (["train", "drmm", "--data", "swisroll"], "Did you mean 'swissroll'"),
        (["train", "drmm", "--data", "none.csv"], "no file or folder 'none.csv'"),
        (["train", "drmm", "--data-set", "noise=1"], "Did you mean 'noise_sd'"),
        (["train", "drmm", "--data-set", "n=many"], "'many' is no"),
        (["train", "drmm", "--devices", "none"], "a number from 1 on"),
        (["train", "drmm", "--nodes", "2"], "torchrun --nnodes 2 --nproc-per-node 1"),
        (["train", "drmm", "--auto-resume"], "--auto-resume needs --out"),
        (["train", "drmm", "--precision", "16-mixed"], "32-true"),
        (["train", "drmm", "--resume"], "--resume needs --out"),
        (["train", "drmm", "--lr-resume", "0.5"], "needs --resume"),
        (["systems", "drm"], "Did you mean 'drmm'"),
        (["data", "info", "digit"], "Did you mean 'digits'"),
        (["data", "get", "mnits"], "Did you mean 'mnist'"),
        (["data", "preview", "digits", "--out", "a.jpg"], ".png"),
        (["sample", "somewhere", "--out", "a.jpg"], "Did you mean '.png'"),
        (["sample", "somewhere", "--out", "none/a.npz"], "no folder 'none'"),
        (["sample", "somewhere", "-n", "0"], "-n"),
    ],
)
def test_misuse_is_one_line_on_stderr_that_helps_and_exit_code_2(
    command: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("phlogiston: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert not list(tmp_path.iterdir())  # a refused command leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "somewhere"], "somewhere is not a run folder"),
        (["evaluate", "somewhere"], "somewhere is not a run folder"),
        (["runs", "somewhere"], "no folder 'somewhere'"),
    ],
)
def test_failure_is_one_line_and_exit_code_1(command: Command, arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert says in done.err


def raising(error: BaseException) -> Callable[..., None]:
    def verb(*_: Any, **__: Any) -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("m"), 2),
        (errors.UnknownNameError("m"), 2),
        (errors.ShapeError("m"), 2),
        (errors.DataError("m"), 2),
        (errors.EvidenceError("m"), 2),
        (errors.RunError("m"), 1),
        (errors.CheckpointError("m"), 1),
        (errors.TrainingError("m"), 1),
        (errors.PhlogistonError("two\nlines"), 1),
        (PermissionError(13, "Permission denied", "f"), 1),
        (MemoryError(), 1),
        (ZeroDivisionError("m"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    monkeypatch.setattr("phlogiston.systems.names", raising(error))
    done = command("systems")
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert "Traceback" not in done.err
    shown = command("systems", "--debug")
    assert shown.code == code
    assert ("Traceback" in shown.err) == (code != 130)


def test_our_warnings_are_one_line_and_no_result(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def names() -> tuple[str, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("take\ncare", errors.DataWarning, stacklevel=2)
        return ()

    monkeypatch.setattr("phlogiston.systems.names", names)
    done = command("systems", "--json")
    assert done.json["systems"] == {}
    assert done.err == "phlogiston: warning: take care\n"


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    program = "import sys; sys.argv[1:] = ['systems', 'drmm']; from phlogiston.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert said == ""


def test_version_and_help_of_every_verb_show_examples(command: Command) -> None:
    assert command("--version").out.startswith("phlogiston ")
    verbs = [["demo"], ["systems"], ["train"], ["sample"], ["evaluate"], ["runs"], ["data"]]
    for verb in [[], *verbs, *(["data", name] for name in ("list", "info", "get", "preview"))]:
        done = command(*verb, "--help")
        assert done.code == 0
        assert "Example" in done.out
        assert "phlogiston " + " ".join(verb) in done.out.split("Example")[1]
        assert "\b" not in done.out
        assert "\f" not in done.out


def test_without_arguments_the_command_shows_its_help(command: Command) -> None:
    done = command()
    assert done.code == 2
    assert "Usage: phlogiston" in done.out
    assert top.app.info.name == "phlogiston"
