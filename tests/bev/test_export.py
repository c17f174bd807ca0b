"""A bird's-eye view as a program and as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hybrid_encoder import BevConfig, BevModel, ConfigError, HybridDepthModel, InputError
from hybrid_encoder.deploy import export_bev_onnx, export_bev_program

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (64, 96)
K = torch.tensor([[40.0, 0, 47.5], [0, 40, 31.5], [0, 0, 1]])[None]
POSE = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])[None]
CONFIG = BevConfig.preset("tiny").replace(cell=2.0, metres_per_unit=20.0, num_depths=24, far=24.0)


@pytest.mark.slow
def test_a_file_says_what_the_model_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BevModel(CONFIG, pretrained=False).train()
    path = export_bev_onnx(model, tmp_path / "bev.onnx", K, POSE, SIZE)
    assert model.training, "the model is not changed"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(1, 1, 3, *SIZE)
    with torch.no_grad():
        expected = model.eval()(images, K[None], POSE[None])
    assert [output.name for output in session.get_outputs()] == list(expected)
    for found, value in zip(session.run(None, {"images": images.numpy()}), expected.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), value, atol=1e-3, rtol=1e-3)
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(said["grid"]) == {"x_range": [-24, 24], "y_range": [-24, 24], "z_range": [-2, 6], "cell": 2}
    assert json.loads(said["vehicle_T_cam"]) == POSE.tolist() and "(1, 1, 3, 64, 96)" in said["input"]
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "Loop" not in kinds


def test_a_program_gives_the_same() -> None:
    torch.manual_seed(0)
    model = BevModel(CONFIG.replace(depth="hybrid-language"), pretrained=False).eval()
    program = export_bev_program(model, K, POSE, SIZE)
    images = torch.rand(1, 1, 3, *SIZE)
    with torch.no_grad():
        found, expected = program.module()(images), model(images, K[None], POSE[None])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported() -> None:
    exact = BevModel(CONFIG.replace(depth="exact"), pretrained=False)
    with pytest.raises(ConfigError, match="which no camera gives"):
        export_bev_program(exact, K, POSE, SIZE)
    with pytest.raises(ConfigError, match="a BevModel is needed"):
        export_bev_program(HybridDepthModel("tiny", pretrained=False), K, POSE, SIZE)  # type: ignore[arg-type]
    uniform = BevModel(CONFIG.replace(depth="uniform"), pretrained=False)
    with pytest.raises(InputError, match="K has numbers that are NaN"):
        export_bev_program(uniform, K * torch.nan, POSE, SIZE)
