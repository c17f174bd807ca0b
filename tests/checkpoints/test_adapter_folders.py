"""Folders that Monodepth2's and ManyDepth's trainers write with our networks in them, read as models of ours."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hybrid_encoder import (
    CheckpointError,
    HybridDepthEncoder,
    HybridDepthModel,
    HybridMatchingEncoder,
    HybridMatchingModel,
)
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, MatchingEncoder, PoseEncoder
from hybrid_encoder.checkpoints import read_checkpoint
from hybrid_encoder.config import HybridDepthConfig, UNetDecoderConfig
from hybrid_encoder.models.neck import PyramidNeck

from helpers.plane_sweep import intrinsics, motions
from helpers.trained_folder import HEIGHT, UNET, WIDTH, save_weights

Run = Callable[..., tuple[int, str, str]]
WIDTHS = HybridDepthConfig.preset("tiny").decoder
SIZE = (HEIGHT, WIDTH)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def _dpt(encoder: Any, scales: Any = (0, 1, 2, 3), outputs: int = 1) -> DepthDecoder:
    return DepthDecoder(encoder.num_ch_enc, scales, outputs, WIDTHS)  # type: ignore[arg-type]


def _unet(channels: Any, scales: Any = (0, 1, 2, 3)) -> nn.Module:
    module = ModuleType("own_decoder")
    exec(textwrap.dedent(UNET), vars(module))
    decoder: nn.Module = module.DepthDecoder(channels, scales)
    return decoder


def _with_neck(encoder: HybridDepthEncoder, **options: Any) -> DepthEncoder:
    return DepthEncoder(encoder, PyramidNeck(encoder.feature_info.channels(), **options))


def _tell(folder: Path, **options: Any) -> None:
    (folder.parent / "opt.json").write_text(json.dumps(options))


def test_a_dpt_decoder(tiny: HybridDepthEncoder, pictures: Tensor, tmp_path: Path) -> None:
    encoder = DepthEncoder(tiny).eval()
    depth = _dpt(encoder).eval()
    folder = save_weights(tmp_path / "models" / "weights_19", encoder=encoder, depth=depth)
    _tell(folder, min_depth=0.2, max_depth=80.0, height=64, model_name="mdp", scales=[0, 1, 2, 3])
    model = HybridDepthModel.from_pretrained(folder)
    with torch.no_grad():
        expected = depth(encoder(pictures))
        for scale, disparity in model.forward_scales(pictures).items():
            torch.testing.assert_close(disparity, expected["disp", scale], rtol=0, atol=0)
    assert (model.config.min_depth, model.config.max_depth, model.config.size) == (0.2, 80.0, SIZE)
    assert not model.config.metric and not model.training
    alone = HybridDepthEncoder.from_pretrained(folder)
    assert all(torch.equal(x, tiny.state_dict()[name]) for name, x in alone.state_dict().items())
    assert alone.config == tiny.config


@pytest.mark.parametrize("scales", [(0, 1, 2, 3), (2, 0)])
def test_the_repositorys_own_decoder(
    tiny: HybridDepthEncoder, pictures: Tensor, tmp_path: Path, scales: tuple[int, ...]
) -> None:
    encoder = _with_neck(tiny, channels=(8, 8, 16, 16, 32)).eval()
    depth = _unet(encoder.num_ch_enc, scales).eval()
    folder = save_weights(tmp_path / "weights_0", encoder=encoder, depth=depth)
    model = HybridDepthModel.from_pretrained(folder / "depth.pth")
    assert isinstance(model.config.decoder, UNetDecoderConfig)
    assert model.config.decoder.neck.channels == (8, 8, 16, 16, 32) and model.config.decoder.scales == scales
    with torch.no_grad():
        expected, outputs = depth(encoder(pictures)), model.forward_scales(pictures)
        for scale in scales:
            torch.testing.assert_close(outputs[scale], expected["disp", scale], rtol=0, atol=1e-6)
    assert (model.config.min_depth, model.config.max_depth) == (0.1, 100.0)  # no options of the training: the usual


def test_manydepths_student_and_its_teacher(tiny: HybridDepthEncoder, tmp_path: Path) -> None:
    matching = HybridMatchingEncoder("tiny", pretrained=False, num_depth_bins=8, adaptive_bins=True)
    student, teacher = MatchingEncoder(matching).eval(), DepthEncoder(tiny).eval()
    depth, mono_depth = _dpt(student).eval(), _dpt(teacher).eval()
    networks: dict[str, nn.Module] = {
        "encoder": student,
        "depth": depth,
        "mono_encoder": teacher,
        "mono_depth": mono_depth,
    }
    folder = save_weights(tmp_path / "weights_1", bins=(0.5, 7.5), **networks)
    model = HybridMatchingModel.from_pretrained(folder)
    matched = model.config.encoder
    assert (matched.min_depth_bin, matched.max_depth_bin, matched.num_depth_bins) == (0.5, 7.5, 8)
    assert matched.adaptive_bins and model.config.size == SIZE
    torch.testing.assert_close(model.encoder.depth_bins, torch.linspace(0.5, 7.5, 8))

    images = torch.rand(2, 3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    K = intrinsics(SIZE[0] // 4, SIZE[1] // 4, batch=2)
    inputs = (images[:, 0], images[:, 1:], motions(2, 2), K, K.inverse())
    with torch.no_grad():
        features, _, _ = student(*inputs, 0.5, 7.5)
        torch.testing.assert_close(model(*inputs), depth(features)["disp", 0], rtol=0, atol=0)
        assert not torch.equal(model(*inputs), model(*inputs, 0.1, 20.0))

        taught = HybridDepthModel.from_pretrained(folder / "mono_encoder.pth")
        expected = mono_depth(teacher(images[:, 0]))["disp", 0]
        torch.testing.assert_close(taught(images[:, 0]), expected, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"holds a multi-frame model.*HybridMatchingModel\.from_pretrained"):
        HybridDepthModel.from_pretrained(folder)


def test_a_student_on_a_pyramid_saves_and_loads_as_ours(tmp_path: Path) -> None:
    matching = HybridMatchingEncoder("tiny", pretrained=False, num_depth_bins=8)
    student = MatchingEncoder(matching, PyramidNeck(matching.feature_info.channels()))
    folder = save_weights(tmp_path / "weights", encoder=student, depth=_unet(student.num_ch_enc))
    model = HybridMatchingModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "ours")
    again = HybridMatchingModel.from_pretrained(tmp_path / "ours")
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class TestRefused:
    """One sentence for what is not a model of ours."""

    def _load(self, folder: Path, message: str, kind: Any = HybridDepthModel) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            kind.from_pretrained(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + 2 * len(str(folder))

    def test_another_decoder_leaves_the_encoder(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        folder = save_weights(tmp_path, encoder=_with_neck(tiny), depth=nn.Sequential(nn.Linear(2, 2)))
        self._load(folder, r"neither ours nor Monodepth2's \(it has '0\.bias'\).*HybridDepthEncoder\.from_pretrained")
        assert HybridDepthEncoder.from_pretrained(folder).config == tiny.config
        assert read_checkpoint(folder).holds == "HybridDepthEncoder"

    @pytest.mark.parametrize("change", ["a layer less", "other widths", "one more output", "a gap"])
    def test_layers_of_another_decoder(self, tiny: HybridDepthEncoder, tmp_path: Path, change: str) -> None:
        encoder = _with_neck(tiny)
        depth = _unet(encoder.num_ch_enc)
        folder = save_weights(tmp_path, encoder=encoder, depth=depth)
        state = depth.state_dict()
        if change == "a layer less":
            state = {name: value for name, value in state.items() if not name.startswith("decoder.13.")}
            del state["decoder.3.conv.conv.weight"]
        elif change == "other widths":
            state["decoder.11.conv.weight"] = torch.zeros(1, 33, 3, 3)
        elif change == "one more output":
            state["decoder.14.conv.weight"] = torch.zeros(1, 16, 3, 3)
        else:
            state["decoder.99.conv.weight"] = torch.zeros(1, 16, 3, 3)
        torch.save(state, folder / "depth.pth")
        self._load(folder, r"whose layers are not those of Monodepth2's|has no key|has the key")

    def test_files_of_two_trainings(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        plain, on_pyramid = DepthEncoder(tiny), _with_neck(tiny)
        self._load(save_weights(tmp_path / "a", encoder=on_pyramid, depth=_dpt(plain)), "they are of two trainings")
        unet = _unet(on_pyramid.num_ch_enc)
        self._load(save_weights(tmp_path / "b", encoder=plain, depth=unet), "they are of two trainings")

    def test_a_decoder_with_more_outputs_and_none(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        encoder = DepthEncoder(tiny)
        folder = save_weights(tmp_path, encoder=encoder, depth=_dpt(encoder, outputs=2))
        self._load(folder, "a DepthDecoder with 2 outputs, and disparity alone is read")
        (folder / "depth.pth").unlink()
        self._load(folder, r"depth\.pth is missing")

    def test_another_network_under_the_encoders_name(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        self._load(save_weights(tmp_path, encoder=PoseEncoder(tiny)), "holds a PoseEncoder; an encoder is needed")

    def test_a_file_of_an_earlier_version(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        folder = save_weights(tmp_path, encoder=DepthEncoder(tiny))
        content = torch.load(folder / "encoder.pth", weights_only=True)
        del content["_extra_state"]
        torch.save(content, folder / "encoder.pth")
        self._load(folder, "an adapter of an earlier version, which kept no configuration; load it under patch")

    def test_weights_of_the_unpatched_repository(self, tmp_path: Path) -> None:
        folder = save_weights(tmp_path, encoder=nn.Sequential(nn.Linear(2, 2)), depth=_unet((64, 64, 128, 256, 512)))
        self._load(folder, r"neither a published Hybrid-depth checkpoint nor one that was trained under patch\(\)")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", r"opt\.json, the options of the training, cannot be read"),
            ('{"min_depth": "near"}', r"describes a model that cannot be: min_depth is 'near'"),
            ('{"min_depth": 5, "max_depth": 1}', "0 < min_depth < max_depth is needed"),
        ],
    )
    def test_options_that_cannot_be(self, tiny: HybridDepthEncoder, tmp_path: Path, text: str, message: str) -> None:
        encoder = DepthEncoder(tiny)
        folder = save_weights(tmp_path / "weights", encoder=encoder, depth=_dpt(encoder))
        (tmp_path / "opt.json").write_text(text)
        self._load(folder, message)

    def test_a_description_that_cannot_be_read(self, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
        folder = save_weights(tmp_path, encoder=DepthEncoder(tiny))
        content = torch.load(folder / "encoder.pth", weights_only=True)
        text = bytes(content["_extra_state"].tolist())
        for old, new, message in (
            (b'"DepthEncoder"', b'"Other"', "'network' is 'Other'; this version knows DepthEncoder, "),
            (b'"towers": "both"', b'"towers": "none"', "towers is 'none'"),
            (b'"format_version": ', b'"format_version": 9', "upgrade it"),
            (text, b"{", "is not JSON"),
        ):
            assert old in text
            changed = torch.frombuffer(bytearray(text.replace(old, new)), dtype=torch.uint8)
            torch.save({**content, "_extra_state": changed}, folder / "encoder.pth")
            self._load(folder, message, HybridDepthEncoder)


@pytest.mark.parametrize("own", [False, True], ids=["dpt", "own decoder"])
def test_the_commands(run: Run, tiny: HybridDepthEncoder, tmp_path: Path, own: bool) -> None:
    encoder = _with_neck(tiny) if own else DepthEncoder(tiny)
    depth: nn.Module = _unet(encoder.num_ch_enc) if own else _dpt(encoder)
    folder = save_weights(tmp_path / "weights", encoder=encoder, depth=depth)
    code, out, err = run("info", folder)
    assert code == 0, err
    for part in ("trained under patch()", "HybridDepthModel", "Monodepth2's" if own else "DPT", "64 x 96"):
        assert part in " ".join(out.split())
    assert run("convert", folder, tmp_path / "ours")[0] == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    for source, name in ((folder, "trained"), (tmp_path / "ours", "ours")):
        code, _, err = run("predict", tmp_path / "a.png", "--weights", source, "--output", tmp_path / name)
        assert code == 0, err
    one, two = (np.load(tmp_path / name / "a_relative_depth.npy") for name in ("trained", "ours"))
    assert one.shape == (50, 70) and np.array_equal(one, two)


def test_info_and_convert_say_what_stays_out(run: Run, tiny: HybridDepthEncoder, tmp_path: Path) -> None:
    folder = save_weights(tmp_path / "weights", encoder=DepthEncoder(tiny), depth=nn.Sequential(nn.Linear(2, 2)))
    code, out, _ = run("info", folder)
    assert code == 0 and "not read: " in out and "HybridDepthEncoder" in out
    code, out, _ = run("convert", folder, tmp_path / "ours")
    assert code == 0 and "the decoder was not read" in " ".join(out.split())
    assert HybridDepthEncoder.from_pretrained(tmp_path / "ours").config == tiny.config


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of that kind")
def test_options_are_not_waited_for(tiny: HybridDepthEncoder, tmp_path: Path) -> None:
    import os

    encoder = DepthEncoder(tiny)
    folder = save_weights(tmp_path / "weights", encoder=encoder, depth=_dpt(encoder))
    os.mkfifo(tmp_path / "opt.json")
    with pytest.raises(CheckpointError, match=r"opt\.json, the options of the training, cannot be read"):
        HybridDepthModel.from_pretrained(folder)
