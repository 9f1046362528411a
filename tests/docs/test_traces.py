"""The ways through the code that docs/design.md lists are those the code takes, and they are short."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

# files that a reader enters, at most
MOST = {"train vdsm": 45, "query drmm": 24, "evaluate scene": 22}


def test_the_lists_are_in_step_with_the_code_and_short(script: Callable[[str], ModuleType]) -> None:
    module = script("docs/traces.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = module.traces()
    assert {name: len(files) for name, files in found.items() if len(files) > MOST[name]} == {}
    page = module.PAGE.read_text(encoding="utf-8").split(module.BEGIN)[1].split(module.END)[0]
    assert module.text(found).strip() == page.strip(), "python docs/traces.py rewrites the lists"
