"""Exported files against the model: numbers, what is folded, what the file says, and how export refuses."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from hybrid_encoder import ConfigError, HybridDepthConfig, HybridDepthEncoder, HybridDepthModel, InputError
from hybrid_encoder.cli import main
from hybrid_encoder.config import NeckConfig, PromptConfig, UNetDecoderConfig
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.deploy import export
from hybrid_encoder.deploy.compare import onnx_difference, program_difference
from hybrid_encoder.deploy.export import OPEN_SIZES, export_onnx, export_program
from hybrid_encoder.deploy.quantize import quantize_int8
from hybrid_encoder.deploy.tools import LOGGERS, check_packages, quiet_exporters
from hybrid_encoder.models.unet import UNetDecoder

from helpers.log_state import logging_unchanged
from helpers.plugs import plugs
from helpers.small_models import small_dino

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (70, 106)  # no multiple of the patch
opens_sizes = pytest.mark.skipif(torch.__version__ < OPEN_SIZES, reason="a size stays open from torch 2.11 on")


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file that the command wrote, and what it printed; tracing takes long, so tests share the file."""
    path, out = tmp_path_factory.mktemp("fixed") / "tiny.onnx", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["hybrid-encoder", "export", "tiny", str(path), "--size", f"{SIZE[0]}x{SIZE[1]}"])
        main()
        raise SystemExit(0)
    assert not stop.value.code
    return path, out.getvalue()


@pytest.fixture(scope="module")
def fixed(command: tuple[Path, str]) -> Path:
    return command[0]


@pytest.fixture(scope="module")
def dynamic(model: HybridDepthModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with logging_unchanged():
        return export_onnx(model, tmp_path_factory.mktemp("dynamic") / "tiny.onnx", SIZE, dynamic_size=True)


def rendered(batch: int, height: int, width: int) -> Tensor:
    frames = [SyntheticDrive(seed=s, num_frames=1, height=height, width=width)[0] for s in range(batch)]
    return torch.from_numpy(np.stack([frame.image for frame in frames]))


@plugs("onnxruntime", "`hybrid-encoder export model.onnx`", "save", "load", "run", "export")
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_gives_the_model_s_disparity(model: HybridDepthModel, fixed: Path, batch: int) -> None:
    assert onnx_difference(model, fixed, rendered(batch, *SIZE))[0] < 1e-5


@opens_sizes
@pytest.mark.slow
def test_words_that_are_read_jointly_are_exported_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = HybridDepthConfig.preset("tiny")
    prompts = PromptConfig(num_tokens=5, decoder_input="logits", readout="joint")  # nothing but words reaches depth
    joint = HybridDepthModel(config.replace(encoder=config.encoder.replace(prompts=prompts)), pretrained=False).eval()
    with logging_unchanged():
        file = export_onnx(joint, tmp_path / "joint.onnx", SIZE, dynamic_size=True)
    for size in (SIZE, (84, 112)):
        assert onnx_difference(joint, file, rendered(1, *size))[0] < 1e-5


@opens_sizes
@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (84, 112), (224, 224), (65, 130)])
def test_one_file_serves_every_size(model: HybridDepthModel, dynamic: Path, size: tuple[int, int]) -> None:
    for batch in (1, 3):
        assert onnx_difference(model, dynamic, rendered(batch, *size))[0] < 1e-5


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


@opens_sizes
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
def test_int8_is_smaller_and_moves_disparity_a_little(
    model: HybridDepthModel, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same program of the same model at the same size is not traced again.
    monkeypatch.setattr(export, "export_program", lambda *_, **__: None)
    monkeypatch.setattr(export, "translate", lambda _: onnx.load(fixed))
    small = export_onnx(model, tmp_path / "int8.onnx", SIZE, int8=True)
    assert small.stat().st_size < 0.9 * fixed.stat().st_size
    images = rendered(3, *SIZE)
    largest, mean = onnx_difference(model, small, images)
    spread = float(model.infer(images).disparity.amax())
    assert 0 < mean <= largest < 0.005 * spread  # docs/export.md states what was measured
    proto = onnx.load(small)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = [constants[node.input[1]] for node in proto.graph.node if node.op_type == "MatMulInteger"]
    # More would overflow where a processor adds products up in 16 bits, which not every one that runs this does.
    assert len(weights) > 10 and all(60 < np.abs(weight.astype(int)).max() <= 64 for weight in weights)
    assert {e.key: e.value for e in proto.metadata_props}["weights"] == "int8 linear layers"


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


@opens_sizes
@pytest.mark.slow
def test_antialiased_positions_leave_the_size_open() -> None:
    model = _spatial("vit_small_patch14_reg4_dinov2")
    assert model.encoder.spatial is not None and model.encoder.spatial.position_rule == "size"
    program = export_program(model, SIZE, dynamic_size=True).module()
    with torch.no_grad():
        for size in (SIZE, (64, 96), (150, 150)):
            images = torch.rand(1, 3, *size)
            torch.testing.assert_close(program(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.skipif(torch.__version__ >= OPEN_SIZES, reason="a size stays open from torch 2.11 on")
def test_an_older_torch_is_told_from_which_on_the_size_stays_open(model: HybridDepthModel) -> None:
    with pytest.raises(ConfigError, match=r"; export a fixed size, .* needed, or install torch 2\.11 or later\.$"):
        export_program(model, SIZE, dynamic_size=True)


@pytest.mark.slow
def test_rotary_positions_tie_the_graph_to_a_size() -> None:
    model = _spatial("vit_small_patch16_dinov3")
    with pytest.raises(ConfigError, match=r"'vit_small_patch16_dinov3' .*'rope'.*; export a fixed size"):
        export_program(model, (64, 96), dynamic_size=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(export_program(model, (64, 96)).module()(images), model(images), rtol=0, atol=1e-5)


def test_what_cannot_be_exported_is_named(
    tiny_model: HybridDepthModel, tiny: HybridDepthEncoder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"size is .20, 96.; .* two whole numbers of at least 32"):
        export_program(tiny_model, (20, 96))
    with pytest.raises(InputError, match=r"the size is 40 x 96; .* between 64 and"):
        export_program(tiny_model, (40, 96), dynamic_size=True)
    with pytest.raises(ConfigError, match="the model is a HybridDepthEncoder"):
        export_program(tiny, (64, 96))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the model is a HybridDepthEncoder"):
        export_onnx(tiny, tmp_path / "model.onnx", (64, 96))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not a folder"):
        export_onnx(tiny_model, tmp_path / "absent" / "model.onnx", (64, 96))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"package onnxscript is missing.*hybrid-encoder\[export\]"):
        check_packages("onnx", "onnxscript")


@pytest.mark.slow
def test_logging_is_left_alone(tiny_model: HybridDepthModel, fixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tracing and quantising say nothing and configure nothing; onnxruntime calls ``logging.warning`` itself."""
    proto = onnx.load(fixed)
    with logging_unchanged(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize_int8(proto)
        export_program(tiny_model, (64, 96))
    assert "WARNING" not in capfd.readouterr().err
    assert not [str(warning.message) for warning in caught]


def test_messages_of_other_code_pass_while_exporters_are_quiet(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in map(logging.getLogger, ("torch", "torch.onnx")):  # which print by themselves
        if caplog.handler not in logger.handlers:  # newer versions of pytest put it there
            monkeypatch.setattr(logger, "propagate", True)
    before = [logging.getLogger(name).level for name in LOGGERS]
    with caplog.at_level(logging.INFO), quiet_exporters():
        logging.warning("of the program, on the root logger")
        logging.getLogger("an.application").info("of the program, on its own logger")
        for name in LOGGERS:
            logging.getLogger(f"{name}.part").warning("of an exporter")
            logging.getLogger(f"{name}.part").error("an error of an exporter")
        with pytest.warns(UserWarning, match="of the program"):
            warnings.warn("of the program", stacklevel=1)
    assert [record.message for record in caplog.records] == [
        "of the program, on the root logger",
        "of the program, on its own logger",
        *["an error of an exporter"] * len(LOGGERS),
    ]
    assert [logging.getLogger(name).level for name in LOGGERS] == before


@pytest.fixture
def run(run):  # type: ignore[no-untyped-def]
    return partial(run, "export")


@pytest.mark.slow
def test_the_command_writes_a_file_and_compares_it(  # type: ignore[no-untyped-def]
    run, model: HybridDepthModel, command: tuple[Path, str], tmp_path: Path
) -> None:
    path, out = command
    assert (
        "disparity differs" in " ".join(out.split())
        and str(path) in out.replace("\n", "")
        and list(path.parent.iterdir()) == [path]
    )
    code, out, _ = run("tiny", tmp_path / "a.pt2", "--size", "64x96")
    assert code == 0 and "disparity differs" in out
    assert program_difference(model, tmp_path / "a.pt2", rendered(2, 64, 96))[0] < 1e-5


def test_the_decoder_of_monodepth2_rounds_its_sizes_alike_in_onnx(tmp_path: Path) -> None:
    class OnItsOwn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (4, 4, 4, 4, 4)
            self.decoder = UNetDecoder((3, 3, 3, 3), UNetDecoderConfig(NeckConfig(widths), widths, (0, 1)))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.decoder([images[..., ::8, ::8]] * 4, (images.shape[-2], images.shape[-1]))
            return outputs[0], outputs[1]

    torch.manual_seed(0)
    module, path = OnItsOwn().eval(), tmp_path / "decoder.onnx"
    sides = {2: Dim("height", min=64, max=8192), 3: Dim("width", min=64, max=8192)}
    with quiet_exporters():
        images = torch.rand(1, 3, 64, 96)
        program = torch.onnx.export(module, (images,), dynamo=True, dynamic_shapes=(sides,), verbose=False)
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path))
    for size in ((64, 96), (97, 131), (160, 65)):
        images = torch.rand(1, 3, *size)
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for output, expected in zip(found, module(images), strict=True):
            np.testing.assert_allclose(output, expected.detach().numpy(), rtol=0, atol=1e-5)
