"""Disks that fill up, folders and readers that go, files that anyone may have edited, other data: one fault each."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston.inference.svi import checkpoints

Note = Callable[[str, str, str, str], None]
SMALL = ["--data", "swissroll", "--data-set", "n=300", "--set", "num_layers=2", "--set", "num_components=4"]
TRAIN = ["train", "drmm", *SMALL, "--set", "beam=3", "--set", "batch_size=32", "--steps", "200", "--out"]
RESUME = ["train", "drmm", "--resume", "--out"]


def parameters(run: Path) -> dict[str, torch.Tensor]:
    tensors, state = checkpoints.read(checkpoints.find(run))
    assert state["step"] == 200
    assert state["finished"]
    return {name: tensors[name] for name in state["names"]}


@pytest.fixture(scope="module")
def whole(server: Any) -> dict[str, torch.Tensor]:
    """Parameters of the run nothing is done to."""
    done = server(argv=[*TRAIN, "whole"])
    assert done.code == 0, done.err
    return parameters(server.folder / "whole")


@pytest.fixture
def run(server: Any) -> Any:
    """A folder that is not there yet."""
    shutil.rmtree(server.folder / "run", ignore_errors=True)
    return server.folder / "run"


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> str:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    return "parameters equal bit for bit"


def resumed(server: Any, run: Path, whole: dict[str, torch.Tensor]) -> str:
    """Go on with a run and compare its end."""
    done = server(argv=[*RESUME, str(run)])
    assert done.code == 0, done.err
    return f"resumed, exit 0, {equal(parameters(run), whole)}"


# ---- disks


def test_a_disk_that_fills_up_during_training(server: Any, whole: Any, observed: Note) -> None:
    if server.small is None:
        pytest.skip("no file system can be mounted here (unshare -rm)")
    out = f"{server.inside}/run"
    done = server(argv=[*TRAIN, out], step={"at": 150, "do": "fill"})
    assert done.code == 1
    assert "step 200 could not be written (No space left on device)" in done.err
    assert "holds step 100" in done.err
    shown = json.loads(server(argv=["runs", server.inside, "--json"]).out)["runs"][0]
    assert (shown["steps"], shown["finished"]) == (100, False)
    read = server(argv=["sample", out, "-n", "5", "--out", str(server.folder / "drawn.npz"), "--force"])
    assert read.code == 0
    assert "unfinished: step 100 of 200" in read.err
    refused = server(argv=["evaluate", out])
    assert refused.code == 1
    assert "nothing was computed" in refused.err
    (server.small / "filler").unlink()
    end = server(argv=[*RESUME, out])
    assert end.code == 0, end.err
    same = equal(parameters(server.small / "run"), whole)
    shutil.rmtree(server.small / "run")
    observed(
        "disk/full",
        "the disk fills up at step 150 of 200 (a file system of 2 MiB, really full)",
        "exit 1; what is missing and how to go on; `runs` shows step 100, `sample` warns, `evaluate` refuses before "
        "the work; resumed once there is room",
        f"exit 1; step 100 of 200, unfinished; warned; refused; resumed, exit 0, {same}",
    )


def test_a_disk_that_cannot_hold_two_checkpoints(server: Any, observed: Note) -> None:
    if server.small is None:
        pytest.skip("no file system can be mounted here (unshare -rm)")
    free = shutil.disk_usage(server.small).free
    (server.small / "filler").write_bytes(bytes(free - 65536))
    done = server(argv=[*TRAIN, f"{server.inside}/run"])
    (server.small / "filler").unlink()
    assert done.code == 1
    assert "two must fit. Nothing was trained" in done.err
    assert not list(server.small.iterdir())
    title = "the file system has room for less than two checkpoints"
    observed("disk/room", title, "refused before the first step, nothing made", "exit 1, no folder")


@pytest.mark.faults
@pytest.mark.parametrize("point", ["open", "write", "fsync", "replace"])
def test_the_last_checkpoint_fails_at_any_point(server: Any, run: Path, whole: Any, observed: Note, point: str) -> None:
    done = server(argv=[*TRAIN, str(run)], checkpoint={"nth": 3, "point": point, "then": "full"})
    assert done.code == 1
    assert "holds step 100" in done.err
    assert not list((run / "checkpoints").glob(".*"))
    told = resumed(server, run, whole)
    title = f"no space left at the `{point}` of the last checkpoint"
    observed(f"disk/{point}", title, "exit 1, nothing half written stays; resumed", f"exit 1; {told}")


@pytest.mark.faults
def test_quotas(server: Any, run: Path, whole: Any, observed: Note) -> None:
    done = server(argv=[*TRAIN, str(run)], step={"at": 150, "do": "quota"})
    assert done.code == 1
    assert "File too large" in done.err
    told = resumed(server, run, whole)
    title = "a quota of 4 KiB per file comes into force at step 150"
    observed("disk/quota", title, "exit 1; resumed once it is lifted", f"exit 1; {told}")
    shutil.rmtree(run)
    refused = server(argv=[*TRAIN, str(run)], limit=4096)
    assert refused.code == 1
    assert "ulimit -f" in refused.err
    title = "the same quota (`ulimit -f`) from the beginning"
    observed("disk/ulimit", title, "refused before the first step", "exit 1, nothing was trained")


# ---- folders


@pytest.mark.faults
@pytest.mark.parametrize("how", ["remove", "replace"])
def test_the_folder_goes_during_training(server: Any, run: Path, whole: Any, observed: Note, how: str) -> None:
    for old in run.parent.glob("run-rescued-*"):
        shutil.rmtree(old)
    done = server(argv=[*TRAIN, str(run)], step={"at": 50, "do": how})
    home = run if how == "remove" else run.with_name("run-rescued-1")
    assert done.code == 1
    assert f"step 100 is in {home}" in done.err
    read = server(argv=["sample", str(home), "-n", "5", "--out", str(server.folder / "drawn.npz"), "--force"])
    assert read.code == 0
    if how == "replace":
        assert [p.name for p in run.iterdir()] == ["thesis.tex"]
    told = resumed(server, home, whole)
    titles = {"remove": "the run folder is removed at step 50", "replace": "it is replaced by another folder"}
    expected = {
        "remove": "noticed at step 100; everything a load needs written anew; exit 1",
        "replace": "the same, into a folder beside it; the other one is not touched",
    }
    observed(f"folder/{how}", titles[how], expected[how], f"exit 1, `sample` reads it; {told}")


@pytest.mark.faults
def test_a_second_trainer_after_the_lock_is_deleted(server: Any, run: Path, whole: Any, observed: Note) -> None:
    done = server(argv=[*TRAIN, str(run)], step={"at": 50, "do": "second"})
    assert done.code == 0
    assert "second: " in done.err
    assert "is in use" in done.err
    same = equal(parameters(run), whole)
    title = "`.lock` is deleted and a second trainer started in the folder"
    observed("folder/second", title, "the second is refused, the first undisturbed", f"refused; exit 0, {same}")


@pytest.mark.faults
def test_leftovers_of_killed_trainers(server: Any, run: Path, whole: Any, observed: Note) -> None:
    done = server(argv=[*TRAIN, str(run)], checkpoint={"nth": 2, "point": "write", "then": "kill"})
    assert done.code == -9
    left = list((run / "checkpoints").glob(".*.tmp"))
    assert len(left) == 1
    told = resumed(server, run, whole)
    assert not left[0].exists()
    title = "a kill inside the writing of a checkpoint leaves half a temporary file"
    observed("folder/leftovers", title, "swept by the next start", f"gone; {told}")


# ---- readers


@pytest.mark.faults
@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("target", ["left", "closed", "/dev/full"])
def test_nobody_reads(server: Any, run: Path, whole: Any, observed: Note, stream: str, target: str) -> None:
    done = server(argv=[*TRAIN, str(run), "--json"], streams={stream: target})
    assert done.code == 0
    same = equal(parameters(run), whole)
    name = {"1": "stdout", "2": "stderr, where progress goes,"}[stream]
    what = {"left": "loses its reader", "closed": "is closed", "/dev/full": "is on a full disk"}[target]
    title = f"{name} {what}"
    observed(f"reader/{stream}-{Path(target).name}", title, "training ends as always, exit 0", f"exit 0, {same}")


# ---- files


def half(server: Any, run: Path) -> None:
    """Leave a run killed at step 150: its newest checkpoint is that of step 100."""
    assert server(argv=[*TRAIN, str(run)], step={"at": 150, "do": "kill"}).code == -9


@pytest.mark.faults
@pytest.mark.parametrize("line", ["nonsense", '{"step": "x"}', '{"step": 1e999}', "[" * 9999])
def test_a_bad_line_in_metrics(server: Any, run: Path, whole: Any, observed: Note, line: str) -> None:
    half(server, run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    shown = server(argv=["runs", str(server.folder), "--json"])
    assert shown.code == 0
    assert {Path(r["run"]).name for r in json.loads(shown.out)["runs"]} >= {"run", "whole"}
    assert "damaged line" in shown.err
    told = resumed(server, run, whole)
    title = "a bad line in one `metrics.jsonl`"
    observed("file/metrics", title, "`runs` shows all runs and counts it; the run resumes", f"shown, counted; {told}")


@pytest.mark.faults
@pytest.mark.parametrize("text", ["[]", "{", '{"resumed": 3}', '{"a": NaN}'])
def test_a_damaged_environment(server: Any, run: Path, whole: Any, observed: Note, text: str) -> None:
    half(server, run)
    (run / "environment.json").write_text(text)
    told = resumed(server, run, whole)
    observed("file/environment", "a damaged `environment.json`", "written anew with a warning; resumed", told)


def edit(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.faults
def test_configurations_nobody_wrote(server: Any, run: Path, whole: Any, observed: Note) -> None:
    shutil.copytree(server.folder / "whole", run)
    edit(run, lambda c: c.update(format=99))
    done = server(argv=["sample", str(run), "-n", "5", "--out", "never.npz"])
    assert (done.code, "format 99" in done.err) == (1, True)
    observed("file/format", '`"format": 99` in config.json', "refused by every reader", "exit 1, the format is named")
    for option in ("num_components", "num_layers", "beam"):
        shutil.rmtree(run)
        shutil.copytree(server.folder / "whole", run)
        edit(run, lambda c, option=option: c["config"]["options"].update({option: 10**9}))
        done = server(argv=["sample", str(run), "-n", "5", "--out", "never.npz"])
        assert (done.code, option in done.err or "too many" in done.err) == (1, True), done.err
    title = "a billion components, layers or paths in config.json"
    observed("file/billion", title, "refused before anything is built", "exit 1, the option is named")


@pytest.mark.faults
def test_parameters_that_are_no_numbers(server: Any, run: Path, whole: Any, observed: Note) -> None:
    shutil.copytree(server.folder / "whole", run)
    path = checkpoints.find(run)
    tensors, state = checkpoints.read(path)
    tensors[state["names"][0]].view(-1)[0] = float("nan")
    checkpoints.write(path, tensors, state)
    done = server(argv=["sample", str(run), "-n", "5", "--out", "never.npz", "--force"])
    assert "NaN or infinite numbers" in done.err
    assert "unfinished: step 100" in done.err
    told = resumed(server, run, whole)
    title = "NaN parameters in the newest checkpoint, under a good checksum"
    observed("file/nan", title, "passed over with a warning for the one before", f"passed over; {told}")


# ---- the same run


@pytest.mark.faults
def test_other_threads(server: Any, run: Path, whole: Any, observed: Note) -> None:
    half(server, run)
    refused = server(argv=[*RESUME, str(run), "--threads", "2"])
    assert refused.code == 1
    assert "threads (1 there, 2 here; threads=1 sets them)" in refused.err
    forced = server(argv=[*RESUME, str(run), "--force-resume", "--threads", "2"])
    assert forced.code == 0
    assert "by force" in forced.err
    title = "resumed on another number of threads"
    expected = "refused by name; `--force-resume` goes on and names it"
    observed("resume/threads", title, expected, "exit 1, named; forced: exit 0, named")


@pytest.mark.faults
def test_another_precision(server: Any, run: Path, whole: Any, observed: Note) -> None:
    half(server, run)
    refused = server(argv=[*RESUME, str(run), "--precision", "64-true", "--accelerator", "cpu"])
    assert refused.code == 1
    assert "precision (32-true there, 64-true here)" in refused.err
    told = resumed(server, run, whole)
    observed("resume/precision", "resumed in another precision", "refused by name", f"exit 1, named; then {told}")


@pytest.mark.faults
def test_other_data(server: Any, run: Path, observed: Note) -> None:
    table = server.folder / "mine.csv"
    lines = [f"{i % 7 + 0.25 * i},{(i * i) % 11}" for i in range(60)]
    table.write_text("\n".join(["a,b", *lines]))
    train = ["train", "drmm", "--data", str(table), *SMALL[4:], "--steps", "200", "--out", str(run)]
    assert server(argv=train, step={"at": 150, "do": "kill"}).code == -9
    table.write_text("\n".join(["a,b", *lines[1::-1], *lines[2:]]))  # two rows change places
    refused = server(argv=[*RESUME, str(run)])
    assert refused.code == 1
    assert "the data (" in refused.err or "the validation rows (" in refused.err
    forced = server(argv=[*RESUME, str(run), "--force-resume"])
    assert forced.code == 0, forced.err
    assert "by force" in forced.err
    title = "resumed after two rows of the file changed places (all moments are equal)"
    expected = "refused by name; `--force-resume` goes on and names it"
    observed("resume/data", title, expected, "exit 1, named; forced: exit 0, named")


@pytest.mark.faults
def test_an_earlier_report_is_kept(server: Any, run: Path, whole: Any, observed: Note) -> None:
    shutil.copytree(server.folder / "whole", run)
    evaluate = ["evaluate", str(run), "--metrics", "log_likelihood"]
    assert server(argv=evaluate).code == 0
    first = (run / "report.html").read_bytes()
    again = server(argv=evaluate)
    assert "report-1.html" in again.err
    assert (run / "report-1.html").read_bytes() == first
    title = "`evaluate` where a report is already"
    observed("evaluate/again", title, "the earlier one is kept, and it is said", "kept as report-1.html, said")


# ---- threads and downloads


@pytest.mark.faults
def test_two_trainings_in_two_threads(tmp_path: Path, observed: Note) -> None:
    from phlogiston.errors import TrainingError
    from phlogiston.systems.drmm.system import DRMM

    rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_layers": 2, "num_components": 4, "steps": 60}
    alone = DRMM(options).fit(rows)
    gate, results = threading.Barrier(2), []

    def fit() -> None:
        gate.wait()
        try:
            results.append(DRMM(options).fit(rows))
        except TrainingError as error:
            results.append(error)

    threads = [threading.Thread(target=fit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fitted = [r for r in results if not isinstance(r, TrainingError)]
    assert fitted
    for system in fitted:
        assert all(torch.equal(a, b) for a, b in zip(system.model.parameters(), alone.model.parameters(), strict=True))
    refused = [str(r) for r in results if isinstance(r, TrainingError)]
    assert all("another thread" in text for text in refused)
    title = "two trainings in two threads of one process"
    expected = "each equals its solo run, or is refused before it starts"
    observed("threads/two", title, expected, f"{len(fitted)} equal to the solo run, {len(refused)} refused")


@pytest.mark.faults
def test_downloads(tmp_path: Path, observed: Note) -> None:
    content, asked = bytes(range(256)) * 2000, []
    drip = [0.0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.5)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for i in range(len(content) if drip[0] else 0):
                self.wfile.write(content[i : i + 1])
                time.sleep(drip[0])
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:  # the reader has gone
            pass

    with Quiet(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        program = (
            "import sys; from pathlib import Path; from phlogiston.datasets.fetch import fetch; "
            "fetch([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], seconds=float(sys.argv[4]), most=int(sys.argv[5]))"
        )
        url = f"http://127.0.0.1:{web.server_port}/file"

        def command(name: str, seconds: float = 60.0, most: int = 10**7) -> list[str]:
            checksum = hashlib.sha256(content).hexdigest()
            given = [url, str(tmp_path / name), checksum, str(seconds), str(most)]
            return [sys.executable, "-P", "-c", program, *given]

        four = [subprocess.Popen(command("f"), stderr=subprocess.PIPE) for _ in range(4)]
        assert [process.communicate(timeout=120) and process.returncode for process in four] == [0] * 4
        assert len(asked) == 1
        title = "four processes fetch one file"
        observed("fetch/four", title, "one downloads, three wait, all have it", "1 download, 4 times exit 0")
        large = subprocess.run(command("g", most=1000), capture_output=True, text=True)
        assert "more than the 1,000 allowed" in large.stderr
        drip[0] = 0.01
        slow = subprocess.run(command("h", seconds=1.5), capture_output=True, text=True, timeout=60)
        assert "took too long" in slow.stderr
        title = "a server that sends too much, or a byte at a time"
        observed("fetch/limits", title, "ended by the limits on size and on total time", "both ended")
        web.shutdown()
