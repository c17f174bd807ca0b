from __future__ import annotations

import math

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_encoder.geometry.pose import pose_matrix

angles = st.floats(-3, 3, width=32)


@settings(max_examples=40, deadline=None)
@example((0.0, 0.0, 0.5), (0.0, 0.0, 0.0))  # where a matrix exponential is 1.5e-5 off
@given(st.tuples(angles, angles, angles), st.tuples(angles, angles, angles))
def test_a_pose_is_rigid_and_its_inverse_undoes_it(axis_angle: tuple[float, ...], shift: tuple[float, ...]) -> None:
    rotation, translation = torch.tensor([axis_angle]), torch.tensor([shift])
    pose = pose_matrix(rotation, translation)
    torch.testing.assert_close(pose[:, :3, :3] @ pose[:, :3, :3].mT, torch.eye(3)[None], atol=2e-6, rtol=0)
    inverse = pose_matrix(rotation, translation, invert=True)
    torch.testing.assert_close(inverse @ pose, torch.eye(4)[None], atol=2e-5, rtol=0)


def test_a_quarter_turn_about_z() -> None:
    pose = pose_matrix(torch.tensor([0.0, 0.0, math.pi / 2]), torch.tensor([1.0, 2.0, 3.0]))
    moved = pose @ torch.tensor([1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(moved, torch.tensor([1.0, 3.0, 3.0, 1.0]), atol=1e-6, rtol=0)


def test_no_rotation_has_finite_gradients() -> None:
    axis_angle = torch.zeros(2, 3, requires_grad=True)
    pose_matrix(axis_angle, torch.zeros(2, 3)).square().sum().backward()
    assert axis_angle.grad is not None
    assert axis_angle.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@example((0.0, 0.0, 0.0))
@example((0.0, 0.0, 1e-20))
@given(st.tuples(angles, angles, angles))
def test_the_rotation_is_the_matrix_exponential(axis_angle: tuple[float, ...]) -> None:
    x, y, z = axis_angle
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation = pose_matrix(torch.tensor(axis_angle), torch.zeros(3))[:3, :3]
    torch.testing.assert_close(rotation, torch.linalg.matrix_exp(skew).float(), atol=2e-6, rtol=0)
