"""Touches and controls as sound: MIDI files any sequencer opens, and WAV files any player plays.

A touch becomes a note: height on the screen is its pitch (a pentatonic scale, so that nothing clashes), place from left
to right its loudness, and a swipe is one note bent along its way in WAV, a run of notes in MIDI. Both writers are a few
lines of the published formats and need no further package.
"""

from __future__ import annotations

import io
import struct
import wave

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError

TAP = 0.1  # seconds; a longer pause begins a new note
_SCALE = (0, 2, 4, 7, 9)
_TICKS = 480  # per quarter note
_TEMPO = 500_000  # microseconds per quarter note: 120 beats a minute


def tracks(x: Array, columns: tuple[str, ...]) -> tuple[Array, Array]:
    """When things happened and what: times (steps,) in seconds, and levels (steps, voices) in [0, 1].

    Raises:
        ConfigError: sequences that have no time, or nothing beside it.
    """
    if "dt" not in columns or len(columns) < 2:
        raise ConfigError(f"sequences of {', '.join(columns)} make no sound: a column 'dt' and another are needed")
    times = np.cumsum(np.maximum(x[:, columns.index("dt")], 0.0))
    # a finger: height is pitch, so the second place comes first; knobs: each is a voice
    voices: list[str] = [c for c in ("y", "x") if c in columns] or [c for c in columns if c not in ("dt", "pen")]
    return times, np.clip(np.stack([x[:, columns.index(c)] for c in voices], 1), 0.0, 1.0)


def pitch(level: Array) -> Array:
    """MIDI pitch of a level in [0, 1], 0 being high (the top of a screen): three octaves of a pentatonic scale."""
    step = np.clip(np.round((1.0 - np.asarray(level)) * 15), 0, 15).astype(int)
    return 48 + 12 * (step // 5) + np.array(_SCALE)[step % 5]


def midi(x: Array, columns: tuple[str, ...]) -> bytes:
    """A sequence as a standard MIDI file of one track.

    A finger plays notes, a new one where it taps or its pitch changes. Knobs become controllers 20, 21, ... as they
    move.

    Args:
        x: (steps, columns).
        columns: their names.
    """
    times, levels = tracks(x, columns)
    events: list[tuple[float, bytes]] = []
    if "y" in columns:
        notes, loud = pitch(levels[:, 0]), 50 + np.round(60 * levels[:, -1]).astype(int)
        starts = [i for i in range(len(times)) if i == 0 or notes[i] != notes[i - 1] or times[i] - times[i - 1] > TAP]
        for place, i in enumerate(starts):
            following = times[starts[place + 1]] if place + 1 < len(starts) else times[-1] + 0.2
            end = max(times[i] + 0.03, min(following, times[i] + 0.5))
            events.append((times[i], bytes((0x90, int(notes[i]), int(loud[i])))))
            events.append((end, bytes((0x80, int(notes[i]), 0))))
    else:
        for voice in range(levels.shape[1]):
            values = np.round(127 * levels[:, voice]).astype(int)
            moved = np.flatnonzero(np.diff(values, prepend=-1))
            events += [(times[i], bytes((0xB0, 20 + voice, int(values[i])))) for i in moved]
    events.sort(key=lambda event: (event[0], event[1][0] >= 0x90))  # ends before beginnings
    track = bytearray(b"\x00\xff\x51\x03" + _TEMPO.to_bytes(3, "big"))
    now = 0
    for time, message in events:
        tick = round(time * 1e6 / _TEMPO * _TICKS)
        track += _length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _length(ticks: int) -> bytes:
    """A number of ticks in seven-bit groups, as the format wants it."""
    groups = [ticks & 0x7F]
    while ticks := ticks >> 7:
        groups.append(0x80 | (ticks & 0x7F))
    return bytes(reversed(groups))


def wav(x: Array, columns: tuple[str, ...], rate: int = 22_050) -> bytes:
    """A sequence as mono 16-bit sound: every voice a soft tone that follows its level, plucked anew at every tap.

    Args:
        x: (steps, columns).
        columns: their names.
        rate: samples per second.
    """
    times, levels = tracks(x, columns)
    end = float(times[-1]) + 0.6
    if end > 600:
        raise ConfigError(f"a sequence of {end:.0f} seconds makes a very large sound file; cut it to 600")
    now = np.arange(round(end * rate)) / rate
    at = np.searchsorted(times, now, side="right") - 1
    held = np.clip(at, 0, len(times) - 1)
    taps = np.flatnonzero(np.diff(times, prepend=-1.0) > TAP)
    since = now - times[taps][np.clip(np.searchsorted(times[taps], now, side="right") - 1, 0, None)]
    rest = now - times[held]
    loud = np.exp(-1.5 * since) * np.exp(-12.0 * np.maximum(rest - TAP, 0.0)) * (at >= 0)
    loud = loud * np.minimum(1.0, since / 0.005)
    voices = 1 if "y" in columns else levels.shape[1]
    sound = np.zeros(len(now))
    for voice in range(voices):
        smooth = np.interp(now, times, levels[:, voice])
        frequency = 110.0 * 2.0 ** (3.0 * (1.0 - smooth))
        phase = 2 * np.pi * np.cumsum(frequency) / rate
        sound += (np.sin(phase) + 0.3 * np.sin(2 * phase)) / voices
    sound = 0.6 * sound * (loud if "y" in columns else np.minimum(1.0, 20 * (end - now)))
    data = np.round(32_000 * np.clip(sound, -1.0, 1.0)).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return buffer.getvalue()
