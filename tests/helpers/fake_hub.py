"""A Hugging Face Hub of one's own: a server on this machine that speaks the Hub's protocol, and a cache."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".pth", ".bin", ".ckpt")  # kept as LFS objects, with their SHA-256 as the ETag

Answer = tuple[int, dict[str, str], bytes]
JSON = {"Content-Type": "application/json"}
LICENSES = ("apache-2.0", "mit", "other")  # that are known here
TOKEN = "hf_ofthetests"  # which the user somebody is logged in with


@dataclass
class FakeHub:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        files: content by repository and file name, on the branch main.
        revisions: commit and files by repository and name of another branch or tag.
        refusals: status and error code (the header ``X-Error-Code``) of repositories that are not given, by a part of
            the path.
        cuts: how many times a file of that name is cut in its middle, the connection closed; of a path that something
            is sent to, how many times the connection is closed before there is an answer.
        hanging: parts of paths that get no answer, or where they begin with "half ", half of one.
        seconds: how long it takes to send a large file.
        no_ranges: whether a download always starts again.
        tokens: the name and the role of the user, by token.
        private: the repositories that only their owners see.
        pulls: how many pull requests there are, by repository.
        objects: large files that have arrived, by SHA-256, in a commit or not.
        changes: whether what arrives is changed, as by a disk that fails.
        requests: method and path of each request, in their order.
        address: of the server.
        released: set when the server ends.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    seconds: float = 0
    no_ranges: bool = False
    requests: list[str] = field(default_factory=list)
    address: str = ""
    released: threading.Event = field(default_factory=threading.Event)
    tokens: dict[str, tuple[str, str]] = field(default_factory=lambda: {TOKEN: ("somebody", "write")})
    private: set[str] = field(default_factory=set)
    pulls: dict[str, int] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    changes: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What another program needs to ask this server."""
        return {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def commit(self, repo: str) -> str:
        """Return the commit that a repository's branch main is at."""
        return _commit(self.files[repo])

    def sent(self) -> list[str]:
        """Return what has been sent to the server and changes what it has: methods and paths, in their order."""
        return [row for row in self.requests if row.startswith(("POST", "PUT")) and "paths-info" not in row]

    def answer(self, method: str, path: str, body: bytes, token: str = "") -> Answer:
        """Return status, headers and body for a request."""
        path, _, query = path.partition("?")
        path = unquote(path)
        for part, (status, code) in self.refusals.items():
            if part in path:
                return status, {"X-Error-Code": code, "X-Error-Message": code}, b""
        if path == "/api/whoami-v2":
            return self._who(token)
        if method in ("POST", "PUT"):
            return self._take(path, body, "create_pr=1" in query)
        for repo in self.files:
            if f"{path}/".startswith(f"/api/models/{repo}/"):
                return self._about(repo, path.removeprefix(f"/api/models/{repo}"))
            if path.startswith(f"/{repo}/resolve/"):
                revision, _, name = path.removeprefix(f"/{repo}/resolve/").partition("/")
                return self._file(repo, revision, name)
        return 401, {"X-Error-Code": "RepoNotFound"}, b""

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        known = {"main": (self.commit(repo), self.files[repo]), **self.revisions.get(repo, {})}
        return known.get(revision) or next((row for row in known.values() if row[0] == revision), None)

    def _about(self, repo: str, rest: str) -> Answer:
        found = re.fullmatch(r"(?:/(revision|tree)/(.+))?", rest)
        held = self._at(repo, found[2] or "main") if found else None
        if not found or held is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit, files = held
        siblings = [{"rfilename": name} for name in files]
        about: Any = {"id": repo, "sha": commit, "private": repo in self.private, "siblings": siblings}
        if found[1] == "tree":
            about = [_row(k, v) for k, v in files.items()]
        return 200, JSON, json.dumps(about).encode()

    def _who(self, token: str) -> Answer:
        if token not in self.tokens:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        name, role = self.tokens[token]
        about = {"name": name, "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": role}}}
        return 200, JSON, json.dumps(about).encode()

    def _file(self, repo: str, revision: str, name: str) -> Answer:
        held = self._at(repo, revision)
        if held is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit, files = held
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", **headers}, b""
        return 200, {"ETag": f'"{_etag(name, files[name])}"', **headers}, files[name]

    def _take(self, path: str, body: bytes, create_pr: bool) -> Answer:
        """Answer one step of a push."""
        if found := re.fullmatch(r"/objects/(\w+)", path):
            if hashlib.sha256(body).hexdigest() != found[1]:
                return 400, {"X-Error-Message": "BadDigest"}, b""
            self.objects[found[1]] = body[:-1] + b"?" if self.changes else body
            return 200, {}, b""
        answer: Any = {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            status = 409 if repo in self.files else 200
            self.files.setdefault(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(repo)
            return status, JSON, json.dumps({"url": f"{self.address}/{repo}"}).encode()
        if path == "/api/validate-yaml":
            stated = re.search(r"^license: (.*)$", json.loads(body)["content"], re.MULTILINE)
            faults = [{"message": '"license" must be one of [apache-2.0, ...]'}]
            if stated and stated[1] not in LICENSES:
                return 400, JSON, json.dumps({"errors": faults, "warnings": []}).encode()
            answer = {"errors": [], "warnings": []}
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            held = (self._at(found[1], found[2]) or ("", {}))[1]
            answer = {"files": [_mode(file["path"], held) for file in json.loads(body)["files"]]}
        elif path.endswith("/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            for row in rows:
                if row["oid"] not in self.objects:
                    row["actions"] = {"upload": {"href": f"{self.address}/objects/{row['oid']}"}}
            answer = {"transfer": "basic", "objects": rows}
        elif found := re.fullmatch(r"/api/models/(.+)/paths-info/(.+)", path):
            held = (self._at(found[1], found[2]) or ("", {}))[1]
            answer = [_row(name, held[name]) for name in parse_qs(body.decode())["paths"] if name in held]
        elif found := re.fullmatch(r"/api/models/(.+?)/branch/(.+)", path):
            self.revisions.setdefault(found[1], {})[found[2]] = self.commit(found[1]), dict(self.files[found[1]])
        elif found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            answer = self._push(found[1], found[2], [json.loads(line) for line in body.splitlines()], create_pr)
            if answer is None:
                return 412, {"X-Error-Message": "A commit has happened since."}, b""
        else:
            return 404, {}, b""
        return 200, JSON, json.dumps(answer).encode()

    def _push(self, repo: str, branch: str, lines: list[dict[str, Any]], create_pr: bool) -> dict[str, Any] | None:
        """Return what the Hub answers to a commit; nothing where the branch has moved."""
        before, held = self._at(repo, branch) or ("", {})
        files = dict(held)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", before) != before:
                return None
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = _commit(files)
        answer = {"success": True, "commitUrl": f"{self.address}/{repo}/commit/{commit}", "commitOid": commit}
        if create_pr:
            number = self.pulls[repo] = self.pulls.get(repo, 0) + 1
            branch = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.address}/{repo}/discussions/{number}"
        if branch == "main":
            self.files[repo] = files
        else:
            self.revisions.setdefault(repo, {})[branch] = commit, files
        return answer


def _mode(name: str, held: Mapping[str, bytes]) -> dict[str, Any]:
    """Return how a file is to be sent, and what of it is there."""
    large = name.endswith(LARGE)
    oid = (_etag if large else _blob)(name, held[name]) if name in held else None
    return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def _row(name: str, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _blob(name, content)}
    if name.endswith(LARGE):
        row["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 134}
    return row


def _blob(_: str, content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _commit(files: dict[str, bytes]) -> str:
    rows = [f"{name} {_etag(name, content)}" for name, content in sorted(files.items())]
    return hashlib.sha1("\n".join(rows).encode(), usedforsecurity=False).hexdigest()


def _etag(name: str, content: bytes) -> str:
    digest = hashlib.sha256(content) if name.endswith(LARGE) else hashlib.sha1(content, usedforsecurity=False)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def _serve(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if any(part in self.path for part in hub.hanging):
            hub.released.wait()
            return
        if self.command in ("POST", "PUT") and (cut := next((p for p in hub.cuts if p in self.path), "")):
            hub.cuts[cut] -= 1
            if hub.cuts[cut] >= 0:
                self.close_connection = True
                return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        status, headers, body = hub.answer(self.command, self.path, given, token)
        sent = body
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start and status == 200 and not hub.no_ranges:
            status, sent = 206, body[int(start[1]) :]
            headers = {**headers, "Content-Range": f"bytes {start[1]}-{len(body) - 1}/{len(body)}"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(sent))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        name = self.path.rpartition("/")[2]
        if hub.cuts.get(name, 0) > 0:
            hub.cuts[name] -= 1
            sent = sent[: len(sent) // 2]
            self.close_connection = True
        stops = any(part.startswith("half ") and part[5:] in self.path for part in hub.hanging)
        sent = sent[: len(sent) // 2] if stops else sent
        step = len(sent) // 10 + 1 if hub.seconds and name.endswith(LARGE) else len(sent) + 1
        for start_of_piece in range(0, len(sent), step):
            hub.released.wait(hub.seconds / 10)
            self.wfile.write(sent[start_of_piece : start_of_piece + step])
        if stops:
            hub.released.wait()

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def fake_hub(cache: Path) -> Iterator[FakeHub]:
    """Serve a Hub on this machine, and let the library ask it and keep what it gives in a folder; one is logged in."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with hub_at(hub.address), cache_at(cache), mock.patch.dict("os.environ", {"HF_TOKEN": TOKEN}):
            yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


@contextmanager
def hub_at(address: str) -> Iterator[None]:
    """Let the library ask another Hub, as ``HF_ENDPOINT`` does before it is imported."""
    constants: Mapping[str, Any] = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
    }
    with mock.patch.multiple("huggingface_hub.constants", **constants):
        yield


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
