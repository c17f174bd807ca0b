"""Models that are shared: predicting changes nothing, whatever the threads, and what cannot be is one sentence."""

from __future__ import annotations

import copy
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hybrid_encoder import (
    ConfigError,
    HybridDepthEncoder,
    HybridDepthModel,
    HybridMatchingEncoder,
    HybridMatchingModel,
    InputError,
)
from hybrid_encoder.deploy import export_onnx, export_program, save_program
from hybrid_encoder.geometry import depth_bins
from hybrid_encoder.language import bin_centers, language_depth, pixel_prompt_logits
from hybrid_encoder.models.base import in_evaluation
from hybrid_encoder.models.neck import PyramidNeck

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def matching() -> HybridMatchingModel:
    return HybridMatchingModel("tiny", pretrained=False).eval()


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
    "size", [0, -1, (0, 0), (-64, 96), (64.0, 96.0), ("64", "96"), (64,), (64, 96, 3), (31, 96), (True, 64)]
)
def test_sizes_that_cannot_be(tiny: HybridDepthModel, size: Any) -> None:
    with pytest.raises(InputError, match=r"size is .*two whole numbers of at least 32"):
        tiny.infer(IMAGES, size=size)


def test_a_word_that_is_no_size(tiny: HybridDepthModel) -> None:
    with pytest.raises(InputError, match=r"size is '64x96'; it must be 'native', \(H, W\)"):
        tiny.infer(IMAGES, size="64x96")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(0, 3, 64, 96), "empty batch"),
        (torch.rand(1, 4, 64, 96), "three channels"),
        (torch.rand(3, 64), "needed"),
        (torch.rand(3, 8, 96), "at least 32"),
        (torch.zeros(3, 64, 96, dtype=torch.int64), "convert it"),
        (torch.full((3, 64, 96), 255.0), "divide bytes by 255"),
        (torch.full((3, 64, 96), float("nan")), r"RGB in \[0, 1\]"),
        (torch.full((3, 64, 96), float("inf")), r"RGB in \[0, 1\]"),
        ([[0.0]], r"images\[0\] is a list; a path"),
        ([], "empty list"),
        (3, "images is a int; a path"),
        (torch.rand(1, 3, 64, 96).to_sparse(), "dense float32 is needed"),
        (torch.rand(1, 3, 64, 96).to(torch.float8_e4m3fn), "dense float32 is needed"),
    ],
)
def test_images_that_cannot_be(tiny: HybridDepthModel, images: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny.infer(images)


NONSENSE: list[Any] = [
    None, "x", 3, -1, 2.5, float("nan"), True, [1], IMAGES.long(), IMAGES.bool(), IMAGES.to(torch.complex64),
    IMAGES[:0], IMAGES[..., :0], IMAGES[0, 0, 0], IMAGES[..., None], IMAGES * 255, IMAGES * float("nan"),
    IMAGES.numpy(),
]  # fmt: skip


def geometry() -> dict[str, Any]:
    K = torch.eye(4)[None]
    K[0, :2, :3] = torch.tensor([[20.0, 0, 12], [0, 20, 8]])
    given = {"current_image": IMAGES[:1], "lookup_images": IMAGES[None, 1:], "poses": torch.eye(4)[None, None]}
    return {**given, "K": K, "inv_K": torch.linalg.inv(K)}


@pytest.mark.parametrize("name", ["current_image", "lookup_images", "poses", "K", "inv_K"])
def test_every_argument_of_the_multi_frame_model(matching: HybridMatchingModel, name: str) -> None:
    assert matching.infer(**geometry()).disparity.isfinite().all()
    for value in NONSENSE:
        for call in (matching, matching.infer):
            with pytest.raises(InputError):
                call(**{**geometry(), name: value})


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_every_argument_of_the_functions(tiny: HybridDepthModel, value: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: tiny.language_depth(value),
        lambda: pixel_prompt_logits(value, torch.rand(3, 8)),
        lambda: pixel_prompt_logits(torch.rand(1, 8, 3, 3), value),
        lambda: language_depth(value, torch.tensor([1.0, 2.0])),
        lambda: language_depth(torch.rand(1, 3, 2, 2), value),
    ]
    for call in calls:
        if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
            continue  # maps that can be
        with pytest.raises((InputError, ConfigError)):
            call()


@pytest.mark.parametrize("value", [0, 1, -3, 2.5, "x", None, float("nan"), float("inf"), [1], (64, 96, 3), (0, 0)])
def test_sizes_numbers_and_configurations_that_cannot_be(tiny: HybridDepthModel, value: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: bin_centers(value),
        lambda: bin_centers(4, value, 0.5),
        lambda: bin_centers(4, 200.0, value),
        lambda: depth_bins(value, 0.5, 4),
        lambda: export_program(tiny, value),
        lambda: export_program(value, (64, 96)),
        lambda: tiny.decoder(tiny.encoder(IMAGES), value),
        lambda: PyramidNeck((8,) * 4)([torch.rand(1, 8, 4, 6)] * 4, value),
        lambda: copy.copy(tiny.encoder).set_prompts(value),
        lambda: HybridDepthModel(value, pretrained=False),
        lambda: HybridDepthEncoder(value, pretrained=False),
        lambda: HybridMatchingEncoder(value, pretrained=False),
        lambda: HybridMatchingModel(value, pretrained=False),
        lambda: tiny.parameter_groups("0.1"),  # type: ignore[arg-type]
        lambda: tiny.set_trainable(semantic=2.5),
        lambda: tiny.set_trainable(spatial=-1),
    ]
    for call in calls:
        with pytest.raises((InputError, ConfigError)) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", None, True])
def test_learning_rates_that_cannot_be(tiny: HybridDepthModel, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"lr is .*it must be"):
        tiny.parameter_groups(value)
    with pytest.raises(ConfigError, match=r"lr_scale\['spatial'\] is .*it must be"):
        tiny.parameter_groups(1e-4, lr_scale={"spatial": value})


@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 31, 32, 47]), min_size=0, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64]),
    scale=st.sampled_from([0.0, 1.0, -1.0, 255.0, float("nan"), float("inf")]),
    size=st.none() | st.tuples(st.integers(-40, 60), st.integers(-40, 60)) | st.text(max_size=3) | st.floats(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_infer_gives_finite_depth_or_one_sentence(
    tiny: HybridDepthModel, shape: list[int], dtype: torch.dtype, scale: float, size: Any
) -> None:
    images = torch.rand(shape) * scale
    if not dtype.is_floating_point:
        images = images.nan_to_num(0, 0, 0)
    refusal = None
    try:
        found = tiny.infer(images.to(dtype), size=size)
    except InputError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        return
    assert found.disparity.shape == (*shape[:-3], 1, *shape[-2:])
    assert found.relative_depth is not None and found.relative_depth.isfinite().all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "is a folder"),
        ("nope/x.onnx", "is not a folder"),
        ("a" * 300, "cannot be written"),
        ("a\0b", "cannot be written"),
        ("file/x", "is not a folder"),
    ],
)
@pytest.mark.parametrize("write", [export_onnx, save_program])
def test_an_export_that_cannot_be_written_is_told_before_the_work(
    tiny: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, name: str, says: str
) -> None:
    monkeypatch.setattr("hybrid_encoder.deploy.export.export_program", lambda *_, **__: pytest.fail("it worked first"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=says):
        write(tiny, tmp_path / name, (64, 96))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_export_onto_a_full_disk_leaves_nothing(
    tiny: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt2").write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_program(tiny, tmp_path / "model.pt2", (64, 96))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


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
