"""Write the API reference: one page per package, one section per module, straight from the docstrings."""

from __future__ import annotations

from pathlib import Path

PACKAGES = {
    "systems": "Systems: what one configures, fits, asks, saves and loads",
    "inference": "Inference: the engine, objectives, handlers, schedules, evidence and questions",
    "models": "Models: the generative programs",
    "guides": "Guides: the inference programs",
    "distributions": "Distributions of our own",
    "networks": "Networks",
    "datasets": "Datasets",
    "evaluate": "Scoring",
}


def modules(root: Path, package: str) -> list[str]:
    """Names of a package's modules, sub-folders included, without private ones."""
    files = (path.relative_to(root) for path in sorted((root / package).rglob("*.py")))
    found = [".".join(path.with_suffix("").parts) for path in files if not path.name.startswith("_")]
    return [f"phlogiston.{name}" for name in found]


def page(title: str, names: list[str]) -> str:
    """One page in reStructuredText."""
    lines = [title, "=" * len(title), ""]
    for name in names:
        short = name.removeprefix("phlogiston.")
        lines += [short, "-" * len(short), "", f".. automodule:: {name}", ""]
    return "\n".join(lines)


def write_pages(root: Path) -> None:
    """Write `docs/api/PACKAGE.rst` and their index, leaving alone what is as it should be."""
    folder = root / "docs" / "api"
    folder.mkdir(exist_ok=True)
    index = [
        "API reference",
        "=============",
        "",
        ".. toctree::",
        "   :maxdepth: 2",
        "",
        *(f"   {package}" for package in PACKAGES),
        "",
    ]
    texts = {package: page(title, modules(root, package)) for package, title in PACKAGES.items()}
    texts["index"] = "\n".join(index)
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
