"""A small CLIP, trained from random weights on rendered streets and sentences about their parts.

The image tower sees whole frames, and every place of its last map is compared with the sentences about the regions
there, since places are what the depth prompts are compared with later; and it sees regions cut out, as CLIP does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.config import SemanticConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.tokens import END, START, ClipTokens
from hybrid_encoder.losses.captions import caption_contrastive_loss
from hybrid_encoder.pretraining.regions import CaptionBatch, shuffled_captions
from hybrid_encoder.towers.semantic import build_clip
from hybrid_encoder.training.stage import Stage

STRIDE = 32  # of the last map
MOST_SCALE = 100.0  # of the cosine similarities, as published


class ClipStage(Stage):
    """Train a residual CLIP on captioned regions (:class:`hybrid_encoder.pretraining.regions.CaptionBatch`).

    Args:
        config: of the CLIP; its image tower is a ResNet.
        shuffle: permute the captions of every batch: the control, which learns how frequent captions are, and nothing
            of what is where.

    Raises:
        ConfigError: an image tower without an attention pool over a map.

    Source: CLIP (Radford et al., ICML 2021); places of a map as MaskCLIP (Zhou et al., ECCV 2022) reads them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SemanticConfig, shuffle: bool = False) -> None:
        super().__init__()
        self.clip: Any = build_clip(config, pretrained=False)
        if not hasattr(getattr(self.clip.visual, "attnpool", None), "v_proj"):
            raise ConfigError(f"semantic.name is {config.name!r}; a ResNet CLIP is needed, such as RN50-quickgelu.")
        self.config, self.shuffle = config, shuffle
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)

    def forward(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """Return ``loss``, and ``accuracy``: the share of regions whose own caption is the most similar one."""
        if self.shuffle and self.training:
            batch = shuffled_captions(batch)
        images = torch.cat([self.encode_boxes(batch.images, batch.boxes), self.encode_images(batch.crops)])
        captions = self.encode_texts(batch.captions)
        if self.training:
            self.clamp_scale()  # what the last step made of it
        scale = self.clip.logit_scale.exp()
        loss = caption_contrastive_loss(images, captions, batch.which, scale)
        found = (F.normalize(images, dim=1) @ F.normalize(captions, dim=1).T).argmax(1)
        return {"loss": loss, "accuracy": (found == batch.which).float().mean().detach()}

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Bring the logarithm of the scale of similarities into 0 to ln 100, as CLIP does after every step."""
        self.clip.logit_scale.clamp_(0.0, math.log(MOST_SCALE))

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for AdamW: those of one axis, such as biases, norms and the scale, do not decay."""
        decays = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return [
            {"params": decays, "lr": lr, "weight_decay": weight_decay},
            {"params": others, "lr": lr, "weight_decay": 0.0},
        ]

    def encode_map(self, images: Tensor) -> Tensor:
        """Return the joint embedding of every place, (B, D, H / 32, W / 32), of RGB in [0, 1]."""
        visual = self.clip.visual
        x = visual.stem((images - self.mean) / self.std)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = layer(x)
        pool = visual.attnpool
        places: Tensor = pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1)))
        return places.permute(0, 3, 1, 2)

    def encode_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return the mean embedding of regions of whole images, (R, D).

        Args:
            images: RGB in [0, 1], (B, 3, H, W).
            boxes: number of the image, left, top, right, bottom in pixels, (R, 5).
        """
        from torchvision.ops import roi_align

        places = self.encode_map(images)
        found: Tensor = roi_align(places, boxes, 2, spatial_scale=1 / STRIDE, sampling_ratio=2, aligned=True)
        return found.mean((-2, -1))

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the embedding of whole small images of the tower's own size, (C, D), by its attention pool."""
        embedded: Tensor = self.clip.visual((images - self.mean) / self.std)
        return embedded

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of sentences, (M, D)."""
        rows = [tokens_of(text) for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=self.mean.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        clip = self.clip
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        embedded: Tensor = x[torch.arange(len(ids), device=ids.device), ends] @ clip.text_projection
        return embedded


@functools.lru_cache(maxsize=1 << 16)
def tokens_of(text: str) -> tuple[int, ...]:
    """Return CLIP's tokens of a sentence, with the start and the end."""
    return START, *ClipTokens().encode(text), END
