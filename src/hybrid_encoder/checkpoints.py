"""Finding, reading and writing weights: our layout, the published one, and the Hub.

Ours is a folder with ``config.json``, ``model.safetensors`` and a model card. The published layout is a folder
with ``encoder.pth`` and ``depth.pth`` (or one that holds it as ``checkpoints/``), or a stage-1 Lightning
``.ckpt``. Loading builds the architecture from the configuration alone and never asks for a backbone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybrid_encoder import published
from hybrid_encoder.cards import model_card
from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.files import CONFIG, FOLDER_HINT, WEIGHTS, locate, read_tensors, write_whole

if TYPE_CHECKING:
    from hybrid_encoder.decoder import DPTDecoder
    from hybrid_encoder.encoder import HybridDepthEncoder
    from hybrid_encoder.matching import Spacing
    from hybrid_encoder.matching_encoder import HybridMatchingEncoder
    from hybrid_encoder.model import HybridDepthModel

BIN_RANGE = ("min_depth_bin", "max_depth_bin")
SETTINGS = ("height", "width", "use_stereo", *BIN_RANGE)  # what stands among the tensors of a published encoder.pth
E_ = TypeVar("E_", bound="HybridDepthEncoder")
M_ = TypeVar("M_", bound="HybridDepthModel")


class HubModel(nn.Module, ModelHubMixin):
    """``save_pretrained`` and ``push_to_hub`` for our models; each subclass brings its ``from_pretrained``."""

    config: Any  # HybridEncoderConfig or HybridDepthConfig, as each subclass says

    def __init__(self) -> None:
        super().__init__()
        self._hub_mixin_config = None  # the mixin would write the constructor's arguments; we write our own

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder; each file whole or not
        at all. Options are those of huggingface_hub's mixin (``push_to_hub``, ``repo_id``, ...); ``notes`` goes
        into the card ("how it was made").
        """
        options["config"] = None  # written with the weights, below
        options["model_card_kwargs"] = {"notes": options.pop("notes", "")}
        result: str | None = super().save_pretrained(save_directory, **options)
        return result

    def _save_pretrained(self, save_directory: Path) -> None:
        from safetensors.torch import save

        content = {"class": type(self).__name__, "library": "hybrid-encoder", "config": self.config.to_dict()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_whole(save_directory / WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_whole(save_directory / CONFIG, (json.dumps(content, indent=2) + "\n").encode())

    def generate_model_card(self, *args: Any, notes: str = "", **kwargs: Any) -> Any:
        from huggingface_hub import ModelCard

        return ModelCard(model_card(type(self).__name__, self.config, notes))


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was found and read, before a model is built from it.

    Attributes:
        path: the file or folder.
        kind: ``"ours"``, ``"published"`` or ``"stage1"``.
        encoder_config: always there.
        model_config: None where there is no decoder.
        tensors: ours under our names, the others as published.
        depth: the published decoder's tensors.
    """

    path: Path
    kind: str
    encoder_config: HybridEncoderConfig
    model_config: HybridDepthConfig | None
    tensors: Mapping[str, Tensor]
    depth: Mapping[str, Tensor] | None = None

    def build_encoder(self, cls: type[E_], config: HybridEncoderConfig | None = None) -> E_:
        """The encoder with its weights, in evaluation mode."""
        with _Unfilled():
            encoder = cls(config or self.encoder_config, pretrained=False)
        if self.kind == "ours":
            inside = self.model_config is not None
            state = {
                name.removeprefix("encoder.") if inside else name: value
                for name, value in self.tensors.items()
                if not inside or name.startswith("encoder.")
            }
        else:
            state = self._published_encoder(encoder)
        fill(encoder, state, self.path)
        return encoder.eval()

    def build_model(self, cls: type[M_], config: HybridDepthConfig | None = None) -> M_:
        """Encoder and decoder with their weights, in evaluation mode."""
        if self.model_config is None:
            raise CheckpointError(
                f"{self.path} holds an encoder without a decoder; load it with HybridDepthEncoder.from_pretrained."
            )
        with _Unfilled():
            model = cls(config or self.model_config, pretrained=False)
        if self.kind == "ours":
            fill(model, self.tensors, self.path)
        else:
            fill(model.encoder, self._published_encoder(model.encoder), self.path)
            fill(model.decoder, published.decoder_state(self.depth or {}), self.path)
        return model.eval()

    def _published_encoder(self, encoder: HybridDepthEncoder) -> dict[str, Tensor]:
        prompts = encoder.prompts
        ids, length = ((), 0) if prompts is None else (prompts.word_ids, prompts.positional_embedding.shape[0])
        return published.encoder_state(self.tensors, encoder.config, ids, length)


class _Unfilled(TorchFunctionMode):
    """Building a model draws no random numbers: a checkpoint is about to overwrite every one of them."""

    INIT = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_")
    FILLS = frozenset([Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, *(getattr(nn.init, name) for name in INIT)])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.zeros if func is torch.randn else func)(*args, **(kwargs or {}))


def load(source: str | Path, **hub: Any) -> Loaded:
    """Find and read a checkpoint: ``"tiny"``, a folder, a ``.ckpt`` file, or a Hub id.

    Raises:
        CheckpointError: not found, unreadable, or of no known layout.
    """
    path = locate(source, **hub)
    if path.is_file():
        return _load_stage1(path)
    if (path / CONFIG).is_file() or (path / WEIGHTS).is_file():
        return _load_ours(path)
    for folder in (path, path / "checkpoints"):
        if (folder / "encoder.pth").is_file():
            return _load_published(folder)
    stage1 = path / "stage1_checkpoint" / "stage1.ckpt"
    if stage1.is_file():
        return _load_stage1(stage1)
    raise CheckpointError(
        f"{path} holds no checkpoint; needed are config.json and model.safetensors (ours), or encoder.pth and "
        "depth.pth (published), or name a stage-1 .ckpt file."
    )


def load_published_matching(
    folder: str | Path, depth_binning: Spacing = "linear", num_depth_bins: int = 96
) -> tuple[HybridMatchingEncoder, DPTDecoder]:
    """The published multi-frame (ManyDepth) variant, in evaluation mode, with ``adaptive_bins`` on; never downloads.

    Args:
        folder: with ``encoder.pth`` and ``depth.pth``.
        depth_binning: ``"linear"`` or ``"inverse"``; the files do not tell.
        num_depth_bins: how many depths the encoder was trained with.

    Raises:
        CheckpointError: a file or key is missing, or a key has no place.
    """
    from hybrid_encoder.matching_encoder import HybridMatchingEncoder
    from hybrid_encoder.model import HybridDepthModel

    path = Path(folder).expanduser()
    content, depth = read_tensors(path / "encoder.pth"), read_tensors(path / "depth.pth")
    size, bins = _size(content), {name: float(content[name]) for name in BIN_RANGE if name in content}
    content = {key: value for key, value in content.items() if key not in SETTINGS}
    _only_tensors(content, path / "encoder.pth")
    _only_tensors(depth, path / "depth.pth")
    tensors, reduce = published.single_frame(content)
    width, read = reduce["0.weight"].shape[:2]
    if read != width + num_depth_bins:
        raise CheckpointError(
            f"{path}: 'reduce_conv.0.0.weight' reads {read - width} depth bins, and num_depth_bins is "
            f"{num_depth_bins}; give {read - width}."
        )
    config = published.multi_frame_config(tensors, depth, size)
    model = Loaded(path, "published", config.encoder, config, tensors, depth).build_model(HybridDepthModel)
    with _Unfilled():
        encoder = HybridMatchingEncoder(
            model.encoder, num_depth_bins=num_depth_bins, depth_binning=depth_binning, adaptive_bins=True
        )
    fill(encoder.reduce, reduce, path / "encoder.pth")
    if bins:
        encoder.compute_depth_bins(**bins)
    return encoder.eval(), model.decoder


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict strictly, naming the first key that does not fit.

    Tensors are taken over where they need no other type or device: those of a file stay mapped to it (privately, a
    change never reaches the file), so that weights are not held twice.
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


def read_config(folder: Path) -> tuple[HybridEncoderConfig, HybridDepthConfig | None]:
    """The encoder's configuration of a folder in this library's layout, and the model's where it is a whole one.

    Raises:
        CheckpointError: no ``config.json``, or not one of ours.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    try:
        content = json.loads(file.read_text())
        kind, config = content["class"], content["config"]
        if kind == "HybridDepthEncoder":
            return HybridEncoderConfig.from_dict(config), None
        if kind == "HybridDepthModel":
            model = HybridDepthConfig.from_dict(config)
            return model.encoder, model
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{file} is no configuration of this library: {error}") from error
    raise CheckpointError(f"{file} describes a {kind!r}, which this version does not know.")


def _load_ours(folder: Path) -> Loaded:
    encoder, model = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}; a checkpoint needs both {CONFIG} and {WEIGHTS}.")
    return Loaded(folder, "ours", encoder, model, read_tensors(folder / WEIGHTS))


def _load_published(folder: Path) -> Loaded:
    content = read_tensors(folder / "encoder.pth")
    tensors = {key: value for key, value in content.items() if key not in SETTINGS}
    _only_tensors(tensors, folder / "encoder.pth")
    if not (folder / "depth.pth").is_file():
        return Loaded(folder, "published", published.encoder_config(tensors), None, tensors)
    depth = read_tensors(folder / "depth.pth")
    _only_tensors(depth, folder / "depth.pth")
    config = published.model_config(tensors, depth, _size(content))
    return Loaded(folder, "published", config.encoder, config, tensors, depth)


def _load_stage1(path: Path) -> Loaded:
    content = read_tensors(path)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} has no 'state_dict'; a stage-1 checkpoint (Lightning) has one. {FOLDER_HINT}")
    tensors = {key.removeprefix("model."): value for key, value in state.items()}
    # Stage 1 carries a decoder that it never trains.
    tensors = {key: value for key, value in tensors.items() if not key.startswith("depth_head.")}
    _only_tensors(tensors, path)
    return Loaded(path, "stage1", published.encoder_config(tensors, stage1=True), None, tensors)


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("height"), content.get("width")
    return (int(height), int(width)) if height and width else None


def _only_tensors(content: Mapping[str, Any], path: Path) -> None:
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key!r} is a {type(value).__name__}; a state dict holds tensors alone.")
