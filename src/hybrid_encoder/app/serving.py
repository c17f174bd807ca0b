"""The page served: to whom, from which folder of its own, and until when."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_encoder.app.running import DepthRunner
from hybrid_encoder.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

PORTS = range(7860, 7960)  # where gradio's pages usually are
MAX_UPLOAD = "500mb"
KEPT_FOR = 3600  # seconds that pictures and results are kept while the page is served
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")

# The page may load and call what this server gives, and nothing else, whatever a library would like to fetch.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'"
)
# gradio reads these when it is imported, or while it serves.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def is_local(host: str) -> bool:
    """Say whether an address to serve on can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(
    weights: Sequence[str],
    *,
    device: torch.device,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the page until the process is interrupted or told to end; what it wrote is deleted then.

    Args:
        weights: the choice on the page, the first of them loaded at once. Other ones can be typed in on a page that
            this machine alone can reach.
        device: to predict on.
        host, port: where to serve; by default on the first free port from 7860 on.
        open_browser: open the page.
        say: told where the page is.

    Raises:
        CheckpointError: the first weights cannot be loaded.
        ConfigError: gradio is not installed.
        InputError: the address cannot be served on.
    """
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())  # told to end: the folder is deleted then, too
    try:
        with serving(weights, device=device, host=host, port=port) as url:
            say(f"The page is at {url} (Ctrl-C ends it).")
            if open_browser:
                import webbrowser

                webbrowser.open(url)
            over.wait()
    except KeyboardInterrupt:
        say("The page is closed.")
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def serving(
    weights: Sequence[str], *, device: torch.device, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page in the background for a ``with`` block, which is given its address.

    Args and errors as for ``serve``.
    """
    local = is_local(host)
    _check_address(host, port)
    with _own_folder() as folder, _environment({**QUIET, "GRADIO_TEMP_DIR": str(folder)}):
        try:
            from hybrid_encoder.app.page import build_page, looks
        except ImportError as error:
            raise ConfigError(
                f"the package {error.name} is missing, and the page needs it; install the extra: "
                "pip install 'hybrid-encoder[app]'."
            ) from None
        runner = DepthRunner(folder / "results", weights, device=device, any_weights=local, kept_for=KEPT_FOR)
        runner.load(weights[0])
        page = build_page(runner, local=local, kept_for=KEPT_FOR)
        try:
            _, url, _ = page.launch(
                **looks(),
                server_name=host,
                server_port=port,  # without one, gradio takes the first that is free by then
                share=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                footer_links=[],
                allowed_paths=[],
                max_file_size=MAX_UPLOAD,
                app_kwargs={"middleware": [(_Guard, (), {"hosts": LOCAL_NAMES if local else ()})]},
            )
            yield url
        finally:
            page.close(verbose=False)


@contextmanager
def _own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hybrid-encoder-app-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_address(host: str, port: int | None) -> None:
    """Check, before the weights are loaded, that the page can be served there.

    Raises:
        InputError: the host is no address of this machine, or no port is free.
    """
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((address[0], 0))
    except (OSError, UnicodeError):
        raise InputError(f"--host is {host}, which is no address of this machine; try 127.0.0.1.") from None
    for number in PORTS if port is None else (port,):
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((address[0], number))
            except OSError:
                continue
            return
    taken = f"{PORTS[0]} to {PORTS[-1]} are" if port is None else f"{port} is"
    raise InputError(f"--port: {taken} taken or not allowed; give another one, or end what is serving there.")


class _Guard:
    """What stands before the page, as ASGI has it: it adds the policy, and turns away who came by another name.

    A web site can have its own name lead to 127.0.0.1 and so speak to a page there as its own; the browser then still
    sends the site's name as the host.
    """

    def __init__(self, app: Any, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        headers = dict(scope.get("headers", ()))
        host = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1"))
        if scope["type"] != "http" or not self.hosts or host in self.hosts:
            await self.app(scope, receive, send_with_policy)
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page is for the machine that serves it alone.\n"})
