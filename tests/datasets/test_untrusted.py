"""Files of others: what they declare is checked before memory is taken, nothing in them runs, and errors are ours."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phlogiston import datasets
from phlogiston.console import visible
from phlogiston.datasets.readers import object_arrays, scene_files, tfrecord
from phlogiston.datasets.untrusted import arrays, guard, limits, media, packed
from phlogiston.datasets.untrusted.documents import walk_xml
from phlogiston.errors import ConfigError, DataError, EvidenceError

SMALL = 64 << 20
"""Bytes of memory in which a file of a few kilobytes must be refused."""


def refused(read: Callable[[], Any], match: str, most: int = SMALL) -> None:
    """Read what must be refused, without more memory than `most`."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match):
            read()
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def objects(*entries: Any) -> Any:
    array = np.empty(len(entries), dtype=object)
    for i, entry in enumerate(entries):
        array[i] = entry
    return array


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(4294967296, 4294967296)", "(9223372036854775807, 2)", "(-1,)"])
def test_a_header_that_claims_more_than_there_is_is_refused(shape: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(800))
    refused(lambda: datasets.load(tmp_path / "a.npy"), "claims")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header(shape) + bytes(800))
    refused(lambda: datasets.load(tmp_path / "a.npz"), "claims")


@pytest.mark.parametrize("descr", ["'|S0'", "'|V0'", "[('x', '<f4', (100000000,))]"])
def test_types_without_an_end_are_refused(descr: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header("(1000000000000,)", descr) + bytes(80))
    refused(lambda: datasets.load(tmp_path / "a.npy"), "claims")


def test_an_array_that_is_no_bomb_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        "a": rng.normal(size=(7, 3)),
        "b": np.asfortranarray(rng.normal(size=(5, 4, 2)).astype("f4")),
        "c": np.array(["u", "vv"]),
        "d": np.array(3, dtype=">i4"),
        "e": np.zeros((0, 4)),
        "f": np.array([(1.0, 2)], dtype=[("p", "f8"), ("q", "i4")]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **given)
        found = arrays.load(tmp_path / "a.npz")
        for name, value in given.items():
            assert found[name].dtype == value.dtype
            assert found[name].tobytes() == value.tobytes()
            assert found[name].shape == value.shape
    np.save(tmp_path / "b.npy", given["b"])
    assert np.array_equal(arrays.load(tmp_path / "b.npy"), given["b"])


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header("(25165824, 1)", "'|u1'") + bytes(24 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    refused(lambda: datasets.load(tmp_path / "a.npz"), "PHLOGISTON_LIMITS=ratio=")


def test_a_member_that_declares_less_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", method) as archive:
            archive.writestr(
                "x.npy", header("(200, 1)") + bytes(96 << 20 if method == zipfile.ZIP_DEFLATED else 1 << 20)
            )
        data = bytearray(held.getvalue())
        declared = struct.pack("<I", 1700)
        at = data.rindex(b"PK\x01\x02") + 24
        data[at : at + 4] = declared
        (tmp_path / "a.npz").write_bytes(data)
        refused(lambda: datasets.load(tmp_path / "a.npz"), "a.npz")


def test_the_variable_raises_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((9 << 20, 1), "u1"))
    with pytest.raises(DataError, match="PHLOGISTON_LIMITS=ratio=") as problem:
        arrays.load(tmp_path / "a.npz")
    monkeypatch.setenv(limits.VARIABLE, str(problem.value).split("PHLOGISTON_LIMITS=")[1].rstrip("."))
    assert arrays.load(tmp_path / "a.npz")["x"].shape == (9 << 20, 1)
    for text in ("ratio", "ratio=x", "nonsense=3", "columns=-1"):
        monkeypatch.setenv(limits.VARIABLE, text)
        with pytest.raises(ConfigError, match="expected name=number"):
            limits.limits()


def test_more_than_the_memory_there_is_is_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2 << 20, 1)))
    monkeypatch.setattr(limits, "free_memory", lambda: 16e6)
    refused(lambda: arrays.load(tmp_path / "a.npy"), "16,000,000 are free", most=1 << 20)


def test_labels_of_a_kilobyte_do_not_take_all_memory(tmp_path: Path) -> None:
    frames = np.zeros((2, 3, 8, 8, 1), "u1")
    np.savez_compressed(tmp_path / "a.npz", frames=frames, action=np.array([0, 10**12]))
    refused(lambda: datasets.load(tmp_path / "a.npz"), "counts categories from 0")
    np.savez_compressed(tmp_path / "b.npz", frames=frames, identity=np.array([[0, 1], [2, 10**12]]))
    refused(lambda: datasets.load(tmp_path / "b.npz"), "counts categories from 0")


def test_lists_within_lists_do_not_unfold_without_end(tmp_path: Path) -> None:
    doubling: Any = np.ones(4)
    for _ in range(60):
        doubling = [doubling, doubling]
    own: list[Any] = []
    own.append(own)
    deep: Any = 1.0
    for _ in range(300):
        deep = [deep]
    repeated = np.zeros(1 << 20, dtype=np.uint8)
    for entries in ((doubling, doubling), (own,), (deep,), ([repeated] * 1000, 1)):
        np.savez_compressed(tmp_path / "a.npz", frames=objects(*entries), allow_pickle=True)
        refused(lambda: object_arrays.read(tmp_path / "a.npz"), "a.npz")


def test_an_archive_of_xz_or_gzip_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xz").write_bytes(lzma.compress(bytes(64 << 20), preset=1))
    refused(lambda: packed.read_xz(tmp_path / "a.xz"), "unpack")
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    refused(lambda: packed.read_gzip(tmp_path / "a.gz"), "unpack")
    (tmp_path / "a.pt.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    refused(lambda: list(scene_files.read(tmp_path / "a.pt.gz")), "unpack")


def test_what_gzip_and_xz_pack_is_unpacked(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    for compress, read in ((gzip.compress, packed.read_gzip), (lzma.compress, packed.read_xz)):
        (tmp_path / "a").write_bytes(compress(content[:100_000]) + compress(content[100_000:]))
        assert read(tmp_path / "a") == content
        (tmp_path / "a").write_bytes(compress(content)[:-9])
        with pytest.raises((DataError, EOFError)):
            read(tmp_path / "a")


@pytest.mark.parametrize("length", [1 << 62, 1 << 63, (1 << 64) - 1, 1 << 40])
def test_a_record_that_announces_more_than_there_is_is_refused(length: int, tmp_path: Path) -> None:
    head = struct.pack("<Q", length)
    (tmp_path / "a.tfrecord").write_bytes(head + struct.pack("<I", tfrecord.masked(tfrecord.crc32c(head))) + bytes(99))
    refused(lambda: list(scene_files.read(tmp_path / "a.tfrecord")), "announced")


def png(width: int, height: int, packed_rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed_rows) + chunk(b"IEND", b"")


def test_a_picture_of_a_few_bytes_does_not_take_all_memory(tmp_path: Path) -> None:
    for side in (1 << 14, 1 << 20, (1 << 31) - 1):
        (tmp_path / "a.png").write_bytes(png(side, side, zlib.compress(bytes(1000))))
        refused(lambda: datasets.load(tmp_path), "a.png")


def test_a_picture_is_what_its_bytes_say_and_no_interpreter_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="no readable image"):
        datasets.load(tmp_path)


def test_a_video_that_names_other_files_opens_none(tmp_path: Path) -> None:
    (tmp_path / "secret.ts").write_bytes(b"x")
    for text in ("#EXTM3U\n#EXTINF:1,\nsecret.ts\n", "ffconcat version 1.0\nfile secret.ts\n"):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(DataError, match=r"a\.mp4"):
            media.read_video(tmp_path / "a.mp4")


def test_a_moving_picture_of_many_large_frames_is_refused(tmp_path: Path) -> None:
    frame = Image.new("P", (1500, 1500))
    frame.save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("P", (1500, 1500), i % 2) for i in range(12)]
    )
    refused(lambda: media.read_video(tmp_path / "a.gif"), "video_ratio", most=500 << 20)


def test_a_frame_that_reaches_beyond_its_picture_counts(tmp_path: Path) -> None:
    Image.new("P", (8, 8)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("P", (8, 8), 1)])
    data = bytearray((tmp_path / "a.gif").read_bytes())
    assert media._gif_extent(bytes(data)) == (8, 8)
    at = data.rindex(b",\x00\x00\x00\x00\x08\x00\x08\x00")
    data[at + 5 : at + 9] = struct.pack("<HH", 12_000, 12_000)
    (tmp_path / "a.gif").write_bytes(data)
    refused(lambda: media.read_video(tmp_path / "a.gif"), "ratio")


def test_documents_declare_no_types_and_do_not_nest_without_end() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>'
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(DataError, match="document type"):
            walk_xml(bomb.encode(encoding), lambda *_: None, lambda _: None)
    with pytest.raises(DataError, match="levels"):
        walk_xml(b"<a>" * 1000, lambda *_: None, lambda _: None)


def test_whatever_a_reader_raises_is_ours_and_names_the_file() -> None:
    for problem in (
        KeyError("x"),
        struct.error("y"),
        RecursionError(),
        OverflowError("z"),
        MemoryError(),
        OSError("w"),
    ):
        with (
            pytest.raises(EvidenceError, match=r"'some/a\.x' cannot be read as evidence"),
            guard.reading("some/a.x", "evidence", EvidenceError),
        ):
            raise problem
    with pytest.raises(DataError, match=r"'some/a\.x': no rows"), guard.reading("some/a.x", "data"):
        raise DataError("no rows")
    with pytest.raises(KeyboardInterrupt), guard.reading("some/a.x", "data"):
        raise KeyboardInterrupt


def test_tables_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1,2\n" * (3 << 20)))
    refused(lambda: datasets.load(tmp_path / "a.csv.gz"), "unpack", most=1 << 30)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(24 << 20))
    refused(lambda: datasets.load(tmp_path / "a.xlsx"), "unpack")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.array(np.zeros(4 << 20))
    parquet.write_table(pyarrow.table({"a": rows}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    refused(lambda: datasets.load(tmp_path / "a.parquet"), "unpack")


def test_a_fault_of_ours_is_not_called_the_files() -> None:
    with pytest.raises(NameError), guard.reading("some/a.x", "data"):
        raise NameError("a name that is not there")


def test_torch_files_that_repeat_a_number_are_refused(tmp_path: Path) -> None:
    import torch

    held = io.BytesIO()
    torch.save((torch.zeros(1).expand(1 << 20, 1 << 20), torch.zeros(1, 5)), held)
    (tmp_path / "a.pt").write_bytes(held.getvalue())
    refused(lambda: list(scene_files.read(tmp_path / "a.pt")), "a.pt")


def test_terminal_escapes_are_shown() -> None:
    assert visible("plain \u00e9 text\n\tmore") == "plain \u00e9 text\n\tmore"
    assert visible("\x1b[2J\x1b]0;owned\x07") == r"\x1b[2J\x1b]0;owned\x07"
    assert visible("a\u202eb\x9b\udc80") == r"a\u202eb\x9b\udc80"


def test_the_command_obeys_nothing_in_a_file_and_does_not_blame_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\x1b[2Jname,b,label\n" + "".join(f"{i},{i * i},\x1b]0;owned\x07\n" for i in range(40)))
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"PK\x03\x04" + pickle.dumps({"a": 1}))
    script = "import sys; from phlogiston.__main__ import main; sys.argv = ['phlogiston', *sys.argv[1:]]; main()"
    for arguments in (["data", "info", str(path)], ["data", "info", str(wrong)], ["data", "info", str(path), "--json"],
                      ["data", "info", str(path), "--set", "columns=nope"]):  # fmt: skip
        done = subprocess.run([sys.executable, "-P", "-c", script, *arguments], capture_output=True, check=False)
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"\x07" not in done.stdout + done.stderr
        assert b"fault of phlogiston" not in done.stderr
        assert done.returncode == (0 if arguments[2] == str(path) and "nope" not in arguments[-1] else 2)
    assert json.loads(subprocess.run(
        [sys.executable, "-P", "-c", script, "data", "info", str(path), "--json"], capture_output=True, check=True
    ).stdout)["columns"][0] == "\x1b[2Jname"  # fmt: skip


def test_a_table_that_memory_does_not_hold_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from phlogiston.datasets.readers import tables

    monkeypatch.setattr(limits, "free_memory", lambda: 1e9)
    rows = np.zeros((40_000_000, 1), np.uint8)  # 40 MB, and 320 MB a copy as float64
    for given in ({"x": rows}, {"a": rows[:, 0]}):
        with pytest.raises(DataError, match=r"table of 40,000,000 rows needs 2,240,000,000 bytes"):
            tables.from_memory(given)
