"""`phlogiston explore`: ask trained systems in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.console import tell


def explore(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            autocompletion=complete.runs,
            help="Run folders, hf://user/name, or names such as drmm/poses; by default runs/ and what comes with "
            "the package.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Ask trained systems in the browser: drag, paint and type what is known, and see what follows.

    The page is served to this machine alone, at an address with a random token, until Ctrl-C; it needs no network.
    Needs the extra phlogiston[explore].

    \b
    Examples:
      phlogiston explore
      phlogiston explore runs/drmm-swissroll-1 runs/mdn-inverse_sine-1
    """
    from phlogiston.errors import ConfigError
    from phlogiston.systems.explore.catalogue import catalogue

    try:
        from phlogiston.systems.explore.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise ConfigError(f'explore needs {error.name}: pip install "phlogiston[explore]"') from error

    def ready(address: str) -> None:
        print(address, flush=True)
        tell("open this address in a browser; Ctrl-C ends the server")
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(catalogue(runs or ()), port, ready)
