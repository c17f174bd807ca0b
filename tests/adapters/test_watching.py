"""A training that goes on without the hybrid encoder is an error at its first step, and so is a program without it."""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hybrid_encoder import HybridEncoderConfig
from hybrid_encoder.adapters import manydepth, monodepth2
from hybrid_encoder.adapters.networks import DepthEncoder
from hybrid_encoder.adapters.recipes import CodebaseRecipe
from hybrid_encoder.adapters.runner import run_script
from hybrid_encoder.errors import AdapterError

from helpers.toy_repository import RESNET, Repo

TINY = HybridEncoderConfig.preset("tiny")
OTHER = "    # another class\n" + RESNET.replace("ResnetEncoder", "OtherEncoder")


def _step(network: nn.Module, *others: nn.Module, images: torch.Tensor | None = None) -> torch.optim.Optimizer:
    """One step of a new optimizer on the first map of a network."""
    optimizer = torch.optim.SGD([p for each in (network, *others) for p in each.parameters()], 0.1)
    features = network(torch.rand(1, 3, 64, 64) if images is None else images)
    features[-1].sum().backward()
    optimizer.step()
    return optimizer


def test_a_training_without_the_hybrid_encoder_names_what_trains_instead(repo: Repo) -> None:
    repo.write({"networks/other.py": OTHER})
    monodepth2.patch("tiny")
    other = repo.load("networks.other").OtherEncoder(18, False)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        AdapterError,
        match=r"no depth encoder of it was built, and SGD trains networks\.other\.OtherEncoder; patch\(\) stands "
        r"ready in the place of networks\.depth_decoder\.DepthDecoder, networks\.resnet_encoder\.ResnetEncoder",
    ):
        _step(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items()), "before any step"


def test_a_pose_network_alone_is_no_training_of_ours(repo: Repo) -> None:
    monodepth2.patch("tiny")
    pose = repo.load("networks").ResnetEncoder(18, False, num_input_images=2)
    with pytest.raises(AdapterError, match=r"trains networks\.resnet_encoder\.ResnetEncoder"):
        _step(pose, images=torch.rand(1, 6, 64, 64))


def test_an_optimizer_without_our_parameters_is_an_error(repo: Repo) -> None:
    monodepth2.patch("tiny")
    trainer = repo.load().Trainer()
    del trainer.optimizer
    gc.collect()
    with pytest.raises(AdapterError, match=r"its depth encoder was built, and no optimizer holds a parameter of it"):
        _step(trainer.pose_encoder, images=torch.rand(1, 6, 64, 64))


def test_two_optimizers_may_share_the_networks(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    trainer = repo.load().Trainer()
    _step(trainer.pose_encoder, images=torch.rand(1, 6, 64, 64))  # the trainer's own optimizer holds the rest
    assert not handle.watch.with_gradient
    trainer.step(torch.rand(1, 3, 64, 64))[0]["loss"].backward()
    trainer.optimizer.step()
    assert handle.watch.with_gradient


def test_a_step_may_compute_its_gradients_itself(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    trainer = repo.load().Trainer()

    def closure() -> Any:
        trainer.optimizer.zero_grad()
        loss = trainer.step(torch.rand(1, 3, 64, 64))[0]["loss"]
        loss.backward()
        return loss.item()

    trainer.optimizer.step(closure)
    assert handle.watch.with_gradient
    handle.watch.check_used()


def test_a_frozen_encoder_needs_no_optimizer(repo: Repo) -> None:
    monodepth2.patch("tiny")
    trainer = repo.load().Trainer()
    trainer.encoder.requires_grad_(False)
    optimizer = torch.optim.SGD(trainer.depth.parameters(), 0.1)
    del trainer.optimizer
    trainer.step(torch.rand(1, 3, 64, 64))[0]["loss"].backward()
    optimizer.step()


def test_other_trainings_of_the_process_go_on(repo: Repo) -> None:
    monodepth2.patch("tiny")
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.rand(1, 2)).sum().backward()
    optimizer.step()


def test_after_undo_nothing_is_watched(repo: Repo) -> None:
    repo.write({"networks/other.py": OTHER})
    monodepth2.patch("tiny").undo()
    _step(repo.load("networks.other").OtherEncoder(18, False))


def test_a_decoder_that_is_not_replaced_is_refused_our_features_when_it_is_built(repo: Repo) -> None:
    repo.write(
        {
            "networks/second.py": """
                from networks.depth_decoder import DepthDecoder
                class SecondDecoder(DepthDecoder):
                    pass
            """
        }
    )
    networks = repo.load("networks")
    with monodepth2.patch("tiny"):
        encoder = networks.ResnetEncoder(18, False)
        second = repo.load("networks.second").SecondDecoder
        with pytest.raises(AdapterError, match=r"networks\.second\.SecondDecoder is to read .*decoder='repository'"):
            second(encoder.num_ch_enc)
        assert type(second(np.array([2, 2, 4, 4, 8]))) is second, "those of another network it may read"
    with monodepth2.patch("tiny", decoder="repository"):
        encoder = networks.ResnetEncoder(18, False)
        assert type(second(encoder.num_ch_enc)) is second
    assert vars(second).get("__init__") is None, "undo is exact"


def test_channels_that_the_trainer_assigns(repo: Repo) -> None:
    networks = repo.load("networks")
    with monodepth2.patch("tiny"):
        encoder = networks.ResnetEncoder(18, False)
        encoder.num_ch_enc = [64, 18, 36, 72, 144]
        for channels in (encoder.num_ch_enc, [64, 18, 36, 72, 144]):
            depth = networks.DepthDecoder(channels, [0])
            assert depth(encoder(torch.rand(1, 3, 64, 96)))["disp", 0].shape == (1, 1, 64, 96)
    recipe = CodebaseRecipe("x", channels=(64, 18, 36, 72, 144))
    with monodepth2.patch("tiny", decoder="repository", recipe=recipe):
        encoder = networks.ResnetEncoder(18, False)
        encoder.num_ch_enc = [64, 18, 36, 72, 144]
        assert [x.shape[1] for x in encoder(torch.rand(1, 3, 64, 96))] == [64, 18, 36, 72, 144]
        with pytest.raises(AdapterError, match=r"num_ch_enc is assigned \(64, 128\).*channels=\(64, 128\)"):
            encoder.num_ch_enc = [64, 128]


def test_the_handle_and_the_log_tell_what_was_built(repo: Repo, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hybrid_encoder.adapters"):
        handle = monodepth2.patch("tiny")
        trainer = repo.load().Trainer()
        trainer.step(torch.rand(1, 3, 64, 64))[0]["loss"].backward()
        trainer.optimizer.step()
    size = sum(x.numel() for x in trainer.encoder.state_dict(keep_vars=True).values() if isinstance(x, nn.Parameter))
    trains = sum(x.numel() for x in trainer.encoder.parameters())
    line = f"networks.resnet_encoder.ResnetEncoder -> DepthEncoder, {size:,} parameters, {trains:,} of them train"
    assert line in caplog.text and f"built: {line}" in repr(handle)
    held = len(trainer.optimizer.param_groups[0]["params"])
    assert f"Adam holds {held} parameters of the hybrid encoder's networks" in caplog.text


class Container(nn.Module):
    """A module around the networks, as of Lightning: its parameters() asks no network."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)


@pytest.mark.parametrize("form", ["list", "groups", "one by one", "named"])
def test_no_frozen_parameter_reaches_an_optimizer_through_a_container(repo: Repo, form: str) -> None:
    frozen = TINY.replace(spatial=dataclasses.replace(TINY.spatial, trainable_blocks=1))
    own = torch.optim.Optimizer.add_param_group
    with monodepth2.patch(frozen):
        trainer = repo.load().Trainer()
        layer = nn.Linear(2, 2)
        layer.requires_grad_(False)  # somebody else's: not ours to judge
        both = Container(encoder=trainer.encoder, depth=trainer.depth, layer=layer)
        if form == "list":
            optimizer = torch.optim.AdamW(both.parameters(), 1e-4)
        elif form == "groups":
            groups: list[dict[str, Any]] = [{"params": both.parameters()}, {"params": [torch.zeros(1)], "lr": 1e-3}]
            optimizer = torch.optim.AdamW(groups, 1e-4)
        elif form == "one by one":
            optimizer = torch.optim.AdamW(layer.parameters(), 1e-4)
            rest = Container(encoder=trainer.encoder, depth=trainer.depth)
            optimizer.add_param_group({"params": rest.parameters()})
        else:
            try:
                optimizer = torch.optim.AdamW(both.named_parameters(), 1e-4)
            except TypeError:
                pytest.skip("this torch takes no names")
        held = {id(x) for group in optimizer.param_groups for x in group["params"]}
        expected = {id(x) for x in (*trainer.encoder.parameters(), *trainer.depth.parameters(), *layer.parameters())}
        everything = {id(x) for _, x in trainer.encoder.named_parameters()}
        assert expected <= held and len(everything) > len(list(trainer.encoder.parameters()))
        assert not (everything - expected) & held
        optimizer.load_state_dict(optimizer.state_dict())
    assert torch.optim.Optimizer.add_param_group is own


# -- ManyDepth ---------------------------------------------------------------------------------------------


def test_a_teacher_without_a_student_is_an_error(repo: Repo) -> None:
    matching = (
        RESNET.replace("ResnetEncoder", "ResnetEncoderMatching")
        .replace(
            "num_layers, pretrained, num_input_images=1",
            "num_layers, pretrained, adaptive_bins=True, min_depth_bin=0.1, max_depth_bin=9.0, depth_binning='linear', "
            "num_depth_bins=8, num_input_images=1",
        )
        .replace("forward(self, images)", "forward(self, images, lookup_images=0, poses=0, K=0, invK=0)")
    )
    student = matching.replace("ResnetEncoderMatching", "OtherMatching")
    repo.write(
        {
            "manydepth/__init__.py": "",
            "manydepth/networks/__init__.py": """
                from .encoders import ResnetEncoder
                from .matching import ResnetEncoderMatching
                from .other import OtherMatching
                from networks.depth_decoder import DepthDecoder
            """,
            "manydepth/networks/encoders.py": RESNET,
            "manydepth/networks/matching.py": matching,
            "manydepth/networks/other.py": student,
        }
    )
    manydepth.patch("tiny")
    networks = repo.load("manydepth.networks")
    teacher, other = networks.ResnetEncoder(18, False), networks.OtherMatching(18, False)
    assert isinstance(teacher, DepthEncoder)
    with pytest.raises(AdapterError, match=r"no multi-frame encoder \(the student\).*other\.OtherMatching"):
        _step(other, teacher)


# -- whole programs ----------------------------------------------------------------------------------------

PROGRAMS: dict[str, tuple[str, str | None]] = {
    "builds ours": ("networks.ResnetEncoder(18, False)", None),
    "builds the pose network alone": ("networks.ResnetEncoder(18, False, num_input_images=2)", None),
    "builds none at all": ("print('data prepared')", None),
    "builds another": (
        "import networks.other; networks.other.OtherEncoder(18, False)",
        r"it built networks\.other\.OtherEncoder, and asked for none of networks\.depth_decoder\.DepthDecoder",
    ),
    "builds another and exits": (
        "import sys, networks.other; networks.other.OtherEncoder(18, False); sys.exit()",
        r"it built networks\.other\.OtherEncoder",
    ),
    "trains without a gradient": (
        """
        import torch
        encoder = networks.ResnetEncoder(18, False)
        depth = networks.DepthDecoder(encoder.num_ch_enc, [0])
        other = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD([*encoder.parameters(), *depth.parameters(), *other.parameters()], 0.1)
        other(torch.rand(1, 2)).sum().backward()
        optimizer.step()
        """,
        "its parameters are in an optimizer, and no gradient ever reached them",
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_ends_without_the_hybrid_encoder_fails(
    repo: Repo, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, says = PROGRAMS[program]
    repo.write({"networks/other.py": OTHER, "program.py": "import networks\n" + textwrap.dedent(text)})
    monkeypatch.chdir(repo.root)
    monkeypatch.setattr(sys, "argv", ["program.py"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def run() -> Any:
        return run_script(["program.py"], lambda: monodepth2.patch("tiny"))

    if says is None:
        run()
    else:
        with pytest.raises(AdapterError, match=says):
            run()
