"""Weights from the Hugging Face cache, else downloaded, else one sentence that says why not and what to do."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hybrid_encoder.downloading.cache import Alternative, find_cached, is_whole
from hybrid_encoder.downloading.network import AGAIN, CUT, NAME, SECONDS, Reason, Signs, ask, named, reason_of
from hybrid_encoder.errors import CheckpointError, ConfigError

CHUNK = 2**18  # bytes
START_RANDOM = (
    "start from random weights with pretrained=False (--no-pretrained on the command line, --weights_init scratch in "
    "Monodepth2 and ManyDepth), or load a trained model with from_pretrained('path/to/folder')"
)


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
        if not (reason := reason_of(error)):
            raise
        raise _not_had(weights, reason, fix) from None  # the sentence says what a long traceback would


@contextlib.contextmanager
def uploads(
    repo: str, later: str = "save it with save_pretrained('path/to/folder') and push it later"
) -> Iterator[None]:
    """Turn what huggingface_hub raises where an upload fails into one sentence; other errors pass.

    Args:
        repo: the Hub id.
        later: what else helps.

    Raises:
        CheckpointError: the upload failed.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if not (reason := reason_of(error, repo)):
            raise
        why, first = reason
        raise CheckpointError(
            f"the model cannot be pushed to {repo!r} on the Hugging Face Hub: {why}; {first}, or {later}."
        ) from None


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

    The Hub is given up where it does not answer, or sends nothing, for ``network.SECONDS``.

    Args:
        repo: the Hub id.
        alternatives: the file that must be there, and the patterns of all that are downloaded with it; best first.
            What is in the cache counts as whole where all names without a star are there.
        weights: what they are; the Hub id alone where nothing is said.
        fix: what helps where they cannot be had.
        cached_first: do not ask the Hub for what is in the cache; False asks it for a newer revision first, and takes
            the cache where there is no answer.
        options: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: the files are not in the cache, and cannot be downloaded.
    """
    from huggingface_hub import HfApi  # it loads the network's libraries

    options = {k: v for k, v in options.items() if v is not None}
    only_cache, anew = options.pop("local_files_only", False), options.pop("force_download", False)
    refusal = functools.partial(_not_had, weights, fix=fix, repo=repo, cache=options.get("cache_dir"))
    if only_cache and anew:
        reason = "local_files_only and force_download exclude each other", "leave out one of them"
        raise refusal(reason)
    where = {k: options[k] for k in ("cache_dir", "revision") if k in options}
    cached = None if anew else find_cached(repo, alternatives, **where)
    fault = cached.fault if cached else ""
    whole = (cached.folder, cached.name) if cached and not fault else None
    if whole and (cached_first or only_cache):
        return whole
    if only_cache:
        reason = f"only the cache may be asked, and {fault or 'it is not there'}", "leave out local_files_only"
        raise refusal(reason)
    try:
        api = HfApi(token=options.get("token"))
        info = ask(lambda: api.model_info(repo, revision=options.get("revision"), timeout=SECONDS / 2))
    except Exception as error:  # whatever the network's library raised
        if whole:
            return whole
        why, first = reason_of(error, repo) or (named(error), AGAIN)
        raise refusal((f"{why}, and {fault}" if fault else why, first)) from None
    held = [sibling.rfilename for sibling in info.siblings or ()]
    chosen = next((row for row in alternatives if row[0] in held), None)
    if chosen is None:
        names = " nor ".join(dict.fromkeys(needed for needed, _ in alternatives))
        reason = f"it holds {'neither' if len(alternatives) > 1 else 'no'} {names}", NAME
        raise refusal(reason)
    needed, patterns = chosen
    files = [name for pattern in patterns for name in held if fnmatch(name, pattern)]
    try:
        folder = _download(repo, files, needed, files if anew else (), **options)
        if damaged := _damaged(folder, files):  # the library takes what is in the cache for whole
            folder = _download(repo, files, needed, damaged, **options)
    except Exception as error:
        found = reason_of(error, repo)
        if found is None and isinstance(error, OSError) and error.errno:
            raise  # the disk's
        why, first = found or (named(error), AGAIN)
        older = ", take the older one in the cache with local_files_only=True" if whole else ""
        raise refusal((why, first + older)) from None
    if damaged := _damaged(folder, files):
        raise refusal((f"{damaged[0]} is damaged on the Hub", "tell its owner"))
    return folder, needed


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


def _damaged(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not is_whole(folder / name)]


def _download(repo: str, files: Sequence[str], needed: str, forced: Sequence[str], **options: Any) -> Path:
    """Return the folder in the cache that files of a repository were downloaded to.

    One after the other: the library's pool of threads would be waited for when the program ends.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    signs = Signs()

    class Watched(tqdm):
        def update(self, n: float | None = 1) -> Any:
            signs.give()
            return super().update(n)

    def download() -> Path:
        paths = {}
        for name in files:
            try:
                paths[name] = hf_hub_download(repo, name, tqdm_class=Watched, force_download=name in forced, **options)
            except OSError as error:
                if CUT not in str(error):
                    raise
                # What was there of it cannot be continued: from the beginning.
                paths[name] = hf_hub_download(repo, name, tqdm_class=Watched, force_download=True, **options)
            signs.give()
        return Path(paths[needed]).parents[needed.count("/")]

    # Signs come with each chunk, and one of the library's ten megabytes takes longer than is waited for.
    before, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, CHUNK
    try:
        return ask(download, signs)
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = before


def _not_had(
    weights: str, reason: Reason, fix: str, repo: str = "", cache: str | Path | None = None
) -> CheckpointError:
    """Return the sentence: what is missing, why, what helps first, and what else helps."""
    from huggingface_hub.constants import HF_HUB_CACHE

    why, first = reason
    copied = ""
    if repo:
        weights = f"{weights} ({repo} on the Hugging Face Hub)" if weights else f"{repo!r} on the Hugging Face Hub"
        folder = f"models--{repo.replace('/', '--')}"
        copied = f", copy the folder {folder} into {cache or HF_HUB_CACHE} from a machine that has it"
    return CheckpointError(
        f"{weights} cannot be downloaded: {why}; {first}{copied if not first.startswith(NAME) else ''}, {fix}."
    )
