"""Requests that are not the page's own are refused; a plain client sends them."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from phlogiston.systems.explore.guard import LIMIT

TRICKS = [
    "static/..%2f..%2fserver.py",
    "static/../../../server.py",
    "static/%2e%2e/%2e%2e/server.py",
    "static/..%5c..%5cserver.py",
    "static//etc/passwd",
    "static/%2fetc%2fpasswd",
    "static/app.js%00.css",
    "static/",
    "etc/passwd",
]


def test_the_page_is_served_with_its_token_and_with_headers_that_keep_others_out(served: Any) -> None:
    status, body, headers = served.request("GET", f"/{served.token}/")
    assert status == 200
    assert b"<title>phlogiston explore</title>" in body
    assert headers["referrer-policy"] == "no-referrer"
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert served.request("GET", f"/{served.token}/static/app.js")[2]["content-type"].startswith("text/javascript")
    assert len(served.token) >= 20


@pytest.mark.parametrize("path", ["/", "/api/runs", "/wrong/", "/wrong/api/runs", "/static/app.js", "//api/runs"])
def test_without_the_token_nothing_is_told(served: Any, path: str) -> None:
    status, body, _ = served.request("GET", path)
    assert status == 403
    assert b"people" not in body


def test_a_token_with_a_letter_less_or_more_is_refused(served: Any) -> None:
    for token in (served.token[:-1], served.token + "x", served.token.swapcase()):
        assert served.request("GET", f"/{token}/api/runs")[0] == 403


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "https://127.0.0.1"),
        ("Host", "evil.example"),
        ("Host", "127.0.0.1"),
        ("Sec_Fetch_Site", "cross-site"),
        ("Sec_Fetch_Site", "same-site"),
    ],
)
def test_requests_of_other_pages_and_names_are_refused_though_they_carry_the_token(
    served: Any, name: str, value: str
) -> None:
    assert served.request("GET", f"/{served.token}/api/runs", **{name: value})[0] == 403
    assert served.request("POST", f"/{served.token}/api/ask", b"{}", **{name: value})[0] == 403


@pytest.mark.parametrize("path", TRICKS)
def test_tricks_with_paths_find_no_file(served: Any, path: str) -> None:
    status, body, _ = served.request("GET", f"/{served.token}/{path}")
    assert status in (404, 307)
    assert b"import" not in body
    assert b"root:" not in body


@pytest.mark.parametrize("run", ["../people", "/etc", "people/../people", "broken", "", None, 3])
def test_only_runs_of_the_list_are_asked(served: Any, run: object) -> None:
    content = {"session": "s", "job": "j", "run": run, "panel": "table", "question": {}}
    status, body, _ = served.request("POST", f"/{served.token}/api/ask", json.dumps(content).encode())
    assert status == 404
    assert "no such run" in json.loads(body)["error"]


def test_a_panel_that_is_not_of_the_run_is_not_loaded(served: Any) -> None:
    for panel in ("poses", "common", "..worker", "os"):
        assert "no such panel" in served.ask("people", panel, {})["error"]


def test_a_body_over_the_limit_is_refused_whether_or_not_it_tells_its_length(served: Any) -> None:
    path = f"/{served.token}/api/ask"
    assert served.request("POST", path, b"x", Content_Length=str(LIMIT + 1))[0] == 413
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"
        client.sendall(head.encode())
        for _ in range(LIMIT // 100_000 + 1):
            client.sendall(chunk)
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"session": "a b", "job": "j"}'])
def test_what_is_no_request_is_named(served: Any, body: bytes) -> None:
    status, answer, _ = served.request("POST", f"/{served.token}/api/ask", body)
    assert status == 400
    assert "must be" in json.loads(answer)["error"]


def test_it_listens_to_this_machine_alone(served: Any) -> None:
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), served.port, socket.AF_INET)}:
        if not str(address).startswith("127."):
            with (
                pytest.raises(OSError, match=r"refused|timed out"),
                socket.create_connection((address, served.port), timeout=5),
            ):
                pass
