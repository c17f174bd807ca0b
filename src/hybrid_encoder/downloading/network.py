"""Questions to the network: asked with a limit of time, and what libraries raise where they fail, in words."""

from __future__ import annotations

import ctypes
import http.client
import re
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 9.0  # without a sign of the other side; libraries wait and try again for up to a minute
NAME = "check the name"
AGAIN = "check the connection and try again"
LATER = "try again in a few minutes"
LOG_IN = "run 'hf auth login' (or give token=...)"
FREE = "free some space there, or see https://huggingface.co/settings/billing"

# Libraries of the network raise classes of their own, which change with their versions.
NETWORK = ("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3")
ENDED = (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError, urllib.error.URLError)
# RuntimeErrors of open_clip, torch.hub and hf_xet; the last has no class of its own.
WORDINGS = r"Failed to download|SHA256 checksum|invalid hash value|CAS [Cc]lient|[Rr]eqwest"

CUT = "Consistency check failed"  # of huggingface_hub's OSError, which has no class of its own
REFUSED = "LFS batch API returned errors"  # of its ValueError, which has none either
SPACE = r"\b(?:storage|quota|limits?|billing|plan)\b"  # what the Hub speaks of where an account is full

Reason = tuple[str, str]  # why something failed, and what helps first


class _GivenUp(BaseException):
    """Raised in a thread whose answer is not waited for any more; no library takes it for a failure of its own."""


class Signs:
    """When the other side was last heard of."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def give(self) -> None:
        """Note that it is there."""
        self.last = time.monotonic()


def ask(question: Callable[[], T], signs: Signs | None = None) -> T:
    """Return the answer to a question to the network, or raise what it raised.

    Args:
        question: called in another thread, which is left behind where nothing comes.
        signs: given by the question while it is being answered; without them, the answer itself is the only sign.

    Raises:
        TimeoutError: no sign for ``SECONDS``.
    """
    answer: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(question())
        except BaseException as error:
            errors.append(error)

    # Name resolution has no limit of time, and libraries try again for long.
    signs = signs or Signs()
    signs.give()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive() and (left := signs.last + SECONDS - time.monotonic()) > 0:
        thread.join(left)
    if errors:
        raise errors[0]
    if not answer:
        # Else it would go on asking, warning and holding the lock of a file for a minute or more.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_GivenUp))
        raise TimeoutError(f"no answer within {SECONDS:g} seconds")
    return answer[0]


def reason_of(error: BaseException, repo: str = "") -> Reason | None:
    """Return why the network failed and what helps first; None for an error that is not the network's.

    Args:
        error: as raised; what led to it is looked at, too.
        repo: the Hub id that was asked for.
    """
    chain = _chain(error)
    for link in chain:
        if found := _of_hub(link, repo) or _of_status(link, repo):
            return found
    if any(map(_of_network, chain)):
        return named(next(filter(_of_network, reversed(chain)))), AGAIN
    if isinstance(error, RuntimeError) and re.search(WORDINGS, str(error)):
        return named(error), AGAIN
    if isinstance(error, OSError) and CUT in str(error):
        return "the download was cut", AGAIN
    if isinstance(error, ValueError) and REFUSED in str(error):
        said = " ".join(str(error).split())
        return said.rstrip(". "), FREE if re.search(SPACE, said, re.IGNORECASE) else AGAIN
    return None


def named(error: BaseException) -> str:
    """Return the first line of an error after the name of its class."""
    first = next(iter(str(error).strip().splitlines()), "").rstrip(". ")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _of_hub(error: BaseException, repo: str) -> Reason | None:
    """Return what an error of huggingface_hub says that no status does."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.OfflineModeIsEnabled):
        return "offline mode is on", "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"
    if isinstance(error, hub.LocalTokenNotFoundError):
        return "the Hub is to be asked as you, and nobody is logged in", LOG_IN
    if isinstance(error, hub.GatedRepoError):
        return "its owner gives it to those who ask", f"ask at https://huggingface.co/{repo}, and then {LOG_IN}"
    if isinstance(error, hub.RepositoryNotFoundError):
        return f"the Hub has no model {repo!r} that you may see", f"{NAME}, and where it is private {LOG_IN}"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{repo!r} on the Hub has no such revision", "check the name of the branch, tag or commit"
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(error, hub.LocalEntryNotFoundError):
        return "there is no such file", NAME
    if isinstance(error, hub.HFValidationError):
        return f"{repo!r} cannot be a name on the Hub", NAME
    return None


def _of_status(error: BaseException, repo: str) -> Reason | None:
    """Return what the status of an answer says."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if not isinstance(status, int) or not _of_network(error):
        return None
    said = f"the server answered {status}"
    message = str(getattr(error, "server_message", None) or "").rstrip(". ")
    if status in (402, 403, 413, 507) and re.search(SPACE, message, re.IGNORECASE):
        return f"{said}: {message}", FREE
    if status in (409, 412):
        return f"{said}, as somebody has changed it in the meantime", "look at what is there and push again"
    if status == 401:
        return f"{said}, as nobody is logged in or the token is not valid", LOG_IN
    if status == 403:
        return f"{said}, as your token does not allow it", f"{LOG_IN} with a token that may use {repo or 'it'}"
    if status in (404, 410):
        return said, NAME
    return said, LATER if status == 429 or status >= 500 else AGAIN


def _of_network(error: BaseException) -> bool:
    return isinstance(error, ENDED) or type(error).__module__.partition(".")[0] in NETWORK


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it, the first cause last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
