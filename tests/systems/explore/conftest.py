"""Tiny runs, a server that is started as a user starts it, and a browser."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from phlogiston import datasets
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.handwriting.system import HandwritingModel as Handwriting
from phlogiston.systems.mdn.system import MDN
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.sketch.system import Sketch
from phlogiston.systems.sqair.system import SQAIR
from phlogiston.systems.vdsm.system import VDSM

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="session")
def explore_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of seconds: a table with a category, poses, and a folder that is damaged."""
    pytest.importorskip("starlette", reason="the explorer needs the extra phlogiston[explore]")
    pytest.importorskip("uvicorn", reason="the explorer needs the extra phlogiston[explore]")
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    kind = random.integers(0, 2, 400)
    height = np.where(kind, 178.0, 165.0) + random.normal(0, 6, 400)
    table = pd.DataFrame({"age": random.normal(45, 10, 400), "height": height, "kind": np.array(["cat", "dog"])[kind]})
    DRMM(num_layers=1, num_components=4, steps=40).fit(table, out=folder / "people")
    poses = datasets.load("poses", sizes=(600, 10, 10))
    DRMM(num_layers=1, num_components=12, frame="tril", steps=15).fit(poses, out=folder / "poses")
    MDN(num_components=4, steps=40).fit(datasets.load("arcsine"), out=folder / "arcsine")
    digits = datasets.load("digits")
    DRMM(num_layers=1, num_components=20, steps=60).fit(digits, out=folder / "digits")
    letters = datasets.load("script", sizes=(60, 6, 6), letters=(1, 1))
    Sketch(hidden=16, encoder_hidden=8, latent=4, max_points=25, steps=8, batch_size=20).fit(
        letters, out=folder / "letters"
    )
    lines = datasets.load("script", sizes=(60, 6, 6), letters=(2, 3))
    Handwriting(hidden=16, steps=8, batch_size=20).fit(lines, out=folder / "lines")
    courts = datasets.load("courts", sizes=(6, 1, 3))
    Scene(draft_steps=3, steps=2, batch_size=2).fit(courts, out=folder / "courts")
    moving = datasets.load("moving_digits", sizes=(8, 2, 4))
    SQAIR(steps=3, batch_size=4).fit(moving, out=folder / "moving")
    figures = datasets.load("figures", size=32, characters=(2, 0, 1), frames=4)
    small = {"encoder_widths": (4, 4, 4), "decoder_widths": (8, 4, 4), "judge_epochs": 0, "aggregate": 2}
    VDSM(steps=3, warm_steps=1, sequence_steps=1, batch_size=4, **small).fit(figures, out=folder / "figures")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{ torn", encoding="utf-8")
    return {path.name: path for path in sorted(folder.iterdir())}


@dataclass
class Served:
    """A server of the explorer in a process of its own."""

    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        """The first part of every path."""
        return urlsplit(self.address).path.strip("/")

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Send one request with a plain client, the path as it stands: status, body and headers of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body or None, names)
            response = connection.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
        finally:
            connection.close()

    def ask(self, run: str, panel: str, question: dict[str, Any], session: str = "s", what: str = "ask") -> Any:
        """Ask as the page does."""
        content = {"session": session, "job": "j", "run": run, "panel": panel, "question": question}
        return json.loads(self.request("POST", f"/{self.token}/api/{what}", json.dumps(content).encode())[1])


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """A function that serves runs; the server ends with its block."""

    @contextmanager
    def serve(*runs: Path) -> Iterator[Served]:
        command = [sys.executable, "-P", "-m", "phlogiston", "explore", *map(str, runs), "--no-browser"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        try:
            yield Served(process, process.stdout.readline().strip())
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()

    return serve


@pytest.fixture(scope="session")
def served(explore_runs: dict[str, Path], serving: Callable[..., Any]) -> Iterator[Served]:
    """A server of all the runs, the table first."""
    first = explore_runs["people"]
    with serving(first, *(path for path in explore_runs.values() if path != first)) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window, or the reason why there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed (requirements-browse.txt)")
    from playwright.sync_api import sync_playwright

    named = os.environ.get("PHLOGISTON_CHROMIUM")
    program = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium here ($PHLOGISTON_CHROMIUM names one)")
    with sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Visitor:
    """A page in the browser, with what a person does there."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.answers: list[dict[str, Any]] = []
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("request", self._only_here)
        page.on("response", self._keep)

    def _only_here(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.faults.append(f"asks the network for {request.url}")

    def _keep(self, response: Any) -> None:
        if response.url.endswith("/api/ask"):
            self.answers.append({"response": response})

    def open(self, run: str, panel: str | None = None) -> None:
        """Open the page, choose a run, and wait for its first answer."""
        self.page.goto(self.address)
        self.page.wait_for_selector("#run option", state="attached")
        if self.page.input_value("#run") != run:
            self.page.select_option("#run", run)
        if panel is not None:
            self.page.get_by_role("button", name=panel, exact=True).click()
        self.page.wait_for_selector("#ess, #method")
        self.settle()

    def settle(self) -> dict[str, Any]:
        """Wait until no answer is on its way; return the newest."""
        self.page.wait_for_selector("body[data-settled=true]", timeout=60_000)
        return self.newest()

    def newest(self) -> dict[str, Any]:
        """The newest answer that came."""
        return json.loads(self.answers[-1]["response"].text())

    def drag(self, selector: str, start: tuple[float, float], *path: tuple[float, float]) -> None:
        """Drag over an element, between places given as shares of its width and height."""
        self.page.locator(selector).scroll_into_view_if_needed()
        box = self.page.locator(selector).bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, *path)]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for place in at[1:]:
            self.page.mouse.move(*place, steps=3)
        self.page.mouse.up()

    @staticmethod
    def repeated(answer: dict[str, Any], result: str = "answer") -> Any:
        """What the Python that a page gives for an answer computes."""
        space: dict[str, Any] = {}
        exec(answer["python"], space)
        return space[result]

    def drag_onto(self, selector: str, ground: str, x: float, y: float) -> None:
        """Drag an element to a place of another, given as shares of that one's width and height."""
        box, ground_box = self.page.locator(selector).bounding_box(), self.page.locator(ground).bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        place = (ground_box["x"] + x * ground_box["width"], ground_box["y"] + y * ground_box["height"])
        self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a page of its own; at the end no page may have complained."""
    visitors: list[Visitor] = []

    def visitor(server: Served = served, width: int = 1100) -> Visitor:
        page = browser.new_page(viewport={"width": width, "height": 850})
        visitors.append(Visitor(page, server.address))
        return visitors[-1]

    yield visitor
    for one in visitors:
        one.page.close()
    assert not [fault for one in visitors for fault in one.faults]
