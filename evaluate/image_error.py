"""How far reconstructed or predicted images are from the true ones: MSE, PSNR, SSIM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from phlogiston.arrays import tensor_of
from phlogiston.errors import DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows

WINDOW = 11  # pixels, of SSIM


def image_error(predicted: Any, truth: Any, *, data_range: float = 1.0) -> dict[str, Metric]:
    """Compare images pair by pair.

    Args:
        predicted: floats (n, channels, height, width) or (n, height, width); clips (n, time, ...) count frame by frame.
        truth: the same shape.
        data_range: distance of black and white.

    Returns:
        `mse` (squared error averaged over pixels), `psnr` in decibels (of each image's own error, capped at 100 dB for
        identical images), `ssim` (Wang et al., 2004: Gaussian window of 11 pixels, deviation 1.5). Means over images,
        with the standard error over images. SSIM is left out for images smaller than its window.

    Raises:
        ShapeError: shapes differ or are not those of images.
        DataError: NaN or infinite pixels.
    """
    one, two = (_images(name, x) for name, x in (("predicted", predicted), ("truth", truth)))
    if one.shape != two.shape:
        raise ShapeError(f"predicted has shape {tuple(one.shape)} and truth {tuple(two.shape)}; they must agree.")
    squared = (one - two).double().square().flatten(1).mean(1)
    psnr = 10.0 * torch.log10(data_range**2 / squared.clamp(min=data_range**2 * 1e-10))
    out = {
        "mse": from_rows(squared, "estimate", False),
        "psnr": from_rows(psnr, "estimate", True, {"unit": "dB"}),
    }
    if min(one.shape[-2:]) >= WINDOW:
        parts = [_ssim(a, b, data_range) for a, b in zip(one.split(256), two.split(256), strict=True)]
        out["ssim"] = from_rows(torch.cat(parts), "estimate", True)
    return out


def _ssim(one: Tensor, two: Tensor, data_range: float) -> Tensor:
    """Structural similarity of pairs of images, (n,): the mean over channels and pixels, edges mirrored."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offset / 1.5) ** 2)
    kernel = kernel / kernel.sum()
    rows = len(one)
    margin = [WINDOW // 2] * 4
    one, two = (pad(x.double(), margin, mode="reflect").flatten(0, 1).unsqueeze(1) for x in (one, two))

    def local(x: Tensor) -> Tensor:  # weighted means over windows; the window is a product of two
        return conv2d(conv2d(x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))

    mean_1, mean_2 = local(one), local(two)
    variances = local(one * one) - mean_1**2 + local(two * two) - mean_2**2
    covariance = local(one * two) - mean_1 * mean_2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_1**2 + mean_2**2 + c1) * (variances + c2))
    return similarity.reshape(rows, -1).mean(1)


def _images(name: str, values: Any) -> Tensor:
    images = (values if isinstance(values, Tensor) else tensor_of(name, values)).detach().float().cpu()
    if images.ndim == 5:
        images = images.flatten(0, 1)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or len(images) == 0:
        raise ShapeError(f"{name} has shape {tuple(images.shape)}; expected (n, channels, height, width).")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{name} holds NaN or infinite pixels.")
    return images
