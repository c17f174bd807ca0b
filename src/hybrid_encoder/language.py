"""Depth in words: the prompts through CLIP's text tower, and their likeness to every pixel."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.config import DEPTH_WORDS, PromptConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.remember import Remembered

START, END, VOCABULARY = 49406, 49407, 49408  # of CLIP's byte-pair tokenizer
LOGIT_SCALE = 100.0


class DepthPrompts(nn.Module):
    """n depth prompts, near before far, as rows of one (n, D) matrix.

    Each row is L2-normalised, then the whole matrix is divided by its Frobenius norm (as published). Only the
    part of CLIP's text tower that the prompts read is kept: the embeddings of the words that occur, and as many
    positions as the longest prompt has (the tower is causal and read at the end of the text, so nothing after
    that matters).

    The result is kept until something it depends on changes; while any of that trains, it is computed with
    gradients at every call.

    Args:
        clip: an open_clip model whose text tower uses CLIP's own tokenizer.
        config: template, words or number of learned tokens.
    """

    index: Tensor
    ends: Tensor
    mask: Tensor

    def __init__(self, clip: nn.Module, config: PromptConfig) -> None:
        super().__init__()
        text: Any = getattr(clip, "text", clip)
        pooled = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
        if getattr(text, "vocab_size", None) != VOCABULARY or pooled != "argmax" or text.attn_mask is None:
            raise ConfigError(
                "the text tower does not read CLIP's tokens causally up to the end of the text; choose an open_clip "
                "model with OpenAI's text tower (RN50, ViT-B-16, convnext_base, ...)."
            )
        ids = _token_ids(config)
        known = sorted({token for row in ids for token in row if token >= 0})
        length = max(map(len, ids))
        if length > text.positional_embedding.shape[0]:
            raise ConfigError(
                f"the longest prompt has {length} tokens; this text tower takes {text.positional_embedding.shape[0]}."
            )
        rows = {token: row for row, token in enumerate(known)}
        index = torch.zeros(len(ids), length, dtype=torch.long)
        for i, row in enumerate(ids):
            index[i, : len(row)] = torch.tensor([rows[t] if t >= 0 else len(known) + i for t in row])
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in ids]), persistent=False)
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1), persistent=False)

        self.word_ids = tuple(known)
        self.token_embedding = nn.Parameter(text.token_embedding.weight.detach()[known].clone())
        self.positional_embedding = nn.Parameter(text.positional_embedding.detach()[:length].clone())
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            projection = nn.Parameter(projection.weight.detach().T.clone())
        self.text_projection = projection
        self.dim = int(projection.shape[1])
        self.count = len(ids)
        self._kept = Remembered(size=1)

        self.tokens: nn.Parameter | None = None
        if config.words is None:
            width = self.token_embedding.shape[1]
            start = 0.02 * torch.randn(config.count, width)
            if config.init == "words":
                worded = DepthPrompts(clip, PromptConfig(template="{}", words=DEPTH_WORDS))
                start = F.interpolate(worded().detach().T[None, None], (width, config.count))[0, 0].T.contiguous()
            self.tokens = nn.Parameter(start)

    def forward(self) -> Tensor:
        """The prompt matrix (n, D)."""
        return self._kept.get("prompts", list(self.parameters()), self._encode)

    def _encode(self) -> Tensor:
        # Kept in the parameters' own precision: it is little work and every pixel is compared with it.
        device = self.token_embedding.device.type
        casts = torch.amp.autocast_mode.is_autocast_available(device)  # not on every device
        with torch.autocast(device, enabled=False) if casts else contextlib.nullcontext():
            table: Tensor = self.token_embedding
            if self.tokens is not None:
                table = torch.cat([table, self.tokens])
            x = table[self.index] + self.positional_embedding
            x = self.transformer(x, attn_mask=self.mask.to(x.dtype))
            x = x[torch.arange(self.count, device=x.device), self.ends]
            x = F.normalize(self.ln_final(x) @ self.text_projection, dim=-1)
            matrix: Tensor = x / x.norm()
            return matrix

    def text_parameters(self) -> list[nn.Parameter]:
        """The text tower's parameters: all but the learned tokens."""
        return [parameter for name, parameter in self.named_parameters() if name != "tokens"]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **kwargs)


def pixel_prompt_logits(features: Tensor, prompts: Tensor) -> Tensor:
    """How much each pixel looks like each prompt: 100 x (pixel / |pixel|) . prompt.

    Where pixels have C channels and prompts D != C, the pixel's channel axis is resampled to D (nearest), which
    equals summing the prompt entries that fall on the same channel; that is what is computed.

    Args:
        features: (B, C, h, w).
        prompts: (n, D), as ``DepthPrompts`` gives them.

    Returns:
        (B, n, h, w), near before far along n.
    """
    channels, dim = features.shape[1], prompts.shape[1]
    if channels != dim:
        source = (torch.arange(dim, device=prompts.device) * channels) // dim
        prompts = prompts.new_zeros(prompts.shape[0], channels).index_add(1, source, prompts)
    precise = torch.promote_types(features.dtype, torch.float32)
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=precise)
    products = F.conv2d(features, prompts.to(features.dtype)[:, :, None, None])
    scale: Tensor = LOGIT_SCALE / length.clamp_min(1e-12)
    return products * scale.to(products.dtype)


def _token_ids(config: PromptConfig) -> list[list[int]]:
    """Token ids of each prompt; -1 stands for the prompt's learned token."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()

    def encode(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text)]

    if config.words is not None:
        return [[START, *encode(config.template.format(word)), END] for word in config.words]
    before, after = config.template.split("{}")
    return [[START, *encode(before), -1, *encode(after), END] for _ in range(config.count)]
