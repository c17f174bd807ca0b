"""``--config``: an earlier run is repeated, settings come from a file, and options come before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--encoder", "tiny", "--no-pretrained", "--cpu", "--steps", 2, "--size", "48x96", "--batch-size", 2)
NOT_COMPARED = {"trained_on"}


def told(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return settings


def test_a_run_is_repeated_from_its_settings(run: Run, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    options = ("--drives", 1, "--seed", 3, "--accumulate", 1, "--lr-scale", "spatial=0.5", "--two-sided", "--ema", 0.9)
    code, _, err = run("train-coarse", "synthetic", *SMALL, *options, "--output", first)
    assert code == 0, err
    code, _, err = run("train-coarse", "--config", first / "run.json", "--cpu", "--no-pretrained", "--output", second)
    assert code == 0, err
    assert told(first) == told(second)
    one, two = ((folder / "final" / "model.safetensors").read_bytes() for folder in (first, second))
    assert one == two, "the same settings give the same weights"
    # What is typed comes before what the file says.
    changed = ("--seed", 4, "--steps", 1, "--lr-scale", "semantic=0.1")
    code, _, err = run(
        *("train-coarse", "--config", first / "run.json", "--cpu", "--no-pretrained", "--output", other), *changed
    )
    assert code == 0, err
    expected = {**told(first), "seed": 4, "steps": 1, "lr_scale": {"semantic": 0.1}}
    assert {k: v for k, v in told(other).items() if k not in NOT_COMPARED} == {
        k: v for k, v in expected.items() if k not in NOT_COMPARED
    }


RECIPE = """\
data: synthetic
encoder: tiny
pretrained: false
drives: 1
steps: 1
size: 48x96        # as the command takes it
batch_size: 2
lr: 2e-4           # a text for YAML, and a number for everybody else
levels: [0, 1]
smoothness: 1.0e-2
lr_scale: {spatial: 0.1, pose: 2}
workers: 0
"""


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_settings_from_a_file_of_ones_own(run: Run, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"recipe{suffix}"
    if suffix == ".json":
        import yaml  # type: ignore[import-untyped]

        file.write_text(json.dumps({**yaml.safe_load(RECIPE), "size": [48, 96], "lr": 2e-4}))
    else:
        file.write_text(RECIPE)
    code, _, err = run("train-fine", "--config", file, "--cpu", "--output", tmp_path / "run")
    assert code == 0, err
    expected = {"lr": 2e-4, "size": [48, 96], "levels": [0, 1], "smoothness": 0.01, "steps": 1, "data": "synthetic"}
    assert expected.items() <= told(tmp_path / "run").items()
    assert told(tmp_path / "run")["lr_scale"] == {"spatial": 0.1, "pose": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lrr: 0.1\ndata: synthetic\n", "unknown setting 'lrr'"),
        ("lr: fast\ndata: synthetic\n", "lr is 'fast'; it must be a number"),
        ("levels: 3\ndata: synthetic\n", "levels is 3; it must be a list"),
        ("lr_scale: {sky: 1}\ndata: synthetic\nencoder: tiny\npretrained: false\ndrives: 1\n", "lr_scale names 'sky'"),
        # The option's name says numbers, too; here they are of no use.
        ("intrinsics: 90,90,47,23\n", "--intrinsics would change nothing: 'synthetic' is rendered"),
        ("intrinsics: [90, 90, 47, 23]\n", "--intrinsics would change nothing: 'synthetic' is rendered"),
        ("- 1\n- 2\n", "holds no settings by name"),
        ("lr: [1\n", "holds no settings ("),
        ("lr: &a 0.1\nclip: *a\n", "references"),
        ("!!python/object/apply:os.system ['true']\n", "holds no settings ("),
    ],
)
def test_wrong_settings_are_one_sentence(run: Run, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    code, _, err = run("train-fine", "synthetic", "--config", file, "--cpu", "--output", tmp_path / "run")
    said = " ".join(err.split())
    assert code == 2 and says in said, said
    assert not (tmp_path / "run" / "final").exists()


def test_a_file_that_is_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("train-fine", "synthetic", "--config", tmp_path / "gone.json", "--output", tmp_path / "run")
    assert code == 2 and "is not a file" in " ".join(err.split())


@pytest.mark.parametrize("text", ["spatial", "=1", "spatial=x", "spatial=-1", "spatial=inf"])
def test_a_wrong_factor_is_one_sentence(run: Run, tmp_path: Path, text: str) -> None:
    code, _, err = run("train-coarse", "synthetic", *SMALL, f"--lr-scale={text}", "--output", tmp_path / "run")
    assert code == 2 and "--lr-scale is" in " ".join(err.split()) and "Traceback" not in err
