"""The Monodepth2 adapter against a small repository of our own with the same interface."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.adapters import encoders, monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder
from hybrid_encoder.config import DEPTH_WORDS, DecoderConfig, HybridDepthConfig, PromptConfig
from hybrid_encoder.errors import AdapterError, CheckpointError, ConfigError

from helpers.published_layout import stage1_config, write_stage1
from helpers.toy_repository import Repo

TINY = HybridEncoderConfig.preset("tiny")


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


# -- what is built ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["patch", "trainer"])
def test_single_images_go_to_the_hybrid_encoder_and_pairs_to_the_repository(repo: Repo, first: str) -> None:
    if first == "trainer":
        repo.load()
    monodepth2.patch("tiny")
    module = repo.load()
    trainer = module.Trainer()
    networks = sys.modules["networks"]
    assert isinstance(trainer.encoder, DepthEncoder) and isinstance(trainer.depth, DepthDecoder)
    assert isinstance(module.direct(), DepthEncoder)
    own = sys.modules["networks.resnet_encoder"].ResnetEncoder
    assert type(trainer.pose_encoder) is own
    assert type(networks.ResnetEncoder(18, False, 2)) is own
    for encoder in (trainer.encoder, trainer.pose_encoder):
        assert isinstance(encoder, networks.ResnetEncoder)
    assert not isinstance(trainer.depth, networks.ResnetEncoder)
    assert networks.ResnetEncoder.__name__ == "ResnetEncoder"
    assert networks.ResnetEncoder.__doc__ == own.__doc__


def test_dpt_gives_sigmoid_disparity_at_every_scale(repo: Repo) -> None:
    monodepth2.patch("tiny")
    trainer = repo.load().Trainer(scales=[0, 1, 2, 3])
    images = _images()
    features = trainer.encoder(images)
    channels = trainer.encoder.num_ch_enc
    assert isinstance(channels, np.ndarray) and channels.dtype.kind == "i"
    assert [f.shape[1] for f in features] == list(channels)
    for outputs, count in ((trainer.depth(features), 1), (trainer.mask(features), 2)):
        assert list(outputs) == [("disp", scale) for scale in range(4)]
        for (_, scale), output in outputs.items():
            assert output.shape == (2, count, 64 // 2**scale, 96 // 2**scale)
            assert output.min() > 0 and output.max() < 1
    sum(output.mean() for output in trainer.depth(features).values()).backward()
    assert all(p.grad is not None for p in trainer.depth.parameters())


def test_features_can_be_split_along_the_batch(repo: Repo) -> None:
    # A shared pose encoder feeds all frames at once and splits every feature.
    monodepth2.patch("tiny")
    trainer = repo.load().Trainer()
    trainer.encoder.eval(), trainer.depth.eval()
    images = _images()
    with torch.no_grad():
        halves = [torch.split(feature, 1) for feature in trainer.encoder(images)]
        second = trainer.depth([half[1] for half in halves])
        alone = trainer.depth(trainer.encoder(images[1:]))
    for key, disparity in alone.items():
        torch.testing.assert_close(second[key], disparity, rtol=0, atol=1e-5)


def test_sizes_may_change_between_calls(repo: Repo) -> None:
    monodepth2.patch("tiny")
    trainer = repo.load().Trainer()
    small, large = (
        trainer.encoder(_images()),
        trainer.encoder(torch.rand(1, 3, 96, 128)),
    )
    assert trainer.depth(small)["disp", 0].shape[-2:] == (64, 96)
    assert trainer.depth(large)["disp", 0].shape[-2:] == (96, 128)


def test_the_repositorys_decoder_gets_a_pyramid(repo: Repo) -> None:
    monodepth2.patch("tiny", decoder="repository")
    trainer = repo.load().Trainer()
    assert type(trainer.depth) is sys.modules["networks.depth_decoder"].DepthDecoder
    features = trainer.encoder(_images())
    assert [tuple(f.shape[-2:]) for f in features] == [(64 >> i, 96 >> i) for i in range(1, 6)]
    assert [f.shape[1] for f in features] == list(trainer.encoder.num_ch_enc)
    assert trainer.depth(features)["disp", 0].shape == (2, 1, 64, 96)


def test_a_pyramid_of_another_encoder_goes_to_the_repositorys_decoder(
    repo: Repo,
) -> None:
    monodepth2.patch("tiny")
    networks = repo.load().networks
    other = networks.ResnetEncoder(18, False, num_input_images=2)
    with pytest.raises(AdapterError, match=r"the features of networks\.resnet_encoder\.ResnetEncoder, and no"):
        networks.DepthDecoder(other.num_ch_enc, [0])
    encoder = networks.ResnetEncoder(18, False)
    decoder = networks.DepthDecoder(other.num_ch_enc, [0])
    assert isinstance(encoder, DepthEncoder)
    assert type(decoder) is sys.modules["networks.depth_decoder"].DepthDecoder


def test_subclasses_of_the_repositorys_classes_stay_their_own(repo: Repo) -> None:
    monodepth2.patch("tiny")
    networks = repo.load().networks

    class Bigger(networks.ResnetEncoder):  # type: ignore[misc,name-defined]
        pass

    made = Bigger(18, False)
    assert type(made) is Bigger and len(made(_images())) == 5
    assert not isinstance(networks.ResnetEncoder(18, False), Bigger)


# -- what it is built from --------------------------------------------------------------------------------


def test_pretrained_is_the_repositorys_to_say(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Recorder(HybridDepthEncoder):
        def __init__(self, config: HybridEncoderConfig, *, pretrained: bool = True) -> None:
            asked.append((config, pretrained))
            super().__init__(config, pretrained=False)

    monkeypatch.setattr(encoders, "HybridDepthEncoder", Recorder)
    monodepth2.patch("tiny")
    networks = repo.load().networks
    networks.ResnetEncoder(18, True)
    networks.ResnetEncoder(num_layers=18, pretrained=False)
    assert asked == [(TINY, True), (TINY, False)]


def test_a_configuration_is_built_anew_and_a_ready_encoder_used_itself(
    repo: Repo,
) -> None:
    networks = repo.load().networks
    with monodepth2.patch(TINY.replace(prompts=None)):
        one, two = networks.ResnetEncoder(18, False), networks.ResnetEncoder(18, False)
        assert one.encoder is not two.encoder and one.encoder.prompts is None
    ready = HybridDepthEncoder("tiny", pretrained=False)
    with monodepth2.patch(ready):
        assert networks.ResnetEncoder(18, True).encoder is ready


def test_a_folder_brings_its_weights(repo: Repo, tmp_path: Path) -> None:
    trained = HybridDepthEncoder("tiny", pretrained=False)
    trained.save_pretrained(tmp_path / "weights")
    networks = repo.load().networks
    for source in (tmp_path / "weights", str(tmp_path / "weights")):
        with monodepth2.patch(source):
            loaded = networks.ResnetEncoder(18, False).encoder.state_dict()
        for key, value in trained.state_dict().items():
            assert torch.equal(loaded[key], value)


@pytest.mark.parametrize("kind", ["ours", "published"])
def test_a_coarse_result_brings_its_weights_wherever_it_is_named_from(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    torch.manual_seed(0)
    if kind == "ours":
        encoder = HybridDepthEncoder(TINY.replace(prompts=PromptConfig(words=DEPTH_WORDS)), pretrained=False)
        path = tmp_path / "final"
        encoder.save_pretrained(path)
    else:
        model = HybridDepthModel(stage1_config(), pretrained=False)
        encoder, path = model.encoder, write_stage1(model, tmp_path / "stage1.ckpt")
    networks = repo.load().networks
    (tmp_path / "elsewhere").mkdir()
    for source in (path, str(path), path.name):  # the last one from where it lies
        monkeypatch.chdir(tmp_path)
        with monodepth2.patch(source):
            monkeypatch.chdir(tmp_path / "elsewhere")  # a trainer may go where it likes before it builds
            built = networks.ResnetEncoder(18, True).encoder
        assert built.config.prompts.words == DEPTH_WORDS
        state = built.state_dict()
        assert state.keys() == encoder.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"encoder is '{path.name}'; give a preset .*a stage-1 .ckpt"):
        monodepth2.patch(path.name)


def test_decoder_widths_follow_the_preset_unless_given(repo: Repo, tmp_path: Path) -> None:
    networks = repo.load().networks

    def widths() -> tuple[int, int]:
        encoder = networks.ResnetEncoder(18, False)
        decoder = networks.DepthDecoder(encoder.num_ch_enc, [0])
        return decoder.dpt.project[0].out_channels, decoder.dpt.fuse[0].out.out_channels

    tiny = HybridDepthConfig.preset("tiny").decoder
    assert isinstance(tiny, DecoderConfig)
    with monodepth2.patch("tiny"):
        assert widths() == (tiny.channels[0], tiny.features)
    with monodepth2.patch(TINY):
        assert widths() == (tiny.channels[0], tiny.features)
    one = TINY.replace(towers="spatial")
    HybridDepthEncoder(one, pretrained=False).save_pretrained(tmp_path)
    for source in (one, HybridDepthEncoder(one, pretrained=False), tmp_path):  # the towers' sizes decide
        with monodepth2.patch(source):
            assert widths() == (tiny.channels[0], tiny.features)
    wider = {**TINY.spatial.overrides, "embed_dim": 192}
    with monodepth2.patch(TINY.replace(spatial=dataclasses.replace(TINY.spatial, overrides=wider))):
        assert widths() == (256, 256)
    with monodepth2.patch("tiny", decoder_config=DecoderConfig(features=8, channels=(4, 4, 8, 8))):
        assert widths() == (4, 8)


def test_the_default_is_the_paper(repo: Repo) -> None:
    handle = monodepth2.patch()
    assert monodepth2.patch("paper") is handle
    assert handle.settings.encoder.origin == HybridEncoderConfig.preset("paper")


# -- training and loading ---------------------------------------------------------------------------------


def test_optimizers_get_no_frozen_parameter(repo: Repo) -> None:
    encoder = HybridDepthEncoder("tiny", pretrained=False)
    encoder.set_trainable(semantic=False, spatial=1)
    monodepth2.patch(encoder)
    trainer = repo.load().Trainer()
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert held and all(p.requires_grad for p in held)
    wanted = {id(p) for p in encoder.parameters() if p.requires_grad}
    assert wanted <= {id(p) for p in held}
    frozen = [name for name, p in trainer.encoder.named_parameters() if not p.requires_grad]
    assert frozen and set(frozen) <= set(trainer.encoder.state_dict())
    trainer.encoder.to(torch.float64)
    assert {p.dtype for _, p in trainer.encoder.named_parameters()} == {torch.float64}


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_weights_are_loaded_back_with_the_trainers_extra_keys(repo: Repo, decoder: Any) -> None:
    monodepth2.patch("tiny", decoder=decoder)
    make = repo.load().Trainer
    trained, fresh = make(), make()
    saved = trained.encoder.state_dict()
    saved.update(height=64, width=96, use_stereo=False)
    known = fresh.encoder.state_dict()
    fresh.encoder.load_state_dict({k: v for k, v in saved.items() if k in known})
    fresh.depth.load_state_dict(trained.depth.state_dict())
    for module in (trained.encoder, trained.depth, fresh.encoder, fresh.depth):
        module.eval()
    with torch.no_grad():
        one, two = (t.depth(t.encoder(_images()))["disp", 0] for t in (trained, fresh))
    assert torch.equal(one, two)


# -- weights ----------------------------------------------------------------------------------------------


def _load_as_the_trainer_does(module: torch.nn.Module, weights: dict[str, Any]) -> None:
    """Drop unknown names, lay the rest over the module's own, load that."""
    own = module.state_dict()
    own.update({name: value for name, value in weights.items() if name in own})
    module.load_state_dict(own)


def test_weights_of_another_model_are_refused_where_the_trainer_would_not_notice(repo: Repo) -> None:
    plain = repo.load("networks").ResnetEncoder(18, False).state_dict()
    with monodepth2.patch("tiny"):
        trainer = repo.load().Trainer()
        with pytest.raises(CheckpointError, match=r"hold nothing for 'encoder\..*another model's"):
            _load_as_the_trainer_does(trainer.encoder, plain)
        saved = {name: value.clone() for name, value in trainer.depth.state_dict().items()}
        _load_as_the_trainer_does(trainer.depth, saved)
        del saved["dpt.project.0.bias"]
        with pytest.raises(CheckpointError, match=r"'dpt\.project\.0\.bias' \(1 of "):
            _load_as_the_trainer_does(trainer.depth, saved)
        with pytest.raises(CheckpointError, match=r"'dpt\.project\.0\.bias' \(1 of "):
            trainer.depth.load_state_dict(saved)
