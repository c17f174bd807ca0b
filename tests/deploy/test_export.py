"""Exported files against the model: numbers, what is folded, what the file says, and how export refuses."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hybrid_encoder import ConfigError, HybridDepthConfig, HybridDepthEncoder, HybridDepthModel, InputError
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.deploy.export import (
    check_packages,
    export_onnx,
    export_program,
    onnx_difference,
    program_difference,
)
from hybrid_encoder.towers.positions import bicubic_matrices, resample_positions

from helpers.small_models import small_dino

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (70, 106)  # no multiple of the patch


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def fixed(model: HybridDepthModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("fixed") / "tiny.onnx", SIZE)


@pytest.fixture(scope="module")
def dynamic(model: HybridDepthModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("dynamic") / "tiny.onnx", SIZE, dynamic_size=True)


def pictures(batch: int, height: int, width: int) -> Tensor:
    frames = [next(iter(SyntheticDrive(seed=s, num_frames=1, height=height, width=width))) for s in range(batch)]
    return torch.stack([_tensor(frame.image) for frame in frames])


def _tensor(image: Any) -> Tensor:
    image = torch.as_tensor(image)
    return image.permute(2, 0, 1).float() / 255 if image.shape[-1] == 3 else image.float()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_gives_the_model_s_disparity(model: HybridDepthModel, fixed: Path, batch: int) -> None:
    assert onnx_difference(model, fixed, pictures(batch, *SIZE))[0] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (84, 112), (224, 224), (65, 130)])
def test_one_file_serves_every_size(model: HybridDepthModel, dynamic: Path, size: tuple[int, int]) -> None:
    for batch in (1, 3):
        assert onnx_difference(model, dynamic, pictures(batch, *size))[0] < 1e-5


@pytest.mark.slow
def test_the_text_tower_is_not_in_the_file(model: HybridDepthModel, fixed: Path) -> None:
    graph = onnx.load(fixed).graph
    assert not [tensor.name for tensor in graph.initializer if "text" in tensor.name or "transformer" in tensor.name]
    assert sum(node.op_type == "Softmax" for node in graph.node) == 4  # the spatial tower's blocks alone
    modes = [a.s for node in graph.node if node.op_type == "Resize" for a in node.attribute if a.name == "mode"]
    assert modes and b"cubic" not in modes  # positions are folded as well
    whole = sum(p.numel() for p in model.parameters())
    text = sum(p.numel() for p in model.encoder.part_parameters()["text"])
    # On top of the other weights come the prompts, the positions and the graph.
    assert text > 100_000 and fixed.stat().st_size < 4 * (whole - text) + 500_000


@pytest.mark.slow
def test_the_file_says_what_goes_in_and_comes_out(fixed: Path, dynamic: Path, model: HybridDepthModel) -> None:
    for path, sides in ((fixed, list(SIZE)), (dynamic, ["height", "width"])):
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
        said = {entry.key: entry.value for entry in proto.metadata_props}
        assert float(said["min_depth"]) == model.config.min_depth and float(said["max_depth"]) == model.config.max_depth
        assert said["metric"] == "false" and said["input_range"] == "[0, 1]" and "RGB" in said["input"]
        shapes = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*proto.graph.input, *proto.graph.output)
        }
        assert shapes == {"images": ["batch", 3, *sides], "disparity": ["batch", 1, *sides]}


@pytest.mark.slow
def test_int8_is_smaller_and_moves_disparity_a_little(model: HybridDepthModel, fixed: Path, tmp_path: Path) -> None:
    small = export_onnx(model, tmp_path / "int8.onnx", SIZE, int8=True)
    assert small.stat().st_size < 0.9 * fixed.stat().st_size
    images = pictures(3, *SIZE)
    largest, mean = onnx_difference(model, small, images)
    spread = float(model.infer(images).disparity.amax())
    assert 0 < mean <= largest < 0.02 * spread  # docs/export.md states what was measured
    assert {e.key: e.value for e in onnx.load(small).metadata_props}["weights"] == "int8 linear layers"


@pytest.mark.slow
def test_the_model_is_as_before(tiny_model: HybridDepthModel) -> None:
    tiny_model.train()
    before = {name: (p, p.requires_grad, p.clone()) for name, p in tiny_model.named_parameters()}
    program = export_program(tiny_model, (64, 96))
    assert tiny_model.training and not any("text" in name or "prompts.tr" in name for name in program.state_dict)
    for name, p in tiny_model.named_parameters():
        assert p is before[name][0] and p.requires_grad == before[name][1] and torch.equal(p, before[name][2])
    disparity = program.module()(torch.rand(3, 3, 64, 96))
    assert disparity.shape == (3, 1, 64, 96) and not disparity.requires_grad


def _spatial(name: str) -> HybridDepthModel:
    config = HybridDepthConfig.preset("tiny")
    encoder = config.encoder.replace(spatial=small_dino(name), towers="spatial", prompts=None)
    torch.manual_seed(0)
    return HybridDepthModel(config.replace(encoder=encoder), pretrained=False).eval()


@pytest.mark.slow
def test_antialiased_positions_leave_the_size_open() -> None:
    model = _spatial("vit_small_patch14_reg4_dinov2")
    assert model.encoder.spatial is not None and model.encoder.spatial.position_rule == "size"
    program = export_program(model, SIZE, dynamic_size=True).module()
    with torch.no_grad():
        for size in (SIZE, (64, 96), (150, 150)):
            images = torch.rand(1, 3, *size)
            torch.testing.assert_close(program(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_rotary_positions_tie_the_graph_to_a_size() -> None:
    model = _spatial("vit_small_patch16_dinov3")
    with pytest.raises(ConfigError, match=r"'vit_small_patch16_dinov3' .*'rope'.*; export a fixed size"):
        export_program(model, (64, 96), dynamic_size=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(export_program(model, (64, 96)).module()(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["dinov2", "size"])
@pytest.mark.parametrize("new", [(5, 8), (16, 16), (16, 30), (40, 7), (33, 1)])
def test_positions_as_matrices_are_bicubic_resampling(rule: str, new: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + 16 * 16, 8, generator=torch.Generator().manual_seed(0))
    expected = resample_positions(table, (16, 16), new, 1, rule)[0, 1:].view(*new, 8)
    rows, columns = bicubic_matrices((16, 16), new, rule, table.device)
    found = torch.einsum("hi,ijc,wj->hwc", rows, table[0, 1:].view(16, 16, 8), columns)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_cells_round_as_python_does() -> None:
    for patch in (7, 8, 14, 16):
        assert [patch_grid(n, n, patch)[0] for n in range(1, 700)] == [max(1, round(n / patch)) for n in range(1, 700)]


def test_what_cannot_be_exported_is_named(
    tiny_model: HybridDepthModel, tiny: HybridDepthEncoder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the size is 20 x 96; height and width must be at least 32"):
        export_program(tiny_model, (20, 96))
    with pytest.raises(InputError, match=r"the size is 40 x 96; .* between 64 and"):
        export_program(tiny_model, (40, 96), dynamic_size=True)
    with pytest.raises(ConfigError, match="the model is a HybridDepthEncoder"):
        export_program(tiny, (64, 96))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no folder"):
        export_onnx(tiny_model, tmp_path / "absent" / "model.onnx", (64, 96))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"package onnxscript is missing.*hybrid-encoder\[export\]"):
        check_packages("onnx", "onnxscript")


@pytest.fixture
def run(run):  # type: ignore[no-untyped-def]
    return partial(run, "export")


@pytest.mark.slow
def test_the_command_writes_a_file_and_compares_it(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("tiny", tmp_path / "a.onnx", "--size", "64x96")
    assert code == 0 and "disparity differs" in out and (tmp_path / "a.onnx").is_file()
    code, out, _ = run("tiny", tmp_path / "a.pt2", "--size", "64x96", "--format", "pt2")
    assert code == 0 and "disparity differs" in out
    model = HybridDepthModel.from_pretrained("tiny")
    assert program_difference(model, tmp_path / "a.pt2", pictures(2, 64, 96))[0] < 1e-5


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("hybrid_encoder.deploy.export.program_difference", lambda *_: (0.5, 0.1))
    earlier = tmp_path / "a.pt2"
    earlier.write_bytes(b"an earlier export")
    code, _, err = run("tiny", earlier, "--size", "64x96", "--format", "pt2")
    assert code == 2 and "up to 0.5 away" in err
    assert list(tmp_path.iterdir()) == [earlier] and earlier.read_bytes() == b"an earlier export"


def test_the_command_refuses(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, message in (
        (("tiny", tmp_path / "a.onnx", "--size", "wide"), "--size is 'wide'"),
        (("tiny", tmp_path / "a.pt", "--size", "64x96"), "does not end with .onnx"),
        (("tiny", tmp_path / "a.pt2", "--size", "64x96", "--format", "pt2", "--int8"), "--int8 is for --format onnx"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
