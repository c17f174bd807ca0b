"""CLIP's text tower: what of it the prompts keep, and a causal pass that computes a common beginning once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_encoder.config import PromptConfig
from hybrid_encoder.errors import ConfigError

START, END, VOCABULARY = 49406, 49407, 49408  # of CLIP's byte-pair tokenizer
LEARNED = -1  # stands among token ids for the place of a prompt's learned token


def clip_text_tower(clip: nn.Module) -> Any:
    """Return the module that holds the text tower of an open_clip model.

    Raises:
        ConfigError: a tower that does not read CLIP's own tokens causally up to the end of the text.
    """
    text: Any = getattr(clip, "text", clip)
    pooled = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    if getattr(text, "vocab_size", None) != VOCABULARY or pooled != "argmax" or text.attn_mask is None:
        raise ConfigError(
            "the text tower does not read CLIP's tokens causally up to the end of the text; choose an open_clip "
            "model with OpenAI's text tower (RN50, ViT-B-16, convnext_base, ...)."
        )
    return text


def token_ids(config: PromptConfig) -> list[list[int]]:
    """Return the token ids of each prompt; ``LEARNED`` stands for the prompt's learned token."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()

    def encode(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text)]

    if config.words is not None:
        return [[START, *encode(config.template.format(word)), END] for word in config.words]
    before, after = config.template.split("{}")
    return [[START, *encode(before), LEARNED, *encode(after), END] for _ in range(config.num_tokens)]


def encode_causally(transformer: Any, shared: Tensor, own: Tensor) -> Tensor:
    """Run texts with a common beginning through a causal transformer, the beginning only once.

    What stands later in a text cannot change what the beginning gives, so the result equals that of whole texts.

    Args:
        transformer: open_clip's.
        shared: embeddings of the tokens that all texts begin with, (1, k, D).
        own: embeddings of each text's tokens after these, (n, t, D).

    Returns:
        The outputs for ``own``, (n, t, D).
    """
    blocks = transformer.resblocks
    if not all(type(block.attn) is nn.MultiheadAttention for block in blocks):
        texts = torch.cat([shared.expand(len(own), -1, -1), own], dim=1)
        mask = torch.full((texts.shape[1],) * 2, float("-inf"), device=own.device, dtype=own.dtype).triu(1)
        result: Tensor = transformer(texts, attn_mask=mask)[:, shared.shape[1] :]
        return result
    recompute = transformer.grad_checkpointing and torch.is_grad_enabled()
    for block in blocks:
        if recompute:
            shared, own = checkpoint(_run_block, block, shared, own, use_reentrant=False)
        else:
            shared, own = _run_block(block, shared, own)
    return own


def _run_block(block: Any, shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Run one residual attention block on both parts; the second part also attends to the first."""
    (q1, k1, v1), (q2, k2, v2) = _queries_keys_values(block, shared), _queries_keys_values(block, own)
    texts, _, tokens, _ = q2.shape
    seen = torch.ones(tokens, tokens + k1.shape[2], dtype=torch.bool, device=own.device).tril(k1.shape[2])
    keys = torch.cat([k1.expand(texts, -1, -1, -1), k2], dim=2)
    values = torch.cat([v1.expand(texts, -1, -1, -1), v2], dim=2)
    return (
        _after_attention(block, shared, F.scaled_dot_product_attention(q1, k1, v1, is_causal=True)),
        _after_attention(block, own, F.scaled_dot_product_attention(q2, keys, values, attn_mask=seen)),
    )


def _queries_keys_values(block: Any, x: Tensor) -> Tensor:
    products = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return rearrange(products, "b t (three h d) -> three b h t d", three=3, h=block.attn.num_heads)


def _after_attention(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(block.attn.out_proj(rearrange(attended, "b h t d -> b t (h d)")))
    result: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return result
