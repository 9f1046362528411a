"""What is left of a stream of features: moments, and a random part of the rows; read and written as .npz."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError
from phlogiston.evaluate.frechet import Gaussian, gaussian_of
from phlogiston.files import write_bytes


@dataclass
class FeatureSet:
    """What is left of a stream of images: moments, and a random part of the rows (all of a short stream).

    Attributes:
        name: where the images came from.
        n: how many there were.
        gaussian: mean and covariance.
        kept: float32 (at most KEEP, d), or None when only moments are known.
        about: the extractor's description.
    """

    name: str
    n: int | None
    gaussian: Gaussian
    kept: Tensor | None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every row was kept."""
        return self.kept is not None and self.n == len(self.kept)

    def save(self, path: str | Path) -> Path:
        """Write `mu` and `sigma` in the common .npz form, and beside them n, the rows kept and the description."""
        content: dict[str, np.ndarray] = {
            "mu": self.gaussian.mean.numpy(),
            "sigma": self.gaussian.covariance.numpy(),
            "about": np.array(json.dumps(self.about)),
            "source": np.array(self.name),
        }
        if self.n is not None:
            content["n"] = np.array(self.n)
        if self.kept is not None:
            content["kept"] = self.kept.numpy()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **content)
        return write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> FeatureSet:
        """Read statistics this class or another program wrote (`mu`, `sigma`).

        Raises:
            DataError: they are no statistics, or hold NaN.
        """
        with reading(path, "statistics (mu, sigma)"):
            content = arrays.load(path)
            if not isinstance(content, dict) or not {"mu", "sigma"} <= content.keys():
                raise DataError(f"{str(path)!r} holds no statistics (mu, sigma).")
            mean = torch.as_tensor(content["mu"]).double()
            covariance = torch.as_tensor(content["sigma"]).double()
            n = int(content["n"]) if "n" in content else None
            kept = torch.as_tensor(content["kept"]).float() if "kept" in content else None
            about = json.loads(str(content["about"])) if "about" in content else {}
            source = str(content.get("source", path))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise DataError(f"{str(path)!r}: mu has shape {tuple(mean.shape)}, sigma {tuple(covariance.shape)}.")
        if not bool(torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise DataError(f"{str(path)!r} holds NaN or infinite statistics.")
        if kept is not None and (kept.ndim != 2 or kept.shape[1] != len(mean) or not bool(torch.isfinite(kept).all())):
            raise DataError(f"{str(path)!r}: kept has shape {tuple(kept.shape)}; expected finite (rows, {len(mean)}).")
        if not isinstance(about, dict) or (n is not None and n < 1):
            raise DataError(f"{str(path)!r}: 'about' is no object, or n is {n}.")
        result = cls(source, n, Gaussian(mean, covariance, n), kept, about)
        if result.complete:
            result.gaussian = gaussian_of(kept)
        return result


def has_statistics(path: Any) -> bool:
    """Return whether a path is an .npz file of statistics rather than of images."""
    if not isinstance(path, str | Path) or Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    return {"mu", "sigma"} <= arrays.headers(path).keys()
