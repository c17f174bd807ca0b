"""The words read off all maps jointly, as the coarse stage taught them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.config import DEPTH_WORDS, HybridMatchingConfig, PromptConfig
from hybrid_encoder.data import OrderedDepth, SyntheticDrive, render_drives
from hybrid_encoder.data.ordered import PatchBatch, collate
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.language.fitting import fit_tokens
from hybrid_encoder.language.logits import joint_logits, pixel_prompt_logits
from hybrid_encoder.losses.coarse import patch_features, patch_order_accuracy
from hybrid_encoder.models.matching import HybridMatchingEncoder
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.fine import fine_model
from hybrid_encoder.training.recipes import COARSE, FINE

SIZE = (64, 208)


@given(
    channels=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dim=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_cell_is_read_as_the_coarse_stage_reads_patches(channels: list[int], dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, c, 3, 4, generator=generator) for c in channels]
    prompts = torch.randn(5, dim, generator=generator)
    logits = joint_logits(maps, prompts)
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    points = torch.stack([columns, rows], -1).reshape(1, 12, 2).repeat(2, 1, 1) * 8.0 + 3.5
    features = patch_features(maps, points, torch.tensor([0, 1]), (24, 32), dim)
    expected = (100 * features @ prompts.T).transpose(1, 2).reshape(2, 5, 3, 4)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("maps", "prompts", "says"),
    [
        ([], torch.ones(2, 4), "there are no maps"),
        ([torch.ones(1, 2, 3)], torch.ones(2, 4), r"maps\[0\] is \(1, 2, 3\)"),
        ([torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 4)], torch.ones(2, 4), r"maps\[1\] is \(1, 2, 3, 4\)"),
        ([torch.ones(1, 2, 3, 3)], torch.ones(4), r"prompts is \(4,\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(maps: list[Tensor], prompts: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        joint_logits(maps, prompts)


def test_zeros_have_no_direction_and_do_not_divide_by_zero() -> None:
    assert torch.equal(joint_logits([torch.zeros(1, 4, 2, 2)] * 2, torch.ones(3, 4)), torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0])
def test_short_and_zero_pixels_stay_finite_in_half_precision(size: float) -> None:
    maps = [torch.full((1, 8, 1, 1), size, dtype=torch.float16) for _ in range(4)]
    prompts = torch.eye(2, 8, dtype=torch.float16)
    for found in (joint_logits(maps, prompts), pixel_prompt_logits(maps[0], prompts)):
        assert found.dtype == torch.float16
        expected = 0.0 if size == 0 else 100 / 8**0.5
        torch.testing.assert_close(found.float(), torch.full((1, 2, 1, 1), expected), atol=0.05, rtol=0)


def test_fewer_levels_say_the_same(joint: HybridDepthEncoder, images: Tensor) -> None:
    with torch.no_grad():
        whole, part = joint.forward_features(images), joint.forward_features(images, levels=2)
    assert len(part.maps) == len(part.fused) == len(part.logits or ()) == 2
    for a, b in zip(whole.maps, part.maps, strict=False):
        torch.testing.assert_close(a, b)
    assert whole.logits is not None
    assert all(x is whole.logits[0] for x in whole.logits)


def test_a_model_comes_back_equal_and_old_files_are_read_as_published(
    joint: HybridDepthEncoder, images: Tensor, tmp_path: Path
) -> None:
    joint.save_pretrained(tmp_path)
    loaded = HybridDepthEncoder.from_pretrained(tmp_path).eval()
    assert loaded.config.prompts is not None
    assert loaded.config.prompts.readout == "joint"
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(joint(images), loaded(images), strict=True))
    assert "all maps jointly" in (tmp_path / "README.md").read_text()
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    del content["config"]["prompts"]["readout"]
    file.write_text(json.dumps(content))
    old = HybridDepthEncoder.from_pretrained(tmp_path).eval()
    assert old.config.prompts is not None
    assert old.config.prompts.readout == "published"
    with torch.no_grad():
        assert not torch.allclose(joint(images)[0], old(images)[0], atol=0.1)


def test_several_frames_are_read_jointly_too() -> None:
    torch.manual_seed(0)
    config = HybridMatchingConfig.preset("tiny")
    assert config.encoder.prompts is not None
    prompts = dataclasses.replace(config.encoder.prompts, readout="joint")
    encoder = HybridMatchingEncoder(config.replace(encoder=config.encoder.replace(prompts=prompts)), pretrained=False)
    image, K = torch.rand(1, 3, 64, 96), torch.eye(4)[None]
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = 15.0, 15.0, 11.5, 7.5
    with torch.no_grad():
        found = encoder.eval().forward_features(image, image[:, None], torch.eye(4)[None, None], K, K.inverse()).hybrid
    assert found.logits is not None
    assert found.prompt_embeddings is not None
    torch.testing.assert_close(found.logits[3], joint_logits(found.fused, found.prompt_embeddings))


def test_another_readout_is_refused(joint: HybridDepthEncoder) -> None:
    with pytest.raises(ConfigError, match=r"readout is 'both'.*published"):
        joint.set_readout("both")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HybridDepthEncoder]:
    """What a short coarse stage, on pixels in the order of their depth, has taught; and that encoder."""
    recipe = dataclasses.replace(COARSE["small"], size=SIZE, steps=60, sampling="cell")
    set_seed(0)
    encoder = coarse_encoder("tiny", recipe, pretrained=False)
    folder = tmp_path_factory.mktemp("coarse")
    weights = train_coarse(encoder, _ordered(range(12), 7), folder, recipe, cpu=True, workers=0)
    assert weights is not None
    return weights, encoder.eval()


def test_what_the_coarse_stage_taught_is_there_before_any_fine_step(coarse: tuple[Path, HybridDepthEncoder]) -> None:
    weights, encoder = coarse
    held_out = _ordered(range(1_000_000, 1_000_006), 2, seed=0)
    batch = collate([held_out[index] for index in range(len(held_out))])
    taught = _taught(encoder, batch)
    assert taught > 0.65
    joint = fine_model(weights, FINE["small"])
    assert joint.config.encoder.prompts is not None
    assert joint.config.encoder.prompts.words == DEPTH_WORDS
    published = fine_model(weights, dataclasses.replace(FINE["small"], readout="published"))
    assert abs(_order(joint, batch) - taught) < 0.02
    # The control: read off each map by itself, the words have lost much of it.
    assert _order(published, batch) < taught - 0.1


def test_a_whole_model_keeps_the_readout_that_its_decoder_knows(
    coarse: tuple[Path, HybridDepthEncoder], tmp_path: Path
) -> None:
    fine_model(coarse[0], FINE["small"]).save_pretrained(tmp_path)
    again = fine_model(tmp_path, dataclasses.replace(FINE["small"], readout="published"))
    assert again.config.encoder.prompts is not None
    assert again.config.encoder.prompts.readout == "joint"


def test_fitted_prompts_in_the_place_of_the_words_keep_their_order(coarse: tuple[Path, HybridDepthEncoder]) -> None:
    weights, encoder = coarse
    held_out = _ordered(range(1_000_000, 1_000_006), 2, seed=0)
    batch = collate([held_out[index] for index in range(len(held_out))])
    set_seed(0)
    recipe = dataclasses.replace(FINE["small"], prompts=16, prompts_init="fitted")
    fitted = fine_model(weights, recipe)
    prompts = fitted.encoder.prompts
    assert prompts is not None
    assert prompts.num_prompts == 16
    assert prompts.tokens is not None
    assert prompts.tokens.requires_grad
    assert abs(_order(fitted, batch) - _taught(encoder, batch)) < 0.03
    # The control: tokens that are made of the words' encodings are other prompts.
    assert _order(fine_model(weights, dataclasses.replace(recipe, prompts_init="words")), batch) < 0.7


def test_fixed_words_are_not_fitted(coarse: tuple[Path, HybridDepthEncoder]) -> None:
    prompts = coarse[1].prompts
    assert prompts is not None
    with pytest.raises(ConfigError, match="no learned tokens"):
        fit_tokens(prompts, prompts())


@pytest.mark.parametrize(
    ("asked", "prompts", "readout"), [(None, 4, "joint"), (None, None, "joint"), ("published", 4, "published")]
)
def test_a_recipe_that_names_no_readout_keeps_the_source_s(
    coarse: tuple[Path, HybridDepthEncoder], asked: Any, prompts: int | None, readout: str
) -> None:
    model = fine_model(coarse[0], dataclasses.replace(FINE["small"], readout=asked), prompts=prompts)
    assert model.encoder.config.prompts is not None
    assert model.encoder.config.prompts.readout == readout


def test_joint_words_are_the_same_under_compile(joint: HybridDepthEncoder, images: Tensor) -> None:
    with torch.no_grad():
        expected = joint(images)
        compiled = torch.compile(joint, fullgraph=True, backend="eager")(images)
    for a, b in zip(expected, compiled, strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture
def joint(tiny_config: HybridEncoderConfig) -> HybridDepthEncoder:
    torch.manual_seed(0)
    prompts = PromptConfig(num_tokens=6, readout="joint")
    return HybridDepthEncoder(tiny_config.replace(prompts=prompts), pretrained=False).eval()


def _ordered(seeds: range, points: int, seed: int | None = None) -> OrderedDepth:
    if seed is None:
        frames = [frame for drive in render_drives(seeds, 3, SIZE) for frame in drive]
    else:
        frames = [SyntheticDrive(s, 1, *SIZE)[0] for s in seeds]
    images, depths = [lambda f=f: f.image for f in frames], [lambda f=f: f.depth * f.valid for f in frames]
    return OrderedDepth(images, depths, SIZE, points, lanes=6 if seed is None else 60, seed=seed)


@torch.no_grad()
def _taught(encoder: HybridDepthEncoder, batch: PatchBatch) -> float:
    """Return the order of pairs by the coarse stage's own readout."""
    found = encoder.forward_features(batch.images)
    assert found.prompt_embeddings is not None
    dim = found.prompt_embeddings.shape[1]
    features = patch_features(found.fused, batch.points, batch.index, SIZE, dim)
    return patch_order_accuracy(100 * features @ found.prompt_embeddings.T)


@torch.no_grad()
def _order(model: HybridDepthModel, batch: PatchBatch) -> float:
    logits = model.eval().encoder.forward_features(batch.images).logits
    assert logits is not None
    mean = torch.stack(logits).mean(0)
    height, width = mean.shape[-2:]
    scale = torch.tensor([width / SIZE[1], height / SIZE[0]])
    x, y = ((batch.points + 0.5) * scale).long().unbind(-1)
    return patch_order_accuracy(mean[batch.index[:, None], :, y, x])
