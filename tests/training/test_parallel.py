"""Several processes train as one would on all their batches together; as a script, this file is one of them."""

from __future__ import annotations

import atexit
import copy
import errno
import math
import os
import socket
import subprocess
import sys
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder import HybridDepthConfig, HybridDepthModel
from hybrid_encoder.data import OrderedPatches, PatchBatch, SyntheticDrive, SyntheticSequences, collate
from hybrid_encoder.errors import HybridEncoderError
from hybrid_encoder.losses import CoarseLoss
from hybrid_encoder.models.pose_network import PoseNetwork
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder
from hybrid_encoder.training.locking import LOCK
from hybrid_encoder.training.loop import make_accelerator, train
from hybrid_encoder.training.loop_config import LoopConfig
from hybrid_encoder.training.parallel import (
    SyncedBatchNorm,
    is_main_process,
    is_parallel,
    process_state,
    shares_of,
    synchronize_batch_norm,
)
from hybrid_encoder.training.recipes import COARSE
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.view_synthesis import FineStage

STEPS, SECONDS = 3, 480
PLAIN = (2, 1), (4, 1)
# Size and number of the batches of a step: of each of two processes, and of one that does the same.
KINDS = {
    "coarse": PLAIN,
    "coarse, several batches": ((1, 2), (4, 1)),
    "fine": PLAIN,
    "fine, several batches": ((1, 2), (2, 2)),  # batch norm sees one batch of all processes at a time
    "sparse": ((1, 2), (4, 1)),
    "poisoned": PLAIN,
    "steep": PLAIN,
    "full": PLAIN,
    "used": PLAIN,
}


class Lanes(Dataset[OrderedPatches]):
    """Images with no, one, two ... lanes: the mean over lanes is not the mean of the processes' means."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> OrderedPatches:
        generator = torch.Generator().manual_seed(index)
        points = torch.rand(index % 6, 7, 2, generator=generator) * torch.tensor([95.0, 47.0])
        return OrderedPatches(torch.rand(3, 48, 96, generator=generator), points)


class Balanced(CoarseStage):
    """Scale the ranking loss down: it is in the hundreds here, and would hide an error of the contrastive one."""

    def compare(self, batch: PatchBatch) -> CoarseLoss:
        parts = super().compare(batch)
        return parts._replace(ranking=parts.ranking / 300)


class Sparse(Stage):
    """Each parameter is used for few of the items, so that most batches leave most of them out."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.tensor(0.5)) for _ in range(6))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        terms = [(self.weights[int(x) % 6] * x - 1).square() for x in batch.tolist()]
        return {"loss": torch.stack(terms).mean()}


class Poisoned(Stage):
    """A loss that is not finite in one of the processes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.weight.sum() * (math.nan if bool((batch == 5).any()) else 1.0)}


class Steep(Poisoned):
    """A finite loss whose gradient is not finite in one of the processes."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        loss = self.weight.sum() * 1.0
        loss.register_hook(lambda gradient: gradient * (math.inf if bool((batch == 5).any()) else 1.0))
        return {"loss": loss}


def _stage(kind: str) -> tuple[Stage, Dataset[Any], Any]:
    torch.manual_seed(0)
    if kind.startswith("coarse"):
        encoder = coarse_encoder("tiny", COARSE["small"], pretrained=False)
        if "several" in kind:
            for norm in encoder.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.requires_grad_(False)  # which keeps its statistics: those of a batch are not those of two
        return Balanced(encoder, True), Lanes(), collate
    if kind == "sparse":
        return Sparse(), [torch.tensor(float(i)) for i in range(12)], None  # type: ignore[return-value]
    if kind.startswith("fine"):
        config = HybridDepthConfig.preset("tiny")
        drives = [list(SyntheticDrive(seed=seed, num_frames=5, height=48, width=96)) for seed in range(4)]
        stage = FineStage(
            HybridDepthModel(config, pretrained=False),
            PoseNetwork("test_resnet", channels=16),
            language_loss=0.1,
            levels=(0, 1),
        )
        return stage, SyntheticSequences(drives, augment=True), None
    plain = Steep() if kind == "steep" else Poisoned()
    first = 6 if kind in ("full", "used") else 0  # without the item that is poisoned
    return plain, [torch.tensor(float(i)) for i in range(first, first + 12)], None  # type: ignore[return-value]


def _train(kind: str, folder: Path, alone: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    stage, items, collate_fn = _stage(kind)
    before = copy.deepcopy(stage.state_dict())
    # Not Adam: it makes steps of rounding errors where a gradient is zero.
    optimizer = torch.optim.SGD(stage.parameters(), 0.05, momentum=0.9)
    batch_size, accumulate = KINDS[kind][alone]
    config = LoopConfig(STEPS, batch_size, save_every=100, clip=1.0, seed=1, cpu=True, accumulate=accumulate)
    done = train(stage, items, optimizer, None, folder, config, collate=collate_fn)
    return {"before": before, "after": stage.state_dict(), "losses": done.losses}


def _refuse(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if __name__ == "__main__":
    place, rank = Path(sys.argv[1]), os.environ["RANK"]
    # The first to be registered is the last to run.
    left = place / f"rank{rank}.left"
    atexit.register(lambda: left.write_text(str(not dist.is_initialized())))
    for kind in KINDS:
        result: dict[str, Any]
        try:
            with pytest.MonkeyPatch.context() as patch:
                if kind == "full" and rank == "1":  # a disk that one of the processes cannot write to
                    patch.setattr(Path, "write_text", _refuse)
                result = _train(kind, place / kind, alone=False)
            assert is_parallel()
        except HybridEncoderError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        torch.save(result, place / f"{kind}.rank{rank}.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have filled, which took one run after the other: starting them takes long."""
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    (folder / "used").mkdir()
    try:
        with FileLock(folder / "used" / LOCK):
            said = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    assert [(folder / f"rank{rank}.left").read_text() for rank in range(2)] == ["True", "True"]
    return folder


def _results(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{kind}.rank{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coarse", "coarse, several batches", "fine", "fine, several batches", "sparse"])
def test_two_processes_train_as_one_with_the_whole_batch(kind: str, two_processes: Path, tmp_path: Path) -> None:
    alone = _train(kind, tmp_path / "alone", alone=True)
    moved = 0.0
    for result in _results(two_processes, kind):
        assert result["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for name, value in alone["after"].items():
            torch.testing.assert_close(result["after"][name], value, atol=1e-5, rtol=1e-5, msg=partial(add, name))
            assert torch.equal(result["before"][name], alone["before"][name])
            if value.is_floating_point() and "running" not in name:
                moved = max(moved, (value - alone["before"][name]).abs().max().item())
    assert moved > 0.01, "weights that hardly move are alike anyway"
    assert len(set(alone["losses"])) == STEPS
    assert [path.name for path in (two_processes / kind / "checkpoints").iterdir()] == [f"step_{STEPS:08d}"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both(two_processes: Path) -> None:
    errors = [result["error"] for result in _results(two_processes, "poisoned")]
    assert sorted("not finite in another process" in error for error in errors) == [False, True]
    assert all("at step " in error for error in errors) and sum("is nan" in error for error in errors) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("steep", ("NonFiniteLossError: the gradient's norm is", "NonFiniteLossError: the gradient's norm is")),
        ("full", ("cannot be saved (No space left on device)", "cannot be saved (another process failed)")),
        ("used", ("ConfigError: another run is using", "ConfigError: the main process cannot use")),
    ],
)
def test_what_stops_one_process_stops_both(kind: str, says: tuple[str, str], two_processes: Path) -> None:
    errors = [result["error"] for result in _results(two_processes, kind)]
    assert all(any(sentence in error for error in errors) for sentence in says), errors
    assert not list((two_processes / kind).glob("checkpoints/*"))


# -- in one process ----------------------------------------------------------------------------------------


def test_one_process_joins_no_group_and_each_run_gets_its_own_settings() -> None:
    for cpu in (False, True):
        state = process_state(cpu)
        assert (state.num_processes, state.process_index, is_main_process()) == (1, 0, True)
        expected = "cpu" if cpu or not torch.cuda.is_available() else "cuda"
        assert state.device.type == expected
        assert not dist.is_initialized()
    for precision in ("bf16", "no"):
        accelerator = make_accelerator(LoopConfig(1, 1, precision=precision, cpu=True))
        assert (accelerator.mixed_precision, accelerator.device.type) == (precision, "cpu")
    assert not dist.is_initialized()


def test_options_of_the_launcher_change_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "INDUCTOR", "MIXED_PRECISION": "bf16"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    accelerator = make_accelerator(LoopConfig(1, 1, cpu=True))
    assert accelerator.mixed_precision == "no"
    weight = nn.Linear(1, 1, bias=False)
    prepared = accelerator.prepare(weight)
    assert prepared is weight and accelerator.state.dynamo_plugin.backend.value == "NO"
    accelerator.backward(weight(torch.ones(1)).sum())
    assert weight.weight.grad is not None and weight.weight.grad.item() == 1


def test_batches_have_shares_by_their_number_of_terms() -> None:
    assert not is_parallel()
    for counts, shares in (((0,), [1.0]), ((3,), [1.0]), ((3, 1), [1.5, 0.5]), ((0, 0), [1.0, 1.0])):
        assert shares_of(counts, torch.device("cpu")).tolist() == shares


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_synced_batch_norm_alone_is_batch_norm(training: bool, affine: bool) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(5, eps=1e-3, momentum=0.3, affine=affine)
    for value in (*plain.parameters(), plain.running_mean, plain.running_var):
        assert value is not None
        nn.init.uniform_(value, 0.5, 1.5)
    synced = SyncedBatchNorm.of(copy.deepcopy(plain))
    x = torch.randn(3, 5, 4, 6, requires_grad=True)
    outputs, gradients = [], []
    for norm in (plain, synced):
        y = norm.train(training)(x)
        outputs.append(y)
        gradients.append(torch.autograd.grad((y * torch.arange(6)).square().sum(), [x, *norm.parameters()]))
    torch.testing.assert_close(outputs[1], outputs[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(synced.state_dict()[name], value, msg=name)


def test_synchronizing_keeps_parameters_names_and_what_comes_out() -> None:
    # EfficientNet's batch norm carries its activation.
    for backbone in ("test_resnet", "efficientnet_b0"):
        torch.manual_seed(0)
        network = PoseNetwork(backbone, channels=8, drop_path_rate=0.0)
        frozen = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
        frozen.requires_grad_(False)
        twin = copy.deepcopy(network)
        parameters, names = list(network.parameters()), list(network.state_dict())
        count = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        synchronize_batch_norm(network, torch.device("cpu"))
        assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
        assert list(network.state_dict()) == names
        made = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(made) == count > 3 and all(isinstance(m, SyncedBatchNorm) for m in made)
        assert [m.training for m in made] == [False] + [True] * (count - 1)
        pair = torch.rand(2, 2, 3, 64, 64)
        torch.testing.assert_close(network(*pair), twin(*pair))
        synchronize_batch_norm(network, torch.device("cpu"))
        assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == made, "once is enough"
