"""JSON and XML documents of others, bounded in size and depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from phlogiston import files
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_count, limits
from phlogiston.errors import DataError, PhlogistonError


def read_json(path: str | PathLike[str], expected: str, error: type[PhlogistonError] = DataError) -> Any:
    """Read a JSON document.

    Args:
        path: the file.
        expected: what it should be, for messages.
        error: the class to raise.

    Raises:
        PhlogistonError: of the class `error`: the file is missing, too large, no UTF-8, or no JSON.
    """
    with reading(path, expected, error):
        return files.read_json(Path(path), limits().document)


def read_object(path: str | PathLike[str], expected: str, error: type[PhlogistonError] = DataError) -> dict[str, Any]:
    """Read a JSON document that is an object; see `read_json`."""
    content = read_json(path, expected, error)
    if not isinstance(content, dict):
        raise error(f"{str(path)!r} holds a JSON {type(content).__name__}; expected an object, {expected}.")
    return content


def lines(path: str | PathLike[str]) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, none of them longer than a document may be."""
    with open(path, encoding="utf-8") as file:
        most = limits().document
        while line := file.readline(most + 1):
            check_count(len(line), "document", f"{str(path)!r}: characters of one line")
            yield line


def walk_xml(content: bytes, start: Callable[[str, Mapping[str, str]], None], end: Callable[[str], None]) -> None:
    """Call `start` with the name and attributes of every element of an XML document, and `end` with its name.

    Raises:
        DataError: it declares a document type (which may name entities that unfold without end), or nests too deeply.
    """
    from xml.parsers import expat

    check_count(len(content), "document", "bytes of XML")
    parser = expat.ParserCreate()
    depth = 0

    def opened(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        check_count(depth, "depth", "levels of elements")
        start(name, attributes)

    def closed(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name)

    def declared(*_: Any) -> None:
        raise DataError("it declares a document type, which files of data do not need.")

    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    parser.StartDoctypeDeclHandler = declared
    parser.Parse(content, True)
