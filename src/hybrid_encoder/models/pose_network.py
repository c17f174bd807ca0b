"""Camera motion between two frames: from their images, or from their DINO class tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hybrid_encoder.checkpoints.filling import fill, no_initialisation
from hybrid_encoder.checkpoints.history import History
from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD
from hybrid_encoder.config.architectures import ModelName
from hybrid_encoder.config.checking import fits, shown
from hybrid_encoder.config.pose import PoseConfig
from hybrid_encoder.downloading.weights import downloads, timm_weights
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.models.pose_files import PoseFile, read_pose, save_pose

NO_POSE_WEIGHTS = (
    "or start the pose network from random weights with pretrained=False (pose_pretrained=False in a recipe, "
    "--no-pose-pretrained on the command line)"
)
BEFORE = ("resnet18", "test_resnet", "resnet34", "resnet50")  # backbones of files that do not say theirs
SCALE = 0.01  # keeps the first predicted motions small, as Monodepth2's pose network does


class MotionNetwork(nn.Module):
    """What predicts the camera's motion between two frames, with a file of its own.

    Attributes:
        config: what it is built from and how it was trained.
        training_history: the trainings that it has been through, saved with it; None where they are not known.
    """

    config: PoseConfig
    training_history: History | None = ()

    def save_pretrained(self, path: str | Path) -> Path:
        """Write ``pose.safetensors``, whole or not at all.

        Args:
            path: of a folder, or of the file.

        Returns:
            The path of the file.

        Raises:
            OSError: it cannot be written.
        """
        return save_pose(path, self.config, self.state_dict(), self.training_history)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Load what a training has saved, in evaluation mode; nothing is downloaded.

        Args:
            source: a ``pose.safetensors``, the folder of a run of ``train-fine``, or that of its weights.

        Raises:
            CheckpointError: there is none, it is damaged, or of the other kind.
        """
        found = load_motion(source)
        if not isinstance(found, cls):
            raise CheckpointError(
                f"{source} holds a {type(found).__name__}; load it with {type(found).__name__}.from_pretrained."
            )
        return found


def check_backbone(name: str) -> None:
    """Raise ConfigError unless timm knows a backbone of this name."""
    import timm

    if not fits(ModelName, name) or not timm.is_model(name):
        raise ConfigError(f"pose is {shown(name)}, which timm does not know; give 'resnet18', say, or 'class_token'.")


class PoseNetwork(MotionNetwork):
    """A timm backbone on two frames stacked along their channels, and three convolutions over its last map.

    Source: Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019 (with a ResNet-18).

    Args:
        backbone: name of a timm model that gives feature maps.
        pretrained: start the backbone from timm's weights; those for three channels are repeated, and halved.
        channels: of the convolutions.
        options: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: a backbone that timm does not know, or an option that is none of an architecture.
        CheckpointError: weights that are not in the cache, and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str = "resnet18", pretrained: bool = False, channels: int = 256, **options: Any
    ) -> None:
        super().__init__()
        import timm

        check_backbone(backbone)
        self.config = PoseConfig(backbone=backbone, channels=channels, options=options)
        weights = f"the pose network's weights {backbone}"
        start = timm_weights(backbone, pretrained, weights, NO_POSE_WEIGHTS)
        with downloads(weights, NO_POSE_WEIGHTS):
            made: Any = timm.create_model(backbone, features_only=True, in_chans=6, **start, **options)
        self.backbone = made
        last = made.feature_info.channels()[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 6, 1),
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN * 2).view(1, 6, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD * 2).view(1, 6, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Take two frames in temporal order, (B, 3, H, W) in [0, 1], to axis-angle and translation, (B, 3) each."""
        pair = (torch.cat([first, second], dim=1) - self.mean) / self.std
        motion = SCALE * self.head(self.backbone(pair)[-1]).mean((-2, -1))
        return motion[:, :3], motion[:, 3:]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


class ClassTokenPoseHead(MotionNetwork):
    """One linear layer from two class tokens to six numbers of motion (as published).

    Args:
        channels: of one class token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.config = PoseConfig("class_token", channels=channels)
        self.linear = nn.Linear(2 * channels, 6)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Take class tokens (B, C) of two frames in temporal order to axis-angle and translation, both (B, 3)."""
        motion = SCALE * self.linear(torch.cat([first, second], dim=-1))
        return motion[..., :3], motion[..., 3:]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


def load_motion(source: str | Path) -> PoseNetwork | ClassTokenPoseHead:
    """Load what predicts the camera's motion, whichever kind it is, in evaluation mode.

    A file of an earlier release does not say how its network is built; that is then found by its names and shapes,
    among ResNets.

    Args:
        source: a ``pose.safetensors``, the folder of a run of ``train-fine``, or that of its weights.

    Raises:
        CheckpointError: there is none, it is damaged, or of no known network.
    """
    file = read_pose(source)
    network = _built(file, file.config) if file.config is not None else _recognised(file)
    fill(network, file.tensors, file.path)
    network.training_history = file.history
    if file.config is not None:
        network.config = file.config
    return network.eval()


def _built(file: PoseFile, config: PoseConfig) -> PoseNetwork | ClassTokenPoseHead:
    """Build a network without values; a file decides on no memory that it does not fill."""
    try:
        with no_initialisation():
            if config.kind == "class_token":
                return ClassTokenPoseHead(config.channels)
            return PoseNetwork(config.backbone, False, config.channels, **config.options)
    except Exception as error:  # whatever the libraries raise where sizes do not go together
        reason = f"{error}" if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file.path} describes a pose network that cannot be built ({reason}).") from error


def _recognised(file: PoseFile) -> PoseNetwork | ClassTokenPoseHead:
    """Build the network of a file that does not describe it."""
    shapes = {name: tuple(value.shape) for name, value in file.tensors.items()}
    if set(shapes) == {"linear.weight", "linear.bias"} and len(shapes["linear.weight"]) == 2:
        return _built(file, PoseConfig("class_token", channels=shapes["linear.weight"][1] // 2))
    first = shapes.get("head.0.weight", ())
    if len(first) == 4:
        for backbone in BEFORE:
            network = _built(file, PoseConfig(backbone=backbone, channels=first[0]))
            if {name: tuple(value.shape) for name, value in network.state_dict().items()} == shapes:
                return network
    raise CheckpointError(
        f"{file.path} does not say which network it is of, and it is none of {', '.join(BEFORE)} nor a layer on class "
        "tokens; name a pose.safetensors that train-fine has written."
    )
