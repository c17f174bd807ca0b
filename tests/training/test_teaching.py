"""A teacher in the fine stage: its part of the loss, that it stays as it is, and what a run says of it."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from hybrid_encoder import CheckpointError, ConfigError, HybridDepthModel
from hybrid_encoder.data import Frames, SyntheticDrive, SyntheticSequences
from hybrid_encoder.losses.distillation import distillation_loss
from hybrid_encoder.training.fine import fine_model, fine_stage, train_fine
from hybrid_encoder.training.recipes import FineRecipe
from hybrid_encoder.training.teaching import Teacher
from hybrid_encoder.training.trained_on import UNKNOWN, taught_by

RECIPE = FineRecipe(1e-3, 0.01, 2, steps=2, pose="test_resnet", pose_channels=16, scales=(1,), size=(48, 96))
ITEMS = SyntheticSequences([list(SyntheticDrive(seed, 4, 48, 96)) for seed in (0, 1)], augment="flip")


def model_of(seed: int) -> HybridDepthModel:
    torch.manual_seed(seed)
    return fine_model("tiny", RECIPE, pretrained=False)


def a_batch() -> Frames:
    batch: Frames = default_collate([ITEMS[index] for index in range(2)])
    return batch._replace(augmented=1 - batch.images)


@pytest.mark.parametrize("size", [None, (64, 128)])
def test_its_loss_is_between_the_finest_scale_and_what_it_says_of_clean_images(size: tuple[int, int] | None) -> None:
    student, teacher, batch = model_of(0), model_of(1), a_batch()
    teacher.config = teacher.config.replace(size=size)
    recipe = dataclasses.replace(RECIPE, teacher_weight=0.3)
    stage = fine_stage(student, recipe, teacher=Teacher(teacher)).eval()
    with torch.no_grad():
        plain, taught = fine_stage(student, recipe).eval()(batch), stage(batch)
        images = batch.images[:, 0]
        if size is not None:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        said = F.interpolate(teacher(images), (24, 48), mode="bilinear", antialias=True)
        expected = distillation_loss(student.forward_scales(batch.augmented[:, 0])[1], said)
    assert expected > 0.1 and "teacher" not in plain
    torch.testing.assert_close(taught["teacher"], expected, atol=1e-4, rtol=1e-4)
    pose = copy.deepcopy(stage.pose)
    assert pose is not None
    alone = fine_stage(student, recipe).eval()
    alone.pose = pose
    with torch.no_grad():
        torch.testing.assert_close(stage(batch)["loss"] - alone(batch)["loss"], 0.3 * expected, atol=1e-4, rtol=1e-4)


def test_it_is_no_part_of_the_stage_and_never_changes() -> None:
    student, teacher = model_of(0), model_of(1)
    before = copy.deepcopy(teacher.state_dict())
    plain, stage = fine_stage(student, RECIPE), fine_stage(student, RECIPE, teacher=Teacher(teacher.train()))
    assert stage.state_dict().keys() == plain.state_dict().keys()
    assert len(list(stage.parameters())) == len(list(plain.parameters()))
    stage.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    losses = stage(a_batch())
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not losses["teacher"].requires_grad and losses["loss"].requires_grad


def test_its_identity_is_that_of_its_weights(tmp_path: Path) -> None:
    one, other = model_of(1), model_of(2)
    one.save_pretrained(tmp_path)
    identities = [Teacher(one).identity, Teacher.from_pretrained(tmp_path).identity, Teacher(other).identity]
    assert len(identities[0]) == 64 and identities[0] == identities[1] != identities[2]
    with torch.no_grad():
        next(one.parameters()).view(-1)[0] += 1e-3
    assert Teacher(one).identity != identities[0]
    with pytest.raises(CheckpointError, match=r"gone is neither a file or folder nor a Hub id|gone"):
        Teacher.from_pretrained("gone.ckpt")


def test_a_run_says_who_taught_it_and_a_resumed_one_has_the_same_teacher(tmp_path: Path) -> None:
    teacher, other = Teacher(model_of(1)), Teacher(model_of(2))
    seen = {"stage": "FineStage", "drives": {"a drive": {"l": ["1-4"]}}, "offsets": [-1, 1], "known": True}
    teacher.model.training_history = [seen]
    options = {"cpu": True, "save_every": 1}
    folders = {}
    for name, given in (("taught", teacher), ("alone", None)):
        student = model_of(0)
        folders[name] = train_fine(student, ITEMS, tmp_path / name, RECIPE, teacher=given, **options)  # type: ignore[arg-type]
    settings = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in folders}
    assert settings["taught"]["teacher_sha256"] == teacher.identity and settings["alone"]["teacher_sha256"] is None
    loaded = {name: HybridDepthModel.from_pretrained(folder) for name, folder in folders.items()}  # type: ignore[arg-type]
    pairs = zip(*(model.parameters() for model in loaded.values()), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs), "the teacher was followed"
    histories = {name: list(model.training_history or []) for name, model in loaded.items()}
    assert seen in histories["taught"] and seen not in histories["alone"]
    assert histories["taught"][-1] == histories["alone"][-1]
    for wrong, folder in ((other, "taught"), (None, "taught"), (teacher, "alone")):
        with pytest.raises(ConfigError, match=r"teacher_sha256 is .*, and the run in .* began with"):
            train_fine(model_of(0), ITEMS, tmp_path / folder, RECIPE, teacher=wrong, resume=True, **options)  # type: ignore[arg-type]
    train_fine(model_of(0), ITEMS, tmp_path / "taught", RECIPE, teacher=teacher, resume=True, **options)  # type: ignore[arg-type]


def test_a_run_with_a_teacher_and_a_right_view_is_resumed_to_the_last_bit(tmp_path: Path) -> None:
    drives = [list(SyntheticDrive(seed, 4, 48, 96, baseline=0.5)) for seed in (0, 1)]
    items = SyntheticSequences(drives, augment=True, stereo=True)
    recipe = dataclasses.replace(RECIPE, steps=3).with_stereo("add")
    options = {"teacher": Teacher(model_of(1)), "cpu": True, "save_every": 1}
    weights = []
    for number in range(2):
        folder = tmp_path / str(number)
        if number:
            shutil.copytree(tmp_path / "0", folder)
            shutil.rmtree(folder / "final")
            options["resume"] = "step_00000002"
        # What a resumed run starts from is replaced by its checkpoint.
        done = train_fine(model_of(number), items, folder, recipe, **options)  # type: ignore[arg-type]
        assert done is not None
        weights.append([(done / "model.safetensors").read_bytes(), (folder / "pose.safetensors").read_bytes()])
    assert weights[0] == weights[1]


def test_what_a_teacher_has_seen_its_student_has_seen() -> None:
    one, other = {"stage": "one"}, {"stage": "other"}
    assert taught_by([], [one]) == [one] and taught_by([one], [one, other]) == [one, other]
    assert taught_by([one], None) == [one, UNKNOWN] and taught_by(None, [one]) == [UNKNOWN, one]
    assert taught_by(None, None) is None
