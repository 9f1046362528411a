"""The guide of the scene model: a second recurrent network that looks at the picture to be explained.

    e_l = ConvLSTM_e([look(x), c, h_{l-1}, canvas_{l-1}]; e_{l-1})
    z_l ~ N(mean(e_l), sd(e_l)^2),  by default relative to the prior of z_l

and the generator takes its step with this z_l, which the next one needs. That step, the memory and the context are left
in `model.shared` for the model to take.

Reference: Eslami et al., *Neural scene representation and rendering*, Science 2018, supplement.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.scene import SceneModel, plates, unit
from phlogiston.networks.draw import DrawEncoder


class SceneGuide(nn.Module):
    """The inference program of a `SceneModel`.

    Args:
        model: the model; shared, not copied.
        encoder: the network beside the model's decoder.
    """

    def __init__(self, model: SceneModel, encoder: DrawEncoder) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, *, query_images: Tensor | None = None, query_mask: Tensor | None = None, **scene: Any) -> None:
        """Propose latents for query images.

        Args:
            query_images, query_mask: as the model's.
            **scene: the other arguments of the model.

        Raises:
            ConfigError: there are no query images to look at.
        """
        if query_images is None:
            raise ConfigError("the guide explains pictures: give query_images of shape (B, Q, 3, H, W).")
        model, decoder, encoder = self.model, self.model.decoder, self.encoder
        painting = model.prepare(True, **scene)
        pictures = unit(query_images, painting.total.dtype)
        draft = painting.total
        if encoder.reduce == "conv":
            draft = model.shared.draft = decoder.picture(painting.total)
        static, own, own_memory = encoder.begin(pictures, draft.detach(), painting.context)
        kernel = encoder.kernel(decoder)
        with plates(painting, query_mask):
            for layer in range(decoder.layers):
                own, own_memory = encoder.advance(kernel, static, painting, own, own_memory)
                mean, logvar = encoder.posterior(own, decoder.prior(painting))
                z = pyro.sample(f"z_{layer}", dist.Normal(mean, (0.5 * logvar).exp()).to_event(3))
                before, painting = painting, model.step(painting, z)
                model.shared.steps[layer] = (z, before, painting)
