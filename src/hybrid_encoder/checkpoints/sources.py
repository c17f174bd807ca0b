"""Where a checkpoint is: in the package, in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_encoder.checkpoints.files import CONFIG, FILES, WEIGHTS
from hybrid_encoder.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "weights"
HUB_SECONDS = 9.0
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
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
    """Download the weights of one repository; the first answer must come within ``HUB_SECONDS``."""
    from huggingface_hub import HfApi, snapshot_download

    options = {k: v for k, v in hub.items() if v is not None}
    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            info = HfApi(token=options.get("token")).model_info(
                repo, revision=options.get("revision"), timeout=HUB_SECONDS / 2
            )
            answer["files"] = {sibling.rfilename for sibling in info.siblings or ()}
        except Exception as error:  # reported below, whatever the network library raised
            answer["error"] = error

    if not options.get("local_files_only"):
        # Name resolution has no time limit of its own, so the request runs in a thread that can be left behind.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(HUB_SECONDS)
    files = answer.get("files")
    if files is None:
        try:
            return Path(snapshot_download(repo, **{**options, "local_files_only": True}))
        except Exception as error:
            cause = answer.get("error", "no answer in time" if not options.get("local_files_only") else error)
            raise CheckpointError(
                f"{repo!r} could not be reached on the Hugging Face Hub and is not in its cache "
                f"({type(cause).__name__ if isinstance(cause, Exception) else cause}); check the name and the "
                "connection, or download the repository and name its folder: from_pretrained('path/to/folder')."
            ) from (cause if isinstance(cause, Exception) else None)
    for needed, patterns in (
        (WEIGHTS, [CONFIG, WEIGHTS]),
        ("checkpoints/encoder.pth", ["checkpoints/encoder.pth", "checkpoints/depth.pth"]),
        ("encoder.pth", ["encoder.pth", "depth.pth"]),
    ):
        if needed in files:
            return Path(snapshot_download(repo, allow_patterns=patterns, **options))
    raise CheckpointError(f"{repo!r} on the Hugging Face Hub holds neither {WEIGHTS} nor encoder.pth; check the name.")
