"""docs/executed.py: snippets run while the site is built, with their output below them; a failure fails the build."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

TEXT = """# A page

```python
three = 1 + 2
```

```bash
phlogiston --help
```

```python
print("three is", three)
```
"""


@pytest.fixture(scope="module")
def executed(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("docs/executed.py")


def test_what_a_snippet_prints_stands_below_it(executed: ModuleType) -> None:
    printed = executed.run(TEXT, "page")
    assert printed == ["", "", "three is 3\n"]
    page = executed.shown(TEXT, printed)
    assert page.count(":class: output") == 1
    assert page.index('print("three is", three)') < page.index("three is 3\n```")


def test_a_snippet_that_fails_is_an_error_with_its_traceback(executed: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="NameError"):
        executed.run("```python\nprint(nobody)\n```\n", "page")


def test_files_of_a_page_are_there_for_its_commands_and_snippets(executed: ModuleType) -> None:
    page = (
        '```toml\n# file: pyproject.toml\n[project]\nname = "newcomer"\nversion = "1"\n```\n\n'
        '```python\n# file: newcomer/words.py\nWORD = "here"\n```\n\n'
        "```bash\npip install ./newcomer\nphlogiston --version\n```\n\n"
        "```python\nfrom newcomer.words import WORD\nprint(WORD)\n```\n"
    )
    description, file, command, snippet = executed.run(page, "page")
    assert description == file == ""
    assert command.startswith("phlogiston ")
    assert snippet == "here\n"


def test_long_output_is_cut(executed: ModuleType) -> None:
    page = "```python\nprint(1)\n```\n"
    assert executed.shown(page, ["line\n" * 100]).count("line") == executed.MOST
