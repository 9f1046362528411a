"""Compare two sets of images by their features: FID, KID, and whatever else the same features give.

`compare` is what `phlogiston fid REAL GENERATED` runs. It names convention, layer, both sample sizes and the weights'
checksum in every figure, because figures without them cannot be compared.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phlogiston.errors import ConfigError, DataError, DataWarning, SampleSizeWarning, unknown_name
from phlogiston.evaluate import neighbours
from phlogiston.evaluate.extractor import Extractor
from phlogiston.evaluate.features import KEEP, extract, make_extractor
from phlogiston.evaluate.frechet import (
    frechet_distance,
    frechet_infinity,
    frechet_std_error,
    inception_score,
    kernel_distance,
)
from phlogiston.evaluate.images import Source, open_source
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.statistics import FeatureSet, has_statistics
from phlogiston.files import cache_folder

METRICS = ("fid", "fid_infinity", "kid", "prdc", "inception_score")
FEW = 2048
_USUAL: dict[str, Any] = {"size": None, "limit": None, "keep": KEEP, "seed": 0}  # what features depend on


def compare(
    real: Any,
    generated: Any,
    features: Any = "inception",
    *,
    metrics: Sequence[str] = ("fid", "kid"),
    layer: int = 2048,
    convention: str = "tf1",
    weights: str | Path | None = None,
    shape: Sequence[int] | None = None,
    k: int = 5,
    seed: int = 0,
    cache: bool = False,
    **options: Any,
) -> dict[str, Metric]:
    """Score generated images against real ones.

    Args:
        real: a folder, an .npz or .npy file, an array, a source (`evaluate.images`), statistics (an .npz with `mu` and
            `sigma`, or a `FeatureSet`).
        generated: the same kinds.
        features: see `features.make_extractor`: `"inception"`, `"judge:NAME"`, `"pixels"`, `"module:callable"`, ...
        metrics: some of `fid`, `fid_infinity`, `kid`, `prdc` (precision, recall, f1, density, coverage) and
            `inception_score` (of the generated set).
        layer, convention, weights: of the Inception network.
        shape: (height, width[, channels]) of flattened rows.
        k: neighbours of `prdc`.
        seed: of all random choices.
        cache: keep the real set's statistics in the cache folder, by content.
        **options: of `features.extract`: `size`, `limit`, `batch_size`, `keep`, `device`, `progress`.

    Returns:
        The metrics, each with its provenance in `detail`.

    Raises:
        UnknownNameError: an unknown metric.
        ConfigError: features or options that make no sense together.
        DataError: images that cannot be used.
    """
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    extractor = None
    sets = []
    for images, cached in ((real, cache), (generated, False)):
        result = _statistics(images)
        if result is None:
            extractor = extractor or make_extractor(features, layer=layer, convention=convention, weights=weights)
            result = _features(open_source(images, shape=shape), extractor, cached, {**options, "seed": seed})
        sets.append(result)
    one, two = sets
    about = _provenance(one, two)
    _warn_of_size(one, two)
    scores = _scores(one, two, metrics, extractor, k, seed)
    return {name: replace(metric, detail={**about, **metric.detail}) for name, metric in scores.items()}


def _scores(
    one: FeatureSet, two: FeatureSet, metrics: Sequence[str], extractor: Extractor | None, k: int, seed: int
) -> dict[str, Metric]:
    out: dict[str, Metric] = {}
    if "kid" in metrics:
        out["kid"] = kernel_distance(_kept(one, "kid"), _kept(two, "kid"), seed=seed)
    if "fid" in metrics:
        out["fid"] = _fid(one, two)
    if "fid_infinity" in metrics:
        out["fid_infinity"] = frechet_infinity(_kept(one, "fid_infinity"), _kept(two, "fid_infinity"), seed=seed)
    if "prdc" in metrics:
        out.update(neighbours.all_four(_kept(one, "prdc"), _kept(two, "prdc"), k))
    if "inception_score" in metrics:
        out["inception_score"] = _score(two, extractor, seed)
    return out


def features_of(
    images: Any,
    features: Any = "inception",
    *,
    shape: Sequence[int] | None = None,
    cache: bool = False,
    layer: int = 2048,
    convention: str = "tf1",
    weights: str | Path | None = None,
    **options: Any,
) -> FeatureSet:
    """Extract once what `compare` takes on either side; `.save(path)` writes it as statistics.

    Args:
        images, features, shape, layer, convention, weights: as for `compare`.
        cache: look into the cache folder first.
        **options: of `features.extract`.
    """
    extractor = make_extractor(features, layer=layer, convention=convention, weights=weights)
    return _features(open_source(images, shape=shape), extractor, cache, options)


def _statistics(images: Any) -> FeatureSet | None:
    if isinstance(images, FeatureSet):
        return images
    return FeatureSet.load(images) if has_statistics(images) else None


def _features(source: Source, extractor: Extractor, cache: bool, options: Mapping[str, Any]) -> FeatureSet:
    """Extract, or take from the cache what was extracted before from the same bytes in the same way."""
    content = source.fingerprint() if cache else None
    if content is None:
        return extract(source, extractor, **options)
    chosen = {name: options.get(name, usual) for name, usual in _USUAL.items()}
    key = json.dumps([content, extractor.describe(), chosen], sort_keys=True)
    path = cache_folder() / "statistics" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz"
    if path.is_file():
        try:
            return FeatureSet.load(path)
        except DataError:
            path.unlink(missing_ok=True)  # damaged: ours, and made again below
    result = extract(source, extractor, **options)
    try:
        result.save(path)
    except OSError as error:
        warnings.warn(f"the statistics of {source.name} could not be cached: {error}", DataWarning, stacklevel=4)
    return result


def _provenance(one: FeatureSet, two: FeatureSet) -> dict[str, Any]:
    """Return what every figure names; refuse sets whose features were made differently."""
    if one.about and two.about and one.about != two.about:
        raise ConfigError(f"the two sets have different features: {one.about} and {two.about}.")
    if not one.about or not two.about:
        unknown = one.name if not one.about else two.name
        warnings.warn(
            f"{unknown} does not say which features its statistics are of; that they agree is taken on trust",
            DataWarning,
            stacklevel=3,
        )
    return {**(one.about or two.about), "n_real": one.n, "n_generated": two.n}


def _warn_of_size(one: FeatureSet, two: FeatureSet) -> None:
    known = [s.n for s in (one, two) if s.n is not None]
    features = len(one.gaussian.mean)
    if known and min(known) <= max(features, FEW - 1):
        why = f"no more than the {features} features" if min(known) <= features else f"fewer than {FEW}"
        warnings.warn(
            f"the smaller set has {min(known)} images, {why}: FID is biased upwards by much; go by KID, and compare "
            "FID at equal sizes only",
            SampleSizeWarning,
            stacklevel=3,
        )


def _fid(one: FeatureSet, two: FeatureSet) -> Metric:
    value = frechet_distance(one.gaussian, two.gaussian)
    error = None
    detail: dict[str, Any] = {}
    if one.kept is not None and two.kept is not None and min(len(one.kept), len(two.kept)) > 2:
        error = frechet_std_error(one.kept, two.kept, one.n, two.n)
        detail["std_error_by"] = "infinitesimal jackknife"
    n = min(s.n for s in (one, two) if s.n is not None) if one.n or two.n else 0
    return Metric(value, error, n, "estimate", False, detail)


def _kept(features: FeatureSet, metric: str) -> Any:
    if features.kept is None:
        raise ConfigError(
            f"{features.name} holds a mean and a covariance only; {metric} needs the images themselves, or statistics "
            "written by `phlogiston fid --save`."
        )
    return features.kept


def _score(generated: FeatureSet, extractor: Extractor | None, seed: int) -> Metric:
    logits = extractor.logits(_kept(generated, "inception_score")) if extractor is not None else None
    if logits is None:
        raise ConfigError(
            "inception_score needs features with classes behind them: inception at layer 2048, or a judge."
        )
    return inception_score(logits.detach().cpu(), splits=min(10, max(1, len(logits) // 2)), seed=seed)
