"""Files of every format: run in their own runtimes, kept only if they agree, and refused before the work."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hybrid_encoder import ConfigError, HybridDepthModel, InputError
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.deploy import files
from hybrid_encoder.deploy.compare import file_difference, load_file
from hybrid_encoder.deploy.export import OPEN_SIZES, export_onnx, export_program, save_program
from hybrid_encoder.deploy.files import ExportedFile, check_export, export_file
from hybrid_encoder.deploy.formats import choose_format
from hybrid_encoder.deploy.openvino import metadata_of, save_openvino
from hybrid_encoder.deploy.static import MAX_PICTURES, calibration_pictures

from helpers.plugs import plugs

SIZE = (64, 96)
opens_sizes = pytest.mark.skipif(torch.__version__ < OPEN_SIZES, reason="a size stays open from torch 2.11 on")


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny").eval()


@pytest.fixture(scope="module")
def program(model: HybridDepthModel) -> Any:
    return export_program(model, SIZE)


@pytest.fixture
def traced_once(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the program of the same model and size that is there already."""
    for module in ("aoti", "export", "openvino"):
        monkeypatch.setattr(f"hybrid_encoder.deploy.{module}.export_program", lambda *_, **__: program)


def street(batch: int = 1, height: int = SIZE[0], width: int = SIZE[1], seed: int = 0) -> Tensor:
    drive = SyntheticDrive(seed=seed, num_frames=batch, height=height, width=width)
    return torch.from_numpy(np.stack([drive[index].image for index in range(batch)]))


@pytest.mark.parametrize(
    ("name", "to", "format"),
    [("a.onnx", None, "onnx"), ("a.pt2", None, "program"), ("a.xml", None, "openvino"), ("a.pt2", "aoti", "aoti")],
)
def test_the_suffix_says_the_format_where_nobody_else_does(name: str, to: str | None, format: str) -> None:
    assert choose_format(Path(name), to) == format


def test_a_format_and_a_suffix_that_disagree() -> None:
    with pytest.raises(InputError, match=r"a\.onnx does not end with \.pt2, as a file of the format program does"):
        choose_format(Path("a.onnx"), "pt2")  # as it was once called
    with pytest.raises(InputError, match=r"does not end with a suffix .* one of \.onnx \(onnx\), \.pt2 \(program\)"):
        choose_format(Path("a.tflite"))
    with pytest.raises(ConfigError, match="'tflite'; one of onnx, program, openvino, aoti is needed"):
        choose_format(Path("a.onnx"), "tflite")


@plugs("openvino", "`hybrid-encoder export model.xml`, from the exported program", "save", "load", "run", "export")
def test_openvino_from_the_exported_program(model: HybridDepthModel, traced_once: None, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    done = export_file(model, tmp_path / "tiny.xml", SIZE)
    assert sorted(os.listdir(tmp_path)) == ["tiny.bin", "tiny.xml"]
    assert done.num_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert done.largest is not None and done.mean is not None and done.mean <= done.largest < 1e-5
    read = openvino.Core().read_model(tmp_path / "tiny.xml")
    assert [*read.inputs[0].names, *read.outputs[0].names] == ["images", "disparity"]
    shapes = [str(port.partial_shape) for port in (read.inputs[0], read.outputs[0])]
    assert shapes == ["[?,3,64,96]", "[?,1,64,96]"]
    assert file_difference(model, tmp_path / "tiny.xml", street(3))[0] < 1e-5
    said = metadata_of(tmp_path / "tiny.xml")
    assert float(said["max_depth"]) == model.config.max_depth and said["metric"] == "false"
    assert "RGB in [0, 1]" in said["input"] and said["weights"] == "float32"


@opens_sizes
@plugs("openvino", "`hybrid-encoder export model.xml --dynamic-size`, from ONNX", "save", "load", "run", "export")
@pytest.mark.slow
def test_openvino_from_onnx_keeps_the_size_open(model: HybridDepthModel, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = save_openvino(model, tmp_path / "tiny.xml", (70, 106), dynamic_size=True)
    for images in (street(1, 70, 106), street(2, 91, 131)):
        assert file_difference(model, path, images)[0] < 1e-5
    with pytest.raises(ConfigError, match="converts no program with an open size"):
        save_openvino(model, tmp_path / "tiny.xml", SIZE, dynamic_size=True, via="program")


@pytest.mark.slow
def test_openvino_from_onnx_gives_the_same(model: HybridDepthModel, traced_once: None, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = save_openvino(model, tmp_path / "tiny.xml", SIZE, via="onnx")
    read = openvino.Core().read_model(path)
    assert [*read.inputs[0].names, *read.outputs[0].names] == ["images", "disparity"]
    assert file_difference(model, path, street())[0] < 1e-5


@plugs("AOTInductor", "`hybrid-encoder export model.pt2 --to aoti`", "save", "load", "run", "export")
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles C++: g++ is absent")
def test_a_package_of_aotinductor(model: HybridDepthModel, traced_once: None, tmp_path: Path) -> None:
    done = export_file(model, tmp_path / "tiny.pt2", SIZE, to="aoti")
    assert os.listdir(tmp_path) == ["tiny.pt2"] and done.largest is not None and done.largest < 1e-5
    assert file_difference(model, tmp_path / "tiny.pt2", street(2))[0] < 1e-5  # told from a program by what is inside
    said = torch._inductor.aoti_load_package(str(tmp_path / "tiny.pt2")).get_metadata()
    assert float(said["min_depth"]) == model.config.min_depth and said["weights"] == "float32"


def test_a_missing_compiler_is_told_before_the_work(
    model: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_encoder.deploy.aoti.export_program", lambda *_, **__: pytest.fail("it worked first"))
    # Its own way to change a setting: pytest's takes the name away for good.
    nowhere = torch._inductor.config.patch({"cpp.cxx": (None, "/nope")})
    with nowhere, pytest.raises(ConfigError, match=r"finds no compiler .*; install g\+\+ or clang\+\+"):
        export_file(model, tmp_path / "tiny.pt2", SIZE, to="aoti")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch.jit.trace takes a program from torch 2.9 on")
@plugs("TorchScript", "`torch.jit.trace(program.module(), images)`", "save", "load", "run")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_torchscript_of_an_exported_program(model: HybridDepthModel, program: Any) -> None:
    images, buffer = street(), io.BytesIO()
    torch.jit.save(torch.jit.trace(program.module(), (torch.rand(1, 3, *SIZE),)), buffer)
    buffer.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(buffer)(images), model(images), rtol=0, atol=1e-6)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of pictures of another shape than the export's."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        pixels = street(1, 96, 128, seed=10 + seed)[0].permute(1, 2, 0).numpy() * 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{seed}.png")
    return folder


def _calibration(model: HybridDepthModel, folder: Path) -> list[Tensor]:
    return calibration_pictures(model, sorted(folder.iterdir()), SIZE)


def test_calibration_sees_what_predict_would(model: HybridDepthModel, photographs: Path) -> None:
    seen = _calibration(model, photographs)
    for images, file in zip(seen, sorted(photographs.iterdir()), strict=True):
        expected = model.infer(file, SIZE).disparity
        small = torch.nn.functional.interpolate(model(images), (96, 128), mode="bilinear", align_corners=False)
        torch.testing.assert_close(small[0], expected.reshape(1, 96, 128), rtol=0, atol=1e-4)
    many = calibration_pictures(model, [photographs / "0.png", photographs / "1.png"] * MAX_PICTURES, SIZE)
    assert len(many) == MAX_PICTURES and all(torch.equal(one, seen[0]) for one in many)
    with pytest.raises(InputError, match="no picture to calibrate with"):
        calibration_pictures(model, [], SIZE)


@plugs("onnxruntime", "`hybrid-encoder export model.onnx --int8-static PICTURES`", "save", "load", "run", "export")
@pytest.mark.slow
def test_static_int8_is_small_and_its_scales_are_constants(
    model: HybridDepthModel, traced_once: None, photographs: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    calibration = _calibration(model, photographs)
    done = export_file(model, tmp_path / "a.onnx", SIZE, int8="static", calibration=calibration)
    proto = onnx.load(done.path)
    kinds = [node.op_type for node in proto.graph.node]
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    scales = [node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert scales and all(scale in constants for scale in scales) and "DynamicQuantizeLinear" not in kinds
    # Weights of every convolution are int8, and read through DequantizeLinear.
    made = {output: node for node in proto.graph.node for output in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        weight = made[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        # More would overflow where a processor adds products up in 16 bits, which not every one that runs this does.
        assert 60 < np.abs(onnx.numpy_helper.to_array(constants[weight.input[0]]).astype(int)).max() <= 64
    assert len(convolutions) > 40
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said["weights"] == "int8 convolutions and linear layers, static"
    assert done.num_bytes < 0.4 * export_onnx(model, tmp_path / "float.onnx", SIZE).stat().st_size
    spread = float(model.infer(torch.cat(calibration), "native").disparity.max())
    assert done.largest is not None and done.mean is not None
    assert 0 < done.mean <= done.largest < 0.15 * spread and done.compared_on == "the 3 calibration pictures"


@plugs("openvino", "`hybrid-encoder export model.xml --int8-static PICTURES`", "save", "load", "run", "export")
@pytest.mark.slow
def test_openvino_takes_static_int8(
    model: HybridDepthModel, traced_once: None, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    calibration = _calibration(model, photographs)
    done = export_file(model, tmp_path / "a.xml", SIZE, int8="static", calibration=calibration)
    assert done.num_bytes < 3e6 and done.largest is not None
    assert 0 < done.largest < 0.15 * float(model.infer(torch.cat(calibration), "native").disparity.max())


@opens_sizes
@pytest.mark.slow
def test_static_int8_with_an_open_size(model: HybridDepthModel, photographs: Path, tmp_path: Path) -> None:
    """The scales of one size serve others."""
    pytest.importorskip("onnxruntime")
    calibration = _calibration(model, photographs)
    done = export_file(model, tmp_path / "a.onnx", SIZE, int8="static", dynamic_size=True, calibration=calibration)
    for images in (street(1, 70, 106), street(2, 128, 96)):
        largest, _ = file_difference(model, done.path, images)
        assert 0 < largest < 0.25 * float(model.infer(images, "native").disparity.max())


def test_static_int8_needs_pictures_and_they_need_it(model: HybridDepthModel, tmp_path: Path) -> None:
    for given in ({"int8": "static"}, {"calibration": [street()]}):
        with pytest.raises(ConfigError, match="calibration pictures and static int8 layers belong together"):
            export_file(model, tmp_path / "a.onnx", SIZE, **given)
    with pytest.raises(InputError, match="calibration holds no picture"):
        export_file(model, tmp_path / "a.onnx", SIZE, int8="static", calibration=[])
    with pytest.raises(ConfigError, match="two ways to quantise"):
        export_onnx(model, tmp_path / "a.onnx", SIZE, int8=True, calibration=[street()])


def _older_pair(folder: Path) -> dict[str, bytes]:
    for suffix in (".xml", ".bin"):
        (folder / f"a{suffix}").write_bytes(b"older" + suffix.encode())
    return _contents(folder)


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    "name", [pytest.param("a.onnx", marks=pytest.mark.slow), "a.pt2", pytest.param("a.xml", marks=pytest.mark.slow)]
)
def test_a_file_that_differs_is_not_kept(
    model: HybridDepthModel, traced_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever the format: nothing of it is left, and what stood there stays."""
    before = _older_pair(tmp_path)
    monkeypatch.setattr(model, "infer", lambda images, size: type("Wrong", (), {"disparity": model(images) + 0.5}))
    with torch.no_grad(), pytest.raises(ConfigError, match=r"disparity up to 0\.5 away .*, so it was not kept"):
        export_file(model, tmp_path / name, SIZE)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize(("factor", "kept"), [(1.0005, True), (1.002, False)])
def test_how_far_a_file_may_be_is_a_share_of_the_largest_disparity(
    model: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, kept: bool
) -> None:
    """Depth in metres has a disparity of some hundredths, of which a difference of 1e-3 is much."""
    monkeypatch.setattr(files, "save_program", lambda _, path, *args, **options: path.write_bytes(b"newer"))
    small = copy.deepcopy(model)
    monkeypatch.setattr(small, "infer", lambda images, size: types.SimpleNamespace(disparity=0.01 * model(images)))
    monkeypatch.setattr(files, "load_file", lambda *_: lambda images: factor * 0.01 * model(images))
    monkeypatch.setattr(files, "_in_float32", lambda _: small)
    with torch.no_grad(), contextlib.nullcontext() if kept else pytest.raises(ConfigError, match="is allowed"):
        done = export_file(model, tmp_path / "a.pt2", SIZE)
        assert 0 < done.largest < 1e-3 * done.disparity < 1e-5
    assert (tmp_path / "a.pt2").exists() == kept


@pytest.mark.parametrize("int8", [None, "dynamic", "static"])
@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (lambda found: found * torch.nan if len(found) > 1 else found, "disparity that is not finite, so it was not"),
        (lambda found: found * torch.inf, "disparity that is not finite, so it was not kept"),
        (lambda found: found[:1], "disparity of 1 x 1 x 64 x 96 for images of which the model gives 3 x 1 x 64 x 96"),
        (lambda found: found[:, 0], "disparity of 1 x 64 x 96 for images of which the model gives 1 x 1 x 64 x 96"),
    ],
)
def test_a_file_that_gives_no_disparity_is_not_kept(
    model: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: Any, says: str, int8: Any
) -> None:
    """However far int8 layers may be: numbers of the model's shape come out, whatever the batch."""
    (tmp_path / "a.onnx").write_bytes(b"older")
    monkeypatch.setattr(files, "export_onnx", lambda _, path, *args, **options: path.write_bytes(b"newer"))
    monkeypatch.setattr(files, "load_file", lambda *_: lambda images: gives(model(images)))
    calibration = [street()] if int8 == "static" else None
    with torch.no_grad(), pytest.raises(ConfigError, match=says):
        export_file(model, tmp_path / "a.onnx", SIZE, int8=int8, calibration=calibration)
    assert _contents(tmp_path) == {"a.onnx": b"older"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_a_file_is_compared_on(
    model: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dynamic: bool
) -> None:
    """More than one image at once, which differ; where the size is open, another one; and never the tracing's alone."""
    monkeypatch.setattr(files, "save_program", lambda _, path, *args, **options: path.write_bytes(b"newer"))
    seen: list[Tensor] = []

    def run(images: Tensor) -> Tensor:
        seen.append(images)
        return model(images)

    monkeypatch.setattr(files, "load_file", lambda *_: run)
    with torch.no_grad():
        done = export_file(model, tmp_path / "a.pt2", SIZE, dynamic_size=dynamic)
    last = (3, 3, 97, 115) if dynamic else (3, 3, *SIZE)
    assert [tuple(images.shape) for images in seen] == [(1, 3, *SIZE)] * 3 + [last]
    assert (seen[-1][0] - seen[-1][1]).abs().max() > 0.5 and done.largest == 0
    with torch.no_grad(), pytest.raises(ConfigError, match="away from the model"):  # one image's for all of a batch
        monkeypatch.setattr(
            files, "load_file", lambda *_: lambda images: model(images)[:1].expand(len(images), 1, -1, -1)
        )
        export_file(model, tmp_path / "a.pt2", SIZE, dynamic_size=dynamic)


def test_a_model_of_another_type_is_compared_in_float32(
    model: HybridDepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the file computes: bfloat16 is further away than a file may be."""
    stored = copy.deepcopy(model).to(torch.bfloat16)
    exact = copy.deepcopy(stored).float()
    monkeypatch.setattr(files, "save_program", lambda _, path, *args, **options: path.write_bytes(b"newer"))
    monkeypatch.setattr(files, "load_file", lambda *_: exact)
    with torch.no_grad():
        assert export_file(stored, tmp_path / "a.pt2", SIZE).largest == 0
        true = exact(street())
        away = true - stored.infer(street(), "native").disparity
    assert next(stored.parameters()).dtype == torch.bfloat16 and away.abs().max() > files.TOLERANCE * true.max()


def test_a_bin_file_of_something_else_stays(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "a.bin").write_bytes(b"weights of another model")
    with pytest.raises(InputError, match=r"a\.bin is there without .*a\.xml, .* give another name"):
        check_export(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_bytes(b"of an earlier export")
    assert check_export(tmp_path / "a.xml") == "openvino"


@pytest.mark.parametrize("at", range(4))
def test_two_files_are_replaced_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A step that fails puts the old files back; while files move, the one that is opened is the right one or none."""
    from hybrid_encoder.writing import replace_together

    folder, written = tmp_path / "there", tmp_path / "written"
    folder.mkdir()
    written.mkdir()
    before = _older_pair(folder)
    after = {"a.bin": b"newer.bin", "a.xml": b"newer.xml"}
    for file, content in after.items():
        (written / file).write_bytes(content)
    seen, steps = [], [0]

    def step(real: Any) -> Any:
        def moved(*paths: Path) -> None:
            if at < 4 and steps[0] == at:
                steps[0] += 1
                raise OSError("the disk is gone")
            steps[0] += 1
            real(*paths)
            seen.append(_contents(folder))

        return moved

    monkeypatch.setattr("os.rename", step(os.rename))
    monkeypatch.setattr("os.replace", step(os.replace))
    with pytest.raises(OSError, match="the disk is gone"):
        replace_together(written, folder, ["a.bin", "a.xml"])
    assert _contents(folder) == before
    for moment in seen:
        assert "a.xml" not in moment or moment in (before, after)
    at = steps[0] = 4
    for file, content in after.items():
        (written / file).write_bytes(content)
    shutil.rmtree(written / ".before")
    replace_together(written, folder, ["a.bin", "a.xml"])
    assert _contents(folder) == after


@pytest.fixture
def run(run):  # type: ignore[no-untyped-def]
    return partial(run, "export")


def test_the_command_refuses_before_the_weights_are_loaded(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HybridDepthModel, "from_pretrained", lambda *_, **__: pytest.fail("it worked first"))
    (tmp_path / "b.bin").mkdir()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (("a.onnx", "--size", "wide"), "--size is 'wide'"),
        (("a.pt", "--size", "64x96"), "a.pt does not end with a suffix that says its format"),
        (("a.pt2", "--size", "64x96", "--to", "onnx"), "does not end with .onnx"),
        (("a.pt2", "--size", "64x96", "--to", "coreml"), "'coreml'; one of onnx, program, openvino, aoti is needed"),
        (("a.pt2", "--size", "64x96", "--int8"), "dynamic int8 layers are for onnx, and the format is program"),
        (("a.xml", "--size", "64x96", "--int8"), "dynamic int8 layers are for onnx, and the format is openvino"),
        (("a.pt2", "--size", "64x96", "--int8-static", photographs), "static int8 layers are for onnx or openvino"),
        (("a.onnx", "--size", "64x96", "--int8-static", photographs, "--int8"), "two ways to quantise"),
        (("a.onnx", "--size", "64x96", "--int8-static", tmp_path / "empty"), "empty holds no images"),
        (("a.onnx", "--size", "64x96", "--int8-static", tmp_path / "absent"), "does not exist"),
        (("b.xml", "--size", "64x96"), "b.bin is a folder"),
        (("absent/a.xml", "--size", "64x96"), "is not a folder"),
    ):
        code, _, err = run("tiny", tmp_path / arguments[0], *arguments[1:])
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.onnx", "onnxscript", "export"),
        ("a.onnx", "onnxruntime", "export"),
        ("a.xml", "openvino", "openvino"),
        ("a.xml", "onnx", "openvino"),
    ],
)
def test_a_missing_package_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"package {package} is missing.*hybrid-encoder\[{extra}\]"):
        check_export(tmp_path / name)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="does not let you write"):
        check_export(tmp_path / "a.xml")


def test_the_command_tells_the_difference(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    done = ExportedFile(tmp_path / "a.onnx", 2_500_000, 2e-4, 1e-5, "made-up images", 0.03)
    monkeypatch.setattr(files, "export_file", lambda *_, **__: done)
    code, out, _ = run("tiny", tmp_path / "a.onnx", "--size", "64x96")
    said = " ".join(out.split())
    assert code == 0 and "(onnx, 2.5 MB)" in said
    assert "differs from the model's, whose largest is 0.03, by 0.0002 at most, 1e-05 on average, on made-up" in said


def test_a_program_says_what_it_is(model: HybridDepthModel, traced_once: None, tmp_path: Path) -> None:
    path, extra = save_program(model, tmp_path / "a.pt2", SIZE), {"metadata.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["metadata.json"])["weights"] == "float32"
    images = street(2)
    with torch.no_grad():
        torch.testing.assert_close(load_file(path)(images), model(images), rtol=0, atol=1e-6)


def test_the_benchmark_of_exported_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table, of two ways that are quick."""
    bench = pytest.importorskip("benchmarks.export", reason="benchmarks are in the repository")

    def two(model: HybridDepthModel, *_: Any) -> Any:
        yield "torch, eager", None, model
        yield "another", 1.5, lambda images: model(images) + 0.25

    monkeypatch.setattr(bench, "ways", two)
    monkeypatch.setattr(bench, "DATA", Path("absent"))
    monkeypatch.setattr(bench, "TRUTH", Path("absent"))
    found = bench.table("tiny", SIZE, 2, 1)
    rows = list(zip(*(column.cells for column in found.columns), strict=True))
    assert [row[0] for row in rows] == ["torch, eager", "another"]
    assert rows[0][1].startswith("1.00 (1.00 to 1.00)") and rows[0][3] == "0.0e+00"
    assert rows[1][2:] == ("1.5", "2.5e-01", "2.5e-01", "")
