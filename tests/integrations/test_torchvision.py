"""torchvision's transforms v2 and their tensors: what the encoder, the model and `infer` make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.errors import InputError

from helpers.plugs import plugs


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 96, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@plugs("torchvision", "`tv_tensors.Image`", "run")
@pytest.mark.parametrize("size", [None, (64, 128), "native"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scale", [1, 255])
def test_images_predict_as_tensors_do(
    model: HybridDepthModel, pixels: Tensor, scale: int, batched: bool, size: Any
) -> None:
    plain = pixels if scale == 255 else pixels / 255
    plain = plain[None] if batched else plain
    found, expected = model.infer(tv_tensors.Image(plain), size), model.infer(plain, size)
    assert type(found.disparity) is type(found.relative_depth) is Tensor
    assert torch.equal(found.disparity, expected.disparity)


def test_images_go_through_encoder_and_model_as_tensors_do(model: HybridDepthModel, pixels: Tensor) -> None:
    plain = pixels[None] / 255
    image = tv_tensors.Image(plain)
    assert type(model(image)) is Tensor and torch.equal(model(image), model(plain))
    found, expected = model.encoder.forward_features(image), model.encoder.forward_features(plain)
    assert found.logits and expected.logits
    for ours, theirs in zip(
        [*found.maps, *found.fused, *found.logits], [*expected.maps, *expected.fused, *expected.logits], strict=True
    ):
        assert type(ours) is Tensor and torch.equal(ours, theirs)
    with pytest.raises(InputError, match="divide bytes by 255"):
        model(tv_tensors.Image(pixels[None]))


@plugs("torchvision", "`transforms.v2` on images and depth maps", "run", "train")
def test_a_step_on_pictures_and_depth_that_were_changed_together(model: HybridDepthModel, pixels: Tensor) -> None:
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    depth = tv_tensors.Mask(torch.arange(96 * 320, dtype=torch.float32).reshape(1, 96, 320))
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(p=1),
            v2.CenterCrop((64, 128)),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
    image, target = transform(picture, depth)
    assert type(image) is type(target) is Tensor
    torch.testing.assert_close(image, pixels.flip(-1)[:, 16:80, 96:224] / 255)
    assert torch.equal(target, depth.as_subclass(Tensor).flip(-1)[:, 16:80, 96:224])

    trained = HybridDepthModel.from_pretrained("tiny").train()
    target = trained.to_depth((target / target.max())[None])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = (trained.to_depth(trained(image[None])).log() - target.log()).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_gradients_reach_what_an_image_was_made_of(model: HybridDepthModel, pixels: Tensor) -> None:
    grads = []
    for wrap in (tv_tensors.Image, lambda x: x):
        plain = (pixels[None] / 255).requires_grad_()
        model(wrap(plain)).mean().backward()
        grads.append(plain.grad)
    assert grads[0] is not None and grads[0].abs().sum() > 0
    assert grads[1] is not None and torch.equal(grads[0], grads[1])


def test_pictures_as_to_image_makes_them(model: HybridDepthModel, pixels: Tensor) -> None:
    array = pixels.permute(1, 2, 0).numpy()
    found = model.infer(v2.functional.to_image(Image.fromarray(array)))
    assert torch.equal(found.disparity, model.infer(np.ascontiguousarray(array)).disparity)


def test_normalised_pictures_are_refused(model: HybridDepthModel, pixels: Tensor) -> None:
    normalise = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with pytest.raises(InputError, match="leave normalisation to the encoder"):
        model(normalise(tv_tensors.Image(pixels / 255))[None])
