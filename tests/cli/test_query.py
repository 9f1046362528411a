"""`phlogiston query`: a question in a file, an answer with its diagnostics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston.cli.main import main
from phlogiston.systems.drmm.system import DRMM


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    rows = {"x": torch.stack([x[:, 0], x[:, 0] + 0.3 * x[:, 1]], -1), "side": (x[:, 0] > 0).long()}
    system = DRMM(num_layers=1, num_components=4, frame="tril", steps=60).fit(rows)
    return system.save(tmp_path_factory.mktemp("saved") / "model")


def ask(model: Path, question: object, folder: Path, *more: str) -> int:
    file = folder / "question.json"
    file.write_text(json.dumps(question))
    with pytest.raises(SystemExit) as ended:
        main(["query", str(model), "--evidence", str(file), *more])
    return int(ended.value.code or 0)


def test_every_written_sample_satisfies_the_question(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.npz"
    question = {"x0": [-0.5, 1.5], "where": ["2*x1 - x0 >= 0.3"], "side": ["1"]}
    assert ask(model, question, tmp_path, "-n", "300", "--out", str(out)) == 0
    with np.load(out) as answer:
        x = answer["x"]
        assert x.shape == (300, 2)
        assert ((x[:, 0] >= -0.5) & (x[:, 0] <= 1.5) & (2 * x[:, 1] - x[:, 0] >= 0.3)).all()
        assert (answer["side"] == 1).all()


def test_a_question_needs_no_file(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.npz"
    with pytest.raises(SystemExit) as ended:
        main(["query", str(model), "-0.5 <= x0 <= 1.5", "2*x1 - x0 >= 0.3", "side = 1", "-n", "50", "--out", str(out)])
    assert not ended.value.code
    with np.load(out) as answer:
        x = answer["x"]
        assert ((x[:, 0] >= -0.5) & (x[:, 0] <= 1.5) & (2 * x[:, 1] - x[:, 0] >= 0.3)).all()
        assert (answer["side"] == 1).all()


def test_words_and_a_file_are_one_question(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(model, ["x0 = 0.25"], tmp_path, "side = 1", "--json") == 0
    both = json.loads(capsys.readouterr().out)["log_evidence"]
    assert ask(model, ["x0 = 0.25", "side = 1"], tmp_path, "--json") == 0
    assert both == json.loads(capsys.readouterr().out)["log_evidence"]


def test_json_gives_one_object_with_the_diagnostics(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(model, ["x0 = 0.25"], tmp_path, "--json", "-n", "50") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"method", "ess", "log_evidence", "num_samples", "out"}
    assert found["method"] == "exact over 4 component paths"
    assert found["ess"] == pytest.approx(50)
    assert found["log_evidence"] == pytest.approx(-0.95, abs=0.4)  # a standard normal at 0.25


def test_text_shows_medians_and_shares(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(model, ["x0 = 1.0"], tmp_path) == 0
    text = capsys.readouterr().out
    assert "x0: median 1," in text
    assert "side: 0 0.0" in text


@pytest.mark.parametrize(
    ("question", "more", "words"),
    [
        (["x9 >= 3"], [], "x9"),
        (["x0 >= 3", "x0 <= 2"], [], "impossible"),
        (["x0 = 1"], ["--set", "srot=true"], "sort"),
        (["x0 = 1"], ["--out", "answer.docx"], ".npz"),
    ],
)
def test_misuse_is_one_line_and_exit_code_two(
    question: object,
    more: list[str],
    words: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ask(model, question, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_an_existing_file_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.npz"
    out.write_bytes(b"mine")
    assert ask(model, ["x0 = 1"], tmp_path, "--out", str(out)) == 2
    assert out.read_bytes() == b"mine"
