"""What the words say of a picture: how similar every place is to every prompt, and what the prompts stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from hybrid_encoder.config import PromptConfig
from hybrid_encoder.similarity import at_least_float32


@dataclass(frozen=True, eq=False)
class DepthWords:
    """What a model's prompts say of a picture, cell by cell of the encoder's grid; ``prediction.words`` holds it.

    Of a batch, tensors have a leading B, and ``words[i]`` is that of one picture.

    Attributes:
        logits: of every cell against every prompt, near before far, (n, h, w): the mean over the four levels.
        image: what the model saw, RGB in [0, 1] at the size that it worked at, (3, H', W').
        names: of the prompts, (n,): the depth words, or ``"prompt 1"`` and so on where they are learned.
        template: the sentence around them, with ``{}`` in the place of the word.
        bins: the depths that they stand for, (n,), evenly spaced in log-depth over the model's range. Learned prompts
            stand for them only as far as a loss has taught it.
        metric: whether these are in metres.
    """

    logits: Tensor
    image: Tensor
    names: tuple[str, ...]
    template: str
    bins: Tensor
    metric: bool

    @property
    def nearest_prompt(self) -> Tensor:
        """The index of the most similar prompt of every cell, (h, w), int64."""
        return self.logits.argmax(-3)

    @property
    def confidence(self) -> Tensor:
        """Its share under a softmax over the prompts, (h, w), from 1 / n to 1."""
        return at_least_float32(self.logits).softmax(-3).amax(-3)

    @property
    def is_batch(self) -> bool:
        """Whether these are several pictures."""
        return self.logits.ndim == 4

    def __getitem__(self, index: int) -> DepthWords:
        """Return the words of one picture of a batch."""
        if not self.is_batch:
            raise IndexError(f"index is {index}; these are the words of one picture.")
        return self.changed(lambda values: values[index])

    def changed(self, change: Callable[[Tensor], Tensor]) -> DepthWords:
        """Return the same with logits and image changed."""
        return replace(self, logits=change(self.logits), image=change(self.image))


def prompt_names(prompts: PromptConfig) -> tuple[str, ...]:
    """Return what the prompts are called, near before far: their words, or ``"prompt k"`` from 1 where learned."""
    if prompts.words is not None:
        return prompts.words
    return tuple(f"prompt {number}" for number in range(1, prompts.num_tokens + 1))
