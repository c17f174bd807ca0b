"""Our numbers beside the published implementation's, on the same weights at full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthModel, HybridMatchingModel
from hybrid_encoder.models.encoder import HybridFeatures
from parity import fill

FOLDER = Path(__file__).parent / "parity"


def _compare_fused(features: HybridFeatures, expected: Any) -> None:
    for level, fused in enumerate(features.fused):
        sample = expected[f"fused{level}_every997"]
        assert list(fused.shape) == list(expected[f"fused{level}_shape"])
        assert np.abs(fused.numpy().ravel()[::997] - sample).max() < 1e-3 * sample.std()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["stage2_default", "stage2_no_language"])
def test_the_published_forward_pass(case: str, tmp_path: Path) -> None:
    fill.write_checkpoint(case, tmp_path)
    model = HybridDepthModel.from_pretrained(tmp_path)
    expected = np.load(FOLDER / f"{case}.npz")
    with torch.inference_mode():
        features = model.encoder.forward_features(fill.single_frame_images())
        disparity = model.decoder(features.maps, (224, 672))[0].numpy()

    assert np.abs(disparity - expected["disp"]).max() < 2e-4
    _compare_fused(features, expected)
    assert features.class_token is not None
    assert np.abs(features.class_token.numpy() - expected["cls_token"]).max() < 1e-3 * expected["cls_token"].std()
    if case == "stage2_default":
        assert features.prompt_embeddings is not None
        prompts = features.prompt_embeddings.T.contiguous().numpy()
        assert list(prompts.shape) == list(expected["prompt_embeddings_shape"])
        assert np.abs(prompts.ravel()[::131] - expected["prompt_embeddings_every131"]).max() < 1e-6


@pytest.mark.slow
def test_the_published_forward_pass_of_several_frames(tmp_path: Path) -> None:
    fill.write_checkpoint("manydepth_default", tmp_path)
    model = HybridMatchingModel.from_pretrained(tmp_path)
    expected = np.load(FOLDER / "manydepth_default.npz")
    poses, K, inv_K = (torch.from_numpy(expected[name]) for name in ("poses", "K", "inv_K"))
    with torch.inference_mode():
        current, lookup = fill.multi_frame_images()
        found = model.encoder.forward_features(current, lookup, poses, K, inv_K, 1.0, 15.0)
        disparity = model.decoder(found.hybrid.maps, (224, 672))[0].numpy()

    assert np.abs(disparity - expected["disp"]).max() < 2e-4
    _compare_fused(found.hybrid, expected)
    assert np.abs(found.cost.numpy().ravel()[::97] - expected["cost_volume_every97"]).max() < 1e-5
    assert abs(float(found.missing.float().mean()) - float(expected["missing_mean"])) < 1e-3
    # Random weights leave bins all but equally cheap, so that the order of sums decides at a few pixels.
    assert np.isclose(found.lowest_cost.numpy(), expected["lowest_cost"], rtol=1e-5).mean() >= 0.999
    assert (found.confidence.numpy().astype(bool) == expected["confidence"]).mean() >= 0.999
