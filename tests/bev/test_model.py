"""The whole bird's-eye view: where features land, each kind of depth, cameras that are kept, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hybrid_encoder import BevConfig, BevModel, ConfigError, HybridDepthEncoder, HybridDepthModel, InputError
from hybrid_encoder.bev import frustum_points, scatter_pool
from hybrid_encoder.bev.model import relative_focal

SIZE = (64, 96)
K = torch.tensor([[40.0, 0, 47.5], [0, 40, 31.5], [0, 0, 1]]).expand(2, 3, 3)
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
BACKWARD = torch.tensor([[0.0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
POSES = torch.stack([FORWARD, BACKWARD])
IMAGES = torch.rand(1, 2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
KINDS = ("hybrid-disparity", "hybrid-language", "learned", "uniform", "exact")


def build(depth: Any = "uniform", **changes: Any) -> BevModel:
    torch.manual_seed(0)
    small = {"near": 0.5, "far": 20.0, "num_depths": 40, "cell": 1.0, **changes}
    return BevModel(BevConfig.preset("tiny").replace(depth=depth, **small), pretrained=False).eval()


def run(model: BevModel, images: Tensor = IMAGES, metres: float = 5.0) -> dict[str, Tensor]:
    depth = torch.full((*images.shape[:2], 1, *SIZE), metres)
    return model(images, K.expand(len(images), 2, 3, 3), POSES.expand(len(images), 2, 4, 4), depth)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_depth_gives_maps_and_pools_as_the_plain_sums_do(kind: str) -> None:
    model = build(kind, metres_per_unit=20.0)
    depth = torch.full((1, 2, 1, *SIZE), 5.0)
    with torch.no_grad():
        maps = run(model)
        found = model.encoder.encoder.forward_features(IMAGES[0])
        (features,) = model.neck(found.maps, SIZE)
        distribution = model._distribution(found, features, SIZE, relative_focal(K, SIZE[1]), depth)
        points = frustum_points(K[None], POSES[None], model.bins.centres(), SIZE, (8, 12))
        context = model.context(features)
        expected = scatter_pool(distribution[None], context[None], points, model.grid)
        pooled = model.pool(IMAGES, K[None], POSES[None], depth)
    assert {name: tuple(x.shape) for name, x in maps.items()} == dict.fromkeys(
        ("vehicle", "road", "centre"), (1, 1, 48, 48)
    )
    assert distribution.shape == (2, 40, 8, 12) and 0.05 < distribution.sum(1).mean() <= 1 + 1e-5
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    assert pooled.any()


def test_features_land_where_the_depth_says() -> None:
    model = build("exact")
    for metres, rows in ((5.25, {24 + 4, 24 + 5, 24 - 5, 24 - 6}), (9.25, {24 + 8, 24 + 9, 24 - 9, 24 - 10})):
        with torch.no_grad():
            pooled = model.pool(IMAGES, K[None], POSES[None], torch.full((1, 2, 1, *SIZE), metres))
        seen = pooled[0].abs().sum(0).nonzero()
        assert set(seen[:, 0].tolist()) <= rows and len(seen) > 10
        # The field of view is 100 degrees wide: as far to the sides as it is ahead, and a little more.
        assert (seen[:, 1] + 0.5 - 24).abs().max() <= 1.3 * metres + 1
    with torch.no_grad():
        assert not model.pool(IMAGES, K[None], POSES[None], torch.zeros(1, 2, 1, *SIZE)).any()  # unknown


def test_a_camera_to_the_left_fills_the_left() -> None:
    left = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    with torch.no_grad():
        pooled = build().pool(IMAGES[:, :1], K[None, :1], left[None, None])
    seen = pooled[0].abs().sum(0).nonzero()
    assert seen[:, 1].min() >= 24 and seen[:, 0].min() < 24 < seen[:, 0].max()


def test_a_batch_is_its_items() -> None:
    model = build("learned")
    images = torch.rand(2, 2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = run(model, images)
        for item in range(2):
            one = run(model, images[item : item + 1])
            for name in one:
                torch.testing.assert_close(both[name][item : item + 1], one[name], atol=1e-4, rtol=1e-4)


def test_the_plan_is_kept_until_the_cameras_move() -> None:
    model = build()
    plan = model.plan(K[None], POSES[None], SIZE)
    assert model.plan(K[None].clone(), POSES[None].clone(), SIZE) is plan
    moved = POSES[None].clone()
    moved[0, 0, 0, 3] += 0.5
    other = model.plan(K[None], moved, SIZE)
    assert other is not plan and not torch.equal(other.cell, plan.cell)


def test_cameras_that_are_fixed_need_not_be_given() -> None:
    model = build("learned")
    with pytest.raises(InputError, match=r"unless fix_cameras\(\) was called"):
        model(IMAGES)
    model.fix_cameras(K, POSES, SIZE)
    images = torch.rand(3, 2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, expected in run(model, images).items():
            torch.testing.assert_close(model(images)[name], expected, atol=1e-5, rtol=1e-5)
    assert not any(name.startswith("fixed") for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_is_meant_to_train(kind: str) -> None:
    for detach in (False, True):
        model = build(kind, metres_per_unit=20.0, detach_depth=detach).train()
        sum(x.square().sum() for x in run(model).values()).backward()  # type: ignore[union-attr]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.own_parameters())
        assert any(p.grad is not None and bool(p.grad.any()) for p in model.encoder.encoder.parameters())
        reached = any(p.grad is not None and bool(p.grad.any()) for p in model.encoder.decoder.parameters())
        assert reached == (kind == "hybrid-disparity" and not detach)
        if model.uncertainty is not None:
            assert model.uncertainty.log_scale.grad and model.uncertainty.log_width.grad


@pytest.mark.parametrize("kind", ["hybrid-disparity", "hybrid-language"])
def test_a_longer_lens_sees_as_many_times_as_far(kind: str) -> None:
    """The same image from a camera of twice the focal length, by a scale of one half, is lifted as before."""
    model = build(kind, metres_per_unit=20.0)
    features = torch.zeros(2, 1, 8, 12)
    with torch.no_grad():
        found = model.encoder.encoder.forward_features(IMAGES[0])
        focal = relative_focal(K, SIZE[1])
        assert focal.tolist() == pytest.approx([40 / (0.58 * 96)] * 2)
        before = model._distribution(found, features, SIZE, focal, None)
        depth = model.hybrid_depth(IMAGES, K[None])
        assert model.uncertainty is not None
        model.uncertainty.log_scale.sub_(math.log(2))
        longer = K * torch.tensor([1.0, 2.0])[:, None, None]
        after = model._distribution(found, features, SIZE, relative_focal(longer, SIZE[1]), None)
        torch.testing.assert_close(after[1], before[1])
        assert not torch.allclose(after[0], before[0], atol=1e-3)
        torch.testing.assert_close(
            model.hybrid_depth(IMAGES, longer[None]), depth * torch.tensor([0.5, 1.0])[:, None, None, None]
        )


def test_the_depth_model_inside_loads_alone(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    depth, encoder = HybridDepthModel.from_pretrained(tmp_path), HybridDepthEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(depth.state_dict(), model.encoder.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(encoder.state_dict(), model.encoder.encoder.state_dict(), rtol=0, atol=0)
    assert depth.config == model.config.encoder
    card = (tmp_path / "README.md").read_text()
    assert "| grid | -24 to 24 m forward, -24 to 24 m left, cells of 1 m |" in card


def test_a_depth_model_becomes_part_of_it() -> None:
    depth = HybridDepthModel("tiny", pretrained=False)
    model = BevModel(BevConfig.preset("tiny"), encoder=depth)
    assert model.encoder is depth and model.config.encoder == depth.config


@pytest.mark.slow
def test_with_fixed_cameras_it_compiles_without_a_break() -> None:
    model = build("hybrid-disparity", metres_per_unit=20.0)
    model.fix_cameras(K, POSES, SIZE)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(IMAGES)
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)


def test_half_precision_runs() -> None:
    model = build("learned")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = run(model)
    with torch.no_grad():
        expected = run(model)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model(IMAGES[0], K, POSES), r"\(B, N, 3, H, W\) is needed"),
        (lambda model: model(IMAGES, K[None]), "K and vehicle_T_cam are both needed"),
        (lambda model: model(IMAGES, K[None, :1], POSES[None, :1]), r"\(1, 2, 3, 3\) is needed for these images"),
        (lambda model: model(IMAGES, K[None] * torch.nan, POSES[None]), "K has numbers that are NaN"),
        (lambda model: model(IMAGES * 255, K[None], POSES[None]), "divide bytes by 255"),
    ],
)
def test_input_that_cannot_be(call: Callable[[BevModel], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(build())


def test_only_hybrid_depth_is_a_map_of_metres() -> None:
    with torch.no_grad():
        for kind in ("hybrid-disparity", "hybrid-language"):
            metres = build(kind, metres_per_unit=20.0).hybrid_depth(IMAGES, K[None])
            assert metres.shape[:3] == (1, 2, 1) and metres.min() > 0
            wider = K[None].clone()
            wider[..., 0, 0] /= 2  # a lens of half the focal length: the same picture shows what is half as far
            torch.testing.assert_close(build(kind, metres_per_unit=20.0).hybrid_depth(IMAGES, wider), metres / 2)
    with pytest.raises(ConfigError, match="depth is 'uniform'"):
        build("uniform").hybrid_depth(IMAGES, K[None])


def test_exact_depth_must_be_given() -> None:
    with pytest.raises(InputError, match="the model's depth is 'exact'"):
        build("exact")(IMAGES, K[None], POSES[None])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cell": 0.01}, "4800 x 4800 cells"),
        ({"stride": 14}, "stride is 14"),
        ({"depth": "lidar"}, "depth is 'lidar'"),
        ({"depth": "hybrid-language", "encoder": None}, "has no prompts"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    config = BevConfig.preset("tiny")
    if "encoder" in changes:
        changes = {**changes, "encoder": config.encoder.replace(encoder=config.encoder.encoder.replace(prompts=None))}
    with pytest.raises(ConfigError, match=says):
        config.replace(**changes)
