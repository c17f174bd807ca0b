"""What networks say of themselves in their weights, and what is said where weights do not fit."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig, HybridMatchingEncoder
from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, MatchingEncoder, PoseDecoder, PoseEncoder
from hybrid_encoder.checkpoints.described import stored_config
from hybrid_encoder.checkpoints.files import read_tensors
from hybrid_encoder.config import HybridDepthConfig, NeckConfig, PromptConfig, UNetDecoderConfig
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.neck import PyramidNeck

from helpers.toy_repository import Repo
from helpers.trained_folder import UNET, save_weights

TINY = HybridEncoderConfig.preset("tiny")
WIDTHS: Any = HybridDepthConfig.preset("tiny").decoder
STRANGER = {"encoder.conv1.weight": torch.zeros(8, 3, 7, 7), "encoder.bn1.bias": torch.zeros(8)}


def _encoder(config: HybridEncoderConfig = TINY, neck: bool = False) -> DepthEncoder:
    encoder = HybridDepthEncoder(config, pretrained=False)
    return DepthEncoder(encoder, PyramidNeck(encoder.feature_info.channels()) if neck else None)


def _decoder(scales: Any = (0, 1, 2, 3)) -> DepthDecoder:
    return DepthDecoder([0, 48, 48, 48, 48], scales, 1, WIDTHS)


def _student(**options: Any) -> MatchingEncoder:
    return MatchingEncoder(HybridMatchingEncoder("tiny", pretrained=False, **options))


def _changed(part: str, **changes: Any) -> HybridEncoderConfig:
    return TINY.replace(**{part: dataclasses.replace(getattr(TINY, part), **changes)})


def _copy(weights: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


# -- what weights say -------------------------------------------------------------------------------------


def test_every_network_describes_itself_through_a_file(tmp_path: Path) -> None:
    encoder, pyramid, student, decoder = _encoder(), _encoder(neck=True), _student(num_depth_bins=8), _decoder([0, 2])
    for network in (encoder, pyramid, student, decoder, PoseEncoder(encoder.encoder)):
        content = {**network.state_dict(), "height": 64, "width": 96, "use_stereo": False}
        torch.save(content, tmp_path / "network.pth")
        expected = network.describe()
        assert expected is not None and expected.network == type(network).__name__
        assert stored_config(torch.load(tmp_path / "network.pth", weights_only=True)) == expected
        assert stored_config(read_tensors(tmp_path / "network.pth")) == expected
        assert stored_config({f"module.{name}": value for name, value in content.items()}) == expected
    assert encoder.describe().config == encoder.encoder.config and encoder.describe().neck is None
    assert pyramid.describe().neck == NeckConfig((64, 64, 128, 256, 512))
    found = decoder.describe()
    assert found.config == dataclasses.replace(WIDTHS, scales=(0, 2), activation="sigmoid")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.uint8),
        {"step": 3},
        None,
        torch.frombuffer(bytearray(b'{"library": "another"}'), dtype=torch.uint8),
    ],
)
def test_what_others_keep_there_says_nothing(value: Any) -> None:
    assert stored_config({"_extra_state": value, **STRANGER}) is None
    assert stored_config(STRANGER) is None


def test_the_description_follows_the_encoder() -> None:
    encoder = _encoder()
    encoder.encoder.set_prompts(PromptConfig(num_tokens=4))
    found = stored_config(encoder.state_dict())
    assert found is not None and found.config.prompts == PromptConfig(num_tokens=4)


def test_copies_wrappers_and_averages_go_on_working(tmp_path: Path) -> None:
    encoder = _encoder()
    weights = _copy(encoder.state_dict())
    assert copy.deepcopy(encoder).load_state_dict(weights).missing_keys == []
    wrapped = nn.DataParallel(_encoder())
    wrapped.load_state_dict({f"module.{name}": value for name, value in weights.items()})
    torch.testing.assert_close(_copy(wrapped.module.state_dict()), weights, rtol=0, atol=0)
    averaged = torch.optim.swa_utils.AveragedModel(encoder)
    averaged.update_parameters(encoder)
    averaged.load_state_dict(_copy(averaged.state_dict()))
    assert stored_config({n.removeprefix("module."): x for n, x in averaged.state_dict().items()}) == encoder.describe()
    # A trainer that averages what state_dict() returns, in place and in whole numbers.
    for value in encoder.state_dict().values():
        value.copy_(0.99 * value + 0.01 * value.clone())
    assert stored_config(encoder.state_dict()) == encoder.describe()


def test_distributed_training_saves_and_loads_it(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(_encoder())
        weights = _copy(parallel.state_dict())
        parallel.load_state_dict(weights)
    finally:
        torch.distributed.destroy_process_group()
    assert stored_config(weights) == parallel.module.describe()


def test_weights_without_a_description_load_as_before() -> None:
    weights = _copy(_encoder().state_dict())
    del weights["_extra_state"]
    encoder = _encoder()
    found = encoder.load_state_dict(weights)
    assert not found.missing_keys and not found.unexpected_keys
    torch.testing.assert_close({n: x for n, x in encoder.state_dict().items() if n in weights}, weights)
    outer = nn.Sequential(_encoder())
    outer.load_state_dict({f"0.{name}": value for name, value in weights.items()})


# -- trained inside a repository, used as ours --------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_what_is_trained_under_patch_is_a_model_of_ours(repo: Repo, tmp_path: Path, decoder: Any) -> None:
    repo.write({"networks/depth_decoder.py": UNET})
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "log" / "mdp" / "models" / "weights_0"
    with monodepth2.patch("tiny", decoder=decoder):
        trainer = repo.load().Trainer()
        losses, _ = trainer.step(images)
        losses["loss"].backward()
        trainer.optimizer.step()
        save_weights(folder, encoder=trainer.encoder, depth=trainer.depth)
        trainer.encoder.eval(), trainer.depth.eval()
        with torch.no_grad():
            expected = trainer.depth(trainer.encoder(images))
    (folder.parent / "opt.json").write_text(json.dumps({"min_depth": 0.1, "max_depth": 80.0}))
    model = HybridDepthModel.from_pretrained(folder)
    assert isinstance(model.config.decoder, UNetDecoderConfig) == (decoder == "repository")
    assert model.config.max_depth == 80.0
    with torch.no_grad():
        for scale, disparity in model.forward_scales(images).items():
            torch.testing.assert_close(disparity, expected["disp", scale], rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path / "ours")
    with torch.no_grad():
        again = HybridDepthModel.from_pretrained(tmp_path / "ours")(images)
        torch.testing.assert_close(again, model(images), rtol=0, atol=0)


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_a_trained_folder_names_the_encoder_of_a_patch(repo: Repo, tmp_path: Path, decoder: Any) -> None:
    with monodepth2.patch(TINY.replace(prompts=None), decoder=decoder):
        trainer = repo.load().Trainer()
    states = [_copy(network.state_dict()) for network in (trainer.encoder, trainer.depth)]
    folder = save_weights(tmp_path / "weights", encoder=trainer.encoder, depth=trainer.depth)
    del trainer
    gc.collect()
    with monodepth2.patch(folder, decoder=decoder):
        trainer = repo.load().Trainer()
    for network, state in zip((trainer.encoder, trainer.depth), states, strict=True):
        assert network.state_dict().keys() == state.keys()
        network.load_state_dict(state)


# -- what does not fit ------------------------------------------------------------------------------------


def _as_a_script(network: nn.Module, weights: Any) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if name in network.state_dict()}


def _as_the_trainer(network: nn.Module, weights: Any) -> dict[str, Any]:
    own = network.state_dict()
    own.update({name: value for name, value in weights.items() if name in own})
    return own


WAYS = {"whole": lambda network, weights: weights, "script": _as_a_script, "trainer": _as_the_trainer}


@pytest.mark.parametrize("way", WAYS)
def test_one_sentence_says_whose_weights_they_are(way: str) -> None:
    tiny, pyramid = _encoder(), _encoder(neck=True)
    wide = _encoder(_changed("spatial", overrides={**TINY.spatial.overrides, "embed_dim": 192}))
    other_mean = _encoder(_changed("semantic", mean=(0.0, 0.0, 0.0)))
    wordless = _encoder(TINY.replace(prompts=None))
    cases: list[tuple[nn.Module, Any, str]] = [
        (
            tiny,
            STRANGER,
            r"hold nothing for 'encoder\.\S+' \((\d+) of \1 names of this DepthEncoder\): they are another",
        ),
        (_decoder(), STRANGER, r"hold nothing for 'dpt\.\S+' \((\d+) of \1 names of this DepthDecoder\)"),
        (PoseDecoder([192]), STRANGER, r"hold nothing for 'head\.\S+' \(2 of 2 names of this PoseDecoder\)"),
        (tiny, wide.state_dict(), r"embed_dim is 192 there, and 96 here\): .* patch\(FOLDER\), FOLDER being where"),
        (wide, tiny.state_dict(), r"are of the encoder 'tiny', and this is an encoder of .* with patch\('tiny'\)\.$"),
        (tiny, pyramid.state_dict(), r"own decoder of a repository, and this .* patch\('tiny', decoder='repository'\)"),
        (pyramid, tiny.state_dict(), r"neck is none there, and .* patch\('tiny', decoder='dpt'\)\.$"),
        (tiny, other_mean.state_dict(), r"semantic\.mean is \[0\.0, 0\.0, 0\.0\] there, and \[0\.485"),
        (tiny, wordless.state_dict(), r"prompts\.\w+ is not set there, and"),
        (
            _decoder(),
            DepthDecoder([0, 48, 48, 48, 48], range(4), 1, dataclasses.replace(WIDTHS, features=24)).state_dict(),
            r"features is 24 there, and 48 here\): .* patch\(decoder_config=DecoderConfig\(features=24, channels=\(32",
        ),
        (_decoder(), _decoder([0]).state_dict(), r"scales is \[0\] there, and \[0, 1, 2, 3\] here\): .* --scales 0\.$"),
        (
            _student(num_depth_bins=8),
            MatchingEncoder(HybridMatchingEncoder(TINY.replace(prompts=None), pretrained=False)).state_dict(),
            r"for several frames, and this .* patch\(stored_config\(torch\.load\(FILE\)\)\.config\.encoder\), FILE",
        ),
        (
            _student(num_depth_bins=8),
            _student(num_depth_bins=16).state_dict(),
            r"num_depth_bins is 16 there, and 8 here\): build what was trained, with --num_depth_bins 16\.$",
        ),
    ]
    for network, weights, message in cases:
        before = _copy(network.state_dict())
        with pytest.raises(CheckpointError, match=message) as caught:
            network.load_state_dict(WAYS[way](network, _copy(weights)))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        torch.testing.assert_close(_copy(network.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_settings_of_the_training_alone_may_differ(way: str) -> None:
    frozen = _encoder(_changed("semantic", trainable=False))
    tiny = _encoder()
    tiny.load_state_dict(WAYS[way](tiny, _copy(frozen.state_dict())))
    weights = frozen.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in tiny.state_dict().items() if name != "_extra_state")
    student = _student(num_depth_bins=8, adaptive_bins=True)
    student.compute_depth_bins(0.3, 8.0)
    other = _student(num_depth_bins=8)
    other.load_state_dict(WAYS[way](other, _copy(student.state_dict())))


def test_sizes_and_names_without_a_description() -> None:
    tiny = _encoder()
    weights = _copy(tiny.state_dict())
    del weights["_extra_state"]
    name = "encoder.fusion.align.0.weight"
    shape = tuple(weights[name].shape)
    with pytest.raises(CheckpointError, match=rf"hold '{name}' as \(3,\), and this DepthEncoder needs") as caught:
        tiny.load_state_dict({**weights, name: torch.zeros(3)})
    assert str(shape) in str(caught.value)
    with pytest.raises(CheckpointError, match="hold 'more', which this DepthEncoder has no place for"):
        tiny.load_state_dict({**weights, "more": torch.zeros(3)})


def test_a_partial_load_reports_as_torch_does() -> None:
    tiny = _encoder()
    part = {name: value for name, value in _copy(tiny.state_dict()).items() if name.startswith("encoder.spatial.")}
    found = tiny.load_state_dict({**part, "more": torch.zeros(3)}, strict=False)
    assert found.unexpected_keys == ["more"]
    counts = {name for name in tiny.state_dict() if name.endswith("num_batches_tracked")}  # torch fills these in
    assert set(found.missing_keys) == set(tiny.state_dict()) - set(part) - counts - {"_extra_state"}
    with pytest.raises(CheckpointError, match="another model's"):
        tiny.load_state_dict(STRANGER, strict=False)
