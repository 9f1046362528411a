"""The guide of the scene model: a second recurrent network that looks at the picture to be explained.

    e_l = ConvLSTM_e([look(x), c, h_{l-1}, canvas_{l-1}]; e_{l-1})
    z_l ~ N(mean(e_l), sd(e_l)^2),  by default relative to the prior of z_l

and the generator takes its step with this z_l, which the next one needs. That step, the memory and the context are left
in `model.shared` for the model to take.

Reference: Eslami et al., *Neural scene representation and rendering*, Science 2018, supplement.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.scene import SceneModel, fill, plates, unit
from phlogiston.networks.draw import DrawEncoder
from phlogiston.networks.scene_memory import State


class SceneGuide(nn.Module):
    """The inference program of a `SceneModel`; arguments of `forward` are the model's.

    Args:
        model: the model; shared, not copied.
        encoder: the network beside the model's decoder.
    """

    def __init__(self, model: SceneModel, encoder: DrawEncoder) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(
        self,
        images: Tensor | None = None,
        poses: Tensor | None = None,
        obs_mask: Tensor | None = None,
        query_poses: Tensor | None = None,
        query_images: Tensor | None = None,
        query_mask: Tensor | None = None,
        origin: Tensor | None = None,
        side: Tensor | int = 1,
        state: State | None = None,
    ) -> None:
        """Propose latents for query images.

        Raises:
            ConfigError: there are no query images to look at.
        """
        if query_images is None:
            raise ConfigError("the guide explains pictures: give query_images of shape (B, Q, 3, H, W).")
        model, decoder, encoder = self.model, self.model.decoder, self.encoder
        poses_, images_, queries = fill(model, poses, images, query_poses, state)
        painting = model.prepare(
            True,
            state,
            images=images_,
            poses=poses_,
            obs_mask=obs_mask,
            query_poses=queries,
            origin=origin,
            side=side,
        )
        pictures = unit(query_images, painting.total.dtype)
        draft = painting.total
        if encoder.reduce == "conv":
            draft = model.shared.draft = decoder.picture(painting.total)
        static, own, own_memory = encoder.begin(pictures, draft.detach(), painting.context)
        kernel = encoder.kernel(decoder)
        with plates(queries, query_mask):
            for layer in range(decoder.layers):
                own, own_memory = encoder.advance(kernel, static, painting, own, own_memory)
                mean, logvar = encoder.posterior(own, decoder.prior(painting))
                z = pyro.sample(f"z_{layer}", dist.Normal(mean, (0.5 * logvar).exp()).to_event(3))
                before, painting = painting, model.step(painting, z)
                model.shared.steps[layer] = (z, before, painting)
