"""``pose.safetensors``: what predicts the camera's motion, in a file that says how it is built."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
from torch import Tensor

from hybrid_encoder.checkpoints.files import CONFIG, read_tensors
from hybrid_encoder.checkpoints.history import History, history_metadata, read_history
from hybrid_encoder.checkpoints.sources import find_local
from hybrid_encoder.checkpoints.tensor_files import save_tensors
from hybrid_encoder.config.pose import PoseConfig
from hybrid_encoder.config.serialization import FORMAT_VERSION, parse
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.writing import written_whole

POSE = "pose.safetensors"
KEY = "pose_config"  # in the metadata of the file
FINAL = "final"  # where a run puts its weights; its pose network stands in the run's folder, too


class PoseFile(NamedTuple):
    """A file that was read.

    Attributes:
        path: of the file.
        config: what it says; None where it was written before files said it.
        tensors: by name, checked.
        history: the trainings that they have been through; None where the file says none.
    """

    path: Path
    config: PoseConfig | None
    tensors: dict[str, Tensor]
    history: History | None


def save_pose(
    path: str | Path, config: PoseConfig, tensors: Mapping[str, Tensor], history: History | None = None
) -> Path:
    """Write ``pose.safetensors``, whole or not at all.

    Args:
        path: of the file, or of a folder, which is made if it is not there.
        config: what the network is built from.
        tensors: its state dict.
        history: the trainings that it has been through.

    Returns:
        The path of the file.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / POSE
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"format_version": FORMAT_VERSION, "config": config.to_dict()}
    with written_whole(file) as place:
        metadata = {KEY: json.dumps(content, separators=(",", ":")), **history_metadata(history)}
        save_tensors(place, tensors, metadata, file)
    return file


def read_pose(source: str | Path) -> PoseFile:
    """Find and read a ``pose.safetensors``.

    Args:
        source: the file, the folder of a training run, or that of its weights.

    Raises:
        CheckpointError: there is none, or what there is cannot be read.
    """
    file = find_pose(source)
    tensors = read_tensors(file)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{file} is not a safetensors file ({error}); name a run's {POSE}.") from None
    config = None
    try:
        if KEY in metadata:
            content = parse(metadata[KEY].encode("utf-8", "replace"))
            config = PoseConfig.from_dict(content.get("config"))  # type: ignore[arg-type]  # it is checked there
    except ConfigError as error:
        raise CheckpointError(f"{file} describes a pose network that cannot be: {error}") from error
    return PoseFile(file, config, tensors, read_history(file))


def find_pose(source: str | Path) -> Path:
    """Return the file of a run's motion network.

    Args:
        source: as for :func:`read_pose`.

    Raises:
        CheckpointError: there is none.
    """
    path = find_local(source)
    if path is None:
        raise CheckpointError(f"{source} is no file or folder; name a run of train-fine, or its {POSE}.")
    if path.is_file():
        return path
    places = [path / POSE]
    if Path(os.path.abspath(path)).name == FINAL:
        places.append(Path(os.path.abspath(path)).parent / POSE)
    for place in places:
        if place.is_file():
            return place
    holds = "weights of depth alone" if (path / CONFIG).is_file() else "no weights of motion"
    raise CheckpointError(
        f"{source} holds {holds}, no {POSE}; name the folder of a run of train-fine, which writes it."
    )
