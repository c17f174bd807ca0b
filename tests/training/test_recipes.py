"""The numbers of the recipes, which settings a resumed run may have, and that it resumes exactly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from hybrid_encoder import ConfigError
from hybrid_encoder.data import SyntheticDrive, SyntheticLanes
from hybrid_encoder.training import running
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, train_coarse
from hybrid_encoder.training.recipes import COARSE, CoarseRecipe
from hybrid_encoder.training.running import train_stage
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.stage_recipe import StageRecipe

from helpers import schedules
from helpers.small_runs import recorded

STEPS, SAVE_EVERY = 9, 3


# -- numbers -----------------------------------------------------------------------------------------------


def test_steps_follow_from_epochs_items_and_processes() -> None:
    recipe = StageRecipe(1e-3, 0.0, 6, epochs=20)
    assert recipe.num_steps(3626) == 20 * 604, "an incomplete last batch is left out"
    assert recipe.num_steps(5) == 20
    assert recipe.num_steps(3626, num_processes=4) == 20 * 151
    assert dataclasses.replace(recipe, steps=7).num_steps(3626, num_processes=4) == 7, "steps come first"


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs is 0 and steps 0; one of them must be at least 1"):
        StageRecipe(1e-3, 0.0, 6)
    with pytest.raises(ConfigError, match="lr is -1; it must be above 0"):
        StageRecipe(-1, 0.0, 6, steps=1)
    with pytest.raises(ConfigError, match="lr is nan"):
        StageRecipe(math.nan, 0.0, 6, steps=1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        StageRecipe(1e-3, 0.0, 0, steps=1)


@pytest.mark.parametrize("warm_up", [0.1, 0.3])
def test_one_cycle_rises_to_the_rate_at_its_warm_up_and_falls_to_nothing(warm_up: float) -> None:
    recipe = StageRecipe(2e-3, 0.0, 1, epochs=1, warm_up=warm_up)
    rates = schedules.rates(recipe, 100)
    peak = rates.index(max(rates))
    assert abs(peak - 100 * warm_up) <= 1 and rates[peak] == pytest.approx(2e-3, rel=1e-2)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] < 0.1 * 2e-3 and rates[-1] < 1e-3 * 2e-3
    # Every group keeps its own share.
    half = schedules.rates(recipe, 100, {"name": "pose", "lr": 1e-3})
    assert half == pytest.approx([rate / 2 for rate in rates], rel=1e-6)


def test_steps_fall_by_ten() -> None:
    recipe = StageRecipe(1.0, 0.0, 1, steps=30, schedule="steps", drop=1 / 3)
    assert schedules.rates(recipe, 30) == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)
    assert schedules.rates(dataclasses.replace(recipe, drop=0.001), 3) == pytest.approx([1.0, 0.1, 0.01])


# -- run.json ----------------------------------------------------------------------------------------------


class Line(Stage):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight - batch).square().mean()}


def _line(folder: Path, recipe: StageRecipe, **options: Any) -> tuple[int | None, Line]:
    stage = Line()
    items: Any = [torch.tensor(float(i)) for i in range(10)]
    groups = [{"name": "line", "params": list(stage.parameters()), "lr": recipe.lr}]
    return train_stage(stage, items, groups, recipe, folder, cpu=True, **options), stage


def test_a_run_describes_itself(tmp_path: Path) -> None:
    recipe = CoarseRecipe(1e-2, 0.1, 2, epochs=2)
    num_steps, stage = _line(tmp_path / "run", recipe, described={"data": "numbers", "depths": None}, seed=5)
    assert num_steps == 10 and stage.weight.item() != 0
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert said == {
        **json.loads(json.dumps(dataclasses.asdict(recipe))),
        "steps": 10,
        "seed": 5,
        "data": "numbers",
        "depths": None,
        "precision": "no",
        "compile": False,
        "processes": 1,
        "trained_on": {"stage": "Line", "drives": {}, "offsets": [], "known": False},  # a list of numbers says nothing
    }


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"lr": 2e-2}, {}, r"lr is 0\.02, and the run in .* began with 0\.01; keep it"),
        ({"steps": 9}, {}, "steps is 9, and the run in .* began with 4"),
        ({"size": (96, 320)}, {}, r"size is \[96, 320\], and the run in .* began with \[224, 224\]"),
        ({}, {"seed": 1}, "seed is 1, and the run in .* began with 0"),
        ({}, {"precision": "bf16"}, "precision is bf16, and the run in .* began with no; keep it"),
        ({}, {"described": {"data": "others"}}, "data is others, and the run in .* began with numbers"),
    ],
)
def test_a_resumed_run_keeps_its_settings(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    recipe = CoarseRecipe(1e-2, 0.1, 2, steps=4)
    same: dict[str, Any] = {"described": {"data": "numbers"}, "save_every": 2}
    _line(tmp_path, recipe, **same)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=says):
        _line(tmp_path, dataclasses.replace(recipe, **changes), **{**same, **options}, resume=True)
    assert (tmp_path / "run.json").read_bytes() == before
    assert _line(tmp_path, recipe, **same, resume=True)[0] == 4, "the same settings are accepted"


def test_a_resumed_run_keeps_its_frames(tmp_path: Path) -> None:
    recipe = CoarseRecipe(1e-2, 0.1, 2, steps=4)
    _line(tmp_path, recipe, save_every=2)
    file = tmp_path / "run.json"
    said = json.loads(file.read_text())
    said["trained_on"]["drives"] = {"2011_09_26_drive_0001": {"l": ",".join(map(str, range(0, 5000, 2)))}}
    file.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=r"trained_on is \{.*, and the run in .* began with \{.*; keep it") as error:
        _line(tmp_path, recipe, save_every=2, resume=True)
    assert len(str(error.value)) < 1000
    del said["trained_on"]  # of an earlier release
    file.write_text(json.dumps(said))
    assert _line(tmp_path, recipe, save_every=2, resume=True)[0] == 4


def test_a_setting_that_an_earlier_release_did_not_know_was_its_default(tmp_path: Path) -> None:
    recipe = CoarseRecipe(1e-2, 0.1, 2, steps=4)
    _line(tmp_path, recipe, save_every=2)
    file = tmp_path / "run.json"
    said = json.loads(file.read_text())
    for name in ("final_div_factor", "jitter", "flip", "freeze_text"):
        del said[name]
    file.write_text(json.dumps(said))
    assert _line(tmp_path, recipe, save_every=2, resume=True)[0] == 4
    for changed, says in (
        (dataclasses.replace(recipe, jitter=True), "jitter is True, and .* began with False"),
        (dataclasses.replace(recipe, final_div_factor=1e2), r"final_div_factor is 100\.0, and .* began with 10000\.0"),
    ):
        with pytest.raises(ConfigError, match=says):
            _line(tmp_path, changed, save_every=2, resume=True)


def test_a_folder_that_holds_a_run_keeps_its_description(tmp_path: Path) -> None:
    _line(tmp_path, CoarseRecipe(1e-2, 0.1, 2, steps=4))
    with pytest.raises(ConfigError, match="holds a run already"):
        _line(tmp_path, CoarseRecipe(5e-2, 0.1, 2, steps=4))
    assert json.loads((tmp_path / "run.json").read_text())["lr"] == 1e-2
    with pytest.raises(ConfigError, match="holds no checkpoint to resume from"):
        _line(tmp_path / "empty", CoarseRecipe(5e-2, 0.1, 2, steps=4), resume=True)


# -- a real stage that is killed ----------------------------------------------------------------------------------


def coarse_run(folder: Path, kill_at: int | None = None, resume: bool = False) -> list[float]:
    """Return the losses of a run on small images; it kills its process at step ``kill_at``."""
    recipe = dataclasses.replace(COARSE["small"], size=(48, 96), steps=STEPS, batch_size=2)
    drives = [list(SyntheticDrive(seed=seed, num_frames=4, height=48, width=96)) for seed in range(2)]
    losses: list[float] = []
    plain_forward, seen = CoarseStage.forward, []

    def forward(self: CoarseStage, batch: Any) -> dict[str, Tensor]:
        seen.append(batch)
        if len(seen) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain_forward(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "train", recorded(losses))
        patch.setattr(CoarseStage, "forward", forward)
        set_seed(3 + resume)  # weights that a resumed run starts from are replaced by those of its checkpoint
        encoder = coarse_encoder("tiny", recipe, pretrained=False)
        items = SyntheticLanes(drives, flip=True)
        train_coarse(encoder, items, folder, recipe, resume=resume, save_every=SAVE_EVERY, cpu=True)
    return losses


@pytest.mark.slow
def test_a_killed_coarse_run_is_resumed_exactly(tmp_path: Path) -> None:
    whole = coarse_run(tmp_path / "whole")
    assert len(set(whole)) == STEPS
    step = random.Random(20).randint(SAVE_EVERY + 2, STEPS)
    script = f"""
        import sys
        from pathlib import Path
        import torch
        torch.set_num_threads({torch.get_num_threads()})  # sums over threads are others
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]  # its folder, and helpers
        import test_recipes
        test_recipes.coarse_run(Path({str(tmp_path / "parts")!r}), kill_at={step})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "parts" / "final").exists()
    saved = (step - 1) // SAVE_EVERY * SAVE_EVERY
    assert coarse_run(tmp_path / "parts", resume=True) == whole[saved:]
    one, other = ((tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other
