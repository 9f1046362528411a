"""`phlogiston data`: what there is, what it looks like, and fetching it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phlogiston.cli import complete, record
from phlogiston.cli.output import columns, emit, pairs, plain, progress, refuse_existing, say, write_whole

if TYPE_CHECKING:
    from phlogiston.datasets import Dataset

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, describe, fetch and draw data sets.\n\n\b\nExamples:\n  phlogiston data list\n"
    "  phlogiston data preview digits",
)

app.command("record")(record.record)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Root = Annotated[Path | None, typer.Option(help="Folder of fetched files, instead of the cache folder.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the data; may be repeated.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every data set with rows (train / valid / test), shape and where it comes from.

    \b
    Example:
      phlogiston data list
    """
    from phlogiston import datasets

    found = [datasets.info(name) for name in datasets.names()]
    content = [
        {"name": i.name, "title": i.title, "rows": i.rows, "shape": i.shape, "licence": i.licence, "state": i.state}
        for i in found
    ]
    rows = [(i.name, i.rows, i.shape, i.state, i.title) for i in found]
    emit(as_json, {"data": content}, columns(rows, header=("name", "rows", "shape", "state", "what it is")))


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(autocompletion=complete.data, help="A name from `data list`, or the path of data of yours.")
    ],
    options: Options = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Describe a data set: licence, options and notes; for data of yours, what was found in it.

    \b
    Examples:
      phlogiston data info swissroll
      phlogiston data info measurements.csv
    """
    from phlogiston import datasets

    about = datasets.info(name) if name in datasets.names() else None
    if about is not None and not (options and about.kind == "yours"):
        content = {
            key: getattr(about, key)
            for key in ("name", "title", "licence", "rows", "shape", "state", "notes", "options")
        }
        lines = [(key, value) for key, value in content.items() if key != "options" and value]
        defaults = [("  " + option, default) for option, default in about.options.items()]
        emit(as_json, content, columns(lines) + "\n\noptions (--set key=value):\n" + columns(defaults))
        return
    found, lines = _found(datasets.load(name, root=root, **datasets.read_options(name, pairs(options))))
    emit(as_json, found, columns(lines))


def _found(data: Dataset) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What was found in data of the user's, and what was decided about them: for machines, and as lines of text."""
    from phlogiston.datasets.streamed import in_memory

    rows = in_memory(data.train)
    meta, tensors = data.meta, rows.tensors
    parts = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
    missing = float(1.0 - rows.numpy("mask").mean()) if "mask" in tensors else 0.0
    shapes = {name: f"{'x'.join(map(str, t.shape[1:])) or '1'} {str(t.dtype)[6:]}" for name, t in tensors.items()}
    found = {
        "name": meta.name,
        "rows": parts,
        "tensors": shapes,
        "columns": list(meta.columns),
        "categorical": plain(dict(meta.categorical)),
        "image_shape": meta.image_shape,
        "missing": missing,
        "decisions": [{"topic": d.topic, "found": d.found, "option": d.option} for d in meta.decisions],
    }
    names = f"{len(meta.columns)}: {', '.join(meta.columns[:12])}{' ...' * (len(meta.columns) > 12)}"
    lines = [
        ("name", meta.name),
        ("rows", " / ".join(f"{count:,}" for count in parts.values()) + "  (train / valid / test)"),
        *((f"tensor {name}", shape) for name, shape in shapes.items()),
        *([("columns", names)] if meta.columns else []),
        *((f"stream {key}", f"{len(labels)} categories") for key, labels in meta.categorical.items()),
        ("missing", f"{missing:.1%} of the entries"),
        *((d.topic, d.found + (f"; otherwise --set {d.option}" if d.option else "")) for d in meta.decisions),
    ]
    return found, lines


@app.command()
def get(
    name: Annotated[str, typer.Argument(autocompletion=complete.data, help="A name from `data list`.")],
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the files of a data set and check them.

    \b
    Example:
      phlogiston data get mnist
    """
    from phlogiston import datasets

    folder = datasets.get(name, root)
    text = f"{name} is {datasets.info(name).state}: nothing to fetch" if folder is None else str(folder)
    emit(as_json, {"name": name, "folder": None if folder is None else str(folder)}, text, kept=True)


@app.command()
def preview(
    name: Annotated[
        str, typer.Argument(autocompletion=complete.data, help="A name from `data list`, or the path of data of yours.")
    ],
    out: Annotated[Path | None, typer.Option(help="The PNG file to write; NAME.png by default.")] = None,
    options: Options = None,
    root: Root = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a data set into a PNG file: points, pictures, or histograms.

    \b
    Examples:
      phlogiston data preview digits
      phlogiston data preview swissroll --set noise_sd=0.3 --out noisy.png
    """
    from phlogiston import datasets
    from phlogiston.datasets.preview import figure
    from phlogiston.errors import ConfigError

    path = Path(f"{Path(name).stem}.png") if out is None else out
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--out {str(path)!r}: a preview is a .png file.")
    refuse_existing(path, force)
    data = datasets.load(name, root=root, **datasets.read_options(name, pairs(options)))
    drawing = figure(data)
    write_whole(path, lambda temporary: drawing.savefig(temporary, dpi=120))
    if not as_json:
        say(f"{len(data.train):,} training rows")
    emit(as_json, {"name": name, "out": str(path)}, str(path), kept=True)


@app.command()
def convert(
    places: Annotated[list[Path], typer.Argument(help="Scene files (.tfrecord, .pt, .pt.gz), or folders of them.")],
    out: Annotated[Path, typer.Option(help="The npz file to write.")],
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 64,
    views: Annotated[int, typer.Option(min=0, help="Frames per scene, evenly spaced; 0 for all.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert scene files of other programs to an npz file; nothing in them is executed.

    \b
    Examples:
      phlogiston data convert mazes/train --out mazes.npz --views 128
      phlogiston train scene --data gqn --data-set path=mazes.npz
    """
    from phlogiston.datasets.fetched import gqn
    from phlogiston.errors import ConfigError

    if out.suffix != ".npz":
        raise ConfigError(f"--out {str(out)!r}: scenes are written as .npz.")
    refuse_existing(out, force)
    found: list[tuple[int, int]] = []
    files = len(gqn.scene_paths(places))
    with progress(f"reading {files} files", files) as tell:

        def write(temporary: Path) -> None:
            found.append(gqn.convert(places, temporary, size, views, lambda done, scenes: tell(done)))

        write_whole(out, write)
    scenes, each = found[0]
    content = {"out": str(out), "scenes": scenes, "views": each, "size": size}
    emit(as_json, content, f"{out}: {scenes:,} scenes of {each} views, {size} x {size}", kept=True)
