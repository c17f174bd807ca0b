"""The encoder inside segmentation_models_pytorch, the real one: its decoders, its weights, its freezing, its files."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save
from torch import Tensor, nn

import hybrid_encoder.integrations.segmentation_models_pytorch as integration
from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig, SpatialConfig
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.testing import EncoderContract

from helpers.fake_hub import fake_hub
from helpers.plugs import plugs

TINY = "hybrid_encoder_tiny"
SMALL: dict[str, Any] = {"classes": 3, "encoder_weights": "tiny"}
WITHOUT_PROMPTS = HybridEncoderConfig.preset("tiny").replace(prompts=None)
# Narrow decoders: what a side of an image must divide by, as smp itself asks (None: nothing), and options.
DECODERS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "Unet": (None, {"decoder_channels": (32, 24, 16, 16, 8)}),
    "UnetPlusPlus": (32, {"decoder_channels": (32, 24, 16, 16, 8)}),
    "MAnet": (32, {"decoder_channels": (32, 24, 16, 16, 8), "decoder_pab_channels": 16}),
    "Linknet": (32, {}),
    "FPN": (32, {}),
    "PSPNet": (8, {}),
    "UPerNet": (32, {"decoder_channels": 32}),
    "Segformer": (32, {"decoder_segmentation_channels": 32}),
    "PAN": (16, {}),
    "DeepLabV3": (8, {"decoder_channels": 32}),
    "DeepLabV3Plus": (16, {"decoder_channels": 32}),
}
NORMS_BEHIND_POOLING = ("UPerNet", "PAN", "DeepLabV3", "DeepLabV3Plus")  # whose training needs two images
PARTS = ("encoder.semantic", "encoder.spatial", "encoder.prompts", "encoder.fusion", "neck")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@plugs("segmentation_models_pytorch", "`Unet`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`UnetPlusPlus`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`MAnet`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`Linknet`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`FPN`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`PSPNet`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`UPerNet`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`Segformer`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`PAN`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`DeepLabV3`", "build", "run", "train", "save", "load")
@plugs("segmentation_models_pytorch", "`DeepLabV3Plus`", "build", "run", "train", "save", "load")
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_runs_trains_and_is_saved_with_the_encoder(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    divisor, options = DECODERS[name]
    model = getattr(smp, name)(TINY, **SMALL, **options)
    size = (128, 128) if name == "PAN" else (64, 96)  # PAN pools the last level three times
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *size, generator=generator)
    masks = torch.randint(0, 3, (2, *size), generator=generator)

    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(images)
    assert logits.shape == (2, 3, *size)
    smp.losses.DiceLoss("multiclass")(logits, masks).backward()
    optimizer.step()
    changed = [key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])]
    for part in (*(f"encoder.{part}." for part in PARTS), "decoder.", "segmentation_head."):
        assert [key for key in changed if key.startswith(part)], f"nothing of {part} has trained"

    model.eval().save_pretrained(tmp_path)
    other = copy.deepcopy(model)
    if name in NORMS_BEHIND_POOLING:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            other.train()(images[:1])
    else:
        assert other.train()(images[:1]).isfinite().all()
    other.eval()
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(smp.from_pretrained(str(tmp_path)).eval()(images), expected)
        other.load_state_dict(before)
        assert not torch.equal(other(images), expected)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), expected)
        if divisor is None:
            assert model(images[..., :-3, :-7]).shape[-2:] == (size[0] - 3, size[1] - 7)
        else:
            with pytest.raises(RuntimeError, match=f"divisible by {divisor}"):
                model(images[..., :-3, :-7])


@pytest.mark.slow
@plugs("segmentation_models_pytorch", "`Unet`", "export")
def test_a_segmentation_is_exported(images: Tensor, tmp_path: Path) -> None:
    import onnxruntime

    model = smp.Unet(TINY, decoder_channels=(32, 24, 16, 16, 8), **SMALL).eval()
    with torch.no_grad():
        expected = model(images)
    exported = torch.export.export(model, (images,))
    torch.testing.assert_close(exported.module()(images), expected, atol=1e-5, rtol=0)
    torch.onnx.export(exported, (), tmp_path / "unet.onnx", dynamo=True, verbose=False, optimize=False)
    session = onnxruntime.InferenceSession(tmp_path / "unet.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


# -- the contract of smp's encoders ----------------------------------------------------------------------


class TestSegmentationEncoder(EncoderContract):
    channels = (3, 64, 64, 128, 256, 512)
    strides = (1, 2, 4, 8, 16, 32)

    def make(self) -> nn.Module:
        return integration.SegmentationEncoder(HybridEncoderConfig.preset("tiny"))


def test_the_features_are_the_image_and_the_pyramid_of_the_encoders_maps(images: Tensor) -> None:
    encoder = smp.encoders.get_encoder(TINY, weights="tiny").eval()
    shipped = HybridDepthEncoder.from_pretrained("tiny")
    with torch.no_grad():
        features = encoder(images)
        assert features[0] is images
        for found, expected in zip(features[1:], encoder.neck(shipped(images), (64, 96)), strict=True):
            assert torch.equal(found, expected) and found.std() > 0


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_depth_gives_so_many_levels(depth: int, images: Tensor) -> None:
    encoder = smp.encoders.get_encoder(TINY, weights=None, depth=depth).eval()
    assert encoder.out_channels == [3, 64, 64, 128, 256, 512][: depth + 1]
    assert encoder.output_stride == 2**depth
    for level, (feature, channels) in enumerate(zip(encoder(images), encoder.out_channels, strict=True)):
        assert feature.shape == (2, channels, 64 // 2**level, 96 // 2**level)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_levels_stay_at_the_stride(stride: int, images: Tensor) -> None:
    encoder = smp.encoders.get_encoder(TINY, weights="tiny", output_stride=stride).eval()
    assert encoder.output_stride == stride
    strides = [64 // feature.shape[-2] for feature in encoder(images)]
    assert strides == [min(stride, 2**level) for level in range(6)]


def test_features_of_any_size_are_rounded_up(images: Tensor) -> None:
    encoder = smp.encoders.get_encoder(TINY, weights=None).eval()
    sizes = [tuple(feature.shape[-2:]) for feature in encoder(images[..., :61, :90])]
    assert sizes == [(61, 90), (31, 45), (16, 23), (8, 12), (4, 6), (2, 3)]
    with pytest.raises(InputError, match="at least 32"):
        encoder(images[..., :16, :16])


def test_what_the_encoder_has_not_is_refused_in_a_sentence() -> None:
    for options, said in (
        ({"in_channels": 4}, "in_channels is 4; the hybrid encoder reads RGB: give in_channels=3"),
        ({"in_channels": 1}, "in_channels is 1"),
        ({"depth": 0}, "encoder_depth is 0; the hybrid encoder has 1 to 5 levels."),
        ({"depth": 6}, "encoder_depth is 6"),
        ({"output_stride": 4}, "encoder_output_stride is 4; the hybrid encoder has 8, 16 and 32."),
    ):
        with pytest.raises(ConfigError) as refused:  # a ValueError, as smp's own encoders raise
            smp.encoders.get_encoder(TINY, weights=None, **options)
        assert str(refused.value).startswith(said) and str(refused.value).count(". ") == 0
    with pytest.raises(ValueError, match="must start with 'tu-'"):
        smp.DPT(TINY, encoder_weights=None)
    with pytest.raises(RuntimeError, match=r"no TorchScript; export the model with torch\.export"):
        torch.jit.script(smp.encoders.get_encoder(TINY, weights=None))


def test_a_classification_head_reads_the_last_level(images: Tensor) -> None:
    model = smp.Unet(
        TINY, encoder_depth=3, decoder_channels=(64, 32, 16), aux_params={"classes": 5, "pooling": "avg"}, **SMALL
    ).eval()
    with torch.no_grad():
        mask, label = model(images)
        last = model.encoder(images)[-1]
        linear = next(module for module in model.classification_head.modules() if isinstance(module, nn.Linear))
        torch.testing.assert_close(label, linear(last.mean((2, 3))))
    assert mask.shape == (2, 3, 64, 96)


def test_a_copy_and_a_second_model_are_their_own(images: Tensor) -> None:
    model = smp.FPN(TINY, **SMALL).eval()
    copied, second = copy.deepcopy(model), smp.FPN(TINY, **SMALL).eval()
    with torch.no_grad():
        expected, expected_of_second = model(images), second(images)
        assert torch.equal(copied(images), expected)
        for parameter in copied.parameters():
            parameter.mul_(0.5)
        assert not torch.equal(copied(images), expected)
        assert torch.equal(model(images), expected) and torch.equal(second(images), expected_of_second)


def test_one_image_trains(images: Tensor) -> None:
    model = smp.Unet(TINY, **SMALL).train()
    model(images[:1]).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


# -- colours ---------------------------------------------------------------------------------------------


def test_preprocessing_gives_rgb_between_0_and_1_and_no_more() -> None:
    params = smp.encoders.get_preprocessing_params(TINY, "tiny")
    assert params == {"input_space": "RGB", "input_range": [0, 1], "mean": [0.0] * 3, "std": [1.0] * 3}
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    prepared = smp.encoders.get_preprocessing_fn(TINY, pretrained="tiny")(picture)
    np.testing.assert_array_equal(prepared, picture / 255.0)
    for name in ("paper", "small", "large"):
        assert smp.encoders.get_preprocessing_params(f"hybrid_encoder_{name}", "backbones") == params


def test_images_normalised_by_imagenets_mean_are_refused(images: Tensor) -> None:
    encoder = smp.encoders.get_encoder(TINY, weights=None).eval()
    with pytest.raises(InputError, match="leave normalisation to the encoder"):
        encoder((images - 0.45) / 0.225)


# -- weights ---------------------------------------------------------------------------------------------


def test_every_preset_is_registered_beside_smps_own() -> None:
    names = smp.encoders.get_encoder_names()
    assert {f"hybrid_encoder_{preset}" for preset in ("paper", "small", "large", "tiny")} <= set(names)
    for preset in ("paper", "small", "large", "tiny"):
        entry = smp.encoders.encoders[f"hybrid_encoder_{preset}"]
        assert entry["params"] == {"config": HybridEncoderConfig.preset(preset)}
    assert smp.encoders.get_encoder("resnet18", weights=None).out_channels == [3, 64, 64, 128, 256, 512]


def test_weights_of_smps_own_encoders_are_downloaded_as_before(tmp_path: Path) -> None:
    weights = {"conv.weight": torch.arange(6.0).reshape(2, 3)}
    with fake_hub(tmp_path) as hub:
        hub.files["smp-hub/other"] = {"model.safetensors": save(weights)}
        # By the names in smp's own module, as it calls them.
        path = smp.encoders.hf_hub_download("smp-hub/other", filename="model.safetensors", revision="main")
        loaded = smp.encoders.load_file(path, device="cpu")
    assert list(loaded) == ["conv.weight"] and torch.equal(loaded["conv.weight"], weights["conv.weight"])


def test_trained_weights_are_a_folder_or_a_hub_id(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = HybridDepthConfig.preset("tiny").replace(encoder=WITHOUT_PROMPTS)
    trained = HybridDepthModel(config, pretrained=False).eval()
    trained.save_pretrained(tmp_path / "trained")
    with torch.no_grad():
        expected = trained.encoder(images)
    model = smp.FPN(TINY, encoder_weights=str(tmp_path / "trained"))
    assert model.encoder.encoder.config == trained.encoder.config and model.training
    model.eval().save_pretrained(tmp_path / "model")
    with fake_hub(tmp_path / "hub") as hub:
        hub.files["org/name"] = {file.name: file.read_bytes() for file in (tmp_path / "trained").iterdir()}
        from_hub = smp.encoders.get_encoder(TINY, weights="org/name").eval()
    with torch.no_grad():
        for encoder in (model.encoder, from_hub):
            for found, value in zip(encoder.encoder(images), expected, strict=True):
                assert torch.equal(found, value)
        assert torch.equal(smp.from_pretrained(str(tmp_path / "model")).eval()(images), model(images))
        # Registered by its configuration, the saved model needs no weights but its own.
        integration.register_encoder("hybrid_encoder_mine", trained.config)
        saved = smp.from_pretrained(str(tmp_path / "model"), encoder_name="hybrid_encoder_mine", encoder_weights=None)
        assert torch.equal(saved.eval()(images), model(images))


def test_an_encoder_is_registered_by_a_configuration_or_by_what_has_one() -> None:
    for source, expected in (
        (WITHOUT_PROMPTS, WITHOUT_PROMPTS),
        (HybridDepthConfig.preset("small"), HybridEncoderConfig.preset("small")),
        ("tiny", HybridDepthEncoder.from_pretrained("tiny").config),
    ):
        integration.register_encoder("hybrid_encoder_other", source)
        assert smp.encoders.encoders["hybrid_encoder_other"]["params"]["config"] == expected
    with pytest.raises(ConfigError, match="config is 3; a HybridEncoderConfig is needed"):
        integration.register_encoder("hybrid_encoder_other", 3)
    for name in ("resnet18", 3):
        with pytest.raises(ConfigError, match=f"name is {name!r}; .* no encoder of smp has"):
            integration.register_encoder(name, WITHOUT_PROMPTS)  # type: ignore[arg-type]


def test_the_shipped_weights_go_with_every_name(images: Tensor) -> None:
    expected = HybridDepthEncoder.from_pretrained("tiny")(images)
    encoder = smp.encoders.get_encoder("hybrid_encoder_small", weights="tiny").eval()
    assert all(map(torch.equal, encoder.encoder(images), expected))


def test_public_backbones_are_asked_for_by_their_names(tmp_path: Path) -> None:
    config = HybridEncoderConfig(
        towers="spatial", prompts=None, spatial=SpatialConfig("vit_small_patch14_dinov2.lvd142m", blocks=(2, 5, 8, 11))
    )
    integration.register_encoder("hybrid_encoder_dino", config)
    with fake_hub(tmp_path), pytest.raises(CheckpointError, match=r"vit_small_patch14_dinov2\.lvd142m"):
        smp.encoders.get_encoder("hybrid_encoder_dino", weights="backbones")


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    for weights in ("tinny", "imagenet", "backbones"):
        with pytest.raises(KeyError, match=rf"Wrong pretrained weights `{weights}`.*Available options are: \['tiny'\]"):
            smp.Unet(TINY, encoder_weights=weights)
    with pytest.raises(CheckpointError, match="is neither a file or folder nor a Hub id"):
        smp.Unet(TINY, encoder_weights=str(tmp_path / "absent" / "folder"))
    with pytest.raises(ConfigError, match="give the path as a string"):
        smp.Unet(TINY, encoder_weights=tmp_path)
    with pytest.raises(ValueError, match="Available pretrained options"):
        smp.encoders.get_preprocessing_params(TINY, "imagenet")


# -- freezing --------------------------------------------------------------------------------------------


FREEZES = pytest.mark.skipif(not hasattr(smp.Unet, "freeze_encoder"), reason="freeze_encoder came with smp 0.6")


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


@FREEZES
def test_freezing_the_encoder_freezes_all_of_it(images: Tensor) -> None:
    model = smp.Unet(TINY, **SMALL).train()
    assert all(p.requires_grad for p in model.encoder.parameters()) and norms(model.encoder)
    model.freeze_encoder()
    model.train()
    before = copy.deepcopy(model.encoder.state_dict())
    model(images).mean().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert any(p.grad is not None for p in model.decoder.parameters())
    assert not any(norm.training for norm in norms(model.encoder))
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())
    model.unfreeze_encoder()
    assert all(p.requires_grad for p in model.encoder.parameters())
    assert all(norm.training for norm in norms(model.encoder))


@FREEZES
def test_parts_that_a_configuration_freezes_stay_frozen(images: Tensor) -> None:
    frozen_clip = dataclasses.replace(WITHOUT_PROMPTS.semantic, trainable=False)
    config = WITHOUT_PROMPTS.replace(
        semantic=frozen_clip, spatial=dataclasses.replace(WITHOUT_PROMPTS.spatial, trainable_blocks=1)
    )
    integration.register_encoder("hybrid_encoder_frozen", config)
    model = smp.Unet("hybrid_encoder_frozen", encoder_weights=None, classes=3).train()
    hybrid = model.encoder.encoder
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert norms(hybrid.semantic) and not any(name.startswith("encoder.encoder.semantic") for name in trains)
    before = copy.deepcopy(hybrid.state_dict())
    for step in (lambda: None, model.freeze_encoder, model.unfreeze_encoder):
        step()
        model(images)  # in training mode, where batch norms would take the images' statistics
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trains
    assert all(torch.equal(value, before[key]) for key, value in hybrid.state_dict().items())
    hybrid.set_trainable(semantic=True)
    model(images)
    assert any(not torch.equal(value, before[key]) for key, value in hybrid.state_dict().items())
