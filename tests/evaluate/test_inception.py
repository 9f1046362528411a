"""The Inception network computes what the field's does, and its weights are recognised for what they are."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, DataWarning
from phlogiston.evaluate import inception
from phlogiston.evaluate.inception import Inception

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 2e-3  # of the largest feature


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "inception_rgb32.npz") as file:
        return {name: file[name] for name in file.files}


def worst(found: Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(found.numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("convention", "other"), [("tf1", "torch_fidelity"), ("torch", "pytorch_fid")])
def test_features_of_every_layer_equal_those_of_the_reference(
    made_up_inception: Inception, recorded: dict[str, np.ndarray], convention: str, other: str
) -> None:
    images = torch.tensor(recorded["images"])
    found = made_up_inception(inception.prepare(images, convention), inception.LAYERS)
    for layer in inception.LAYERS:
        assert worst(found[layer], recorded[f"{other}__{layer}"]) <= TOLERANCE
    if convention == "tf1":
        assert worst(made_up_inception.logits(found[2048]), recorded["torch_fidelity__logits_unbiased"]) <= TOLERANCE


def test_the_two_conventions_differ_by_more_than_the_tolerance(recorded: dict[str, np.ndarray]) -> None:
    a, b = recorded["torch_fidelity__2048"], recorded["pytorch_fid__2048"]
    assert np.abs(a - b).max() / np.abs(a).max() > TOLERANCE


def test_tensor_names_and_shapes_are_those_of_the_official_file(
    made_up_inception: Inception, layout: list[tuple[str, tuple[int, ...], str]]
) -> None:
    state = made_up_inception.state_dict()
    assert {k: (tuple(v.shape), str(v.dtype)[6:]) for k, v in state.items()} == {k: (s, d) for k, s, d in layout}
    assert (len(state), sum(v.numel() for v in state.values())) == (566, 23_885_486)


def test_a_file_of_weights_is_read_in_both_formats(tmp_path: Path, made_up_weights: dict[str, Tensor]) -> None:
    torch.save(made_up_weights, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)  # the official format
    save_file(made_up_weights, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        with pytest.warns(DataWarning, match="is not that file"):
            network, checksum = inception.load(tmp_path / name)
        assert torch.equal(network.fc.weight, made_up_weights["fc.weight"])
        assert checksum == inception.digest(tmp_path / name)
        assert not network.train().training, "batch statistics are part of the definition"


def test_a_file_of_another_layout_is_refused_with_the_first_difference(
    tmp_path: Path, made_up_weights: dict[str, Tensor]
) -> None:
    missing = {k: v for k, v in made_up_weights.items() if k != "fc.bias"}
    save_file(missing, tmp_path / "missing.safetensors")
    with pytest.raises(DataError, match=r"'fc\.bias' is missing"):
        inception.load(tmp_path / "missing.safetensors")
    save_file({**made_up_weights, "fc.bias": torch.zeros(1000)}, tmp_path / "imagenet.safetensors")
    with pytest.raises(DataError, match=r"'fc\.bias' has shape \(1000,\); expected \(1008,\)"):
        inception.load(tmp_path / "imagenet.safetensors")


def test_a_file_that_would_run_code_is_refused_unrun(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"fc.bias": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match="a call that makes no sense"):
        inception.load(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_the_official_file_is_recognised_by_size_and_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "torch" / "hub" / "checkpoints" / inception.WEIGHTS_ALSO
    file.parent.mkdir(parents=True)
    file.write_bytes(struct.pack("<I", 7))
    assert not inception.is_official(file)
    monkeypatch.setattr(inception, "LOCATIONS", ("file:///nowhere",))
    with pytest.raises(DataError, match="cannot be fetched"):
        inception.find_weights()
    monkeypatch.setattr(inception, "WEIGHTS_BYTES", 4)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", inception.digest(file))
    assert inception.find_weights() == file


def test_without_a_network_the_message_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "LOCATIONS", ("file:///nowhere/weights.pth",))
    with pytest.raises(DataError) as caught:
        inception.load()
    for told in (
        inception.WEIGHTS_NAME,
        "95,628,359 bytes",
        "6726825d",
        str(tmp_path / "cache"),
        "PHLOGISTON_INCEPTION",
    ):
        assert told in str(caught.value)


def test_a_named_file_that_is_missing_is_an_error_and_not_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="given are not there"):
        inception.load(tmp_path / "no.pth")
    monkeypatch.setenv("PHLOGISTON_INCEPTION", str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match="PHLOGISTON_INCEPTION are not there"):
        inception.load()


def test_grey_images_are_repeated_to_three_channels() -> None:
    grey = torch.randint(0, 256, (2, 1, 40, 30), dtype=torch.uint8)
    for convention in inception.CONVENTIONS:
        colour = inception.prepare(grey.expand(-1, 3, -1, -1), convention)
        assert torch.allclose(inception.prepare(grey, convention), colour, atol=1e-5)


def test_antialiased_resizing_equals_pillows() -> None:
    images = torch.randint(0, 256, (1, 1, 400, 350), dtype=torch.uint8)
    found = inception.resize_antialiased(images.float(), 299, 299)[0, 0]
    pillow = Image.fromarray(images[0, 0].numpy().astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    assert np.abs(found.numpy() - np.asarray(pillow).clip(0, 255)).max() < 0.01


def test_shrinking_a_checkerboard_without_antialias_leaves_a_pattern_and_with_it_grey() -> None:
    board = (torch.arange(598).view(-1, 1) + torch.arange(598)) % 2 * 255
    images = board.to(torch.uint8).expand(1, 1, -1, -1)
    assert inception.prepare(images, "tf1").abs().min() > 0.9
    assert inception.prepare(images, "clean")[..., 5:-5, 5:-5].abs().max() < 0.05


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match="tf1, torch, clean"):
        inception.prepare(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "tf2")
