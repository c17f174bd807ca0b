"""Where a checkpoint is: in the package, in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_encoder.checkpoints.files import CONFIG, FILES, INDEX, WEIGHTS
from hybrid_encoder.config import PRESETS
from hybrid_encoder.downloading.cache import Alternative, cached_repositories
from hybrid_encoder.downloading.names import explain_backbone
from hybrid_encoder.downloading.weights import hub_folder
from hybrid_encoder.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "weights"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
PAIRS = [(f"{folder}encoder.pth", f"{folder}depth.pth") for folder in ("checkpoints/", "")]
LAYOUTS: tuple[Alternative, ...] = (
    (WEIGHTS, (CONFIG, WEIGHTS)),
    (INDEX, (CONFIG, INDEX, "model-*.safetensors")),
    *((encoder, (encoder, decoder)) for encoder, decoder in PAIRS),
    *((encoder, (encoder,)) for encoder, _ in PAIRS),  # in the cache, where the decoder never was
    ("stage1_checkpoint/stage1.ckpt", ("stage1_checkpoint/stage1.ckpt",)),
)
PUBLISHED = "WenyaoZhang/Hybrid-depth"
ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?",
    re.ASCII,
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def find_source(source: str | Path, **hub: Any) -> Path:
    """Return the local file or folder of a source, downloaded if it is a Hub id.

    Args:
        source: ``"tiny"`` (ships in the package), a file, a folder, or a Hub id ``organisation/name``.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: none of these, or a repository that cannot be reached.
        TypeError: another option, also where the source is not on the Hub.
    """
    if unknown := sorted(set(hub) - set(HUB_OPTIONS)):
        raise TypeError(f"there is no option {unknown[0]!r}; those of the Hub are {', '.join(HUB_OPTIONS)}.")
    path = find_local(source)
    return _download(str(source), hub) if path is None else path


def find_local(source: str | Path) -> Path | None:
    """Return the local file or folder of a source; None where it can only be a Hub id. The network is not asked.

    Raises:
        CheckpointError: neither.
    """
    name = str(source)
    if name == "tiny":
        return SHIPPED / "tiny"
    try:
        path = Path(source).expanduser()
        if name and path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a user who does not exist
        raise CheckpointError(f"{name} cannot be a path ({getattr(error, 'strerror', None) or error}).") from error
    if not isinstance(source, Path):
        _refuse_other_names(name)
    if isinstance(source, Path) or not HUB_ID.fullmatch(name) or path.suffix in FILES:
        raise CheckpointError(
            f"{name or 'an empty name'} is neither a file or folder nor a Hub id of the form 'organisation/name'; "
            "check the path."
        )
    return None


def _refuse_other_names(name: str) -> None:
    """Raise CheckpointError for what is known not to be weights of this library, and say what it is."""
    if name in PRESETS:
        raise CheckpointError(
            f"{name!r} is a preset, which says how a model is built and has no trained weights; name 'tiny', a folder "
            f"or a Hub id, or build it from public backbones: HybridDepthModel({name!r})."
        )
    if found := ADDRESS.match(name):
        revision = f", revision={found['revision']!r}" if found["revision"] else ""
        raise CheckpointError(f"{name} is an address; name the Hub id alone: {found['repo']!r}{revision}.")
    if explained := explain_backbone(name):
        raise CheckpointError(
            f"{name!r} {explained}, and weights are those of a model of this library: 'tiny', a folder or a Hub id."
        )


def _download(repo: str, hub: Mapping[str, Any]) -> Path:
    fix = "or download the repository and name its folder: from_pretrained('path/to/folder')"
    if meant := _nearly(repo, hub.get("cache_dir")):
        fix = f"name {meant!r} if that was meant, {fix}"
    return hub_folder(repo, LAYOUTS, fix=fix, cached_first=False, **hub)[0]


def _nearly(repo: str, cache: str | Path | None) -> str | None:
    """Return a Hub id that is nearly this one: of the published weights, or of what is in the cache."""
    known = {name.lower(): name for name in [*cached_repositories(cache), PUBLISHED]}
    near = difflib.get_close_matches(repo.lower(), known, n=1, cutoff=0.85)
    return known[near[0]] if near and known[near[0]] != repo else None
