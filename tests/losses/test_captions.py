"""The contrastive loss of pictures and captions, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.losses.captions import caption_contrastive_loss


def test_pictures_with_one_caption_are_all_right_for_it() -> None:
    images = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    captions = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    found = caption_contrastive_loss(images, captions, torch.tensor([0, 0, 1]), 1.0)
    e = torch.e
    of_images = torch.log(torch.tensor((e + 1) / e))  # each: e against e + 1
    first = torch.log(torch.tensor((2 * e + 1) / e))  # of the first caption, whose pictures have e of 2 e + 1 each
    second = torch.log(torch.tensor((e + 2) / e))
    torch.testing.assert_close(found, (of_images + (first + second) / 2) / 2)


def test_lengths_do_not_matter_and_the_right_caption_is_worth_more_than_another() -> None:
    torch.manual_seed(0)
    images, which = torch.randn(6, 8), torch.arange(6)
    same = caption_contrastive_loss(images, images * torch.rand(6, 1), which, 10.0)
    torch.testing.assert_close(same, caption_contrastive_loss(images, images, which, 10.0))
    assert same < caption_contrastive_loss(images, images, which.roll(1), 10.0)


def test_without_pictures_there_is_a_gradient_of_zero() -> None:
    images = torch.zeros(0, 4, requires_grad=True)
    loss = caption_contrastive_loss(images, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 1.0)
    loss.backward()
    assert loss == 0 and images.grad is not None


@pytest.mark.parametrize(
    ("images", "captions", "which", "says"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), torch.tensor([0, 1]), r"\(N, D\) and \(M, D\)"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0.0, 1.0]), "2 whole numbers"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 0]), "names 1 captions, and there are 2"),
    ],
)
def test_what_does_not_fit_is_refused(images: Tensor, captions: Tensor, which: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        caption_contrastive_loss(images, captions, which, 1.0)
