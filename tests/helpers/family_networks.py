"""Networks of codebases whose own trainer cannot be run here, trained on the KITTI frames at hand.

Each function builds a codebase's networks by its own classes and steps them, until the caller has seen enough. The
codebase's folder is the current one, and on the path.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.checkouts import DATA, DRIVE, HEIGHT, WIDTH

# The modules of the checkouts are not at hand here.
# mypy: disable-error-code="import-not-found"

GREY = (0.45, 0.225)  # what some codebases subtract and divide by


def frames(offset: int = 0, mean: Any = 0.0, std: Any = 1.0) -> Tensor:
    """Return frames 2 and 3 of the drive, or their neighbours: RGB (2, 3, HEIGHT, WIDTH), in [0, 1] by default."""
    pictures = []
    for frame in (2, 3):
        with Image.open(DATA / DRIVE / "image_02" / "data" / f"{frame + offset:010d}.png") as image:
            pictures.append(np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT))) / 255)
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (batch - torch.as_tensor(mean).reshape(-1, 1, 1)) / torch.as_tensor(std).reshape(-1, 1, 1)


def intrinsics(size: int = 3) -> Tensor:
    """Return the camera of a frame in pixels, (2, size, size)."""
    K = torch.eye(size)
    K[:3, :3] = torch.tensor([[0.58 * WIDTH, 0, WIDTH / 2], [0, 1.92 * HEIGHT, HEIGHT / 2], [0, 0, 1]])
    return K.repeat(2, 1, 1)


def adam(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([x for module in modules for x in module.parameters()], 1e-4)


def step(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor]) -> None:
    optimizer.zero_grad()
    torch.stack([loss.mean() for loss in losses]).sum().backward()
    optimizer.step()


def hr_depth() -> None:
    """Encoder and HR decoder; no trainer is published."""
    import networks

    encoder = networks.ResnetEncoder(18, False)
    decoder = networks.HRDepthDecoder(encoder.num_ch_enc, mobile_encoder=False)
    optimizer = adam(encoder, decoder)
    while True:
        step(optimizer, [decoder(encoder(frames()))["disparity", "Scale0"]])


def r_msfm() -> None:
    """Encoder and iterative decoder; the published trainer does not run."""
    sys.path.append("core")
    import networks
    from core.R_MSFM import R_MSFM3

    encoder, decoder = networks.ResnetEncoder(18, False), R_MSFM3(False)
    optimizer = adam(encoder, decoder)
    while True:
        step(optimizer, decoder(encoder(frames()), iters=3).values())


def mono_uncertainty() -> None:
    """Monodepth2's encoder and the uncertainty decoder; evaluation alone is published."""
    import networks
    from monodepth2.networks import ResnetEncoder

    encoder = ResnetEncoder(18, False)
    decoder = networks.DepthUncertaintyDecoder(encoder.num_ch_enc, num_output_channels=1, uncert=True, dropout=False)
    optimizer = adam(encoder, decoder)
    while True:
        outputs = decoder(encoder(frames()))
        step(optimizer, [outputs["disp", 0], outputs["uncert", 0]])


def sc_depth() -> None:
    """The LightningModule's own training step and optimizer."""
    sys.argv = sys.argv[:1]
    from SC_Depth import SC_Depth

    options = argparse.Namespace(
        resnet_layers=18,
        lr=1e-4,
        photo_weight=1.0,
        geometry_weight=0.1,
        smooth_weight=0.1,
        no_ssim=False,
        model_version="v1",
        no_auto_mask=False,
        no_dynamic_mask=False,
        no_min_optimize=False,
        val_mode="photo",
        dataset_name="kitti",
    )
    module = SC_Depth(options)
    module.train()
    module.log = lambda *args, **kwargs: None
    optimizer = module.configure_optimizers()[0]
    while True:
        batch = frames(0, *GREY), [frames(-1, *GREY), frames(1, *GREY)], intrinsics()
        step(optimizer, [module.training_step(batch, 0)])


def md4all() -> None:
    """The depth network in the Lightning module, by its configuration for nuScenes."""
    from config.config import get_cfg
    from models.depth_net import DepthNet

    config = get_cfg(argparse.Namespace(config="config/train_baseline_nuscenes.yaml", opts=[]))
    config.defrost()
    config.MODEL.DEPTH.ENCODER.PRETRAINED = False
    network = DepthNet(config)
    optimizer = torch.optim.Adam([{"params": network.parameters(), "lr": 1e-4}])
    while True:
        outputs = network(frames(), ["day-clear", "day-clear"])
        step(optimizer, [outputs["disp", 0, scale] for scale in range(4)])


def sgdepth() -> None:
    """The whole network, depth and pose."""
    from models.sgdepth import SGDepth

    network = SGDepth(1, 18, 0.9, 0.1, "scratch", 4, 18)
    optimizer = adam(network)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    while True:
        images: dict[Any, Any] = {("color_aug", i, 0): frames(i, mean, std) for i in (0, -1, 1)}
        outputs = network((images | {"purposes": [["depth"]]},))[0]
        step(optimizer, [*(outputs["disp", scale] for scale in range(4)), outputs["cam_T_cam", 0, 1]])


def featdepth() -> None:
    """The baseline network with its losses."""
    from mono.model.mono_baseline.net import Baseline

    options = argparse.Namespace(
        depth_num_layers=18,
        pose_num_layers=18,
        depth_pretrained_path=None,
        pose_pretrained_path=None,
        frame_ids=[0, -1, 1],
        imgs_per_gpu=2,
        height=HEIGHT,
        width=WIDTH,
        scales=[0, 1, 2, 3],
        min_depth=0.1,
        max_depth=100.0,
        automask=False,
        disp_norm=True,
        disparity_smoothness=1e-3,
    )
    network = Baseline(options)
    optimizer = adam(network)
    inputs: dict[Any, Tensor] = {(kind, i, 0): frames(i) for kind in ("color", "color_aug") for i in (0, -1, 1)}
    camera = intrinsics(4)
    for scale in ((), *range(4)):
        names = ("K", "inv_K") if scale == () else (("K", scale), ("inv_K", scale))
        inputs |= {names[0]: camera, names[1]: camera.inverse()}
    while True:
        step(optimizer, network(inputs)[1].values())


def packnet() -> None:
    """DepthResNet, found by its name, and PoseResNet in SelfSupModel with its loss."""
    import matplotlib

    matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap  # type: ignore[attr-defined]  # removed since
    from packnet_sfm.models.SelfSupModel import SelfSupModel
    from packnet_sfm.networks.pose.PoseResNet import PoseResNet
    from packnet_sfm.utils.load import load_class_args_create

    model = SelfSupModel(
        rotation_mode="euler",
        num_scales=4,
        ssim_loss_weight=0.85,
        occ_reg_weight=0.1,
        smooth_loss_weight=1e-3,
        C1=1e-4,
        C2=9e-4,
        photometric_reduce_op="min",
        disp_norm=True,
        clip_loss=0.0,
        progressive_scaling=0.0,
        padding_mode="zeros",
        automask_loss=True,
    )
    paths = ["packnet_sfm.networks.depth"]
    model.add_depth_net(load_class_args_create("DepthResNet", paths=paths, args={"version": "18"}))
    model.add_pose_net(PoseResNet(version="18"))
    model.train()
    optimizer = torch.optim.Adam(
        [{"params": part.parameters(), "lr": 2e-4} for part in (model.depth_net, model.pose_net)]
    )
    while True:
        now, context = frames(), [frames(-1), frames(1)]
        batch = {"rgb": now, "rgb_context": context, "intrinsics": intrinsics()}
        batch |= {"rgb_original": now, "rgb_context_original": context}
        step(optimizer, [model(batch, progress=0.0)["loss"]])
