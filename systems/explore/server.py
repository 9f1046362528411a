"""The server of the page: what it serves, and how it is run.

    GET  /TOKEN/                    the page, and /TOKEN/static/NAME what it is made of
    GET  /TOKEN/api/runs            the runs there are
    POST /TOKEN/api/describe, ask   what a panel must know of a run; one answer
    POST /TOKEN/api/stop            stop a question

Needs the extra phlogiston[explore].
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import phlogiston
from phlogiston.errors import ConfigError, PhlogistonError, RunError
from phlogiston.systems.explore.catalogue import Entry
from phlogiston.systems.explore.guard import Guard
from phlogiston.systems.explore.panels import TITLES
from phlogiston.systems.explore.sessions import Sessions

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Api:
    """The answers to a page's requests.

    Args:
        entries: the runs, by key.
        sessions: who answers.
    """

    def __init__(self, entries: Mapping[str, Entry], sessions: Sessions) -> None:
        self.entries, self.sessions = entries, sessions
        # read once, by names that are there: no path of a request ever reaches the disk
        self.files = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in KINDS}

    async def page(self, request: Request) -> Response:
        """Serve the page, or a part of it."""
        name = request.path_params.get("name", "index.html")
        if name not in self.files:
            return JSONResponse({"error": "there is no such file"}, 404)
        return Response(self.files[name], media_type=KINDS[Path(name).suffix])

    async def runs(self, request: Request) -> Response:
        """Serve the list of runs."""
        listed = [entry.told() for entry in self.entries.values()]
        return JSONResponse({"runs": listed, "titles": TITLES, "version": phlogiston.__version__})

    async def ask(self, request: Request) -> Response:
        """Describe a run to a panel, or answer a question."""
        what = request.url.path.rpartition("/")[2]
        try:
            content = _object(await request.body())
            session, job = _name(content, "session"), _name(content, "job")
            if what == "stop":
                return JSONResponse({"stopped": self.sessions.of(session).stop(job)})
            entry = self.entries.get(str(content.get("run")))
            name = str(content.get("panel"))
            if entry is None or name not in entry.panels:
                return JSONResponse({"error": "there is no such run here, or no such panel for it"}, 404)
            question = content.get("question") or {}
            if not isinstance(question, dict):
                raise ConfigError("question must be an object")
            message = (entry.run, name, what, question)
            answer = await run_in_threadpool(self.sessions.of(session).ask, job, message)
        except PhlogistonError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(answer)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"a request must be a JSON object ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError("a request must be a JSON object")
    return content


def _name(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(f"{key} must be letters and digits, 64 at most")
    return value


def application(entries: Mapping[str, Entry], token: str, port: int, sessions: Sessions) -> Guard:
    """The application: routes behind the guard.

    Args:
        entries: the runs, by key.
        token: the first part of every path.
        port: that it is served on.
        sessions: who answers; closed when the server shuts down.
    """
    api = Api(entries, sessions)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(sessions.warm)
        yield
        sessions.close()

    routes = [
        Route("/", api.page),
        Route("/static/{name}", api.page),
        Route("/api/runs", api.runs),
        *(Route(f"/api/{what}", api.ask, methods=["POST"]) for what in ("describe", "ask", "stop")),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    return Guard(app, token, (f"{HOST}:{port}", f"localhost:{port}"))


def serve(entries: Mapping[str, Entry], port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        entries: the runs, by key.
        port: 0 for any that is free.
        ready: told the page's address once it can be opened.

    Raises:
        RunError: the port is taken.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError as error:
        bound.close()
        raise RunError(f"port {port} of {HOST} cannot be used ({error.strerror}); choose another --port") from error
    token, chosen = secrets.token_urlsafe(18), bound.getsockname()[1]
    app = application(entries, token, chosen, Sessions())
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, lifespan="on"
    )
    server = _Server(config, lambda: ready(f"http://{HOST}:{chosen}/{token}/"))
    with contextlib.suppress(KeyboardInterrupt), bound:
        server.run(sockets=[bound])


class _Server(uvicorn.Server):
    """A server that tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._ready()
