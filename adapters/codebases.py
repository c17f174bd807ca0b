"""The codebases that are known: how their checkouts are recognised, and the recipes that serve them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from hybrid_encoder.errors import AdapterError, ConfigError

from .recipes import CodebaseRecipe, MatchingRecipe

Recipe = TypeVar("Recipe", CodebaseRecipe, MatchingRecipe)


@dataclass(frozen=True)
class Codebase(Generic[Recipe]):
    """A codebase that recipes serve.

    Args:
        marks: files of its checkout that no other codebase has together, ``"file"`` or ``"file:text in it"``, relative
            to the folder that is on the path; none for the one that is taken where no other is recognised.
        recipes: of its depth networks; several where a training may build one or another.
    """

    marks: tuple[str, ...]
    recipes: tuple[Recipe, ...]


@dataclass(frozen=True)
class Refused:
    """A codebase that no recipe can serve.

    Args:
        marks: as of :class:`Codebase`.
        reason: why, and the nearest way.
    """

    marks: tuple[str, ...]
    reason: str


HRNET = (64, 18, 36, 72, 144)
SIX_MAPS = "its own reads a map of full size beside the five that are coarser"
MPVIT = (64, 128, 216, 288, 288)

SINGLE_FRAME: dict[str, Codebase[CodebaseRecipe]] = {
    "monodepth2": Codebase((), (CodebaseRecipe("Monodepth2"),)),
    "monodepth2-ddp": Codebase(
        ("networks/monodepth2.py:class DepthEncoder", "networks/posenet.py"),
        (CodebaseRecipe("monodepth2-ddp", "monodepth2.DepthEncoder", ("monodepth2.DepthDecoder",), frames=None),),
    ),
    "bdedepth": Codebase(
        ("networks/depth_hrnet.py:class DepthEncoder", "networks/depth_resnet.py:class DepthEncoder"),
        tuple(
            CodebaseRecipe(
                "BDEdepth", f"{name}.DepthEncoder", (f"{name}.DepthDecoder",), frames=None, dpt_decoder=SIX_MAPS
            )
            for name in ("depth_hrnet", "depth_resnet")
        ),
    ),
    "gasmono": Codebase(
        ("networks/mpvit.py:def mpvit_small", "networks/fs_decoder.py:class DepthDecoder"),
        (
            CodebaseRecipe(
                "GasMono",
                "mpvit_small",
                pretrained=None,
                frames=None,
                channels=MPVIT,
                own_decoder="it upsamples by weights that it reads off its features",
            ),
        ),
    ),
    "monodepth2_monovit": Codebase(
        ("networks/mpvit.py:def mpvit_small", "networks/nets.py:class DeepNet", "train.py"),
        (CodebaseRecipe("monodepth2_monovit", "mpvit_small", pretrained=None, frames=None, channels=MPVIT),),
    ),
    "diffnet": Codebase(
        ("networks/test_hr_encoder.py:def hrnet18", "networks/HR_Depth_Decoder.py"),
        (
            CodebaseRecipe(
                "DIFFNet",
                "test_hr_encoder.hrnet18",
                ("HRDepthDecoder",),
                frames=None,
                channels=HRNET,
                dpt_decoder="its own reads several maps of each size",
            ),
        ),
    ),
    "hr-depth": Codebase(
        ("networks/HR_Depth_Decoder.py", "networks/mobilenetV3_encoder.py"),
        (
            CodebaseRecipe(
                "HR-Depth", decoders=("HRDepthDecoder",), own_decoder="its disparities have keys of their own"
            ),
        ),
    ),
    "r-msfm": Codebase(
        ("core/R_MSFM.py", "core/update.py"),
        (
            CodebaseRecipe(
                "R-MSFM",
                decoders=(),
                strides=(2, 4, 8),
                channels=(64, 64, 128),
                own_decoder="it refines one disparity step by step, under keys of its own",
            ),
        ),
    ),
    "fsre-depth": Codebase(
        ("networks/cma.py", "networks/seg_decoder.py", "trainer_parallel.py"),
        (
            CodebaseRecipe(
                "FSRE-Depth",
                networks=("networks.resnet_encoder", "networks.depth_decoder"),
                own_decoder="a decoder of segmentation reads the same features, layer by layer",
            ),
        ),
    ),
    "monodepth2_uncertainty": Codebase(
        ("networks/uncert_decoder.py:class DepthUncertaintyDecoder", "my_trainer_boot.py"),
        (
            CodebaseRecipe(
                "monodepth2_uncertainty",
                own_decoder="two of its trainers read the uncertainty that its decoder gives beside the disparity",
            ),
        ),
    ),
    "indoordepth": Codebase(
        ("networks/pose_decoder_rec.py", "networks/pose_decoder_third.py"),
        (
            CodebaseRecipe(
                "IndoorDepth", own_decoder="it reads pixel coordinates beside the features, and gives coefficients"
            ),
        ),
    ),
    "monodiffusion": Codebase(
        ("networks/hr_decoder_diffusion.py", "networks/depth_decoder_diffusion.py"),
        (
            CodebaseRecipe(
                "MonoDiffusion",
                "LiteMono",
                ("HRDepthDecoder",),
                pretrained=None,
                frames=None,
                strides=(4, 8, 16),
                channels=(48, 80, 128),
                own_decoder="it denoises the disparity of a teacher",
                left_alone=(("model", "lite-mono-8m"),),
            ),
        ),
    ),
    "planedepth": Codebase(
        ("networks/plade_net.py", "networks/fal_net.py"),
        (CodebaseRecipe("PlaneDepth", frames=None, own_decoder="it predicts probabilities of planes"),),
    ),
    "sc_depth_pl": Codebase(
        ("models/DepthNet.py:class DepthNet", "SC_Depth.py"),
        (
            CodebaseRecipe(
                "sc_depth_pl",
                networks=("models.DepthNet",),
                mean=(0.45, 0.45, 0.45),
                std=(0.225, 0.225, 0.225),
                own_decoder="it gives a list of depths, not disparities",
            ),
        ),
    ),
    "md4all": Codebase(
        ("models/depth_net.py:class DepthNet", "models/md2"),
        (
            CodebaseRecipe(
                "md4all",
                networks=("models.depth_net",),
                mean=(0.45, 0.45, 0.45),
                std=(0.225, 0.225, 0.225),
                own_decoder="its disparities have keys of their own",
            ),
        ),
    ),
    "sgdepth": Codebase(
        ("models/sgdepth.py", "models/networks"),
        (
            CodebaseRecipe(
                "SGDepth",
                networks=("models.networks",),
                decoders=(),
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                own_decoder="depth and segmentation share one",
            ),
        ),
    ),
    "featdepth": Codebase(
        ("mono/model/mono_baseline", "mono/model/mono_fm", "mono/model/mono_fm_joint"),
        tuple(
            CodebaseRecipe(
                "FeatDepth",
                f"{net}.net.DepthEncoder",
                (),
                pretrained=None,
                frames=None,
                networks=("mono.model",),
                own_decoder="its disparities have keys of their own",
            )
            for net in ("mono_baseline", "mono_fm", "mono_fm_joint")
        ),
    ),
    "packnet-sfm": Codebase(
        ("packnet_sfm/networks/depth/DepthResNet.py",),
        (CodebaseRecipe("packnet-sfm", networks=("packnet_sfm.networks.depth.DepthResNet",)),),
    ),
    "dynamo-depth": Codebase(
        ("networks/model.py:LiteDepthDecoder", "networks/motion_decoder.py"),
        (
            CodebaseRecipe("Dynamo-Depth", networks=("networks.model",)),
            CodebaseRecipe(
                "Dynamo-Depth",
                "LiteMono",
                ("LiteDepthDecoder",),
                frames=None,
                strides=(4, 8, 16),
                channels=(64, 128, 224),
                networks=("networks.model",),
            ),
        ),
    ),
    "wavelet-monodepth": Codebase(
        ("networks/network_constructors.py", "networks/encoders", "networks/decoders"),
        (
            CodebaseRecipe(
                "wavelet-monodepth",
                networks=("networks.encoders", "networks.decoders"),
                own_decoder="its optimizer and its losses read the layers and the wavelets of its decoder",
            ),
        ),
    ),
    "mono-uncertainty": Codebase(
        ("networks/decoder.py:class DepthUncertaintyDecoder", "extended_options.py"),
        (
            CodebaseRecipe(
                "mono-uncertainty",
                networks=("monodepth2.networks", "networks"),
                decoders=("DepthUncertaintyDecoder",),
                own_decoder="it gives the uncertainty beside the disparity",
            ),
        ),
    ),
    "ra-depth": Codebase(
        ("networks/__init__.py:hrnet18", "networks/__init__.py:DepthDecoder_MSF"),
        (CodebaseRecipe("RA-Depth", "hrnet18", ("DepthDecoder_MSF", "DepthDecoder"), frames=None, channels=HRNET),),
    ),
    "lite-mono": Codebase(
        ("networks/__init__.py:LiteMono",),
        (
            CodebaseRecipe(
                "Lite-Mono", "LiteMono", pretrained=None, frames=None, strides=(4, 8, 16), channels=(48, 80, 128)
            ),
        ),
    ),
}
"""Those whose depth network reads one image. The first is taken where none of the others is recognised."""

MULTI_FRAME: dict[str, Codebase[MatchingRecipe]] = {
    "manydepth": Codebase((), (MatchingRecipe("ManyDepth"),)),
    "manydepthformer": Codebase(
        ("manydepth/networks/cmtformer_encoder.py", "manydepth/networks/swinformer_encoder.py"),
        (
            MatchingRecipe(
                "manydepthformer",
                students=("ResnetEncoderMatching", "CMTEncoderMatching", "SwinEncoderMatching"),
                decoders=("DepthDecoder", "DepthDecoderAttention"),
            ),
        ),
    ),
    "manydepth2": Codebase(
        ("manydepth2/networks/multi_flow_hrnet_encoder00.py",),
        (MatchingRecipe("Manydepth2", networks=("manydepth2.networks",)),),
    ),
}
"""Those with a multi-frame student and a single-frame teacher."""

_MONODEPTH2 = "Train in a Monodepth2 checkout instead"
REFUSED: dict[str, Refused] = {
    "SQLdepth or SPIdepth": Refused(
        ("networks/__init__.py:Depth_Decoder_QueryTr",),
        "its decoder predicts depth, by queries of its own, under the key 'disp', where a disparity would be read as "
        f"metres. {_MONODEPTH2}: its trainer, data sets and splits are the same.",
    ),
    "MonoViT": Refused(
        ("networks/nets.py:class DeepNet", "networks/mpvit.py"),
        "it builds encoder and decoder as one network of fixed widths, and its trainer is a fragment for Monodepth2: "
        "patch the Monodepth2 checkout itself (docs/monodepth2.md says how to keep its optimizer).",
    ),
    "ADDS-DepthNet": Refused(
        ("networks/resnet_encoder_pose.py:class ResnetEncoder_pose", "networks/resnet_encoder.py"),
        "its encoder is three networks, one shared and two private ones for day and night, which also reconstruct the "
        f"image. {_MONODEPTH2}, on its day images.",
    ),
    "EPCDepth": Refused(
        ("network/rsu_decoder.py", "network/encoder.py", "model.py"),
        "its model reads attributes of its own encoder, and its losses a list of disparities from its own decoder. "
        f"{_MONODEPTH2}, with --use_stereo, which it is trained on.",
    ),
    "EndoDAC": Refused(
        ("models/endodac", "trainer_end_to_end.py"),
        "its depth network is one module, a DINOv2 with adapters and a head of its own at one image size, without an "
        "encoder apart. Train in a checkout of AF-SfMLearner instead, whose data it uses and which is served.",
    ),
}
"""Those that no recipe can serve, by name."""


def recipes_named(name: str, codebases: Mapping[str, Codebase[Recipe]]) -> tuple[Recipe, ...]:
    """Return the recipes of a codebase that is known by a name.

    Raises:
        ConfigError: another name.
    """
    if name not in codebases:
        raise ConfigError(f"recipe is {name!r}; give one of {', '.join(codebases)}, or a recipe of your own.")
    return codebases[name].recipes


def find_recipes(folders: Iterable[str], codebases: Mapping[str, Codebase[Recipe]]) -> tuple[Recipe, ...]:
    """Return the recipes of the checkout in the first folder that holds one, or of the first codebase.

    Args:
        folders: as on ``sys.path``.
        codebases: that may be there.

    Raises:
        AdapterError: the checkout is of a codebase that no recipe can serve.
    """
    usual = next(iter(codebases.values()))
    for folder in folders:
        for codebase in codebases.values():
            if codebase.marks and holds(folder, codebase.marks):
                return codebase.recipes
        for name, refused in REFUSED.items():
            if holds(folder, refused.marks):
                raise AdapterError(f"{Path(folder).absolute()} is a checkout of {name}: {refused.reason}")
        if any(holds(folder, [place]) for place in _places(usual)):
            break  # this is where Python would find the networks
    return usual.recipes


def _places(codebase: Codebase[Recipe]) -> list[str]:
    """Return where the modules of an unmarked codebase stand in its folder: a package or a file."""
    tops = {module.partition(".")[0] for recipe in codebase.recipes for module in recipe.networks}
    return [place for top in sorted(tops) for place in (top, f"{top}.py")]


def holds(folder: str, marks: Iterable[str]) -> bool:
    """Return whether a folder holds all of some files, and they the text that is looked for."""
    for mark in marks:
        file, _, text = mark.partition(":")
        path = os.path.join(folder, *file.split("/"))
        if not os.path.exists(path):
            return False
        if text and text.encode() not in Path(path).read_bytes():
            return False
    return True
