"""Learned intrinsics: their numbers, mirrored items, other sizes, and how long they wait."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder import ConfigError, InputError
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.models.intrinsics import SHIFT_UNIT, LearnedIntrinsics

WIDTH = 320
K = torch.tensor([[200.0, 0.0, 150.0], [0.0, 180.0, 40.0], [0.0, 0.0, 1.0]])


def _learned(square: bool = True, wait: int = 0) -> LearnedIntrinsics:
    learned = LearnedIntrinsics(["left", "right"], square, wait)
    with torch.no_grad():
        learned.log_focal[1] = torch.tensor(1.5).log()
        learned.shift[1] = torch.tensor([5.0, -2.0])
    return learned


def test_each_camera_has_its_own_correction_of_where_it_starts() -> None:
    found = _learned()(torch.tensor([0, 1]), K.expand(2, 3, 3), torch.tensor([False, False]))
    torch.testing.assert_close(found[0], K)
    cx, cy = 150 + 5 * SHIFT_UNIT * 200, 40 - 2 * SHIFT_UNIT * 180
    torch.testing.assert_close(found[1], torch.tensor([[300.0, 0.0, cx], [0.0, 270.0, cy], [0.0, 0.0, 1.0]]))


def test_a_mirrored_item_has_the_mirrored_camera() -> None:
    learned, camera = _learned(), torch.tensor([1])
    mirrored = K.clone()
    mirrored[0, 2] = WIDTH - 1 - K[0, 2]
    expected = learned(camera, K[None], torch.tensor([False]))
    expected[0, 0, 2] = WIDTH - 1 - expected[0, 0, 2]
    torch.testing.assert_close(learned(camera, mirrored[None], torch.tensor([True])), expected)


def test_estimates_are_in_the_pixels_of_the_images_that_are_asked_about() -> None:
    learned, before, after = _learned(), (100, WIDTH), (96, 128)
    at_training_size = learned.estimate(1, resized_intrinsics(K, before, after))
    torch.testing.assert_close(resized_intrinsics(learned.estimate(1, K), before, after), at_training_size)
    assert not learned.estimate(1, K).requires_grad


@pytest.mark.parametrize("square", [True, False])
def test_pixels_stay_square_unless_both_focal_lengths_are_learned(square: bool) -> None:
    learned = LearnedIntrinsics(["one"], square)
    optimizer = torch.optim.SGD(learned.parameters(), 1e-4)
    found = learned(torch.tensor([0]), K[None], torch.tensor([False]))
    found[0, 0, 0].backward()  # only the horizontal focal length matters
    optimizer.step()
    after = learned.estimate(0, K)
    assert after[0, 0] < 199
    kept = after[1, 1] / after[0, 0] if square else after[1, 1] / 200
    torch.testing.assert_close(kept, torch.tensor(0.9))


def test_the_first_calls_in_training_have_no_gradient() -> None:
    learned, arguments = _learned(wait=2), (torch.tensor([1]), K[None], torch.tensor([False]))
    assert [learned(*arguments).requires_grad for _ in range(2)] == [False, False]
    learned.eval()(*arguments)
    assert learned.estimate(1, K)[0, 0] == pytest.approx(300)
    assert int(learned.calls) == 2, "calls outside of training do not count"
    resumed = _learned(wait=2)
    resumed.load_state_dict(learned.state_dict())
    assert resumed(*arguments).requires_grad


def test_wrong_cameras_are_refused() -> None:
    with pytest.raises(ConfigError, match="one camera at least"):
        LearnedIntrinsics([])
    with pytest.raises(InputError, match="of 2 cameras"):
        _learned()(torch.tensor([2]), K[None], torch.tensor([False]))
