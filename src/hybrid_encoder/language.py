"""Depth in words: the prompts through CLIP's text tower, and their likeness to every pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_encoder.config import DEPTH_WORDS, PromptConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.remember import Remembered, is_exporting

START, END, VOCABULARY = 49406, 49407, 49408  # of CLIP's byte-pair tokenizer
LOGIT_SCALE = 100.0


class DepthPrompts(nn.Module):
    """n depth prompts, near before far, as rows of one (n, D) matrix.

    Each row is L2-normalised, then the whole matrix is divided by its Frobenius norm (as published). Only the
    part of CLIP's text tower that the prompts read is kept: the embeddings of the words that occur, and as many
    positions as the longest prompt has (the tower is causal and read at the end of the text, so nothing after
    that matters).

    The result is kept until something it depends on changes, under ``torch.compile`` too; while any of that trains, it
    is computed with gradients at every call. The words that all prompts begin with go through the tower once for all
    of them, as what comes later cannot change what they give.

    Args:
        clip: an open_clip model whose text tower uses CLIP's own tokenizer, or other prompts, whose text tower these
            then share.
        config: template, words or number of learned tokens.

    Raises:
        ConfigError: another tokenizer, a prompt that is too long, or a word that the other prompts have not kept.
    """

    index: Tensor
    ends: Tensor
    folded: Tensor | None

    def __init__(self, clip: nn.Module, config: PromptConfig) -> None:
        super().__init__()
        text, table, kept = _text_tower(clip)
        ids = _token_ids(config)
        known = sorted({token for row in ids for token in row if token >= 0})
        if lost := [number for number, row in enumerate(ids) if not set(row) - {-1} <= set(kept)]:
            text_of = config.template.format("..." if config.words is None else config.words[lost[0]])
            raise ConfigError(
                f"the prompt {text_of!r} has words that this checkpoint's text tower has not kept: it holds those of "
                "its own prompts alone. Choose among these, or start from the whole CLIP."
            )
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
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in ids]), persistent=False)
        # Every prompt has tokens of its own: the last one is not shared even where all are alike.
        alike = (index == index[:1]).all(0)[:-1].tolist()
        self.shared = alike.index(False) if False in alike else length - 1

        self.word_ids = tuple(known)
        self.token_embedding = nn.Parameter(table.detach()[[kept.index(token) for token in known]].clone())
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
        _alive.add(self)

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
        if self.folded is not None:
            return self.folded
        parameters = list(self.parameters())
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        if torch.compiler.is_compiling() and not is_exporting() and not trains:
            kept: Tensor = _kept_matrix([parameter.detach() for parameter in parameters], self.index, self.dim)
            return kept
        return self._kept.get("prompts", parameters, self._encode)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _alive.add(self)  # a copy, or what was pickled

    def _encode(self) -> Tensor:
        # Kept in the parameters' own precision: it is little work and every pixel is compared with it.
        device = self.token_embedding.device.type
        casts = torch.amp.autocast_mode.is_autocast_available(device)  # not on every device
        with torch.autocast(device, enabled=False) if casts else contextlib.nullcontext():
            table: Tensor = self.token_embedding
            if self.tokens is not None:
                table = torch.cat([table, self.tokens])
            x = table[self.index] + self.positional_embedding
            x = _causal(self.transformer, x[:1, : self.shared], x[:, self.shared :])
            x = x[torch.arange(self.count, device=x.device), self.ends - self.shared]
            x = F.normalize(self.ln_final(x) @ self.text_projection, dim=-1)
            matrix: Tensor = x / x.norm()
            return matrix

    def fold(self) -> None:
        """Keep the matrix alone and let the text tower go: less memory for prediction, and nothing left to train."""
        with torch.inference_mode(False), torch.no_grad():
            self.folded = self().clone()
        for name in (*self._modules, *self._parameters):
            delattr(self, name)
        self.tokens = None

    def text_parameters(self) -> list[nn.Parameter]:
        """The text tower's parameters: all but the learned tokens."""
        return [parameter for name, parameter in self.named_parameters() if name != "tokens"]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def check_unfolded(self) -> None:
        """Raises ConfigError where the text tower has been let go."""
        if self.folded is not None:
            raise ConfigError(
                "the prompts are folded, and their text tower is gone; load the checkpoint again for one that can be "
                "saved, filled or given other prompts."
            )

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.check_unfolded()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.check_unfolded()
        self._kept.clear()
        super()._load_from_state_dict(*args, **kwargs)


# One operator to a compiler, which cannot ask at every call whether what is kept still holds. It must not depend on the
# object: each would be compiled anew.
_alive: WeakSet[DepthPrompts] = WeakSet()
_asked = getattr(torch.Tag, "cudagraph_unsafe", None)  # a replayed CUDA graph would not ask
_operator: Any = torch.library.custom_op  # that it takes tags came later than itself


@_operator("hybrid_encoder::prompts", mutates_args=(), **({"tags": [_asked]} if _asked else {}))  # type: ignore[untyped-decorator]
def _kept_matrix(parameters: list[Tensor], index: Tensor, dim: int) -> Tensor:
    """The matrix of the prompts whose ``index`` this is."""
    prompts = next((one for one in _alive if one.index.data_ptr() == index.data_ptr()), None)
    if prompts is None:
        raise RuntimeError("the compiled prompts are gone, or moved without their graph; compile the model again.")
    with torch.no_grad():
        own = list(prompts.parameters())
        if all(a.data_ptr() == b.data_ptr() for a, b in zip(own, parameters, strict=True)):
            matrix: Tensor = prompts().clone()  # a compiler may write into what it is given
            return matrix
        # Others in their place, as with torch.func.functional_call: of no use next time.
        names = [f"prompts.{name}" for name, _ in prompts.named_parameters()]
        others: Tensor = torch.func.functional_call(
            _Encoding(prompts), dict(zip(names, parameters, strict=True)), args=()
        )
        return others


@_kept_matrix.register_fake  # type: ignore[untyped-decorator]
def _(parameters: list[Tensor], index: Tensor, dim: int) -> Tensor:
    return parameters[0].new_empty(len(index), dim)


class _Encoding(nn.Module):
    def __init__(self, prompts: DepthPrompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self) -> Tensor:
        return self.prompts._encode()


def _causal(transformer: Any, shared: Tensor, own: Tensor) -> Tensor:
    """Texts that begin alike through a causal transformer: the beginning once, then the rest of each after it.

    Args:
        transformer: of open_clip.
        shared: the tokens that all texts begin with, (1, k, D).
        own: those of each text after them, (n, t, D).

    Returns:
        What becomes of the latter, (n, t, D).
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
            shared, own = checkpoint(_block, block, shared, own, use_reentrant=False)
        else:
            shared, own = _block(block, shared, own)
    return own


def _block(block: Any, shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """One residual attention block on both parts; the second also attends to the first."""
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


def _text_tower(clip: nn.Module) -> tuple[Any, Tensor, Sequence[int]]:
    """What holds the text tower, its token embeddings, and the tokens that these are of, in order."""
    if isinstance(clip, DepthPrompts):
        return clip, clip.token_embedding, clip.word_ids
    text: Any = getattr(clip, "text", clip)
    pooled = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    if getattr(text, "vocab_size", None) != VOCABULARY or pooled != "argmax" or text.attn_mask is None:
        raise ConfigError(
            "the text tower does not read CLIP's tokens causally up to the end of the text; choose an open_clip "
            "model with OpenAI's text tower (RN50, ViT-B-16, convnext_base, ...)."
        )
    return text, text.token_embedding.weight, range(VOCABULARY)


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
