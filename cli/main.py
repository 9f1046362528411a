"""The `phlogiston` command: its verbs, and what it says when something goes wrong.

Every error is one line on stderr that says what to do. Exit code 2 means the command was misused, 1 that it failed,
130 that Ctrl-C ended it. A traceback comes only with `--debug`. Nothing here loads torch; verbs load what they need.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.main import get_command

import phlogiston
from phlogiston.cli import (
    data,
    demo,
    evaluate,
    explore,
    fid,
    impute,
    practise,
    query,
    runs,
    sample,
    show,
    summary,
    sweep,
    systems,
    train,
)
from phlogiston.console import release_streams, tell
from phlogiston.errors import ConfigError, DataError, EvidenceError, PhlogistonError, PhlogistonWarning, ShapeError

MISUSE = (ConfigError, ShapeError, DataError, EvidenceError)
INTERRUPTED = 130
STOPPED = "interrupted; what is on disk is whole. `phlogiston train SYSTEM --out RUN --resume` goes on with a run."

app = typer.Typer(
    name="phlogiston",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=True,  # `phlogiston --install-completion`
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phlogiston {phlogiston.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors; may stand anywhere.")] = False,
) -> None:
    """Deep generative models on Pyro: train with one engine, infer anything from anything.

    \b
    Examples:
      phlogiston demo --quick                          see everything at work in a few minutes
      phlogiston train drmm --data swissroll           train, and leave a run folder
      phlogiston evaluate runs/drmm-swissroll-1        numbers and an HTML report
      phlogiston sample runs/drmm-swissroll-1 -n 500 --out points.csv
      phlogiston fid real-images/ generated-images/    score anybody's pictures
      phlogiston train drmm --data measurements.csv --set num_layers=2
    """


app.command("demo")(demo.demo)
app.command("systems")(systems.systems)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("sample")(sample.sample)
app.command("show")(show.show)
app.command("query")(query.query)
app.command("impute")(impute.impute)
app.command("summary")(summary.summary)
app.command("practise")(practise.practise)
app.command("evaluate")(evaluate.evaluate)
app.command("explore")(explore.explore)
app.add_typer(data.app, name="data")
app.command("runs")(runs.runs)
fid.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code.

    Args:
        arguments: what follows the command's name; those of the process by default.

    Raises:
        SystemExit: always.
    """
    # read when torch is loaded: threads with nothing to do give up their core soon, for it may serve other work too
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    given = [_as_statement(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in given
    try:
        with _warnings_in_one_line():
            code = _run([argument for argument in given if argument != "--debug"], debug)
    finally:
        release_streams()
    raise SystemExit(code)


def _as_statement(argument: str) -> str:
    """Keep a statement that begins with a minus, as in `-1 <= x`, from being read as an option."""
    return f" {argument}" if re.match(r"-[\s\d.(`].*[<>=~]", argument) else argument


def _run(arguments: list[str], debug: bool) -> int:
    """Run a verb; return the exit code."""
    try:
        result: Any = get_command(_only(arguments)).main(args=arguments, prog_name="phlogiston", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.exceptions.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return _fail(STOPPED, INTERRUPTED, debug)
    except MISUSE as error:
        return _fail(error, 2, debug)
    except PhlogistonError as error:
        return _fail(error, 1, debug)
    except BrokenPipeError:
        return 1  # the reader (`| head`) has gone: nothing more to say
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1, debug)
    except MemoryError:
        return _fail("out of memory. Use fewer rows, a smaller batch or a smaller model.", 1, debug)
    except Exception as error:
        what = f"unexpected {type(error).__name__}: {error}"
        return _fail(f"{what} (run the same with --debug to see where; this is a fault of phlogiston)", 1, debug)
    if result == INTERRUPTED:  # typer turns Ctrl-C into this
        return _fail(STOPPED, INTERRUPTED, False)
    return result if isinstance(result, int) else 0


def _only(arguments: list[str]) -> typer.Typer:
    """Return the app with no verb but the one that is asked for: reading the signatures of all takes 0.1 s."""
    verb = arguments[0] if arguments else ""
    one = copy.copy(app)
    one.registered_commands = [command for command in app.registered_commands if command.name == verb]
    one.registered_groups = [group for group in app.registered_groups if group.name == verb]
    return one if one.registered_commands or one.registered_groups else app


def _usage(error: Any) -> int:
    """Tell what is wrong with the arguments, and where help is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "phlogiston"
    _line(f"{error.format_message()} (`{command} --help` shows how)")
    return 2


def _fail(error: object, code: int, debug: bool) -> int:
    if debug:
        tell(traceback.format_exc().rstrip())
    _line(str(error))
    return code


def _line(text: str) -> None:
    tell(f"phlogiston: {' '.join(text.split())}")


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show our own warnings as one line, others as Python does."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, PhlogistonWarning):
                _line(f"warning: {message}")
            else:
                shown(message, category, *where, **options)

        warnings.showwarning = show
        yield
