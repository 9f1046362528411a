"""A server on 127.0.0.1 that answers the calls of the Hugging Face hub which publishing and loading make.

Repositories are dictionaries of commits: name -> bytes. Writing needs a token, as there. Large files (.safetensors) are
uploaded by the protocol of git LFS, as there, and only then named in a commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """What lies on the server.

    Attributes:
        url: of the server.
        repos: `user/name` -> its commits, oldest first: (commit, name -> content).
        private: repositories that were made private.
        asked: every path that was asked for, with its method.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit that changes these files; return its name."""
        commits = self.repos.setdefault(repo, [])
        content = {**(commits[-1][1] if commits else {}), **files}
        name = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits.append((name, content))
        return name

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files, by name or as `main`."""
        commits = self.repos.get(repo, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0] == revision), None)

    def fetched(self) -> list[str]:
        """Names of the files whose content was sent."""
        return [path.rpartition("/")[2] for path in self.asked if path.startswith("GET ") and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    """One call."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Tell of a repository, or send a file."""
        path = self._path()
        if path.startswith("/api/models/"):
            user, name, *rest = path.removeprefix("/api/models/").split("/")
            return self._tell(f"{user}/{name}", rest[1] if rest else "main")
        return self._file(path)

    def do_HEAD(self) -> None:
        """Tell of a file."""
        self._file(self._path())

    def do_POST(self) -> None:
        """Make a repository, take a commit, say how files are uploaded."""
        path, body = self._path(), self._body()
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---")[1]
            return self._json({"warnings": [], "errors": []} if "library_name" in head else {"errors": [{}]})
        if not self.headers.get("Authorization"):
            return self._fail(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if "private" in (asked.get("visibility"), asked.get("private") and "private"):
                self.hub.private.add(repo)
            self.hub.repos.setdefault(repo, [])
            return self._json({"url": f"{self.hub.url}/{repo}"})
        if "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            return self._json(
                {
                    "transfer": "basic",
                    "objects": [
                        {**entry, "actions": {"upload": {"href": f"{self.hub.url}/large/{entry['oid']}"}}}
                        for entry in asked
                    ],
                }
            )
        user, name = path.removeprefix("/api/models/").split("/")[:2]
        return self._commit(f"{user}/{name}", [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        """Take a large file."""
        oid, body = self._path().rpartition("/")[2], self._body()
        if hashlib.sha256(body).hexdigest() != oid:
            return self._fail(400, "", "another file")
        self.hub.large[oid] = body
        return self._json({})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(repo, files)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _tell(self, repo: str, revision: str) -> None:
        if repo not in self.hub.repos:
            return self._fail(401, "RepoNotFound", "Repository not found")
        found = self.hub.find(repo, revision)
        if found is None:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        siblings = [{"rfilename": name, "size": len(content), "blobId": "0" * 40} for name, content in files.items()]
        return self._json({"_id": "1", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings})

    def _file(self, path: str) -> None:
        user, name, _, revision, file = path.strip("/").split("/", 4)
        found = self.hub.find(f"{user}/{name}", revision)
        if found is None or file not in found[1]:
            return self._fail(404, "EntryNotFound", "Entry not found")
        content = found[1][file]
        etag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, text: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": text} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A server that runs inside the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
