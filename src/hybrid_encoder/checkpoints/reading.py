"""Checkpoints: found, read, and handed to a model as a configuration and a state dict.

Ours is a folder with ``config.json``, ``model.safetensors`` and a model card. The published layout is a folder with
``encoder.pth`` and ``depth.pth`` (or one that holds it as ``checkpoints/``), or a stage-1 Lightning ``.ckpt``. Nothing
here knows a model class: a model builds itself from the configuration and says what it needs of the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybrid_encoder.checkpoints import published, published_state
from hybrid_encoder.checkpoints.files import CONFIG, FOLDER_HINT, WEIGHTS, find_source, read_tensors
from hybrid_encoder.config import (
    MODEL_CONFIGS,
    DepthScale,
    migrate,
)
from hybrid_encoder.config.serialization import Serializable
from hybrid_encoder.errors import CheckpointError, ConfigError

BIN_RANGE = ("min_depth_bin", "max_depth_bin")
SETTINGS = ("height", "width", "use_stereo", *BIN_RANGE)  # what stands among the tensors of a published encoder.pth
DESCRIBED = {
    "HybridDepthEncoder": "an encoder without a decoder",
    "HybridDepthModel": "a single-frame model",
    "HybridMatchingEncoder": "a multi-frame encoder without a decoder",
    "HybridMatchingModel": "a multi-frame model",
}
Layout = Literal["ours", "published", "stage1"]
Tensors = Mapping[str, Tensor]
C_ = TypeVar("C_", bound=Serializable)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found and read, before a model is built from it.

    Attributes:
        path: the file or folder.
        layout: ``"ours"``, ``"published"`` (encoder.pth and depth.pth) or ``"stage1"`` (a Lightning file).
        config: of the model that it holds, one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
        tensors: ours under our names, the others as published.
        decoder_tensors: the published decoder's.
    """

    path: Path
    layout: Layout
    config: Any
    tensors: Tensors
    decoder_tensors: Tensors = field(default_factory=dict)

    @property
    def holds(self) -> str:
        """The name of the model class that the checkpoint is of."""
        return next(name for name, kind in MODEL_CONFIGS.items() if type(self.config) is kind)

    def part(self, kind: type[C_]) -> tuple[C_, str]:
        """Return the configuration of this kind, and what the names of its tensors begin with.

        It is that of the checkpoint itself, or of the encoder where the checkpoint is of an encoder with a decoder.

        Raises:
            CheckpointError: there is none.
        """
        if isinstance(self.config, kind):
            return self.config, ""
        if isinstance(self.config, DepthScale) and isinstance(inner := getattr(self.config, "encoder", None), kind):
            return inner, "encoder."
        wanted = next(name for name, config in MODEL_CONFIGS.items() if config is kind)
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
        if self.layout != "ours":
            decoder = {} if prefix else self.decoder_tensors
            tensors = published_state.whole_state(self.config, config, self.tensors, decoder, word_ids, num_positions)
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class _NoInitialisation(TorchFunctionMode):
    """Turns the drawing of random numbers into nothing."""

    INIT = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_")
    FILLS = frozenset([Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, *(getattr(nn.init, name) for name in INIT)])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.zeros if func is torch.randn else func)(*args, **(kwargs or {}))


@contextmanager
def no_initialisation() -> Iterator[None]:
    """Build models without drawing random numbers: a checkpoint is about to overwrite every one of them."""
    with _NoInitialisation():
        yield


def read_checkpoint(source: str | Path, **hub: Any) -> Checkpoint:
    """Find and read a checkpoint: ``"tiny"``, a folder, a ``.ckpt`` file, or a Hub id.

    Args:
        source: where it is.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: not found, unreadable, or of no known layout.
    """
    path = find_source(source, **hub)
    if path.is_file():
        return _read_stage1(path)
    if (path / CONFIG).is_file() or (path / WEIGHTS).is_file():
        return _read_ours(path)
    for folder in (path, path / "checkpoints"):
        if (folder / "encoder.pth").is_file():
            return _read_published(folder)
    stage1 = path / "stage1_checkpoint" / "stage1.ckpt"
    if stage1.is_file():
        return _read_stage1(stage1)
    raise CheckpointError(
        f"{path} holds no checkpoint; needed are config.json and model.safetensors (ours), or encoder.pth and "
        "depth.pth (published), or name a stage-1 .ckpt file."
    )


def fill(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Load a state dict strictly; an error names the first key that does not fit.

    Tensors are taken over where they need no other type or device: those of a file stay mapped to it (privately, a
    change never reaches the file), so that weights are not held twice.

    Raises:
        CheckpointError: a key that is missing, has no place, or has another shape.
    """
    own = module.state_dict()
    name = type(module).__name__
    if missing := sorted(set(own) - set(state)):
        raise CheckpointError(f"{path} has no key {missing[0]!r} ({len(missing)} missing), which this {name} needs.")
    if extra := sorted(set(state) - set(own)):
        raise CheckpointError(
            f"{path} has the key {extra[0]!r} ({len(extra)} in all), which this {name} has no place for."
        )
    for key, value in own.items():
        if not isinstance(state[key], Tensor) or state[key].shape != value.shape:
            found = tuple(state[key].shape) if isinstance(state[key], Tensor) else type(state[key]).__name__
            raise CheckpointError(f"{path}: {key!r} is {found}, and this {name} needs {tuple(value.shape)}.")
    fitting = {key: state[key].to(value.device, value.dtype).contiguous() for key, value in own.items()}
    module.load_state_dict(fitting, strict=True, assign=True)


def read_config(folder: Path) -> Any:
    """Read the configuration of a folder in this library's layout, of any version.

    Returns:
        One of :data:`hybrid_encoder.config.MODEL_CONFIGS`.

    Raises:
        CheckpointError: no ``config.json``, or not one of ours.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    try:
        content = migrate(json.loads(file.read_text()))
        name, config = content["class"], content["config"]
        if name in MODEL_CONFIGS:
            return MODEL_CONFIGS[name].from_dict(config)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{file} is not a configuration of this library: {error}") from error
    raise CheckpointError(f"{file} describes a {name!r}, which this version does not know.")


def _read_ours(folder: Path) -> Checkpoint:
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    return Checkpoint(folder, "ours", config, read_tensors(folder / WEIGHTS))


def _read_published(folder: Path) -> Checkpoint:
    content = read_tensors(folder / "encoder.pth")
    tensors = {key: value for key, value in content.items() if key not in SETTINGS}
    _check_tensors(tensors, folder / "encoder.pth")
    decoder: Tensors = {}
    if (folder / "depth.pth").is_file():
        decoder = read_tensors(folder / "depth.pth")
        _check_tensors(decoder, folder / "depth.pth")
    bins = {name: float(content[name]) for name in BIN_RANGE if name in content}
    config = published.read_model_config(tensors, decoder, _image_size(content), bins)
    return Checkpoint(folder, "published", config, tensors, decoder)


def _read_stage1(path: Path) -> Checkpoint:
    content = read_tensors(path)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} has no 'state_dict'; a stage-1 checkpoint (Lightning) has one. {FOLDER_HINT}")
    tensors = {key.removeprefix("model."): value for key, value in state.items()}
    # Stage 1 carries a decoder that it never trains.
    tensors = {key: value for key, value in tensors.items() if not key.startswith("depth_head.")}
    _check_tensors(tensors, path)
    return Checkpoint(path, "stage1", published.encoder_config(tensors, stage1=True), tensors)


def _image_size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("height"), content.get("width")
    return (int(height), int(width)) if height and width else None


def _check_tensors(content: Mapping[str, Any], path: Path) -> None:
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key!r} is a {type(value).__name__}; a state dict holds tensors alone.")
