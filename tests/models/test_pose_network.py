"""Networks for camera motion, and their files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hybrid_encoder.config.pose import PoseConfig
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.models import ClassTokenPoseHead, PoseNetwork, load_motion


def test_the_head_is_one_linear_layer_on_both_tokens() -> None:
    head = ClassTokenPoseHead(8)
    first, second = torch.randn(3, 8), torch.randn(3, 8)
    axis_angle, translation = head(first, second)
    expected = 0.01 * head.linear(torch.cat([first, second], 1))
    torch.testing.assert_close(torch.cat([axis_angle, translation], 1), expected)
    assert not torch.equal(head(second, first)[0], axis_angle), "the order in time matters"


def small_network() -> PoseNetwork:
    torch.manual_seed(0)
    network = PoseNetwork("test_resnet", channels=8)
    network(torch.rand(2, 3, 32, 64), torch.rand(2, 3, 32, 64))  # statistics of batch norm
    return network.eval()


def test_a_network_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    network = small_network()
    network.config = network.config.replace(size=(96, 320), unit="mean depth", resample="lanczos")
    network.training_history = [{"stage": "FineStage", "known": True}]
    assert network.save_pretrained(tmp_path / "run") == tmp_path / "run" / "pose.safetensors"
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["pose.safetensors"]
    loaded = PoseNetwork.from_pretrained(tmp_path / "run")
    assert loaded.config == PoseConfig("network", "test_resnet", 8, {}, (96, 320), "lanczos", "mean depth", False)
    assert loaded.training_history == network.training_history
    assert not loaded.training
    first, second = torch.rand(1, 3, 96, 320), torch.rand(1, 3, 96, 320)
    for found, expected in zip(loaded(first, second), network(first, second), strict=True):
        assert torch.equal(found, expected)


def test_a_layer_on_class_tokens_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    head = ClassTokenPoseHead(12)
    file = head.save_pretrained(tmp_path / "head.safetensors")
    loaded = ClassTokenPoseHead.from_pretrained(file)
    assert torch.equal(loaded.linear.weight, head.linear.weight)
    assert isinstance(load_motion(file), ClassTokenPoseHead)
    with pytest.raises(CheckpointError, match="holds a ClassTokenPoseHead; load it with ClassTokenPoseHead"):
        PoseNetwork.from_pretrained(file)


def test_it_is_found_in_the_folders_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    network.save_pretrained(tmp_path)
    final, other = tmp_path / "final", tmp_path / "best"
    final.mkdir()
    other.mkdir()
    monkeypatch.chdir(final)
    for source in (tmp_path, tmp_path / "pose.safetensors", final, str(final), "."):
        assert torch.equal(load_motion(source).state_dict()["head.0.weight"], network.state_dict()["head.0.weight"])
    with pytest.raises(CheckpointError, match=r"no pose\.safetensors; name the folder of a run"):
        load_motion(other)  # other weights than those of the run's end
    network.state_dict()["head.0.weight"].zero_()
    network.save_pretrained(final)
    assert not load_motion(final).state_dict()["head.0.weight"].any(), "its own comes first"


@pytest.mark.parametrize("network", [PoseNetwork("resnet18", channels=4), PoseNetwork("test_resnet", channels=4)])
def test_files_that_do_not_say_their_network_are_recognised(tmp_path: Path, network: PoseNetwork) -> None:
    file = tmp_path / "pose.safetensors"
    save_file(network.state_dict(), file)
    loaded = PoseNetwork.from_pretrained(tmp_path)
    assert loaded.config == network.config
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    save_file(ClassTokenPoseHead(6).state_dict(), file)
    assert ClassTokenPoseHead.from_pretrained(file).config.channels == 6


def with_config(file: Path, **changes: Any) -> None:
    """Write a file again with other words about its network."""
    with safe_open(file, framework="pt") as opened:
        content = json.loads(opened.metadata()["pose_config"])
    content["config"] |= changes
    save_file(load_file(file), file, {"pose_config": json.dumps(content)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbone": "hf-hub:somebody/model"}, "pose.backbone is 'hf-hub:somebody/model'"),
        ({"backbone": "no_such_net"}, "pose is 'no_such_net', which timm does not know"),
        ({"backbone": "resnet18"}, "has no key"),
        ({"channels": 10**9}, "from 1 to 16384"),
        ({"channels": 16}, r"is \(8, 96, 1, 1\), and this PoseNetwork needs"),
        ({"kind": "class_token"}, "has no key 'linear.bias'"),
        ({"options": {"pretrained_cfg": "/etc/passwd"}}, "unknown setting 'pretrained_cfg'"),
        ({"size": [96, 320, 3]}, "pose.size is"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_one_sentence(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = small_network().save_pretrained(tmp_path)
    with_config(file, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_motion(file)


def test_what_is_no_pose_network_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "pose.safetensors"
    with pytest.raises(CheckpointError, match=r"tiny holds weights of depth alone, no pose\.safetensors"):
        load_motion("tiny")
    with pytest.raises(CheckpointError, match="is no file or folder; name a run of train-fine"):
        load_motion("some/model")
    for content, says in ((b"", "is empty"), (pickle.dumps(3), "not a whole safetensors file")):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=says):
            load_motion(file)
    torch.save(ClassTokenPoseHead(4).state_dict(), tmp_path / "pose.pth")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_motion(tmp_path / "pose.pth")
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match="does not say which network it is of"):
        load_motion(file)
    network = small_network()
    network.state_dict()["head.0.bias"].fill_(torch.nan)
    network.save_pretrained(file)
    with pytest.raises(CheckpointError, match="values that are not finite"):
        load_motion(file)


def test_options_of_a_network_that_no_file_could_state_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'cache_dir'"):
        PoseNetwork("test_resnet", cache_dir="/tmp")
