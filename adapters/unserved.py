"""Codebases that no recipe can serve: how they are recognised, why, and the nearest way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """A codebase that no recipe can serve.

    Args:
        marks: files of its checkout, as of :class:`hybrid_encoder.adapters.recognition.Codebase`.
        reason: why, and the nearest way.
    """

    marks: tuple[str, ...]
    reason: str


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
