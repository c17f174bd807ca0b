"""Training lists against test lists, by drive and frame: as people have them, and as weights say themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.ordered import OrderedDepth, lidar_frames
from hybrid_encoder.data.sequences import KittiSequences
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.frame_lists import (
    Frame,
    frame_of_path,
    pack_frames,
    parse_frame,
    read_frame_list,
    unpack_frames,
)
from hybrid_encoder.evaluation.leaks import find_leak, find_leak_of_weights, refuse_leak
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.training.trained_on import training_record

from helpers.kitti_layout import write_drive

Run = Callable[..., tuple[int, str, str]]
MONODEPTH2 = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")
DATE, ONE, TWO = "2011_09_26", "2011_09_26_drive_0001", "2011_09_26_drive_0002"


def sample(drive: str, frame: int | None, name: str = "") -> Sample:
    def unread() -> Any:
        raise AssertionError("no image is needed")

    return Sample(name or f"{DATE}/{drive} {frame} l", 0, unread, unread, drive=drive, frame=frame)


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (f"{DATE}/{ONE}_sync 0000000069 l", Frame(ONE, 69, "l")),
        (f"{ONE}_sync 82 r", Frame(ONE, 82, "r")),  # the published lists leave the date out
        (f"{ONE} 82", Frame(ONE, 82)),
        (f"{DATE}\\{ONE}_sync/ 5 l", Frame(ONE, 5, "l")),
        (f"{DATE}/{ONE}_sync 69 l zoom_blur", Frame(ONE, 69, "l")),  # RobustDepth's fourth column
        (f"{DATE}/{ONE}_sync/image_03/data/0000000069.png {ONE}_sync/proj_depth/x.png 721.5", Frame(ONE, 69, "r")),
        (f"/data set/{DATE}/{ONE}_sync/image_02/data/0000000007.jpg", Frame(ONE, 7, "l")),
        (f"{ONE}_sync/proj_depth/groundtruth/image_02/0000000008.png", Frame(ONE, 8, "l")),
        ("8 4056 r", Frame("2011_09_30_drive_0028", 5156, "r")),  # odometry: sequence 08 starts at 1100
        ("00 17 l", Frame("2011_10_03_drive_0027", 17, "l")),
        ("aachen 3 l", Frame("aachen", 3, "l")),
        ("11 3 l", Frame("11", 3, "l")),  # a sequence without ground truth is no raw drive
        (f"{DATE}/{ONE}_extract 5 l", Frame(f"{ONE}_extract", 5, "l")),  # counted otherwise than _sync
        ("no frame at all", None),
        ("one", None),
    ],
)
def test_lines(line: str, frame: Frame | None) -> None:
    assert parse_frame(line) == frame


def test_a_path_alone() -> None:
    assert frame_of_path(f"C:\\kitti\\{DATE}\\{ONE}_sync\\image_03\\data\\0000000002.png") == Frame(ONE, 2, "r")
    assert frame_of_path("pictures/7.png") is None


def test_lists_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    with pytest.raises(InputError, match="is no file"):
        read_frame_list(file)
    file.write_text("\n\n")
    with pytest.raises(InputError, match="names no frame"):
        read_frame_list(file)
    file.write_text(f"{ONE} 1 l\n\nleft right\n")
    with pytest.raises(InputError, match=r"list\.txt, line 3: 'left right' is no frame"):
        read_frame_list(file)
    file.write_bytes(f"\ufeff{ONE} 1 l\r\n".encode())
    assert read_frame_list(file) == [Frame(ONE, 1, "l")]


@given(st.sets(st.tuples(st.sampled_from([ONE, TWO]), st.integers(0, 30), st.sampled_from(["l", "r", ""]))))
def test_frames_are_packed_and_unpacked(found: set[tuple[str, int, str]]) -> None:
    frames = {Frame(*frame) for frame in found}
    assert set(unpack_frames(json.loads(json.dumps(pack_frames(frames))))) == frames


def test_packed_frames_are_short() -> None:
    frames = [Frame(ONE, number, "l") for number in (4, 1, 2, 3, 7, 9, 10)]
    assert pack_frames(frames) == {ONE: {"l": "1-4,7,9-10"}}


@pytest.mark.parametrize(
    "packed", [[], {ONE: 5}, {ONE: {"l": "1;2"}}, {ONE: {"l": "0-999999999"}}, {ONE: {"l": ["1"]}}, {ONE: {"l": "-3"}}]
)
def test_records_that_are_none(packed: Any) -> None:
    with pytest.raises(InputError, match="record"):
        unpack_frames(packed)


# -- leaks ---------------------------------------------------------------------------------------------------


def test_each_kind_by_hand() -> None:
    training = [Frame(ONE, 10, "l"), Frame(ONE, 20, "r"), Frame(TWO, 5, "l")]
    test = [Frame(ONE, 10, "l"), Frame(ONE, 20, "l"), Frame(ONE, 11, "l"), Frame(ONE, 30, "l"), Frame("else", 10), None]
    leak = find_leak(training, test)
    assert leak.targets == (test[0], test[1]) and leak.other_view == (test[1],)
    assert leak.neighbours == (test[2],) and leak.drives == (test[3],)
    assert leak.num_test == 6 and leak.num_unnamed == 1 and leak.seen == (test[0], test[1], test[2])
    assert str(leak).startswith(
        "3 of 6 test frames were seen in training (2 as targets, 1 of these by the other camera"
    )
    assert find_leak(training, test, offsets=()).neighbours == ()
    assert find_leak(training, test, offsets=(10,)).neighbours == (test[3],)
    clean = find_leak(training, test[3:])
    assert not clean.seen and str(clean) == (
        "none of 3 test frames was seen in training, 1 are of drives that were, 1 could not be compared"
    )
    assert "not known" in str(find_leak([], test, known=False))
    assert str(find_leak(training, [None, None])).startswith("of no test image is known")


def test_a_list_without_the_left_images_still_has_the_right_ones(tmp_path: Path, run: Run) -> None:
    """As the list of 71,633 lines: the lines of test frames were taken out, and those of the other camera stayed."""
    test = [f"{DATE}/{ONE}_sync {number:010d} l" for number in range(0, 100, 16)]
    every = [f"{DATE}/{ONE}_sync {number} {side}" for number in range(1, 108) for side in "lr"]
    cleaned = [line for line in every if parse_frame(line) not in set(map(parse_frame, test))]
    (tmp_path / "train.txt").write_text("\n".join(cleaned))
    (tmp_path / "test.txt").write_text("\n".join(test))
    code, out, err = run("check-leak", tmp_path / "train.txt", tmp_path / "test.txt")
    assert code == 1 and err == "", err
    # Frame 0 is no target, and beside one; the six others are targets by the right camera.
    assert (
        "7 of 7 test frames were seen in training (6 as targets, 6 of these by the other camera, 1 beside one)" in out
    )
    (tmp_path / "test.txt").write_text(f"{DATE}/{TWO}_sync 5 l\n")
    code, out, err = run("check-leak", tmp_path / "train.txt", tmp_path / "test.txt")
    assert code == 0 and "none of 1 test frames was seen in training" in out and err == ""
    (tmp_path / "test.txt").write_text(f"{DATE}/{ONE}_sync 110 l\n")
    assert run("check-leak", tmp_path / "train.txt", tmp_path / "test.txt", "--offsets", "-3,3")[0] == 1
    assert run("check-leak", tmp_path / "train.txt", tmp_path / "test.txt", "--offsets", "none")[0] == 0
    code, out, err = run("check-leak", tmp_path / "train.txt", tmp_path / "test.txt", "--offsets", "x")
    assert code == 2 and "--offsets is 'x'" in err
    code, out, err = run("check-leak", "tiny", tmp_path / "test.txt")  # it knows rendered streets alone
    assert code == 0 and "none of 1 test frames was seen in training" in out and err == ""
    model = HybridDepthModel.from_pretrained("tiny")
    model.training_history = None
    model.save_pretrained(tmp_path / "unknown")
    code, out, err = run("check-leak", tmp_path / "unknown", tmp_path / "test.txt")
    assert code == 2 and "which frames the weights were trained on is not known" in err and out == ""


@pytest.mark.monodepth2
@pytest.mark.skipif(not Path(MONODEPTH2, "trainer.py").is_file(), reason="HYBRID_ENCODER_MONODEPTH2 names no checkout")
@pytest.mark.parametrize(
    ("name", "length", "targets", "neighbours", "drives"),
    [("eigen_zhou", 39_810, 0, 0, 0), ("eigen_full", 45_200, 0, 0, 0), ("benchmark", 72_084, 451, 6, 65)],
)
def test_the_lists_of_monodepth2(name: str, length: int, targets: int, neighbours: int, drives: int) -> None:
    splits = Path(MONODEPTH2) / "splits"
    test = read_frame_list(splits / "eigen" / "test_files.txt")
    training = read_frame_list(splits / name / "train_files.txt")
    if len(test) != 697 or len(training) != length:
        pytest.skip("the checkout's lists are not Monodepth2's own any more")
    leak = find_leak(training, test)
    assert (len(leak.targets), len(leak.neighbours), len(leak.drives)) == (targets, neighbours, drives)
    assert leak.other_view == ()
    cleaned = [frame for frame in training if frame not in set(test)]
    assert len(training) - len(cleaned) == targets
    if targets:  # 71,633 lines, with 451 test frames by the other camera
        assert len(cleaned) == 71_633 and len(find_leak(cleaned, test).other_view) == 451


# -- weights -------------------------------------------------------------------------------------------------


RECORD = {"stage": "FineStage", "drives": {ONE: {"l": "1-4"}}, "offsets": [-1, 1], "known": True}


def test_weights_keep_their_history(tmp_path: Path) -> None:
    model = HybridDepthModel("tiny", pretrained=False)
    assert model.training_history == ()
    model.training_history = [RECORD]
    model.save_pretrained(tmp_path / "a")
    again = HybridDepthModel.from_pretrained(tmp_path / "a")
    assert again.training_history == [RECORD] == HybridDepthEncoder.from_pretrained(tmp_path / "a").training_history
    again.save_pretrained(tmp_path / "b")  # as convert and fit-scale do
    again.encoder.save_pretrained(tmp_path / "c")
    assert HybridDepthModel.from_pretrained(tmp_path / "b").training_history == [RECORD]
    assert HybridDepthEncoder.from_pretrained(tmp_path / "c").training_history == [RECORD]
    (shipped,) = HybridDepthModel.from_pretrained("tiny").training_history or ()
    assert shipped["known"] is True and not shipped["drives"] and len(shipped["seeds"]) == 1500


def test_weights_are_refused_on_what_they_were_trained_on() -> None:
    test = [sample(f"{ONE}_sync", 5), sample(f"{ONE}_sync", 9), sample(f"{TWO}_sync", 2)]
    with pytest.raises(InputError, match=r"1 of 3 test frames were seen .*: 2011_09_26_drive_0001 5 l; .*--allow-leak"):
        refuse_leak([RECORD], test)
    leak = refuse_leak([RECORD], test, allow=True)
    assert leak.as_dict() == {
        "known": True, "test_frames": 3, "seen_as_target": 0, "by_the_other_camera": 0, "seen_beside_a_target": 1,
        "of_seen_drives": 1, "not_compared": 0,
    }  # fmt: skip
    assert not refuse_leak([RECORD], test[1:]).seen
    with pytest.raises(InputError, match="1 of 3 test frames"):  # what is known is enough
        refuse_leak([{"stage": "unknown", "known": False}, RECORD], test)
    unknown = refuse_leak([{"stage": "unknown", "known": False}, RECORD], test[1:])
    assert not unknown.known and "not known" in str(unknown)
    for nothing in (None, ()):
        assert "not known" in str(refuse_leak(nothing, test))
    assert refuse_leak([RECORD], [sample("", None, "picture.png")]).num_unnamed == 1
    with pytest.raises(InputError, match="offsets"):
        refuse_leak([{**RECORD, "offsets": "no"}], test)


def test_a_run_of_an_earlier_release_is_known_by_its_list(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "train.txt").write_text(f"{DATE}/{ONE}_sync 4 l\n")
    (tmp_path / "run.json").write_text(json.dumps({"split": str(tmp_path / "train.txt"), "offsets": [-1, 1]}))
    leak = find_leak_of_weights(None, [sample(ONE, 5)], tmp_path / "final")
    assert len(leak.neighbours) == 1 and not leak.known
    with pytest.raises(InputError, match="1 of 1 test frames"):
        refuse_leak(None, [sample(ONE, 4)], tmp_path / "final" / "model.safetensors")
    (tmp_path / "train.txt").unlink()
    leak = refuse_leak(None, [sample(ONE, 4)], tmp_path / "final")
    assert "not known" in str(leak)
    (tmp_path / "run.json").write_text("[1]")
    assert not refuse_leak(None, [sample(ONE, 4)], tmp_path / "final").known


# -- trainings -----------------------------------------------------------------------------------------------


def test_what_a_training_writes_down(tmp_path: Path) -> None:
    image = np.zeros((3, 40, 80))
    points = np.array([[0.0, 0.0, 5.0]])
    K = np.array([[40.0, 0, 40], [0, 40, 20], [0, 0, 1]])
    drive = write_drive(tmp_path, {2: [image] * 4, 3: [image] * 4}, K, dict.fromkeys(range(4), points))
    items = KittiSequences(tmp_path, (32, 64), (-1, 1), cameras=(2,))
    name, numbers = drive.name.removesuffix("_sync"), [item.frame for item in items.items]
    record = training_record("FineStage", items)
    assert unpack_frames(record["drives"]) == [Frame(name, number, "l") for number in numbers]
    assert record["offsets"] == [-1, 1] and record["known"] is True and record["stage"] == "FineStage"
    assert str(tmp_path) not in json.dumps(record)  # weights are given to others
    part = training_record("x", Subset(items, [0]))
    assert unpack_frames(part["drives"]) == [Frame(name, numbers[0], "l")] and part["offsets"] == [-1, 1]
    other = TensorDataset(torch.zeros(3))
    mixed = training_record("x", ConcatDataset([items, other]))
    assert mixed["drives"] == record["drives"] and mixed["known"] is False
    lidar = training_record("CoarseStage", OrderedDepth(*lidar_frames(KittiDrive(drive))))
    assert {frame.drive for frame in unpack_frames(lidar["drives"])} == {name} and lidar["known"] is True


def test_weights_tell_people_what_they_were_trained_on(tmp_path: Path, run: Run) -> None:
    model = HybridDepthModel("tiny", pretrained=False)
    model.training_history = [{"stage": "unknown", "known": False}, RECORD, {"seeds": [4, 5], "known": True}]
    model.save_pretrained(tmp_path)
    code, out, err = run("info", tmp_path)
    assert code == 0, err
    said = [line.removeprefix("trained on").strip() for line in out.splitlines() if line.startswith("trained on")]
    assert said == [
        "no frame of a known recording, and others that are not known",
        "4 frames of 1 recording",
        "2 rendered drives",
    ]
    (tmp_path / "test.txt").write_text(f"{DATE}/{ONE}_sync 0 l\n")
    code, out, err = run("check-leak", tmp_path, tmp_path / "test.txt")
    assert code == 1 and "1 of 1 test frames were seen in training (0 as targets, 1 beside one)" in out
    (tmp_path / "test.txt").write_text(f"{DATE}/{ONE}_sync 9 l\n")
    code, out, err = run("check-leak", tmp_path, tmp_path / "test.txt")
    assert code == 2 and "not known" in err


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '{"a": 1}', "[" * 5000, "null"])
def test_a_damaged_history_is_none(tmp_path: Path, text: str) -> None:
    from safetensors.torch import save_file

    from hybrid_encoder.checkpoints.history import KEY, read_history

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={KEY: text})
    assert read_history(tmp_path / "model.safetensors") is None
