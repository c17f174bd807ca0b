"""The ManyDepth adapter against a small repository of our own with the same interface."""

from __future__ import annotations

import copy
import dataclasses
import gc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.adapters import encoders, manydepth, monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, MatchingEncoder
from hybrid_encoder.config import DEPTH_WORDS, IMAGENET_MEAN, PRESETS, HybridDepthConfig, PromptConfig
from hybrid_encoder.errors import AdapterError, CheckpointError, ConfigError

from helpers.published_layout import stage1_config, write_stage1
from helpers.toy_repository import FILES, Repo

MATCHING = """
    import numpy as np
    import torch.nn as nn

    class ResnetEncoderMatching(nn.Module):
        def __init__(self, num_layers, pretrained, input_height, input_width, min_depth_bin=0.1, max_depth_bin=20.0,
                     num_depth_bins=96, adaptive_bins=False, depth_binning='linear'):
            super(ResnetEncoderMatching, self).__init__()
            self.num_ch_enc = np.array([2, 2, 4, 4, 8])
            self.conv = nn.Conv2d(3, 2, 1)
"""
TRAINER = """
    import torch
    import torch.optim as optim
    from manydepth import networks

    class Trainer:
        def __init__(self, height=64, width=96, scales=(0, 1, 2, 3), bins=8):
            self.models = {}
            self.models["encoder"] = networks.ResnetEncoderMatching(
                18, False, input_height=height, input_width=width, adaptive_bins=True, min_depth_bin=0.1,
                max_depth_bin=20.0, depth_binning="linear", num_depth_bins=bins)
            self.models["depth"] = networks.DepthDecoder(self.models["encoder"].num_ch_enc, scales)
            self.models["mono_encoder"] = networks.ResnetEncoder(18, False)
            self.models["mono_depth"] = networks.DepthDecoder(self.models["mono_encoder"].num_ch_enc, scales)
            self.models["pose_encoder"] = networks.ResnetEncoder(18, False, num_input_images=2)
            self.parameters = [p for model in self.models.values() for p in model.parameters()]
            self.optimizer = optim.Adam(self.parameters, 1e-4)

        def freeze_teacher(self):
            kept = [p for name in ("encoder", "depth") for p in self.models[name].parameters()]
            self.optimizer = optim.Adam(kept, 1e-4)
            for model in self.models.values():
                model.eval()
            for name in ("encoder", "depth"):
                self.models[name].train()
"""
TINY = HybridEncoderConfig.preset("tiny")
FROZEN = TINY.replace(spatial=dataclasses.replace(TINY.spatial, trainable_blocks=0))


@pytest.fixture
def module(repo: Repo) -> ModuleType:
    files = {f"manydepth/{name}": text for name, text in FILES.items() if name.startswith("networks")}
    start = files["manydepth/networks/__init__.py"] + "    from .matching import ResnetEncoderMatching\n"
    files |= {"manydepth/networks/__init__.py": start, "manydepth/networks/matching.py": MATCHING}
    repo.write({**files, "manydepth/__init__.py": "", "manydepth/trainer.py": TRAINER})
    return repo.load("manydepth.trainer")


def _inputs(batch: int = 2, frames: int = 1, height: int = 64, width: int = 96) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    K = torch.eye(4).repeat(batch, 1, 1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = 0.58 * width / 4, 1.9 * height / 4, width / 8, height / 8
    poses = torch.eye(4).repeat(batch, frames, 1, 1)
    poses[:, :, 2, 3] = 0.3
    return {
        "current_image": torch.rand(batch, 3, height, width, generator=generator),
        "lookup_images": torch.rand(batch, frames, 3, height, width, generator=generator),
        "poses": poses,
        "K": K,
        "invK": K.inverse(),
    }


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
@pytest.mark.parametrize("teacher", ["hybrid", "repository"])
def test_student_teacher_and_pose(module: ModuleType, decoder: Any, teacher: Any) -> None:
    with manydepth.patch("tiny", decoder=decoder, teacher=teacher) as handle:
        assert "manydepth.networks.matching.ResnetEncoderMatching" in handle.replaced
        models = module.Trainer().models
        networks = module.networks
        assert isinstance(models["encoder"], MatchingEncoder)
        assert isinstance(models["encoder"], networks.ResnetEncoderMatching)
        assert isinstance(models["mono_encoder"], DepthEncoder) is (teacher == "hybrid")
        assert isinstance(models["mono_depth"], DepthDecoder) is (teacher == "hybrid" and decoder == "dpt")
        assert not isinstance(models["pose_encoder"], DepthEncoder)
        features, lowest_cost, mask = models["encoder"](**_inputs(), min_depth_bin=0.5, max_depth_bin=10.0)
        assert lowest_cost.shape == mask.shape == (2, 16, 24)
        assert [f.shape[1] for f in features] == list(models["encoder"].num_ch_enc)
        outputs = models["depth"](features)
        disparity = outputs["disp", 0]
        assert disparity.shape == (2, 1, 64, 96)
        mono = models["mono_depth"](models["mono_encoder"](_inputs()["current_image"]))["disp", 0]
        assert mono.shape == (2, 1, 64, 96)
        bins = models["encoder"].matching.depth_bins
        assert (len(bins), bins[0].item(), bins[-1].item()) == (8, pytest.approx(0.1), 20.0), (
            "that range was for one pass"
        )
        models["encoder"].compute_depth_bins(0.5, 10.0)
        assert (len(bins), bins[0].item(), bins[-1].item()) == (8, 0.5, 10.0)
        assert lowest_cost.min() >= 1 / 10.0 - 1e-6 and lowest_cost.max() <= 1 / 0.5 + 1e-6
        torch.stack([output.mean() for output in outputs.values()]).sum().backward()
        assert models["encoder"].matching.reduce[0].weight.grad is not None
    assert type(module.networks.ResnetEncoder(18, False)).__name__ == "ResnetEncoder"


def test_images_of_any_size_and_several_frames(module: ModuleType) -> None:
    with manydepth.patch("tiny"):
        encoder = module.Trainer().models["encoder"].eval()
        with torch.no_grad():
            for height, width, frames in ((64, 96, 3), (96, 160, 2)):
                features, lowest_cost, _ = encoder(**_inputs(1, frames, height, width))
                assert lowest_cost.shape == (1, height // 4, width // 4) and features[0].shape[-2:] == (height, width)


def test_a_preset_gets_its_multi_frame_configuration_for_the_student_alone(module: ModuleType) -> None:
    with manydepth.patch("tiny"):
        models = module.Trainer().models
    assert models["encoder"].matching.encoder.config.semantic.mean == IMAGENET_MEAN
    assert models["mono_encoder"].encoder.config == TINY


def test_a_ready_encoder_is_the_students_and_the_teacher_gets_a_copy(module: ModuleType) -> None:
    ready = HybridDepthEncoder("tiny", pretrained=False)
    with manydepth.patch(ready):
        models = module.Trainer().models
    assert models["encoder"].matching.encoder is ready
    teacher = models["mono_encoder"].encoder
    assert teacher is not ready
    for (name, one), two in zip(ready.named_parameters(), teacher.parameters(), strict=True):
        assert torch.equal(one, two) and one is not two, name


@pytest.mark.parametrize("kind", ["ours", "published"])
def test_a_coarse_result_is_the_students_and_the_teachers(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    torch.manual_seed(0)
    if kind == "ours":
        encoder = HybridDepthEncoder(TINY.replace(prompts=PromptConfig(words=DEPTH_WORDS)), pretrained=False)
        path = tmp_path / "final"
        encoder.save_pretrained(path)
    else:
        model = HybridDepthModel(stage1_config(), pretrained=False)
        encoder, path = model.encoder, write_stage1(model, tmp_path / "stage1.ckpt")
    (tmp_path / "elsewhere").mkdir()
    for source in (path, path.name):  # the second one from where it lies
        monkeypatch.chdir(tmp_path)
        with manydepth.patch(source):
            monkeypatch.chdir(tmp_path / "elsewhere")  # a trainer may go where it likes before it builds
            networks = module.networks
            student = networks.ResnetEncoderMatching(18, True, 64, 96, num_depth_bins=8).matching.encoder
            teacher = networks.ResnetEncoder(18, True).encoder
        assert student is not teacher
        for built in (student, teacher):
            assert built.config.prompts.words == DEPTH_WORDS
            state = built.state_dict()
            assert state.keys() == encoder.state_dict().keys()
            assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())


def test_frozen_towers_are_held_once_where_asked(module: ModuleType) -> None:
    with manydepth.patch(FROZEN, share_frozen=True):
        trainer = module.Trainer()
    student, teacher = (
        dict(m.named_parameters())
        for m in (trainer.models["encoder"].matching.encoder, trainer.models["mono_encoder"].encoder)
    )
    for name, parameter in student.items():
        assert (parameter is teacher[name]) is (not parameter.requires_grad), name
    assert sum(not p.requires_grad for p in student.values()) > 10
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert all(p.requires_grad for p in held) and len(held) == len({id(p) for p in held})
    # Each still saves and loads everything that it needs.
    state = {name: value.clone() for name, value in trainer.models["mono_encoder"].state_dict().items()}
    trainer.models["mono_encoder"].load_state_dict(state)
    of_batch_norm = {name for name in state if "running" in name or "num_b" in name}
    assert set(state) - {"_extra_state"} == {f"encoder.{name}" for name in student} | of_batch_norm


@pytest.mark.parametrize("config", [TINY, FROZEN.replace(towers="semantic")], ids=["trains", "another layout"])
def test_nothing_to_share_is_said(config: HybridEncoderConfig) -> None:
    student, teacher = (HybridDepthEncoder(each, pretrained=False) for each in (FROZEN, config))
    with pytest.raises(ConfigError, match="no parameter is frozen in student and teacher alike"):
        manydepth.share_frozen(student, teacher)


def test_what_was_frozen_by_hand_is_held_once_too() -> None:
    student = HybridDepthEncoder(TINY, pretrained=False)
    assert student.spatial is not None
    student.spatial.requires_grad_(False)
    teacher = copy.deepcopy(student)
    num_shared = manydepth.share_frozen(student, teacher)
    assert num_shared == sum(parameter.numel() for parameter in student.spatial.parameters())
    held = dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        assert (parameter is held[name]) is name.startswith("spatial."), name


def test_student_and_teacher_share_whichever_is_built_first(module: ModuleType) -> None:
    with manydepth.patch(FROZEN, share_frozen=True):
        networks = module.networks
        built: dict[str, list[Any]] = {"teacher": [], "student": []}
        for first in ("teacher", "student", "teacher"):  # three trainings in one process
            for role in (first, "student" if first == "teacher" else "teacher"):
                if role == "teacher":
                    built[role].append(networks.ResnetEncoder(18, False))
                else:
                    built[role].append(networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8))
    held = [network.matching.encoder.spatial.blocks[0].attn.qkv.weight for network in built["student"]]
    shared = [network.encoder.spatial.blocks[0].attn.qkv.weight for network in built["teacher"]]
    assert all(weight is own for weight, own in zip(shared, held, strict=True))
    assert len({id(weight) for weight in held}) == 3, "no training shares with another"


def test_a_student_that_is_gone_shares_nothing(module: ModuleType) -> None:
    with manydepth.patch(FROZEN, share_frozen=True):
        networks = module.networks
        evaluated = networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8)
        weight = evaluated.matching.encoder.spatial.blocks[0].attn.qkv.weight
        del evaluated
        gc.collect()
        teacher = networks.ResnetEncoder(18, False)
        assert teacher.encoder.spatial.blocks[0].attn.qkv.weight is not weight
        student = networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8)
    one, other = (model.spatial.blocks[0].attn.qkv.weight for model in (student.matching.encoder, teacher.encoder))
    assert one is other and one is not weight


def test_each_pass_has_the_range_of_depth_bins_that_the_trainer_keeps(module: ModuleType) -> None:
    # A trainer saves its own range, and gives it with every call; the saved weights hold the range of the start.
    with manydepth.patch("tiny"):
        trained, loaded = (module.Trainer().models["encoder"].eval() for _ in range(2))
        loaded.load_state_dict({name: value.clone() for name, value in trained.state_dict().items()})
        with torch.no_grad():
            given = [trained(**_inputs(), min_depth_bin=1.0, max_depth_bin=5.0) for _ in range(2)]
            between = loaded(**_inputs(), min_depth_bin=0.2, max_depth_bin=9.0)
            again = loaded(**_inputs(), min_depth_bin=1.0, max_depth_bin=5.0)
    for x, y in zip(given[0][0], again[0], strict=True):
        assert torch.equal(x, y)
    assert torch.equal(given[0][1], given[1][1]) and torch.equal(given[0][1], again[1])
    assert not torch.equal(between[1], again[1])


def test_freezing_the_teacher_leaves_the_student_training(module: ModuleType) -> None:
    with manydepth.patch("tiny"):
        trainer = module.Trainer()
    trainer.freeze_teacher()
    assert not any(m.training for m in trainer.models["mono_encoder"].modules())
    before = {n: p.detach().clone() for n, p in trainer.models["mono_encoder"].named_parameters()}
    features, _, _ = trainer.models["encoder"](**_inputs())
    trainer.models["depth"](features)["disp", 0].mean().backward()
    trainer.optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in trainer.models["mono_encoder"].named_parameters())
    assert trainer.models["encoder"].matching.reduce.training


def test_weights_of_the_unpatched_repository_are_refused(module: ModuleType) -> None:
    plain = module.networks.ResnetEncoderMatching(18, False, 64, 96).state_dict()
    with manydepth.patch("tiny"):
        encoder = module.Trainer().models["encoder"]
        own = encoder.state_dict()
        own.update({name: value for name, value in plain.items() if name in own})
        with pytest.raises(CheckpointError, match="another model's"):
            encoder.load_state_dict(own)


def test_settings_and_repositories_that_do_not_fit_are_named(module: ModuleType, repo: Repo) -> None:
    for settings, message in (
        ({"decoder": "monodepth2"}, "decoder is 'monodepth2'; it must be one of 'dpt', 'repository'"),
        ({"teacher": "resnet"}, "teacher is 'resnet'; it must be one of 'hybrid', 'repository'"),
        ({"match": "text"}, "match is 'text'"),
    ):
        with pytest.raises(ConfigError, match=message):
            manydepth.patch("tiny", **settings)  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="lacks the attribute 'ResnetEncoderMatching'"):
        manydepth.patch("tiny", networks="networks")
    with manydepth.patch("tiny") as handle:
        assert manydepth.patch("tiny") is handle
        with pytest.raises(AdapterError, match="another teacher"):
            manydepth.patch("tiny", teacher="repository")
        with pytest.raises(AdapterError, match="another adapter"):
            monodepth2.patch("tiny", networks="manydepth.networks")


def test_undo_restores_every_name(module: ModuleType, repo: Repo) -> None:
    before = repo.names()
    manydepth.patch("tiny").undo()
    after = repo.names()
    assert list(after) == list(before)
    for name, names in before.items():
        assert list(after[name]) == list(names)
        assert all(after[name][key] is value for key, value in names.items())


SCRIPT = """
    import torch
    from manydepth import networks

    def evaluate(folder, teacher, read_first):
        name = "mono_encoder" if teacher else "encoder"
        weights = torch.load(f"{folder}/{name}.pth") if read_first else None
        if teacher:
            encoder = networks.ResnetEncoder(18, False)
        else:
            encoder = networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8, adaptive_bins=True)
        weights = weights or torch.load(f"{folder}/{name}.pth")
        encoder.load_state_dict({k: v for k, v in weights.items() if k in encoder.state_dict()})
        return encoder.eval()
"""


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("teacher", [True, False])
def test_scripts_are_not_told_what_the_weights_are_of(
    module: ModuleType, repo: Repo, teacher: bool, read_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = HybridDepthConfig.for_encoder(TINY.replace(towers="semantic", prompts=None))
    monkeypatch.setattr(encoders, "PRESETS", {**PRESETS, "paper": other})  # another small default
    with manydepth.patch("tiny", match="both"):
        models = module.Trainer().models
    for name in ("encoder", "mono_encoder"):
        torch.save({**models[name].state_dict(), "height": 64, "width": 96}, repo.root / f"{name}.pth")
    repo.write({"manydepth/script.py": SCRIPT})
    with manydepth.patch():
        network = repo.load("manydepth.script").evaluate(repo.root, teacher, read_first)
    trained = models["mono_encoder" if teacher else "encoder"].eval()
    assert type(network) is type(trained) and network.model.config == trained.model.config
    inputs: dict[str, torch.Tensor] = _inputs()
    arguments = [inputs["current_image"]] if teacher else list(inputs.values())
    with torch.no_grad():
        got, expected = network(*arguments), trained(*arguments)
    for a, b in zip(*(x if teacher else [*x[0], *x[1:]] for x in (got, expected)), strict=True):
        assert torch.equal(a, b)


def test_weights_in_memory_do_not_change_what_was_named(
    module: ModuleType, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo.root)
    networks = module.networks
    with manydepth.patch("tiny", match="both"):
        torch.save(networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8).state_dict(), "encoder.pth")
    repo.write({"manydepth/reading.py": "import torch\n\ndef read():\n    return torch.load('encoder.pth')\n"})
    with manydepth.patch("tiny", match="spatial"):
        weights = repo.load("manydepth.reading").read()
        student = networks.ResnetEncoderMatching(18, False, 64, 96, num_depth_bins=8)
    assert weights and student.matching.config.match == "spatial"
