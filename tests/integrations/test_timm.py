"""timm's own ways with a model, on the hybrid encoder: the checks of timm's test_models.py, and the numbers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import FeatureInfo, group_parameters, save_for_hf
from timm.optim._optim_factory import create_optimizer_v2
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.config import FusionConfig, PromptConfig
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError
from hybrid_encoder.integrations.timm import TimmEncoder, register_encoder

from helpers.plugs import plugs
from helpers.small_models import small_clip, small_dino
from helpers.small_timm import small_convnext, small_family

NAME = "hybrid_encoder_tiny"
LEVELS = 4


def _small(semantic: Any, spatial: Any, towers: Any = "both") -> HybridEncoderConfig:
    return HybridEncoderConfig(semantic, spatial, towers, FusionConfig(channels=16), None)


DINO = small_dino("vit_small_patch14_dinov2")
TOWERS = {
    "resnet": _small(small_clip("RN50", layers=[1, 1, 1, 1], width=16, image_size=64, patch_size=None), DINO),
    "clip's vit": _small(small_clip("ViT-B-16", layers=4, width=64, image_size=64, patch_size=16), DINO),
    "timm's vit": _small(small_family("EVA02-B-16"), DINO),
    "timm's stages": _small(small_family("MobileCLIP2-S0"), DINO),
    "convnext": _small(small_family("MobileCLIP2-S0"), small_convnext()),
    "clip alone": _small(small_family("MobileCLIP2-S0"), DINO, "semantic"),
    "dino alone": _small(small_family("MobileCLIP2-S0"), DINO, "spatial"),
}


def _create(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(NAME, **options)


@pytest.fixture(scope="module")
def trained() -> HybridDepthEncoder:
    return HybridDepthEncoder.from_pretrained("tiny")


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 96, 320, generator=torch.Generator().manual_seed(0))


# -- the registry, and weights ---------------------------------------------------------------------------


def test_the_presets_are_in_timms_registry() -> None:
    names = [f"hybrid_encoder_{preset}" for preset in ("large", "paper", "small", "tiny")]
    assert timm.list_models("hybrid_encoder*")[: len(names)] == names
    assert set(names) <= set(timm.list_models("hybrid_encoder*", pretrained=True))
    assert all(timm.is_model(name) for name in names)
    configs = {getattr(timm.models.get_pretrained_cfg(name), "architecture", None) for name in names}
    assert configs == set(names)


@plugs("timm", "`create_model(...)`", "build", "run")
def test_trained_weights_are_those_of_from_pretrained(trained: HybridDepthEncoder, pictures: Tensor) -> None:
    model = _create(pretrained=True).eval()
    maps = trained(pictures)
    assert torch.equal(model.forward_features(pictures), torch.cat(maps, 1))
    torch.testing.assert_close(model(pictures), torch.cat([x.mean((2, 3)) for x in maps], 1))
    assert not torch.equal(model(pictures), _create().eval()(pictures))


def test_a_trained_folder_brings_its_own_encoder(tmp_path: Path, pictures: Tensor) -> None:
    torch.manual_seed(3)
    mine = HybridDepthModel(_model_config(channels=24), pretrained=False).eval()
    mine.save_pretrained(tmp_path / "mine")
    model = _create(pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "mine")}).eval()
    assert torch.equal(model.forward_features(pictures), torch.cat(mine.encoder(pictures), 1))
    assert model.num_features == sum(mine.encoder.feature_info.channels())
    with pytest.raises(CheckpointError, match="nowhere"):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "nowhere")})


def test_an_encoder_of_ones_own_is_registered(tmp_path: Path, pictures: Tensor) -> None:
    torch.manual_seed(3)
    mine = HybridDepthModel(_model_config(channels=24), pretrained=False).eval()
    mine.save_pretrained(tmp_path / "mine")
    register_encoder("my_own_encoder", tmp_path / "mine")
    model = timm.create_model("my_own_encoder", pretrained=True, features_only=True, out_indices=(1, 3)).eval()
    for ours, theirs in zip(model(pictures), mine.encoder(pictures)[1::2], strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"name is 'my\.own'"):
        register_encoder("my.own", tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"name is 'resnet18'; .* no model of timm"):
        register_encoder("resnet18", tmp_path / "mine")
    assert not isinstance(timm.create_model("resnet18"), TimmEncoder)
    with pytest.raises(ConfigError, match="config is 3"):
        register_encoder("my_own_encoder", 3)


def _model_config(channels: int) -> Any:
    from hybrid_encoder import HybridDepthConfig

    config = HybridDepthConfig.preset("tiny")
    return config.replace(encoder=config.encoder.replace(fusion=FusionConfig(channels=channels)))


@plugs("timm", "`create_model(...)`", "save", "load")
def test_saved_as_timm_saves(tmp_path: Path, pictures: Tensor) -> None:
    model = _create(num_classes=5).eval()
    expected = model(pictures)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    fresh = timm.create_model(NAME, num_classes=5)
    assert not torch.equal(fresh.eval()(pictures), expected)
    loaded = timm.create_model(NAME, num_classes=5, checkpoint_path=tmp_path / "model.pth").eval()
    assert torch.equal(loaded(pictures), expected)

    save_for_hf(model, str(tmp_path / "hub"))
    opened: Any = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert opened.num_classes == 5 and torch.equal(opened(pictures), expected)
    assert opened.pretrained_cfg["mean"] == (0, 0, 0) or list(opened.pretrained_cfg["mean"]) == [0, 0, 0]

    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(again(pictures), expected)


def test_four_channels_are_one_sentence() -> None:
    for features_only in (False, True):
        with pytest.raises(ConfigError, match=r"^in_chans is 4; the hybrid encoder reads RGB[^\n]*$"):
            timm.create_model(NAME, in_chans=4, features_only=features_only)


# -- timm's own checks -----------------------------------------------------------------------------------


def test_default_settings_are_true(pictures: Tensor) -> None:
    model = _create().eval()
    cfg, state = model.default_cfg, model.state_dict()
    images = torch.rand(1, *cfg["input_size"])
    maps = model.forward_features(images)
    assert maps.shape == (1, model.num_features, *cfg["pool_size"])
    assert all(f"{name}.weight" in state for name in cfg["first_conv"])
    pooled = model.forward_head(maps, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    assert torch.equal(model(images), pooled)

    model.reset_classifier(7)
    assert model.num_classes == 7 and model.get_classifier().weight.shape == (7, model.num_features)
    classifier = model.get_classifier()
    torch.testing.assert_close(model(images), pooled @ classifier.weight.T + classifier.bias)
    model.reset_classifier(0, "catavgmax")
    assert model(images).shape == (1, model.head_hidden_size) == (1, 2 * model.num_features)
    model.reset_classifier(0, "")
    assert torch.equal(model(images), maps)
    assert torch.equal(_create(num_classes=0, global_pool="").eval()(images), maps)


@plugs("timm", "`create_model(..., features_only=True)`", "build", "run")
@pytest.mark.parametrize("size", [(96, 320), (224, 224), (33, 131), (61, 47)])
@pytest.mark.parametrize("extractor", ["getter", "hook"])
def test_features_are_the_encoders_maps(trained: HybridDepthEncoder, size: tuple[int, int], extractor: str) -> None:
    model = _create(pretrained=True, features_only=True, feature_cls=extractor, out_indices=(0, 1, 2, 3)).eval()
    images = torch.rand(1, 3, *size)
    maps = model(images)
    assert len(maps) == LEVELS
    channels, reduction = model.feature_info.channels(), model.feature_info.reduction()
    for ours, theirs, width, stride in zip(maps, trained(images), channels, reduction, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.shape == (1, width, *(max(1, round(side / stride)) for side in size))


@pytest.mark.parametrize("indices", [1, (2, 0), [np.int64(1), -4]])
@pytest.mark.parametrize("towers", TOWERS)
def test_towers_run_no_further_than_the_features_need(towers: str, indices: Any) -> None:
    torch.manual_seed(0)
    model = TimmEncoder(TOWERS[towers]).eval().requires_grad_(True)
    images = torch.rand(1, 3, 70, 98)
    everything = model.encoder(images)
    wanted = range(LEVELS)[-indices:] if isinstance(indices, int) else [range(LEVELS)[int(i)] for i in indices]

    def check(maps: Any) -> None:
        assert isinstance(maps, list) and len(maps) == len(wanted)
        for ours, index in zip(maps, wanted, strict=True):
            torch.testing.assert_close(ours, everything[index])

    last, maps = model.forward_intermediates(images, indices)
    check(maps)
    assert torch.equal(last, torch.cat(everything, 1)) and torch.equal(last, model.forward_features(images))
    first, maps = model.forward_intermediates(images, indices, stop_early=True)
    check(maps)
    torch.testing.assert_close(first, torch.cat(everything[: max(wanted) + 1], 1))
    check(model.forward_intermediates(images, indices, intermediates_only=True))

    before = sum(parameter.numel() for parameter in model.parameters())
    assert model.prune_intermediate_layers(indices) == list(wanted)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert after == before if max(wanted) == LEVELS - 1 else after < 0.95 * before
    check(model.forward_intermediates(images, wanted, intermediates_only=True))
    torch.testing.assert_close(model(images), torch.cat(everything[: max(wanted) + 1], 1))  # without a head
    model(images).sum().backward()


def test_early_features_still_have_the_words_that_are_read_off_all_maps(pictures: Tensor) -> None:
    torch.manual_seed(0)
    config = HybridEncoderConfig.preset("tiny").replace(prompts=PromptConfig(num_tokens=5, readout="joint"))
    model = TimmEncoder(config).eval()
    with torch.no_grad():
        expected = model.encoder(pictures)[1]
        assert model.prune_intermediate_layers((1,)) == [1]
        found = model.forward_intermediates(pictures, (1,), intermediates_only=True)
    torch.testing.assert_close(found, [expected])


@pytest.mark.parametrize("wrong", [(0, 4), 5, 0, (-5,), (0.5,), "last", ()])
def test_features_that_do_not_exist(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the indices are .*; the hybrid encoder has the maps 0 to 3"):
        _create(features_only=True, out_indices=wrong)


def test_formats_of_intermediates(trained: HybridDepthEncoder, pictures: Tensor) -> None:
    model = _create(pretrained=True).eval()
    expected = trained(pictures)[1]
    for fmt, x in {"NHWC": expected.permute(0, 2, 3, 1), "NLC": expected.flatten(2).mT, "NCHW": expected}.items():
        _, (found,) = model.forward_intermediates(pictures, (1,), output_fmt=fmt)
        assert torch.equal(found, x)
    with pytest.raises(ConfigError, match="output_fmt is 'CHWN'"):
        model.forward_intermediates(pictures, output_fmt="CHWN")
    info = FeatureInfo(model.feature_info, LEVELS)
    assert info.channels() == [x.shape[1] for x in model.forward_intermediates(pictures)[1]]


# -- pictures --------------------------------------------------------------------------------------------


def test_timms_transform_gives_what_the_encoder_reads() -> None:
    model = _create(pretrained=True)
    settings: dict[str, Any] = resolve_model_data_config(model)
    size = HybridDepthModel.from_pretrained("tiny").config.size
    assert size is not None and settings["input_size"] == (3, *size)
    transform = create_transform(**settings, is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 320, 3), np.uint8)
    found = transform(Image.fromarray(pixels))
    torch.testing.assert_close(found, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    wide = transform(Image.fromarray(np.full((375, 1242, 3), (255, 0, 51), np.uint8)))
    torch.testing.assert_close(wide.mean((1, 2)), torch.tensor([1.0, 0.0, 0.2]))
    assert wide.shape == (3, 96, 320)
    training = create_transform(**settings, is_training=True)(Image.fromarray(pixels))
    assert training.min() >= 0 and training.max() <= 1 and training.max() > 0.5


def test_pictures_that_were_normalised_are_refused() -> None:
    with pytest.raises(InputError, match="leave normalisation to the encoder"):
        _create().eval()(torch.full((1, 3, 64, 64), -2.0))
    with pytest.raises(InputError, match="at least 32"):
        _create().eval()(torch.rand(1, 3, 16, 64))


def test_the_size_is_noted_and_any_other_runs(pictures: Tensor) -> None:
    model = _create(img_size=(64, 96)).eval()
    assert model.img_size == (64, 96)
    same = _create().eval()
    assert torch.equal(model(pictures), same(pictures))
    same.set_input_size(128)
    assert same.img_size == (128, 128)
    with pytest.raises(InputError, match="img_size is 16"):
        same.set_input_size(16)


# -- training --------------------------------------------------------------------------------------------


@plugs("timm", "`create_model(...)`", "train")
@plugs("timm", "`optim.create_optimizer_v2(..., layer_decay=...)`", "build", "train")
def test_a_step_with_layer_decay(pictures: Tensor) -> None:
    model = _create(pretrained=True, num_classes=3).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    labels = torch.tensor([0, 2])
    losses, before = [], copy.deepcopy(model.state_dict())
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(pictures), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    assert not torch.equal(before["head.fc.weight"], model.state_dict()["head.fc.weight"])


def _scales(model: nn.Module, decay: float) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    model.requires_grad_(True)
    groups = param_groups_layer_decay(model, layer_decay=decay)
    return {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


def test_layers_decay_from_the_head_to_the_images() -> None:
    with torch.device("meta"):
        model = TimmEncoder(HybridEncoderConfig.preset("small"), num_classes=3)
    scales = _scales(model, 0.5)
    spatial, semantic, text = "encoder.spatial.model", "encoder.semantic.visual", "encoder.prompts"
    for block in range(12):
        assert scales[f"{spatial}.blocks.{block}.attn.qkv.weight"] == 0.5 ** (12 - block)
        assert scales[f"{text}.transformer.resblocks.{block}.attn.in_proj_weight"] == 0.5 ** (12 - block)
    for stage, block in enumerate((2, 5, 8, 11), start=1):
        assert scales[f"{semantic}.layer{stage}.0.conv1.weight"] == 0.5 ** (12 - block)
    for first in (
        f"{spatial}.patch_embed.proj.weight",
        f"{spatial}.pos_embed",
        f"{semantic}.conv1.weight",
        f"{semantic}.bn3.bias",
        f"{text}.token_embedding",
    ):
        assert scales[first] == 0.5**13
    for last in (f"{spatial}.norm.weight", f"{text}.ln_final.weight", f"{text}.text_projection"):
        assert scales[last] == 0.5
    for top in ("encoder.fusion.align.0.weight", f"{text}.tokens", "head.fc.weight"):
        assert scales[top] == 1
    assert set(scales) == {name for name, _ in model.named_parameters()}

    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert [coarse[f"{spatial}.blocks.{block}.norm1.weight"] for block in range(12)] == [1] * 3 + [2] * 3 + [3] * 3 + [
        4
    ] * 3
    assert [coarse[f"{semantic}.layer{stage}.0.conv1.weight"] for stage in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert coarse["head.fc.weight"] == coarse["encoder.fusion.align.2.bias"] == 5 and max(coarse.values()) == 5


@pytest.mark.parametrize("towers", TOWERS)
def test_every_tower_decays_towards_its_images(towers: str) -> None:
    torch.manual_seed(0)
    model = TimmEncoder(TOWERS[towers], num_classes=2)
    scales = _scales(model, 0.5)
    for tower in (model.encoder.semantic, model.encoder.spatial):
        if tower is None:
            continue
        own = [scales[f"encoder.{name}"] for name in _names(model.encoder, tower)]
        assert max(own) == 0.5 and min(own) == 0.5 ** len(set(own))
        assert len(set(own)) >= 5  # four levels, and what comes before them
    kept = model.no_weight_decay()
    assert all(name.endswith(("_token", "pos_embed", "_embedding")) for name in kept)
    assert bool(kept) == any("pos_embed" in name for name in scales)


def _names(encoder: nn.Module, tower: nn.Module) -> list[str]:
    ids = {id(parameter) for parameter in tower.parameters()}
    return [name for name, parameter in encoder.named_parameters() if id(parameter) in ids]


def test_checkpointing_changes_no_gradient(pictures: Tensor) -> None:
    grads = []
    for enable in (False, True):
        model = _create(pretrained=True)
        model.train()
        model.set_grad_checkpointing(enable)
        model(pictures).sum().backward()
        grads.append(model.encoder.spatial.model.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*grads)


# -- other precisions, and export ------------------------------------------------------------------------


@pytest.mark.slow
@plugs("timm", "`create_model(..., features_only=True)`", "train", "save", "load", "export")
def test_features_are_trained_saved_and_exported(tmp_path: Path, pictures: Tensor) -> None:
    model = _create(features_only=True, out_indices=(1, 3))
    head = nn.Conv2d(sum(model.feature_info.channels()), 1, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = (head(torch.cat(model(pictures), 1)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == [f"model.encoder.fusion.align.{level}.{kind}" for level in (0, 2) for kind in ("weight", "bias")]

    expected = model.eval()(pictures)
    torch.save(model.state_dict(), tmp_path / "features.pth")
    fresh = timm.create_model(NAME, features_only=True, out_indices=(1, 3)).eval()
    fresh.load_state_dict(torch.load(tmp_path / "features.pth"))
    exported = torch.export.export(model, (pictures,)).module()(pictures)
    for map_, loaded, run in zip(expected, fresh(pictures), exported, strict=True):
        assert torch.equal(loaded, map_)
        torch.testing.assert_close(run, map_)


def test_bfloat16(trained: HybridDepthEncoder, pictures: Tensor) -> None:
    model = _create(pretrained=True).eval().bfloat16()
    found = model.forward_features(pictures.bfloat16())
    expected = torch.cat(trained(pictures), 1)
    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.05
