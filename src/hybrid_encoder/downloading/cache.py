"""What the Hugging Face cache holds of a repository, whoever downloaded it: asked without the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Alternative = tuple[str, Sequence[str]]
"""A file that must be there, and the patterns of all that go with it; what is named with a star may be missing."""


@dataclass(frozen=True)
class Cached:
    """Files of a repository that are in the cache.

    Attributes:
        folder: of the revision.
        name: of the file by which the alternative is known.
        missing: the files that go with it and are not in the cache.
        damaged: those that are there and cut, as after a copy that was.
    """

    folder: Path
    name: str
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """Say what keeps it from being used; empty where nothing does."""
        if self.missing:
            return f"only a part of it is in the cache ({self.missing[0]} is missing)"
        return f"in the cache it is damaged ({self.damaged[0]} is not whole)" if self.damaged else ""


def find_cached(repo: str, alternatives: Sequence[Alternative], **where: Any) -> Cached | None:
    """Return the first alternative that is in the cache, a whole one before one in part; None where there is none.

    Args:
        repo: the Hub id.
        alternatives: best first.
        where: ``cache_dir`` and ``revision``, a branch, tag or commit.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    found = []
    for name, patterns in alternatives:
        names = [name, *(pattern for pattern in patterns if pattern != name and "*" not in pattern)]
        try:
            paths = {name: try_to_load_from_cache(repo, name, **where) for name in names}
        except HFValidationError:  # no name that the Hub could have: asking says so
            return None
        here = {name: Path(path) for name, path in paths.items() if isinstance(path, str)}
        if not here:
            continue
        known, path = next(iter(here.items()))
        folder = path.parents[known.count("/")]
        if name in here:
            names += _shards(here[name])
        # A file that the Hub is known not to have (path is an object of the library's) is not missed, unless it is
        # the one that must be there.
        absent = {name for name, path in paths.items() if path is not None and name not in here} - {names[0]}
        missing = tuple(name for name in names if name not in absent and not (folder / name).is_file())
        damaged = tuple(name for name in names if (folder / name).is_file() and not is_whole(folder / name))
        found.append(Cached(folder, names[0], missing, damaged))
    # Of those in part, the one whose own file is there: others may share no more than the configuration with it.
    return min(found, key=lambda cached: (bool(cached.fault), cached.name in cached.missing), default=None)


def is_whole(path: Path) -> bool:
    """Whether a file of weights is as long as it says; files of other kinds do not say it."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, "np"):
            return True
    except SafetensorError:
        return False


def cached_repositories(cache: str | Path | None = None) -> list[str]:
    """Return the Hub ids of the models in the cache, or in another folder."""
    from huggingface_hub import constants

    folder = Path(cache or constants.HF_HUB_CACHE)
    return [path.name.removeprefix("models--").replace("--", "/") for path in sorted(folder.glob("models--*--*"))]


def _shards(path: Path) -> list[str]:
    """Return the files among which an index says that weights are divided."""
    if not path.name.endswith(".index.json"):
        return []
    try:
        return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):  # whoever reads the weights says so
        return []
