"""Our numbers beside the published implementation's, on the same weights at full size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthModel

FOLDER = Path(__file__).parent / "parity"
_spec = importlib.util.spec_from_file_location("parity_fill", FOLDER / "fill.py")
assert _spec is not None
assert _spec.loader is not None
fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fill)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["stage2_default", "stage2_no_language"])
def test_the_published_forward_pass(case: str, tmp_path: Path) -> None:
    manifest = FOLDER / f"{case}.keys.json"
    torch.save(
        {**fill.state_dict(manifest, "encoder"), "height": 224, "width": 672, "use_stereo": False},
        tmp_path / "encoder.pth",
    )
    torch.save(fill.state_dict(manifest, "depth"), tmp_path / "depth.pth")
    model = HybridDepthModel.from_pretrained(tmp_path)
    expected = np.load(FOLDER / f"{case}.npz")
    with torch.inference_mode():
        features = model.encoder.forward_features(fill.single_frame_images())
        disparity = model.decoder(features.maps, (224, 672))[0].numpy()

    assert np.abs(disparity - expected["disp"]).max() < 2e-4
    for level, fused in enumerate(features.fused):
        sample = expected[f"fused{level}_every997"]
        assert list(fused.shape) == list(expected[f"fused{level}_shape"])
        assert np.abs(fused.numpy().ravel()[::997] - sample).max() < 1e-3 * sample.std()
    assert features.class_token is not None
    assert np.abs(features.class_token.numpy() - expected["cls_token"]).max() < 1e-3 * expected["cls_token"].std()
    if case == "stage2_default":
        assert features.prompt_embeddings is not None
        prompts = features.prompt_embeddings.T.contiguous().numpy()
        assert list(prompts.shape) == list(expected["prompt_embeddings_shape"])
        assert np.abs(prompts.ravel()[::131] - expected["prompt_embeddings_every131"]).max() < 1e-6
