"""Files of sequences: pictures hold the strokes, MIDI the notes, WAV the sound; and who cannot be shown how."""

from __future__ import annotations

import csv
import io
import struct
import wave
from pathlib import Path
from xml.etree import ElementTree

import imageio.v3 as iio
import numpy as np
import pytest

from phlogiston.datasets.frames import Names
from phlogiston.errors import ConfigError
from phlogiston.systems import drawing, export, music
from phlogiston.systems.export import Samples

STROKES = ("dx", "dy", "pen")
TOUCHES = ("x", "y", "dt")


def drawings() -> Samples:
    """A corner of two strokes, and a dot."""
    x = np.zeros((2, 4, 3), np.float32)
    x[0] = [[0, 0, 0], [10, 0, 1], [-10, 5, 0], [0, 10, 1]]
    x[1, 0] = [3, 3, 1]
    return Samples({"x": x, "length": np.array([4, 1])}, Names({"x": STROKES}))


def touches() -> Samples:
    steps = [[0.2, 0.1, 0.0], [0.25, 0.1, 0.02], [0.9, 0.85, 0.5], [0.9, 0.5, 0.02]]
    return Samples({"x": np.array([steps], np.float32), "length": np.array([4])}, Names({"x": TOUCHES}))


def test_a_drawing_is_one_path_per_stroke(tmp_path: Path) -> None:
    export.write(tmp_path / "a.svg", drawings())
    tree = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    paths = [e.attrib["d"] for e in tree.iter() if e.tag.endswith("path")]
    assert len(paths) == 3
    first = np.array([[float(v) for v in p.split(",")] for p in paths[0][1:].split(" L")])
    assert first[1, 0] > first[0, 0], "the first stroke goes to the right"
    assert first[1, 1] == pytest.approx(first[0, 1])


def test_pictures_have_ink_and_videos_get_more_of_it(tmp_path: Path) -> None:
    export.write(tmp_path / "a.png", drawings())
    assert (iio.imread(tmp_path / "a.png")[..., :3] < 128).any()
    export.write(tmp_path / "a.gif", drawings())
    frames = iio.imread(tmp_path / "a.gif")
    ink = [(frame < 128).sum() for frame in frames]
    assert len(frames) >= 4
    assert ink[0] < ink[-1]


def test_midi_plays_a_note_per_tap_and_pitch(tmp_path: Path) -> None:
    export.write(tmp_path / "a.mid", touches())
    content = (tmp_path / "a.mid").read_bytes()
    assert content[:4] == b"MThd"
    assert struct.unpack(">IHHH", content[4:14]) == (6, 0, 1, 480)
    assert struct.unpack(">I", content[18:22])[0] == len(content) - 22
    on = [content[i + 1] for i in range(22, len(content) - 2) if content[i] == 0x90]
    high, low = music.pitch(np.array([0.1, 0.85]))
    assert on[:2] == [high, low]
    assert len(on) == 3, "a swipe to another height is another note"


def test_ticks_are_written_in_seven_bits() -> None:
    for ticks, expected in (
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x81\x00"),
        (0x3FFF, b"\xff\x7f"),
        (0x4000, b"\x81\x80\x00"),
    ):
        assert music._length(ticks) == expected


def test_sound_lasts_as_long_as_the_performance_and_higher_is_faster() -> None:
    def tone(y: float) -> tuple[float, float]:
        x = np.array([[0.5, y, 0.0], *[[0.5, y, 0.05]] * 20])
        with wave.open(io.BytesIO(music.wav(x, TOUCHES))) as file:
            rate = file.getframerate()
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        spectrum = np.abs(np.fft.rfft(sound))
        return len(sound) / rate, float(spectrum.argmax()) * rate / len(sound)

    (seconds, high), (_, low) = tone(0.0), tone(1.0)
    assert seconds == pytest.approx(1.6, abs=0.01)
    assert high == pytest.approx(880, rel=0.02)
    assert low == pytest.approx(110, rel=0.02)


def test_knobs_become_controllers() -> None:
    x = np.array([[0.0, 0.1, 0.9], [0.1, 0.1, 0.5], [0.1, 0.2, 0.5]])
    content = music.midi(x, ("dt", "control_1", "control_2"))
    moves = [content[i + 1] for i in range(22, len(content) - 2) if content[i] == 0xB0]
    assert sorted(moves) == [20, 20, 21, 21]


def test_tables_hold_every_step_and_no_padding(tmp_path: Path) -> None:
    export.write(tmp_path / "a.csv", drawings())
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["sequence", "step", *STROKES]
    assert len(rows) == 1 + 5


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dt"):
        export.write(tmp_path / "a.mid", drawings())
    with pytest.raises(ConfigError, match="use"):
        export.write(tmp_path / "a.svg", touches())
    with pytest.raises(ConfigError, match="no sequences"):
        export.write(tmp_path / "a.wav", Samples({"x": np.zeros((3, 2))}, Names({"x": ("a", "b")})))


def test_an_empty_drawing_has_a_box() -> None:
    assert drawing.box([]) == (0.0, 0.0, 1.0, 1.0)
    _, _, wide, high = drawing.box([np.array([[2.0, 2.0]])])
    assert wide > 0
    assert high > 0
