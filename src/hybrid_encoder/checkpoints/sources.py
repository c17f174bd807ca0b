"""Where a checkpoint is: in the package, in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_encoder.checkpoints.files import CONFIG, FILES, WEIGHTS
from hybrid_encoder.downloading import hub_folder
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.hub_cache import Alternative

SHIPPED = Path(__file__).parents[1] / "weights"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
PAIRS = [(f"{folder}encoder.pth", f"{folder}depth.pth") for folder in ("checkpoints/", "")]
LAYOUTS: tuple[Alternative, ...] = (
    (WEIGHTS, (CONFIG, WEIGHTS)),
    *((encoder, (encoder, decoder)) for encoder, decoder in PAIRS),
    *((encoder, (encoder,)) for encoder, _ in PAIRS),  # in the cache, where the decoder never was
    ("stage1_checkpoint/stage1.ckpt", ("stage1_checkpoint/stage1.ckpt",)),
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
    if isinstance(source, Path) or not HUB_ID.fullmatch(name) or path.suffix in FILES:
        raise CheckpointError(
            f"{name or 'an empty name'} is neither a file or folder nor a Hub id of the form 'organisation/name'; "
            "check the path."
        )
    return None


def _download(repo: str, hub: Mapping[str, Any]) -> Path:
    fix = "or download the repository and name its folder: from_pretrained('path/to/folder')"
    return hub_folder(repo, LAYOUTS, fix=fix, cached_first=False, **hub)[0]
