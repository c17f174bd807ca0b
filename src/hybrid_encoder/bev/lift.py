"""Lift: the cells of feature maps as points in the axes of the vehicle, one for every depth that they can be at.

Source: Lift, Splat, Shoot, Philion and Fidler, ECCV 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError

Size = tuple[int, int]  # height, width


def frustum_points(K: Tensor, vehicle_T_cam: Tensor, depths: Tensor, image_size: Size, size: Size) -> Tensor:
    """Return where the cells of feature maps are at every depth, in metres in the axes of the vehicle.

    A cell stands for the middle of the pixels that it covers: pixel centres are at integers, so cell ``i`` of stride
    ``s`` is at ``s i + (s - 1) / 2``. What follows is float32, whatever comes in.

    Args:
        K: intrinsics in pixels of the images, (B, N, 3, 3), their last row (0, 0, 1).
        vehicle_T_cam: takes points of each camera (x right, y down, z forward) to the vehicle (x forward, y left, z
            up), in metres, (B, N, 4, 4).
        depths: z in metres, (D,).
        image_size: (H, W) of the images.
        size: (h, w) of the feature maps.

    Returns:
        (B, N, D, h, w, 3).

    Raises:
        InputError: cameras of another shape, NaN or infinite numbers among them, or a focal length that is not above 0.
    """
    check_cameras(K, vehicle_T_cam)
    (height, width), (h, w) = image_size, size
    K, vehicle_T_cam, depths = K.float(), vehicle_T_cam.float(), depths.float()
    device = K.device
    v = (torch.arange(h, device=device) + 0.5) * (height / h) - 0.5
    u = (torch.arange(w, device=device) + 0.5) * (width / w) - 0.5
    fx, skew, fy, cx, cy = (K[..., i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2)))
    y = (v[:, None] - cy) / fy  # (B, N, h, 1)
    x = (u - cx - skew * y) / fx  # (B, N, h, w)
    rays = torch.stack([x, y.expand_as(x), torch.ones_like(x)], dim=-1)  # (B, N, h, w, 3)
    turned = torch.einsum("bnij,bnhwj->bnhwi", vehicle_T_cam[..., :3, :3], rays)
    origin = vehicle_T_cam[..., None, None, None, :3, 3]
    return turned[:, :, None] * depths[:, None, None, None].to(device) + origin


def check_cameras(K: Tensor, vehicle_T_cam: Tensor) -> None:
    """Raise InputError unless these are intrinsics and poses of cameras; values are not looked at under a compiler."""
    shape = tuple(K.shape)
    if len(shape) != 4 or shape[2:] != (3, 3) or tuple(vehicle_T_cam.shape) != (*shape[:2], 4, 4):
        raise InputError(
            f"K is {shape} and vehicle_T_cam {tuple(vehicle_T_cam.shape)}; (B, N, 3, 3) and (B, N, 4, 4) are needed."
        )
    if torch.compiler.is_compiling() or K.is_meta:
        return
    for name, value in (("K", K), ("vehicle_T_cam", vehicle_T_cam)):
        if not bool(value.isfinite().all()):
            raise InputError(f"{name} has numbers that are NaN or infinite; check the calibration.")
    if not bool((K[..., [0, 1], [0, 1]] > 0).all()):
        raise InputError("K has a focal length that is not above 0; check the calibration.")
