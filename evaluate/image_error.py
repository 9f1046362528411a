"""How far reconstructed or predicted images are from the true ones: MSE, PSNR, SSIM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows


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
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, two = (_images(name, x) for name, x in (("predicted", predicted), ("truth", truth)))
    if one.shape != two.shape:
        raise ShapeError(f"predicted has shape {tuple(one.shape)} and truth {tuple(two.shape)}; they must agree.")
    squared = (one - two).double().square().flatten(1).mean(1)
    psnr = 10.0 * torch.log10(data_range**2 / squared.clamp(min=data_range**2 * 1e-10))
    out = {
        "mse": from_rows(squared, "estimate", False),
        "psnr": from_rows(psnr, "estimate", True, {"unit": "dB"}),
    }
    if min(one.shape[-2:]) >= 11:
        ssim = [
            structural_similarity_index_measure(a, b, data_range=data_range, reduction="none")
            for a, b in zip(one.split(256), two.split(256), strict=True)
        ]
        out["ssim"] = from_rows(torch.cat([torch.as_tensor(s).reshape(-1) for s in ssim]), "estimate", True)
    return out


def _images(name: str, values: Any) -> Tensor:
    images = torch.as_tensor(values).detach().float().cpu()
    if images.ndim == 5:
        images = images.flatten(0, 1)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or len(images) == 0:
        raise ShapeError(f"{name} has shape {tuple(images.shape)}; expected (n, channels, height, width).")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{name} holds NaN or infinite pixels.")
    return images
