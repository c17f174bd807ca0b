"""What a codebase calls its networks, and what it expects of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CodebaseRecipe:
    """Where a depth network of a codebase stands, and what goes in and out.

    Args:
        name: of the codebase.
        encoder: class or function that builds the depth encoder; ``"module.Name"`` is looked for inside ``networks``.
        decoders: those that read its features; the first gives the disparity.
        pretrained: the encoder's argument that asks for public weights; None where it has none, and the encoder
            comes with the public weights that its configuration names.
        frames: the encoder's argument for the number of images at once; None where it is always one.
        strides: of the maps that the codebase's own decoder reads, fine to coarse.
        channels: of these maps; None takes those of a ResNet.
        mean: subtracted from RGB in [0, 1] by the caller, by channel.
        std: by which the caller then divides.
        networks: modules that hold them all.
        own_decoder: why only the codebase's own decoder can read the features; None where the DPT decoder can take its
            place.
        dpt_decoder: why only the DPT decoder can; None where the codebase's own can read the maps of ``strides``.
        left_alone: ``(argument, value)`` of calls of the encoder that stay the codebase's own, as of a teacher with
            weights of its own.
    """

    name: str
    encoder: str = "ResnetEncoder"
    decoders: tuple[str, ...] = ("DepthDecoder",)
    pretrained: str | None = "pretrained"
    frames: str | None = "num_input_images"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    channels: tuple[int, ...] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    networks: tuple[str, ...] = ("networks",)
    own_decoder: str | None = None
    dpt_decoder: str | None = None
    left_alone: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class MatchingRecipe:
    """Where the networks of a codebase with a multi-frame student and a single-frame teacher stand.

    Args:
        name: of the codebase.
        students: classes of the multi-frame encoder, of which a training builds one; the first must be there.
        teacher: class of the single-frame encoder, and of the pose encoder.
        decoders: those that read the features of either; the first must be there.
        networks: modules that hold them all.
    """

    name: str
    students: tuple[str, ...] = ("ResnetEncoderMatching",)
    teacher: str = "ResnetEncoder"
    decoders: tuple[str, ...] = ("DepthDecoder",)
    networks: tuple[str, ...] = ("manydepth.networks",)
