import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from inference_pairs import flat, pair, rows

from phlogiston.errors import ConfigError
from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.engine import EarlyStopping, Stage, fit
from phlogiston.inference.svi.run_folder.metrics import read_metrics


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_twenty_kills_at_random_moments_change_nothing_bit_for_bit(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "drive_kills.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-P", str(script), str(tmp_path)], check=True, env=environment, timeout=240)
    results = json.loads((tmp_path / "result.json").read_text())
    died = [kill for series in results for kill in series["kills"] if kill[2] == -signal.SIGKILL]
    assert len(died) == 20
    assert sum(writing for _, writing, _ in died) >= 3  # some of them inside the writing of a checkpoint
    assert [series["code"] for series in results] == [0] * 5
    assert [series["same"] for series in results] == [True] * 5
    assert [series["records"] for series in results] == [True] * 5


class Send:
    """Sends this process a signal at a step."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number = at, number

    def on_step(self, state: Any) -> None:
        if state.step == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_leaves_a_checkpoint_and_a_hint_and_the_same_call_goes_on(
    tmp_path: Path, number: int, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, callbacks: Any = ()) -> Any:
        model, guide = pair()
        stage = Stage("a", 30, batch_size=16)
        history = fit(model, guide, rows(), stages=stage, out=tmp_path / name, callbacks=callbacks, log_every=8)
        return flat(model, guide), history

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(error) as caught:
        train("run", [Send(13, number)])
    if number == signal.SIGTERM:
        assert caught.value.code == 143  # type: ignore[attr-defined]
    assert "interrupted at step 13" in capsys.readouterr().err
    assert checkpoints.read_state(checkpoints.find(tmp_path / "run"))["step"] == 13
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    end, history = train("run")
    whole, expected = train("whole")
    assert torch.equal(end, whole)
    assert history.loss.tolist() == expected.loss.tolist()
    assert history.steps.tolist() == [8, 16, 24, 30]


def test_training_in_another_thread_leaves_signals_alone() -> None:
    model, guide = pair()
    ended = []
    worker = threading.Thread(target=lambda: ended.append(fit(model, guide, rows(), stages=Stage("a", 3)).finished))
    worker.start()
    worker.join()
    assert ended == [True]


class Shift:
    """A transform that keeps what it computes with the pair when it is first called, as codes of a frozen encoder."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.kept: torch.Tensor | None = None

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.kept is None:
            self.kept = flat(self.model).mean().detach()
        return {name: value + self.kept for name, value in batch.items()}


def test_a_transform_that_reads_the_pair_when_a_run_is_gone_on_with_sees_what_was_trained(tmp_path: Path) -> None:
    def train(name: str, callbacks: Any = ()) -> tuple[torch.Tensor, torch.Tensor | None]:
        model, guide = pair()
        shift = Shift(model)
        first = Stage("first", 6, batch_size=16, learning_rate=0.1)
        second = Stage("second", 6, batch_size=16, trainable="guide.*", transform=shift)
        fit(model, guide, rows(), stages=[first, second], out=tmp_path / name, callbacks=callbacks, checkpoint_every=2)
        return flat(model, guide), shift.kept

    with pytest.raises(KeyboardInterrupt):
        train("killed", [Send(9, signal.SIGINT)])
    (whole, kept), (resumed, kept_again) = train("whole"), train("killed")
    assert kept is not None
    assert kept_again is not None
    assert torch.equal(kept, kept_again)
    assert torch.equal(whole, resumed)


def test_callbacks_remember_across_a_resume(tmp_path: Path) -> None:
    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 25:
                raise RuntimeError("power cut")

    def train(callbacks: Any) -> Any:
        model, guide = pair()
        stage = Stage("a", 500, optimizer="sgd", learning_rate=1e-12)
        options: dict[str, Any] = {"valid": rows(seed=9), "checkpoint_every": 10, "out": tmp_path / "run"}
        return fit(model, guide, rows(), stages=stage, callbacks=callbacks, **options)

    with pytest.raises(RuntimeError, match="power cut"):
        train([EarlyStopping(3, least=1e-6), Stop()])
    history = train([EarlyStopping(3, least=1e-6)])
    assert history.steps[-1] == 40  # as without the cut: the mark at 10, three misses after it
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"event": "resume", "step": 20, "processes": 1} in events
    assert train([EarlyStopping(3, least=1e-6)]).steps[-1] == 40  # stopped early is finished, too
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 40


def test_a_resumed_run_may_learn_more_slowly_from_there_on_and_a_fresh_one_does_not(tmp_path: Path) -> None:
    def train(name: str, factor: float, callbacks: Any = ()) -> Any:
        model, guide = pair()
        stage = Stage("a", 30, batch_size=16, learning_rate=0.01)
        return fit(
            model, guide, rows(), stages=stage, out=tmp_path / name, lr_resume=factor, callbacks=callbacks, log_every=10
        )

    with pytest.raises(KeyboardInterrupt):
        train("run", 0.5, [Send(13, signal.SIGINT)])
    rates = [r["learning_rate"] for r in train("run", 0.25).records]
    assert rates == pytest.approx([0.01, 0.0025, 0.0025])
    assert [r["learning_rate"] for r in train("fresh", 0.25).records] == pytest.approx([0.01] * 3)
    with pytest.raises(ConfigError, match="lr_resume"):
        train("other", 0.0)
