"""How good a small CLIP is on streets that it was not trained on, each number beside what a blind guesser reaches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.data.street.captions import OBJECT_KINDS, PATCH_SENTENCE, SIDES, describe
from hybrid_encoder.data.street.frame import StreetFrame, StreetObject
from hybrid_encoder.data.street.palette import COLOURS
from hybrid_encoder.losses.coarse import in_order, word_positions
from hybrid_encoder.models.base import evaluation_mode
from hybrid_encoder.pretraining.clip import ClipStage
from hybrid_encoder.pretraining.regions import LEAST_PIXELS, CaptionBatch


@torch.no_grad()
def measure_clip(
    stage: ClipStage, batches: Sequence[CaptionBatch], frames: Sequence[StreetFrame] = ()
) -> dict[str, float]:
    """Measure a CLIP on regions that it was not trained on.

    Args:
        stage: the CLIP, which stays in its mode.
        batches: regions with their captions.
        frames: whose objects are asked for their kinds and colours.

    Returns:
        Shares from 0 to 1, NaN where nothing can be asked:

        - ``captions``: of regions, whose own caption is the most similar one of its batch's; ``captions_majority``: of
          the most frequent caption of each batch.
        - ``words``: of patches, whose own distance word is the most similar one of seven; ``words_majority``: of the
          most frequent word.
        - ``order``: of pairs of patches of a frame with different words, whose nearer one is nearer in words; one half
          by chance.
        - ``kinds`` and ``colours``, with their ``_majority``: see :func:`measure_objects`; only with frames.
    """
    with evaluation_mode(stage):
        numbers = _measure_regions(stage, batches)
        return numbers | measure_objects(stage, frames) if frames else numbers


def _measure_regions(stage: ClipStage, batches: Sequence[CaptionBatch]) -> dict[str, float]:
    right, frequent, count = 0, 0, 0
    said: list[Tensor] = []
    true: list[Tensor] = []
    frames: list[Tensor] = []
    sentences = [PATCH_SENTENCE.format(word) for word in DEPTH_WORDS]
    numbers = {sentence: number for number, sentence in enumerate(sentences)}
    prompts = F.normalize(stage.encode_texts(sentences), dim=1)
    scale = stage.clip.logit_scale.exp()
    for start, batch in enumerate(batches):
        boxes = F.normalize(stage.encode_boxes(batch.images, batch.boxes), dim=1)
        crops = F.normalize(stage.encode_images(batch.crops), dim=1)
        texts = F.normalize(stage.encode_texts(batch.captions), dim=1)
        found = (torch.cat([boxes, crops]) @ texts.T).argmax(1)
        right += int((found == batch.which).sum())
        frequent += int(torch.bincount(batch.which).max())
        count += len(found)
        word = torch.tensor([numbers.get(batch.captions[place], -1) for place in batch.which[: len(boxes)].tolist()])
        said.append((scale * boxes @ prompts.T)[word >= 0])
        true.append(word[word >= 0])
        frames.append((batch.boxes[:, 0].long() + start * 10_000)[word >= 0])
    logits, word, frame = torch.cat(said), torch.cat(true), torch.cat(frames)
    return {
        "captions": right / count,
        "captions_majority": frequent / count,
        "words": float((logits.argmax(1) == word).double().mean()),
        "words_majority": _majority(word.tolist()),
        "order": order_in_words(word_positions(logits), word, frame),
    }


def measure_objects(stage: ClipStage, frames: Sequence[StreetFrame]) -> dict[str, float]:
    """Ask what and which colour the objects of frames are, by the class that is most similar to their box.

    A class is the mean of the sentences about it, as CLIP takes several: its name with every distance and side, as
    captions have them ("a red car close on the left"), and, of a kind, with every colour that captions say of it.

    Args:
        stage: the CLIP, in evaluation mode.
        frames: objects of fewer than 40 visible pixels are left out.

    Returns:
        ``kinds``: the share of objects whose own kind is the most similar one of all kinds that an object can be of.
        ``colours``: the share of the coloured ones whose own colour is the most similar one, of the object's own kind.
        With ``_majority``: the share of the most frequent kind or colour among the same objects. NaN without such
        objects.

    Source: sentences of a class, averaged: CLIP (Radford et al., ICML 2021), section 3.1.4.
    """
    seen = [[obj for obj in frame.objects if obj.pixels >= LEAST_PIXELS] for frame in frames]  # as those it learns from
    objects = [obj for several in seen for obj in several]
    if not objects:
        return dict.fromkeys(("kinds", "kinds_majority", "colours", "colours_majority"), math.nan)
    plain = {obj.kind for obj in objects if not obj.colour}
    named = {kind: [_class(stage, kind, c) for c in ([""] if kind in plain else COLOURS)] for kind in OBJECT_KINDS}
    kinds = F.normalize(torch.stack([torch.stack(several).mean(0) for several in named.values()]), dim=1)
    right, right_colours = 0, 0
    for frame, several in zip(frames, seen, strict=True):
        if not several:
            continue
        boxes = F.pad(torch.tensor([obj.box for obj in several], dtype=torch.float32), (1, 0))
        found = F.normalize(stage.encode_boxes(torch.from_numpy(frame.image)[None], boxes), dim=1)
        for obj, embedded in zip(several, found, strict=True):
            right += OBJECT_KINDS[int((kinds @ embedded).argmax())] == obj.kind
            if obj.colour:
                right_colours += tuple(COLOURS)[int((torch.stack(named[obj.kind]) @ embedded).argmax())] == obj.colour
    coloured = [obj.colour for obj in objects if obj.colour]
    return {
        "kinds": right / len(objects),
        "kinds_majority": _majority([obj.kind for obj in objects]),
        "colours": right_colours / len(coloured) if coloured else math.nan,
        "colours_majority": _majority(coloured),
    }


def _class(stage: ClipStage, kind: str, colour: str) -> Tensor:
    """Return the unit mean embedding of the sentences about things of a kind and colour, (D,)."""
    name = describe(StreetObject(kind, colour, (0, 0, 1, 1), 1.0, "ahead", False, 1))
    sentences = [f"{name} {word} {side}" for word in DEPTH_WORDS for side in SIDES.values()]
    return F.normalize(F.normalize(stage.encode_texts(sentences), dim=1).mean(0), dim=0)


def order_in_words(position: Tensor, word: Tensor, frame: Tensor) -> float:
    """Return how often the nearer of two patches of a frame has the nearer position; NaN without two to compare.

    Args:
        position: of each patch among the words, (N,), near before far.
        word: the number of its true word, (N,).
        frame: the number of its frame, (N,).
    """
    pairs = (frame[:, None] == frame) & (word[:, None] < word)
    if not bool(pairs.any()):
        return math.nan
    ordered = in_order(position[:, None], position)
    return float(ordered[pairs].mean())


def _majority(values: Sequence[str | int]) -> float:
    """Return the share of the most frequent value; NaN without values."""
    return max(Counter(values).values()) / len(values) if values else math.nan
