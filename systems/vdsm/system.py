"""VDSM as a product: learn who, which action and the pose per frame from unlabelled clips, then take them apart.

    data = phlogiston.datasets.load("figures", size=32)
    system = VDSM(preset="cpu-figures").fit(data)
    system.encode(clips)                       identity, dynamics, poses
    system.swap(who=clips, what=others)        the people of one set in the actions of another
    system.swap_grid(clips)                    every action with every person
    system.generate(clips, length=30)          the same action, longer
    system.predict(clips[:, :4], horizon=8)    what happens next
    system.sample(16, length=20)["frames"]     invented clips

Two stages of the shared engine: frames first, then sequences on the frozen frame encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import ShapeError
from phlogiston.evaluate.metric import Metric
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.inference.query.evidence import Known
from phlogiston.inference.svi.engine import Stage
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.systems.base import Role, coerce
from phlogiston.systems.calls import evaluating
from phlogiston.systems.frames import mean_colour, refuse_zeros_and_ones
from phlogiston.systems.vdsm.clips import check_mask
from phlogiston.systems.vdsm.config import PRESETS
from phlogiston.systems.vdsm.config import Config as VDSMConfig
from phlogiston.systems.vdsm.stages import adopt, stages
from phlogiston.systems.vdsm.training import Aggregate, Clips
from phlogiston.systems.vdsm.verbs import ClipVerbs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class VDSM(ClipVerbs):
    """Video disentanglement; options in `systems.vdsm.config.Config`.

    Data hold `frames` uint8 (rows, T, C, H, W) or floats in [0, 1]; optionally `mask` bool (rows, T), True where a
    frame is known, and `group` int64 (rows,), which clips show the same individual. Labels are never trained on.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("pendulum", sizes=(12, 0, 4), size=16, frames=6)
        >>> small = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "recurrent": 8, "experts": 3, "aggregate": 1}
        >>> system = VDSM(steps=3, warm_steps=2, sequence_steps=2, **small).fit(data)
        >>> tuple(system.swap(data.test.tensors["frames"][:2], data.test.tensors["frames"][2:4]).shape)
        (2, 6, 3, 16, 16)
    """

    name: ClassVar[str] = "vdsm"
    Config: ClassVar[type] = VDSMConfig
    config: VDSMConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the clips, and names of their labels."""
        frames = self._frames(train.tensors)
        refuse_zeros_and_ones(frames, "frames")
        channels, height, width = frames.shape[2:]
        if height != width:
            raise ShapeError(
                f"frames have {height} x {width} pixels; this model takes square ones. Crop or resize them."
            )
        return {
            "channels": int(channels),
            "size": int(height),
            "length": int(frames.shape[1]),
            "mean": mean_colour(frames),
            "paired": bool(self.config.pair_within_group and "group" in train.tensors),
            "categorical": {} if meta is None else {name: list(labels) for name, labels in meta.categorical.items()},
        }

    def prepare(self, split: Split, role: Role = "train") -> Clips:  # type: ignore[override]
        """The clips as the engine reads them."""
        frames = self._frames(split.tensors)
        if frames.dtype != torch.uint8:
            frames = (frames * 255.0).round().to(torch.uint8)
        group = split.tensors.get("group") if self.schema["paired"] else None
        mask = check_mask(split.tensors.get("mask"), frames)
        clips = Clips(frames, mask, group, sum(len(part) for part in self._parts))
        self._parts.append(clips)
        return clips

    def fit(self, data: Any, **options: Any) -> VDSM:
        """Train on clips; see `System.fit`. `data` may also be one array of clips, (rows, T, C, H, W).

        Raises:
            RunError: `config.stage1` names something that is no VDSM of the same form.
        """
        self._parts = []
        if not isinstance(data, Dataset | Split | Mapping | str | Path):
            data = {"frames": data}
        coerce(data)
        return super().fit(data, **options)

    _parts: list[Clips]

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Model and guide."""
        c, schema = self.config, self.schema
        self.model = VDSMModel(
            schema["channels"], schema["size"], c.experts, c.pose, c.dynamics, c.decoder_widths,
            c.transition or c.recurrent, c.identity, c.likelihood, c.chain, c.bank, c.rank, c.route, c.aggregate,
        )  # fmt: skip
        self.model.temperature = c.temperature[1]
        self.model.decoder.start_at(torch.tensor(schema["mean"]))
        self.guide = VDSMGuide(
            self.model, c.encoder_widths, c.features, c.recurrent, c.layers, c.encoder, c.pose_guide, c.pool,
            c.identity_share, c.dropout, c.agreement,
        )  # fmt: skip

    def initialise(self, train: Any, seed: int) -> None:
        """Take the parts of another run's stage 1, where the configuration names one."""
        if self.config.stage1:
            self.adopt(self.config.stage1)

    def adopt(self, run: str | Path) -> None:
        """Take frame encoder and decoder from another VDSM, a run folder or what `save` wrote.

        Raises:
            RunError: not a VDSM, or one of another form; the message says what differs.
        """
        adopt(self, run)

    def stages(self) -> list[Stage]:
        """Frames; then, on frozen parts, sequences: first of codes, then of pixels; then everything, if asked for."""
        return stages(self, self._parts)

    def callbacks(self) -> list[Any]:
        """Fitting the aggregate prior at the end."""
        if not self.config.aggregate or self.config.identity != "continuous":
            return []
        return [Aggregate(self, self._parts[0], self.config.aggregate)]

    # ----- asking, scoring, showing -------------------------------------------------------------------------------

    def query(  # type: ignore[override]
        self, evidence: Any = None, ask: Sequence[str] | None = None, num_samples: int = 100, **options: Any
    ) -> Any:
        """Sample sites given evidence about others; see `System.query`.

        Sites are `identity` (K), `dynamics` (D), `pose` (T, Z) and `frames` (T, C, H, W), per clip. `batch=` may hold
        `frames` and `mask` of clips that are known.
        """
        from phlogiston.systems.vdsm.query import ask as answer

        self._need_fit()
        with evaluating(self.model, self.guide):
            return answer(self.model, self.guide, self.schema["length"], evidence, ask, num_samples, **options)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: entries of identity and dynamics."""
        self._need_fit()
        sizes = {"identity": self.config.experts, "dynamics": self.config.dynamics}
        return {site: tuple(f"{site}_{i}" for i in range(size)) for site, size in sizes.items()}, {}

    METRICS: ClassVar[tuple[str, ...]] = (
        "judge",
        "error",
        "swap",
        "rollout",
        "samples",
        "probes",
        "fvd",
        "log_likelihood",
    )

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> dict[str, Metric]:
        """Score on held-out clips.

        Args:
            data: a dataset (judge and probes learn from its training rows), split or dict.
            metrics: some of `METRICS`; all but "log_likelihood" by default where clips have labels, else "error".
        """
        from phlogiston.systems.vdsm.report import evaluate

        chosen = self._chosen_metrics(metrics)
        return evaluate(self, data, None if metrics is None else chosen)

    def figures(self, data: Any) -> dict[str, Figure]:
        """Swap grids, reconstructions, continuations, samples, the loss."""
        from phlogiston.systems.vdsm.pictures import figures

        self._need_fit()
        return figures(self, data)

    def views(self) -> dict[str, Any]:
        """What `show` can lay out: name -> function of held-out clips."""
        from phlogiston.systems.vdsm.pictures import VIEWS

        return dict(VIEWS)

    def example_queries(self, data: Any) -> list[tuple[str, Any]]:
        """Clips of one person, all else left open."""
        who = self.encode(data)["identity_loc"][0]
        return [("who is seen", self.query({"identity": Known(who)}, ask=["frames"], num_samples=8, seed=0))]

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Figures: who and what, swapped."""
        shorter = {"steps": 45, "warm_steps": 25, "sequence_steps": 8, "aggregate": 4}
        return [
            {
                "title": "Who, what and how: drawn figures",
                "text": "The model was told which clips show the same character, and nothing else: neither attributes "
                "nor actions. It learned one code for the person, one for the action and a pose per frame, so that "
                "people and actions can be combined anew. Columns: the person; rows: the action. The characters shown "
                "are combinations it was never trained on.",
                "data": "figures",
                "data_options": {"size": 32, "characters": (24, 0, 6) if quick else (96, 0, 16)},
                "options": {**PRESETS["cpu-demo"], **(shorter if quick else {})},
            }
        ]
