"""The metric of torchmetrics against ``depth_metrics``, in one process and in two."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import METRICS, depth_metrics
from hybrid_encoder.evaluation.torchmetrics import DepthMetric, _joined, _split


def scene(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions of unknown scale and sparse truth, some of it out of range; a different number of pixels in each."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 1, 37, 61, generator=generator) * 99 + 1
    pred = target * torch.exp(0.3 * torch.randn(target.shape, generator=generator)) / 5
    shares = torch.linspace(0.1, 0.9, count)[:, None, None, None]
    return pred, torch.where(torch.rand(target.shape, generator=generator) < shares, 0.0, target)


PROTOCOL = {"median_scaling": True, "crop": "garg"}


def test_unequal_batches_give_the_number_of_all_images() -> None:
    pred, target = scene(7)
    metric = DepthMetric(**PROTOCOL)  # type: ignore[arg-type]
    for start, end in ((0, 1), (1, 5), (5, 7)):
        metric.update(pred[start:end], target[start:end])
    expected = depth_metrics(pred, target, **PROTOCOL)  # type: ignore[arg-type]
    found = metric.compute()
    assert {name: value.item() for name, value in found.items()} == expected.as_dict()
    assert all(value.dtype == torch.float64 for value in found.values())
    assert metric.depth_metrics() == expected  # with the numbers of pixels


def test_by_hand_with_a_mask() -> None:
    metric = DepthMetric()
    metric.update(torch.tensor([[3.0, 9.0]]), torch.tensor([[2.0, 4.0]]), torch.tensor([[True, False]]))
    metric.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    found = metric.compute()
    assert found["abs_rel"] == pytest.approx((0.5 + (0 + 0.5) / 2) / 2)
    assert found["sq_rel"] == pytest.approx((0.5 + (0 + 1) / 2) / 2)
    assert found["rmse"] == pytest.approx((1 + 2**0.5) / 2)
    assert found["a1"] == pytest.approx((0 + 0.5) / 2) and found["a2"] == pytest.approx((1 + 0.5) / 2)


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    pred, target = scene(5)
    metric = DepthMetric(median_scaling=True)
    for start, end in ((0, 2), (2, 5)):
        batch = metric(pred[start:end], target[start:end])
        alone = depth_metrics(pred[start:end], target[start:end], median_scaling=True)
        assert {name: value.item() for name, value in batch.items()} == alone.as_dict()
    assert metric.compute()["rmse"].item() == depth_metrics(pred, target, median_scaling=True).rmse
    metric.reset()
    metric.update(pred[:1], target[:1])
    assert metric.compute()["rmse"].item() == depth_metrics(pred[:1], target[:1], median_scaling=True).rmse


def test_copies_go_on_by_themselves() -> None:
    pred, target = scene(4)
    metric = DepthMetric(median_scaling=True)
    metric.update(pred[:2], target[:2])
    copies = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    for other in copies:
        other.update(pred[2:], target[2:])
        assert other.compute()["abs_rel"].item() == depth_metrics(pred, target, median_scaling=True).abs_rel
    assert metric.compute()["abs_rel"].item() == depth_metrics(pred[:2], target[:2], median_scaling=True).abs_rel


def test_a_module_in_half_precision_keeps_the_sums() -> None:
    pred, target = scene(3)
    metric = DepthMetric(median_scaling=True)
    module = torch.nn.ModuleDict({"metric": metric})
    metric.update(pred, target)
    module.to(torch.bfloat16).half()
    assert metric.compute()["rmse"].item() == depth_metrics(pred, target, median_scaling=True).rmse


def test_in_a_collection() -> None:
    pred, target = scene(6)
    pred[1:] *= torch.linspace(0.5, 2, 37)[:, None]  # from the second image on, the two crops differ
    target[0, :, :20] = 0  # and in the first, they do not
    target[0, :, 33:] = 0
    both = {crop: DepthMetric(median_scaling=True, crop=crop) for crop in ("garg", "eigen")}
    collection = MetricCollection({**both}, prefix="val/")
    for index in range(6):
        collection.update(pred[index : index + 1], target[index : index + 1])
    found = collection.compute()
    assert set(found) == {f"val/{crop}_{name}" for crop in both for name in METRICS}
    for crop in ("garg", "eigen"):
        expected = depth_metrics(pred, target, median_scaling=True, crop=crop)
        assert found[f"val/{crop}_abs_rel"].item() == expected.abs_rel


def test_metrics_of_other_settings_that_agree_at_first_are_updated_separately() -> None:
    near, far = torch.full((1, 1, 8, 8), 5.0), torch.full((1, 1, 8, 8), 50.0)
    far[..., 0] = 5.0
    collection = MetricCollection({"near": DepthMetric(max_depth=20), "all": DepthMetric(max_depth=80)})
    collection.update(near * 1.1, near)
    collection.update(torch.full_like(far, 5.0), far)
    found = collection.compute()
    values = [value.item() for name, value in found.items() if name.endswith("abs_rel")]
    assert sorted(values) == pytest.approx([0.05, (0.1 + 0.9 * 7 / 8) / 2])


def test_images_without_a_valid_pixel() -> None:
    pred, target = scene(3)
    target[1] = 0
    with pytest.raises(ValueError, match="image 1 of the batch has 0 valid pixels"):
        DepthMetric(median_scaling=True).update(pred, target)
    metric = DepthMetric(median_scaling=True, leave_out_empty=True)
    metric.update(pred, target)
    assert metric.compute()["abs_rel"].item() == depth_metrics(pred[::2], target[::2], median_scaling=True).abs_rel
    metric.reset()
    metric.update(pred[1:2], target[1:2])
    with pytest.raises(InputError, match="no image with a valid pixel"):
        metric.compute()


def test_sums_are_exact() -> None:
    values = [0.1, 1e-9, 6.4e6, 0.3, 80.0, 2.0**-44]
    parts = [_split(value) for value in values]
    assert [float(_joined(part)) for part in parts] == values
    forwards = [sum(column) for column in zip(*parts, strict=True)]
    backwards = [sum(column) for column in zip(*reversed(parts), strict=True)]
    assert _joined(forwards) == _joined(backwards) and float(_joined(forwards)) == 6400080.400000001


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from hybrid_encoder.evaluation.torchmetrics import DepthMetric
sys.path.insert(0, {tests!r})
from test_torchmetrics import scene
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
pred, target = scene(9)
mine = slice(0, 2) if rank == 0 else slice(2, 9)
metric = DepthMetric(median_scaling=True, crop="garg")
for index in range(9)[mine]:
    metric.update(pred[index : index + 1], target[index : index + 1])
own = metric.depth_metrics()
numbers = dict((name, value.item().hex()) for name, value in metric.compute().items())
assert metric.depth_metrics() == own  # what a process has seen stays its own
print(numbers)
dist.destroy_process_group()
"""


def test_two_processes_give_the_very_number_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    expected = depth_metrics(*scene(9), **PROTOCOL).as_dict()  # type: ignore[arg-type]
    wanted = str({name: value.hex() for name, value in expected.items()})
    assert [out.strip() for out, _ in outputs] == [wanted, wanted]


def test_without_the_package_one_sentence() -> None:
    code = "import sys; sys.modules['torchmetrics'] = None; from hybrid_encoder.evaluation import *; print('star')"
    code += "; import hybrid_encoder.evaluation.torchmetrics"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "star\n"  # the room does without it
    assert "ImportError: the package torchmetrics is missing; pip install 'hybrid-encoder[metrics]'." in found.stderr
