"""Embed and classify: which photograph shows what would be seen from here?

    score(query, candidate) = -exp(s) |query embedding - candidate embedding|^2
    match ~ Categorical(logits = scores over all candidates)                     site "match"

The query embedding is made of what the memory says along the query's rays, the candidates' of the photographs alone,
without poses. Candidates are all photographs queried in the batch, then all that were seen, or others of the same
scenes. No latent: the model trains without a guide. Plates: "data" over scenes (dim -2), "queries" (dim -1).

Reference: Alet et al., *Graph Element Networks*, ICML 2019, section on scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.scene import unit
from phlogiston.networks.query_context import Rays
from phlogiston.networks.scene_memory import Frame, SceneMemory, keep_variance


class SceneMatching(nn.Module):
    """The model; `forward` is the Pyro program.

    Args:
        memory: what photographs are written to.
        embedding: length of the embeddings.
        width: channels of a query's context.
        size: cells along a query's side.
        tile: width of a scene.
        widths: channels of the candidates' strided layers.
    """

    def __init__(
        self,
        memory: SceneMemory,
        embedding: int = 64,
        width: int = 48,
        size: int = 8,
        tile: float = 0.7,
        widths: Sequence[int] = (24, 48),
    ) -> None:
        super().__init__()
        self.memory, self.tile = memory, tile
        self.rays = Rays(memory, width, size, blocks=1)
        self.query = nn.Sequential(nn.Linear(width * 16, 2 * embedding), nn.ReLU(), nn.Linear(2 * embedding, embedding))
        self.pool = nn.AdaptiveAvgPool2d(4)
        layers: list[nn.Module] = []
        channels = 3
        for wide in widths:
            layers += [nn.Conv2d(channels, wide, 4, stride=2, padding=1), nn.ReLU()]
            channels = wide
        self.look = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 2 * embedding), nn.ReLU(),
            nn.Linear(2 * embedding, embedding),
        )  # fmt: skip
        keep_variance(self.look)
        self.sharpness = nn.Parameter(torch.tensor(0.0))

    def embed_queries(
        self, images: Tensor, poses: Tensor, query_poses: Tensor, origin: Tensor, side: Tensor | int
    ) -> Tensor:
        """Embeddings of viewpoints: (B, Q, E); arguments as in `models.scene.SceneModel.forward`."""
        frame = Frame.of(origin, side, self.tile)
        state = self.memory.observe(unit(images, poses.dtype), poses, None, frame)
        context = self.rays(self.memory.read(state, query_poses), self.memory.local(query_poses, frame))
        pooled = self.pool(context.flatten(0, 1)).flatten(1)
        out: Tensor = self.query(pooled)
        return out.reshape(*query_poses.shape[:2], -1)

    def embed_candidates(self, images: Tensor) -> Tensor:
        """Embeddings of photographs (n, 3, H, W): (n, E)."""
        out: Tensor = self.look(4.0 * unit(images, self.sharpness.dtype) - 2.0)
        return out

    def scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scores (..., n) of candidates (n, E) for queries (..., E)."""
        distance = (queries[..., None, :] - candidates).square().mean(-1)
        return -self.sharpness.exp() * distance * queries.shape[-1]

    def forward(
        self,
        images: Tensor | None = None,
        poses: Tensor | None = None,
        query_poses: Tensor | None = None,
        query_images: Tensor | None = None,
        origin: Tensor | None = None,
        side: Tensor | int = 1,
        others: Tensor | None = None,
    ) -> Tensor:
        """Run the program: every query is observed to match its own photograph.

        Args:
            images: (B, V, 3, H, W), seen.
            poses: (B, V, 6).
            query_poses: (B, Q, 6).
            query_images: (B, Q, 3, H, W).
            origin: (B, 2).
            side: scenes along a side.
            others: (B, O, 3, H, W), candidates beside the photographs queried; those seen by default.

        Returns:
            Logits (B, Q, candidates), the photographs queried coming first.
        """
        if images is None or poses is None or query_poses is None or query_images is None or origin is None:
            raise ConfigError("matching needs photographs, poses, queries and their photographs")
        rest = images if others is None else others
        candidates = torch.cat([query_images.flatten(0, 1), rest.flatten(0, 1)])
        queries = self.embed_queries(images, poses, query_poses, origin, side)
        logits = self.scores(queries, self.embed_candidates(candidates))
        rows, queried = query_poses.shape[:2]
        truth = torch.arange(rows * queried, device=logits.device).reshape(rows, queried)
        with pyro.plate("data", rows, dim=-2), pyro.plate("queries", queried, dim=-1):
            pyro.sample("match", dist.Categorical(logits=logits), obs=truth)
        return logits
