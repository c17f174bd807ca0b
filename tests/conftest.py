"""Shared fixtures: small models, built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig

# The same examples in every run, so that a failure is of the change at hand; HYPOTHESIS_PROFILE=default searches anew.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))


@pytest.fixture
def images() -> torch.Tensor:
    """Two pictures whose size is no multiple of any patch."""
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
    """The folder with real pictures (KITTI frames and others), which is not part of the project."""
    folder = Path(os.environ.get("HYBRID_ENCODER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is absent; HYBRID_ENCODER_DATA can name another folder")
    return folder
