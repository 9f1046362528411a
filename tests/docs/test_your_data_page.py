"""The page on data of one's own: its snippets and commands run as printed."""

from __future__ import annotations

from typing import Any

import pandas
import pytest

from phlogiston.errors import PhlogistonWarning

from .reading import in_this_process, shortened


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_the_page_on_data_runs_as_printed(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = page("docs/your-data.md")
    names = own.run(ignore=PhlogistonWarning)
    printed = capsys.readouterr().out
    assert "encoding cp1252" in printed
    assert "column 'nr'" in printed
    assert names["data"].meta.columns == ("Größe (cm)", "Tag")
    full = names["system"].impute(names["frame"])
    assert full["Größe (cm)"][0] == 160.5
    assert not full.isna().any().any()
    with shortened():
        for line in own.commands:
            in_this_process(line)
    table = pandas.read_csv("answer.csv")
    assert (table["Größe (cm)"] >= 165).all()
    assert set(table["Art"]) == {"Eiche"}
    assert len(pandas.read_csv("full.csv")) == 300
