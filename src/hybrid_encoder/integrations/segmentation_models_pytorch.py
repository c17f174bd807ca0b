"""The encoder as one of segmentation_models_pytorch's, for Unet and its other decoders; registered on import.

.. code-block:: python

    import segmentation_models_pytorch as smp
    import hybrid_encoder.integrations.segmentation_models_pytorch

    model = smp.Unet("hybrid_encoder_tiny", encoder_weights="tiny", classes=19)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.kinds import MODEL_CONFIGS
from hybrid_encoder.config.models import PRESETS, HybridEncoderConfig, find_encoder_config
from hybrid_encoder.config.pyramids import NECK_STRIDES
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.neck import PyramidNeck

try:
    import segmentation_models_pytorch as smp
except ImportError as error:
    raise ImportError(
        f"the package {error.name or 'segmentation_models_pytorch'} is missing; pip install 'hybrid-encoder[smp]'."
    ) from error

BACKBONES = "backbones"  # the public CLIP and DINO weights that a configuration names
TINY = "tiny"  # the weights that ship with the package, and the preset that they are of
PREPROCESSING = Path(__file__).with_suffix(".json")  # as smp reads it: RGB in [0, 1], without mean and deviation


class SegmentationEncoder(nn.Module):
    """The hybrid encoder with a pyramid of its maps, behind the interface of smp's encoders.

    It takes RGB in [0, 1] and normalises it itself. The pyramid starts from random weights, whatever ``encoder`` starts
    from: it is trained with the decoder.

    Args:
        config: of the encoder.
        depth: how many levels the pyramid has, 1 to 5.
        output_stride: 32, or 16 or 8, at which the deeper levels then stay.

    Attributes:
        encoder: the encoder itself; ``encoder.set_trainable`` says which of its parts train.
        neck: brings its maps to the pyramid, as wide as a ResNet-18's.

    Raises:
        ConfigError: another depth or stride.
    """

    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(self, config: HybridEncoderConfig, depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        if depth not in range(1, 6):
            raise ConfigError(f"encoder_depth is {shown(depth)}; the hybrid encoder has 1 to 5 levels.")
        self._depth = depth
        self._output_stride = _checked_stride(output_stride)
        self._take(HybridDepthEncoder(config, pretrained=False))

    @property
    def out_channels(self) -> list[int]:
        """Channels of the features: of the image, and of every level of the pyramid."""
        return [3, *self.neck.num_ch_enc]

    @property
    def output_stride(self) -> int:
        """Stride of the last feature."""
        return self.neck.strides[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Take RGB in [0, 1], (B, 3, H, W), to features (B, out_channels[i], ceil(H / 2**i), ceil(W / 2**i)).

        Raises:
            InputError: images of another shape, type or value range, or smaller than 32 x 32.
        """
        if self.training and not torch.compiler.is_compiling():
            self._keep_frozen_norms()
        features: list[Tensor] = self.neck(self.encoder(images), image_size=(images.shape[-2], images.shape[-1]))
        return [images, *features]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    # -- what smp does to an encoder ---------------------------------------------------------------------

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Raise ConfigError for anything but RGB: CLIP and DINO read three channels."""
        if in_channels != 3:
            raise ConfigError(
                f"in_channels is {shown(in_channels)}; the hybrid encoder reads RGB: give in_channels=3, and further "
                "channels to a network of their own."
            )

    def make_dilated(self, output_stride: int) -> None:
        """Keep the levels that are coarser than a stride at it. The encoder's own grid is finer than either anyway."""
        self._output_stride = _checked_stride(output_stride)
        self._hold_levels()

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            "the hybrid encoder is no TorchScript; export the model with torch.export.export, or as ONNX."
        )

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return those that are meant to train: ``unfreeze_encoder`` releases no more than these."""
        frozen = {id(parameter) for parameter in self.encoder.frozen_parameters()}
        return (parameter for parameter in super().parameters(recurse) if id(parameter) not in frozen)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict; or, as ``encoder_weights`` asks for, the encoder of trained weights in place of this one.

        Raises:
            CheckpointError: weights that are not found, unreadable, or not those of an encoder.
        """
        if isinstance(state_dict, _Source):
            self._take(state_dict.encoder(self.encoder.config).train(self.training))
            return None
        return super().load_state_dict(state_dict, strict, assign)

    def _take(self, encoder: HybridDepthEncoder) -> None:
        self.encoder = encoder
        self.neck = PyramidNeck(encoder.feature_info.channels(), strides=NECK_STRIDES[: self._depth])
        self._hold_levels()

    def _hold_levels(self) -> None:
        """Bring no level to a coarser stride than is asked for; the neck's weights are the same at any stride."""
        self.neck.strides = tuple(min(stride, self._output_stride) for stride in NECK_STRIDES[: self._depth])

    def _keep_frozen_norms(self) -> None:
        """Keep batch norms that do not train in evaluation mode: ``unfreeze_encoder`` sets the mode of all of them."""
        for module in self.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                own = list(module.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()


def _checked_stride(output_stride: int) -> int:
    if output_stride not in (8, 16, 32):
        raise ConfigError(f"encoder_output_stride is {shown(output_stride)}; the hybrid encoder has 8, 16 and 32.")
    return output_stride


class _Source(str):
    """Where weights of ours come from, in the place of smp's own name of a repository on the Hub."""

    def encoder(self, config: HybridEncoderConfig) -> HybridDepthEncoder:
        """Return the trained encoder; for the public backbones, one of this configuration that starts from them."""
        if self == BACKBONES:
            return HybridDepthEncoder(config, pretrained=True)
        return HybridDepthEncoder.from_checkpoint(read_checkpoint(str(self)))


class _Settings(Mapping[str, "dict[str, Any]"]):
    """What smp asks for the weights of an encoder: those that have a name, and any folder or Hub id."""

    def __init__(self, *named: str) -> None:
        self.named = named

    def __getitem__(self, weights: str) -> dict[str, Any]:
        if weights not in self:
            raise KeyError(weights)
        return {"repo_id": _Source(weights), "revision": None}

    def __contains__(self, weights: object) -> bool:
        if isinstance(weights, Path):
            raise ConfigError(
                f"encoder_weights is {weights!r}; give the path as a string, which smp saves with a model."
            )
        if not isinstance(weights, str):
            return False
        return weights in self.named or "/" in weights or Path(weights).expanduser().exists()

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __len__(self) -> int:
        return len(self.named)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.named))}, a folder or Hub id]"


def register_encoder(name: str, config: Any) -> None:
    """Put an encoder of another configuration than the presets' into smp's registry.

    Args:
        name: for ``encoder_name``.
        config: a ``HybridEncoderConfig`` or that of a whole model; or trained weights that have one: ``"tiny"``, a
            folder or a Hub id.

    Raises:
        CheckpointError: weights that are not found or unreadable.
        ConfigError: not a configuration, or a name that is smp's own.
    """
    entry = smp.encoders.encoders.get(name)
    if not isinstance(name, str) or (entry is not None and entry["encoder"] is not SegmentationEncoder):
        raise ConfigError(f"name is {shown(name)}; a name is needed that no encoder of smp has.")
    if isinstance(config, (str, Path)):
        config = read_checkpoint(config).part(HybridEncoderConfig)[0]
    if type(config) not in (HybridEncoderConfig, *MODEL_CONFIGS.values()):
        raise ConfigError(
            f"config is {shown(config)}; a HybridEncoderConfig is needed, or trained weights that have one."
        )
    _register(name, find_encoder_config(config), TINY, BACKBONES)


def _register(name: str, config: HybridEncoderConfig, *weights: str) -> None:
    smp.encoders.encoders[name] = {
        "encoder": SegmentationEncoder,
        "pretrained_settings": _Settings(*weights),
        "params": {"config": config},
    }


def _look_up_ours(download: Callable[..., Any], load_file: Callable[..., Any]) -> None:
    """Put our own look-up into the two names by which smp gets weights; its own repositories go on as before."""

    @functools.wraps(download)
    def find(repo_id: str, *args: Any, filename: str, **options: Any) -> str:
        if not isinstance(repo_id, _Source):
            found: str = download(repo_id, *args, filename=filename, **options)
            return found
        return str(PREPROCESSING) if filename == "config.json" else repo_id

    @functools.wraps(load_file)
    def load(path: str, *args: Any, **options: Any) -> Any:
        return path if isinstance(path, _Source) else load_file(path, *args, **options)

    smp.encoders.hf_hub_download, smp.encoders.load_file = find, load


_look_up_ours(smp.encoders.hf_hub_download, smp.encoders.load_file)
for _name, _preset in PRESETS.items():
    _register(f"hybrid_encoder_{_name}", _preset.encoder, TINY, *(() if _name == TINY else (BACKBONES,)))
