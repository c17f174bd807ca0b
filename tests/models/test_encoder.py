from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig, InputError
from hybrid_encoder.config import DEPTH_WORDS, FusionConfig, PromptConfig
from hybrid_encoder.errors import ConfigError

SETTINGS = [
    {},
    {"towers": "spatial"},
    {"towers": "semantic"},
    {"prompts": None},
    {"prompts": None, "towers": "spatial"},
    {"prompts": None, "towers": "semantic"},
    {"fusion": FusionConfig("convs2_interp", 32)},
    {"fusion": FusionConfig("convs2_interp", 32), "towers": "semantic"},
    {"prompts": PromptConfig(num_tokens=5, decoder_input="logits")},
    {"prompts": PromptConfig(words=DEPTH_WORDS)},
    {"prompts": PromptConfig(words=DEPTH_WORDS, readout="joint")},
    {"prompts": PromptConfig(num_tokens=5, decoder_input="logits", readout="joint"), "towers": "spatial"},
    {"fusion": FusionConfig("interp_conv1x1", 64)},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_every_variant_gives_what_it_declares(changes, tiny_config: HybridEncoderConfig, images: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    encoder = HybridDepthEncoder(tiny_config.replace(**changes), pretrained=False)
    result = encoder.forward_features(images)
    channels = encoder.feature_info.channels()
    assert encoder.feature_info.reduction() == [14] * 4
    assert [tuple(x.shape) for x in result.maps] == [(2, c, 5, 8) for c in channels]
    assert (result.class_token is None) == (encoder.config.towers == "semantic")
    config = encoder.config.prompts
    if config is None:
        assert result.logits is None
        assert result.prompt_embeddings is None
        assert all(a is b for a, b in zip(result.maps, result.fused, strict=True))
    else:
        assert result.logits is not None
        assert [x.shape[1] for x in result.logits] == [config.num_prompts] * 4
        whole = result.logits if config.decoder_input == "logits" else None
        for i, maps in enumerate(result.maps):
            expected = whole[i] if whole else torch.cat([result.logits[i], result.fused[i]], 1)
            torch.testing.assert_close(maps, expected)
    torch.stack([x.square().mean() for x in result.maps]).sum().backward()
    silent = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    # DINO's register and class token always matter; only the unused 'first' of nothing may be silent.
    assert not silent, f"no gradient reaches {silent[:3]}"


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(32, 120), width=st.integers(32, 120))
def test_any_size(batch: int, height: int, width: int) -> None:
    encoder = _shared()
    with torch.no_grad():
        maps = encoder(torch.rand(batch, 3, height, width))
    assert {tuple(x.shape[2:]) for x in maps} == {(round(height / 14), round(width / 14))}
    assert all(x.shape[0] == batch and x.isfinite().all() for x in maps)


def test_a_grid_has_at_least_one_cell(tiny_config: HybridEncoderConfig) -> None:
    """Where no DINO sets the grid, a stride of 64 leaves half a cell of the smallest image."""
    config = tiny_config.replace(towers="semantic", fusion=replace(tiny_config.fusion, grid_stride=64))
    encoder = HybridDepthEncoder(config, pretrained=False).eval()
    for size, grid in (((32, 32), (1, 1)), ((32, 160), (1, 2)), ((96, 100), (2, 2))):
        with torch.no_grad():
            maps = encoder(torch.rand(1, 3, *size))
        assert [tuple(x.shape[2:]) for x in maps] == [grid] * 4
    assert encoder.feature_info.reduction() == [64] * 4


_encoders: list[HybridDepthEncoder] = []


def _shared() -> HybridDepthEncoder:
    if not _encoders:
        torch.manual_seed(0)
        _encoders.append(HybridDepthEncoder("tiny", pretrained=False).eval())
    return _encoders[0]


def test_images_of_a_batch_do_not_see_each_other(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    tiny.eval()
    with torch.no_grad():
        together, alone = tiny(images), tiny(images[1:])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:], b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)], ids=str)
def test_autocast_stays_near_float32(
    tiny: HybridDepthEncoder, images: torch.Tensor, dtype: torch.dtype, apart: float
) -> None:
    tiny.eval()
    with torch.no_grad():
        exact = tiny.forward_features(images)
        with torch.autocast("cpu", dtype):
            rough = tiny.forward_features(images)
    for a, b in zip(exact.fused, rough.fused, strict=True):
        assert b.isfinite().all()
        assert 0 < (a - b.float()).abs().mean() < apart * a.std()
    with torch.autocast("cpu", dtype):
        torch.stack([x.float().mean() for x in tiny.train()(images)]).sum().backward()
    assert all(p.grad.isfinite().all() for p in tiny.parameters() if p.grad is not None)


def test_a_bf16_module_takes_float32_images(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    maps = tiny.to(torch.bfloat16).eval()(images)
    assert all(x.dtype == torch.bfloat16 and x.isfinite().all() for x in maps)


def test_blocks_below_the_first_that_trains_keep_nothing_for_a_backward_pass(
    tiny: HybridDepthEncoder,
    images: torch.Tensor,
) -> None:
    def kept(blocks: int) -> int:
        assert tiny.spatial is not None
        tiny.train().set_trainable(spatial=blocks)
        sizes: list[int] = []

        def keep(x: torch.Tensor) -> torch.Tensor:
            sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            maps, _ = tiny.spatial(images)
        assert maps[-1].requires_grad == (blocks > 0)
        return sum(sizes)

    nothing, one, two = (kept(blocks) for blocks in (0, 1, 2))
    assert nothing == 0
    assert one > 0
    assert 1.9 * one < two < 2.1 * one


def test_folded_prompts_give_the_same_and_hold_no_text_tower(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    tiny.eval()
    assert tiny.prompts is not None
    text = sum(parameter.numel() for parameter in tiny.prompts.parameters())
    whole = sum(parameter.numel() for parameter in tiny.parameters())
    state = tiny.state_dict()
    with torch.no_grad():
        expected = tiny(images)
        tiny.fold_prompts()
        tiny.fold_prompts()
        for a, b in zip(tiny(images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        for a, b in zip(copy.deepcopy(tiny)(images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        compiled = torch.compile(tiny, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images)[0], expected[0], rtol=1e-4, atol=1e-4)
    assert sum(parameter.numel() for parameter in tiny.parameters()) == whole - text
    assert text > 0
    tiny.set_grad_checkpointing()
    tiny.set_trainable(text=True, prompts=True)
    assert {group["name"] for group in tiny.parameter_groups(1e-3)} == {"semantic", "spatial", "fusion"}
    for refused in (tiny.state_dict, lambda: tiny.load_state_dict(state), lambda: tiny.set_prompts(PromptConfig())):
        with pytest.raises(ConfigError, match="the prompts are folded, and their text tower is gone; load the"):
            refused()


def test_folding_without_prompts_does_nothing(tiny_config: HybridEncoderConfig, images: torch.Tensor) -> None:
    encoder = HybridDepthEncoder(tiny_config.replace(prompts=None), pretrained=False).eval()
    encoder.fold_prompts()
    assert encoder.state_dict() and encoder(images)


def test_frozen_parts_stay_as_they_are_through_train(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    tiny.set_trainable(semantic=False, spatial=1, text=False)
    tiny.train()
    before = copy.deepcopy(tiny.state_dict())
    optimizer = torch.optim.SGD(tiny.parameter_groups(0.1))
    torch.stack([x.square().mean() for x in tiny(images)]).sum().backward()
    optimizer.step()
    changed = {name for name, value in tiny.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("fusion.", "prompts.tokens", "spatial.model.blocks.3.")) for name in changed), sorted(
        changed
    )[:3]
    assert "prompts.tokens" in changed
    # ... and what trains is in training mode.
    tiny.set_trainable(semantic=True)
    tiny(images)
    name = "semantic.visual.bn1.running_mean"
    assert not torch.equal(tiny.state_dict()[name], before[name])


def test_the_published_trainable_set() -> None:
    """Of CLIP the text tower's twelve blocks are frozen, of DINO all but the last one; prompts and fusion train."""
    config = HybridEncoderConfig.preset("paper")
    small = HybridEncoderConfig.preset("tiny").semantic.overrides
    twelve_blocks = {**small, "text_cfg": {**small["text_cfg"], "layers": 12}}
    encoder = HybridDepthEncoder(
        config.replace(
            semantic=replace(config.semantic, pretrained=None, overrides=twelve_blocks),
            spatial=replace(config.spatial, pretrained=False, overrides={"embed_dim": 48, "num_heads": 3}),
        )
    )
    trains = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {n for n in trains if n.startswith("spatial.")} == {
        n for n, _ in encoder.named_parameters() if n.startswith("spatial.model.blocks.11.")
    }
    text = ("token_embedding", "positional_embedding", "ln_final.weight", "ln_final.bias", "text_projection")
    assert {n for n in trains if n.startswith("prompts.")} == {f"prompts.{name}" for name in ("tokens", *text)}
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    blocks = {name.split(".")[3] for name in frozen if name.startswith("prompts.transformer.resblocks.")}
    assert blocks == {str(index) for index in range(12)}
    assert all(name.startswith(("prompts.transformer.", "spatial.")) for name in frozen)
    assert set(encoder.frozen_parameters()) == {parameter for _, parameter in encoder.named_parameters()} - {
        parameter for group in encoder.parameter_groups(1e-4) for parameter in group["params"]
    }


def test_around_frozen_blocks_the_text_tower_trains(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    tiny.set_trainable(text="all_but_blocks")
    tiny.train()
    before = copy.deepcopy(tiny.state_dict())
    optimizer = torch.optim.SGD(tiny.parameter_groups(0.1))
    torch.stack([x.square().mean() for x in tiny(images)]).sum().backward()
    optimizer.step()
    after = {name: value for name, value in tiny.state_dict().items() if name.startswith("prompts.")}
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert same == {name for name in after if name.startswith("prompts.transformer.")} and same
    with pytest.raises(ConfigError, match="text is 'blocks'; it must be true or false or 'all_but_blocks'"):
        tiny.set_trainable(text="blocks")  # type: ignore[arg-type]


def test_parameter_groups_hold_each_trainable_parameter_once(tiny: HybridDepthEncoder) -> None:
    tiny.set_trainable(spatial=False, text=False)
    groups = tiny.parameter_groups(1e-3, lr_scale={"semantic": 0.1}, weight_decay=0.2)
    assert [group["name"] for group in groups] == ["semantic", "prompts", "fusion"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-3, 1e-3])
    assert all(group["weight_decay"] == 0.2 for group in groups)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in tiny.parameters() if p.requires_grad}
    torch.optim.AdamW(groups)
    with pytest.raises(ConfigError, match="lr_scale names 'clip'"):
        tiny.parameter_groups(1e-3, lr_scale={"clip": 0.1})


def test_gradient_checkpointing_changes_nothing_but_memory(tiny: HybridDepthEncoder, images: torch.Tensor) -> None:
    twin = copy.deepcopy(tiny)
    twin.set_grad_checkpointing(True)
    for encoder in (tiny, twin):
        torch.stack([x.square().mean() for x in encoder.train()(images)]).sum().backward()
    for (name, a), b in zip(tiny.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for name, value in tiny.state_dict().items():  # batch-norm statistics move once, not twice
        torch.testing.assert_close(value, twin.state_dict()[name], msg=name)


def test_other_prompts_change_the_logits_and_what_is_said_of_the_maps(
    tiny_config: HybridEncoderConfig,
    images: torch.Tensor,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    words = PromptConfig(words=DEPTH_WORDS)
    encoder = HybridDepthEncoder(tiny_config.replace(prompts=words), pretrained=False).eval()
    with torch.no_grad():
        before = encoder.forward_features(images)
    encoder.set_prompts(words)
    with torch.no_grad():
        for one, other in zip(encoder(images), before.maps, strict=True):
            assert torch.equal(one, other)

    encoder.set_prompts(PromptConfig(num_tokens=12, init="words"))
    with torch.no_grad():
        result = encoder.forward_features(images)
    fused = [x.shape[1] for x in before.fused]
    assert encoder.feature_info.channels() == [c + 12 for c in fused] == [x.shape[1] for x in result.maps]
    assert all(torch.equal(a, b) for a, b in zip(result.fused, before.fused, strict=True))
    assert encoder.config.prompts == PromptConfig(num_tokens=12, init="words")
    encoder.set_prompts(PromptConfig(num_tokens=5, decoder_input="logits"))
    assert encoder.feature_info.channels() == [5] * 4 == [x.shape[1] for x in encoder(images)]

    encoder.save_pretrained(tmp_path)
    loaded = HybridDepthEncoder.from_pretrained(tmp_path)
    assert loaded.config == encoder.config
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(images), encoder(images), strict=True))


@pytest.mark.parametrize("text", [True, False])
def test_other_prompts_train_as_the_earlier_ones_did(
    tiny: HybridDepthEncoder, images: torch.Tensor, text: bool
) -> None:
    tiny.set_trainable(text=text, prompts=False)
    tiny.set_prompts(PromptConfig(num_tokens=6))
    assert tiny.prompts is not None and tiny.prompts.tokens is not None
    assert {p.requires_grad for p in tiny.prompts.text_parameters()} == {text}
    assert tiny.prompts.tokens.requires_grad
    groups = {group["name"]: group["params"] for group in tiny.parameter_groups(1e-3)}
    assert groups["prompts"] == [tiny.prompts.tokens] and ("text" in groups) is text
    torch.stack([x.square().mean() for x in tiny(images)]).sum().backward()
    assert tiny.prompts.tokens.grad is not None and tiny.prompts.tokens.grad.any()


def test_prompts_that_cannot_be_put_are_named(tiny: HybridDepthEncoder, tiny_config: HybridEncoderConfig) -> None:
    before, config = tiny.prompts, tiny.config
    with pytest.raises(ConfigError, match=r"has words that .* has not kept"):
        tiny.set_prompts(PromptConfig(words=DEPTH_WORDS))
    assert tiny.prompts is before and tiny.config == config, "refused, and nothing is changed"
    silent = HybridDepthEncoder(tiny_config.replace(prompts=None), pretrained=False)
    with pytest.raises(ConfigError, match="the encoder has no prompts, and no text tower for others"):
        silent.set_prompts(PromptConfig(num_tokens=6))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(1, 3, 8, 64), "images are 8 x 64; height and width must be at least 32"),
        (torch.rand(1, 2, 64, 64), r"shape \(1, 2, 64, 64\); \(B, 3, H, W\) is needed"),
        (torch.rand(3, 64, 64), r"\(B, 3, H, W\) is needed"),
        (torch.rand(0, 3, 64, 64), "empty batch"),
        (torch.rand(1, 3, 64, 64) * 255, r"RGB in \[0, 1\] is needed: divide bytes by 255"),
        (torch.randn(1, 3, 64, 64) * 2, "leave normalisation to the encoder"),
        (torch.full((1, 3, 64, 64), float("nan")), "values from nan"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "type torch.uint8; floats"),
        ([[1.0]], "a tensor"),
    ],
)
def test_bad_images_are_named(tiny: HybridDepthEncoder, images: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny(images)


def test_an_encoder_is_the_same_for_the_same_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(HybridDepthEncoder("tiny", pretrained=False).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
