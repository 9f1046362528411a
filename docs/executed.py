"""A Sphinx extension that runs the snippets of every page while the site is built, and shows what they print.

The `python` blocks of a page run one after the other in an empty folder, in an interpreter of their own; below each
block the site shows what it printed. A block that fails fails the build. Blocks that begin with `# file: NAME` are
files of a package: it is built and installed into a folder of its own, and the page's other blocks run with it.

Pages run side by side, as many as there are cores. What a page printed is kept below `build/snippets`, and shown again
without running it as long as the page's blocks, the code of the package and the libraries are the same.
`-D execute_snippets=0` leaves all of it out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FENCED = re.compile(r"^```(python|bash|toml)\n(.*?)^```$", flags=re.S | re.M)
FILE = re.compile(r"# file: (\S+)\n(.*)", flags=re.S)
CACHE = ROOT / "build" / "snippets"
MOST = 24  # lines of output shown below a block

# Runs in the child: snippets in, what each printed out. Progress is silent off a terminal, warnings are not shown.
DRIVER = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("ignore")
snippets, names, printed = json.load(open(sys.argv[1])), {"__name__": "page"}, []
for snippet in snippets:
    held = io.StringIO()
    with contextlib.redirect_stdout(held):
        exec(compile(snippet, sys.argv[2], "exec"), names)
    printed.append(held.getvalue())
json.dump(printed, open(sys.argv[1], "w"))
"""


def _child(command: list[str], folder: Path, site: Path | None = None) -> str:
    """Run a command of a page, with the page's own package on the path if it has one; return what it printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PHLOGISTON_CACHE": str(folder / ".cache")}
    if site is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"`{shlex.join(command)[:200]}` failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _install(files: dict[str, str], top: Path) -> Path:
    """Build and install the package that a page's files make up; return the folder it is installed in."""
    for name, text in files.items():
        path = top / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".py":
            (path.parent / "__init__.py").touch()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(top / "site"), str(top / "package")]
    _child(command, top)
    return top / "site"


def run(text: str, name: str) -> list[str]:
    """Run the blocks of a page; return what each of them printed, "" for files and where nothing was run.

    Python blocks share one interpreter. Commands are run on pages that bring a package, before the python blocks.

    Raises:
        RuntimeError: a block failed; the message ends with its traceback.
    """
    blocks = FENCED.findall(text)
    files = {match[1]: match[2] for _, code in blocks if (match := FILE.match(code))}
    printed = [""] * len(blocks)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "here"
        folder.mkdir()
        site = _install(files, Path(made)) if files else None
        for i, (kind, code) in enumerate(blocks):
            if site is not None and kind == "bash":
                lines = [shlex.split(line, comments=True) for line in code.splitlines() if line.strip()]
                python = [sys.executable, "-P", "-m"]
                said = [_child([*python, *line], folder, site).rstrip() for line in lines if line[0] != "pip"]
                printed[i] = "\n".join(said)
        snippets = [i for i, (kind, code) in enumerate(blocks) if kind == "python" and not FILE.match(code)]
        if snippets:
            for i, said in zip(snippets, _snippets([blocks[i][1] for i in snippets], name, folder, site), strict=True):
                printed[i] = said
    return printed


def _snippets(snippets: list[str], name: str, folder: Path, site: Path | None) -> list[str]:
    held = folder / ".snippets.json"
    held.write_text(json.dumps(snippets), encoding="utf-8")
    _child([sys.executable, "-P", "-c", DRIVER, str(held), name], folder, site)
    return list(json.loads(held.read_text(encoding="utf-8")))


def shown(text: str, printed: list[str]) -> str:
    """Return a page with what its blocks printed below them."""
    said = iter(printed)

    def below(found: re.Match[str]) -> str:
        lines = next(said, "").rstrip().splitlines()
        if not lines:
            return found[0]
        lines = [*lines[:MOST], "..."] if len(lines) > MOST else lines
        return "\n".join([found[0], "", "```{code-block} text", ":class: output", "", *lines, "```"])

    return FENCED.sub(below, text)


PACKAGES = ("networks", "distributions", "datasets", "models", "guides", "inference", "evaluate", "systems", "cli")


def state_of_the_code(root: Path) -> str:
    """Return a digest of every source file of the package and of the versions of what it stands on."""
    digest = hashlib.sha256()
    for folder in (*PACKAGES, "phlogiston"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    for name in ("torch", "pyro-ppl", "numpy", "pandas", "scipy"):
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()


def kept(text: str, name: str, state: str, folder: Path, run: Callable[[str, str], list[str]] = run) -> list[str]:
    """Return what the blocks of a page print: from the cache, or by running them and remembering it.

    A page that fails is not remembered. Files that cannot be read as they were written are run again.
    """
    key = hashlib.sha256(json.dumps([FENCED.findall(text), state]).encode()).hexdigest()
    path = folder / f"{key}.json"
    try:
        printed = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(printed, list) and all(isinstance(said, str) for said in printed):
            return printed
    except (OSError, ValueError):
        pass
    printed = run(text, name)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(printed), encoding="utf-8")
    temporary.replace(path)
    return printed


def _run_pages(app: Any, env: Any, names: list[str]) -> None:
    """Start to run the pages that are about to be read; reading goes on meanwhile."""
    app.printed = {}
    pool = ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)))
    state = state_of_the_code(ROOT)
    for name in names:
        path = ROOT / f"{name}.md"
        if (
            app.config.execute_snippets
            and path.is_file()
            and any(k == "python" for k, _ in FENCED.findall(_read(path)))
        ):
            app.printed[name] = pool.submit(kept, _read(path), name, state, CACHE)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _show(app: Any, name: str, source: list[str]) -> None:
    """Put what was printed into a page's text."""
    if running := getattr(app, "printed", {}).get(name):
        source[0] = shown(source[0], running.result())


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_config_value("execute_snippets", True, "env", [bool, int, str])
    app.connect("env-before-read-docs", _run_pages)
    app.connect("source-read", _show, priority=400)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
