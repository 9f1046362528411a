"""Handwriting synthesis as a product: it learns to look at the right letter, and says what it cannot write."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, DataError
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.handwriting.system import HandwritingModel


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("script", sizes=(200, 20, 20), letters=(2, 4))


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> HandwritingModel:
    return HandwritingModel(
        hidden=32, windows=3, num_components=4, steps=60, batch_size=20, learning_rate=0.01
    ).fit(data, progress="off")  # fmt: skip


def test_knowing_the_text_helps(fitted: HandwritingModel, data: Dataset) -> None:
    """Lines are less probable under other lines' texts."""
    own = fitted.log_prob(data).value
    tensors = dict(data.test.tensors)
    tensors["text"] = tensors["text"].roll(1, 0)
    assert float(own.mean()) > float(fitted.log_prob(Split(tensors)).value.mean())


def test_the_window_is_near_the_true_letter(fitted: HandwritingModel, data: Dataset) -> None:
    found = fitted.evaluate(data, ["attention"])
    assert found["attention_near"].value > 0.8


def test_lines_repeat_with_the_seed_and_bias_calms_them(fitted: HandwritingModel) -> None:
    a, b = fitted.write("hello", 2, seed=3), fitted.write("hello", 2, seed=3)
    assert torch.equal(a["x"], b["x"])
    wild = fitted.write("hello", 20, bias=0.0, seed=0, max_points=20)
    calm = fitted.write("hello", 20, bias=3.0, seed=0, max_points=20)
    assert float(calm["x"][:, :5, :2].std(0).mean()) < float(wild["x"][:, :5, :2].std(0).mean())


def test_a_prime_is_read_and_not_written_again(fitted: HandwritingModel, data: Dataset) -> None:
    x, length, text = fitted.lines(data)
    prime = (x[0, : int(length[0])], fitted.text_of(text[0]))
    one, other = fitted.write("oh", prime=prime, seed=1), fitted.write("oh", seed=1)
    listed = fitted.write(["oh"], prime=[prime], seed=1)
    assert torch.equal(listed["x"], one["x"])
    assert one["x"].shape != other["x"].shape or not torch.equal(one["x"], other["x"])


def test_no_line_ends_before_its_last_character(fitted: HandwritingModel, data: Dataset) -> None:
    """However eager the pen is to end, with a prime and without."""
    x, length, text = fitted.lines(data)
    prime = (x[0, : int(length[0])], fitted.text_of(text[0]))
    eager = HandwritingModel(**asdict(fitted.config))
    eager.schema = fitted.schema
    eager.build()
    eager.model.load_state_dict(fitted.model.state_dict())
    with torch.no_grad():
        eager.model.head.bias[-1] += 50.0
    for example in (None, prime):
        written = eager.write("hello", 4, prime=example, seed=0)
        said, before = "hello", torch.zeros(4, 0, 3)
        if example is not None:
            said, before = f"{example[1]} hello", example[0].expand(4, -1, -1)
        last = len(said) - 1
        for line, points in zip(written["x"], written["length"].tolist(), strict=True):
            whole = torch.cat([before[0], line[:points]]).unsqueeze(0)
            at, _ = eager.attention({"x": whole, "length": torch.tensor([whole.shape[1]]), "text": eager.codes(said)})
            assert points > 5
            assert int(at[0, -1]) >= last - 1, "the end came at the very next step, on the last character"


def test_a_missing_point_of_a_line_is_filled_in(fitted: HandwritingModel, data: Dataset) -> None:
    x, _, text = fitted.lines(data)
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[2] = False
    answer = fitted.query({"x": Known(x[0, :6], mask)}, text=fitted.text_of(text[0]), num_samples=100, seed=0)
    assert bool((answer.samples["x"][:, mask] == x[0, :6][mask].double()).all())


def test_characters_it_does_not_know_are_named(fitted: HandwritingModel) -> None:
    with pytest.raises(DataError, match="'H' at position 0"):
        fitted.write("Hello")
    with pytest.raises(DataError, match="empty"):
        fitted.write("")
    with pytest.raises(ConfigError, match="bias"):
        fitted.write("hello", bias=-1.0)


def test_without_a_text_a_phrase_is_written(fitted: HandwritingModel) -> None:
    drawn, phrase = fitted.sample(2, seed=3, max_points=20), fitted.write("hello world", 2, seed=3, max_points=20)
    assert torch.equal(drawn["x"], phrase["x"])
    other = HandwritingModel(hidden=4)
    other.schema = {"alphabet": list("xyz")}
    assert other.default_text() == "xyz", "an alphabet that lacks the phrase's characters"
    with pytest.raises(DataError, match="empty"):
        fitted.sample(1, text="")


def test_lines_without_text_are_refused(data: Dataset) -> None:
    bare = {name: value for name, value in data.train.tensors.items() if name != "text"}
    with pytest.raises(DataError, match="text"):
        HandwritingModel(steps=1).fit(Split(bare))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "phlogiston", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_line_writes_what_it_is_told(fitted: HandwritingModel, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    done = run("sample", str(tmp_path / "run"), "--text", "hello world", "--out", str(tmp_path / "hello.svg"))
    assert done.returncode == 0, done.stderr
    picture = ElementTree.fromstring((tmp_path / "hello.svg").read_text())
    paths = [e for e in picture.iter() if e.tag.endswith("path")]
    assert paths, "there is at least one stroke"
    refused = run("sample", str(tmp_path / "run"), "--text", "hello?", "--out", str(tmp_path / "no.svg"))
    assert refused.returncode != 0
    assert "'?'" in refused.stderr
    assert not (tmp_path / "no.svg").exists()


def test_it_saves_loads_and_exports(fitted: HandwritingModel, data: Dataset, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved")
    assert torch.equal(again.log_prob(data).value, fitted.log_prob(data).value)
    assert fitted.export(text="hello") is not None
    stream = fitted.stream(text="hello", seed=0)
    points = np.stack([stream.step().numpy() for _ in range(5)])
    assert points.shape == (5, 3)


def test_pictures_are_drawn(fitted: HandwritingModel, data: Dataset) -> None:
    assert {"biases", "hands", "window"} <= set(fitted.figures(data))  # 60 steps are too few for a curve of the loss


def test_several_texts_are_written_at_once_as_one_by_one(fitted: HandwritingModel, data: Dataset) -> None:
    """A line among others is the line alone, primes and lengths of texts notwithstanding."""
    tensors = data.test.tensors
    prime = (tensors["x"][0, : int(tensors["length"][0])], fitted.text_of(tensors["text"][0]))
    for options in ({}, {"prime": prime}):
        alone = fitted.write("hello", bias=1.0, seed=3, max_points=60, **options)
        lines = fitted.write(["hello", "a word", "so"], bias=1.0, seed=3, max_points=60, **options)
        n = int(alone["length"][0])
        assert int(lines["length"][0]) == n
        torch.testing.assert_close(lines["x"][0, :n], alone["x"][0, :n], rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="several texts"):
        fitted.write(["a", "b"], 2)
    with pytest.raises(ConfigError, match="2 primes for 3"):
        fitted.write(["a", "t", "s"], prime=[prime, prime])
