"""CLIP's text tower: how it reads, and a causal pass that computes a common beginning once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.tokens import VOCABULARY

NOT_READ = (
    "does not read CLIP's tokens up to the end of the text, nor SigLIP's; choose a CLIP, SigLIP, EVA or MobileCLIP of "
    "open_clip (RN50, ViT-B-16, ViT-B-16-SigLIP2, EVA02-B-16, MobileCLIP2-S2, ...), or prompts=None"
)
SIGLIP = re.compile(r"timm/.*SigLIP")  # repositories of tokenizers


@dataclass(frozen=True)
class Reading:
    """How a text tower reads a text.

    Args:
        causal: no token sees those after it; else all see all, padding included.
        at_end: the embedding is read at the text's end, else at the last place.
        places: how many tokens a text may have.
        tokenizer: repository of its tokenizer on the Hub; None for CLIP's own.
    """

    causal: bool
    at_end: bool
    places: int
    tokenizer: str | None

    @property
    def length(self) -> int | None:
        """What texts are padded to; None where nothing after their end matters."""
        return None if self.causal and self.at_end else self.places


def clip_text_tower(clip: nn.Module) -> tuple[Any, Reading]:
    """Return the module that holds the text tower of an open_clip model, and how it reads.

    Args:
        clip: of open_clip; ``architecture`` names it, and ``hub_tokenizer`` its tokenizer where that is on the Hub, as
            ``build_clip`` says them.

    Raises:
        ConfigError: a tower that reads neither as CLIP's nor as SigLIP's.
    """
    text: Any = getattr(clip, "text", clip)
    tokenizer = getattr(clip, "hub_tokenizer", None)
    pooled = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    causal = getattr(text, "attn_mask", None) is not None
    as_clip = tokenizer is None and getattr(text, "vocab_size", None) == VOCABULARY and pooled == "argmax"
    as_siglip = SIGLIP.match(tokenizer or "") is not None and pooled == "last" and not causal
    other = getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False)
    if other or not (as_clip or as_siglip):
        raise ConfigError(
            f"semantic.name is {getattr(clip, 'architecture', 'not said')!r}, whose text tower {NOT_READ}."
        )
    return text, Reading(causal, as_clip, int(text.positional_embedding.shape[0]), tokenizer)


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
