"""Codebases that renamed Monodepth2's networks, as small repositories of our own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hybrid_encoder.adapters import codebases, monodepth2, recognition, unserved
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, PoseEncoder
from hybrid_encoder.adapters.recipes import CodebaseRecipe
from hybrid_encoder.errors import AdapterError, ConfigError

from helpers.toy_repository import Repo

# Three levels, a class of another name, no argument for public weights.
THREE_LEVELS = {
    "networks/__init__.py": """
        from .resnet_encoder import ResnetEncoder
        from .depth_decoder import DepthDecoder
        from .small import LiteMono
    """,
    "networks/small.py": """
        import torch.nn as nn

        class LiteMono(nn.Module):
            def __init__(self, in_chans=3, model="small", height=192, width=640, **kwargs):
                super().__init__()
    """,
}
# The encoder comes from a function, the decoder has another name.
FUNCTION = {
    "networks/__init__.py": """
        from .resnet_encoder import ResnetEncoder
        from .depth_decoder import DepthDecoder
        from .pose import PoseCNN, PoseDecoder
        from .high import hrnet18, DepthDecoder_MSF
    """,
    "networks/high.py": """
        from .resnet_encoder import ResnetEncoder
        from .depth_decoder import DepthDecoder

        class DepthDecoder_MSF(DepthDecoder):
            pass

        def hrnet18(pretrained=True, progress=True, **kwargs):
            return ResnetEncoder(18, pretrained)
    """,
}
FIVE_LEVELS = """
    import torch.nn as nn

    class DepthDecoder(nn.Module):
        def __init__(self, num_ch_enc, scales=range(4), num_output_channels=1):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(int(num_ch_enc[i]), 8, 1) for i in range(4, -1, -1))
"""


def _images() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_three_levels(repo: Repo, decoder: str) -> None:
    repo.write(THREE_LEVELS)
    networks = repo.load("networks")
    with monodepth2.patch("tiny", decoder=decoder) as handle:  # type: ignore[arg-type]
        assert handle.settings.recipes[0].name == "Lite-Mono"
        encoder = networks.LiteMono(model="small", drop_path_rate=0.2, width=96, height=64)
        depth = networks.DepthDecoder(encoder.num_ch_enc, [0, 1, 2])
        assert isinstance(encoder, DepthEncoder) and isinstance(encoder, networks.LiteMono)
        features = encoder(_images())
        disparity = depth(features)
        assert isinstance(depth, DepthDecoder) is (decoder == "dpt")
        if decoder == "repository":
            assert [tuple(f.shape[1:]) for f in features] == [(48, 16, 24), (80, 8, 12), (128, 4, 6)]
        else:
            assert disparity["disp", 0].shape == (1, 1, 64, 96)
        assert not isinstance(networks.ResnetEncoder(18, False), DepthEncoder), "that one is for pose here"


def test_an_encoder_that_a_function_builds(repo: Repo) -> None:
    repo.write(FUNCTION)
    networks = repo.load("networks")
    own = networks.hrnet18
    with monodepth2.patch("tiny", pose="class_token") as handle:
        assert handle.settings.recipes[0].name == "RA-Depth"
        encoder = networks.hrnet18(False)
        depth = networks.DepthDecoder_MSF(encoder.num_ch_enc, [0], num_output_channels=1)
        assert isinstance(encoder, DepthEncoder) and networks.hrnet18.__name__ == "hrnet18"
        assert depth(encoder(_images()))["disp", 0].shape == (1, 1, 64, 96)
        pose = networks.ResnetEncoder(18, False, num_input_images=2)
        assert isinstance(pose, PoseEncoder) and pose.spatial is encoder.encoder.spatial
        assert not isinstance(networks.ResnetEncoder(18, False), DepthEncoder)
    assert networks.hrnet18 is own


@pytest.mark.parametrize("name", unserved.REFUSED)
def test_what_cannot_be_served_is_refused_with_the_reason(repo: Repo, name: str) -> None:
    refused = unserved.REFUSED[name]
    for mark in refused.marks:
        file, _, text = mark.partition(":")
        repo.write({file if file.endswith(".py") else f"{file}/__init__.py": f"# {text}\n"})
    before = repo.names()
    with pytest.raises(AdapterError, match=f"is a checkout of {name}: ") as error:
        monodepth2.patch("tiny")
    assert refused.reason in str(error.value)
    assert repo.names() == before and "networks" not in sys.modules


def test_a_checkout_further_down_the_path_is_not_taken_for_this_one(repo: Repo, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for mark in codebases.SINGLE_FRAME["gasmono"].marks:
        file, _, text = mark.partition(":")
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).write_text(f"# {text}\n")
    both = [str(repo.root), str(other)]
    found = [recognition.find_recipes(folders, codebases.SINGLE_FRAME)[0].name for folders in (both, both[::-1])]
    assert found == ["Monodepth2", "GasMono"]
    assert recognition.find_recipes([str(tmp_path), *both], codebases.SINGLE_FRAME)[0].name == "Monodepth2"


@pytest.mark.parametrize("name", [name for name, codebase in codebases.SINGLE_FRAME.items() if codebase.marks])
def test_every_checkout_is_recognised_by_its_own_marks_alone(repo: Repo, name: str) -> None:
    codebase = codebases.SINGLE_FRAME[name]
    for mark in codebase.marks:
        file, _, text = mark.partition(":")
        path = repo.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.write(f"# {text}\n")
    assert recognition.find_recipes([str(repo.root)], codebases.SINGLE_FRAME) is codebase.recipes


def test_a_recipe_of_your_own_for_a_renamed_class(repo: Repo) -> None:
    repo.write({"networks/__init__.py": "from .resnet_encoder import ResnetEncoder as Backbone\n"})
    with (repo.root / "networks" / "__init__.py").open("a") as file:
        file.write("from .depth_decoder import DepthDecoder\n")
    with pytest.raises(AdapterError, match=r"lacks the attribute 'ResnetEncoder'.*recipe="):
        monodepth2.patch("tiny")
    with monodepth2.patch("tiny", recipe=CodebaseRecipe("fork", encoder="Backbone")):
        assert isinstance(repo.load("networks").Backbone(18, False), DepthEncoder)
    with pytest.raises(ConfigError, match=r"recipe is 'fork'; give one of monodepth2, .*ra-depth, lite-mono"):
        monodepth2.patch("tiny", recipe="fork")


@pytest.mark.parametrize("pose", ["repository", "class_token"])
def test_one_name_for_both_encoders_with_arguments_of_other_names(repo: Repo, pose: str) -> None:
    renamed = {
        "networks/backbone.py": """
            from .resnet_encoder import ResnetEncoder as Real

            class Backbone(Real):
                def __init__(self, layers, weights, num_frames=1):
                    Real.__init__(self, layers, weights, num_frames)
        """
    }
    repo.write(renamed)
    with (repo.root / "networks" / "__init__.py").open("a") as file:
        file.write("from .backbone import Backbone\n")
    networks = repo.load("networks")
    recipe = CodebaseRecipe("fork", encoder="Backbone", pretrained="weights", frames="num_frames")
    with monodepth2.patch("tiny", recipe=recipe, pose=pose):  # type: ignore[arg-type]
        encoder, pose_encoder = networks.Backbone(18, False), networks.Backbone(18, False, 2)
        assert isinstance(encoder, DepthEncoder)
        if pose == "repository":
            assert not isinstance(pose_encoder, PoseEncoder) and len(pose_encoder.num_ch_enc) == 5
        else:
            assert isinstance(pose_encoder, PoseEncoder) and pose_encoder.spatial is encoder.encoder.spatial


def test_too_few_levels_for_the_repositorys_decoder_are_named(repo: Repo) -> None:
    repo.write({"networks/depth_decoder.py": FIVE_LEVELS})
    networks = repo.load("networks")
    three = CodebaseRecipe("three", strides=(4, 8, 16))
    with monodepth2.patch("tiny", recipe=three, decoder="repository"):
        encoder = networks.ResnetEncoder(18, False)
        with pytest.raises(AdapterError, match=r"DepthDecoder reads more than the 3 levels of recipe 'three'"):
            networks.DepthDecoder(encoder.num_ch_enc)


def test_images_that_the_caller_normalised_are_brought_back(repo: Repo) -> None:
    networks = repo.load("networks")
    plain = CodebaseRecipe("plain", mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    encoder = None
    with monodepth2.patch("tiny", recipe=plain):
        encoder = networks.ResnetEncoder(18, False).eval()
    images = _images()
    with torch.no_grad():
        given = encoder((images - 0.45) / 0.225)
        for got, expected in zip(given[1:], encoder.encoder(images), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert "normalisation" not in encoder.state_dict()
    assert sys.modules["networks"] is networks
