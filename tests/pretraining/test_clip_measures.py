"""How good a small CLIP is: the right numbers, where they are known beforehand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder import HybridEncoderConfig
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.data.street import StreetFrame
from hybrid_encoder.data.street.captions import SIDES, describe, distance_word
from hybrid_encoder.data.street.frame import StreetObject
from hybrid_encoder.pretraining import (
    CaptionBatch,
    CaptionedRegions,
    ClipStage,
    collate_captions,
    measure_clip,
    measure_objects,
    shuffled_captions,
)
from hybrid_encoder.pretraining.clip_measures import order_in_words
from hybrid_encoder.pretraining.regions import LEAST_PIXELS

TINY = HybridEncoderConfig.preset("tiny")
Drives = Sequence[Sequence[StreetFrame]]


class Knowing(torch.nn.Module):
    """A stage that embeds every text on an axis of its own, and every region as the text that it is told to say.

    Args:
        said: of the boxes of each call, in the order of the calls; None says of all regions what ``always`` is.
        always: that text.
    """

    def __init__(self, said: Sequence[Sequence[str]] | None = None, always: str = "") -> None:
        super().__init__()
        self.said, self.always, self.calls = said, always, 0
        self.axes: dict[str, int] = {}
        self.clip = SimpleNamespace(logit_scale=torch.tensor(math.log(100.0)))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [self.axes.setdefault(text, len(self.axes)) for text in texts]
        return F.one_hot(torch.tensor(rows), 4096).float()

    def encode_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        said = [self.always] * len(boxes) if self.said is None else self.said[self.calls][: len(boxes)]
        self.calls += 1
        assert len(said) == len(boxes)
        return self.encode_texts(said)

    def encode_images(self, images: Tensor) -> Tensor:
        said = [self.always] * len(images) if self.said is None else self.said[self.calls - 1][-len(images) :]
        return self.encode_texts(said)


def batches_of(drives: Drives) -> list[CaptionBatch]:
    items = CaptionedRegions(drives, regions=20, crops=2, seed=0)
    return [collate_captions([items[0], items[1], items[2]]), collate_captions([items[3], items[4], items[5]])]


def told(batch: CaptionBatch) -> list[str]:
    return [batch.captions[place] for place in batch.which.tolist()]


class TestRegions:
    def test_who_knows_everything_is_always_right(self, drives: Drives) -> None:
        batches = batches_of(drives)
        numbers = measure_clip(Knowing([told(batch) for batch in batches]), batches)  # type: ignore[arg-type]
        assert numbers["captions"] == numbers["words"] == numbers["order"] == 1.0
        assert set(numbers) == {"captions", "captions_majority", "words", "words_majority", "order"}

    def test_a_blind_guesser_reaches_the_share_of_the_most_frequent_caption(self, drives: Drives) -> None:
        """And no more than one half in order; this is what permuted captions can teach."""
        (batch, _) = batches_of(drives)
        ((frequent, count),) = Counter(told(batch)).most_common(1)
        numbers = measure_clip(Knowing(always=frequent), [batch])  # type: ignore[arg-type]
        assert numbers["captions"] == numbers["captions_majority"] == count / len(batch.which)
        assert count / len(batch.which) > 2 / len(batch.captions)  # far above one of all captions
        assert numbers["order"] == 0.5
        shuffled = shuffled_captions(batch, torch.Generator().manual_seed(0))
        assert Counter(told(shuffled)) == Counter(told(batch))  # a blind guesser learns it from these, too

    def test_words_majority_is_the_share_of_the_most_frequent_word(self, drives: Drives) -> None:
        batches = batches_of(drives)
        words = Counter(
            caption
            for batch in batches
            for caption in told(batch)[: len(batch.boxes)]
            if caption.startswith("This patch")
        )
        ((frequent, count),) = words.most_common(1)
        numbers = measure_clip(Knowing(always=frequent), batches)  # type: ignore[arg-type]
        assert numbers["words"] == numbers["words_majority"] == pytest.approx(count / words.total())

    def test_the_stage_stays_in_its_mode(self, drives: Drives) -> None:
        stage = ClipStage(TINY.semantic)
        before = {name: value.clone() for name, value in stage.state_dict().items()}
        measure_clip(stage.train(), batches_of(drives)[:1], drives[0])
        assert all(module.training for module in stage.modules())
        assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())


class TestOrder:
    def test_pairs_of_one_frame_with_different_words(self) -> None:
        word, frame = torch.tensor([0, 3, 6, 0, 6]), torch.tensor([0, 0, 0, 1, 1])
        position = torch.tensor([0.1, 5.0, 4.0, 2.0, 2.0])
        assert order_in_words(position, word, frame) == (1 + 1 + 0 + 0.5) / 4
        assert math.isnan(order_in_words(position, torch.zeros(5), frame))


class TestObjects:
    @staticmethod
    def seen(frames: Sequence[StreetFrame]) -> list[list[Any]]:
        return [[obj for obj in frame.objects if obj.pixels >= LEAST_PIXELS] for frame in frames]

    @staticmethod
    def sentence(obj: StreetObject) -> str:
        return f"{describe(obj)} {distance_word(obj.distance)} {SIDES[obj.side]}"

    @staticmethod
    def frames(drives: Drives) -> list[StreetFrame]:
        return [frame for drive in drives for frame in drive]

    def test_who_knows_kinds_is_always_right(self, drives: Drives) -> None:
        frames = self.frames(drives)
        said = [[self.sentence(obj) for obj in seen] for seen in self.seen(frames) if seen]
        kinds = Counter(obj.kind for seen in self.seen(frames) for obj in seen)
        numbers = measure_objects(Knowing(said), frames)  # type: ignore[arg-type]
        assert numbers["kinds"] == 1.0
        assert numbers["kinds_majority"] == max(kinds.values()) / kinds.total() < 1

    def test_who_knows_colours_is_always_right(self, drives: Drives) -> None:
        frames = self.frames(drives)
        said = [[self.sentence(obj) for obj in seen] for seen in self.seen(frames) if seen]
        colours = Counter(obj.colour for seen in self.seen(frames) for obj in seen if obj.colour)
        numbers = measure_objects(Knowing(said), frames)  # type: ignore[arg-type]
        assert numbers["colours"] == 1.0
        assert numbers["colours_majority"] == max(colours.values()) / colours.total() < 1

    def test_a_blind_guesser_reaches_the_majority(self, drives: Drives) -> None:
        frames = self.frames(drives)
        kinds = Counter(obj.kind for seen in self.seen(frames) for obj in seen)
        frequent = kinds.most_common(1)[0][0]
        one = next(obj for seen in self.seen(frames) for obj in seen if obj.kind == frequent)
        numbers = measure_objects(Knowing(always=self.sentence(one)), frames)  # type: ignore[arg-type]
        assert numbers["kinds"] == numbers["kinds_majority"]

    def test_nothing_to_ask(self) -> None:
        assert all(math.isnan(value) for value in measure_objects(Knowing(), []).values())  # type: ignore[arg-type]

    def test_every_word_that_is_asked_is_known(self, drives: Drives) -> None:
        from hybrid_encoder.pretraining import vocabulary_tokens
        from hybrid_encoder.pretraining.clip import tokens_of

        stage = Knowing(always="a car")
        measure_clip(stage, batches_of(drives), self.frames(drives))  # type: ignore[arg-type]
        known = set(vocabulary_tokens())
        assert len(stage.axes) > len(DEPTH_WORDS) + 19
        assert all(known.issuperset(tokens_of(text)) for text in stage.axes)
