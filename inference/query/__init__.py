"""Questions to any pair of model and guide: evidence in, weighted samples with their diagnostics out."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer
    from phlogiston.inference.query.ask import query
    from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within

__all__ = ["Answer", "HalfSpace", "Known", "Near", "OneOf", "Within", "query"]
__getattr__ = lazy(
    __name__,
    {
        "Answer": "answer",
        "query": "ask",
        **dict.fromkeys(("HalfSpace", "Known", "Near", "OneOf", "Within"), "evidence"),
    },
)
