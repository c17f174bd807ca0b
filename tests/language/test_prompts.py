from __future__ import annotations

import copy
import pickle
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import ConfigError, HybridDepthEncoder, PromptConfig
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.language import DepthPrompts, pixel_prompt_logits
from hybrid_encoder.towers.semantic import build_clip

from helpers.small_models import small_clip


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    torch.manual_seed(3)
    return build_clip(small_clip("RN50-quickgelu", layers=[1, 1, 1, 1], width=16), False)


def _full_length(clip: Any, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """All 77 positions through the text tower, as CLIP does it, read at the end of the text."""
    x = clip.transformer(x + clip.positional_embedding, attn_mask=clip.attn_mask)
    x = clip.ln_final(x)[torch.arange(len(ids)), (ids == 49407).int().argmax(1)] @ clip.text_projection
    x = x / x.norm(dim=-1, keepdim=True)
    matrix: torch.Tensor = x / x.norm()
    return matrix


def test_words_equal_the_full_text_tower(clip) -> None:  # type: ignore[no-untyped-def]
    import open_clip

    config = PromptConfig(words=DEPTH_WORDS)
    ids = open_clip.get_tokenizer("RN50")([config.template.format(word) for word in DEPTH_WORDS])
    with torch.no_grad():
        expected = _full_length(clip, ids, clip.token_embedding(ids))
        ours = DepthPrompts(clip, config)()
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert ours.norm() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("template", ["This patch appears to be {}", "{} it is", "a {} b c d e f"])
def test_learned_tokens_equal_the_full_text_tower(clip, template: str) -> None:  # type: ignore[no-untyped-def]
    import open_clip

    prompts = DepthPrompts(clip, PromptConfig(template=template, num_tokens=5))
    assert prompts.tokens is not None
    # "x" is one token: its place is where the learned token stands.
    ids = open_clip.get_tokenizer("RN50")([template.format("x")] * 5)
    place = int((ids[0] == open_clip.get_tokenizer("RN50")(["x"])[0, 1]).nonzero()[0])
    with torch.no_grad():
        x = clip.token_embedding(ids)
        x[:, place] = prompts.tokens
        expected = _full_length(clip, ids, x)
        torch.testing.assert_close(prompts(), expected, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=12)
@given(
    before=st.integers(0, 9),
    after=st.integers(0, 3),
    count=st.integers(2, 9),
    words=st.booleans(),
    recompute=st.booleans(),
)
def test_gradients_are_the_full_text_towers(before: int, after: int, count: int, words: bool, recompute: bool) -> None:
    import open_clip

    torch.manual_seed(4)
    whole = build_clip(small_clip("RN50-quickgelu", layers=[1, 1, 1, 1], width=16), False)
    template = " ".join([*["depth"] * before, "{}", *["it"] * after])
    phrases = ("x", "a very close one", "far", "x y", "not near", "there", "x far", "y", "z z z")[:count]
    config = PromptConfig(template=template, num_tokens=count, words=phrases if words else None)
    prompts = DepthPrompts(whole, config)
    prompts.transformer.grad_checkpointing = recompute
    sentences = [template.format(phrase if words else "x") for phrase in phrases]
    ids = open_clip.get_tokenizer("RN50")(sentences)
    x = whole.token_embedding(ids)  # type: ignore[operator]
    if prompts.tokens is not None:
        place = 1 + before  # after the start
        x = torch.cat([x[:, :place], prompts.tokens[:, None], x[:, place + 1 :]], dim=1)
    weight = torch.randn(count, prompts.dim)
    shared = [*prompts.transformer.parameters(), *prompts.ln_final.parameters()]
    shared += [] if prompts.tokens is None else [prompts.tokens]
    expected = torch.autograd.grad((_full_length(whole, ids, x) * weight).sum(), shared)
    matrix = prompts()
    torch.testing.assert_close(matrix, _full_length(whole, ids, x), atol=1e-6, rtol=0)
    for found, wanted in zip(torch.autograd.grad((matrix * weight).sum(), shared), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())), rtol=0)


def test_what_all_prompts_begin_with_is_read_once(clip) -> None:  # type: ignore[no-untyped-def]
    read = []
    prompts = DepthPrompts(clip, PromptConfig(num_tokens=50))
    hooks = [
        block.mlp.register_forward_hook(lambda _, given, out: read.append(out.shape[0] * out.shape[1]))
        for block in prompts.transformer.resblocks
    ]
    prompts()
    for hook in hooks:
        hook.remove()
    # Start and five words once; the learned token and the end for each.
    assert sum(read) == len(hooks) * (6 + 50 * 2)


def test_another_kind_of_attention_reads_every_prompt_from_the_start(clip) -> None:  # type: ignore[no-untyped-def]
    class Attention(torch.nn.MultiheadAttention):
        pass

    other = copy.deepcopy(clip)
    for block in other.transformer.resblocks:
        block.attn.__class__ = Attention
    config = PromptConfig(words=DEPTH_WORDS)
    torch.testing.assert_close(DepthPrompts(other, config)(), DepthPrompts(clip, config)(), atol=1e-6, rtol=0)


def test_only_what_the_prompts_read_is_kept(clip) -> None:  # type: ignore[no-untyped-def]
    prompts = DepthPrompts(clip, PromptConfig(num_tokens=5))
    assert prompts.token_embedding.shape[0] == 7, "start, end and five words"
    assert prompts.positional_embedding.shape[0] == 8


def test_tokens_can_start_from_words(clip) -> None:  # type: ignore[no-untyped-def]
    prompts = DepthPrompts(clip, PromptConfig(num_tokens=14, init="words"))
    assert prompts.tokens is not None
    tokens = prompts.tokens.detach()
    torch.testing.assert_close(tokens[0::2], tokens[1::2])  # seven words over fourteen tokens
    assert (tokens[0] - tokens[-1]).abs().max() > 0


def test_a_text_tower_of_another_kind_is_refused(clip) -> None:  # type: ignore[no-untyped-def]
    with (
        mock.patch.object(clip, "vocab_size", 32000),
        pytest.raises(ConfigError, match="does not read CLIP's tokens"),
    ):
        DepthPrompts(clip, PromptConfig())
    with pytest.raises(ConfigError, match=r"the longest prompt has \d+ tokens; this text tower takes 77"):
        DepthPrompts(clip, PromptConfig(template="very " * 90 + "{}"))


def test_prompts_after_prompts_with_the_same_words_are_the_same(clip) -> None:  # type: ignore[no-untyped-def]
    config = PromptConfig(words=DEPTH_WORDS)
    first = DepthPrompts(clip, config)
    second = DepthPrompts(first, config)
    with torch.no_grad():
        assert torch.equal(second(), first())
        # Some of the words, in another order and another sentence of known words: as from the whole CLIP.
        fewer = PromptConfig(template="{} this patch appears", words=("distant", "close", "very close"))
        torch.testing.assert_close(DepthPrompts(second, fewer)(), DepthPrompts(clip, fewer)(), atol=1e-6, rtol=0)
    assert second.transformer is first.transformer, "the text tower is shared"
    assert second.token_embedding is not first.token_embedding


def test_learned_tokens_after_words_start_from_them(clip) -> None:  # type: ignore[no-untyped-def]
    words = DepthPrompts(clip, PromptConfig(words=DEPTH_WORDS))
    config = PromptConfig(num_tokens=14, init="words")
    after, anew = DepthPrompts(words, config), DepthPrompts(clip, config)
    assert after.num_prompts == 14 and after.tokens is not None and anew.tokens is not None
    torch.testing.assert_close(after.tokens, anew.tokens, atol=1e-6, rtol=0)
    assert after().shape == (14, words.dim)
    with torch.no_grad():
        torch.testing.assert_close(after(), anew(), atol=1e-6, rtol=0)
    weight = torch.randn(words.dim, generator=torch.Generator().manual_seed(0))
    (after() @ weight).square().sum().backward()
    assert after.tokens.requires_grad and after.tokens.grad is not None
    assert after.tokens.grad.flatten(1).any(1).all(), "every token learns"
    # ... and learned ones can go on as others, but the words are gone.
    assert DepthPrompts(after, PromptConfig(num_tokens=3)).num_prompts == 3
    with pytest.raises(
        ConfigError,
        match=r"the prompt .* has words that this checkpoint's text tower has not kept",
    ):
        DepthPrompts(after, PromptConfig(words=DEPTH_WORDS))
    with pytest.raises(ConfigError, match="Choose among these, or start from the whole CLIP"):
        DepthPrompts(after, config)


def test_prompts_longer_than_the_earlier_ones_are_refused(clip) -> None:  # type: ignore[no-untyped-def]
    short = DepthPrompts(clip, PromptConfig(template="patch {}", words=("close", "very close")))
    longer = PromptConfig(template="patch patch {}", words=("close", "very close"))
    with pytest.raises(ConfigError, match="the longest prompt has 6 tokens; this text tower takes 5"):
        DepthPrompts(short, longer)


class TestKept:
    """Computed once, and again whenever something it depends on has changed."""

    @pytest.fixture
    def prompts(self, clip):  # type: ignore[no-untyped-def]
        return DepthPrompts(copy.deepcopy(clip), PromptConfig(num_tokens=4)).requires_grad_(False)

    @pytest.fixture
    def counted(self, prompts):  # type: ignore[no-untyped-def]
        with mock.patch.object(prompts, "_encode", wraps=prompts._encode) as encode:
            yield encode

    def test_once(self, prompts, counted) -> None:  # type: ignore[no-untyped-def]
        first = prompts()
        assert prompts() is first
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert prompts() is first
        assert counted.call_count == 1

    @pytest.mark.parametrize("kind", ["sgd", "adam", "adam_foreach", "adamw_fused"])
    def test_an_optimizer_step(self, prompts, counted, kind: str) -> None:  # type: ignore[no-untyped-def]
        token = prompts.tokens.requires_grad_(True)
        optimizer = {
            "sgd": lambda: torch.optim.SGD([token], 0.5),
            "adam": lambda: torch.optim.Adam([token], 0.5, foreach=False),
            "adam_foreach": lambda: torch.optim.Adam([token], 0.5, foreach=True),
            "adamw_fused": lambda: torch.optim.AdamW([token], 0.5, fused=True),
        }[kind]()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            before = prompts()
        live = prompts()
        assert live.requires_grad, "with gradients while something trains"
        live.sum().backward()
        optimizer.step()
        with torch.no_grad():
            after = prompts()
            assert (after - before).abs().max() > 1e-6
            assert prompts() is after

    def test_a_loaded_state_dict(self, prompts, counted) -> None:  # type: ignore[no-untyped-def]
        for assign in (False, True):
            before = prompts()
            state = {k: v + 0.1 * torch.randn_like(v) for k, v in prompts.state_dict().items()}
            prompts.load_state_dict(state, assign=assign)
            prompts.requires_grad_(False)
            assert (prompts() - before).abs().max() > 1e-6
        assert counted.call_count == 3

    def test_a_dtype_move_and_back(self, prompts, counted) -> None:  # type: ignore[no-untyped-def]
        before = prompts()
        assert prompts.to(torch.bfloat16)().dtype == torch.bfloat16
        after = prompts.float()()
        assert after.dtype == torch.float32
        assert 0 < (after - before).abs().max() < 0.05, "the rounding of the weights must show"
        assert counted.call_count == 3

    def test_an_inference_mode_result_serves_training(self, prompts) -> None:  # type: ignore[no-untyped-def]
        with torch.inference_mode():
            prompts()
        weight = torch.ones(prompts.dim, requires_grad=True)
        (prompts() @ weight).sum().backward()
        assert weight.grad is not None

    def test_copies_keep_their_own(self, prompts) -> None:  # type: ignore[no-untyped-def]
        before = prompts()
        for twin in (copy.deepcopy(prompts), pickle.loads(pickle.dumps(prompts))):
            with torch.no_grad():
                twin.tokens.add_(torch.randn_like(twin.tokens))
            assert (twin() - before).abs().max() > 1e-6
            assert prompts() is before


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(2, 40),
    dim=st.integers(2, 40),
    count=st.integers(2, 9),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
)
def test_logits_equal_the_formula(channels: int, dim: int, count: int, height: int, width: int) -> None:
    """Normalise each pixel, resample its channel axis (nearest), 100 x scalar product."""
    generator = torch.Generator().manual_seed(channels * 41 + dim)
    features = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    prompts = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    pixels = features.flatten(2).transpose(1, 2)
    pixels = F.interpolate(pixels / pixels.norm(dim=-1, keepdim=True), size=dim)
    expected = (100 * pixels @ prompts.T).transpose(1, 2).reshape(2, count, height, width)
    torch.testing.assert_close(pixel_prompt_logits(features, prompts), expected, atol=1e-4, rtol=1e-5)


def test_logits_of_a_black_pixel_are_finite_with_finite_gradients() -> None:
    features = torch.zeros(1, 8, 2, 2, requires_grad=True)
    pixel_prompt_logits(features, torch.randn(3, 8)).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_prompts_train_through_the_encoder(tiny: HybridDepthEncoder) -> None:
    assert tiny.prompts is not None
    assert tiny.prompts.tokens is not None
    tiny.set_trainable(text=False)
    tiny(torch.rand(1, 3, 64, 64))[0].square().mean().backward()
    assert tiny.prompts.tokens.grad is not None
    assert tiny.prompts.tokens.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tiny.prompts.text_parameters())


def test_compiled_prompts_take_other_parameters_beside_copies_that_hold_none(clip: torch.nn.Module) -> None:
    prompts = DepthPrompts(clip, PromptConfig(num_tokens=4))
    copies = [copy.copy(prompts) for _ in range(8)]  # they share the buffers, as an exported model's do
    for one in copies:
        one._parameters, one._modules = {}, {}
    others = [parameter.detach() * 1.5 for parameter in prompts.parameters()]
    found = torch.ops.hybrid_encoder.prompts(others, prompts.index, prompts.dim)
    expected = torch.func.functional_call(prompts, dict(zip(dict(prompts.named_parameters()), others, strict=True)), ())
    torch.testing.assert_close(found, expected)
