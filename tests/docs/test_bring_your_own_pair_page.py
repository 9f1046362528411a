"""The page on pairs of one's own: its snippets run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any, capsys: Any) -> None:
    pair = page("docs/bring-your-own-pair.md")
    assert len(pair.snippets) >= 6
    names = pair.run()
    assert Path("runs/regression/config.json").is_file()
    truth = names["dist"].MultivariateNormal(names["torch"].zeros(40), names["covariance"]).log_prob(names["data"]["y"])
    assert abs(float(names["whole"].log_evidence) - float(truth)) < 0.1
    assert "'z' is a Bernoulli" in capsys.readouterr().out
