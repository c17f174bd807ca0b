"""The path of a camera through a recording: which frames are compared, in which order, and what is made of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder.config.pose import PoseConfig
from hybrid_encoder.data.sources.base import FrameSource
from hybrid_encoder.data.sources.rendered import RenderedSource
from hybrid_encoder.data.synthetic.drive import SyntheticDrive
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.pose import evaluate_trajectory
from hybrid_encoder.evaluation.pose_pictures import COLOURS, draw_paths
from hybrid_encoder.evaluation.tracking import Tracker, control_paths, scaled_to, true_path
from hybrid_encoder.models import ClassTokenPoseHead, HybridDepthModel, PoseNetwork


class Numbered(FrameSource):
    """Frames in one grey each, which says their number; their true path turns to the right."""

    name, size = "a recording", (40, 80)

    def __init__(self, frames: Sequence[int]) -> None:
        self._frames = frames

    @property
    def frames(self) -> Sequence[int]:
        return self._frames

    def image(self, frame: int) -> np.ndarray:
        return np.full((3, *self.size), frame / 100, np.float32)

    def world_T_cam(self, frame: int) -> np.ndarray | None:
        if frame == 7:
            raise InputError("frame 7 is broken.")
        pose = np.eye(4)
        pose[2, 3] = frame
        return None if frame == 3 else pose


class ByNumber(nn.Module):
    """A pose network that reads the numbers of the frames: it moves ahead by their difference, and by 0.01 of the
    second to the right, and turns by a degree."""

    config = PoseConfig(size=(32, 64))

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(tuple(first.shape))
        a, b = (100 * x.mean((1, 2, 3)) for x in (first, second))
        zero = torch.zeros_like(a)
        # Motions of points: what is ahead comes nearer, and a turn to the right takes it to the left.
        turn = torch.full_like(a, -math.radians(1))
        return torch.stack([zero, turn, zero], 1), torch.stack([-0.01 * b, zero, a - b], 1)


def tracker(**options: Any) -> tuple[Tracker, ByNumber]:
    network = ByNumber()
    return Tracker(network, batch_size=3, **options), network  # type: ignore[arg-type]


def test_motions_are_chained_in_order_of_time_over_all_batches() -> None:
    found, network = tracker()
    told: list[int] = []
    frames = [0, 1, 2, 4, 5, 9, 10, 20]
    poses = found.track(Numbered(frames), progress=told.append)
    expected = [np.eye(4)]
    for a, b in itertools.pairwise(frames):
        angle = math.radians(1)
        step = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3] = step
        pose[:3, 3] = step @ [0.01 * b, 0, b - a]  # the inverse of the motion of points
        expected.append(expected[-1] @ pose)
    np.testing.assert_allclose(poses, expected, atol=1e-4)
    np.testing.assert_allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), [np.eye(3)] * 8, atol=1e-12)
    assert told == [3, 3, 1]
    assert network.sizes == [(3, 3, 32, 64), (3, 3, 32, 64), (1, 3, 32, 64)], "at the size of the training"


def test_a_single_frame_has_a_path_of_one_pose() -> None:
    found, _ = tracker()
    np.testing.assert_array_equal(found.track(Numbered([5])), np.eye(4)[None])
    with pytest.raises(InputError, match="a recording has no frame"):
        found.track(Numbered([]))


def test_frames_without_a_pose_are_left_out_of_the_truth_and_said() -> None:
    truth = true_path(Numbered(range(2, 9)))
    assert truth.frames == [2, 4, 5, 6, 8]
    np.testing.assert_array_equal(truth.poses[:, 2, 3], [2, 4, 5, 6, 8])
    assert truth.problem == "frame 7 is broken."
    assert true_path(Numbered([3])).poses.shape == (0, 4, 4)


def test_controls_move_as_they_say() -> None:
    frames = [0, 1, 2, 4]
    truth, (found, _) = true_path(Numbered(frames)).poses, tracker()
    predicted = found.track(Numbered(frames))
    controls = control_paths(predicted, truth)
    assert not controls["standing still"][:, :3, 3].any()
    np.testing.assert_allclose(controls["constant motion"][:, 2, 3], np.arange(4) * 4 / 3)
    steps = [np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1) for path in (predicted, controls["shuffled"])]
    assert not np.allclose(steps[0], steps[1])
    np.testing.assert_allclose(np.sort(steps[0]), np.sort(steps[1]), atol=1e-9)
    scaled, scale = scaled_to(truth * [[1, 1, 1, 0.5]], truth)
    assert scale == pytest.approx(2)
    np.testing.assert_allclose(scaled[:, :3, 3], truth[:, :3, 3])


class ExactDepth(nn.Module):
    """A depth model that knows the drive."""

    def __init__(self, drive: SyntheticDrive) -> None:
        super().__init__()
        self.depths = [torch.from_numpy(frame.depth) for frame in drive]
        self.images = [torch.from_numpy(frame.image) for frame in drive]

    def forward(self, images: Tensor) -> Tensor:
        known = [next(k for k, own in enumerate(self.images) if torch.equal(own, image)) for image in images]
        return torch.stack([self.depths[k] for k in known]).reciprocal()

    def to_depth(self, disparity: Tensor) -> Tensor:
        return disparity.reciprocal()


class Still(ByNumber):
    """A pose network that has learned nothing."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(first), 3), torch.zeros(len(first), 3)


@pytest.mark.parametrize("unit", ["depth", "mean depth"])
def test_alignment_finds_the_true_path_from_true_depth(unit: str) -> None:
    drive = SyntheticDrive(3, 6, 96, 320, turning=1.0)
    source, network = RenderedSource(drive), Still()
    network.config = PoseConfig(size=(96, 320), unit=unit)  # type: ignore[arg-type]
    truth = true_path(source).poses
    path = Tracker(network, ExactDepth(drive), refine=5).track(source)  # type: ignore[arg-type]
    found = evaluate_trajectory(path, truth, metric=unit == "depth")
    still = evaluate_trajectory(control_paths(path, truth)["standing still"], truth)
    assert found.frame_rotation < 0.25 * still.frame_rotation
    assert found.frame_translation < 0.1 * still.frame_translation
    assert found.snippet_ate < 0.1 * still.snippet_ate
    if unit == "depth":
        assert found.ate < 0.05 * found.length, "true depth gives the path in metres"


def test_a_layer_on_class_tokens_reads_those_of_its_depth_model() -> None:
    torch.manual_seed(0)
    model = HybridDepthModel.from_pretrained("tiny")
    spatial = model.encoder.spatial
    assert spatial is not None
    head = ClassTokenPoseHead(spatial.channels[-1])
    source = Numbered([0, 50, 90])
    poses = Tracker(head, model, (32, 64)).track(source)
    images = torch.stack([torch.full((3, 32, 64), frame / 100) for frame in (0, 50, 90)])
    tokens = spatial.class_token(images)
    _, translation = head(tokens[:1], tokens[1:2])
    # The first motion takes the origin of the first camera to this place of the second.
    place = np.linalg.inv(poses[1])[:3, 3]
    np.testing.assert_allclose(place, translation[0].detach().numpy(), atol=1e-6)
    with pytest.raises(InputError, match="motion from class tokens needs the depth model"):
        Tracker(head, size=(32, 64))
    with pytest.raises(InputError, match="class tokens of 7 channels, which the depth model does not have"):
        Tracker(ClassTokenPoseHead(7), model, (32, 64))


def test_what_cannot_be_tracked_is_one_sentence() -> None:
    network = PoseNetwork("test_resnet", channels=8).eval()
    with pytest.raises(InputError, match="does not say which size it was trained at; give --size"):
        Tracker(network)
    with pytest.raises(InputError, match="direct alignment needs the depth model"):
        Tracker(network, size=(32, 64), refine=1)
    with pytest.raises(InputError, match="a recording has no intrinsics, which --refine needs"):
        Tracker(network, HybridDepthModel.from_pretrained("tiny"), (32, 64), refine=1).track(Numbered([0, 1]))


def test_paths_are_drawn_from_above_with_what_is_ahead_on_top() -> None:
    ahead, right = np.tile(np.eye(4), (50, 1, 1)), np.tile(np.eye(4), (50, 1, 1))
    ahead[:, 2, 3] = right[:, 0, 3] = np.linspace(0, 30, 50)
    picture = draw_paths({"ahead": ahead, "right": right}, "both").astype(int)
    top = 30 + 3 * 18  # the title and the legend
    rows, columns = zip(*(np.nonzero(np.abs(picture[top:] - c).max(-1) < 8) for c in COLOURS[:2]), strict=True)
    assert np.ptp(rows[0]) > 400 > 20 > np.ptp(columns[0]), "the first path goes up"
    assert np.ptp(columns[1]) > 400 > 20 > np.ptp(rows[1]), "the second path goes to the right"
    corner = rows[0].max(), columns[1].min()  # where both begin: at the bottom of the one, at the left of the other
    assert abs(columns[0].mean() - corner[1]) < 20
    assert abs(rows[1].mean() - corner[0]) < 20
    with pytest.raises(InputError, match="the path 'x' is"):
        draw_paths({"x": np.full((3, 4, 4), np.nan)})
