"""A Hugging Face Hub of one's own: a server on this machine, and a cache filled by hand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the server has, and what it was asked.

    Attributes:
        files: content by repository and file name.
        refusals: status and error code (the header ``X-Error-Code``) of repositories that are not given.
        requests: method and path of each request, in their order.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        path = path.partition("?")[0]
        for repo, (status, code) in self.refusals.items():
            if repo in path:
                return status, {"X-Error-Code": code}, b""
        for repo, files in self.files.items():
            if path.startswith(f"/api/models/{repo}/tree/"):
                rows = [{"type": "file", "path": k, "size": len(v), "oid": _etag(v)} for k, v in files.items()]
                return 200, {"Content-Type": "application/json"}, json.dumps(rows).encode()
            if path.startswith(f"/api/models/{repo}"):
                about = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
            if path.startswith(f"/{repo}/resolve/"):
                name = path.split("/resolve/", 1)[1].partition("/")[2]
                if name in files:
                    headers = {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": COMMIT}
                    return 200, headers, files[name]
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 401, {"X-Error-Code": "RepoNotFound"}, b""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def fake_hub(cache: Path) -> Iterator[FakeHub]:
    """Serve a Hub on this machine, and let the library ask it and keep what it gives in a folder."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    try:
        with (
            mock.patch("huggingface_hub.constants.ENDPOINT", address),
            mock.patch("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template),
            cache_at(cache),
        ):
            yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Let the library keep its files in a folder."""
    with mock.patch("huggingface_hub.constants.HF_HUB_CACHE", str(folder)):
        yield


def put_into_cache(cache: Path, repo: str, name: str) -> Path:
    """Return the path in the cache for a repository's file, which is to be written there."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    path = place / "snapshots" / COMMIT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
