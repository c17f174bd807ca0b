"""All models have one face: parts, optimizer groups, freezing, checkpointing, folding, saving and loading."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import (
    BevModel,
    CheckpointError,
    ConfigError,
    HybridDepthEncoder,
    HybridDepthModel,
    HybridMatchingEncoder,
    HybridMatchingModel,
    InputError,
    PromptConfig,
)
from hybrid_encoder.config import FORMAT_VERSION
from hybrid_encoder.geometry import depth_bins
from hybrid_encoder.models import HybridModel

from helpers.fake_hub import fake_hub
from helpers.plane_sweep import intrinsics, motions

ENCODER_PARTS = ["semantic", "spatial", "text", "prompts", "fusion"]
PARTS = {
    HybridDepthEncoder: ENCODER_PARTS,
    HybridDepthModel: [*ENCODER_PARTS, "decoder"],
    HybridMatchingEncoder: [*ENCODER_PARTS, "matching"],
    HybridMatchingModel: [*ENCODER_PARTS, "matching", "decoder"],
    BevModel: [*ENCODER_PARTS, "decoder", "bev"],
}


def build(kind: type[Any]) -> Any:
    torch.manual_seed(0)
    return kind("tiny", pretrained=False)


def inputs(kind: type[Any]) -> tuple[Tensor, ...]:
    images = torch.rand(1, 3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    if kind in (HybridDepthEncoder, HybridDepthModel):
        return (images[:, 0],)
    if kind is BevModel:
        cameras = torch.tensor([[40.0, 0, 47.5], [0, 40, 31.5], [0, 0, 1]])
        forward = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
        return images[:, :1], cameras[None, None], forward[None, None]
    K = intrinsics(16, 24)
    return images[:, 0], images[:, 1:], motions(1, 2), K, K.inverse()


def first_output(model: nn.Module, kind: type[Any]) -> Tensor:
    """Disparity, or the last of an encoder's maps."""
    with torch.no_grad():
        found: Any = model(*inputs(kind))
    while not isinstance(found, Tensor):
        found = one_of(found)
    return found


def one_of(found: Any) -> Any:
    if isinstance(found, dict):
        return found["vehicle"]
    return found[0] if isinstance(found, tuple) else found[-1]


every_model = pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)


@every_model
class TestEveryModel:
    def test_parts_cover_every_parameter_once(self, kind: type[Any]) -> None:
        model = build(kind)
        assert isinstance(model, HybridModel)
        parts = model.part_parameters()
        assert list(parts) == PARTS[kind]
        held = [id(p) for parameters in parts.values() for p in parameters]
        assert sorted(held) == sorted(id(p) for p in model.parameters())

    def test_groups_leave_out_what_is_frozen(self, kind: type[Any]) -> None:
        model = build(kind)
        model.set_trainable(semantic=False)
        groups = model.parameter_groups(1e-3, lr_scale={"fusion": 0.1}, weight_decay=0.2)
        assert [group["name"] for group in groups] == [part for part in PARTS[kind] if part != "semantic"]
        assert {group["name"]: group["lr"] for group in groups}["fusion"] == pytest.approx(1e-4)
        assert all(p.requires_grad for group in groups for p in group["params"])
        torch.optim.AdamW(groups)
        with pytest.raises(ConfigError, match="lr_scale names 'clip'; the parts are semantic"):
            model.parameter_groups(1e-3, lr_scale={"clip": 0.1})

    def test_each_part_freezes_alone_and_comes_back(self, kind: type[Any]) -> None:
        model = build(kind).train()
        trains = {name: p.requires_grad for name, p in model.named_parameters()}
        for part in PARTS[kind]:
            model.set_trainable(**{part: False})
            frozen = {id(p) for p in model.part_parameters()[part]}
            assert frozen == {id(p) for p in model.parameters() if not p.requires_grad}
            assert frozen == {id(p) for p in model.frozen_parameters()}
            model.set_trainable(**{part: True})
        assert {name: p.requires_grad for name, p in model.named_parameters()} == trains
        assert not model.frozen_parameters()
        with pytest.raises(TypeError, match="'clip'"):
            model.set_trainable(clip=False)

    def test_what_was_frozen_on_purpose_is_told_apart_from_flags(self, kind: type[Any]) -> None:
        model = build(kind)
        model.set_trainable(spatial=1, text=False)
        chosen = {id(p) for p in model.frozen_parameters()}
        assert chosen == {id(p) for p in model.parameters() if not p.requires_grad} != set()
        model.requires_grad_(False)
        assert {id(p) for p in model.frozen_parameters()} == chosen
        model.requires_grad_(True)
        assert {id(p) for p in model.frozen_parameters()} == chosen

    def test_a_frozen_model_stays_in_evaluation_mode(self, kind: type[Any]) -> None:
        model = build(kind)
        model.set_trainable(**dict.fromkeys(PARTS[kind], False))
        before = copy.deepcopy(model.state_dict())
        first_output(model.train(), kind)
        assert not any(module.training for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_gradient_checkpointing_changes_no_gradient(self, kind: type[Any]) -> None:
        gradients = []
        for enable in (False, True):
            model = build(kind).train()
            model.set_grad_checkpointing(enable)
            found: Any = model(*inputs(kind))
            while not isinstance(found, Tensor):
                found = one_of(found)
            found.square().mean().backward()
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], msg=name)

    def test_folded_prompts_give_the_same_numbers_and_cannot_be_saved(self, kind: type[Any], tmp_path: Path) -> None:
        model = build(kind).eval()
        expected, numbers = first_output(model, kind), sum(p.numel() for p in model.parameters())
        model.fold_prompts()
        torch.testing.assert_close(first_output(model, kind), expected, rtol=0, atol=0)
        assert sum(p.numel() for p in model.parameters()) < numbers
        with pytest.raises(ConfigError, match="the prompts are folded"):
            model.save_pretrained(tmp_path)

    def test_saved_and_loaded_it_is_the_same(self, kind: type[Any], tmp_path: Path) -> None:
        model = build(kind).eval()
        model.save_pretrained(tmp_path, notes="Random numbers.")
        content = json.loads((tmp_path / "config.json").read_text())
        assert content["class"] == kind.__name__ and content["format_version"] == FORMAT_VERSION
        assert f"{kind.__name__}.from_pretrained" in (tmp_path / "README.md").read_text()
        loaded = kind.from_pretrained(tmp_path)
        assert loaded.config == model.config and not loaded.training
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(first_output(loaded, kind), first_output(model, kind), rtol=0, atol=0)

    def test_pushed_and_loaded_it_is_the_same(self, kind: type[Any], tmp_path: Path) -> None:
        model = build(kind).eval()
        with fake_hub(tmp_path) as hub:
            model.push_to_hub("me/mine", notes="Random numbers.")
            pictures = {"preprocessor_config.json"} if kind is HybridDepthModel else set()
            assert set(hub.files["me/mine"]) == {"README.md", "config.json", "model.safetensors"} | pictures
            loaded = kind.from_pretrained("me/mine")
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        card = hub.files["me/mine"]["README.md"].decode()
        assert f'{kind.__name__}.from_pretrained("me/mine")' in card and "Random numbers." in card


@pytest.mark.parametrize(
    ("saved", "asked", "says"),
    [
        (HybridDepthEncoder, HybridDepthModel, "an encoder without a decoder, which cannot be .* HybridDepthModel"),
        (HybridDepthModel, HybridMatchingModel, "a single-frame model.*load it with HybridDepthModel.from_pretrained"),
        (HybridDepthModel, HybridMatchingEncoder, "a single-frame model"),
        (HybridMatchingEncoder, HybridMatchingModel, "a multi-frame encoder without a decoder"),
        (HybridMatchingModel, HybridDepthModel, "a multi-frame model.*load it with HybridMatchingModel"),
        (HybridMatchingModel, HybridDepthEncoder, "a multi-frame model"),
        (HybridMatchingEncoder, HybridDepthEncoder, "a multi-frame encoder"),
    ],
)
def test_a_checkpoint_of_another_kind_is_named(saved: type[Any], asked: type[Any], says: str, tmp_path: Path) -> None:
    build(saved).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        asked.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("whole", "part"), [(HybridDepthModel, HybridDepthEncoder), (HybridMatchingModel, HybridMatchingEncoder)]
)
def test_the_encoder_of_a_whole_model_loads_alone(whole: type[Any], part: type[Any], tmp_path: Path) -> None:
    model = build(whole)
    model.save_pretrained(tmp_path)
    encoder = part.from_pretrained(tmp_path)
    assert encoder.config == model.config.encoder
    torch.testing.assert_close(encoder.state_dict(), model.encoder.state_dict(), rtol=0, atol=0)


def test_a_multi_frame_model_predicts_at_the_size_of_the_images() -> None:
    model = build(HybridMatchingModel).train()
    prediction = model.infer(*inputs(HybridMatchingModel))
    assert model.training, "inference leaves the mode as it was"
    assert prediction.disparity.shape == (1, 1, 64, 96) and prediction.depth_m is None
    torch.testing.assert_close(prediction.relative_depth, model.to_depth(prediction.disparity))
    torch.testing.assert_close(first_output(model.eval(), HybridMatchingModel), prediction.disparity)
    assert set(model.forward_scales(*inputs(HybridMatchingModel))) == {0, 1, 2, 3}
    half = model.bfloat16().infer(*inputs(HybridMatchingModel))
    assert half.disparity.dtype == torch.float32 and half.disparity.isfinite().all()


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_no_state_changes_during_a_forward_pass(kind: type[Any]) -> None:
    model = build(kind).eval()

    def state() -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, module in model.named_modules():
            plain = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str, tuple))}
            kept |= {f"{name}.{k}": v for k, v in plain.items()}
        return {**kept, **{name: value.clone() for name, value in model.state_dict().items()}}

    before = state()
    first_output(model, kind)
    after = state()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name], name


def test_every_batch_is_looked_at_unless_told_otherwise() -> None:
    encoder = build(HybridDepthEncoder).eval()
    images = torch.rand(1, 3, 64, 64)
    call: Callable[[Tensor], Any] = encoder
    with torch.no_grad():
        call(images)
        with pytest.raises(InputError, match="divide bytes by 255"):
            call(images * 255)  # a good batch before it does not vouch for it
        encoder.check_values = False
        call(images * 255)


@pytest.mark.parametrize("kind", [HybridMatchingEncoder, HybridMatchingModel], ids=lambda kind: kind.__name__)
def test_depth_bins_are_those_that_are_asked_for(kind: type[Any], tmp_path: Path) -> None:
    model = build(kind)
    matching(model).compute_depth_bins(0.5, 12.0)
    model.save_pretrained(tmp_path)
    assert "linear ones from 0.5 to 12," in (tmp_path / "README.md").read_text()
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.config == model.config and matching(loaded).config.max_depth_bin == 12
    torch.testing.assert_close(matching(loaded).depth_bins, depth_bins(0.5, 12, 96))
    inverse = kind.from_pretrained(tmp_path, depth_binning="inverse")
    torch.testing.assert_close(matching(inverse).depth_bins, depth_bins(0.5, 12, 96, "inverse"))
    near = matching(loaded).config.replace(max_depth_bin=3.0)
    config = near if kind is HybridMatchingEncoder else loaded.config.replace(encoder=near)
    for options, spacing in (({}, "linear"), ({"depth_binning": "inverse"}, "inverse")):
        other = matching(kind.from_pretrained(tmp_path, config=config, **options))
        assert other.config == near.replace(depth_binning=spacing)
        torch.testing.assert_close(other.depth_bins, depth_bins(0.5, 3, 96, spacing))  # type: ignore[arg-type]


def matching(model: Any) -> HybridMatchingEncoder:
    found: HybridMatchingEncoder = model if isinstance(model, HybridMatchingEncoder) else model.encoder
    return found


def test_prompts_that_were_replaced_inside_a_model_are_saved(tmp_path: Path) -> None:
    model = build(HybridMatchingModel)
    prompts = PromptConfig(num_tokens=16, train_text=False)
    assert model.config.encoder.encoder.prompts != prompts
    model.encoder.encoder.set_prompts(prompts)
    model.save_pretrained(tmp_path)
    assert HybridMatchingModel.from_pretrained(tmp_path).config.encoder.encoder.prompts == prompts


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_an_option_that_does_not_exist_is_named_for_a_folder_too(kind: type[Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no option 'revison'; those of the Hub are revision, token"):
        kind.from_pretrained(tmp_path, revison="main")
