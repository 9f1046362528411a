"""Open the site and a report in headless Chromium and look for what a reader would stumble over: `make browse`.

    python -P docs/check_site.py build/site runs/my-run/report.html

Every page is opened at 400, 800 and 1300 pixels, in light and in dark. Faults are: an error on the console or a file
that is not there; something that asks the network; a page that scrolls sideways; code cut off, or too wide at 1300
pixels; and what axe-core calls a serious or critical fault of accessibility. Needs Chromium, and
`pip install -r requirements-browse.txt`; where one of them is missing the script says so and ends with 0.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS = (400, 800, 1300)
SCHEMES = ("light", "dark")
SERIOUS = {"serious", "critical"}
LARGE = 400_000  # bytes; of pages of a site above it, those of the reference, only the layout is judged
HOST = "127.0.0.1"

# What of the page is wider than its place: the page itself, and blocks of code that must scroll to be read.
LAYOUT = """() => {
  const root = document.documentElement;
  const cut = [...document.querySelectorAll('pre')].filter(
    (e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible');
  const hidden = [...document.querySelectorAll('pre')].filter((e) => {
    for (let p = e; p && p !== document.body; p = p.parentElement) {
      if (getComputedStyle(p).overflowX === 'hidden' && e.scrollWidth > p.clientWidth + 1) return true;
    }
    return false;
  });
  const scrolled = [...document.querySelectorAll('article pre, main pre')].filter(
    (e) => e.scrollWidth > e.clientWidth + 1);
  const longest = (text) => text.split('\\n').reduce((a, b) => (b.length > a.length ? b : a)).slice(0, 140);
  return {
    page: root.scrollWidth - root.clientWidth,
    cut: [...cut, ...hidden].map((e) => e.innerText.slice(0, 60)),
    scrolled: scrolled.map((e) => longest(e.innerText)),
    math: [...document.querySelectorAll('math')].filter((e) => e.getBoundingClientRect().height < 4).length,
  };
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yield its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


def chromium() -> str | None:
    """Return the path of a Chromium on this machine, or None."""
    named = os.environ.get("PHLOGISTON_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pages_of(path: Path) -> list[str]:
    """The pages of a site, without sources of modules and what only leads on; a file is a page by itself."""
    if path.is_file():
        return [path.name]
    found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.html"))
    shown = [name for name in found if not name.startswith(("_modules/", "_static/"))]
    return [name for name in shown if 'http-equiv="refresh"' not in (path / name).read_text(encoding="utf-8")]


def judge(page: Any, axe: str, width: int, accessibility: bool) -> list[str]:
    """Return the faults of the page that is open, in words."""
    faults = []
    layout = page.evaluate(LAYOUT)
    if layout["page"] > 1:
        faults.append(f"scrolls sideways by {layout['page']} pixels")
    faults += [f"code is cut: {line!r}" for line in layout["cut"]]
    if width >= max(WIDTHS):
        faults += [f"code does not fit: {line!r}" for line in layout["scrolled"]]
    if layout["math"]:
        faults.append(f"{layout['math']} formulas are not drawn")
    if accessibility:
        page.evaluate(axe)
        found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        for violation in found:
            if violation["impact"] in SERIOUS:
                where = "; ".join(" ".join(node["target"][:1]) for node in violation["nodes"][:3])
                faults.append(f"axe, {violation['impact']}: {violation['id']} ({len(violation['nodes'])}) at {where}")
    return faults


class Listener:
    """Hears what a page complains about: console, missing files, and anything it asks the network for."""

    def __init__(self, page: Any, base: str) -> None:
        self.base, self.heard = base, list[str]()
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.heard.append(str(error)))
        page.on("response", self.response)
        page.route("**/*", self.here_only)

    def console(self, message: Any) -> None:
        """Note errors."""
        if message.type == "error":
            self.heard.append(message.text)

    def response(self, response: Any) -> None:
        """Note what is not there."""
        if response.status >= 400:
            self.heard.append(f"{response.status} {response.url}")

    def here_only(self, route: Any) -> None:
        """Let through what this machine serves, note and stop the rest."""
        if route.request.url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.heard.append(f"asks the network for {route.request.url}")
            route.abort()

    def said(self) -> list[str]:
        """Return what was heard since the last time."""
        heard, self.heard = self.heard, []
        return heard


def look(browser: Any, axe: str, base: str, names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Open pages at every width and in both schemes; return the faults of each."""
    faults: dict[str, list[str]] = {}
    for scheme in SCHEMES:
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        listener = Listener(page, base)
        for name in names:
            small = len(names) == 1 or (folder / name).stat().st_size < LARGE
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                if width == WIDTHS[0]:
                    page.goto(f"{base}/{name}", wait_until="load")
                # colours do not depend on the width: the narrow and the wide layout are judged
                found = judge(page, axe, width, accessibility=small and width != WIDTHS[1])
                faults.setdefault(name, []).extend(f"{width} px, {scheme}: {fault}" for fault in found)
            faults[name].extend(f"{scheme}: {words}" for words in listener.said())
        context.close()
    return faults


def main(arguments: list[str] | None = None) -> int:
    """Check sites and reports; return the exit code: 1 where there are faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="folders of a site, or single reports")
    parser.add_argument("--only", default="", help="pages whose name holds this")
    parser.add_argument("--skip", default="\0", help="not those whose name holds this")
    parser.add_argument("--json", action="store_true", help="print the faults as one object")
    options = parser.parse_args(arguments)
    missing = [path for path in options.paths if not path.exists()]
    if missing:
        print(f"{missing[0]} is not there; build the site with `make docs`", file=sys.stderr)
        return 2
    program = chromium()
    try:
        from axe_playwright_python.sync_playwright import Axe
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("not checked: playwright is not installed (requirements-browse.txt)")
        return 0
    if program is None:
        print("not checked: there is no Chromium here ($PHLOGISTON_CHROMIUM names one)")
        return 0
    faults: dict[str, list[str]] = {}
    count = 0
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for path in options.paths:
            folder = path if path.is_dir() else path.parent
            names = [name for name in pages_of(path) if options.only in name and options.skip not in name]
            count += len(names)
            with served(folder) as base:
                found = look(browser, Axe().axe_script, base, names, folder)
            faults |= {f"{path}: {name}": words for name, words in found.items() if words}
        browser.close()
    if options.json:
        print(json.dumps(faults, indent=2))
    else:
        for name, found in faults.items():
            print(name, *(f"\n    {fault}" for fault in found))
        print(f"{count} pages, {sum(map(len, faults.values()))} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
