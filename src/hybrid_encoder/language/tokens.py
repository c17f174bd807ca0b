"""Prompts as tokens: CLIP's, whose tokenizer comes with open_clip, and SigLIP's, whose files are on the Hub.

What a tokenizer of the Hub gave is kept in ``PromptConfig.token_ids``, so that a checkpoint is loaded without it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_encoder.config import PromptConfig
from hybrid_encoder.downloading.weights import hub_folder
from hybrid_encoder.errors import CheckpointError

START, END, VOCABULARY = 49406, 49407, 49408  # of CLIP's byte-pair tokenizer
LEARNED = -1  # stands among token ids for the place of a prompt's learned token

Ids = Sequence[int]


class ClipTokens:
    """CLIP's own tokens: a start, the text, an end, and zeros up to the length of a text."""

    start: Ids = (START,)
    end = END
    padding = 0

    def __init__(self) -> None:
        self._tokenizer = _clip_tokenizer()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without those around it."""
        return [int(token) for token in self._tokenizer.encode(text)]


@functools.cache
def _clip_tokenizer() -> Any:
    """Return CLIP's own tokenizer, which takes longer to make than a small model does."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class HubTokens:
    """The tokens of a sentence-piece tokenizer as SigLIP uses it: the text, an end, and padding.

    Args:
        repository: the tokenizer's, on the Hub.
        known: texts whose tokens are known; ``""`` stands for [end, padding].

    Attributes:
        used: the texts that were asked for, with their tokens.
    """

    start: Ids = ()

    def __init__(self, repository: str, known: Mapping[str, Ids]) -> None:
        self.repository = repository
        self.used: dict[str, list[int]] = {}
        self._known = known
        self._tokenizer: Any = None
        self.end, self.padding = self.encode("")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without those around it; of ``""``, the end and the padding."""
        if text not in self.used:
            self.used[text] = list(self._known[text]) if text in self._known else self._ask(text)
        return [*self.used[text]]

    def _ask(self, text: str) -> list[int]:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.repository)
        if not text:
            return self._end_and_padding()
        # What follows a learned token begins with a space, which some tokenizers keep in their tokens and which is lost
        # in cleaning: it is read behind a word.
        before = "a" if text[0].isspace() else ""
        return self._bare(before + text)[len(self._bare(before)) :]

    def _bare(self, text: str) -> list[int]:
        """Return the tokens of a text cleaned as for SigLIP's training, without an end."""
        cleaned = self._tokenizer.clean_fn(text)
        return [int(token) for token in self._tokenizer.tokenizer(cleaned, add_special_tokens=False).input_ids]

    def _end_and_padding(self) -> list[int]:
        inner = self._tokenizer.tokenizer
        end, padding, word = inner.eos_token_id, inner.pad_token_id, self._bare("a")
        rows = self._tokenizer(["", "a"], context_length=len(word) + 3).tolist()
        if None in (end, padding) or rows != [[end, *[padding] * (len(word) + 2)], [*word, end, padding, padding]]:
            raise CheckpointError(
                f"the tokenizer {self.repository!r} does not end a text with one token and padding, as SigLIP's do; "
                "remove it from the cache, so that it is downloaded again."
            )
        return [end, padding]


def load_tokenizer(repository: str) -> Any:
    """Return open_clip's wrapper of a tokenizer on the Hub.

    Raises:
        CheckpointError: it is not in the cache, and cannot be downloaded; or its files are damaged.
    """
    from open_clip.tokenizer import HFTokenizer

    folder, _ = hub_folder(
        repository,
        [("tokenizer.json", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map*.json"])],
        "the tokenizer of the prompts",
        "or choose a CLIP whose text tower reads CLIP's own tokens (ViT-B-16, EVA02-B-16, MobileCLIP2-S2, ...)",
    )
    try:
        return HFTokenizer(str(folder), clean="canonicalize")
    except Exception as error:  # the library raises what its parsers do
        raise CheckpointError(
            f"the tokenizer {repository!r} in {folder} cannot be read ({type(error).__name__}); remove this folder, "
            "and it is downloaded again."
        ) from error


def words_among(ids: Sequence[Ids]) -> list[int]:
    """Return the different tokens of prompts, ascending, without the places of learned ones."""
    return sorted({token for row in ids for token in row if token != LEARNED})


def token_ids(
    config: PromptConfig, repository: str | None, length: int | None
) -> tuple[list[list[int]], dict[str, list[int]]]:
    """Return the tokens of each prompt, and what is to be kept of a tokenizer from the Hub.

    Args:
        config: the prompts; ``LEARNED`` stands for the place of a learned token.
        repository: the tokenizer's on the Hub, None for CLIP's own.
        length: that shorter prompts are padded to; None leaves them as they are.

    Raises:
        CheckpointError: the tokenizer cannot be had.
    """
    tokens = ClipTokens() if repository is None else HubTokens(repository, config.token_ids)

    def encode(text: str) -> list[int]:
        return tokens.encode(text) if text.strip() else []

    if config.words is not None:
        bodies = [encode(config.template.format(word)) for word in config.words]
    else:
        before, after = config.template.split("{}")
        bodies = [[*encode(before), LEARNED, *encode(after)]] * config.num_tokens
    rows = [[*tokens.start, *body, tokens.end] for body in bodies]
    if length is not None:
        rows = [row + [tokens.padding] * (length - len(row)) for row in rows]
    return rows, getattr(tokens, "used", {})
