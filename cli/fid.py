"""`phlogiston fid`: how far generated images are from real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phlogiston.cli.output import columns, emit, refuse_existing

if TYPE_CHECKING:
    from phlogiston.evaluate.metric import Metric


def fid(
    real: Annotated[
        str, typer.Argument(help="Real images: a folder, an .npz or .npy file, statistics, or a data set.")
    ],
    generated: Annotated[str, typer.Argument(help="Generated images: the same, or a run folder to sample from.")],
    features: Annotated[
        str, typer.Option(help="inception, judge[:NAME] (of a labelled data set), pixels, or module:callable.")
    ] = "inception",
    metrics: Annotated[
        str, typer.Option(help="Some of fid, kid, fid_infinity, prdc, inception_score, with commas between; or all.")
    ] = "fid,kid",
    number: Annotated[
        int | None, typer.Option("-n", "--number", help="Use this many images of each set, drawn at random.")
    ] = None,
    resize: Annotated[str, typer.Option(help="How Inception's input is made: tf1, torch or clean.")] = "tf1",
    layer: Annotated[int, typer.Option(help="Layer of Inception: 64, 192, 768 or 2048.")] = 2048,
    weights: Annotated[Path | None, typer.Option(help="File of Inception weights.")] = None,
    size: Annotated[str | None, typer.Option(help="Resize images to HEIGHTxWIDTH first, antialiased.")] = None,
    shape: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH[xCHANNELS] of images stored as flat rows.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per call of the feature network.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; an accelerator if there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    cache: Annotated[bool, typer.Option(help="Keep statistics of the real set for the next time.")] = True,
    save: Annotated[Path | None, typer.Option(help="Write the real set's statistics (mu, sigma) to this .npz.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare generated images with real ones: FID and KID, with error bars and all that it takes to quote them.

    \b
    Examples:
      phlogiston fid photos/ generated/
      phlogiston fid mnist samples.npz --features judge:mnist --metrics all
      phlogiston fid real.npz fake.npz --features my_network.py:features --json
      phlogiston fid photos/ runs/my-run -n 10000 --save photos-statistics.npz
    """
    import torch

    from phlogiston.errors import ConfigError
    from phlogiston.evaluate.fid import METRICS, compare, features_of

    torch.manual_seed(seed)  # a run's samples are drawn from the global stream, block by block
    scored = features == "inception" and layer == 2048  # an inception score needs the network's classes
    everything = [name for name in METRICS if scored or name != "inception_score"]
    chosen = everything if metrics == "all" else [name.strip() for name in metrics.split(",") if name.strip()]
    if save is not None:
        if save.suffix != ".npz":
            raise ConfigError(f"--save {str(save)!r}: statistics are written as .npz.")
        refuse_existing(save, force)
    common: dict[str, Any] = {
        "layer": layer,
        "convention": resize,
        "weights": weights,
        "size": _numbers(size, "--size", (2,)),
        "shape": _numbers(shape, "--shape", (2, 3)),
        "limit": number,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "progress": not as_json,
    }
    if features == "judge":
        features = f"judge:{_labelled(real)}"
    one, two = _images(real, number), _images(generated, number)
    if save is not None:
        one = features_of(one, features, cache=cache, **common)
        one.save(save)
    emit(as_json, *_told(compare(one, two, features, metrics=chosen, cache=cache, **common)))


def _told(found: dict[str, Metric]) -> tuple[dict[str, Any], str]:
    """The result for machines, and for people."""
    first = found.get("fid") or next(iter(found.values()))
    content = {
        "value": first.value,
        "std_error": first.std_error,
        "n_real": first.detail["n_real"],
        "n_generated": first.detail["n_generated"],
        "features": first.detail.get("features"),
        "metrics": {name: metric.to_json() for name, metric in found.items()},
    }
    rows = [(name, metric.text(), _arrow(metric.higher_is_better)) for name, metric in found.items()]
    told = [(k.replace("_", " "), str(v)) for k, v in first.detail.items() if k != "std_error_by"]
    return content, f"{columns(rows)}\n\n{columns(told)}"


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("fid")(fid)


def _images(what: str, number: int | None) -> Any:
    """Turn an argument into images: a path, the samples of a run, or the images of a registered data set."""
    from phlogiston import datasets, systems
    from phlogiston.errors import ConfigError
    from phlogiston.evaluate.images import Draws, Rows
    from phlogiston.systems.hub.address import is_address

    path = Path(what).expanduser()
    if is_address(what) or (path / "config.json").is_file():
        run = what if is_address(what) else str(path)
        system = systems.load(run)
        shape = system.schema.get("image_shape")
        return Draws(lambda n: system.sample(n)["x"].clamp(0.0, 1.0), number or 10_000, shape, run)
    if path.exists() or what not in datasets.names():
        return what
    data = datasets.load(what)
    if data.meta.image_shape is None:
        raise ConfigError(f"the data set {what!r} holds no images.")
    return Rows(data.train.numpy("x").clip(0.0, 1.0), data.meta.image_shape, what)


def _labelled(real: str) -> str:
    """Return the data set whose judge is meant when none is named: the real one."""
    from phlogiston import datasets
    from phlogiston.errors import ConfigError

    if Path(real).exists() or real not in datasets.names():
        raise ConfigError(
            f"--features judge: {real!r} is no registered data set; say whose judge: judge:mnist, for one."
        )
    return real


def _numbers(text: str | None, option: str, lengths: tuple[int, ...]) -> tuple[int, ...] | None:
    from phlogiston.errors import ConfigError

    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in lengths or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} is {text!r}; expected numbers with an x between, as in 64x64.")
    return tuple(int(part) for part in parts)


def _arrow(higher: bool | None) -> str:
    return "" if higher is None else "(higher is better)" if higher else "(lower is better)"
