"""The Monodepth2 adapter against a small repository of our own with the same interface."""

from __future__ import annotations

import dataclasses
import gc
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.adapters import encoders, monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, PoseEncoder
from hybrid_encoder.adapters.patching import legacy, replacing
from hybrid_encoder.adapters.patching.hook import HOOK
from hybrid_encoder.config import DEPTH_WORDS, DecoderConfig, HybridDepthConfig, PromptConfig
from hybrid_encoder.errors import AdapterError, CheckpointError, ConfigError, HybridEncoderError
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.pixel_language import PixelLanguageLoss

from helpers.published_layout import stage1_config, write_stage1
from helpers.toy_repository import FILES, RESNET, Repo

TINY = HybridEncoderConfig.preset("tiny")


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


# -- what is built ---------------------------------------------------------------------------------------


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
    monodepth2.patch("tiny", decoder="monodepth2")
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
    decoder = networks.DepthDecoder(np.array([2, 2, 4, 4, 8]), [0])
    assert type(decoder) is sys.modules["networks.depth_decoder"].DepthDecoder


def test_subclasses_of_the_repositorys_classes_stay_their_own(repo: Repo) -> None:
    monodepth2.patch("tiny")
    networks = repo.load().networks

    class Bigger(networks.ResnetEncoder):  # type: ignore[misc,name-defined]
        pass

    made = Bigger(18, False)
    assert type(made) is Bigger and len(made(_images())) == 5
    assert not isinstance(networks.ResnetEncoder(18, False), Bigger)


# -- what it is built from -------------------------------------------------------------------------------


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


# -- training and loading --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("decoder", ["dpt", "monodepth2"])
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


# -- the handle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["dpt", "monodepth2"])
def test_undo_restores_every_name(repo: Repo, decoder: Any) -> None:
    repo.load()
    before = repo.names()
    handle = monodepth2.patch("tiny", decoder=decoder)
    for name in (
        "networks.ResnetEncoder",
        "networks.DepthDecoder",
        "trainer.ResnetEncoder",
        "networks.depth_decoder.F",
    ):
        assert name in handle.replaced and name in str(handle)
    assert "networks.resnet_encoder.ResnetEncoder" not in handle.replaced
    handle.undo()
    after = repo.names()
    assert list(after) == list(before)
    for name, names in before.items():
        assert list(after[name]) == list(names)
        assert all(after[name][key] is value for key, value in names.items())
    assert handle.replaced == [] and not handle.active
    handle.undo()
    assert type(repo.load().direct()) is repo.load().networks.ResnetEncoder


def test_undo_reaches_a_trainer_imported_meanwhile(repo: Repo) -> None:
    with monodepth2.patch("tiny"):
        trainer = repo.load()
    assert trainer.networks.ResnetEncoder is sys.modules["networks.resnet_encoder"].ResnetEncoder
    assert trainer.ResnetEncoder is trainer.networks.ResnetEncoder


def test_a_with_block_undoes_after_an_error(repo: Repo) -> None:
    networks = repo.load().networks
    own = networks.ResnetEncoder
    with pytest.raises(KeyError), monodepth2.patch("tiny"):
        assert networks.ResnetEncoder is not own
        raise KeyError
    assert networks.ResnetEncoder is own


def test_the_same_again_is_the_same_handle_and_another_is_refused(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    before = repo.names()
    assert monodepth2.patch("tiny") is handle and monodepth2.patch(TINY) is handle
    with pytest.raises(AdapterError, match=r"another decoder; call undo\(\)"):
        monodepth2.patch("tiny", decoder="monodepth2")
    with pytest.raises(AdapterError, match="another encoder"):
        monodepth2.patch(
            HybridDepthEncoder("tiny", pretrained=False),
            decoder_config=handle.settings.decoder_config,
        )
    assert {n: {**v} for n, v in before.items()} == repo.names() and handle.active
    handle.undo()
    assert monodepth2.patch("tiny", decoder="monodepth2") is not handle


def test_undo_of_an_old_handle_leaves_a_later_patch_alone(repo: Repo) -> None:
    networks = repo.load("networks")
    first = monodepth2.patch("tiny")
    first.undo()
    second = monodepth2.patch("tiny")
    first.undo()
    assert second.active and monodepth2.patch("tiny") is second
    assert isinstance(networks.ResnetEncoder(18, False), DepthEncoder)


def test_the_same_with_and_without_shims_are_two_patches(repo: Repo) -> None:
    with monodepth2.patch("tiny", legacy=False), pytest.raises(AdapterError, match="another legacy"):
        monodepth2.patch("tiny")
    assert legacy.active_shims(repo.root) is None


def test_a_patch_that_fails_half_way_changes_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = repo.load("networks")
    before, finders = repo.names(), list(sys.meta_path)

    def fail(*arguments: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(HOOK, "add", fail)
    with pytest.raises(OSError, match="no"):
        monodepth2.patch("tiny", legacy=False)
    monkeypatch.undo()
    assert repo.names() == before and sys.meta_path == finders and networks not in replacing.ACTIVE


def test_legacy_shims_come_along_unless_declined(repo: Repo) -> None:
    layers = repo.load("networks.depth_decoder")
    with monodepth2.patch("tiny", legacy=False):
        assert layers.F is torch.nn.functional
    with monodepth2.patch("tiny"):
        assert layers.F is not torch.nn.functional
    shims = legacy.apply_shims(repo.root)
    with monodepth2.patch("tiny"):
        pass
    assert shims.active, "shims that were there before stay"
    shims.undo()


# -- other repositories ----------------------------------------------------------------------------------


def test_another_package_by_name_or_module(repo: Repo) -> None:
    repo.write({f"fork/{name}": text for name, text in FILES.items() if name.startswith("networks")})
    repo.write({"fork/__init__.py": ""})
    with monodepth2.patch("tiny", networks="fork.networks") as handle:
        package = repo.load("fork.networks")
        assert isinstance(package.ResnetEncoder(18, False), DepthEncoder)
        assert monodepth2.patch("tiny", networks=package) is handle
        assert handle.shims is not None and handle.shims.repository.root == str(repo.root / "fork")


def test_a_package_that_was_loaded_by_hand(repo: Repo) -> None:
    package = repo.load("networks")
    del sys.modules["networks"]
    own = package.ResnetEncoder
    with monodepth2.patch("tiny", networks=package):
        assert isinstance(package.ResnetEncoder(18, False), DepthEncoder)
    assert package.ResnetEncoder is own


REFUSED = {
    "lacks the attribute 'DepthDecoder'": {"networks/__init__.py": "from .resnet_encoder import ResnetEncoder\n"},
    "does not hold as a class or function the attribute 'ResnetEncoder'": {
        "networks/__init__.py": "from .depth_decoder import DepthDecoder\nResnetEncoder = 'resnet18'\n"
    },
    "ResnetEncoder takes no argument 'num_input_images'": {
        "networks/resnet_encoder.py": RESNET.replace(", num_input_images=1", "").replace("num_input_images", "1")
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_repository_that_lacks_something_is_refused_unchanged(repo: Repo, message: str) -> None:
    repo.write(REFUSED[message])
    networks = repo.load("networks")
    before, finders = repo.names(), list(sys.meta_path)
    with pytest.raises(AdapterError, match=message) as error:
        monodepth2.patch("tiny")
    assert str(repo.root) in str(error.value)
    assert repo.names() == before and sys.meta_path == finders
    assert networks not in replacing.ACTIVE and legacy.active_shims(repo.root) is None


def test_no_networks_module_is_refused(repo: Repo) -> None:
    with pytest.raises(AdapterError, match=r"no module 'elsewhere\.networks'.*networks="):
        monodepth2.patch("tiny", networks="elsewhere.networks")
    with pytest.raises(AdapterError, match="has no file"):
        monodepth2.patch("tiny", networks=ModuleType("made_up"))


def test_a_missing_requirement_of_the_repository_is_said_as_it_is(repo: Repo) -> None:
    repo.write({"networks/__init__.py": "import a_package_that_is_not_there\n"})
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        monodepth2.patch("tiny")


def test_arguments_that_do_not_exist_are_refused(repo: Repo) -> None:
    with pytest.raises(ConfigError, match="'dpt' or 'monodepth2'"):
        monodepth2.patch("tiny", decoder="cnn")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'huge'.*'paper', 'tiny'"):
        monodepth2.patch("huge")
    with pytest.raises(HybridEncoderError, match="encoder is a Conv2d"):
        monodepth2.patch(torch.nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="encoder is a HybridDepthConfig"):
        monodepth2.patch(HybridDepthConfig.preset("tiny"))  # type: ignore[arg-type]
    assert "networks" not in sys.modules


# -- weights ---------------------------------------------------------------------------------------------


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
        with pytest.raises(RuntimeError, match="Missing key"):
            trainer.depth.load_state_dict(saved)


# -- pose from class tokens ------------------------------------------------------------------------------


def test_class_tokens_give_the_pose(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks, trainer = repo.load("networks"), repo.load().Trainer()
    encoder, pose_encoder = trainer.encoder, trainer.pose_encoder
    pose = networks.PoseDecoder(pose_encoder.num_ch_enc, num_input_features=1, num_frames_to_predict_for=2)
    assert list(pose_encoder.parameters()) == [], "the depth encoder hands the tower to the optimizer"
    first, second = _images(), _images().flip(-1)
    axis_angle, translation = pose([pose_encoder(torch.cat([first, second], 1))])
    assert axis_angle.shape == translation.shape == (2, 1, 1, 3)
    tokens = [encoder.encoder.forward_features(images).class_token for images in (first, second)]
    expected = torch.cat(pose.head(*tokens), dim=1)
    torch.testing.assert_close(torch.cat([axis_angle, translation], -1).flatten(1), expected, atol=1e-6, rtol=1e-4)
    axis_angle.sum().backward()
    assert encoder.encoder.spatial.blocks[-1].attn.qkv.weight.grad is not None

    # Pose evaluation: no depth encoder is built, and the weights come from the pose encoder's own file.
    state = {name: value.clone() for name, value in pose_encoder.state_dict().items()}
    del trainer, encoder
    alone = networks.ResnetEncoder(18, False, 2)
    alone.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(alone(torch.cat([first, second], 1)), pose_encoder(torch.cat([first, second], 1)))


def _shared(networks: ModuleType, first: str) -> tuple[DepthEncoder, PoseEncoder]:
    """Depth encoder and pose encoder of a training, built in either order."""
    if first == "pose":
        pose = networks.ResnetEncoder(18, False, 2)
        return networks.ResnetEncoder(18, False), pose
    encoder = networks.ResnetEncoder(18, False)
    return encoder, networks.ResnetEncoder(18, False, 2)


@pytest.mark.parametrize("order", [("depth", "depth"), ("pose", "pose"), ("depth", "pose"), ("pose", "depth")])
def test_both_encoders_share_one_tower_and_the_next_training_has_its_own(repo: Repo, order: tuple[str, str]) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    trainings = [_shared(networks, first) for first in order]
    for encoder, pose_encoder in trainings:
        assert isinstance(encoder, DepthEncoder) and isinstance(pose_encoder, PoseEncoder)
        assert pose_encoder.spatial is encoder.encoder.spatial
    assert trainings[0][0].encoder is not trainings[1][0].encoder
    assert trainings[0][1].spatial is not trainings[1][1].spatial


def test_an_encoder_that_no_pose_encoder_took_is_not_kept_for_the_next_depth_encoder(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    first, second = networks.ResnetEncoder(18, False), networks.ResnetEncoder(18, False)
    assert first.encoder is not second.encoder
    assert networks.ResnetEncoder(18, False, 2).spatial is second.encoder.spatial, "the one that was built last"


def test_the_prompts_of_a_depth_encoder_that_comes_second_are_counted(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token", language_loss=0.1)
    networks = repo.load().networks
    encoder, _ = _shared(networks, "pose")
    assert networks.DepthDecoder(encoder.num_ch_enc, [0]).num_prompts == 16


def test_a_shared_encoder_cannot_start_in_two_ways(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = repo.load("networks")
    with monodepth2.patch("tiny", pose="class_token"):
        networks.ResnetEncoder(18, False, 2)
        with pytest.raises(AdapterError, match=r"pretrained=True, and .* with pretrained=False: ask for the same"):
            networks.ResnetEncoder(18, True)
    HybridDepthEncoder("tiny", pretrained=False).save_pretrained(tmp_path / "weights")
    with monodepth2.patch(tmp_path / "weights", pose="class_token"):  # its weights come from the folder anyway
        pose_encoder = networks.ResnetEncoder(18, False, 2)
        assert networks.ResnetEncoder(18, True).encoder.spatial is pose_encoder.spatial


def test_frozen_parts_stay_still_when_the_trainer_sets_training_mode(repo: Repo) -> None:
    monodepth2.patch(TINY.replace(spatial=replace(TINY.spatial, trainable_blocks=1)), pose="class_token")
    trainer = repo.load().Trainer()
    for module in (trainer.encoder, trainer.pose_encoder):
        module.train()
    assert [block.training for block in trainer.encoder.encoder.spatial.blocks] == [False, False, False, True]


def test_what_class_tokens_cannot_do_is_named(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    with pytest.raises(AdapterError, match=r"asked to read 3 images.*--pose_model_input pairs"):
        networks.ResnetEncoder(18, False, 3)
    with pytest.raises(AdapterError, match="separate_resnet"):
        networks.PoseDecoder([0, 1, 1, 1, 1], 2)
    with pytest.raises(AdapterError, match="PoseCNN reads images"):
        networks.PoseCNN(2)
    with pytest.raises(ConfigError, match="towers is 'semantic'"):
        PoseEncoder(HybridDepthEncoder(TINY.replace(towers="semantic"), pretrained=False))


def test_a_repository_without_a_pose_network_is_refused_for_class_tokens_alone(repo: Repo) -> None:
    (repo.root / "networks" / "__init__.py").write_text(
        "from .resnet_encoder import ResnetEncoder\nfrom .depth_decoder import DepthDecoder\n"
    )
    with pytest.raises(AdapterError, match="lacks the attribute 'PoseDecoder'"):
        monodepth2.patch("tiny", pose="class_token")
    monodepth2.patch("tiny").undo()


def test_patching_after_a_trainer_was_built_is_refused(repo: Repo) -> None:
    trainer = repo.load().Trainer()
    with pytest.raises(AdapterError, match=r"exists already.*call patch\(\) before Trainer"):
        monodepth2.patch("tiny")
    assert HOOK not in sys.meta_path
    del trainer
    gc.collect()
    monodepth2.patch("tiny")


# -- language in the loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["patch", "trainer"])
def test_the_language_loss_is_added_and_logged_under_its_name(repo: Repo, first: str) -> None:
    if first == "trainer":
        repo.load()
    handle = monodepth2.patch("tiny", language_loss=0.5)
    module = repo.load()
    assert "trainer.Trainer.compute_losses" in handle.replaced
    torch.manual_seed(0)
    trainer = module.Trainer()
    losses, outputs = trainer.step(_images())
    logits = [outputs["language", level] for level in range(4)]
    assert {x.shape[:2] for x in logits} == {(2, 16)}
    expected = sum(PixelLanguageLoss(bin_centers(16, 0.1, 100.0))(x, outputs["depth", 0, 0]) for x in logits) / 4
    torch.testing.assert_close(losses["language_loss"], expected)
    torch.testing.assert_close(losses["loss"], outputs["disp", 0].mean() + 0.5 * expected)
    losses["language_loss"].backward()
    assert trainer.encoder.encoder.prompts.tokens.grad.abs().sum() > 0
    assert all(p.grad is None for p in trainer.depth.parameters()), "the depth is a target, not a thing to bend"
    assert ("language", 0) not in trainer.mask(trainer.encoder(_images()))
    handle.undo()
    assert module.Trainer.compute_losses.__module__ == "trainer"
    assert "language_loss" not in trainer.compute_losses({}, outputs)


def test_a_trainer_that_extends_another_adds_the_language_loss_once(repo: Repo) -> None:
    repo.write(
        {
            "special.py": """
                from trainer import Trainer

                class Special(Trainer):
                    def compute_losses(self, inputs, outputs):
                        return super().compute_losses(inputs, outputs)
            """
        }
    )
    handle = monodepth2.patch("tiny", language_loss=0.5)
    special = repo.load("special").Special
    names = {"trainer.Trainer.compute_losses", "special.Special.compute_losses"}
    assert names <= set(handle.replaced)
    losses, outputs = special().step(_images())
    torch.testing.assert_close(losses["loss"], outputs["disp", 0].mean() + 0.5 * losses["language_loss"])


def test_undo_leaves_a_method_alone_that_was_given_anew(repo: Repo) -> None:
    handle = monodepth2.patch("tiny", language_loss=0.5)
    trainer = repo.load().Trainer
    trainer.compute_losses = mine = lambda self, inputs, outputs: {}
    handle.undo()
    assert trainer.compute_losses is mine


def test_without_a_weight_nothing_is_added(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    losses, outputs = repo.load().Trainer().step(_images())
    assert list(losses) == ["loss"] and ("language", 0) not in outputs
    assert not any("compute_losses" in name for name in handle.replaced)


def test_a_language_loss_that_cannot_be_is_named(repo: Repo) -> None:
    for weight in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"language_loss is .*; it is a weight, 0 or more"):
            monodepth2.patch("tiny", language_loss=weight)
    with pytest.raises(ConfigError, match="language_loss needs decoder='dpt'"):
        monodepth2.patch("tiny", language_loss=0.1, decoder="monodepth2")
    with (
        monodepth2.patch(TINY.replace(prompts=None), language_loss=0.1),
        pytest.raises(ConfigError, match="the encoder has no prompts"),
    ):
        repo.load().Trainer()
    networks = repo.load("networks")
    del sys.modules["trainer"]
    with monodepth2.patch("tiny", language_loss=0.1):
        encoder = networks.ResnetEncoder(18, False)
        with pytest.raises(AdapterError, match="no class with compute_losses"):
            networks.DepthDecoder(encoder.num_ch_enc, [0])


def test_a_pose_that_does_not_exist_is_named(repo: Repo) -> None:
    with pytest.raises(ConfigError, match="pose is 'magic'"):
        monodepth2.patch("tiny", pose="magic")  # type: ignore[arg-type]
