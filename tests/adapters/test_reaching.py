"""Every way in which a trainer can reach the class of its depth network: each meets the hybrid encoder."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import pytest
import torch

from hybrid_encoder.adapters import generic, monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder
from hybrid_encoder.adapters.recipes import CodebaseRecipe
from hybrid_encoder.errors import AdapterError, ConfigError

from helpers.toy_repository import DECODER, POSE, RESNET, Repo

TRAINER = """
    import torch
    from PIL import Image
    {imports}

    class Trainer:
        def __init__(self):
            self.encoder = {encoder}(18, False)
            self.depth = {decoder}(self.encoder.num_ch_enc, [0])
            self.pose_encoder = {pose}(18, False, num_input_images=2)
            parts = (self.encoder, self.depth, self.pose_encoder)
            self.optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], 1e-4)

        def step(self, images):
            self.depth(self.encoder(images))["disp", 0].mean().backward()
            self.optimizer.step()
"""
FACTORY = """
    from networks.resnet_encoder import ResnetEncoder
    def make(num_layers, pretrained, num_input_images=1):
        return ResnetEncoder(num_layers, pretrained, num_input_images)
"""
MODULES = "networks.resnet_encoder", "networks.depth_decoder"

# How the trainer imports, what it calls; further files; and what patch() is told.
WAYS: dict[str, tuple[str, str, str, dict[str, str | None], dict[str, Any]]] = {
    "through the module that defines them": (
        "from networks import resnet_encoder, depth_decoder",
        "resnet_encoder.ResnetEncoder",
        "depth_decoder.DepthDecoder",
        {},
        {},
    ),
    "by a star": ("from networks import *", "ResnetEncoder", "DepthDecoder", {}, {}),
    "in one file": (
        "import networks",
        "networks.ResnetEncoder",
        "networks.DepthDecoder",
        {"networks/__init__.py": None, "networks.py": RESNET + DECODER + POSE},
        {},
    ),
    "in a folder without __init__": (
        "from networks.resnet_encoder import ResnetEncoder\n    from networks.depth_decoder import DepthDecoder",
        "ResnetEncoder",
        "DepthDecoder",
        {"networks/__init__.py": None},
        {"networks": MODULES},
    ),
    "in two packages": (
        "from encoders import net\n    from decoders import head",
        "net.ResnetEncoder",
        "head.DepthDecoder",
        {"encoders/net.py": RESNET, "decoders/__init__.py": "", "decoders/head.py": DECODER},
        {"networks": ("encoders.net", "decoders.head")},
    ),
    "in a module of the package": (
        "from networks import resnet_encoder, depth_decoder",
        "resnet_encoder.ResnetEncoder",
        "depth_decoder.DepthDecoder",
        {"networks/__init__.py": ""},
        {"recipe": CodebaseRecipe("x", "resnet_encoder.ResnetEncoder", ("depth_decoder.DepthDecoder",))},
    ),
    "in a registry": (
        "import networks.registry",
        "networks.registry.KINDS['ResnetEncoder']",
        "networks.registry.KINDS['DepthDecoder']",
        {
            "networks/registry.py": """
                KINDS = {}
                def register(kind):
                    KINDS[kind.__name__] = kind
                    return kind
            """,
            "networks/resnet_encoder.py": RESNET.replace(
                "    class ResnetEncoder", "    from .registry import register\n    @register\n    class ResnetEncoder"
            ),
            "networks/depth_decoder.py": DECODER.replace(
                "    class DepthDecoder", "    from .registry import register\n    @register\n    class DepthDecoder"
            ),
        },
        {},
    ),
    "bound by functools.partial": (
        "import functools, networks\n    build = functools.partial(networks.ResnetEncoder)",
        "build",
        "networks.DepthDecoder",
        {},
        {},
    ),
    "as a default": (
        "import networks\n    def build(*args, kind=networks.ResnetEncoder, **kwargs): return kind(*args, **kwargs)",
        "build",
        "networks.DepthDecoder",
        {},
        {},
    ),
    "a function in a dict of lists": (
        "import networks, networks.zoo",
        "networks.zoo.KINDS['small {0}'][0]",
        "networks.DepthDecoder",
        {"networks/zoo.py": FACTORY + "    KINDS = {'small {0}': [make]}\n"},
        {"recipe": CodebaseRecipe("x", "zoo.make")},
    ),
    "a function that another one calls": (
        "import networks, networks.zoo",
        "networks.zoo.outer",
        "networks.DepthDecoder",
        {"networks/zoo.py": FACTORY + "    def outer(*args, **kwargs): return make(*args, **kwargs)\n"},
        {"recipe": CodebaseRecipe("x", "zoo.make")},
    ),
}


def _repository(repo: Repo, way: str) -> dict[str, Any]:
    imports, encoder, decoder, files, options = WAYS[way]
    pose = "networks.resnet_encoder.ResnetEncoder" if "zoo" in encoder else encoder
    for name, text in files.items():
        if text is None:
            (repo.root / name).unlink()
    if "networks.py" in files:
        shutil.rmtree(repo.root / "networks")
    repo.write({name: text for name, text in files.items() if text is not None})
    repo.write({"trainer.py": TRAINER.format(imports=imports, encoder=encoder, decoder=decoder, pose=pose)})
    return options


def _constructors(repo: Repo) -> dict[str, Any]:
    """The constructor of every class that the repository holds."""
    held = [value for names in repo.names().values() for value in names.values() if isinstance(value, type)]
    return {f"{x.__module__}.{x.__qualname__}": vars(x).get("__init__") for x in held if "torch" not in x.__module__}


@pytest.mark.parametrize("when", ["imported before", "imported after"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_meets_the_hybrid_encoder_and_undo_is_exact(repo: Repo, way: str, when: str) -> None:
    options = _repository(repo, way)
    if when == "imported before":
        repo.load()
        before = _constructors(repo)
    handle = monodepth2.patch("tiny", **options)
    trainer = repo.load().Trainer()
    assert isinstance(trainer.encoder, DepthEncoder) and isinstance(trainer.depth, DepthDecoder)
    assert type(trainer.pose_encoder).__name__ == "ResnetEncoder" and len(trainer.pose_encoder.convs) == 5
    assert trainer.Image if hasattr(trainer, "Image") else sys.modules["trainer"].Image.ANTIALIAS, "shims reach it"
    weights = [p.detach().clone() for p in trainer.encoder.parameters()]
    trainer.step(torch.rand(1, 3, 64, 96))
    trainer.step(torch.rand(1, 3, 64, 96))
    changed = [not torch.equal(a, b) for a, b in zip(weights, trainer.encoder.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert [line.split(" ")[2].strip(",") for line in handle.built] == ["DepthEncoder", "DepthDecoder"]
    handle.undo()
    if when == "imported before":
        assert _constructors(repo) == before
    own = repo.load().Trainer()
    assert type(own.encoder).__name__ == "ResnetEncoder" and type(own.depth).__name__ == "DepthDecoder"


def test_the_own_decoder_is_built_where_its_name_is_taken(repo: Repo) -> None:
    options = _repository(repo, "in one file")
    monodepth2.patch("tiny", decoder="repository", **options)
    trainer = repo.load().Trainer()
    assert isinstance(trainer.encoder, DepthEncoder) and type(trainer.depth) is trainer.depth.__class__
    assert tuple(trainer.encoder.num_ch_enc) == (64, 64, 128, 256, 512)
    trainer.step(torch.rand(1, 3, 64, 96))


# -- one class of any codebase ---------------------------------------------------------------------------------


NORMALISED = """
    import torch
    from models.net import Encoder, Head

    class Trainer:
        def __init__(self):
            self.encoder, self.depth = Encoder(), Head()
            self.optimizer = torch.optim.SGD([*self.encoder.parameters(), *self.depth.parameters()], 0.1)

        def step(self, images):
            self.depth(self.encoder((images - 0.45) / 0.225)).mean().backward()
            self.optimizer.step()
"""
NET = """
    import torch.nn as nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 4, 1)

        def forward(self, images):
            return [self.conv(images)]

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 1, 1)

        def forward(self, features):
            return self.conv(features[0])
"""


def test_one_class_of_any_codebase(repo: Repo) -> None:
    repo.write({"models/net.py": NET, "main.py": NORMALISED})
    options: Any = {"channels": (8,), "strides": (4,), "mean": (0.45,) * 3, "std": (0.225,) * 3}
    handle = generic.patch("models.net.Encoder", "tiny", **options)
    assert generic.patch("models.net.Encoder", "tiny", **options) is handle
    trainer = repo.load("main").Trainer()
    seen: list[torch.Tensor] = []
    assert isinstance(trainer.encoder, DepthEncoder)
    trainer.encoder.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.rand(2, 3, 64, 96)
    trainer.step(images)
    torch.testing.assert_close(seen[0], images, atol=1e-6, rtol=0)
    assert [tuple(x.shape) for x in trainer.encoder(images)] == [(2, 8, 16, 24)]
    handle.undo()
    assert type(repo.load("main").Trainer().encoder).__name__ == "Encoder"


def test_a_pose_encoder_of_the_same_class_stays_the_codebases_own(repo: Repo) -> None:
    networks = repo.load("networks")
    with generic.patch("networks.ResnetEncoder", "tiny"):
        assert isinstance(networks.ResnetEncoder(18, False), DepthEncoder)
        assert type(networks.ResnetEncoder(18, False, num_input_images=2)) is networks.ResnetEncoder
    renamed = RESNET.replace("num_input_images", "how_many")
    repo.write({"encoders.py": renamed})
    encoders = repo.load("encoders")
    with generic.patch("encoders.ResnetEncoder", "tiny"):
        pose = encoders.ResnetEncoder(18, False, how_many=2)
        with pytest.raises(AdapterError, match=r"is given 2 images at once.*frames="):
            pose(torch.rand(1, 6, 64, 64))
    with generic.patch("encoders.ResnetEncoder", "tiny", frames="how_many"):
        assert type(encoders.ResnetEncoder(18, False, how_many=2)) is encoders.ResnetEncoder


def test_what_a_generic_patch_cannot_be_is_named(repo: Repo) -> None:
    repo.write({"models/net.py": NET})
    with pytest.raises(AdapterError, match=r"models\.net .* lacks the attribute 'Backbone'"):
        generic.patch("models.net.Backbone", "tiny")
    with pytest.raises(ConfigError, match="target is 'Encoder'; give the module and the name in it"):
        generic.patch("Encoder", "tiny")
    with pytest.raises(ConfigError, match=r"channels are \(8,\) and strides \(2, 4\)"):
        generic.patch("models.net.Encoder", "tiny", channels=(8,), strides=(2, 4))
