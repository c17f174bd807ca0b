from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from hybrid_encoder import CheckpointError, HybridDepthEncoder, HybridDepthModel, InputError
from hybrid_encoder.checkpoints import read_checkpoint
from hybrid_encoder.config import IMAGENET_MEAN, PromptConfig
from hybrid_encoder.writing import write_whole

from helpers.published_layout import small_config, stage1_config, write_published, write_stage1

Published = tuple[HybridDepthModel, Path]
VARIANTS = [
    {"prompts": PromptConfig(num_tokens=6)},
    {"prompts": PromptConfig(num_tokens=6, decoder_input="logits")},
    {"prompts": None},
    {"prompts": PromptConfig(num_tokens=6), "towers": "spatial"},
    {"prompts": PromptConfig(num_tokens=6), "towers": "semantic"},
    {"prompts": None, "towers": "spatial"},
    {"prompts": None, "towers": "semantic"},
    {"prompts": PromptConfig(num_tokens=9), "method": "convs2_interp"},
]


def _model(**changes) -> HybridDepthModel:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return HybridDepthModel(small_config(**changes), pretrained=False).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[HybridDepthModel, Path]:
    model = _model(prompts=PromptConfig(num_tokens=6))
    return model, write_published(model, tmp_path_factory.mktemp("published"))


@pytest.fixture
def saved(tiny_model: HybridDepthModel, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


class TestOurs:
    def test_a_model_comes_back_equal(self, tiny_model: HybridDepthModel, saved: Path, images: torch.Tensor) -> None:
        assert sorted(p.name for p in saved.iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
        loaded = HybridDepthModel.from_pretrained(saved)
        assert not loaded.training
        assert loaded.config == tiny_model.config
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), tiny_model.eval()(images), rtol=0, atol=0)

    def test_the_encoder_of_a_model_and_an_encoder_alone(
        self,
        tiny_model: HybridDepthModel,
        saved: Path,
        tmp_path: Path,
        images: torch.Tensor,
    ) -> None:
        encoder = HybridDepthEncoder.from_pretrained(str(saved))
        encoder.save_pretrained(tmp_path / "alone")
        alone = HybridDepthEncoder.from_pretrained(tmp_path / "alone")
        with torch.no_grad():
            for a, b in zip(alone(images), tiny_model.eval().encoder(images), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
        with pytest.raises(CheckpointError, match=r"an encoder without a decoder.*HybridDepthEncoder.from_pretrained"):
            HybridDepthModel.from_pretrained(tmp_path / "alone")

    def test_half_precision_files_become_float32_modules(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.half().save_pretrained(tmp_path / "half")
        loaded = HybridDepthModel.from_pretrained(tmp_path / "half")
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}

    def test_loading_never_asks_for_a_backbone(self, tiny_model: HybridDepthModel, saved: Path) -> None:
        """Even where the stored configuration names public weights."""
        content = json.loads((saved / "config.json").read_text())
        content["config"]["encoder"]["spatial"]["pretrained"] = True
        content["config"]["encoder"]["semantic"]["pretrained"] = "openai"
        (saved / "config.json").write_text(json.dumps(content))
        with mock.patch.object(socket.socket, "connect", side_effect=AssertionError("the network was asked")):
            loaded = HybridDepthModel.from_pretrained(saved)
        torch.testing.assert_close(loaded.state_dict(), tiny_model.state_dict())

    def test_loading_draws_no_random_numbers(self, saved: Path) -> None:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        HybridDepthModel.from_pretrained(saved)
        torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_whole(path, b"old")
        with mock.patch("os.replace", side_effect=OSError("disk")), pytest.raises(OSError, match="disk"):
            write_whole(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


class TestPublished:
    @pytest.mark.parametrize("changes", VARIANTS, ids=str)
    def test_every_setting_is_read_off_the_file(
        self, changes: dict[str, Any], tmp_path: Path, images: torch.Tensor
    ) -> None:
        model = _model(**changes)
        loaded = HybridDepthModel.from_pretrained(write_published(model, tmp_path))
        assert loaded.config.encoder == model.config.encoder
        assert loaded.config.size == (70, 98)
        assert loaded.config.decoder == model.config.decoder
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)

    def test_the_checkpoints_subfolder_and_the_encoder_alone(
        self, published: Published, tmp_path: Path, images: torch.Tensor
    ) -> None:
        model, _ = published
        write_published(model, tmp_path / "checkpoints")
        encoder = HybridDepthEncoder.from_pretrained(tmp_path)
        with torch.no_grad():
            torch.testing.assert_close(encoder(images)[3], model.encoder(images)[3], rtol=0, atol=0)
        (tmp_path / "checkpoints" / "depth.pth").unlink()
        assert HybridDepthEncoder.from_pretrained(tmp_path).prompts is not None

    def test_a_stage_1_checkpoint(self, tmp_path: Path, images: torch.Tensor) -> None:
        torch.manual_seed(0)
        model = HybridDepthModel(stage1_config(), pretrained=False).eval()
        (tmp_path / "stage1_checkpoint").mkdir()
        path = write_stage1(model, tmp_path / "stage1_checkpoint" / "stage1.ckpt")
        for source in (path, tmp_path):
            encoder = HybridDepthEncoder.from_pretrained(source)
            assert encoder.config.semantic.mean == IMAGENET_MEAN
            assert encoder.config.prompts is not None
            assert encoder.config.prompts.words is not None
            with torch.no_grad():
                torch.testing.assert_close(encoder(images)[0], model.encoder(images)[0], rtol=0, atol=0)
        with pytest.raises(CheckpointError, match="an encoder without a decoder"):
            HybridDepthModel.from_pretrained(path)

    @pytest.mark.parametrize(
        ("file", "change", "says"),
        [
            ("encoder", lambda d: d.pop("dinov2.norm.bias"), "no key 'encoder.spatial.model.norm.bias'"),
            ("encoder", lambda d: d.pop("dinov2.pos_embed"), "no key 'dinov2.pos_embed'"),
            ("encoder", lambda d: d.update(surprise=torch.zeros(1)), "key 'surprise' has no place"),
            (
                "encoder",
                lambda d: d.update({"layer0_clip.0.weight": torch.zeros(1)}),
                r"'layer0_clip.0.weight' is \(1,\), and 'clip.visual.conv1.weight', which it repeats",
            ),
            ("encoder", lambda d: d.update({"resnet50.conv1.weight": torch.zeros(1)}), "ResNet-50"),
            ("encoder", lambda d: d.update({"clip.new": "text"}), "the key 'clip.new', which is a str"),
            ("encoder", lambda d: d.update(height="text"), "'height' is 'text'; it must be a whole number"),
            (
                "encoder",
                lambda d: d.update({"dinov2.norm.bias": torch.zeros(3)}),
                r"'encoder.spatial.model.norm.bias' is \(3,\)",
            ),
            (
                "depth",
                lambda d: d.pop("depth_head.projects.0.weight"),
                "no key 'depth_head.projects.0.weight'",
            ),
            (
                "depth",
                lambda d: d.update({"depth_head.new.weight": torch.zeros(1)}),
                "'depth_head.new.weight' has no",
            ),
            (
                "depth",
                lambda d: d.update({"depth_head.projects.0.weight": torch.zeros(8, 77, 1, 1)}),
                r"reads 77 channels; with 6 prompts, 128 DINO and 64 CLIP channels .* one of \[6, 70, 134, 198\]",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, published: Published, tmp_path: Path, file: str, change: Callable[[Any], Any], says: str
    ) -> None:
        for name in ("encoder", "depth"):
            content = torch.load(published[1] / f"{name}.pth", weights_only=True)
            if name == file:
                change(content)
            torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=says):
            HybridDepthModel.from_pretrained(tmp_path)


class TestUnreadable:
    def test_a_truncated_safetensors(self, saved: Path) -> None:
        whole = (saved / "model.safetensors").read_bytes()
        (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
            HybridDepthModel.from_pretrained(saved)

    def test_one_tensor_of_a_wrong_shape(self, saved: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(saved / "model.safetensors")
        tensors["encoder.fusion.align.1.bias"] = torch.zeros(5)
        save_file(tensors, saved / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"'encoder.fusion.align.1.bias' is \(5,\).*needs \(32,\)"):
            HybridDepthModel.from_pretrained(saved)

    @pytest.mark.parametrize("content", ["{", "[]", '{"class": "HybridDepthModel"}', '{"class": "X", "config": {}}'])
    def test_a_config_that_is_none(self, saved: Path, content: str) -> None:
        (saved / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json (is not a configuration|describes a 'X')"):
            HybridDepthModel.from_pretrained(saved)

    def test_pickles_that_are_no_state_dict(self, tmp_path: Path) -> None:
        for content, says in (
            ([1, 2, 3], "holds a list; a state dict"),
            ({"epoch": 3}, "no 'state_dict'"),
            (
                {"state_dict": {}, "best": np.float64(3.0)},
                "no 'state_dict' and no tensors: its entries are 'state_dict', ",
            ),
        ):
            torch.save(content, tmp_path / "x.ckpt")
            with pytest.raises(CheckpointError, match=says):
                HybridDepthEncoder.from_pretrained(tmp_path / "x.ckpt")
        (tmp_path / "x.ckpt").write_text("hello")
        with pytest.raises(CheckpointError, match="not a checkpoint that torch can read"):
            HybridDepthEncoder.from_pretrained(tmp_path / "x.ckpt")

    def test_a_torchscript_archive(self, tmp_path: Path) -> None:
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.jit\.load"):
            HybridDepthEncoder.from_pretrained(tmp_path / "x.ckpt")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            HybridDepthModel.from_pretrained(tmp_path)
        for source in (tmp_path / "gone", "./gone", "gone", "a/b/c", "folder/stage1.ckpt"):
            with pytest.raises(CheckpointError, match="is neither a file or folder nor a Hub id"):
                HybridDepthModel.from_pretrained(source)


class TestHub:
    def test_an_id_that_cannot_be_reached_fails_soon_and_says_how_to_go_on(self, tmp_path: Path) -> None:
        def hang(*_: object, **__: object) -> None:
            time.sleep(30)

        start = time.monotonic()
        with (
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 0.5),
            mock.patch("huggingface_hub.HfApi.model_info", hang),
            pytest.raises(
                CheckpointError,
                match=r"'org/name' on .* cannot be downloaded.*no answer within.*from_pretrained\('path/to/folder'\)",
            ),
        ):
            HybridDepthModel.from_pretrained("org/name", cache_dir=tmp_path)
        assert time.monotonic() - start < 60

    def test_a_repository_without_weights(self) -> None:
        listing = mock.Mock(siblings=[mock.Mock(rfilename="README.md")])
        with (
            mock.patch("huggingface_hub.HfApi.model_info", return_value=listing),
            pytest.raises(CheckpointError, match=r"'org/name' on the Hugging Face Hub .* holds neither"),
        ):
            read_checkpoint("org/name")


def test_infer_says_the_scale_and_keeps_the_size(tiny_model: HybridDepthModel) -> None:
    tiny_model.train()
    one = tiny_model.infer(torch.rand(3, 50, 75))
    many = tiny_model.infer(torch.rand(2, 3, 50, 75), size=(64, 96))
    assert tiny_model.training, "inference leaves the mode as it was"
    assert one.disparity.shape == (1, 50, 75)
    assert many.disparity.shape == (2, 1, 50, 75)
    assert one.depth_m is None
    assert one.relative_depth is not None
    torch.testing.assert_close(one.relative_depth, 1 / (0.01 + 9.99 * one.disparity))
    metric = HybridDepthModel(tiny_model.config.replace(metric=True), pretrained=False).infer(torch.rand(3, 50, 75))
    assert metric.relative_depth is None
    assert metric.depth_m is not None
    assert ((metric.depth_m >= 0.1) & (metric.depth_m <= 100)).all()
    with pytest.raises(InputError):
        tiny_model.infer(torch.rand(3, 8, 75))
