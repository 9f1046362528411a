"""The code says things once: few runs of lines stand in two places, and none of them is long."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = 6  # lines in a row that make a repetition
MOST_PAIRS, LONGEST = 24, 10
ELSEWHERE = ("tests/", "docs/", "examples/", "benchmarks/")

Lines = list[tuple[int, str]]


def code_lines(text: str) -> Lines:
    """Numbered lines without imports, comments and lone punctuation, white space folded."""
    folded = ((number, " ".join(line.split())) for number, line in enumerate(text.splitlines(), 1))
    return [(n, t) for n, t in folded if re.search(r"\w", t) and not re.match(r"#|import |from \S+ import", t)]


def repetitions(files: dict[str, Lines]) -> dict[tuple[str, str], int]:
    """Pair of files -> the longest run of equal lines that stands in both, or twice in one, of RUN lines at least."""
    positions = defaultdict(list)
    for file, lines in files.items():
        for i in range(len(lines) - RUN + 1):
            positions[tuple(text for _, text in lines[i : i + RUN])].append((file, i))
    starts = {pair for same in positions.values() for pair in itertools.combinations(same, 2)}
    longest: dict[tuple[str, str], int] = defaultdict(int)
    for (a, i), (b, j) in starts:
        if ((a, i - 1), (b, j - 1)) not in starts:
            length = next(n for n in itertools.count(1) if ((a, i + n), (b, j + n)) not in starts) + RUN - 1
            if a != b or j - i >= length:
                longest[a, b] = max(longest[a, b], length)
    return dict(longest)


def test_a_repetition_is_seen_across_files_and_within_one() -> None:
    block = "\n".join(f"value_{i} = {i}" for i in range(7))
    other = "\n".join(f"other_{i} = {i}" for i in range(7))
    twice = f"{block}\n# a comment between\nimport os\n{other}\n    {block}"
    files = {"a.py": code_lines(twice), "b.py": code_lines(other), "c.py": code_lines(other[:40])}
    assert repetitions(files) == {("a.py", "a.py"): 7, ("a.py", "b.py"): 7}


def test_few_pairs_of_places_share_six_lines_and_none_more_than_ten() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a checkout: git lists no files here")
    names = [name for name in listed.stdout.split() if not name.startswith(ELSEWHERE) and (ROOT / name).is_file()]
    pairs = repetitions({name: code_lines((ROOT / name).read_text(encoding="utf-8")) for name in names})
    assert {pair: length for pair, length in pairs.items() if length > LONGEST} == {}
    assert len(pairs) <= MOST_PAIRS, "\n".join(f"{n} lines: {a} and {b}" for (a, b), n in sorted(pairs.items()))
