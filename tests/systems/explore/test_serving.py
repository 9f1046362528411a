"""What goes wrong around an answer: a damaged run, a question without end, a server that is gone, a missing extra."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from phlogiston.cli.main import main
from phlogiston.errors import RunError
from phlogiston.systems.explore.catalogue import catalogue
from phlogiston.systems.explore.sessions import Sessions
from phlogiston.systems.pretrained import shelf


def workers(server: int) -> list[int]:
    """Processes that answer: children of the server's fork server."""
    if not Path("/proc/self/status").exists():
        pytest.skip("processes are found in /proc")
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            parents[int(folder.name)] = int(words["PPid"])
        except (OSError, KeyError, ValueError):
            continue
    middle = {child for child, parent in parents.items() if parent == server}
    return [child for child, parent in parents.items() if parent in middle]


def test_a_damaged_run_is_named_and_the_others_are_asked(visit: Callable, explore_runs: dict[str, Path]) -> None:
    visitor = visit()
    visitor.open("people")
    visitor.page.select_option("#run", "broken")
    visitor.page.wait_for_selector("#notice:not([hidden])")
    assert "damaged" in visitor.page.inner_text("#notice")
    visitor.page.select_option("#run", "people")
    visitor.page.wait_for_selector("#ess")
    assert visitor.page.locator("#notice").is_hidden()


def test_a_run_whose_parameters_are_gone_is_named_when_it_is_opened(
    visit: Callable, serving: Callable, explore_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "people"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_bytes((explore_runs["people"] / "config.json").read_bytes())
    with serving(run) as server:
        visitor = visit(server)
        visitor.page.goto(server.address)
        visitor.page.wait_for_selector("#notice:not([hidden])")
        assert str(run) in visitor.page.inner_text("#notice")


def test_a_question_without_end_is_stopped_and_a_closed_server_is_told(
    visit: Callable, serving: Callable, explore_runs: dict[str, Path]
) -> None:
    with serving(explore_runs["people"]) as server:
        visitor = visit(server)
        visitor.open("people")
        for process in workers(server.process.pid):
            os.kill(process, signal.SIGSTOP)  # whatever is asked now takes for ever
        visitor.page.fill("#statement", "age >= 40")
        visitor.page.press("#statement", "Enter")
        visitor.page.locator("#stop").click()
        visitor.page.wait_for_selector("#notice:not([hidden])")
        assert "Stopped" in visitor.page.inner_text("#notice")
        visitor.page.fill("#statement", "age <= 60")
        visitor.page.press("#statement", "Enter")
        assert visitor.settle()["said"] == ["age >= 40", "age <= 60"]
        assert visitor.page.locator("#notice").is_hidden()
        left = workers(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
        assert not [process for process in left if Path(f"/proc/{process}").exists()]
        visitor.page.fill("#statement", "age <= 50")
        visitor.page.press("#statement", "Enter")
        visitor.page.wait_for_selector("#notice:not([hidden])")
        assert "The server has been closed" in visitor.page.inner_text("#notice")
        assert all("ERR_CONNECTION_REFUSED" in fault for fault in visitor.faults)
        visitor.faults.clear()


def test_a_question_that_computes_for_long_is_stopped_in_the_midst_of_it(visit: Callable, served: Any) -> None:
    """A long beginning, for which thousands of latents are tried: the process is killed while it computes."""
    visitor = visit()
    line = [[float(i % 2), i / 100.0] for i in range(1900)]
    state = {"strokes": [line], "tried": 2000, "count": 12}
    link = {"run": "letters", "panel": "drawing", "samples": 1000, "seed": 0, "state": state}
    visitor.page.goto(f"{visitor.address}#{quote(json.dumps(link))}")
    visitor.page.locator("#stop").click(timeout=60_000)
    visitor.page.locator("#notice", has_text="Stopped").wait_for()
    assert visitor.newest()["stopped"]
    visitor.page.get_by_role("button", name="Empty sheet").click()
    assert len(visitor.settle()["drawings"]) == 12
    assert visitor.page.locator("#notice").is_hidden()


def test_a_question_is_stopped_wherever_it_is_and_one_that_waits_is_dropped(explore_runs: dict[str, Path]) -> None:
    sessions = Sessions()
    session = sessions.of("a")
    run = str(explore_runs["people"])
    assert "columns" in session.ask("1", (run, "table", "describe", {}))
    os.kill(session._process.pid, signal.SIGSTOP)
    answers: dict[str, Any] = {}
    asking = [
        threading.Thread(target=lambda job=job: answers.update({job: session.ask(job, (run, "table", "ask", {}))}))
        for job in ("2", "3")
    ]
    asking[0].start()
    while session._job != "2":
        time.sleep(0.01)
    asking[1].start()
    assert not session.stop("3")
    assert session.stop("2")
    for thread in asking:
        thread.join(60)
    assert answers["2"]["stopped"]
    assert answers["3"]["stopped"]
    assert "method" in session.ask("4", (run, "table", "ask", {}))
    os.kill(session._process.pid, signal.SIGKILL)
    assert "ask again" in session.ask("5", (run, "table", "ask", {}))["error"]
    assert "method" in session.ask("6", (run, "table", "ask", {}))
    sessions.close()


def test_the_page_idle_for_longest_gives_its_process_up() -> None:
    sessions = Sessions(most=2)
    one, two = sessions.of("1"), sessions.of("2")
    assert sessions.of("1") is one
    sessions.of("3")
    assert sessions.of("1") is one
    assert sessions.of("2") is not two
    with sessions.of("1")._turn, sessions.of("2")._turn, pytest.raises(RunError, match="waiting for answers"):
        sessions.of("4")
    sessions.close()


def test_a_list_without_runs_says_where_they_come_from(tmp_path: Path, explore_runs: dict[str, Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "names", lambda: ())
        with pytest.raises(RunError, match="phlogiston train"):
            catalogue([], tmp_path)
    assert set(catalogue([], tmp_path)) == set(shelf.names())
    listed = catalogue([], explore_runs["people"].parent)
    assert set(listed) == {*explore_runs, *shelf.names()}
    assert listed["poses"].panels == ("poses", "table")
    assert "damaged" in listed["broken"].fault
    assert catalogue([str(tmp_path / "nothing")])["nothing"].fault


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("uvicorn", "phlogiston.systems.explore.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as ended:
        main(["explore", "runs/any"])
    assert ended.value.code == 2
    assert 'pip install "phlogiston[explore]"' in capsys.readouterr().err


def test_nothing_of_the_explorer_is_loaded_without_its_verb() -> None:
    code = (
        "import sys, phlogiston, phlogiston.cli.main, phlogiston.systems.base, phlogiston.systems.workflow\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('starlette', 'uvicorn') or '.explore.' in n])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
