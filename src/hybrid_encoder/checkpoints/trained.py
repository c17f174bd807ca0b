"""Folders that the trainers of Monodepth2 and ManyDepth write with this library's networks in them.

``encoder.pth`` describes itself (``described``), ``depth.pth`` is a DPT decoder that does, too, or the codebase's own
decoder on our pyramid, which is known by its names. ``opt.json``, one folder up, has the trainer's range of depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybrid_encoder.checkpoints.described import KEY, Description, stored_config
from hybrid_encoder.checkpoints.files import open_file, read_tensors
from hybrid_encoder.config import (
    DecoderConfig,
    HybridDepthConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
    UNetDecoderConfig,
)
from hybrid_encoder.config.serialization import MAX_BYTES
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.geometry.plane_sweep import depth_bins

FILES = {"encoder.pth": "depth.pth", "mono_encoder.pth": "mono_depth.pth"}
"""The files of an encoder and its decoder; the second pair is ManyDepth's teacher."""
ENCODERS = {"DepthEncoder": "encoder.", "MatchingEncoder": "matching."}
"""The networks that an encoder's file can hold, and what the names of the model's tensors in them begin with."""
UNIT = re.compile(r"decoder\.(\d{1,2})\.conv\.(?:conv\.)?(weight|bias)")
NUM_LEVELS = 5
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """What a folder holds, as a model of this library.

    Attributes:
        config: one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
        tensors: under the names of that model.
        left_out: why there is no decoder, as a sentence; empty where there is one.
    """

    config: Any
    tensors: Tensors
    left_out: str = ""


def is_undescribed(tensors: Tensors) -> bool:
    """Return whether an encoder's tensors are ours without a description, as earlier versions wrote them."""
    return any(name.startswith(("encoder.semantic.", "encoder.spatial.", "matching.encoder.")) for name in tensors)


def read_trained(path: Path, encoder: Tensors, description: Description, settings: Mapping[str, Any]) -> Trained:
    """Put encoder and decoder together.

    Args:
        path: of the encoder's file.
        encoder: its tensors.
        description: of it.
        settings: what stands among the tensors: ``height``, ``width``, ``min_depth_bin``, ``max_depth_bin``.

    Raises:
        CheckpointError: not an encoder, or files that cannot be read.
        ConfigError: settings that cannot be.
    """
    if description.network not in ENCODERS:
        raise CheckpointError(
            f"{path} holds a {description.network}; an encoder is needed (a DepthEncoder or a MatchingEncoder)."
        )
    config, inner = description.config, ENCODERS[description.network]
    state = {name.removeprefix(inner): value for name, value in encoder.items() if name.startswith(inner)}
    if isinstance(config, HybridMatchingConfig) and {"min_depth_bin", "max_depth_bin"} <= set(settings):
        # The trainer follows the range of depth that it meets, and keeps it beside the weights.
        config = config.replace(**{name: settings[name] for name in ("min_depth_bin", "max_depth_bin")})
        spread = (config.min_depth_bin, config.max_depth_bin, config.num_depth_bins, config.depth_binning)
        state["depth_bins"] = depth_bins(*spread)
    file = path.with_name(FILES[path.name])
    if not file.is_file():
        return Trained(config, state, f"{file} is missing")
    tensors = read_tensors(file)
    found = read_decoder(tensors, description)
    if isinstance(found, str):
        return Trained(config, state, f"{file} holds {found}")
    decoder, names = found
    neck = {f"decoder.{name}": value for name, value in encoder.items() if name.startswith("neck.")}
    whole: type[Any] = HybridMatchingDepthConfig if isinstance(config, HybridMatchingConfig) else HybridDepthConfig
    size = (settings["height"], settings["width"]) if {"height", "width"} <= set(settings) else None
    return Trained(
        whole(encoder=config, decoder=decoder, size=size, **_depth_range(path.parent.parent / "opt.json")),
        {f"encoder.{name}": value for name, value in state.items()}
        | (neck if isinstance(decoder, UNetDecoderConfig) else {})
        | {f"decoder.{ours}": tensors[name] for name, ours in names.items()},
    )


def read_decoder(
    tensors: Tensors, encoder: Description
) -> tuple[DecoderConfig | UNetDecoderConfig, dict[str, str]] | str:
    """Return a decoder's configuration and its tensors' names with ours, or what it is instead."""
    description = stored_config(tensors)
    if description is not None:
        if description.network != "DepthDecoder" or description.num_outputs != 1:
            return f"a {description.network} with {description.num_outputs} outputs, and disparity alone is read"
        if encoder.neck is not None:
            return "a DPT decoder, and the encoder was trained for the repository's own: they are of two trainings"
        return description.config, {name: name.removeprefix("dpt.") for name in tensors if name != KEY}
    first = next(iter(sorted(tensors)), "nothing")
    found = {name: UNIT.fullmatch(name) for name in tensors}
    if not all(found.values()):
        return f"a decoder that is neither ours nor Monodepth2's (it has {first!r}); the repository's scripts read it"
    if encoder.neck is None:
        return "the repository's own decoder, and the encoder was trained for DPT: they are of two trainings"
    units = {int(match[1]): tensors[name] for name, match in found.items() if match and match[2] == "weight"}
    shapes = [tuple(units[n].shape) for n in sorted(units)]
    try:
        if {int(match[1]) for match in found.values() if match} != set(range(len(units))):
            raise ValueError("layers are missing")
        decoder = _unet_config(shapes, encoder)
    except (ConfigError, ValueError, IndexError):
        return f"a decoder whose layers are not those of Monodepth2's ({first!r} is {tuple(tensors[first].shape)})"
    levels = [f"{part}.{level}" for level in reversed(range(NUM_LEVELS)) for part in ("reduce", "join")]
    parts = levels + [f"heads.{scale}" for scale in decoder.scales]
    return decoder, {name: f"{parts[int(match[1])]}.{match[2]}" for name, match in found.items() if match}


def _unet_config(shapes: list[tuple[int, ...]], encoder: Description) -> UNetDecoderConfig:
    """Return the configuration of layers with these weights, in order: two for each level from coarse to fine, and one
    for each output, whose level follows from how many channels it reads."""
    assert encoder.neck is not None
    widths = tuple(shape[0] for shape in shapes[: 2 * NUM_LEVELS : 2])[::-1]
    scales = tuple(widths.index(shape[1]) for shape in shapes[2 * NUM_LEVELS :])
    return UNetDecoderConfig(encoder.neck, widths, scales)  # type: ignore[arg-type]  # it is checked there


def _depth_range(file: Path) -> dict[str, float]:
    """Return the range of depth of the training whose options these are; nothing where it is not told."""
    try:
        with open(file, "rb", opener=open_file) as opened:
            options = json.loads(opened.read(MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}, the options of the training, cannot be read ({error}); mend it or move it away: "
            "it says what range of depth disparity stands for."
        ) from error
    names = ("min_depth", "max_depth")
    return {name: options[name] for name in names if name in options} if isinstance(options, dict) else {}
