"""Self-distillation by hand."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder.errors import InputError
from hybrid_encoder.losses.self_distillation import multi_crop_loss, self_distillation_loss, sinkhorn


def test_the_cross_entropy_of_centred_and_sharpened_logits() -> None:
    student, teacher = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.3, 0.1]])
    found = self_distillation_loss(student, teacher, torch.tensor([0.2, 0.1]), 0.1, 0.05)
    wanted = torch.tensor([0.1 / 0.05, 0.0]).softmax(0)
    said = torch.tensor([1.0, 0.0]).log_softmax(0)
    torch.testing.assert_close(found, -(wanted * said).sum()[None])


@pytest.mark.parametrize("center", [None, torch.zeros(4)])
def test_no_gradient_reaches_the_teacher(center: torch.Tensor | None) -> None:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    self_distillation_loss(student, teacher, center).sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_without_a_center_prototypes_are_balanced_over_all_that_is_given() -> None:
    """Of two entries that both prefer the first prototype, the one that prefers it less gets the second."""
    teacher = torch.tensor([[0.30, 0.0], [0.10, 0.0]])
    wanted = sinkhorn(teacher, 0.04, iterations=50)
    torch.testing.assert_close(wanted.sum(1), torch.ones(2))
    torch.testing.assert_close(wanted.sum(0), torch.ones(2), atol=1e-3, rtol=0)
    # Symmetric, with the odds multiplied: exp((0.30 - 0.10) / 0.04) = odds ** 2.
    odds = torch.tensor(0.2 / 0.04 / 2).exp()
    torch.testing.assert_close(wanted[0, 0], odds / (1 + odds), atol=1e-3, rtol=0)
    student = torch.tensor([[0.1, 0.0], [0.1, 0.0]])
    found = self_distillation_loss(student, teacher)
    assert found[0] < 0.5 < 1.0 < found[1]  # by a center of zeros, both would be small


def test_sinkhorn_survives_large_logits() -> None:
    torch.manual_seed(0)
    wanted = sinkhorn(1e4 * torch.randn(6, 5, 3))
    assert wanted.shape == (6, 5, 3)
    torch.testing.assert_close(wanted.sum(-1), torch.ones(6, 5))
    assert sinkhorn(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    torch.testing.assert_close(sinkhorn(torch.tensor([3.0, 1.0])), torch.tensor([0.5, 0.5]))
    for wrong in ({"temperature": 0.0}, {"iterations": 0}):
        with pytest.raises(InputError, match="they must be above 0"):
            sinkhorn(torch.zeros(2, 3), **wrong)


def test_no_view_is_compared_with_itself() -> None:
    torch.manual_seed(0)
    student, center = torch.randn(3, 5, 4), torch.zeros(4)
    teacher = student[:2].clone()
    pairs = [(1, 0), (2, 0), (0, 1), (2, 1)]
    expected = torch.stack([self_distillation_loss(student[s], teacher[t], center).mean() for s, t in pairs]).mean()
    torch.testing.assert_close(multi_crop_loss(student, teacher, center), expected)


def test_prototypes_are_balanced_over_all_views() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4), torch.randn(2, 5, 4)
    wanted = sinkhorn(teacher)
    said = (student / 0.1).log_softmax(-1)
    pairs = [(1, 0), (2, 0), (0, 1), (2, 1)]
    expected = torch.stack([-(wanted[t] * said[s]).sum(-1).mean() for s, t in pairs]).mean()
    torch.testing.assert_close(multi_crop_loss(student, teacher), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"student is \(2, 2, 4\) and teacher \(2, 2, 3\)"):
        multi_crop_loss(torch.zeros(2, 2, 4), torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match=r"student is \(2, 4\) and teacher \(3, 4\)"):
        self_distillation_loss(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"center is \(3,\)"):
        self_distillation_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(InputError, match=r"center is \(1,\)"):
        multi_crop_loss(torch.zeros(2, 2, 4), torch.zeros(2, 2, 4), torch.zeros(1))
    with pytest.raises(InputError, match="at least two views"):
        multi_crop_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(4))
