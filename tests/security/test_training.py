"""Training that would lie: numbers that are not finite, settings that cannot be, data that can teach nothing."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from hybrid_encoder.data import OrderedPatches, SyntheticDrive, SyntheticLanes, SyntheticSequences
from hybrid_encoder.data.frames import Frames
from hybrid_encoder.errors import ConfigError, HybridEncoderError, InputError
from hybrid_encoder.geometry.alignment import refine_pose
from hybrid_encoder.geometry.camera import sample, unproject, warp
from hybrid_encoder.losses.coarse import CoarsePatchLoss, patch_features
from hybrid_encoder.losses.photometric import photometric_error, reprojection_loss, smoothness_loss
from hybrid_encoder.losses.pixel_language import PixelLanguageLoss, pixel_language_loss
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.demonstration import run_demo
from hybrid_encoder.training.fine import fine_model, fine_stage, train_fine
from hybrid_encoder.training.loop import train
from hybrid_encoder.training.loop_config import LoopConfig
from hybrid_encoder.training.recipes import COARSE, FINE, CoarseRecipe, FineRecipe
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.stage_recipe import StageRecipe
from hybrid_encoder.training.stepping import NonFiniteLossError
from hybrid_encoder.training.view_synthesis import FineStage

from helpers import schedules
from helpers.small_runs import Numbers, Regression, ScaledAccelerator, regress

SIZE = (48, 96)
NOT_FINITE = [math.nan, math.inf, -math.inf]


# -- what is not finite reaches the loss ---------------------------------------------------------------------


def _view() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[40.0, 0, 16], [0, 40, 8], [0, 0, 1]]).repeat(2, 1, 1)
    motion = torch.eye(4).repeat(2, 1, 1)
    motion[:, 0, 3] = 0.05
    return {
        "source": torch.rand(2, 3, 16, 32, generator=generator),
        "depth": 1 + torch.rand(2, 1, 16, 32, generator=generator),
        "K": K,
        "source_T_target": motion,
    }


PLACES = [
    ("depth", (1, 0, 7, 9)),
    *[("K", (1, i, j)) for i, j in ((0, 0), (0, 2), (1, 1), (1, 2))],
    *[("source_T_target", (1, i, j)) for i in range(3) for j in range(4)],
]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(("part", "place"), PLACES)
def test_the_warp_hands_on_what_is_not_finite(part: str, place: tuple[int, ...], value: float) -> None:
    view = _view()
    view[part][place] = value
    for name in ("source", "depth", "source_T_target"):
        view[name].requires_grad_()
    if part == "K" and place[-1] == 2 and math.isinf(value) and torch.__version__ < "2.11":
        with pytest.raises(InputError, match="K cannot be inverted"):  # torch's solver refuses it
            warp(**view)
        return
    warped, inside = warp(**view)
    assert warped[0].isfinite().all(), "the other item is left alone"
    assert not warped[1].isfinite().all() and not (inside & ~warped.isfinite().all(1, keepdim=True)).any()
    for automask in (True, False):
        source, K = view["source"].detach(), view["K"]
        found = reprojection_loss(source.flip(-1), source[:, None], view["depth"], K, view["source_T_target"][:, None])
        assert not math.isfinite(found.loss.item()), automask
    warped.nansum().backward()  # and does not bring the process down
    refined = refine_pose(source, source.flip(-1), view["depth"], K, view["source_T_target"])
    assert refined.shape == (2, 4, 4)


def test_finite_numbers_are_read_as_before() -> None:
    images, generator = torch.rand(2, 3, 5, 7), torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 4, 6, generator=generator) * 9 - 1, torch.rand(2, 4, 6, generator=generator) * 7 - 1
    grid = torch.stack([2 * x / 6 - 1, 2 * y / 4 - 1], dim=-1)
    expected = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=True)
    assert torch.equal(sample(images, x, y), expected)


def test_a_single_row_or_column_is_sampled() -> None:
    row = torch.arange(4.0).view(1, 1, 1, 4)
    x = torch.tensor([[[0.0, 1.5, 3.0]]])
    assert sample(row, x, torch.zeros_like(x)).flatten().tolist() == [0, 1.5, 3]
    assert sample(row.transpose(2, 3), torch.zeros_like(x), x).flatten().tolist() == [0, 1.5, 3]


def test_intrinsics_that_cannot_be_inverted_are_refused() -> None:
    view = _view()
    view["K"][1, 0, 0] = 0
    with pytest.raises(InputError, match="focal lengths must be above 0"):
        warp(**view)
    with pytest.raises(InputError, match="focal lengths must be above 0"):
        unproject(view["depth"], torch.zeros(2, 3, 3))


class Poisoned(Stage):
    """A finite loss with a gradient that is not, at one step."""

    def __init__(self, at: int, value: float = math.nan) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # as a causal attention has it
        self.at, self.value, self.count = at, value, 0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.count += 1
        loss = self.weight.square().mean()
        if self.count == self.at:
            loss.register_hook(lambda gradient: gradient * self.value)
        return {"loss": loss}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_no_step(clip: float | None, value: float, tmp_path: Path) -> None:
    stage = Poisoned(8, value)
    optimizer = torch.optim.AdamW([stage.weight], 1e-2)
    config = LoopConfig(20, 4, save_every=5, clip=clip, cpu=True)
    with pytest.raises(NonFiniteLossError, match=r"gradient's norm is (nan|inf) at step 8.*step_00000005"):
        train(stage, Numbers(), optimizer, None, tmp_path, config)
    assert stage.weight.isfinite().all()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


class Exploding(Stage):
    """Weights that are infinite after one step, by a loss and a gradient that are finite."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.at, self.count = at, 0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.count += 1
        return {"loss": self.weight.sum() * (1e18 if self.count == self.at else 0.0)}


@pytest.mark.parametrize(("at", "kept"), [(10, "step_00000005"), (12, "step_00000010")])
def test_weights_that_are_not_finite_are_not_saved(at: int, kept: str, tmp_path: Path) -> None:
    stage = Exploding(at)
    optimizer = torch.optim.SGD(stage.parameters(), 1e21)
    config = LoopConfig(12, 4, save_every=5, clip=None, cpu=True)
    with pytest.raises(NonFiniteLossError, match=rf"weights after step {at} are not finite \(weight\).*{kept}"):
        train(stage, Numbers(), optimizer, None, tmp_path, config)
    assert kept in [path.name for path in (tmp_path / "checkpoints").iterdir()]


def test_a_run_does_not_start_from_weights_that_are_not_finite(tmp_path: Path) -> None:
    stage = Regression()
    with torch.no_grad():
        next(stage.parameters())[0, 0] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"weights to start from are not finite \(model.0.weight\)"):
        regress(tmp_path, 5, stage)
    assert not stage.seen


@pytest.mark.parametrize(("bad_steps", "ends"), [(30, True), (31, False)])
def test_steps_that_half_precision_leaves_out_are_no_error_until_all_are(
    bad_steps: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaler skips steps whose gradient overflows; there is none on a CPU, where skipping is played."""
    stage = Poisoned(0)
    optimizer = torch.optim.SGD(stage.parameters(), 1e-2)
    plain = stage.forward

    def forward(batch: Any) -> dict[str, Tensor]:
        losses = plain(batch)
        if stage.count <= bad_steps:
            losses["loss"].register_hook(lambda gradient: gradient * math.inf)
        return losses

    def step(*arguments: Any) -> None:
        if all(p.grad is None or p.grad.isfinite().all() for p in stage.parameters()):
            taken.append(stage.count)

    taken: list[int] = []
    monkeypatch.setattr(stage, "forward", forward)
    monkeypatch.setattr(optimizer, "step", step)
    monkeypatch.setattr("hybrid_encoder.training.loop.make_accelerator", ScaledAccelerator)
    config = LoopConfig(40, 4, save_every=100, cpu=True)
    if ends:
        assert len(train(stage, Numbers(), optimizer, None, tmp_path, config).losses) == 40
        assert taken == list(range(31, 41))
    else:
        with pytest.raises(NonFiniteLossError, match="at step 31"):
            train(stage, Numbers(), optimizer, None, tmp_path, config)


# -- settings that cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        *[{"lr": value} for value in (*NOT_FINITE, 0, -1e-3, 1e30, 1.5, "1e-3", True, None)],
        *[{"weight_decay": value} for value in (*NOT_FINITE, -0.1, 1e30)],
        *[{"clip": value} for value in (*NOT_FINITE, 0, -1.0)],
        *[{"batch_size": value} for value in (0, -1, 1.5, math.nan)],
        *[{"epochs": value} for value in (-1, 0.5, 10**30)],
        *[{"steps": value} for value in (-1, 0.5, math.inf)],
        *[{"warm_up": value} for value in (-0.1, 1.5, math.nan)],
        *[{"drop": value} for value in (0, -0.1, 1.5, math.nan)],
        {"schedule": "cosine"},
        *[{"size": value} for value in ((0, 96), (-48, 96), (48, math.nan), (48.5, 96), (8, 8))],
    ],
)
@pytest.mark.parametrize("recipe", [COARSE["small"], FINE["small"]])
def test_settings_that_cannot_be_are_refused(recipe: StageRecipe, changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(ConfigError, match=rf"{name} is|size is|levels is"):
        dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        *[{"pose_lr": value} for value in (*NOT_FINITE, 0, -1, 1e30)],
        *[{"smoothness": value} for value in (*NOT_FINITE, -1)],
        *[{"start_depth": value} for value in (*NOT_FINITE, 0, -1)],
        *[{"levels": value} for value in ((), (-1,), (7,), (0.5,), (60,))],
        *[{"offsets": value} for value in ((), (0,), (-1, 0, 1))],
        {"refine": -1},
        {"pose_channels": 0},
    ],
)
def test_settings_of_the_fine_stage_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(changes))} is|a level is"):
        dataclasses.replace(FINE["small"], **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workers": 100_000}, "workers is 100000; it must be from 0 to 256"),
        ({"workers": -1}, "workers is -1"),
        ({"clip": 0}, "clip is 0; it must be above 0"),
        ({"clip": math.nan}, "clip is nan"),
        ({"steps": 2.5}, r"steps is 2\.5; it must be a whole number, at least 1"),
        ({"save_every": 0}, "save_every is 0"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_settings_of_the_loop_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LoopConfig(**{"steps": 1, "batch_size": 1, **changes})


def test_half_precision_on_a_cpu_is_refused_instead_of_ignored(tmp_path: Path) -> None:
    stage = Regression()
    config = LoopConfig(2, 4, precision="fp16", cpu=True)
    with pytest.raises(ConfigError, match="precision is 'fp16' on a CPU; take 'bf16' or 'no'"):
        train(stage, Numbers(), torch.optim.SGD(stage.parameters(), 0.1), None, tmp_path, config)


def test_a_demonstration_of_one_drive_is_refused(tmp_path: Path) -> None:
    from rich.console import Console

    options: dict[str, Any] = {"coarse_steps": 1, "fine_steps": 1, "seed": 0, "save": None, "cpu": True}
    with pytest.raises(ConfigError, match="drives is 1; it must be from 2 to 10000"):
        run_demo(tmp_path / "demo.png", drives=1, console=Console(quiet=True), **options)


# -- every number of steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", range(1, 51))
@pytest.mark.parametrize("recipe", [*COARSE.values(), *FINE.values()])
def test_every_number_of_steps_has_a_schedule(recipe: StageRecipe, num_steps: int) -> None:
    rates = schedules.rates(recipe, num_steps)
    assert all(0 < rate <= recipe.lr * (1 + 1e-9) for rate in rates)
    assert max(rates) > 0.9 * recipe.lr, "the rate of the recipe is reached"
    if recipe.schedule == "one_cycle" and num_steps > 2:
        assert rates[0] < 0.1 * recipe.lr and rates[-1] < 0.1 * recipe.lr, "up, and down to nothing"


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_short_runs_come_to_their_end(steps: int, tmp_path: Path) -> None:
    stage = Regression()
    recipe = StageRecipe(1e-2, 0.0, 4, steps=steps, warm_up=0.1)
    optimizer = torch.optim.AdamW(stage.parameters(), recipe.lr)
    done = train(
        stage, Numbers(), optimizer, recipe.scheduler(optimizer, steps), tmp_path, LoopConfig(steps, 4, cpu=True)
    )
    assert len(done.losses) == steps and all(map(math.isfinite, done.losses))


@pytest.mark.campaign
def test_ten_steps_of_each_small_recipe(tmp_path: Path) -> None:
    drives = [list(SyntheticDrive(seed=n, num_frames=5, height=48, width=96)) for n in range(2)]
    coarse: CoarseRecipe = dataclasses.replace(COARSE["small"], size=SIZE, steps=10, batch_size=2)
    encoder = coarse_encoder("tiny", coarse, pretrained=False)
    weights = train_coarse(encoder, SyntheticLanes(drives), tmp_path / "coarse", coarse, cpu=True)
    assert weights is not None
    fine: FineRecipe = dataclasses.replace(FINE["small"], size=SIZE, steps=10, batch_size=2, levels=(1, 2))
    assert train_fine(fine_model(weights, fine), SyntheticSequences(drives), tmp_path / "fine", fine, cpu=True)


# -- data ----------------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    """Items made by a function."""

    def __init__(self, make: Callable[[int], Any], count: int = 6) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def _lane(index: int, bad: str = "", at: int = 4) -> OrderedPatches:
    image, points = torch.rand(3, *SIZE), torch.rand(1, 7, 2) * 40
    if index == at and bad == "image":
        image[0, 3, 3] = math.nan
    if index == at and bad == "points":
        points[0, 3, 1] = math.inf
    if bad == "empty":
        points = points[:0]
    return OrderedPatches(image, points, f"picture{index}.png")


def _frames(index: int, bad: str = "", at: int = 4) -> Frames:
    images, K = torch.rand(3, 3, *SIZE), torch.tensor([[90.0, 0, 48], [0, 90, 24], [0, 0, 1]])
    augmented = images.clone()
    if bad == "still":
        images = images[:1].expand(3, -1, -1, -1).clone()
    if index == at and bad in ("images", "augmented", "K"):
        {"images": images, "augmented": augmented, "K": K}[bad].view(-1)[5] = math.nan
    return Frames(images, augmented, K, f"drive/{index}")


def _coarse(make: Callable[[int], Any], folder: Path, **options: Any) -> None:
    recipe = dataclasses.replace(COARSE["small"], size=SIZE, steps=3, batch_size=2)
    encoder = coarse_encoder("tiny", recipe, pretrained=False)
    train_coarse(encoder, Items(make), folder, recipe, cpu=True, **options)


def _fine(make: Callable[[int], Any], folder: Path, **options: Any) -> None:
    recipe = dataclasses.replace(FINE["small"], size=SIZE, steps=3, batch_size=2, levels=(1, 2))
    train_fine(fine_model("tiny", recipe, pretrained=False), Items(make), folder, recipe, cpu=True, **options)


@pytest.mark.parametrize("bad", ["image", "points"])
def test_a_picture_that_is_not_finite_is_named(bad: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{bad} of picture4.png is not finite"):
        _coarse(lambda index: _lane(index, bad), tmp_path)


@pytest.mark.parametrize("bad", ["images", "augmented", "K"])
def test_frames_that_are_not_finite_are_named(bad: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{bad} of drive/4 is not finite"):
        _fine(lambda index: _frames(index, bad), tmp_path)


def test_data_that_can_teach_nothing_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 6 images, such as picture0\.png, has points"):
        _coarse(lambda index: _lane(index, "empty"), tmp_path / "coarse")
    with pytest.raises(InputError, match="in all 6 items the neighbouring frames are the same image"):
        _fine(lambda index: _frames(index, "still"), tmp_path / "fine")
    for stage in ("coarse", "fine"):
        assert not (tmp_path / stage / "run.json").exists() and not (tmp_path / stage / "final").exists()


class Broken(Numbers):
    """An item that cannot be read, or that ends the process which reads it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 7 and self.how == "unreadable":
            raise InputError("picture7.png is not an image; take it out.")
        if index == 7 and self.how == "missing":
            raise FileNotFoundError(2, "No such file or directory", "picture7.png")
        if index == 7 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_images_too_small_for_the_levels_are_refused() -> None:
    recipe = dataclasses.replace(FINE["small"], size=(96, 320), levels=(0, 5))
    stage = fine_stage(fine_model("tiny", recipe, pretrained=False), recipe)
    batch = default_collate([_frames(0), _frames(1)])
    with pytest.raises(InputError, match="at level 5 less than 2 pixels are left"):
        stage(batch)
    for changes in ({"levels": (-1,)}, {"offsets": (0,)}, {"smoothness": math.nan}, {"language_loss": -1.0}):
        with pytest.raises(ConfigError, match=r"is -1|is \(0,\)|is nan"):
            FineStage(stage.model, stage.pose, **changes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "says"),
    [("unreadable", r"^picture7\.png is not an image; take it out\.$"), ("missing", "No such file.*picture7")],
)
def test_an_error_in_a_worker_is_the_sentence_of_its_cause(how: str, says: str, workers: int, tmp_path: Path) -> None:
    stage = Regression()
    config = LoopConfig(30, 4, workers, cpu=True)
    with pytest.raises((HybridEncoderError, OSError), match=says):
        train(stage, Broken(how), torch.optim.SGD(stage.parameters(), 0.1), None, tmp_path, config)


def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    """In a process of its own, whose whole output is looked at."""
    script = f"""
        import sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        import torch
        from pathlib import Path
        from hybrid_encoder.errors import HybridEncoderError
        from hybrid_encoder.training.loop import train
        from hybrid_encoder.training.loop_config import LoopConfig
        from helpers.small_runs import Numbers, Regression
        import test_training
        stage = Regression()
        optimizer = torch.optim.SGD(stage.parameters(), 0.1)
        config = LoopConfig(30, 4, 2, cpu=True)
        for how in ("unreadable", "killed"):
            try:
                train(stage, test_training.Broken(how), optimizer, None, Path({str(tmp_path)!r}) / how, config)
            except HybridEncoderError as error:
                print(error)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 2, done.stderr
    assert said[0] == "picture7.png is not an image; take it out."
    assert "a process that loads data has ended" in said[1] and "take fewer workers" in said[1]
    assert "Traceback" not in done.stderr


# -- losses --------------------------------------------------------------------------------------------------


MAPS, PROMPTS = [torch.rand(2, 8, 3, 6) for _ in range(4)], torch.eye(3, 32)
BINS = torch.tensor([1.0, 2.0, 4.0])
LOGITS, DEPTH = torch.rand(2, 3, 4, 6), torch.rand(2, 1, 8, 12) + 1
POINTS, INDEX = torch.rand(2, 3, 2) * 20, torch.tensor([0, 1])


def _points(value: float) -> Tensor:
    points = POINTS.clone()
    points[1, 2, 0] = value
    return points


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([1.0, 2, 2])), "must rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([2.0, 2, 2])), "must rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([4.0, 2, 1])), "must rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([0.0, 2, 4])), "must rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([1.0, 2, math.inf])), "must rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([1.0, math.nan, 4])), "must rise"),
        # Apart in float64, the same log in float32.
        (lambda: pixel_language_loss(LOGITS, DEPTH, torch.tensor([1, 100, 100 + 1e-9], dtype=torch.float64)), "rise"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, BINS, torch.ones_like(DEPTH)), r"mask is of torch\.float32; bool"),
        (lambda: pixel_language_loss(LOGITS, DEPTH, BINS, DEPTH.long()), r"mask is of torch\.int64"),
        (lambda: PixelLanguageLoss(torch.tensor([2.0, 2.0])), "must rise"),
        (lambda: PixelLanguageLoss(torch.tensor(2.0)), "must rise"),
        (lambda: patch_features(MAPS, POINTS, torch.tensor([0, -1]), SIZE, 32), "lane 1 has index -1"),
        (lambda: patch_features(MAPS, POINTS, torch.tensor([0, 2]), SIZE, 32), "lane 1 has index 2"),
        (lambda: patch_features(MAPS, POINTS, torch.tensor([0.0, 1.0]), SIZE, 32), r"index of torch\.float32"),
        (lambda: patch_features(MAPS, POINTS.long(), INDEX, SIZE, 32), r"points is of torch\.int64"),
        (lambda: patch_features(MAPS, _points(math.nan), INDEX, SIZE, 32), "lane 1 has .*nan.*finite points"),
        (lambda: patch_features(MAPS, _points(math.inf), INDEX, SIZE, 32, "box"), "lane 1 has .*inf.*finite points"),
        (lambda: CoarsePatchLoss(box=0), "box is 0; it must be above 0"),
        (lambda: CoarsePatchLoss(box=math.nan), "box is nan"),
        (lambda: photometric_error(torch.rand(1, 3, 8, 1), torch.rand(1, 3, 8, 1)), "at least 2 x 2 pixels"),
        (lambda: photometric_error(torch.rand(1, 3, 1, 8), torch.rand(1, 3, 1, 8)), "at least 2 x 2 pixels"),
        (lambda: photometric_error(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 4)), r"\(1, 3, 8, 8\) and \(1, 3, 8, 4"),
        (lambda: photometric_error(torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8)), "is needed for both"),
        (lambda: photometric_error(torch.rand(1, 3, 8, 8).byte(), torch.rand(1, 3, 8, 8)), "divide by 255"),
        (lambda: smoothness_loss(torch.rand(1, 1, 8, 8), torch.ones(1, 3, 8, 8).byte()), "divide by 255"),
        (lambda: smoothness_loss(torch.rand(1, 1, 8, 8), torch.rand(1, 3, 4, 4)), r"disparity is \(1, 1, 8, 8\)"),
        (
            lambda: reprojection_loss(
                torch.rand(2, 3, 8, 8), torch.rand(2, 0, 3, 8, 8), torch.rand(2, 1, 8, 8), torch.eye(3), torch.eye(4)
            ),
            "with N at least 1",
        ),
    ],
)
def test_what_a_loss_cannot_take_is_one_sentence(call: Callable[[], object], says: str) -> None:
    with pytest.raises((InputError, ConfigError), match=says):
        call()


def test_a_map_of_one_pixel_across_has_no_slope_on_that_axis() -> None:
    column = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1)
    grey = torch.zeros(1, 3, 3, 1)
    expected = (1 / (7 / 3) + 2 / (7 / 3)) / 2
    assert smoothness_loss(column, grey).item() == pytest.approx(expected)
    assert smoothness_loss(column.transpose(2, 3), grey.transpose(2, 3)).item() == pytest.approx(expected)
    assert smoothness_loss(torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)).item() == 0


def test_patches_of_no_image_are_not_numbers_where_values_are_not_looked_at() -> None:
    """As on an accelerator; a compiled function looks at no value either."""
    read = torch.compile(patch_features, backend="eager")
    for points, index in ((_points(math.nan), INDEX), (POINTS, torch.tensor([0, -1])), (POINTS, torch.tensor([0, 2]))):
        for sampling in ("cell", "box"):
            found = read(MAPS, points, index, SIZE, 32, sampling)
            assert found[0].isfinite().all() and found[1].isnan().all()
