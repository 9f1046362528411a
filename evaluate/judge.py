"""Judges: small classifiers trained on real data only, that say what generated data show.

A judge's own held-out accuracy comes first: a judge that errs on real data says little about generated ones. On top of
it: accuracy, consistency, entropies and divergence of generated sets, and features for Fréchet distances where the
Inception network was not trained on (digits, sprites). No agreed weights exist for such judges, so figures made with
different judges do not compare: every figure names the judge's checksum.

Judges are trained on first use with a fixed seed and cached by everything that determines them: configuration and data.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.console import tell
from phlogiston.datasets.untrusted.documents import read_object
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import ConfigError, DataError, DataWarning, ShapeError
from phlogiston.evaluate.extractor import Extractor
from phlogiston.evaluate.images import to_uint8
from phlogiston.evaluate.metric import Metric, from_rows, from_share
from phlogiston.files import cache_folder, write_bytes, write_json


@dataclass(frozen=True)
class JudgeConfig:
    """What determines a judge, besides its data.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows per step.
        learning_rate: the peak of the one-cycle schedule of AdamW.
        widths: channels of the 5 x 5 convolutions, each followed by a pool that halves the picture; one more block of
            the last width is added while a picture would still have more than 8 pixels on its longer side.
        features: width of the dense layer whose activations are the features.
        seed: of initialisation and data order.
        halving: "pool": by pools, as above; "stride": by the convolutions themselves, 4 x 4, at a sixth of the cost.
        over_time: what of a recurrent cell's outputs over a clip counts: the "last", or their "mean".
        shift: training images are moved by up to so many pixels in either direction, at random; black moves in.
        glimpse: share of a clip's frames, in their order, that each step of training sees; at least one.
        gamma: exponent of intensities in [0, 1]; below 1 what is dark on a dark ground stands out.
    """

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 3e-3
    widths: tuple[int, ...] = (20, 50)
    features: int = 128
    seed: int = 0
    halving: Literal["pool", "stride"] = "pool"
    over_time: Literal["last", "mean"] = "last"
    shift: int = 0
    gamma: float = 1.0
    glimpse: float = 1.0

    def describe(self) -> dict[str, Any]:
        """What determines the judge; options that came later are named only where they are used."""
        later = {"halving", "over_time", "shift", "gamma", "glimpse"}
        result = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in later or getattr(self, f.name) != f.default
        }
        return {**result, "widths": list(self.widths)}

    def __post_init__(self) -> None:
        if self.shift < 0 or self.halving not in ("pool", "stride") or self.over_time not in ("last", "mean"):
            raise ConfigError(f"{self}: shift must not be negative, halving pool or stride, over_time last or mean.")
        if not 0 < self.gamma < math.inf or not 0 < self.glimpse <= 1:
            raise ConfigError(f"{self}: gamma must be positive, glimpse above 0 and at most 1.")
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0 or self.features < 1 or not self.widths:
            raise ConfigError(f"{self}: epochs, batch_size, learning_rate, widths and features must be positive.")


class JudgeNetwork(nn.Module):
    """Convolutions and pools, a dense layer (the features), one head per factor; for clips a recurrent cell between.

    Args:
        shape: (channels, height, width), or (time, channels, height, width) for clips.
        factors: name of a factor -> number of classes.
        config: the sizes.
    """

    def __init__(self, shape: Sequence[int], factors: Mapping[str, int], config: JudgeConfig):
        super().__init__()
        self.clips = len(shape) == 4
        self.reading, self.gamma = config.over_time, config.gamma
        channels, height, width = shape[-3:]
        widths = list(config.widths)
        while max(height, width) >> len(widths) > 8:
            widths.append(widths[-1])
        blocks: list[nn.Module] = []
        for inputs, outputs in zip([channels, *widths], widths, strict=False):
            if config.halving == "stride":
                blocks += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            else:
                blocks += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        self.trunk = nn.Sequential(*blocks, nn.Flatten())
        with torch.no_grad():
            flat = self.trunk(torch.zeros(1, channels, height, width)).shape[1]
        self.over_time = nn.GRU(flat, config.features, batch_first=True) if self.clips else None
        self.dense = nn.Linear(config.features if self.clips else flat, config.features)
        self.heads = nn.ModuleDict({name: nn.Linear(config.features, classes) for name, classes in factors.items()})

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features (batch, features) and logits per factor (batch, classes) of uint8 images or clips."""
        x = images.float() / 255.0
        x = (x if self.gamma == 1.0 else x**self.gamma) - 0.5
        if self.over_time is not None:
            frames = self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            read = self.over_time(frames)[0]
            x = read[:, -1] if self.reading == "last" else read.mean(1)
        else:
            x = self.trunk(x)
        features = F.relu(self.dense(x))
        return features, {name: head(features) for name, head in self.heads.items()}


class Judge(Extractor):
    """A trained classifier of one or more factors; also an extractor of features.

    Make one with `train_judge` or `judge_of`, read one with `Judge.load`.

    Attributes:
        network: the classifier.
        shape: of one image (channels, height, width) or clip (time, channels, height, width).
        factors: name -> number of classes.
        held_out: accuracy per factor on held-out real data; report it before anything the judge says.
        checksum: first eight digits of the SHA-256 of its weights.
    """

    def __init__(self, network: JudgeNetwork, about: Mapping[str, Any], held_out: Mapping[str, Metric]):
        self.network = network.eval().requires_grad_(False)
        self.about = dict(about)
        self.shape = tuple(about["shape"])
        self.factors: dict[str, int] = dict(about["factors"])
        self.held_out = dict(held_out)
        self.clips = network.clips
        self.checksum = _checksum(network)

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(self._fit(images))[0]

    def describe(self) -> dict[str, Any]:
        accuracy = {name: round(metric.value, 6) for name, metric in self.held_out.items()}
        return {"features": f"judge of {self.about['data']}", "weights": self.checksum, "judge_accuracy": accuracy}

    def logits(self, features: Tensor) -> Tensor | None:
        """Return the first factor's logits of features."""
        head = next(iter(self.network.heads.values()))
        return head(features.to(next(head.parameters()).device))

    def to(self, device: torch.device) -> Judge:
        self.network.to(device)
        return self

    def log_probabilities(self, images: Any, batch_size: int = 500) -> dict[str, Tensor]:
        """Return log p(class | image) per factor, (n, classes), of images as `images.to_uint8` takes them."""
        rows = to_uint8(images, self._flat_shape(), "the images")
        parts: dict[str, list[Tensor]] = {name: [] for name in self.factors}
        with torch.inference_mode():
            device = next(self.network.parameters()).device
            for block in rows.split(batch_size):
                for name, logits in self.network(self._fit(block).to(device))[1].items():
                    parts[name].append(logits.log_softmax(-1).cpu())
        return {name: torch.cat(blocks) for name, blocks in parts.items()}

    def predict(self, images: Any) -> dict[str, Tensor]:
        """Return the likeliest class per factor, int64 (n,)."""
        return {name: log_probs.argmax(-1) for name, log_probs in self.log_probabilities(images).items()}

    def accuracy(self, images: Any, labels: Mapping[str, Any]) -> dict[str, Metric]:
        """Return the share of images judged to be what `labels` say, per factor named there; labels of -1 are skipped.

        Raises:
            ConfigError: a factor the judge does not know.
        """
        judged = self.predict(images)
        return {name: _agreement(judged[self._known(name)], value, name) for name, value in labels.items()}

    def consistency(self, real: Any, regenerated: Any) -> dict[str, Metric]:
        """Return the share of images judged alike before and after regeneration, per factor."""
        before, after = self.predict(real), self.predict(regenerated)
        return {name: _agreement(after[name], before[name], name) for name in self.factors}

    def entropies(self, images: Any) -> dict[str, Metric]:
        """Return how certain and how varied the judgements of generated images are, in nats.

        Returns:
            `intra_entropy_<factor>` H(y | x), low when each image is clearly something; `inter_entropy_<factor>` H(y),
            high when all classes occur; `kl_<factor>` E KL(p(y | x) || p(y)), their difference; and the averages over
            factors, `intra_entropy`, `inter_entropy`, `kl`.
        """
        out: dict[str, Metric] = {}
        for name, log_probs in self.log_probabilities(images).items():
            out.update({f"{kind}_{name}": metric for kind, metric in entropies(log_probs).items()})
        for kind in ("intra_entropy", "inter_entropy", "kl"):
            parts = [out[f"{kind}_{name}"] for name in self.factors]
            error = math.sqrt(sum((part.std_error or 0.0) ** 2 for part in parts)) / len(parts)
            mean = sum(part.value for part in parts) / len(parts)
            out[kind] = Metric(mean, error, parts[0].n, "estimate", parts[0].higher_is_better, {"unit": "nats"})
        return out

    def save(self, folder: str | Path) -> Path:
        """Write `judge.safetensors` and `judge.json` into a folder, each whole or not at all."""
        from safetensors.torch import save

        folder = Path(folder)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        write_bytes(folder / "judge.safetensors", save(tensors))
        held_out = {name: metric.to_json() for name, metric in self.held_out.items()}
        write_json(folder / "judge.json", {**self.about, "held_out": held_out, "checksum": self.checksum})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Judge:
        """Read what `save` wrote.

        Raises:
            DataError: files missing, damaged, or not those of a judge.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        with reading(folder, "a judge"):
            about = read_object(folder / "judge.json", "the description of a judge")
            tensors = load_file(folder / "judge.safetensors")
            options = {**about["config"], "widths": tuple(about["config"]["widths"])}
            if len(options["widths"]) > 64 or len(about["factors"]) > len(tensors) or len(about["shape"]) not in (3, 4):
                raise DataError("its network has too many layers or factors, or takes no images.")
            with torch.device("meta"):  # takes no memory, whatever sizes the description names
                network = JudgeNetwork(about["shape"], about["factors"], JudgeConfig(**options))
            network.load_state_dict(tensors, assign=True)
            held_out = {name: Metric.from_json(entry) for name, entry in about.pop("held_out").items()}
            checksum = about.pop("checksum")
        judge = cls(network, about, held_out)
        if judge.checksum != checksum:
            raise DataError(f"{str(folder)!r}: the judge's weights are damaged ({judge.checksum}, not {checksum}).")
        return judge

    def _known(self, name: str) -> str:
        if name not in self.factors:
            raise ConfigError(f"the judge has no factor {name!r}; it has {', '.join(self.factors)}.")
        return name

    def _flat_shape(self) -> tuple[int, int, int] | None:
        return None if self.clips else (self.shape[1], self.shape[2], self.shape[0])

    def _fit(self, images: Tensor) -> Tensor:
        """Bring grey or coloured images to the channels the judge was trained on; refuse other sizes."""
        channels = self.shape[-3]
        if images.shape[-3] != channels:
            images = (
                images.expand(*images.shape[:-3], 3, -1, -1)
                if channels == 3
                else images.float().mean(-3, keepdim=True).round().to(torch.uint8)
            )
        # a recurrent judge takes clips of any length
        if images.shape[-2:] != self.shape[-2:] or images.ndim != len(self.shape) + 1:
            raise ShapeError(f"images have shape {tuple(images.shape[1:])}; this judge was trained on {self.shape}.")
        return images


def entropies(log_probs: Tensor) -> dict[str, Metric]:
    """Return intra-entropy, inter-entropy and their difference of log class probabilities (n, classes), in nats.

    The inter-entropy's error bar is the delta method's; with few images per class it is biased downwards.
    """
    if log_probs.ndim != 2 or len(log_probs) < 2:
        raise ShapeError(f"log_probs have shape {tuple(log_probs.shape)}; expected (n, classes) with n at least 2.")
    log_probs = log_probs.double()
    probs = log_probs.exp()
    each = torch.special.entr(probs).sum(-1)
    marginal = probs.mean(0)
    surprise = -(probs * marginal.clamp(min=1e-300).log()).sum(-1)  # its mean is H(y); its spread is the influence
    unit = {"unit": "nats", "classes": log_probs.shape[1]}
    return {
        "intra_entropy": from_rows(each, "estimate", False, unit),
        "inter_entropy": from_rows(surprise, "estimate", True, unit),
        "kl": from_rows(surprise - each, "estimate", True, unit),
    }


def train_judge(
    images: Any,
    labels: Mapping[str, Any],
    test_images: Any,
    test_labels: Mapping[str, Any],
    *,
    config: JudgeConfig | None = None,
    data: str = "the given data",
    shape: Sequence[int] | None = None,
    cache: bool = True,
    progress: bool = False,
) -> Judge:
    """Train a judge on real data, or take it from the cache if the same one was trained before.

    Args:
        images: real images or clips, as `images.to_uint8` takes them; never generated ones.
        labels: factor -> int64 (n,), -1 where unknown.
        test_images, test_labels: held-out real data for the judge's own accuracy; disjoint from `images`.
        config: how.
        data: what results call the data.
        shape: (height, width[, channels]) of flattened rows.
        cache: look into the cache folder first, and leave the judge there.
        progress: report training on stderr.

    Returns:
        The judge.

    Raises:
        DataError: labels that do not fit, or a single class.
    """
    config = config or JudgeConfig()
    rows, test_rows = (to_uint8(x, shape, name) for x, name in ((images, "images"), (test_images, "test_images")))
    codes = {name: _codes(value, len(rows), name) for name, value in labels.items()}
    test_codes = {name: _codes(test_labels[name], len(test_rows), name) for name in labels if name in test_labels}
    if not codes or test_codes.keys() != codes.keys():
        raise DataError(
            f"labels name {sorted(codes)} and test_labels {sorted(test_labels)}; both need the same factors."
        )
    factors = {n: int(max(codes[n].max(), test_codes[n].max())) + 1 for n in codes}
    for name, classes in factors.items():
        if classes < 2:
            raise DataError(f"factor {name!r} has a single class; there is nothing to judge.")
    about = {
        "config": config.describe(),
        "shape": list(rows.shape[1:]),
        "factors": factors,
        "data": data,
        "data_checksum": _data_checksum(rows, codes),
        "n_train": len(rows),
    }
    folder = cache_folder() / "judges" / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    if cache and (folder / "judge.json").is_file():
        try:
            return Judge.load(folder)
        except DataError as error:
            warnings.warn(f"the cached judge is trained again: {error}", DataWarning, stacklevel=2)
    network = _train(rows, codes, factors, config, progress)
    judge = Judge(network, about, {})
    judge.held_out = judge.accuracy(test_rows, test_codes)
    if cache:
        try:
            judge.save(folder)
        except OSError as error:
            warnings.warn(f"the judge could not be cached: {error}", DataWarning, stacklevel=2)
    return judge


def judge_of(data: Any, *, config: JudgeConfig | None = None, cache: bool = True, progress: bool = True) -> Judge:
    """Return the judge of a labelled image data set: trained on training and validation rows, tested on test rows.

    Args:
        data: a registered name, a path, or a `Dataset` with `meta.image_shape` and at least one categorical column.
        config: 3 epochs if not given, more for small sets.
        cache, progress: see `train_judge`.

    Raises:
        ConfigError: the data hold no images, no labels, or no test rows.
    """
    from phlogiston import datasets

    if isinstance(data, str | Path):
        data = datasets.load(str(data))
    meta = data.meta
    streams = [name for name in meta.categorical if name in data.train.tensors]
    if meta.image_shape is None or not streams or not len(data.test):
        raise ConfigError(f"a judge needs images, labels and test rows; the data set {meta.name!r} lacks one of them.")
    parts = [split for split in (data.train, data.valid) if len(split)]
    images = torch.cat([_pixels(split.tensors["x"], meta) for split in parts])
    if config is None:  # small sets are repeated more often, so that a judge sees some 500 batches at least
        config = JudgeConfig(epochs=max(JudgeConfig.epochs, math.ceil(64_000 / len(images))))
    labels = {name: torch.cat([split.tensors[name] for split in parts]) for name in streams}
    return train_judge(
        images,
        labels,
        _pixels(data.test.tensors["x"], meta),
        {name: data.test.tensors[name] for name in streams},
        config=config,
        data=meta.name,
        cache=cache,
        progress=progress,
    )


def _pixels(x: Tensor, meta: Any) -> Tensor:
    """Return a data set's rows as uint8 images; noise added for densities may leave [0, 1] a little, and is clipped."""
    return to_uint8(x.clamp(0.0, 1.0) if x.is_floating_point() else x, meta.image_shape, meta.name)


def _train(
    rows: Tensor, codes: Mapping[str, Tensor], factors: Mapping[str, int], config: JudgeConfig, progress: bool
) -> JudgeNetwork:
    """Minimise the cross-entropy with AdamW on a one-cycle schedule; leaves the global random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = JudgeNetwork(tuple(rows.shape[1:]), factors, config)
    draw = torch.Generator().manual_seed(config.seed)
    batch = min(config.batch_size, len(rows))
    per_epoch = len(rows) // batch
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=max(2, config.epochs * per_epoch)
    )
    if progress:
        tell(f"training a judge on {len(rows):,} rows, {config.epochs} epochs")
    network.train()
    for epoch in range(config.epochs):
        order = torch.randperm(len(rows), generator=draw)
        total = 0.0
        for step in range(per_epoch):
            index = order[step * batch : (step + 1) * batch]
            _, logits = network(_moved(_glimpse(rows[index], config.glimpse, draw), config.shift, draw))
            losses = [F.cross_entropy(logits[n], codes[n][index], ignore_index=-1) for n in factors]
            loss = torch.stack(
                [x for x in losses if bool(torch.isfinite(x))]
            ).sum()  # a batch may lack all labels of one
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        if progress and (epoch + 1) % max(1, config.epochs // 3) == 0:
            tell(f"  epoch {epoch + 1}: loss {total / per_epoch:.4f}")
    return network


def _glimpse(clips: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Draw a share of the frames of every clip, (n, T, C, H, W), in their order; images are left as they are."""
    if share == 1.0 or clips.ndim != 5:
        return clips
    count = max(1, math.ceil(share * clips.shape[1]))
    chosen = torch.rand(clips.shape[:2], generator=draw).argsort(1)[:, :count].sort(1).values
    return clips[torch.arange(len(clips))[:, None], chosen]


def _moved(rows: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Move every image (or whole clip) by up to `most` pixels in either direction."""
    if not most:
        return rows
    height, width = rows.shape[-2:]
    padded = F.pad(rows.flatten(1, -3), (most,) * 4)
    down, right = torch.randint(0, 2 * most + 1, (2, len(rows), 1), generator=draw)
    y, x = down + torch.arange(height), right + torch.arange(width)
    each, layers = torch.arange(len(rows))[:, None, None, None], torch.arange(padded.shape[1])[None, :, None, None]
    return padded[each, layers, y[:, None, :, None], x[:, None, None, :]].reshape(rows.shape)


def _codes(values: Any, rows: int, name: str) -> Tensor:
    codes = torch.as_tensor(values).long().cpu()
    if codes.shape != (rows,):
        raise DataError(f"labels {name!r} have shape {tuple(codes.shape)}; expected one per row, ({rows},).")
    if rows and int(codes.min()) < -1:
        raise DataError(f"labels {name!r} hold {int(codes.min())}; expected classes from 0, or -1 where unknown.")
    return codes


def _agreement(judged: Tensor, true_labels: Any, name: str) -> Metric:
    labels = _codes(true_labels, len(judged), name)
    known = labels >= 0
    if not bool(known.any()):
        raise DataError(f"no row has a label {name!r}.")
    share, n = float((judged == labels)[known].double().mean()), int(known.sum())
    return from_share(share, n, True)


def _checksum(network: nn.Module) -> str:
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:8]


def _data_checksum(rows: Tensor, codes: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(rows.numpy().tobytes())
    for name, values in sorted(codes.items()):
        total.update(name.encode())
        total.update(values.numpy().tobytes())
    return total.hexdigest()[:16]
