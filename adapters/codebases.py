"""The codebases that are known: the files that their checkouts are recognised by, and the recipes that serve them."""

from __future__ import annotations

from .recipes import CodebaseRecipe, MatchingRecipe
from .recognition import Codebase

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
