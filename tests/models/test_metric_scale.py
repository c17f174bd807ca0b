"""A model that is told its scale: metres by name, exactly multiplied, and so after saving and loading."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_encoder import ConfigError, HybridDepthModel, HybridMatchingModel
from hybrid_encoder.config import HybridDepthConfig, HybridMatchingDepthConfig

FACTOR = 31.25


def test_depth_is_multiplied_and_called_metres_also_after_loading(tmp_path: Path, tiny_model: HybridDepthModel) -> None:
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    before = tiny_model.infer(image)
    assert before.relative_depth is not None and before.depth_m is None
    tiny_model.set_metric_scale(FACTOR)
    tiny_model.save_pretrained(tmp_path)
    for model in (tiny_model, HybridDepthModel.from_pretrained(tmp_path)):
        after = model.infer(image)
        assert after.relative_depth is None and after.depth_m is not None
        torch.testing.assert_close(after.depth_m, FACTOR * before.relative_depth, rtol=1e-5, atol=0)
        torch.testing.assert_close(after.disparity, before.disparity)
    assert "| scale of depth | metres |" in (tmp_path / "README.md").read_text()
    tiny_model.set_metric_scale(1 / FACTOR)  # a correction multiplies, too
    torch.testing.assert_close(tiny_model.infer(image).depth_m, before.relative_depth, rtol=1e-5, atol=0)


def test_the_depth_of_words_follows(tiny_model: HybridDepthModel) -> None:
    logits = [torch.randn(1, 16, 5, 7, generator=torch.Generator().manual_seed(0))]
    before = tiny_model.language_depth(logits)
    tiny_model.set_metric_scale(FACTOR)
    torch.testing.assert_close(tiny_model.language_depth(logits), FACTOR * before, rtol=1e-5, atol=0)


def test_depth_bins_stay_in_the_unit_of_the_poses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HybridMatchingModel("tiny", pretrained=False).eval()
    generator = torch.Generator().manual_seed(0)
    current, lookup = torch.rand(1, 3, 64, 96, generator=generator), torch.rand(1, 1, 3, 64, 96, generator=generator)
    pose = torch.eye(4)[None, None].clone()
    pose[..., 0, 3] = 0.1
    K = torch.tensor([[14.0, 0, 12, 0], [0, 14.0, 8, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[None]
    geometry = pose, K, K.inverse()
    bins = model.encoder.depth_bins.clone()
    before = model.infer(current, lookup, *geometry)
    assert before.relative_depth is not None
    model.set_metric_scale(FACTOR)
    model.save_pretrained(tmp_path)
    for same in (model, HybridMatchingModel.from_pretrained(tmp_path)):
        assert torch.equal(same.encoder.depth_bins, bins)
        assert (same.config.encoder.min_depth_bin, same.config.encoder.max_depth_bin) == (0.1, 20.0)
        after = same.infer(current, lookup, *geometry)
        assert after.relative_depth is None and after.depth_m is not None
        torch.testing.assert_close(after.disparity, before.disparity)
        torch.testing.assert_close(after.depth_m, FACTOR * before.relative_depth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("factor", [0, -1.0, math.nan, math.inf, -math.inf, "2", None, True, [2.0]])
def test_factors_that_are_no_positive_number_are_refused(tiny_model: HybridDepthModel, factor: Any) -> None:
    before = tiny_model.config
    with pytest.raises(ConfigError, match=r"the factor to metres is .*; give a positive, finite number"):
        tiny_model.set_metric_scale(factor)
    assert tiny_model.config == before


@pytest.mark.parametrize("factor", [1e-6, 1e8])
def test_factors_that_leave_the_range_of_depth_are_refused(factor: float) -> None:
    for config in (HybridDepthConfig(), HybridMatchingDepthConfig()):
        with pytest.raises(ConfigError, match=r"takes the range of depth from 0\.1 to 100 beyond 1e-06 to"):
            config.in_metres(factor)
        assert config.in_metres(2).replace(metric=False, min_depth=0.1, max_depth=100.0) == config
