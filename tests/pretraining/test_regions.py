"""What a small CLIP learns from: regions of rendered streets, and sentences about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hybrid_encoder.data.street import StreetFrame
from hybrid_encoder.data.street.captions import distance_word
from hybrid_encoder.errors import InputError
from hybrid_encoder.pretraining import (
    CaptionedRegions,
    collate_captions,
    shuffled_captions,
    vocabulary_tokens,
)
from hybrid_encoder.pretraining.clip import tokens_of

SIZE = (64, 128)
Drives = Sequence[Sequence[StreetFrame]]


class TestRegions:
    def test_captions_are_true_of_their_boxes(self, drives: Drives) -> None:
        items = CaptionedRegions(drives, regions=40, crops=2, seed=0)
        frame, item = items.frames[1], items[1]
        assert item.boxes.shape == (40, 4) and item.crops.shape == (2, 3, 64, 64) and len(item.captions) == 42
        told = 0
        for (left, top, right, bottom), caption in zip(item.boxes.long().tolist(), item.captions, strict=False):
            assert 0 <= left < right <= SIZE[1] and 0 <= top < bottom <= SIZE[0]
            if caption.startswith("This patch"):
                depth = np.median(frame.depth[0, top:bottom, left:right])
                assert caption == f"This patch appears to be {distance_word(float(depth))}"
                told += 1
        assert 0 < told < 40

    def test_every_word_of_a_caption_is_known(self, drives: Drives) -> None:
        known = set(vocabulary_tokens())
        items = CaptionedRegions(drives, regions=30)
        assert all(
            known.issuperset(tokens_of(caption))
            for item in map(items.__getitem__, range(6))
            for caption in item.captions
        )

    def test_equal_captions_are_one(self, drives: Drives) -> None:
        items = CaptionedRegions(drives, regions=20, crops=1, seed=0)
        batch = collate_captions([items[0], items[1]])
        told = [*items[0].captions[:20], *items[1].captions[:20], items[0].captions[20], items[1].captions[20]]
        assert [batch.captions[place] for place in batch.which.tolist()] == told
        assert len(set(batch.captions)) == len(batch.captions) < len(told)
        assert batch.boxes[:, 0].tolist() == [0.0] * 20 + [1.0] * 20
        shuffled = shuffled_captions(batch, torch.Generator().manual_seed(0))
        assert sorted(shuffled.which.tolist()) == sorted(batch.which.tolist())
        assert shuffled.which.tolist() != batch.which.tolist()

    def test_nothing_to_draw_from_is_refused(self, drives: Drives) -> None:
        with pytest.raises(InputError, match="there are no frames"):
            CaptionedRegions([])
        with pytest.raises(InputError, match="crops is 0"):
            CaptionedRegions(drives, crops=0)
