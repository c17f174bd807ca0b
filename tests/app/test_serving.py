"""Who reaches the page, what it gives away, and what is left of it; the command that serves it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from hybrid_encoder.app import serving as module
from hybrid_encoder.app.page import _path
from hybrid_encoder.app.running import EXAMPLE, DepthRunner
from hybrid_encoder.app.serving import is_local, serving
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError

CPU = torch.device("cpu")


def ask(url: str, path: str, host: str | None = None, body: Any = None) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of one request."""
    address = urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=30)
    headers = {"Host": host or address, "Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(["tiny"], device=CPU) as url:
        yield url


def test_which_addresses_are_this_machines_own() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.5", "example.com", "localhost.example.com", "")))


def test_the_browser_is_told_to_ask_nobody_else(url: str) -> None:
    status, headers, text = ask(url, "/")
    assert status == 200
    assert "Depth from one picture" in text
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self' data: blob: ")
    assert "http" not in policy
    assert "*" not in policy


def test_who_comes_by_another_name_is_turned_away(url: str) -> None:
    port = urlsplit(url).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert ask(url, "/", host)[0] == 200
    for host in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", "localhost@evil.example"):
        status, _, text = ask(url, "/", host)
        assert (status, text) == (403, "This page is for the machine that serves it alone.\n")


def test_no_other_file_is_served(url: str) -> None:
    for path in ("/etc/passwd", str(EXAMPLE), str(Path.cwd() / "pyproject.toml"), "../../etc/passwd"):
        assert ask(url, f"/gradio_api/file={path}")[0] in (403, 404)


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_no_other_file_is_taken_for_an_upload(url: str, meta: dict[str, Any]) -> None:
    config = json.loads(ask(url, "/config")[2])
    handler = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 5)
    choices = ["tiny", "right size", "magma", ""]
    body = {"data": [{"path": str(EXAMPLE), **meta}, *choices], "fn_index": handler, "session_hash": f"test{len(meta)}"}
    assert ask(url, "/gradio_api/queue/join", body=body)[0] == 200
    text = ask(url, f"/gradio_api/queue/data?session_hash={body['session_hash']}")[2]
    (completed,) = (event for event in map(json.loads, re.findall("data: (.*)", text)) if "success" in event)
    assert completed["success"] is False


def test_a_page_that_paths_come_to_directly_knows_what_was_uploaded(tmp_path: Path) -> None:
    runner = DepthRunner(tmp_path / "served" / "results", ["tiny"], device=CPU)
    inside = tmp_path / "served" / "upload.png"
    assert _path(runner, {"path": str(inside)}, "picture") == inside
    for path in (str(EXAMPLE), str(inside / ".." / ".." / "x.png"), "/", ""):
        with pytest.raises(InputError, match="was not uploaded"):
            _path(runner, {"path": path}, "picture")
    for nothing in (None, {}, {"path": None}):
        with pytest.raises(InputError, match="there is no picture yet"):
            _path(runner, nothing, "picture")


def test_no_name_is_looked_up_and_no_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    look_up = socket.getaddrinfo

    def watched(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    with serving(["tiny"], device=CPU) as url:
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith("hybrid-encoder-app-")
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        config = json.loads(ask(url, "/config")[2])
        assert config["analytics_enabled"] is False
        assert config["footer_links"] == []
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before
    assert set(asked) <= {"127.0.0.1", "localhost"}


def test_an_address_that_cannot_be_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} is taken"), serving(["tiny"], device=CPU, port=port):
            pass
        monkeypatch.setattr(module, "PORTS", range(port, port + 1))
        with pytest.raises(InputError, match=f"--port: {port} to {port} are taken"), serving(["tiny"], device=CPU):
            pass
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(InputError, match="no address of this machine"), serving(["tiny"], device=CPU, host=host):
            pass


def test_wrong_weights_and_a_missing_package_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="neither a file or folder"), serving(["no such weights"], device=CPU):
        pass
    monkeypatch.setitem(sys.modules, "hybrid_encoder.app.page", None)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'hybrid-encoder\[app\]'"), serving(["tiny"], device=CPU):
        pass


def test_the_command_hands_on_what_it_is_told(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(module, "serve", lambda weights, **options: calls.append((weights, options)))
    code, out, _ = run("app", "--device", "cpu")
    assert (code, out) == (0, "")
    code, out, _ = run("app", "--device", "cpu", "--weights", "a", "--weights", "b", "--host", "0.0.0.0", "--no-open")
    assert code == 0
    assert "warning: whoever reaches 0.0.0.0 on the network can use this page" in " ".join(out.split())
    (first, local), (second, shared) = calls
    assert (first, local["host"], local["port"], local["open_browser"]) == (["tiny"], "127.0.0.1", None, True)
    assert (second, shared["host"], shared["open_browser"]) == (["a", "b"], "0.0.0.0", False)


def test_a_page_for_others_lets_them_choose_among_the_given_weights_alone() -> None:
    with serving(["tiny"], device=CPU, host="0.0.0.0") as url:
        config = json.loads(ask(url, "/config", host="somewhere.example")[2])
    (weights,) = (one["props"] for one in config["components"] if one["props"].get("label") == "Weights")
    assert weights["allow_custom_value"] is False
    assert [choice[0] for choice in weights["choices"]] == ["tiny"]
    assert "deleted there after 60 minutes" in json.dumps(config)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "hybrid_encoder", "app", "--no-open", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        try:
            line = page.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert url, line
            assert ask(url[0], "/")[0] == 200
            page.send_signal(number)
            out, err = page.communicate(timeout=60)
        finally:
            page.kill()  # a test that fails ends, too
    assert (page.returncode, err) == (0, "")
    assert out == ("The page is closed.\n" if number == signal.SIGINT else "")
    assert list(tmp_path.iterdir()) == []
