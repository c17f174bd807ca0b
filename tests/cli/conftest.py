"""What the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.config import PromptConfig

from helpers.published_layout import small_config, write_published


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small single-frame checkpoint in the published layout."""
    torch.manual_seed(0)
    model = HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False)
    return write_published(model, tmp_path_factory.mktemp("published"))
