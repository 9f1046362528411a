"""What is set aside of lines that come without validation rows, and what it is good for."""

import torch

from phlogiston import datasets
from phlogiston.datasets.base import Split
from phlogiston.systems.handwriting import HandwritingModel

SMALL = {"hidden": 32, "batch_size": 10, "learning_rate": 0.01}


def test_a_few_lines_are_not_learned_by_heart() -> None:
    data = datasets.load("script", sizes=(20, 5, 100), letters=(1, 2))
    scores = {}
    for hold_out in (True, False):
        system = HandwritingModel(**SMALL, steps=300, hold_out=hold_out)
        system.fit(data.train, progress="off", seed=0)
        scores[hold_out] = float(system.log_prob(data.test).value.mean())
    assert scores[True] > scores[False] + 5.0


def test_a_line_with_a_character_of_its_own_is_trained_on() -> None:
    x = torch.randn(20, 6, 3)
    x[..., 2] = 0.0
    text = torch.arange(20).remainder(4).unsqueeze(1).repeat(1, 3)
    train, valid = HandwritingModel().set_aside(Split({"x": x, "text": text}))
    assert valid is not None
    assert len(valid) == 4
    held = [i for i in range(20) if any(torch.equal(x[i], row) for row in valid.tensors["x"])]
    text[held[1], 2] = 9
    train, valid = HandwritingModel().set_aside(Split({"x": x, "text": text}))
    assert valid is not None
    assert len(valid) == 3
    assert int(train.tensors["text"].max()) == 9
