"""Models by other authors, each as one module from images (B, 3, H, W) to disparity (B, 1, H, W).

Two of them come from checkouts of the user, which the environment variables ``HYBRID_ENCODER_PUBLISHED`` (the
published Hybrid-depth) and ``HYBRID_ENCODER_MONODEPTH2`` name. Their files are imported and never changed. What they
need and a benchmark does not have (a GPU by name, weights at a fixed path, packages that the forward pass never uses)
is replaced while they are imported and built.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PUBLISHED, MONODEPTH2 = "HYBRID_ENCODER_PUBLISHED", "HYBRID_ENCODER_MONODEPTH2"
PUBLISHED_SIZE = (224, 672)  # the only size that its decoder supports
UNUSED = ("pytorch_lightning", "omegaconf")  # imported, but not used by the forward pass


class CheckoutError(RuntimeError):
    """A checkout that does not exist or has other contents than expected."""


def checkout(variable: str) -> Path | None:
    """Return the folder that an environment variable names; None where it is not set."""
    value = os.environ.get(variable)
    if not value:
        return None
    folder = Path(value).expanduser().resolve()
    if not folder.is_dir():
        raise CheckoutError(f"{variable} is {value!r}, which is not a folder; set it to a checkout, or unset it.")
    return folder


# -- the published implementation --------------------------------------------------------------------------


class Published(nn.Module):
    """The published single-frame encoder and decoder, from a checkout.

    Args:
        folder: the checkout.
        weights: a folder with ``encoder.pth`` and ``depth.pth`` in the published layout.
        prompts: number of prompts; by default those of the weights. Another number starts from random tokens.
        device: for ``"cpu"``, ``.cuda()`` does nothing while this model is built or runs.

    Raises:
        CheckoutError: a file or package is missing, or the weights do not fit.
    """

    def __init__(self, folder: Path, weights: Path, prompts: int | None = None, device: str = "cpu") -> None:
        super().__init__()
        encoder, depth = (
            {
                key: value
                for key, value in torch.load(weights / name, weights_only=True).items()
                if torch.is_tensor(value)
            }
            for name in ("encoder.pth", "depth.pth")
        )
        token = "extra_tkns_learnables_depth."
        if prompts is not None and prompts != sum(key.startswith(token) for key in encoder):
            encoder = {key: value for key, value in encoder.items() if not key.startswith(token)}
            depth = {key: value for key, value in depth.items() if not key.startswith("depth_head.projects.")}
        count = prompts or sum(key.startswith(token) for key in encoder)
        options = types.SimpleNamespace(
            use_resnet50_instead_clip=False,
            dino_clip_align_method="interp_conv1x1",
            only_dino=False,
            only_clip=False,
            use_depth_text_align=True,
            cat_depth_text_logic=True,
            use_depth_text_embedding_preinit=False,
            n_depth_text_tokens=count,
        )
        self.device_calls = _no_device_calls if device == "cpu" else contextlib.nullcontext
        with self.device_calls(), _importing(folder / "Stage2", "networks"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # xFormers is absent
            encoders = _module("networks.dino_clip_encoder", folder)
            decoders = _module("networks.depthclip_decoder", folder)
            with _rebuilt_weights(encoders, encoder):
                self.encoder = encoders.depthdinoclipencoder(options)
            channels = {"in_channels": 1024 + count, "out_channels": [256, 512, 1024, 1024]}
            self.decoder = decoders.depthclipdecoder(options, **channels, n_depth_tokens=count)
        for part, state in ((self.encoder, encoder), (self.decoder, depth)):
            _load(part, state, weights, partly=prompts is not None)
        self.requires_grad_(False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(_trains(name))

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != PUBLISHED_SIZE:
            raise CheckoutError(f"the published decoder works at {PUBLISHED_SIZE}, not at {tuple(images.shape[-2:])}.")
        with self.device_calls():
            _, fused, words, _ = self.encoder(images, None)
            disparity: Tensor = self.decoder(fused, words)["disp", 0]
        return disparity


def _trains(name: str) -> bool:
    """Return whether a parameter of the published single-frame model trains, by its own rule."""
    if name.startswith("decoder."):
        return True
    if "clip" in name:
        return "clip.transformer" not in name
    return "dinov2.blocks.11." in name or "extra_tkns" in name


@contextlib.contextmanager
def _no_device_calls() -> Iterator[None]:
    """Make ``.cuda()`` leave tensors and modules on their device."""

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self

    with mock.patch.object(Tensor, "cuda", stay), mock.patch.object(nn.Module, "cuda", stay):
        yield


@contextlib.contextmanager
def _rebuilt_weights(encoders: Any, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the encoder the weights of its two towers from ``state``, in place of files."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    def clip(*_: Any, **__: Any) -> tuple[nn.Module, None]:
        return importlib.import_module("CLIP.clip.model").build_model(part("clip.")).float(), None

    with (
        mock.patch.object(encoders.clip, "load", clip),
        mock.patch.object(torch, "load", return_value=part("dinov2.")),
    ):
        yield


# -- Monodepth2 ----------------------------------------------------------------------------------------------


class Monodepth2(nn.Module):
    """Monodepth2's ResNet-18 encoder and depth decoder with random weights, from a checkout."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        with _importing(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a deprecated argument of torchvision
            networks = _module("networks", folder)
            self.encoder = networks.ResnetEncoder(18, False)
            self.decoder = networks.DepthDecoder(self.encoder.num_ch_enc)

    def forward(self, images: Tensor) -> Tensor:
        disparity: Tensor = self.decoder(self.encoder(images))["disp", 0]
        return disparity


# -- DINOv2 and DPT of the transformers library --------------------------------------------------------------


class TransformersDPT(nn.Module):
    """DINOv2 with a DPT decoder as in Depth Anything, with random weights, as large as our model.

    Args:
        tiny: towers and decoder as small as the tiny preset's.
    """

    patch = 14

    def __init__(self, tiny: bool = False) -> None:
        super().__init__()
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

        width, heads, depth, taps = (96, 3, 4, [1, 2, 3, 4]) if tiny else (768, 12, 12, [3, 6, 9, 12])
        backbone = Dinov2Config(  # type: ignore[call-arg]  # its backbone options are set by name
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            patch_size=self.patch,
            image_size=224 if tiny else 518,
            out_indices=taps,
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        self.model = DepthAnythingForDepthEstimation(
            DepthAnythingConfig(
                backbone_config=backbone,
                patch_size=self.patch,
                reassemble_hidden_size=width,
                neck_hidden_sizes=[32, 48, 64, 64] if tiny else [256, 512, 1024, 1024],
                fusion_hidden_size=48 if tiny else 256,
                head_hidden_size=16 if tiny else 32,
            )
        )
        if not tiny:  # as in the published recipe, only the last block of DINO trains
            self.model.backbone.requires_grad_(False)
            last = [name for name, _ in self.model.backbone.named_modules() if name.endswith(f".{depth - 1}")]
            for name in last:
                self.model.backbone.get_submodule(name).requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        fitting = tuple(max(1, round(length / self.patch)) * self.patch for length in size)
        if fitting != tuple(size):
            images = F.interpolate(images, fitting, mode="bilinear", align_corners=False)
        depth = self.model(pixel_values=images).predicted_depth[:, None]
        return F.interpolate(depth, size, mode="bilinear", align_corners=True) if fitting != tuple(size) else depth


# -- importing from a checkout --------------------------------------------------------------------------------


@contextlib.contextmanager
def _importing(folder: Path, package: str | None = None) -> Iterator[None]:
    """Import from ``folder`` first; its modules are removed afterwards, so that checkouts may use the same names.

    Args:
        folder: with the checkout's top-level modules.
        package: one of them, whose ``__init__`` is not run because it imports much that is not needed.
    """
    before = dict(sys.modules)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    root = str(folder)
    sys.path.insert(0, root)
    for name in {name.partition(".")[0] for name in before} & {path.stem for path in folder.iterdir()}:
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[known]
    if package is not None:
        entered = types.ModuleType(package)
        entered.__path__ = [str(folder / package)]
        sys.modules[package] = entered
    for name in UNUSED:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = _StandIn(name)
    tools = _StandIn("pkg_resources")  # newer setuptools do not have it; only its `packaging` is used
    tools.packaging = importlib.import_module("packaging")  # type: ignore[attr-defined]
    importlib.import_module("packaging.version")
    sys.modules["pkg_resources"] = tools
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(root)
        for name, module in list(sys.modules.items()):
            own = str(getattr(module, "__file__", None) or "").startswith(root) or name == package
            if name not in before and (own or isinstance(module, _StandIn)):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if sys.modules.get(name) is not module})
        if "pkg_resources" not in before:
            sys.modules.pop("pkg_resources", None)


class _StandIn(types.ModuleType):
    """Takes the place of a package that is not installed and that the forward pass does not use.

    Every attribute is a class that can be inherited from; creating an instance of it raises ``CheckoutError``.
    """

    __path__: list[str] = []  # noqa: RUF012  # a package, so that its submodules can be imported

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        package = self.__name__

        class Missing(nn.Module):
            def __init__(self, *_: Any, **__: Any) -> None:
                raise CheckoutError(f"the checkout uses {package}.{name}, and {package} is not installed.")

        Missing.__name__ = name
        return Missing


def _module(name: str, folder: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckoutError(f"{folder}: importing {name} failed ({error}); install it, or see the commit.") from error


def _load(part: nn.Module, state: Mapping[str, Tensor], weights: Path, partly: bool) -> None:
    missing, extra = part.load_state_dict(dict(state), strict=False)
    if extra or (missing and not partly):
        raise CheckoutError(
            f"{weights} and the checkout's {type(part).__name__} differ: missing {missing[:3]}, unknown {extra[:3]}."
        )
