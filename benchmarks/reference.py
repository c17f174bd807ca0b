"""The single-frame model written straight from its description, without caches and reordered operations.

Every call encodes all prompts, at the full 77 positions; CLIP's maps go to DINO's grid before they are projected;
every pixel is stretched to the prompts' length before they are compared; the decoder resizes before it projects. The
layers are those of open_clip, timm and torch, and their weights are a model's own, so that both must give the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.config import HybridDepthConfig, PromptConfig
from hybrid_encoder.models.decoders import build_decoder
from hybrid_encoder.models.fusion import Fusion
from hybrid_encoder.towers.semantic import build_clip

START, END = 49406, 49407


class Reference(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to disparity (B, 1, H, W), with the weights of ``model``.

    For models with both towers (a CLIP ResNet, a timm DINOv2), learned prompts, and the decoder reading [logits, map].
    """

    def __init__(self, model: HybridDepthModel) -> None:
        super().__init__()
        config: HybridDepthConfig = model.config
        prompts = config.encoder.prompts
        if prompts is None or prompts.words is not None or prompts.decoder_input != "concat":
            raise ValueError("the reference is written for learned prompts, with the decoder reading [logits, map].")
        self.config = config.encoder
        state = model.state_dict()

        clip: Any = build_clip(config.encoder.semantic, pretrained=False)
        self.visual: Any = clip.visual
        self.visual.attnpool = nn.Identity()
        self.visual.load_state_dict(_part(state, "encoder.semantic.visual."))
        self.text = Text(clip, prompts, _part(state, "encoder.prompts."))

        spatial = config.encoder.spatial
        dino: Any = timm.create_model(spatial.name, num_classes=0, dynamic_img_size=True, **spatial.overrides)
        self.taps = spatial.blocks or tuple((i + 1) * len(dino.blocks) // 4 - 1 for i in range(4))
        dino.blocks = nn.ModuleList(dino.blocks[: max(self.taps) + 1])
        dino.load_state_dict(_part(state, "encoder.spatial.model."))
        self.dino = dino

        widths = [int(self.visual.get_submodule(f"layer{i}")[-1].conv3.out_channels) for i in (1, 2, 3, 4)]
        fusion = Fusion(widths, [dino.embed_dim] * 4, config.encoder.fusion)
        fusion.load_state_dict(_part(state, "encoder.fusion."))
        self.align = fusion.align
        self.decoder: Any = build_decoder(model.encoder.feature_info.channels(), config.decoder)
        self.decoder.load_state_dict(_part(state, "decoder."))

        self.requires_grad_(False)
        for part in (self.visual, self.text, self.align, self.decoder, self.dino):
            part.requires_grad_(True)
        self.text.transformer.requires_grad_(False)
        if spatial.trainable_blocks != "all":
            self.dino.requires_grad_(False)
            for block in list(self.dino.blocks)[len(self.dino.blocks) - spatial.trainable_blocks :]:
                block.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        spatial = self._dino(_normalised(images, self.config.spatial))
        semantic = self._clip(_normalised(images, self.config.semantic))
        words = self.text()
        maps = []
        for dino, clip, align in zip(spatial, semantic, self.align, strict=True):
            fused = torch.cat([dino, align(F.interpolate(clip, dino.shape[-2:]))], dim=1)
            maps.append(torch.cat([_logits(fused, words), fused], dim=1))
        return self._decode(maps, (images.shape[-2], images.shape[-1]))

    def _clip(self, images: Tensor) -> list[Tensor]:
        x, maps = self.visual.stem(images), []
        for layer in (self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def _dino(self, images: Tensor) -> list[Tensor]:
        dino = self.dino
        patch = int(dino.patch_embed.patch_size[0])
        height, width = (max(1, round(length / patch)) for length in images.shape[-2:])
        if (height * patch, width * patch) != tuple(images.shape[-2:]):
            images = F.interpolate(images, (height * patch, width * patch), mode="bilinear", align_corners=False)
        x = dino.patch_embed(images).flatten(1, 2)
        x = torch.cat([dino.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(height, width)
        maps = []
        for index, block in enumerate(dino.blocks):
            x = block(x)
            if index in self.taps:
                tokens = dino.norm(x)[:, 1:]
                maps.append(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return maps

    def _positions(self, height: int, width: int) -> Tensor:
        table: Tensor = self.dino.pos_embed
        side = math.isqrt(table.shape[1] - 1)
        if (height, width) == (side, side):
            return table
        grid = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        scale = ((height + 0.1) / side, (width + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def _decode(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        decoder = self.decoder
        height, width = maps[0].shape[-2:]
        levels = [
            decoder.reassemble[i](decoder.resize[i](decoder.project[i](x))) for i, x in enumerate(maps)
        ]  # fine to coarse
        path: Tensor | None = None
        outputs = {}
        for level in (3, 2, 1, 0):
            block = decoder.fuse[level]
            path = levels[level] if path is None else path + _residual(block.skip, levels[level])
            target = levels[level - 1].shape[-2:] if level else [2 * length for length in levels[0].shape[-2:]]
            path = F.interpolate(_residual(block.refine, path), target, mode="bilinear", align_corners=True)
            path = block.out(path)
            if level in decoder.scales:
                head, part = decoder.heads[str(level)], 2**level
                working = (height * 16 // part, width * 16 // part)
                x = F.interpolate(head.reduce(path), working, mode="bilinear", align_corners=True)
                x = head.out(F.relu(head.hidden(x)))
                if decoder.activation == "relu":
                    x = F.relu(x)
                x = F.interpolate(x, (size[0] // part, size[1] // part), mode="bilinear", align_corners=True)
                outputs[level] = F.relu(x) if decoder.activation == "relu" else torch.sigmoid(x)
        return outputs[min(outputs)]


class Text(nn.Module):
    """The prompts as (n, D), through CLIP's text transformer at all its positions."""

    ids: Tensor
    mask: Tensor

    def __init__(self, clip: Any, config: PromptConfig, state: dict[str, Tensor]) -> None:
        super().__init__()
        text = getattr(clip, "text", clip)
        self.transformer, self.ln_final = text.transformer, text.ln_final
        self.token_embedding, self.positional_embedding = text.token_embedding, text.positional_embedding
        self.transformer.load_state_dict(_part(state, "transformer."))
        self.ln_final.load_state_dict(_part(state, "ln_final."))
        self.text_projection = nn.Parameter(state["text_projection"].clone())
        self.tokens = nn.Parameter(state["tokens"].clone())

        before, after = (SimpleTokenizer().encode(part) for part in config.template.split("{}"))
        ids = [START, *before, 0, *after, END]
        self.place, self.end = 1 + len(before), len(ids) - 1
        length = self.positional_embedding.shape[0]
        padded = torch.tensor(ids + [0] * (length - len(ids)))
        self.register_buffer("ids", padded, persistent=False)
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1), persistent=False)
        known = sorted({token for place, token in enumerate(ids) if place != self.place})
        with torch.no_grad():  # a model keeps the words and positions that its prompts read, and no others
            self.token_embedding.weight[known] = state["token_embedding"]
            self.positional_embedding[: len(state["positional_embedding"])] = state["positional_embedding"]

    def forward(self) -> Tensor:
        x = self.token_embedding(self.ids.expand(len(self.tokens), -1))
        x = torch.cat([x[:, : self.place], self.tokens[:, None], x[:, self.place + 1 :]], dim=1)
        x = self.transformer(x + self.positional_embedding, attn_mask=self.mask)
        x = self.ln_final(x)[:, self.end] @ self.text_projection
        x = x / x.norm(dim=-1, keepdim=True)
        matrix: Tensor = x / x.norm()
        return matrix


def _logits(fused: Tensor, words: Tensor) -> Tensor:
    """100 x pixel . prompt, with the pixel's channels stretched to the prompt's length."""
    pixels = fused.flatten(2).transpose(1, 2)
    pixels = pixels / pixels.norm(dim=-1, keepdim=True)
    products = 100 * F.interpolate(pixels, words.shape[1]) @ words.T
    logits: Tensor = products.transpose(1, 2).unflatten(2, fused.shape[-2:])
    return logits


def _residual(unit: Any, x: Tensor) -> Tensor:
    result: Tensor = x + unit.conv2(F.relu(unit.conv1(F.relu(x))))
    return result


def _normalised(images: Tensor, tower: Any) -> Tensor:
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (tower.mean, tower.std))
    return (images - mean) / std


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
