"""Weights from the Hugging Face cache, else downloaded, else one sentence that says why not and what to do."""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import ssl
import threading
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hybrid_encoder.errors import CheckpointError, ConfigError

T = TypeVar("T")

SECONDS = 9.0  # in which the first answer must come; libraries wait and try again for up to a minute
START_RANDOM = (
    "start from random weights with pretrained=False (--no-pretrained on the command line, --weights_init scratch in "
    "Monodepth2 and ManyDepth), or load a trained model with from_pretrained('path/to/folder')"
)
NAME = "check the name"
AGAIN = "check the connection and try again"

# Libraries of the network raise classes of their own, which change with their versions.
NETWORK = ("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3")
ENDED = (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError, urllib.error.URLError)
WORDINGS = r"Failed to download|SHA256 checksum|invalid hash value"  # of open_clip's and torch.hub's RuntimeErrors

Alternative = tuple[str, Sequence[str]]


@contextlib.contextmanager
def downloads(weights: str, fix: str = START_RANDOM) -> Iterator[None]:
    """Turn what libraries raise where a download fails into one sentence; other errors pass.

    Args:
        weights: what is downloaded; begins the sentence.
        fix: what helps where the weights cannot be had.

    Raises:
        CheckpointError: the download failed.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if not (reason := _reason(error, "")):
            raise
        raise _not_had(weights, reason, fix) from None  # the sentence says what a long traceback would


def hub_folder(
    repo: str,
    alternatives: Sequence[Alternative],
    weights: str = "",
    fix: str = START_RANDOM,
    *,
    cached_first: bool = True,
    **options: Any,
) -> tuple[Path, str]:
    """Return a folder with files of a repository on the Hugging Face Hub, and which of the alternatives it holds.

    The Hub is asked once, and must answer within ``SECONDS``.

    Args:
        repo: the Hub id.
        alternatives: the file that must be there, and the patterns of all that are downloaded with it; best first.
        weights: what they are; the Hub id alone where nothing is said.
        fix: what helps where they cannot be had.
        cached_first: do not ask the Hub for what is in the cache; False asks it for a newer revision first, and takes
            the cache where there is no answer.
        options: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: the files are not in the cache, and cannot be downloaded.
    """
    # Looked up at each call: they load the network's libraries.
    from huggingface_hub import HfApi, snapshot_download

    options = {k: v for k, v in options.items() if v is not None}
    refusal = functools.partial(_not_had, weights, fix=fix, repo=repo, cache=options.get("cache_dir"))
    cached = None if options.get("force_download") else _cached(repo, alternatives, options)
    if options.get("local_files_only") and not cached:
        reason = "only the cache may be asked, and it is not there", "leave out local_files_only"
        raise refusal(reason)
    if cached and (cached_first or options.get("local_files_only")):
        return cached
    api = HfApi(token=options.get("token"))
    try:
        info = ask(lambda: api.model_info(repo, revision=options.get("revision"), timeout=SECONDS / 2))
    except Exception as error:  # whatever the network's library raised
        if cached:
            return cached
        raise refusal(_reason(error, repo) or (_named(error), AGAIN)) from None
    held = {sibling.rfilename for sibling in info.siblings or ()}
    chosen = next((row for row in alternatives if row[0] in held), None)
    if chosen is None:
        names = " nor ".join(needed for needed, _ in alternatives)
        reason = f"it holds {'neither' if len(alternatives) > 1 else 'no'} {names}", NAME
        raise refusal(reason)
    needed, patterns = chosen
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns), **options)), needed
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
            raise  # the disk's
        raise refusal(_reason(error, repo) or (_named(error), AGAIN)) from None


def timm_weights(name: str, pretrained: bool, weights: str, fix: str = START_RANDOM) -> dict[str, Any]:
    """Return the arguments with which ``timm.create_model`` starts from a model's public weights, or from random ones.

    They name the file in the cache, downloaded where it is not there; timm itself would ask the Hub for it each time.

    Raises:
        ConfigError: weights that timm does not know.
        CheckpointError: the file is not in the cache, and cannot be downloaded.
    """
    import timm

    try:
        stated: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)) or "none"
        raise ConfigError(f"timm knows no weights {name!r}; of this model it knows {known}.") from error
    if not pretrained or stated is None or not stated.hf_hub_id or stated.custom_load:
        return {"pretrained": pretrained}
    named = stated.hf_hub_filename
    repo, _, revision = stated.hf_hub_id.partition("@")
    names = [named] if named else ["model.safetensors", "pytorch_model.bin"]
    folder, found = hub_folder(repo, [(n, [n]) for n in names], weights, fix, revision=revision or None)
    if not found.endswith(".safetensors"):
        return {"pretrained": True}  # timm reads pickles of the Hub more carefully than those it is given
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(folder / found)}}


def ask(question: Callable[[], T]) -> T:
    """Return the answer to a question to the network, or raise what it raised.

    Raises:
        TimeoutError: no answer within ``SECONDS``.
    """
    answer: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answer.append(question())
        except Exception as error:
            errors.append(error)

    # Name resolution has no time limit of its own, so the question is asked in a thread that can be left behind.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if errors:
        raise errors[0]
    if not answer:
        raise TimeoutError(f"no answer within {SECONDS:g} seconds")
    return answer[0]


def _cached(repo: str, alternatives: Sequence[Alternative], options: dict[str, Any]) -> tuple[Path, str] | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    where = {k: options[k] for k in ("cache_dir", "revision") if k in options}
    for needed, _ in alternatives:
        try:
            path = try_to_load_from_cache(repo, needed, **where)
        except HFValidationError:  # no name that the Hub could have: asking says so
            return None
        if isinstance(path, str):  # else not known, or known not to exist
            return Path(path).parents[needed.count("/")], needed
    return None


def _not_had(
    weights: str, reason: tuple[str, str], fix: str, repo: str = "", cache: str | Path | None = None
) -> CheckpointError:
    """Return the sentence: what is missing, why, what helps first, and what else helps."""
    from huggingface_hub.constants import HF_HUB_CACHE

    why, first = reason
    copied = ""
    if repo:
        weights = f"{weights} ({repo} on the Hugging Face Hub)" if weights else f"{repo!r} on the Hugging Face Hub"
        folder = f"models--{repo.replace('/', '--')}"
        copied = f", copy the folder {folder} into {cache or HF_HUB_CACHE} from a machine that has it"
    return CheckpointError(f"{weights} cannot be downloaded: {why}; {first}{copied if first != NAME else ''}, {fix}.")


def _reason(error: BaseException, repo: str) -> tuple[str, str] | None:
    """Return why a download failed and what helps first; None for an error that is not about the network."""
    from huggingface_hub import errors as hub

    chain = _chain(error)
    for link in chain:
        if isinstance(link, hub.OfflineModeIsEnabled):
            return "offline mode is on", "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"
        if isinstance(link, hub.GatedRepoError):
            return (
                "its owner gives it to those who ask",
                f"ask at https://huggingface.co/{repo} and run 'hf auth login'",
            )
        if isinstance(link, hub.RepositoryNotFoundError):
            return f"the Hub has no model {repo!r} that you may see", NAME
        if isinstance(link, hub.RevisionNotFoundError):
            return f"{repo!r} on the Hub has no such revision", NAME
        if isinstance(link, hub.EntryNotFoundError) and not isinstance(link, hub.LocalEntryNotFoundError):
            return "there is no such file", NAME
        if isinstance(link, hub.HFValidationError):
            return f"{repo!r} cannot be a name on the Hub", NAME
        status = getattr(link, "code", None) or getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int) and _of_network(link):
            return f"the server answered {status}", NAME if status in (404, 410) else AGAIN
    if any(map(_of_network, chain)):
        return _named(next(filter(_of_network, reversed(chain)))), AGAIN
    if isinstance(error, RuntimeError) and re.search(WORDINGS, str(error)):
        return _named(error), AGAIN
    return None


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


def _named(error: BaseException) -> str:
    """Return the first line of an error after the name of its class."""
    first = next(iter(str(error).strip().splitlines()), "").rstrip(". ")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
