"""Models are built without memory for their weights, and take over what a file brings."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.checkpoints import no_initialisation
from hybrid_encoder.config import PromptConfig, SpatialConfig
from parity import fill

from helpers.small_models import small_clip, small_dino


def through_transformers(model_type: str) -> SpatialConfig:
    """A DINO model of transformers, as a checkpoint describes it."""
    config = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 64}
    return SpatialConfig(
        name="hf:org/name", pretrained=False, overrides={"config": {"model_type": model_type, **config}}
    )


ENCODERS: dict[str, Any] = {
    "ResNet and DINOv2": lambda: {},
    "ConvNeXt": lambda: {"semantic": small_clip("convnext_base")},
    "ViT": lambda: {"semantic": small_clip("ViT-B-16", width=64, layers=4, head_width=32)},
    "DINOv3": lambda: {"spatial": small_dino("vit_small_patch16_dinov3")},
    "DINOv2 with registers": lambda: {"spatial": small_dino("vit_small_patch14_reg4_dinov2")},
    "DINOv2 of transformers": lambda: {"spatial": through_transformers("dinov2")},
    "registers of transformers": lambda: {"spatial": through_transformers("dinov2_with_registers")},
    "DINOv3 of transformers": lambda: {"spatial": through_transformers("dinov3_vit")},
    "words": lambda: {"prompts": PromptConfig(words=("near", "far"))},
    "tokens that start from words": lambda: {"prompts": PromptConfig(num_tokens=4, init="words")},
    "no prompts": lambda: {"prompts": None},
    "one tower": lambda: {"towers": "spatial"},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_in_no_file_is_built_as_ever(
    kind: str, tiny_config: HybridEncoderConfig, images: torch.Tensor, tmp_path: Path
) -> None:
    """Buffers such as normalisation and rotary periods come from the constructor, all else from the file."""
    torch.manual_seed(0)
    built = HybridDepthEncoder(tiny_config.replace(**ENCODERS[kind]()), pretrained=False).eval()
    built.save_pretrained(tmp_path)
    loaded = HybridDepthEncoder.from_pretrained(tmp_path)
    for (name, one), (other_name, other) in zip(_tensors(built), _tensors(loaded), strict=True):
        assert name == other_name
        assert type(one) is type(other) and one.requires_grad == other.requires_grad
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with torch.no_grad():
        for a, b in zip(built(images), loaded(images), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def test_parameters_take_no_memory_and_other_threads_build_as_ever() -> None:
    elsewhere: list[nn.Module] = []
    with no_initialisation():
        here = nn.Sequential(nn.Linear(2**16, 2**16), nn.BatchNorm1d(4))  # 16 GB
        thread = threading.Thread(target=lambda: elsewhere.append(nn.Linear(3, 4)))
        thread.start()
        thread.join()
    assert all(parameter.is_meta for parameter in here.parameters())
    assert not any(buffer.is_meta for buffer in here.buffers())
    assert not any(parameter.is_meta for parameter in [*elsewhere[0].parameters(), *nn.Linear(3, 4).parameters()])


MEASURE = """
import re, resource, sys
from pathlib import Path
from hybrid_encoder import HybridDepthModel

def peak():
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone: what getrusage says begins with the parent's
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

HybridDepthModel.from_pretrained("tiny")  # all libraries are loaded
before = peak()
model = HybridDepthModel.from_pretrained(sys.argv[1])
size = sum(file.stat().st_size for file in Path(sys.argv[1]).iterdir())
sum(float(value.sum()) for value in model.state_dict().values())  # every page of it is there
print((peak() - before) / size)
if len(sys.argv) > 2:
    model.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow
def test_loading_holds_little_more_than_the_file(tmp_path: Path) -> None:
    """At full size, in both layouts: at most 1.2 times the file's size."""
    (tmp_path / "published").mkdir()
    fill.write_checkpoint("stage2_default", tmp_path / "published")
    for arguments in ((tmp_path / "published", tmp_path / "ours"), (tmp_path / "ours",)):
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        assert 0.5 < float(measured.stdout) < 1.2
