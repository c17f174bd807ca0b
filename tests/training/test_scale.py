"""Steps of several batches, averaged weights, validation and early stopping: each exact, and exactly resumed."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import CheckpointError, ConfigError, InputError
from hybrid_encoder.data import SyntheticDrive, SyntheticSequences
from hybrid_encoder.training import stepping
from hybrid_encoder.training.compiled import compiled_parts
from hybrid_encoder.training.fine import collate_frames, fine_model, fine_stage, train_fine
from hybrid_encoder.training.loop import train
from hybrid_encoder.training.loop_config import LoopConfig, resolved_precision, resolved_workers
from hybrid_encoder.training.manifest import read_manifest, seal
from hybrid_encoder.training.recipes import FINE
from hybrid_encoder.training.view_synthesis import FineStage

from helpers.small_runs import Numbers, Regression, ScaledAccelerator, regress

ALL = {"accumulate": 2, "ema": 0.9, "validate_every": 2}
SIZE = (48, 96)


class Normed(Regression):
    """The regression with batch norm, whose statistics a validation must leave alone."""

    def __init__(self, kill_at: int | None = None, without_dropout: bool = False) -> None:
        super().__init__(kill_at=kill_at)
        norm = nn.Identity() if without_dropout else nn.BatchNorm1d(8)
        dropout = nn.Dropout(0.0 if without_dropout else 0.2)
        self.model = nn.Sequential(nn.Linear(2, 8), norm, dropout, nn.Tanh(), nn.Linear(8, 1))


class Validation:
    """Measures a regression on numbers of its own, and draws from every generator while it does."""

    def __init__(self, stage: Regression, scores: Iterator[float] | None = None) -> None:
        self.stage, self.scores = stage, scores
        self.network: Any = stage.model
        self.measured: list[float] = []
        self.best: dict[int, Mapping[str, float]] = {}
        self.weights: list[Tensor] = []

    def __call__(self) -> dict[str, float]:
        assert not torch.is_grad_enabled() and not any(module.training for module in self.stage.modules())
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        x = torch.linspace(0, 1, 16).reshape(8, 2)
        error = (self.network(x) - x.sum(1, keepdim=True)).square().mean().item()
        self.measured.append(error)
        self.weights.append(self.network[0].weight.clone())
        return {"score": error if self.scores is None else next(self.scores), "error": error}

    def on_best(self, step: int, numbers: Mapping[str, float]) -> None:
        assert not self.stage.training
        self.best[step] = numbers


def _run(
    folder: Path, steps: int, kill_at: int | None = None, **options: Any
) -> tuple[list[float], Normed, Validation]:
    stage = Normed(kill_at)
    validation = Validation(stage)
    options = {"batch_size": 2, "validate": validation, "on_best": validation.on_best, **ALL, **options}
    return regress(folder, steps, stage, **options), stage, validation


def _weights(stage: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stage.state_dict().items()}


def _assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- steps of several batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 4])
def test_several_batches_make_the_step_of_one_with_their_items(tmp_path: Path, accumulate: int) -> None:
    results = []
    for count in (1, accumulate):
        stage = Normed(without_dropout=True)
        losses = regress(tmp_path / str(count), 12, stage, batch_size=4 // count, accumulate=count)
        seen = [[x for batch in stage.seen[i : i + count] for x in batch] for i in range(0, len(stage.seen), count)]
        results.append((losses, seen, _weights(stage)))
    (losses, seen, weights), (losses2, seen2, weights2) = results
    assert seen2 == seen, "the same items in the same order"
    assert losses2 == pytest.approx(losses, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(weights2[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert len(set(losses)) == 12


def test_an_epoch_ends_with_its_last_whole_step(tmp_path: Path) -> None:
    # 22 items: three steps of three batches of two; four items are left out.
    stage = Regression()
    regress(tmp_path, 6, stage, batch_size=2, accumulate=3)
    epochs = [[x for batch in batches for x in batch] for batches in (stage.seen[:9], stage.seen[9:])]
    assert all(len(set(epoch)) == 18 for epoch in epochs) and epochs[0] != epochs[1]
    with pytest.raises(ConfigError, match="22 items and a step takes 24; lower the batch size, or accumulate fewer"):
        regress(tmp_path / "other", 5, batch_size=4, accumulate=6)


def test_a_batch_that_is_not_finite_is_the_one_that_is_named(tmp_path: Path) -> None:
    stage = Regression(fail_at=6)
    with pytest.raises(stepping.NonFiniteLossError) as error:
        regress(tmp_path, 9, stage, batch_size=2, accumulate=4)
    assert f"nan at step 2, for items {stage.seen[5]};" in str(error.value)


# -- a run that is stopped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 4, 5, 7])
def test_a_resumed_run_is_the_same_with_all_of_it_on(tmp_path: Path, stop: int) -> None:
    """A killed run goes on from a checkpoint: stopping at its steps is the same."""
    whole, stage, validation = _run(tmp_path / "whole", 11)
    first, _, before = _run(tmp_path / "parts", stop)
    second, resumed, after = _run(tmp_path / "parts", 11, resume=True)
    assert first + second == whole
    _assert_equal(_weights(resumed), _weights(stage))
    # The run that ended at `stop` was validated there, as at every end.
    assert after.measured == validation.measured[-len(after.measured) :] and len(after.measured) > 1
    assert before.measured[: stop // 2] == validation.measured[: stop // 2]


@pytest.mark.parametrize("kill_at", [9, 11, 12, 15, 16])
def test_sigterm_in_a_step_of_several_batches(tmp_path: Path, kill_at: int) -> None:
    whole, stage, validation = _run(tmp_path / "whole", 11)
    first, _, before = _run(tmp_path / "parts", 11, kill_at)
    assert len(first) == (kill_at + 1) // 2, "the step is finished first"
    second, resumed, after = _run(tmp_path / "parts", 11, resume=True)
    assert first + second == whole
    _assert_equal(_weights(resumed), _weights(stage))
    # A validation that was due when SIGTERM came is made up for.
    assert before.measured + after.measured == validation.measured
    assert {**before.best, **after.best} == validation.best


def test_a_checkpoint_of_another_kind_of_run(tmp_path: Path) -> None:
    regress(tmp_path / "with", 5, ema=0.9)
    with pytest.raises(CheckpointError, match="a run with other parts; resume with the same settings"):
        regress(tmp_path / "with", 9, resume=True)
    plain = regress(tmp_path / "without", 5)
    with pytest.raises(CheckpointError, match="a run with other parts; resume with the same settings"):
        regress(tmp_path / "without", 9, resume=True, ema=0.9)
    # As an earlier release saved it, without a word on validations.
    for path in (tmp_path / "without" / "checkpoints").iterdir():
        _forget_validations(path)
    stage = Regression()
    more = regress(tmp_path / "without", 9, stage, resume=True, validate=Validation(stage))
    assert plain + more == regress(tmp_path / "whole", 9)


def _forget_validations(folder: Path) -> None:
    state = folder / "state.json"
    tree = json.loads(state.read_text())
    tree["dict"] = [pair for pair in tree["dict"] if pair[0] != "validation"]
    state.write_text(json.dumps(tree))
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    seal(folder, manifest.step, manifest.processes)


# -- averaged weights ----------------------------------------------------------------------------------------


def test_averaged_weights_are_validated_and_kept(tmp_path: Path) -> None:
    class Watched(Normed):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            raw.append(self.state_dict()["model.0.weight"].clone())  # those after the step before
            return super().forward(batch)

    raw: list[Tensor] = []
    stage = Watched()
    validation = Validation(stage)
    regress(tmp_path, 12, stage, ema=0.8, validate_every=3, validate=validation)
    saved = _checkpoint(tmp_path, "model")["model.0.weight"]
    average, expected = raw[0].clone(), []
    for count, weight in enumerate([*raw[1:], saved]):
        decay = min(0.8, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * weight
        expected.append(average)
    assert len(validation.weights) == 4
    for weight, number in zip(validation.weights, (2, 5, 8, 11), strict=True):
        torch.testing.assert_close(weight, expected[number])
    torch.testing.assert_close(stage.state_dict()["model.0.weight"], expected[-1])
    assert torch.equal(_checkpoint(tmp_path, "ema")["model.0.weight"], stage.state_dict()["model.0.weight"])
    assert (saved - expected[-1]).abs().max() > 1e-3, "the last weights are kept, too"


def _checkpoint(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(max((folder / "checkpoints").iterdir()) / f"{name}.safetensors")


def test_a_step_that_half_precision_leaves_out_is_not_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overflowing(Regression):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            losses = super().forward(batch)
            if len(self.seen) in (1, 2, 5):
                losses["loss"].register_hook(lambda gradient: gradient * math.inf)
            return losses

    stage = Overflowing()
    optimizer = torch.optim.SGD(stage.parameters(), 0.1)
    step = optimizer.step
    gradients = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # As GradScaler does.
    monkeypatch.setattr(
        optimizer, "step", lambda *a, **k: step() if all(p.grad.isfinite().all() for p in gradients) else None
    )
    monkeypatch.setattr("hybrid_encoder.training.loop.make_accelerator", ScaledAccelerator)
    train(stage, Numbers(), optimizer, None, tmp_path, LoopConfig(8, 4, ema=0.9, cpu=True))
    state = max((tmp_path / "checkpoints").iterdir()) / "state.json"
    assert dict(json.loads(state.read_text())["dict"])["ema"] == {"dict": [["updates", 5]]}


# -- validation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [None, 0.9])
def test_validation_changes_no_step(tmp_path: Path, ema: float | None) -> None:
    plain, stage, _ = _run(tmp_path / "without", 9, validate=None, on_best=None, ema=ema)
    losses, validated, validation = _run(tmp_path / "with", 9, validate_every=1, ema=ema)
    assert losses == plain
    _assert_equal(_weights(validated), _weights(stage))
    assert len(set(validation.measured)) == 9
    for name in ("model", "optimizer"):
        _assert_equal(_checkpoint(tmp_path / "with", name), _checkpoint(tmp_path / "without", name))


def test_when_a_run_is_validated(tmp_path: Path) -> None:
    for number, (every, steps) in enumerate({0: [5, 10, 12], 3: [3, 6, 9, 12], 7: [7, 12], 50: [12]}.items()):
        stage = Normed()
        scores = iter(range(99, 0, -1))
        validation = Validation(stage, map(float, scores))
        options: dict[str, Any] = {"validate": validation, "on_best": validation.on_best, "validate_every": every}
        regress(tmp_path / str(number), 12, stage, **options)
        assert list(validation.best) == steps


def test_only_a_better_score_is_the_best_and_patience_ends(tmp_path: Path) -> None:
    scores = [math.nan, 3.0, 3.0, 2.0, math.nan, math.inf, 2.5, 1.0]
    stage = Normed()
    validation = Validation(stage, iter(scores))
    options: dict[str, Any] = {"validate": validation, "on_best": validation.on_best}
    losses = regress(tmp_path, 40, stage, validate_every=1, patience=3, **options)
    assert list(validation.best) == [2, 4] and len(losses) == 7
    # The run is over: resumed, it takes no further step, and none is validated; with more patience it goes on.
    other = Validation(stage, iter([1.5, 9.0]))
    options = {"validate": other, "on_best": other.on_best, "resume": True}
    assert regress(tmp_path, 40, stage, validate_every=1, patience=3, **options) == []
    assert len(regress(tmp_path, 9, stage, validate_every=1, patience=4, **options)) == 2
    assert list(other.best) == [8]
    with pytest.raises(ConfigError, match="patience is 3, and nothing is validated"):
        regress(tmp_path / "other", 5, patience=3)


def test_an_early_end_is_complete(tmp_path: Path) -> None:
    stage = Normed()
    optimizer = torch.optim.SGD(stage.parameters(), 0.1)
    config = LoopConfig(20, 4, patience=2, validate_every=2, cpu=True, ema=0.5)
    validation = Validation(stage, iter([1.0, 2.0, 3.0]))
    done = train(stage, Numbers(), optimizer, None, tmp_path, config, validate=validation)
    assert (done.step, done.complete, len(done.losses)) == (6, True, 6) and 0 < done.waiting < 1
    assert torch.equal(_checkpoint(tmp_path, "ema")["model.0.weight"], stage.state_dict()["model.0.weight"])


# -- what is chosen for a person -----------------------------------------------------------------------------


def test_precision_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved_precision("auto", torch.device("cpu")) == "no"
    assert resolved_precision("auto", torch.device("mps")) == "no"
    assert resolved_precision("bf16", torch.device("cpu")) == "bf16"
    for native, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, n=native: n)
        assert resolved_precision("auto", torch.device("cuda")) == expected
    with pytest.raises(ConfigError, match="fp16' on a CPU"):
        resolved_precision("fp16", torch.device("cpu"))


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert [resolved_workers(None, count) for count in (10, 49, 50, 120, 10_000)] == [0, 0, 1, 2, 4]
    assert [resolved_workers(given, 10) for given in (0, 3)] == [0, 3]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert resolved_workers(None, 10_000) == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert resolved_workers(None, 10_000) == 0


@pytest.mark.parametrize("way", ["last step", "item", "step", "worker"])
def test_workers_live_for_the_run_and_no_longer(tmp_path: Path, way: str) -> None:
    class Named(Numbers):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            (tmp_path / f"{os.getpid()}").touch()
            if index == 7 and way == "item":
                raise InputError("item 7 is torn")
            if index == 7 and way == "worker":
                os._exit(3)
            return super().__getitem__(index)

    class Stops(Regression):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            if way == "step" and 7 in (batch[0][:, 0] * 22).round():
                raise ValueError("step")
            return super().forward(batch)

    stage = Stops()
    optimizer = torch.optim.SGD(stage.parameters(), 0.1)
    config = LoopConfig(25, 4, 2, cpu=True)  # five epochs
    there = set(multiprocessing.active_children())  # of whatever ran before
    error = None
    gc.disable()  # whoever raises, lets go of the workers at once
    try:
        train(stage, Named(), optimizer, None, tmp_path / "run", config)
    except (InputError, ValueError) as raised:
        error = raised  # a notebook keeps the last one, with its traceback
    try:
        assert (error is None) == (way == "last step")
        assert len([path for path in tmp_path.iterdir() if path.name.isdigit()]) == 2
        deadline = time.monotonic() + 60  # a busy machine takes its time to end a process
        while left := set(multiprocessing.active_children()) - there:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        gc.enable()


# -- memory and speed ----------------------------------------------------------------------------------------


def _fine(steps: int) -> tuple[FineStage, SyntheticSequences, Any]:
    recipe = dataclasses.replace(FINE["small"], size=SIZE, steps=steps, batch_size=2, levels=(0, 1), refine=0)
    drives = [list(SyntheticDrive(seed=seed, num_frames=4, height=SIZE[0], width=SIZE[1])) for seed in range(2)]
    torch.manual_seed(0)
    stage = fine_stage(fine_model("tiny", recipe, pretrained=False), recipe, 0.1)
    return stage, SyntheticSequences(drives, augment=True), recipe


@pytest.mark.parametrize("option", ["checkpoint_activations", pytest.param("compile", marks=pytest.mark.slow)])
def test_the_same_training_with_less_memory_or_compiled(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All but the last step of compiling, which takes a C++ compiler many minutes; the blocks stand for the other parts.
    monkeypatch.setattr(FineStage, "parts_to_compile", lambda self: list(self.model.encoder.spatial.blocks))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses, compiled = [], []
    for on in (False, True):
        stage, items, _ = _fine(3)
        optimizer = torch.optim.SGD(stage.parameters(), 0.05)
        forward = stage.forward
        monkeypatch.setattr(
            stage,
            "forward",
            lambda batch, stage=stage, forward=forward: (
                compiled.append(  # type: ignore[func-returns-value]
                    bool(stage.parts_to_compile())
                    and all(part._compiled_call_impl for part in stage.parts_to_compile())
                ),
                forward(batch),
            )[1],
        )
        config = LoopConfig(3, 2, cpu=True, seed=1, **{option: on})  # type: ignore[arg-type]
        losses.append(train(stage, items, optimizer, None, tmp_path / str(on), config, collate=collate_frames).losses)
        assert not any(getattr(module, "grad_checkpointing", False) for module in stage.modules())
        assert not any(module._compiled_call_impl for module in stage.modules())
    assert losses[1] == pytest.approx(losses[0], rel=2e-5) and len(set(losses[0])) == 3
    assert compiled == [False] * 3 + [option == "compile"] * 3


def test_activations_are_computed_again_while_it_is_asked_for(tmp_path: Path) -> None:
    stage, items, _ = _fine(1)
    seen: list[bool] = []
    spatial = stage.model.encoder.spatial
    assert spatial is not None
    spatial.blocks[0].register_forward_pre_hook(lambda *arguments: seen.append(spatial.grad_checkpointing))
    optimizer = torch.optim.SGD(stage.parameters(), 0.05)
    config = LoopConfig(1, 2, cpu=True, checkpoint_activations=True)
    train(stage, items, optimizer, None, tmp_path, config, collate=collate_frames)
    assert seen == [True, True], "forward, and again in the backward pass"


def test_what_cannot_be_compiled_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Callable[..., Any]:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

    with pytest.raises(ConfigError, match="has no tower and no decoder"):
        regress(tmp_path / "small", 5, compile=True)
    monkeypatch.setattr(torch, "compile", refuse)
    message = r"does not work here \(InvalidCxxCompiler: No working C\+\+ compiler found\)"
    with pytest.raises(ConfigError, match=message), compiled_parts(_fine(1)[0]):
        pass


def test_a_recipe_accumulates_and_averages(tmp_path: Path) -> None:
    _, items, recipe = _fine(2)
    recipe = dataclasses.replace(recipe, batch_size=1, accumulate=2, ema=0.5)
    model = fine_model("tiny", recipe, pretrained=False)
    done = train_fine(model, items, tmp_path, recipe, cpu=True)
    assert done is not None
    average, last = _checkpoint(tmp_path, "ema"), _checkpoint(tmp_path, "model")
    saved = model.state_dict()
    different = [
        name
        for name in saved
        if f"model.{name}" in average and not torch.equal(average[f"model.{name}"], last[f"model.{name}"])
    ]
    assert len(different) > 50
    assert all(torch.equal(saved[name], average[f"model.{name}"]) for name in different)
