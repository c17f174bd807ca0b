"""Files of weights: where they are, and reading them safely."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybrid_encoder.errors import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).parents[1] / "weights"
FILES = (".ckpt", ".pth", ".pt", ".safetensors", ".bin")
FOLDER_HINT = "For a folder with encoder.pth and depth.pth, name the folder."
HUB_SECONDS = 9.0
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


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
    if str(source) == "tiny":
        return SHIPPED / "tiny"
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix in FILES:
        raise CheckpointError(
            f"{name} is neither a file or folder nor a Hub id of the form 'organisation/name'; check the path."
        )
    return _download(name, hub)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or a pickle that holds nothing but tensors and numbers.

    Raises:
        CheckpointError: the file is missing, damaged, or holds other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; check the path.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a whole safetensors file ({error}); copy or download it again."
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TorchScript archives, and then refuses them
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(_why_not(path, str(error))) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a state dict (names to tensors) is needed.")
    return content


def _why_not(path: Path, error: str) -> str:
    if "TorchScript" in error:
        return (
            f"{path} is a TorchScript archive, not a state dict; save its weights with "
            "torch.save(torch.jit.load(path).state_dict(), new_path) and name that file."
        )
    if "Unsupported global" in error or "weights_only" in error or "Unsupported operand" in error:
        return (
            f"{path} holds objects besides tensors and numbers, which are not read because a pickle can run code; if "
            "you trust it, save its tensors alone: torch.save({'state_dict': torch.load(path, "
            "weights_only=False)['state_dict']}, new_path)."
        )
    return f"{path} is not a checkpoint that torch can read ({error.splitlines()[0] if error else 'empty file'})."


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
