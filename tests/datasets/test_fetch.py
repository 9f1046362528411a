"""Fetching over a local server: resumed, checked, atomic; and MNIST from its files."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.fetch import cache_folder, fetch
from phlogiston.datasets.fetched import mnist
from phlogiston.errors import DataError

CONTENT = bytes(range(256)) * 2000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT; counts requests; can break off early, ignore ranges, or serve something else."""

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.break_after: int | None = None
        self.honour_range, self.content = True, CONTENT
        self.pause, self.drip = 0.0, 0.0
        self.promise: int | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                owner.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and owner.honour_range else 0
                if start and start >= len(owner.content):
                    self.send_error(416)
                    return
                body = owner.content[start:]
                time.sleep(owner.pause)
                self.send_response(206 if start else 200)
                if owner.promise != 0:
                    self.send_header("Content-Length", str(owner.promise or len(body)))
                self.end_headers()
                for i in range(len(body) if owner.drip else 0):
                    self.wfile.write(body[i : i + 1])
                    time.sleep(owner.drip)
                cut, owner.break_after = owner.break_after, None
                self.wfile.write(body[:cut])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"
        threading.Thread(target=partial(self.http.serve_forever, poll_interval=0.01), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_file_is_fetched_once_and_leaves_nothing_else_behind(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    for _ in range(2):
        assert fetch([server.url], path, CHECKSUM).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_broken_transfer_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = 100_000
    assert fetch([server.url], tmp_path / "f", CHECKSUM).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_a_part_left_by_an_earlier_process_is_resumed_or_replaced(server: Server, tmp_path: Path) -> None:
    for left, honour in ((CONTENT[:5000], True), (b"wrong" * 100, True), (CONTENT[:5000], False), (CONTENT, True)):
        (tmp_path / "f.part").write_bytes(left)
        server.honour_range = honour
        assert fetch([server.url], tmp_path / "f", CHECKSUM).read_bytes() == CONTENT
        (tmp_path / "f").unlink()


def test_a_mirror_helps_out_and_wrong_content_is_never_kept(server: Server, tmp_path: Path) -> None:
    fetch(["http://127.0.0.1:9/none", server.url], tmp_path / "f", CHECKSUM)
    server.content = b"a page that says the file has moved"
    with pytest.raises(DataError, match=f"'g'.*{CHECKSUM}.*PHLOGISTON_DATA.*checksum"):
        fetch([server.url], tmp_path / "g", CHECKSUM)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_without_network_the_message_names_file_place_and_checksum(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(["http://127.0.0.1:9/f.gz"], tmp_path / "f.gz", CHECKSUM)
    assert all(part in str(caught.value) for part in ("'f.gz'", str(tmp_path), CHECKSUM))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_the_users_is_reported_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(DataError, match="damaged"):
        fetch([], tmp_path / "f", CHECKSUM)
    assert (tmp_path / "f").read_bytes() == b"mine"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHLOGISTON_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    assert datasets.info("mnist").state == "must be fetched"
    monkeypatch.delenv("PHLOGISTON_DATA")
    assert cache_folder().parts[-2:] == (".cache", "phlogiston")


# ---- several at once, and servers that send too much or too slowly


def test_of_four_processes_one_fetches_and_all_get_the_file(server: Server, tmp_path: Path) -> None:
    server.pause = 0.5
    program = (
        "import sys; from pathlib import Path; from phlogiston.datasets.fetch import fetch; "
        "print(len(fetch([sys.argv[1]], Path(sys.argv[2]), sys.argv[3]).read_bytes()))"
    )
    command = [sys.executable, "-P", "-c", program, server.url, str(tmp_path / "f"), CHECKSUM]
    four = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60) for process in four]
    assert [out.strip() for out, _ in said] == [str(len(CONTENT))] * 4, said
    assert server.ranges == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_threads_wait_for_each_other_too_and_those_who_wait_too_long_say_so(server: Server, tmp_path: Path) -> None:
    server.pause = 0.5
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(fetch, [server.url], tmp_path / "f", CHECKSUM)
        time.sleep(0.2)
        late = pool.submit(fetch, [server.url], tmp_path / "f", CHECKSUM, seconds=0.0)
        patient = pool.submit(fetch, [server.url], tmp_path / "f", CHECKSUM)
        assert first.result() == patient.result() == tmp_path / "f"
        with pytest.raises(DataError, match="another process has been fetching it"):
            late.result()
    assert server.ranges == [None]


@pytest.mark.parametrize("promise", [None, 0], ids=["promised", "not promised"])
def test_a_file_larger_than_allowed_is_not_kept(server: Server, tmp_path: Path, promise: int | None) -> None:
    server.promise = promise
    with pytest.raises(DataError, match=r"more than the 100,000 allowed"):
        fetch([server.url], tmp_path / "f", CHECKSUM, most=100_000)
    assert not list(tmp_path.iterdir())


def test_a_file_there_is_no_room_for_is_refused_before_it_is_sent(server: Server, tmp_path: Path) -> None:
    server.promise = 10**15
    with pytest.raises(DataError, match="has room for"):
        fetch([server.url], tmp_path / "f", CHECKSUM, most=10**16)
    assert not list(tmp_path.iterdir())


def test_a_server_that_drips_ends_when_the_time_is_over_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.drip = 0.02
    began = time.monotonic()
    with pytest.raises(DataError, match=r"took too long.*resumes it"):
        fetch([server.url], tmp_path / "f", CHECKSUM, seconds=0.3)
    assert time.monotonic() - began < 5
    assert 0 < (tmp_path / "f.part").stat().st_size < 1000
    server.drip = 0.0
    assert fetch([server.url], tmp_path / "f", CHECKSUM).read_bytes() == CONTENT


def test_a_server_that_answers_nothing_ends_when_the_time_is_over(server: Server, tmp_path: Path) -> None:
    server.pause = 2.0
    with pytest.raises(DataError, match="no answer came in time"):
        fetch([server.url], tmp_path / "f", CHECKSUM, seconds=0.2)


# ---- MNIST


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four files in the real format with 20 and 10 made-up pictures, and their checksums in place of the real ones."""
    rng = np.random.default_rng(0)
    files = {}
    for name, (_, axes) in mnist.FILES.items():
        rows = 20 if name.startswith("train") else 10
        shape = (rows, 28, 28) if axes == 3 else (rows,)
        body = struct.pack(f">BBBB{axes}i", 0, 0, 8, axes, *shape)
        body += rng.integers(0, 256 if axes == 3 else 10, shape).astype(np.uint8).tobytes()
        (tmp_path / name).write_bytes(gzip.compress(body))
        files[name] = (hashlib.sha256(body).hexdigest(), axes)
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "LOCATIONS", ())
    return tmp_path


def test_mnist_reads_idx_files_in_any_packing(small_mnist: Path) -> None:
    data = datasets.load("mnist", root=small_mnist, valid=5)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [15, 5, 10]
    raw = gzip.decompress((small_mnist / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert (np.round(data.test.numpy() * 255).astype(np.uint8).tobytes()) == raw
    for file in small_mnist.glob("*.gz"):  # another compression level: other bytes, same content
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=1))
    assert datasets.load("mnist", root=small_mnist, valid=5).test.numpy().tobytes() == data.test.numpy().tobytes()
    noisy = datasets.load("mnist", root=small_mnist, valid=5, dequantise=True)
    assert (np.floor(noisy.test.numpy().astype(np.float64) * 256).astype(np.uint8).tobytes()) == raw


@pytest.mark.parametrize("harm", [lambda b: b[: len(b) // 2], lambda b: b"no gzip", lambda b: gzip.compress(b"other")])
def test_mnist_names_the_damaged_file(small_mnist: Path, harm: Callable[[bytes], bytes]) -> None:
    file = small_mnist / "train-labels-idx1-ubyte.gz"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz' is damaged"):
        datasets.load("mnist", root=small_mnist, valid=5)


def test_mnist_missing_offline_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "LOCATIONS", ("http://127.0.0.1:9/",))
    with pytest.raises(DataError, match=r"cannot fetch 'train-images-idx3-ubyte\.gz'.*ba891046"):
        mnist.get(tmp_path)


def test_the_real_mnist_passes_its_checksums(test_data: Callable[[str], Path]) -> None:
    data = datasets.load("mnist", root=test_data("mnist"))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [55_000, 5_000, 10_000]
    assert data.test.numpy("label")[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.numpy().min() >= 0.0
    assert data.train.numpy().max() == 1.0
    assert data.train.numpy().mean() == pytest.approx(0.1307, abs=0.001)
