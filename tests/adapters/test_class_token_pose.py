"""Pose from the class tokens of the depth encoder's own DINO tower."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.adapters.networks import DepthEncoder, PoseEncoder
from hybrid_encoder.errors import AdapterError, ConfigError

from helpers.toy_repository import Repo

TINY = HybridEncoderConfig.preset("tiny")


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("order", [("depth", "depth"), ("pose", "pose"), ("pose", "depth")])
def test_both_encoders_share_one_tower_and_the_next_training_has_its_own(repo: Repo, order: tuple[str, str]) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    trainings = [_shared(networks, first) for first in order]
    for encoder, pose_encoder in trainings:
        assert isinstance(encoder, DepthEncoder) and isinstance(pose_encoder, PoseEncoder)
        assert pose_encoder.spatial is encoder.encoder.spatial
    assert trainings[0][0].encoder is not trainings[1][0].encoder
    assert trainings[0][1].spatial is not trainings[1][1].spatial


def test_a_training_in_the_other_order_has_its_own_tower_once_the_first_has_ended(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    depth, pose = _shared(networks, "depth")
    towers = {id(depth.encoder.spatial)}
    spatial = pose.spatial  # kept alive, so that no new one can have its id
    del depth, pose
    gc.collect()
    depth, pose = _shared(networks, "pose")
    assert pose.spatial is depth.encoder.spatial and id(pose.spatial) not in towers and pose.spatial is not spatial


def test_every_pose_encoder_of_a_training_shares_its_tower(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    depth, pose = _shared(networks, "depth")
    assert networks.ResnetEncoder(18, False, 2).spatial is pose.spatial is depth.encoder.spatial


def test_pose_encoders_that_are_built_before_the_depth_encoder_share_its_tower(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    first, second = networks.ResnetEncoder(18, False, 2), networks.ResnetEncoder(18, False, 2)
    assert first.spatial is second.spatial is networks.ResnetEncoder(18, False).encoder.spatial


def test_a_training_after_an_evaluation_of_pose_has_its_own_tower(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    evaluated = networks.ResnetEncoder(18, False, 2)
    tower = evaluated.spatial  # with weights of its own file by now
    del evaluated
    gc.collect()
    depth, pose = _shared(networks, "depth")
    assert pose.spatial is depth.encoder.spatial is not tower


def test_an_encoder_is_not_kept_longer_than_its_networks(repo: Repo) -> None:
    monodepth2.patch("tiny", pose="class_token")
    networks = repo.load("networks")
    encoder = weakref.ref(networks.ResnetEncoder(18, False).encoder)
    pose_encoder = weakref.ref(networks.ResnetEncoder(18, False, 2).spatial)
    gc.collect()
    assert encoder() is None and pose_encoder() is None


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
        pose_encoder = networks.ResnetEncoder(18, False, 2)
        with pytest.raises(AdapterError, match=r"pretrained=True, and .* with pretrained=False: ask for the same"):
            networks.ResnetEncoder(18, True)
        assert networks.ResnetEncoder(18, False).encoder.spatial is pose_encoder.spatial
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


def test_a_pose_that_does_not_exist_is_named(repo: Repo) -> None:
    with pytest.raises(ConfigError, match="pose is 'magic'"):
        monodepth2.patch("tiny", pose="magic")  # type: ignore[arg-type]
