"""Models that are shared: predicting changes nothing, whatever the threads, and what cannot be is one sentence."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import ConfigError, HybridDepthModel, HybridMatchingModel, InputError
from hybrid_encoder.models.base import in_evaluation

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


def state(model: nn.Module) -> tuple[list[bool], dict[str, Tensor]]:
    return [part.training for part in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}


def test_threads_that_predict_leave_a_training_model_alone(tiny: HybridDepthModel) -> None:
    model = copy.deepcopy(tiny).train()
    modes, tensors = state(model)
    expected = tiny.infer(IMAGES).disparity
    results: list[Tensor] = []

    def work() -> None:
        results.extend(model.infer(IMAGES).disparity for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12 and all(torch.equal(result, expected) for result in results)
    assert state(model)[0] == modes
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_the_multi_frame_model_too() -> None:
    model = HybridMatchingModel("tiny", pretrained=False).train()
    modes, tensors = state(model)
    K = torch.eye(4)[None]
    K[0, :2, :3] = torch.tensor([[12.0, 0, 12], [0, 12, 8]])
    pose = torch.eye(4)[None, None]
    pose[..., 0, 3] = 0.1
    model.infer(IMAGES[:1], IMAGES[None, 1:], pose, K, torch.linalg.inv(K), 0.5, 10.0)
    assert state(model)[0] == modes
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_a_twin_has_the_same_parameters_and_hooks(tiny: HybridDepthModel) -> None:
    assert in_evaluation(tiny) is tiny
    model = copy.deepcopy(tiny).train()
    seen: list[bool] = []
    model.decoder.register_forward_hook(lambda module, *_: seen.append(module.training))
    twin = in_evaluation(model)
    assert twin is not model and not any(part.training for part in twin.modules())
    assert [id(x) for x in twin.parameters()] == [id(x) for x in model.parameters()]
    assert [id(x) for x in twin.buffers()] == [id(x) for x in model.buffers()]
    model.infer(IMAGES)
    assert seen == [False] and model.training


@pytest.mark.parametrize(
    "size", [0, -1, (0, 0), (-64, 96), (64.0, 96.0), ("64", "96"), "64x96", (64,), (64, 96, 3), (31, 96), (True, 64)]
)
def test_sizes_that_cannot_be(tiny: HybridDepthModel, size: Any) -> None:
    with pytest.raises(InputError, match=r"size is .*two whole numbers of at least 32"):
        tiny.infer(IMAGES, size=size)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(0, 3, 64, 96), "empty batch"),
        (torch.rand(1, 4, 64, 96), "three channels"),
        (torch.rand(3, 64), "needed"),
        (torch.rand(3, 8, 96), "at least 32"),
        (torch.zeros(3, 64, 96, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((3, 64, 96), float("nan")), r"RGB in \[0, 1\]"),
        (torch.full((3, 64, 96), float("inf")), r"RGB in \[0, 1\]"),
        ([[0.0]], "a tensor"),
    ],
)
def test_images_that_cannot_be(tiny: HybridDepthModel, images: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny.infer(images)


@pytest.mark.parametrize(
    "encoder", ["/nope/x", "./nope", "~/nope/x", "~nosuchuser/x", "a/b/c", "x" * 5000, "", "nope.ckpt"]
)
@pytest.mark.parametrize("adapter", ["monodepth2", "manydepth"])
def test_an_encoder_that_is_nowhere_is_refused_when_patching(adapter: str, encoder: str) -> None:
    from hybrid_encoder import adapters

    with pytest.raises(ConfigError, match="encoder is"):
        getattr(adapters, adapter).patch(encoder)


def test_a_folder_without_a_checkpoint_is_refused_when_patching(tmp_path: Path) -> None:
    from hybrid_encoder import adapters

    with pytest.raises(ConfigError, match="holds no checkpoint"):
        adapters.monodepth2.patch(tmp_path)
