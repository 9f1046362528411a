"""A report in a real browser: nothing on the console, pictures painted, a print within its margins."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from phlogiston.evaluate import figures, image_figures
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.report import Report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--enable-logging=stderr", "--window-size=1000,1400",
]  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")


def browse(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything a report may hold."""
    folder = tmp_path_factory.mktemp("report")
    curve = figures.curves([1, 2, 3], {"training": [3.0, 2.0, 1.5]}, ylabel="loss, nats", alt="the loss falls")
    grid = image_figures.image_grid(np.random.default_rng(0).random((9, 8, 8)), columns=3, alt="nine noisy pictures")
    long = "phlogiston train drmm --data measurements.csv --set num_layers=2 --out runs/a-folder-with-a-long-name"
    metrics = {f"figure_{i}": Metric(0.5 + i, 0.1, 100, "exact", True, {"unit": "nats per row"}) for i in range(12)}
    made = Report("A report", "With everything.")
    for title in ("First", "Second"):
        made.section(
            title, "Some words.", metrics=metrics, figures={"loss": curve, "pictures": grid},
            tables={"How to go on": [{"command": long, "what": "trains"}]}, pictures_first=title == "Second",
        )  # fmt: skip
    return made.write(folder / "report.html")


def test_the_console_stays_silent_and_every_picture_is_painted(report: Path, tmp_path: Path) -> None:
    done = browse(tmp_path, report, "--dump-dom")
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    assert done.stdout.count("<img") == 4
    browse(tmp_path, report, f"--screenshot={tmp_path / 'page.png'}")
    from PIL import Image

    painted = np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float)
    assert painted.std() > 10.0, "an empty page has one colour"


def test_the_browser_tells_of_faults(tmp_path: Path) -> None:
    """The check above can fail: a page with a fault does show on the console."""
    (tmp_path / "bad.html").write_text("<!DOCTYPE html><html><body><script>nobody()</script></body></html>")
    assert "CONSOLE" in browse(tmp_path, tmp_path / "bad.html", "--dump-dom").stderr


def test_it_prints_a_page_or_more_per_section_with_nothing_cut_off(report: Path, tmp_path: Path) -> None:
    browse(tmp_path, report, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 2 <= pages <= 8
    # What is wider than the paper is cut off. So lay the page out as the print does, and see how wide it is.
    probe = report.read_text(encoding="utf-8").replace("@media print", "@media all").replace(
        "</body>", "<script>document.title = document.documentElement.scrollWidth</script></body>"
    )  # fmt: skip
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    laid = browse(tmp_path, tmp_path / "probe.html", "--window-size=720,1000", "--dump-dom").stdout
    width = re.search(r"<title>(\d+)</title>", laid)
    assert width is not None
    assert int(width[1]) <= 720


def test_a_narrow_screen_scrolls_pictures_and_tables_and_never_the_page(report: Path, tmp_path: Path) -> None:
    script = "document.title = [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    probe = report.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    laid = browse(tmp_path, tmp_path / "probe.html", "--window-size=500,1000", "--dump-dom").stdout
    needed, there = map(int, re.search(r"<title>(\d+),(\d+)</title>", laid).groups())
    assert needed <= there


def test_in_dark_mode_the_ground_of_pictures_is_dark_and_their_words_are_light(tmp_path: Path) -> None:
    from PIL import Image

    curve = figures.curves([1, 2, 3], {"training": [3.0, 2.0, 1.5]}, ylabel="loss, nats", alt="the loss falls")
    page = Report("A report").section("s", figures={"loss": curve}).write(tmp_path / "page.html")
    means = {}
    for mode, setting in (("light", "1"), ("dark", "0")):
        shot = tmp_path / f"{mode}.png"
        browse(tmp_path, page, f"--blink-settings=preferredColorScheme={setting}", f"--screenshot={shot}")
        pixels = np.asarray(Image.open(shot).convert("L"), dtype=float)
        means[mode] = pixels.mean()
        assert pixels.std() > 10.0
    assert means["light"] > 200.0
    assert means["dark"] < 60.0
