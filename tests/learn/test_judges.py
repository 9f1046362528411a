"""The MNIST judge at full scale: its accuracy, and that distances on its features put corruptions in the right order.

python -P -m pytest tests/learn/test_judges.py -m learn -s
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phlogiston.evaluate.fid import compare, features_of
from phlogiston.evaluate.judge import Judge, train_judge
from phlogiston.evaluate.statistics import FeatureSet

pytestmark = [pytest.mark.learn, pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")]


def read(path: Path, *shape: int) -> np.ndarray:
    """The content of an IDX file without its header."""
    content = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    return content[16 if shape else 8 :].reshape(-1, *shape)


@pytest.fixture(scope="module")
def digits(test_data: Callable[[str], Path]) -> dict[str, np.ndarray]:
    folder = test_data("mnist")
    return {
        "train": read(folder / "train-images-idx3-ubyte.gz", 28, 28),
        "train_labels": read(folder / "train-labels-idx1-ubyte.gz").astype(np.int64),
        "test": read(folder / "t10k-images-idx3-ubyte.gz", 28, 28),
        "test_labels": read(folder / "t10k-labels-idx1-ubyte.gz").astype(np.int64),
    }


@pytest.fixture(scope="module")
def judge(digits: dict[str, np.ndarray]) -> Judge:
    return train_judge(
        digits["train"],
        {"digit": digits["train_labels"]},
        digits["test"],
        {"digit": digits["test_labels"]},
        data="mnist",
        progress=True,
    )


@pytest.fixture(scope="module")
def real(digits: dict[str, np.ndarray], judge: Judge) -> FeatureSet:
    return features_of(digits["train"], judge)


def test_the_judge_is_right_on_99_percent_of_the_test_digits(judge: Judge) -> None:
    print(f"\njudge {judge.checksum}: {judge.held_out['digit']}")
    assert judge.held_out["digit"].value >= 0.99


def test_distances_rise_from_real_digits_over_growing_noise_to_uniform_noise(
    digits: dict[str, np.ndarray], judge: Judge, real: FeatureSet
) -> None:
    random = np.random.default_rng(0)
    test = digits["test"][random.permutation(10_000)]
    sets = {"real": test}
    for sd in (10, 25, 50):
        sets[f"noise sd {sd}"] = (test + random.normal(0, sd, test.shape)).clip(0, 255).astype(np.uint8)
    sets["uniform noise"] = random.integers(0, 256, test.shape).astype(np.uint8)
    found = {name: compare(real, images, judge, metrics=("kid", "fid")) for name, images in sets.items()}
    print()
    for name, metrics in found.items():
        print(f"{name:>14}: fid {metrics['fid'].text():>18}   kid {metrics['kid'].text()}")
    for metric in ("fid", "kid"):
        values = [metrics[metric].value for metrics in found.values()]
        assert values == sorted(values)
        assert len(set(values)) == len(values)


def test_the_first_rows_are_a_worse_sample_than_a_random_draw(
    digits: dict[str, np.ndarray], judge: Judge, real: FeatureSet
) -> None:
    first = compare(real, digits["test"][:2000], judge)["fid"]
    drawn = compare(real, digits["test"], judge, limit=None)["fid"]
    random = compare(real, features_of(digits["test"], judge, limit=2000), judge)["fid"]
    print(f"\nfirst 2,000: {first.text()}; random 2,000: {random.text()}; all 10,000: {drawn.text()}")
    assert random.value < 0.7 * first.value
