"""Shared fixtures: small models, built once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.cli import main

# The same examples in every run, so that a failure is of the change at hand; HYPOTHESIS_PROFILE=default searches anew.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
# Models this small gain nothing from a second thread, and on a busy machine threads wait for each other. The variable
# reaches the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave campaigns out unless ``-m`` names them: a seeded sample of each is among the other tests."""
    if "campaign" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("campaign")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]


@pytest.fixture
def images() -> torch.Tensor:
    """Two images of a size that is not a multiple of any patch."""
    return torch.rand(2, 3, 70, 106, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny() -> HybridDepthEncoder:
    torch.manual_seed(0)
    return HybridDepthEncoder("tiny", pretrained=False)


@pytest.fixture
def tiny_model() -> HybridDepthModel:
    torch.manual_seed(0)
    return HybridDepthModel("tiny", pretrained=False)


@pytest.fixture
def tiny_config() -> HybridEncoderConfig:
    return HybridEncoderConfig.preset("tiny")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real images (KITTI frames and others), which is not part of the project."""
    folder = Path(os.environ.get("HYBRID_ENCODER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is absent; HYBRID_ENCODER_DATA can name another folder")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``hybrid-encoder`` in this process: arguments to exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hybrid-encoder", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]]) -> Callable[..., None]:
    """``hybrid-encoder`` with wrong input ends with status 2 and says this, in one line where the error is ours."""

    def check(says: str, *arguments: object) -> None:
        code, _, err = run(*arguments)
        plain = " ".join(err.replace("│", " ").split())
        assert code == 2, (arguments, err)
        assert says in plain, (arguments, err)
        assert "Traceback" not in err
        if err.startswith("error:"):
            assert err.count("\n") == 1, err

    return check
