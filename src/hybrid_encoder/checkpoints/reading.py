"""Checkpoints: found, read, and handed to a model as a configuration and a state dict.

Ours is a folder with ``config.json``, ``model.safetensors`` and a model card. The published layout is a folder with
``encoder.pth`` and ``depth.pth`` (or one that holds it as ``checkpoints/``), or a stage-1 Lightning ``.ckpt``. The
trainers of Monodepth2 and ManyDepth write files of these two names, too, with our networks in them. Nothing here
knows a model class: a model builds itself from the configuration and says what it needs of the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from hybrid_encoder.checkpoints import published, published_state, trained
from hybrid_encoder.checkpoints.described import stored_config
from hybrid_encoder.checkpoints.files import (
    CONFIG,
    FOLDER_HINT,
    INDEX,
    WEIGHTS,
    read_shards,
    read_tensors,
    read_weights,
)
from hybrid_encoder.checkpoints.history import History, read_history, read_note
from hybrid_encoder.checkpoints.settings import BIN_RANGE, split_settings
from hybrid_encoder.checkpoints.sources import find_source
from hybrid_encoder.config import MODEL_CONFIGS, BevConfig, DepthScale, find_encoder_config
from hybrid_encoder.config.architectures import check_stored
from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.kinds import MODEL_TYPE
from hybrid_encoder.config.parts import TOWER_KIND
from hybrid_encoder.config.serialization import MAX_BYTES, Serializable, parse
from hybrid_encoder.errors import CheckpointError, ConfigError

DESCRIBED = {
    "HybridDepthEncoder": "an encoder without a decoder",
    "HybridDepthModel": "a single-frame model",
    "HybridMatchingEncoder": "a multi-frame encoder without a decoder",
    "HybridMatchingModel": "a multi-frame model",
    "BevModel": "a bird's-eye view",
}
Layout = Literal["ours", "published", "stage1", "trained"]
Tensors = Mapping[str, Tensor]
C_ = TypeVar("C_", bound=Serializable)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found and read, before a model is built from it.

    Attributes:
        path: the file or folder.
        layout: ``"ours"``, ``"published"`` (encoder.pth and depth.pth), ``"stage1"`` (a Lightning file) or
            ``"trained"`` (files of another codebase's trainer, with networks of ours).
        config: of the model that it holds, one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
        tensors: under our names, or as published.
        decoder_tensors: the published decoder's.
        left_out: why a folder's decoder was not read, as a sentence; empty where it was.
        history: the trainings that the weights have been through, as :mod:`hybrid_encoder.checkpoints.history` says;
            None where they say none.
    """

    path: Path
    layout: Layout
    config: Any
    tensors: Tensors
    decoder_tensors: Tensors = field(default_factory=dict)
    left_out: str = ""
    history: History | None = None

    @property
    def holds(self) -> str:
        """The name of the model class that the checkpoint is of."""
        return next(name for name, kind in MODEL_CONFIGS.items() if type(self.config) is kind)

    def part(self, kind: type[C_]) -> tuple[C_, str]:
        """Return the configuration of this kind, and what the names of its tensors begin with.

        It is that of the checkpoint itself, of the encoder where the checkpoint is of an encoder with a decoder, or of
        what a bird's-eye view is built on.

        Raises:
            CheckpointError: there is none.
        """
        config, prefix = self.config, ""
        while not isinstance(config, kind) and isinstance(config, (DepthScale, BevConfig)):
            config, prefix = config.encoder, f"{prefix}encoder."  # type: ignore[union-attr]  # every DepthScale has one
        if isinstance(config, kind):
            return config, prefix
        wanted = next(name for name, config in MODEL_CONFIGS.items() if config is kind)
        if self.left_out and issubclass(kind, DepthScale):
            raise CheckpointError(
                f"{self.path} cannot be loaded as a {wanted}: {self.left_out}; {self.holds}.from_pretrained reads the "
                "encoder."
            )
        raise CheckpointError(
            f"{self.path} holds {DESCRIBED[self.holds]}, which cannot be loaded as a {wanted}; load it with "
            f"{self.holds}.from_pretrained."
        )

    def state(self, prefix: str, config: Any, word_ids: tuple[int, ...], num_positions: int) -> dict[str, Tensor]:
        """Return tensors under our names, without a prefix.

        Args:
            prefix: what the names begin with, from :meth:`part`.
            config: of the model that is filled, which need not be the checkpoint's own.
            word_ids, num_positions: which token embeddings and how many positions its prompts keep; a published
                checkpoint holds all of CLIP's.
        """
        tensors: Tensors = self.tensors
        if self.layout in ("published", "stage1"):
            decoder = {} if prefix else self.decoder_tensors
            tensors = published_state.whole_state(self.config, config, self.tensors, decoder, word_ids, num_positions)
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_checkpoint(source: str | Path, **hub: Any) -> Checkpoint:
    """Find and read a checkpoint: ``"tiny"``, a folder, a ``.ckpt`` file, or a Hub id.

    Args:
        source: where it is.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: not found, unreadable, or of no known layout.
    """
    read, place = find_reader(find_source(source, **hub))
    return read(place)


def find_reader(path: Path) -> tuple[Callable[[Path], Checkpoint], Path]:
    """Return what reads the checkpoint in a file or folder, and the place to be read; nothing is read yet.

    Raises:
        CheckpointError: a folder of no known layout.
    """
    if path.is_file():
        return _read_file, path
    if (path / CONFIG).is_file():
        return _read_ours, path
    for folder in (path, path / "checkpoints"):
        if (folder / "encoder.pth").is_file():
            return _read_pair, folder / "encoder.pth"
    stage1 = path / "stage1_checkpoint" / "stage1.ckpt"
    if stage1.is_file():
        return _read_stage1, stage1
    _refuse_run(path)
    if (path / WEIGHTS).is_file():
        _refuse_tower(path / WEIGHTS)
        raise CheckpointError(f"{path} has no {CONFIG}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    raise CheckpointError(
        f"{path} holds no checkpoint; needed are config.json and model.safetensors (ours), or encoder.pth and "
        "depth.pth (published), or name a stage-1 .ckpt file."
    )


def read_config(folder: str | Path) -> Any:
    """Read the configuration of a folder in this library's layout, of any version.

    Returns:
        One of :data:`hybrid_encoder.config.MODEL_CONFIGS`.

    Raises:
        CheckpointError: no ``config.json``, or not one of ours.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    try:
        with file.open("rb") as opened:
            return decode_config(parse(opened.read(MAX_BYTES + 1)))
    except (OSError, ConfigError) as error:
        raise CheckpointError(f"{file} is not a configuration of this library: {error}") from error


def decode_config(content: dict[str, Any]) -> Any:
    """Return the configuration that a ``config.json`` holds, which may have more in it.

    Args:
        content: as ``parse`` returns it.

    Returns:
        One of :data:`hybrid_encoder.config.MODEL_CONFIGS`.

    Raises:
        ConfigError: not one of ours.
    """
    for name in ("class", "config"):
        other = content.get("model_type") or content.get("architecture")
        if name not in content and other and other != MODEL_TYPE:
            raise ConfigError(
                f"it is of another library's model, {shown(other)}; name weights of a model of this library."
            )
        if name not in content:
            raise ConfigError(f"it has no {name!r}.")
    kind = content["class"]
    if not isinstance(kind, str) or kind not in MODEL_CONFIGS:
        raise ConfigError(f"'class' is {shown(kind)}; this version knows {', '.join(MODEL_CONFIGS)}.")
    config = MODEL_CONFIGS[kind].from_dict(content["config"])
    spatial = find_encoder_config(config).spatial
    check_stored(spatial.name, spatial.overrides)
    return config


def _read_file(path: Path) -> Checkpoint:
    """Read a single file: a stage-1 checkpoint, or one that stands for the folder that it is part of."""
    if path.name in (WEIGHTS, CONFIG) and (path.parent / CONFIG).is_file():
        return _read_ours(path.parent)
    for name, decoder in trained.FILES.items():
        if path.name in (name, decoder) and (path.parent / name).is_file():
            return _read_pair(path.parent / name)
    if path.suffix == ".safetensors":
        _refuse_run(path.parent)
        _refuse_tower(path)
    return _read_stage1(path)


def _refuse_run(folder: Path) -> None:
    """Name the weights of a training run to whoever names its folder, or a checkpoint that the run resumes from."""
    resumed_from = folder.parent.name == "checkpoints" and folder.name.startswith("step_")
    run = folder.parent.parent if resumed_from else folder
    if resumed_from or (run / "run.json").is_file() or (run / "final" / CONFIG).is_file():
        kind = "is where a training run resumes from" if resumed_from else "is the folder of a training run"
        raise CheckpointError(
            f"{folder} {kind}, not weights to load; name {run / 'final'}, which the run writes when it ends."
        )


def _refuse_tower(file: Path) -> None:
    """Say how one tower is used to whoever takes its weights for those of a model."""
    try:
        kind = str(read_note(file, TOWER_KIND))
    except OSError:
        return  # what reads the weights says why it cannot
    if config := {"clip": "SemanticConfig", "dino": "SpatialConfig"}.get(kind):
        raise CheckpointError(
            f"{file} holds one tower, which is no model; start a model from it by "
            f"{config}(..., pretrained={str(file)!r})."
        )


def _read_ours(folder: Path) -> Checkpoint:
    config = read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        if (folder / INDEX).is_file():
            return Checkpoint(folder, "ours", config, read_shards(folder / INDEX))
        raise CheckpointError(f"{folder} has no {WEIGHTS}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    return Checkpoint(folder, "ours", config, read_tensors(weights), history=read_history(weights))


def _read_pair(path: Path) -> Checkpoint:
    """Read an encoder's file and its decoder's: ours, written by another codebase's trainer, or the published ones."""
    encoder = read_weights(path)
    settings, tensors = split_settings(encoder)
    try:
        description = stored_config(tensors)
        if description is None:
            return _read_published(path, settings, tensors)
        found = trained.read_trained(path, tensors, description, settings)
    except ConfigError as error:
        raise CheckpointError(f"{path.parent} describes a model that cannot be: {error}") from error
    return Checkpoint(path.parent, "trained", found.config, found.tensors, left_out=found.left_out)


def _read_published(path: Path, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    if trained.is_undescribed(tensors):
        raise CheckpointError(
            f"{path} was written by an adapter of an earlier version, which kept no configuration; load it under "
            "patch(), with the encoder that it was trained with, and save it again."
        )
    folder = path.parent
    if not published_state.is_published(tensors):
        raise CheckpointError(
            f"{folder} is neither a published Hybrid-depth checkpoint nor one that was trained under patch(): "
            f"{path.name} has {shown(next(iter(tensors), 'no tensors'))}; the scripts that wrote it read it."
        )
    decoder = read_tensors(folder / "depth.pth") if (folder / "depth.pth").is_file() else {}
    size = (settings["height"], settings["width"]) if {"height", "width"} <= set(settings) else None
    bins = {name: float(settings[name]) for name in BIN_RANGE if name in settings}
    try:
        config = published.read_model_config(tensors, decoder, size, bins)
    except ConfigError as error:
        raise CheckpointError(f"{folder} is not a published Hybrid-depth checkpoint: {error}") from error
    left_out = "" if decoder else "there is no depth.pth beside encoder.pth"
    return Checkpoint(folder, "published", config, tensors, decoder, left_out)


def _read_stage1(path: Path) -> Checkpoint:
    content = read_weights(path)
    if content.under != "state_dict":
        raise CheckpointError(f"{path} has no 'state_dict'; a stage-1 checkpoint (Lightning) has one. {FOLDER_HINT}")
    tensors = {key.removeprefix("model."): value for key, value in content.tensors.items()}
    # Stage 1 carries a decoder that it never trains.
    tensors = {key: value for key, value in tensors.items() if not key.startswith("depth_head.")}
    try:
        config = published.encoder_config(tensors, stage1=True)
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a stage-1 checkpoint of Hybrid-depth: {error}") from error
    return Checkpoint(path, "stage1", config, tensors)
