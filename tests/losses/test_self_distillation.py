"""Self-distillation by hand."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder.errors import InputError
from hybrid_encoder.losses.self_distillation import multi_crop_loss, self_distillation_loss


def test_the_cross_entropy_of_centred_and_sharpened_logits() -> None:
    student, teacher = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.3, 0.1]])
    found = self_distillation_loss(student, teacher, torch.tensor([0.2, 0.1]), 0.1, 0.05)
    wanted = torch.tensor([0.1 / 0.05, 0.0]).softmax(0)
    said = torch.tensor([1.0, 0.0]).log_softmax(0)
    torch.testing.assert_close(found, -(wanted * said).sum()[None])


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    self_distillation_loss(student, teacher, torch.zeros(4)).sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_no_view_is_compared_with_itself() -> None:
    torch.manual_seed(0)
    student, center = torch.randn(3, 5, 4), torch.zeros(4)
    teacher = student[:2].clone()
    pairs = [(1, 0), (2, 0), (0, 1), (2, 1)]
    expected = torch.stack([self_distillation_loss(student[s], teacher[t], center).mean() for s, t in pairs]).mean()
    torch.testing.assert_close(multi_crop_loss(student, teacher, center), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"center \(3,\)"):
        self_distillation_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(InputError, match="at least two views"):
        multi_crop_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(4))
