"""A Sphinx extension that writes mathematics as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert
from sphinx.util.docutils import SphinxTranslator


def markup(formula: str, display: bool = False) -> str:
    """Return a formula of LaTeX as MathML."""
    known = formula.replace("{aligned}", "{align*}")  # the name under which the library knows columns without numbers
    return str(convert(known, display="block" if display else "inline"))


def inline(translator: SphinxTranslator, node: Any) -> None:
    """A formula in a line."""
    from docutils import nodes

    translator.body.append(markup(node.astext()))
    raise nodes.SkipNode


def displayed(translator: SphinxTranslator, node: Any) -> None:
    """A formula on lines of its own; a wide one scrolls."""
    from docutils import nodes

    translator.body.append(f'<div class="math">{markup(node.astext(), display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
