"""The depth prompts: sentences about depth, encoded by CLIP's text tower."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.caching import TensorCache
from hybrid_encoder.compiling import has_autocast, is_exporting
from hybrid_encoder.config import DEPTH_WORDS, PromptConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.text_tower import Reading, clip_text_tower, encode_causally
from hybrid_encoder.language.tokens import END, LEARNED, ClipTokens, token_ids, words_among


class DepthPrompts(nn.Module):
    """n depth prompts, near before far, as rows of one (n, D) matrix.

    Each row is L2-normalised, then the whole matrix is divided by its Frobenius norm (as published).

    Only the part of CLIP's text tower that the prompts read is kept: the embeddings of the words that occur, and as
    many positions as the longest prompt has. OpenAI's tower is causal and read at the end of the text, so nothing after
    that matters, and the words that all prompts begin with are encoded once for all of them. In the towers of SigLIP
    and of most MobileCLIPs every token sees every other, padding too: these encode whole texts.

    The matrix is kept until something it depends on changes, under ``torch.compile`` too. While any of that trains, it
    is computed anew, with gradients, in every call.

    Args:
        clip: an open_clip model with a text tower as CLIP's or SigLIP's; or other prompts, whose text tower is then
            shared.
        config: template, words or number of learned tokens.

    Attributes:
        num_prompts: n.
        dim: D, the width of CLIP's joint space.
        config: what the prompts were built from; tokens that came from a tokenizer of the Hub are stored in it.
        reading: how the text tower reads.
        tokens: the learned tokens (n, width); None with fixed words, and after folding.
        word_ids: which of CLIP's tokens ``token_embedding`` holds, row by row.
        folded: the matrix itself once :meth:`fold` has let the text tower go, else None.

    Raises:
        ConfigError: another tokenizer, a prompt that is too long, or a word that the other prompts have not kept.
        CheckpointError: a tokenizer of the Hub that is not in the cache, and cannot be downloaded.
    """

    index: Tensor
    ends: Tensor
    folded: Tensor | None
    config: PromptConfig

    def __init__(self, clip: nn.Module, config: PromptConfig) -> None:
        super().__init__()
        text, table, kept, reading = _source(clip)
        if isinstance(clip, DepthPrompts):
            config = dataclasses.replace(config, token_ids={**clip.config.token_ids, **config.token_ids})
        ids, asked = token_ids(config, reading.tokenizer, reading.length)
        self.reading = reading
        self.config = dataclasses.replace(config, token_ids=asked)
        if isinstance(kept, range) and (highest := max(map(max, ids))) not in kept:
            raise ConfigError(
                f"the tokenizer {reading.tokenizer!r} gives the token {highest}, and this text tower has {len(kept)}; "
                "remove prompts.token_ids, or give the vocab_size of the tokenizer."
            )
        trained = getattr(clip, "known_tokens", None)  # of a small CLIP, which has seen few words
        if trained is not None and (
            strange := [i for i, row in enumerate(ids) if not {LEARNED, *trained}.issuperset(row)]
        ):
            word = "..." if config.words is None else config.words[strange[0]]
            said = config.template.format("" if config.words is None else word).split()
            never = [part for part in dict.fromkeys(said) if not trained.issuperset(ClipTokens().encode(part))]
            raise ConfigError(
                f"the prompt {config.template.format(word)!r} has words that this CLIP has never seen: "
                f"{', '.join(map(repr, never))}. Choose among those of hybrid_encoder.data.street.VOCABULARY, or take "
                "another CLIP."
            )
        known = words_among(ids)
        words = {LEARNED, *kept}
        if lost := [index for index, row in enumerate(ids) if not words.issuperset(row)]:
            sentence = config.template.format("..." if config.words is None else config.words[lost[0]])
            raise ConfigError(
                f"the prompt {sentence!r} has words that this checkpoint's text tower has not kept: it holds those of "
                "its own prompts alone. Choose among these, or start from the whole CLIP."
            )
        length = max(map(len, ids))
        if length > (places := text.positional_embedding.shape[0]):
            raise ConfigError(f"the longest prompt has {length} tokens; this text tower takes {places}.")
        rows = {token: row for row, token in enumerate(known)}
        index = torch.zeros(len(ids), length, dtype=torch.long)
        for i, row in enumerate(ids):
            index[i, : len(row)] = torch.tensor([rows[t] if t != LEARNED else len(known) + i for t in row])
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("folded", None, persistent=False)
        ends = [row.index(END) if reading.at_end else length - 1 for row in ids]
        self.register_buffer("ends", torch.tensor(ends), persistent=False)
        # The last position is where a prompt is read, so it is never shared, even where all prompts are equal.
        alike = (index == index[:1]).all(0)[:-1].tolist()
        self.shared = 0 if not reading.causal else alike.index(False) if False in alike else length - 1

        self.word_ids = tuple(known)
        self.token_embedding = nn.Parameter(table.detach()[[kept.index(token) for token in known]].clone())
        self.positional_embedding = nn.Parameter(text.positional_embedding.detach()[:length].clone())
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        projection, bias = text.text_projection, getattr(text, "text_projection_bias", None)
        if isinstance(projection, nn.Linear):
            bias = None if projection.bias is None else nn.Parameter(projection.bias.detach().clone())
            projection = nn.Parameter(projection.weight.detach().T.clone())
        self.text_projection: nn.Parameter | None = projection  # None: the width is that of the joint space
        self.text_projection_bias: nn.Parameter | None = bias
        self.dim = int(self.token_embedding.shape[1] if projection is None else projection.shape[1])
        self.num_prompts = len(ids)
        self._kept = TensorCache(size=1)
        _alive.add(self)

        self.tokens: nn.Parameter | None = None
        if config.words is None:
            width = self.token_embedding.shape[1]
            start = 0.02 * torch.randn(config.num_tokens, width)
            if config.init == "words":
                plain = PromptConfig(template="{}", words=DEPTH_WORDS, token_ids=config.token_ids)
                worded = DepthPrompts(clip, plain)
                asked = {**asked, **worded.config.token_ids}
                self.config = dataclasses.replace(config, token_ids=asked)
                if not worded.token_embedding.is_meta:  # else a checkpoint is about to bring them
                    start_words = worded().detach().T[None, None]
                    start = F.interpolate(start_words, (width, config.num_tokens))[0, 0].T.contiguous()
            self.tokens = nn.Parameter(start)

    def forward(self) -> Tensor:
        """Return the prompt matrix (n, D)."""
        if self.folded is not None:
            return self.folded
        parameters = list(self.parameters())
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        if torch.compiler.is_compiling() and not is_exporting() and not trains:
            kept: Tensor = _kept_matrix([parameter.detach() for parameter in parameters], self.index, self.dim)
            return kept
        return self._kept.get("prompts", parameters, self._encode)

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _alive.add(self)  # a copy, or what was pickled

    def _encode(self) -> Tensor:
        # In the parameters' own precision, autocast or not: it is little work, and every pixel is compared with it.
        device = self.token_embedding.device.type
        with torch.autocast(device, enabled=False) if has_autocast(device) else contextlib.nullcontext():
            table: Tensor = self.token_embedding
            if self.tokens is not None:
                table = torch.cat([table, self.tokens])
            x = table[self.index] + self.positional_embedding
            if self.reading.causal:
                x = encode_causally(self.transformer, x[:1, : self.shared], x[:, self.shared :])
            else:
                x = self.transformer(x)
            x = x[torch.arange(self.num_prompts, device=x.device), self.ends - self.shared]
            x = self.ln_final(x)
            if self.text_projection is not None:
                x = x @ self.text_projection
            if self.text_projection_bias is not None:
                x = x + self.text_projection_bias
            x = F.normalize(x, dim=-1)
            matrix: Tensor = x / x.norm()
            return matrix

    def fold(self) -> None:
        """Keep the matrix alone and drop the text tower: less memory for prediction, and nothing left to train."""
        with torch.inference_mode(False), torch.no_grad():
            self.folded = self().clone()
        for name in (*self._modules, *self._parameters):
            delattr(self, name)
        self.tokens = None

    def text_parameters(self, blocks: bool = True) -> list[nn.Parameter]:
        """Return the text tower's parameters, with or without its transformer's; not the learned tokens."""
        left_out = "tokens" if blocks else ("tokens", "transformer.")
        return [parameter for name, parameter in self.named_parameters() if not name.startswith(left_out)]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def has_words_of(self, config: PromptConfig) -> bool:
        """Return whether other prompts of the same text tower are of the very same tokens, in any order."""
        ids, _ = token_ids(config, self.reading.tokenizer, self.reading.length)
        return words_among(ids) == list(self.word_ids)

    def check_unfolded(self) -> None:
        """Raise ConfigError if the text tower has been dropped."""
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


# A compiled graph cannot check by itself whether the kept matrix is still valid, so it calls one custom operator that
# does. The operator finds the object by its buffer instead of closing over it, or every model would compile anew.
_alive: WeakSet[DepthPrompts] = WeakSet()
_unsafe = [torch.Tag.cudagraph_unsafe]  # a replayed CUDA graph would skip the check


@torch.library.custom_op("hybrid_encoder::prompts", mutates_args=(), tags=_unsafe)
def _kept_matrix(parameters: list[Tensor], index: Tensor, dim: int) -> Tensor:
    """Return the matrix of the prompts that own the buffer ``index`` and these parameters."""
    # Copies may share the buffer: an exported model's does, and has no parameters.
    owners = [
        one
        for one in list(_alive)
        if one.index.data_ptr() == index.data_ptr() and len(list(one.parameters())) == len(parameters)
    ]
    if not owners:
        raise RuntimeError("the prompts of this compiled graph were deleted or moved; compile the model again.")
    pointers = [parameter.data_ptr() for parameter in parameters]
    with torch.no_grad():
        for prompts in owners:
            if [parameter.data_ptr() for parameter in prompts.parameters()] == pointers:
                matrix: Tensor = prompts().clone()  # a compiler may write into what it is given
                return matrix
        # Other parameters in their place, as with torch.func.functional_call: computed, and not kept.
        names = [f"prompts.{name}" for name, _ in owners[0].named_parameters()]
        others: Tensor = torch.func.functional_call(
            _Encoding(owners[0]), dict(zip(names, parameters, strict=True)), args=()
        )
        return others


@_kept_matrix.register_fake
def _(parameters: list[Tensor], index: Tensor, dim: int) -> Tensor:
    return parameters[0].new_empty(len(index), dim)


class _Encoding(nn.Module):
    def __init__(self, prompts: DepthPrompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self) -> Tensor:
        return self.prompts._encode()


def _source(clip: nn.Module) -> tuple[Any, Tensor, Sequence[int], Reading]:
    """Return what holds the text tower, its token embeddings, which tokens these belong to, in order, and how it
    reads."""
    if isinstance(clip, DepthPrompts):
        return clip, clip.token_embedding, clip.word_ids, clip.reading
    text, reading = clip_text_tower(clip)
    return text, text.token_embedding.weight, range(text.token_embedding.weight.shape[0]), reading
