"""The loss that follows a teacher, against numpy, and what it must not change with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_encoder import InputError
from hybrid_encoder.losses.distillation import distillation_loss


def maps(seed: int = 0, count: int = 2, height: int = 21, width: int = 34) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, count, 1, height, width, generator=generator)
    return one, other


def by_hand(one: Tensor, other: Tensor) -> float:
    """The loss written plainly, map by map, in float64."""
    aligned = []
    for x in (one.double().numpy(), other.double().numpy()):
        middle = [np.sort(image.ravel())[(image.size - 1) // 2] for image in x]  # torch's median: the lower one
        centred = np.stack([image - m for image, m in zip(x, middle, strict=True)])
        aligned.append(np.stack([image / np.abs(image).mean() for image in centred]))
    difference = aligned[0] - aligned[1]
    total = np.abs(difference).mean()
    for step in (1, 2, 4, 8):
        small = difference[:, :, ::step, ::step]
        total += 0.5 * (np.abs(np.diff(small, axis=3)).mean() + np.abs(np.diff(small, axis=2)).mean())
    return float(total)


def test_it_is_what_is_written_plainly() -> None:
    one, other = maps()
    assert distillation_loss(one, other).item() == pytest.approx(by_hand(one, other), rel=1e-5)
    assert by_hand(one, other) > 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_scale_and_shift_of_either_map_do_not_count(seed: int, scale: float, shift: float) -> None:
    one, other = (x.double() for x in maps(seed, height=9, width=16))
    loss = distillation_loss(one, other).item()
    assert distillation_loss(scale * one + shift, other).item() == pytest.approx(loss, rel=1e-2)
    assert distillation_loss(one, scale * other + shift).item() == pytest.approx(loss, rel=1e-2)
    assert distillation_loss(scale * one + shift, one).item() < 0.01 * loss
    assert distillation_loss(-one, other).item() != pytest.approx(loss, rel=1e-2)  # near and far are not alike


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_maps_and_of_the_images_does_not_count(seed: int) -> None:
    one, other = maps(seed, count=3, height=8, width=9)
    loss = distillation_loss(one, other).item()
    assert distillation_loss(other, one).item() == pytest.approx(loss, rel=1e-5)
    assert distillation_loss(one.flip(0), other.flip(0)).item() == pytest.approx(loss, rel=1e-5)
    alone = [distillation_loss(one[i : i + 1], other[i : i + 1]).item() for i in range(3)]
    assert np.mean(alone) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.3, 100.0])
def test_constant_maps_are_alike_and_have_a_finite_gradient(value: float) -> None:
    flat = torch.full((2, 1, 6, 8), value, requires_grad=True)
    loss = distillation_loss(flat, torch.full((2, 1, 6, 8), 0.7))
    loss.backward()
    assert loss == 0 and flat.grad is not None and flat.grad.isfinite().all()
    flat.grad = None
    against = distillation_loss(flat, maps(height=6, width=8)[0])
    against.backward()
    assert against > 0.5 and flat.grad is not None and flat.grad.isfinite().all() and flat.grad.any()


def test_the_gradient_brings_the_student_to_the_teacher_and_reaches_the_teacher_not() -> None:
    student, teacher = (x.clone().requires_grad_() for x in maps(1))
    first = distillation_loss(student, teacher)
    optimizer = torch.optim.Adam([student], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        distillation_loss(student, teacher).backward()
        optimizer.step()
    assert distillation_loss(student, teacher) < 0.1 * first and teacher.grad is None


def test_a_map_of_one_row_and_half_precision() -> None:
    one, other = maps(2, height=1)
    assert distillation_loss(one, other).isfinite()
    low = distillation_loss(one.bfloat16(), other)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(distillation_loss(one, other).item(), rel=0.02)


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"disparity is \(2, 1, 4, 5\) and the teacher's \(2, 1, 8, 10\).*resize"):
        distillation_loss(torch.rand(2, 1, 4, 5), torch.rand(2, 1, 8, 10))
