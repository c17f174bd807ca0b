"""The benchmark of speed runs from end to end; its times are not checked, only that outputs agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")


@pytest.mark.slow
def test_speed_compares_outputs_and_gives_every_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks.measure import TOLERANCE, WAYS

    from benchmarks import speed

    for name in ("HYBRID_ENCODER_PUBLISHED", "HYBRID_ENCODER_MONODEPTH2"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "speed.json"
    parts = "memory,inference,training,growth,utilisation"
    threads = torch.get_num_threads()
    rounds = ["--rounds", "1", "--long-rounds", "1", "--threads", "1"]
    try:
        speed.main(["--quick", "--only", parts, *rounds, "--json", str(file)])
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out

    records = json.loads(file.read_text())["results"]
    rows = {(r["part"], r["way"]): r for r in records if "skipped" not in r}
    for part, ways in {
        "memory": ("ours",),
        "inference": ("ours-bf16", "ours-bf16-weights", "ours-fp16", "reference", "dinov2-dpt"),
        "training": ("ours-bf16", "ours-frozen-text", "reference", "dinov2-dpt"),
        "growth, size": ("reference", "dinov2-dpt"),
        "growth, batch": ("reference", "dinov2-dpt"),
        "growth, prompts": ("reference",),
        "utilisation": ("ours",),
    }.items():
        for way in ways:
            assert (part, way) in rows
            assert WAYS[way].split(" (")[0] in said or part == "utilisation"
    for part in ("inference", "training"):
        assert rows[part, "reference"]["difference"] <= TOLERANCE
        assert rows[part, "reference"]["ratios"][0] > 0
    assert rows["memory", "ours"]["extra"] > 0
    assert rows["utilisation", "ours"]["operations"] > 1e8
    skipped = {r["way"]: r["skipped"] for r in records if r["part"] == "inference" and "skipped" in r}
    assert skipped["monodepth2"] == "HYBRID_ENCODER_MONODEPTH2 names no checkout"
