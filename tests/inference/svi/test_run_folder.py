"""Run folders that something happened to: full disks, lost folders, damaged files, other data, a second trainer."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_pairs import flat, pair, rows

from phlogiston.errors import CheckpointError, RunError, RunMismatchError, RunWarning, TrainingError, TrainingWarning
from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.run_folder import identity, space
from phlogiston.inference.svi.run_folder.lock import Lock, sweep
from phlogiston.inference.svi.run_folder.metrics import read_metrics
from phlogiston.inference.svi.run_folder.readers import progress_of

FULL = OSError(28, "No space left on device")


def train(out: Path, steps: int = 30, data: Any = None, dtype: torch.dtype | None = None, **options: Any) -> Any:
    model, guide = pair()
    if dtype is not None:
        model.to(dtype), guide.to(dtype)
    given = rows() if data is None else data
    stage = Stage("a", steps, batch_size=16)
    history = fit(model, guide, given, stages=stage, out=out, checkpoint_every=10, log_every=5, **options)
    return flat(model, guide), history


class At:
    """Does something at a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step(self, state: Any) -> None:
        if state.step == self.step:
            self.action()


def stop() -> None:
    raise KeyboardInterrupt


def interrupted(out: Path, step: int = 15, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(out, callbacks=[At(step, stop)], **options)


# ---- full disks


def fill_disk(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Let every later checkpoint fail at one point of its writing."""
    for thread in threading.enumerate():  # one that is being written is not a later one
        if thread.name == "phlogiston-checkpoint":
            thread.join()
    real = open

    class Small:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            self.file.write(content[: len(content) // 2])
            raise FULL

    def small_open(path: Any, mode: str = "r", **options: Any) -> Any:
        if mode == "wb" and point == "open":
            raise FULL
        return Small(real(path, mode)) if mode == "wb" and point == "write" else real(path, mode, **options)

    def full(*_: Any) -> None:
        raise FULL

    if point in ("open", "write"):
        monkeypatch.setattr(checkpoints, "open", small_open, raising=False)
    else:
        monkeypatch.setattr(checkpoints.os, point, full)


@pytest.mark.parametrize("point", ["open", "write", "fsync", "replace"])
@pytest.mark.filterwarnings("ignore::phlogiston.errors.TrainingWarning")
def test_a_last_checkpoint_that_is_not_written_fails_the_run_which_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    whole, _ = train(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(RunError) as caught:
        train(tmp_path / "run", callbacks=[At(25, lambda: fill_disk(patch, point))])
    for part in ("step 30 could not be written (No space left", "in memory only", "holds step 20", "Make ", "--resume"):
        assert part in str(caught.value)
    files = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(files) == ["step-00000010.safetensors", "step-00000020.safetensors"]
    progress = progress_of(tmp_path / "run")
    assert progress is not None
    assert (progress.step, progress.finished, progress.recorded) == (20, False, 30)
    assert "step 20 of 30 (metrics.jsonl reaches step 30, which no checkpoint holds)" in progress.text()
    again, history = train(tmp_path / "run")
    assert torch.equal(again, whole)
    assert history.steps.tolist() == [5, 10, 15, 20, 25, 30]


def test_a_first_checkpoint_that_is_not_written_ends_the_run_before_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, "write")
    with pytest.warns(TrainingWarning), pytest.raises(RunError, match="Nothing was trained"):
        train(tmp_path / "run", callbacks=[At(1, stop)])


def test_a_disk_without_room_for_two_checkpoints_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, history = train(tmp_path / "whole")
    size = checkpoints.find(history.run).stat().st_size  # type: ignore[arg-type]
    estimate = space.checkpoint_size(checkpoints.named_tensors(dict(zip(("model", "guide"), pair(), strict=True))))
    assert size < estimate < size + (1 << 17)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=2 * estimate - 1))
    with pytest.raises(RunError, match=r"two must fit. Nothing was trained. Make 0.0 kB of room"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=2 * estimate))
    train(tmp_path / "run")


def test_a_signal_does_not_promise_a_checkpoint_that_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    def fail() -> None:
        fill_disk(monkeypatch, "fsync")
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.warns(TrainingWarning), pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", callbacks=[At(15, fail)])
    assert "step 15 could not be written (No space left" in capsys.readouterr().err


def test_metrics_that_cannot_be_written_go_on_with_the_next_line_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phlogiston.inference.svi.run_folder import metrics

    class Torn:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, text: str) -> None:
            self.file.write(text[:9])

        def flush(self) -> None:
            raise FULL

        def close(self) -> None:
            self.file.close()

    def tear() -> None:
        real = metrics.Metrics._open
        monkeypatch.setattr(metrics.Metrics, "_open", lambda self: Torn(real(self)))

    record = metrics.Metrics(tmp_path, resumed=False)
    record.record({"step": 1, "loss": 1.0})
    record.close()
    with monkeypatch.context() as patch:
        real = metrics.Metrics._open
        patch.setattr(metrics.Metrics, "_open", lambda self: Torn(real(self)))
        with pytest.raises(OSError, match="No space"):
            record.record({"step": 2, "loss": 2.0})
    record.record({"step": 3, "loss": 3.0})
    record.close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]


# ---- lost folders


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "emptied"])
def test_a_folder_lost_during_training_is_made_anew_with_all_that_loading_needs(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"

    def lose() -> None:
        if how == "moved":
            run.rename(tmp_path / "elsewhere")
        elif how == "emptied":
            (run / "config.json").unlink()
        else:
            shutil.rmtree(run)
        if how == "replaced":
            run.mkdir()
            (run / "thesis.tex").write_text("years of work")

    whole, _ = train(tmp_path / "whole")
    with pytest.raises(RunError, match=r"was removed, moved, replaced or emptied.*Training stops here: step 10 is in"):
        train(run, callbacks=[At(3, lose)])  # before the first record opens metrics.jsonl
    home = tmp_path / "run-rescued-1" if how == "replaced" else run
    if how == "replaced":
        assert [p.name for p in run.iterdir()] == ["thesis.tex"]
    model, guide = pair(seed=5)
    assert checkpoints.load_parameters(home, model, guide)["step"] == 10
    again, history = train(home)
    assert torch.equal(again, whole)
    assert history.steps.tolist() == [5, 10, 15, 20, 25, 30]


# ---- files nobody vouches for

BAD_LINES = [
    *(b'{"step": "x"}', b'{"step": 1e999}', b'{"step": null}', b'{"step": -1}', b'{"step": true}', b"[" * 9999, b"[1]"),
    *(b'{"event": "resume"}', b'{"event": "resume", "step": 1}', b'{"step": 4, "loss": "low"}'),
    *(b'{"step": 5, "a": []}', b'{"step": ' + b"9" * 5000 + b"}", b'{"step": 6, "loss": 1' + b"0" * 400 + b"}"),
    b'{"step": 7, "stage": 3}',
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(BAD_LINES)), max_size=8))
@pytest.mark.filterwarnings("ignore::phlogiston.errors.RunWarning")
def test_any_lines_in_metrics_are_read_and_good_ones_kept(lines: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        good = b'{"step": 3, "stage": "a", "loss": 2.5}'
        path.write_bytes(b"\n".join([*lines, good]) + b"\n")
        records = read_metrics(path)
    assert records[-1] == {"step": 3, "stage": "a", "loss": 2.5} or records[-1]["step"] > 3
    assert all(isinstance(r["step"], int) and isinstance(r.get("loss", 0.0), float | int | None) for r in records)


def test_damaged_lines_are_counted_in_a_warning(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"step": 1}\nnonsense\n{"step": 2}\n{"step": "x"}\n{"torn\n{"step": 3}\n{"torn')
    with pytest.warns(RunWarning, match="2 damaged lines are passed over, the first is line 2"):
        assert [r["step"] for r in read_metrics(tmp_path / "m")] == [1, 2, 3]


@pytest.mark.parametrize("content", ["[]", "nonsense", '{"resumed": 5}', '{"a": NaN}', "[" * 100_000, "\0", ""])
def test_a_damaged_environment_file_does_not_stop_a_resume(tmp_path: Path, content: str) -> None:
    interrupted(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text(content)
    with pytest.warns(RunWarning, match=r"environment.json is damaged"):
        train(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == torch.get_num_threads()


def test_another_format_of_a_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(RunError, match="format 99"):
        train(tmp_path / "run")


def altered(out: Path, tensors: dict[str, Any] | None = None, **state: Any) -> None:
    """Write the newest checkpoint again, with other content and a good checksum."""
    path = checkpoints.find(out)
    old, told = checkpoints.read(path)
    checkpoints.write(path, {**old, **(tensors or {})}, {**told, **state})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_numbers_are_no_checkpoint_whatever_the_checksum(tmp_path: Path, value: float) -> None:
    interrupted(tmp_path / "run", 25)
    altered(tmp_path / "run", {"model.linear.bias": torch.tensor([0.0, value, 0.0])})
    with pytest.warns(TrainingWarning, match=r"NaN or infinite numbers in model.linear.bias.*step-00000010"):
        assert checkpoints.load_parameters(tmp_path / "run", *pair())["step"] == 10
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        checkpoints.read(checkpoints.find(tmp_path / "run"))


def test_what_was_infinite_when_written_may_stay_so(tmp_path: Path) -> None:
    model, guide = pair()
    model.register_buffer("limit", torch.tensor([1.0, float("inf")]))
    model.frozen = torch.nn.Parameter(torch.tensor(float("-inf")), requires_grad=False)
    fit(model, guide, rows(), stages=Stage("a", 3, trainable=("guide.*", "model.linear.*")), out=tmp_path / "run")
    checkpoints.load_parameters(tmp_path / "run", model, guide)


@pytest.mark.parametrize(
    "state",
    [
        {"step": "30"}, {"step": -1}, {"step": 31}, {"stage_index": None}, {"names": 5}, {"score": "best"},
        {"processes": "x"}, {"buffers": [1]},
    ],
)  # fmt: skip
def test_a_header_no_training_wrote_is_passed_over(tmp_path: Path, state: dict[str, Any]) -> None:
    whole, _ = train(tmp_path / "run")
    altered(tmp_path / "run", **state)
    with pytest.warns(TrainingWarning, match="newest good checkpoint"):
        again, _ = train(tmp_path / "run")
    assert torch.equal(again, whole)


@pytest.mark.parametrize("state", [{"stage_index": 7}, {"policy": 3}, {"policy": {"a": 1}}, {"seconds": "long"}])
def test_a_header_that_cannot_be_gone_on_with_is_an_error_of_ours(tmp_path: Path, state: dict[str, Any]) -> None:
    train(tmp_path / "run")
    altered(tmp_path / "run", **state)
    with pytest.raises(CheckpointError, match="is altered"):
        train(tmp_path / "run")


# ---- the same run


def test_other_data_of_the_same_moments_are_refused_and_named_under_force(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    other = {"x": rows()["x"].flip(0)}
    with pytest.raises(RunMismatchError, match=r"the data \(60 rows, SHA-256 \w+ there.*resume='force'"):
        train(tmp_path / "run", data=other)
    with pytest.warns(TrainingWarning, match="gone on with by force.*the data"):
        train(tmp_path / "run", data=other, resume="force")
    with pytest.raises(RunMismatchError, match="the data"):
        train(tmp_path / "run")  # it is a run on the other data now


def test_another_precision_and_other_threads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "run")
    double = {"x": rows()["x"].double()}
    with pytest.raises(RunMismatchError, match="the data"):
        train(tmp_path / "run", data=double, dtype=torch.float64)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 3)
    with pytest.raises(
        RunMismatchError, match=rf"threads \({threads} there, {threads + 3} here; threads={threads} sets"
    ):
        train(tmp_path / "run")
    with pytest.warns(TrainingWarning, match="threads"):
        train(tmp_path / "run", resume="force")
    monkeypatch.undo()
    train(tmp_path / "run")  # finished: nothing is left to compute on any threads


def test_a_run_of_an_earlier_version_is_compared_by_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget() -> None:
        path = tmp_path / "run" / "config.json"
        content = json.loads(path.read_text())
        content.pop("identity", None)
        path.write_text(json.dumps(content))

    interrupted(tmp_path / "run")
    forget()
    threads = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads + 1)
        with pytest.raises(RunMismatchError, match="threads"):
            train(tmp_path / "run")
    forget()
    double = {"x": rows()["x"].double()}
    with pytest.raises(RunMismatchError, match="another precision"):
        train(tmp_path / "run", data=double, dtype=torch.float64)
    forget()
    train(tmp_path / "run")


def test_the_hash_of_data_sees_every_row_and_neither_blocks_nor_order_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from phlogiston.inference.svi.batches import Rows

    tensors = {"a": torch.arange(60.0).reshape(20, 3), "b": torch.arange(20) > 3}
    seen = identity.data_hash(Rows(tensors))
    assert (seen["rows"], seen["read"]) == (20, 20)
    monkeypatch.setattr(identity, "_CHUNK", 24)
    assert identity.data_hash(Rows(dict(reversed(tensors.items())))) == seen
    for name, value in tensors.items():
        for i in range(20):
            other = value.clone()
            other[i] = other[i] == 0
            assert identity.data_hash(Rows({**tensors, name: other})) != seen
    assert identity.data_hash(Rows({**tensors, "a": tensors["a"].double()})) != seen
    monkeypatch.setattr(identity, "MOST_BYTES", 60)
    sampled = identity.data_hash(Rows(tensors))
    assert sampled["read"] < 20
    assert sampled == identity.data_hash(Rows(tensors))


def test_rows_that_are_made_when_they_are_read_have_an_identity_if_they_can() -> None:
    class Made:
        def __init__(self, noise: float, source: Any = torch.rand) -> None:
            self.noise, self.source = noise, source

        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": index + self.noise * self.source(len(index))}

    counter = iter(range(10_000))
    state = torch.get_rng_state()
    assert identity.data_hash(Made(0.1)) == identity.data_hash(Made(0.1)) != identity.data_hash(Made(0.2))
    assert torch.equal(state, torch.get_rng_state())
    wild = [identity.data_hash(Made(1.0, lambda n: torch.full((n,), float(next(counter))))) for _ in range(2)]
    assert wild[0] == wild[1]
    assert wild[0]["read"] == 0


# ---- one trainer


def test_a_deleted_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    tried: list[int] = []

    def second() -> None:
        (tmp_path / "run" / ".lock").unlink()
        with pytest.raises(RunError, match="in use"):
            train(tmp_path / "run")
        tried.append(1)

    train(tmp_path / "run", callbacks=[At(3, second)])
    assert tried
    Lock(tmp_path / "run").release()


def test_leftovers_of_killed_trainers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    mine = [".config.json.1.tmp", ".environment.json.99.tmp", "checkpoints/.step-00000020.safetensors.7.tmp"]
    kept = [".notes.7.tmp", "checkpoints/.mine.tmp", f".report.html.{os.getpid()}.tmp", ".metrics.json.999999999.tmp"]
    for name in mine + kept:
        (tmp_path / "run" / name).write_text("x")
    train(tmp_path / "run")
    assert not [name for name in mine if (tmp_path / "run" / name).exists()]
    assert all((tmp_path / "run" / name).exists() for name in kept)
    old = time.time() - 7200
    for name in kept:
        os.utime(tmp_path / "run" / name, (old, old))
    sweep(tmp_path / "run")
    assert [name for name in kept if not (tmp_path / "run" / name).exists()] == [".metrics.json.999999999.tmp"]


def test_a_second_training_in_another_thread_is_refused_before_it_starts(tmp_path: Path) -> None:
    alone, _ = train(tmp_path / "alone")
    caught: list[BaseException] = []

    def second() -> None:
        def other() -> None:
            try:
                train(tmp_path / "other")
            except BaseException as error:
                caught.append(error)

        worker = threading.Thread(target=other)
        worker.start()
        worker.join()

    first, _ = train(tmp_path / "first", callbacks=[At(7, second)])
    assert torch.equal(first, alone)
    assert isinstance(caught[0], TrainingError)
    assert "another thread" in str(caught[0])
    assert not (tmp_path / "other").exists()
    train(tmp_path / "other")
