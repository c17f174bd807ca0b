"""What stands ready for a GPU: it says so without one, and its parts run on a CPU at toy size; nothing is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")

from benchmarks.data_waiting import Setting

from benchmarks import __main__ as program
from benchmarks import data_waiting, gpu

TOY = Setting("tiny", (64, 96), (80, 120), batch=2, workers=1, steps=2, pose="test_resnet")


def test_without_a_gpu_a_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", "--output", str(tmp_path / "results")])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_waiting_is_the_share_of_the_time_of_the_counted_steps() -> None:
    found = data_waiting.measure(TOY)
    assert len(found["cached"]) == len(found["loaded"]) == len(found["waited"]) == TOY.steps
    assert all(0 <= waited < step for waited, step in zip(found["waited"], found["loaded"], strict=True))
    assert found["share"] == pytest.approx(sum(found["waited"]) / sum(found["loaded"]))
    assert found["item"] > 0 and found["slower"] > 0
    assert data_waiting.table(TOY, found).row_count == 5


def test_a_slow_recording_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded in the training process, a batch is waited for as long as its frames take."""
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    read = data_waiting.Recording.image

    def slow(recording: data_waiting.Recording, frame: int) -> object:
        for _ in range(100):
            next(clock)
        return read(recording, frame)

    monkeypatch.setattr(data_waiting.Recording, "image", slow)
    setting = Setting("tiny", (64, 96), (80, 120), batch=1, workers=0, steps=2, pose="test_resnet")
    found = data_waiting.measure(setting)
    assert all(300 <= waited < 310 for waited in found["waited"])  # three frames
    assert found["share"] > 0.9


def test_everything_for_a_gpu_runs_on_a_cpu_at_toy_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def speed(words: list[str]) -> None:
        asked.append(words)
        case = {"height": 64, "width": 96, "batch": 1, "bf16": True}
        row = {"part": "training", "case": case, "name": "reference", "beside": "ours", "ratios": [4.0, 5.0, 3.0]}
        Path(words[words.index("--json") + 1]).write_text(json.dumps({"results": [row]}))

    monkeypatch.setattr("benchmarks.speed.main", speed)
    results = gpu.run(tmp_path / "results", TOY, quick=True)
    assert "--quick" in asked[0] and asked[0][:2] == ["--device", "cpu"]
    assert results == json.loads((tmp_path / "results" / "gpu.json").read_text(), object_hook=_with_sizes)
    trained = results["training"]
    assert trained["steps_per_epoch"] == 39_810 // 2
    hours = trained["steps_per_epoch"] * sorted(trained["loaded"])[0] / 3600
    assert trained["epoch_hours"]["loaded"] >= hours
    page = (tmp_path / "results" / "gpu.md").read_text()
    assert "| training, 64 x 96, batch 1, bf16: reference | 4 times as long as ours |" in page
    assert "| an epoch of Eigen-Zhou (39,810 items), estimated |" in page


def _with_sizes(value: dict[str, object]) -> dict[str, object]:
    return {key: tuple(x) if key in ("size", "frame_size") and isinstance(x, list) else x for key, x in value.items()}


def test_the_tests_with_a_marker_are_run(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n\n@pytest.mark.gpu\ndef test_a():\n    assert True\n\ndef test_b():\n    assert 0\n"
    )
    found = gpu.marked_tests(where=[str(file)])
    assert found["passed"] and "1 passed" in found["said"][-1]
