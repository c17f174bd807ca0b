"""One encoder made of CLIP, DINO and depth prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from hybrid_encoder.checkpoints.constants import constants_of, real_constants, refill
from hybrid_encoder.config import HybridEncoderConfig, PromptConfig
from hybrid_encoder.config.checking import Within, check_value, shown
from hybrid_encoder.config.parts import Readout, TrainText
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.logits import joint_logits, pixel_prompt_logits
from hybrid_encoder.language.prompts import DepthPrompts
from hybrid_encoder.models.base import HybridModel, find_config
from hybrid_encoder.models.fusion import Fusion
from hybrid_encoder.models.image_checks import check_images, check_value_range
from hybrid_encoder.towers.base import patch_grid
from hybrid_encoder.towers.dino import SpatialTower
from hybrid_encoder.towers.semantic import SemanticTower, build_clip
from hybrid_encoder.towers.spatial import build_spatial

Blocks = Union[bool, Annotated[int, Within(0, 1024)]]  # noqa: UP007  # Annotated has no | in Python 3.10


class HybridFeatures(NamedTuple):
    """Everything that one forward pass of the encoder computed.

    Attributes:
        maps: what a decoder reads, four (B, C_i, h, w).
        fused: the two towers' maps on one grid, four (B, C, h, w).
        logits: similarity to each prompt, four (B, n, h, w), near before far; None without prompts. With the joint
            readout they are one and the same tensor.
        class_token: DINO's, (B, C); None without that tower, or where its model has none.
        prompt_embeddings: (n, D); None without prompts.
    """

    maps: list[Tensor]
    fused: list[Tensor]
    logits: list[Tensor] | None
    class_token: Tensor | None
    prompt_embeddings: Tensor | None


class HybridDepthEncoder(HybridModel):
    """CLIP (what things are) and DINO (where they are), joined under depth prompts.

    Source: Hybrid-grained Feature Aggregation with Coarse-to-fine Language Guidance for Self-supervised
    Monocular Depth Estimation, ICCV 2025.

    Args:
        config: a preset name (``"paper"``, ``"small"``, ``"large"``, ``"tiny"``) or a configuration.
        pretrained: start the towers from the weights that the configuration names; False starts them
            from random ones. Trained weights come through ``from_pretrained``.

    Attributes:
        check_values: look at the values of images in every forward pass, which an accelerator waits for. Set it to
            False in a loop that is known to feed RGB in [0, 1].

    Example:
        >>> encoder = HybridDepthEncoder("tiny", pretrained=False)
        >>> maps = encoder(torch.rand(2, 3, 96, 320))
        >>> [tuple(x.shape) for x in maps] == [(2, c, 7, 23) for c in encoder.feature_info.channels()]
        True
    """

    config: HybridEncoderConfig
    config_class = HybridEncoderConfig

    def __init__(self, config: str | HybridEncoderConfig = "paper", *, pretrained: bool = True) -> None:
        super().__init__()
        config = find_config(HybridEncoderConfig, config)
        with real_constants():
            clip = build_clip(config.semantic, pretrained) if config.uses_semantic or config.prompts else None
            self.semantic = SemanticTower(clip.visual, config.semantic) if clip and config.uses_semantic else None
            self.spatial: SpatialTower | None = None
            if config.uses_spatial:
                self.spatial = build_spatial(config.spatial, pretrained)
            self.fusion = Fusion(
                self.semantic.channels if self.semantic else (),
                self.spatial.channels if self.spatial else (),
                config.fusion,
            )
            self.prompts = DepthPrompts(clip, config.prompts) if clip and config.prompts else None
        self._constants = constants_of(self)
        self.register_load_state_dict_post_hook(_put_constants_back)  # type: ignore[no-untyped-call]
        if self.spatial is not None:
            config = config.replace(spatial=self.spatial.config)
        if self.prompts is not None:
            config = config.replace(prompts=self.prompts.config)
        self.config = config
        self.check_values = True
        self._trains: dict[str, Any] = {}
        self.set_trainable(
            semantic=config.semantic.trainable,
            spatial=True if config.spatial.trainable_blocks == "all" else config.spatial.trainable_blocks,
            text=config.prompts.train_text if config.prompts else False,
            prompts=True,
            fusion=True,
        )

    # -- what comes out ----------------------------------------------------------------------------------

    @property
    def feature_info(self) -> Any:
        """Channels and reduction of the four maps, timm's own ``FeatureInfo`` (``channels()``, ``reduction()``)."""
        from timm.models import FeatureInfo

        prompts = self.config.prompts
        num_logits = 0 if self.prompts is None else self.prompts.num_prompts
        alone = prompts is not None and prompts.decoder_input == "logits"
        rows = [
            {"num_chs": num_logits + (0 if alone else fused), "reduction": self.stride, "module": f"level{level}"}
            for level, fused in enumerate(self.fusion.channels)
        ]
        return FeatureInfo(rows, (0, 1, 2, 3))

    @property
    def stride(self) -> int:
        """Pixels per grid cell; sizes that are no multiple of it go to the nearest grid."""
        return self.spatial.patch if self.spatial is not None else self.config.fusion.grid_stride

    def forward(self, images: Tensor) -> list[Tensor]:
        """Take RGB in [0, 1], (B, 3, H, W) with H and W from 32 up, to four decoder-ready maps (B, C_i, h, w)."""
        return self.forward_features(images).maps

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def forward_features(self, images: Tensor, levels: int = 4) -> HybridFeatures:
        """Run the same pass and return everything it computed.

        Args:
            images: as for :meth:`forward`.
            levels: how many of the four maps, from the first. With fewer the towers stop early, and there is no class
                token; not so with the joint readout, for which all four are needed.

        Raises:
            InputError: images of another shape, type or value range.
        """
        self.check_images(images)
        run = 4 if self.config.reads_jointly else levels
        spatial, class_token = self.forward_spatial(images, run)
        semantic = self.semantic(images, run) if self.semantic is not None else []
        found = self.join(semantic, spatial, class_token, (images.shape[-2], images.shape[-1]))
        if run == levels:
            return found
        assert found.logits is not None  # what is joint are they
        return found._replace(maps=found.maps[:levels], fused=found.fused[:levels], logits=found.logits[:levels])

    def forward_spatial(self, images: Tensor, levels: int = 4) -> tuple[list[Tensor], Tensor | None]:
        """Run DINO alone: four maps on one grid and the class token, where there is one."""
        return self.spatial(images, levels) if self.spatial is not None else ([], None)

    def join(
        self,
        semantic: Sequence[Tensor],
        spatial: Sequence[Tensor],
        class_token: Tensor | None,
        image_size: tuple[int, int],
    ) -> HybridFeatures:
        """Fuse the towers' maps and compare them with the prompts: what follows the towers in a forward pass.

        Args:
            semantic: CLIP's four maps; empty without that tower.
            spatial: DINO's four maps on one grid; empty without that tower.
            class_token: DINO's, handed on.
            image_size: (H, W) of the images.
        """
        grid = (spatial[0].shape[-2], spatial[0].shape[-1]) if spatial else patch_grid(*image_size, self.stride)
        fused = self.fusion(semantic, spatial, grid)
        if self.prompts is None or self.config.prompts is None:
            return HybridFeatures(fused, fused, None, class_token, None)
        prompts = self.prompts()
        if self.config.reads_jointly:
            logits = [joint_logits(fused, prompts)] * len(fused)
        else:
            logits = [pixel_prompt_logits(x, prompts) for x in fused]
        maps = logits
        if self.config.prompts.decoder_input == "concat":
            maps = [torch.cat([a, b], dim=1) for a, b in zip(logits, fused, strict=True)]
        return HybridFeatures(maps, fused, logits, class_token, prompts)

    def set_prompts(self, config: PromptConfig) -> None:
        """Replace the prompts, on the same text tower: learned tokens after a coarse stage's words, say.

        What reads the maps must be built anew: the number of logits among them changes. What trains of the text tower
        stays as it is, unless the configuration says that all of it does.

        Raises:
            ConfigError: no prompts so far, folded ones, or words that they have not kept; not a ``PromptConfig``.
        """
        if not isinstance(config, PromptConfig):
            raise ConfigError(f"the prompts' config is {shown(config)}; a PromptConfig is needed.")
        if self.prompts is None or self.config.prompts is None:
            raise ConfigError("the encoder has no prompts, and no text tower for others; build one with prompts.")
        self.prompts.check_unfolded()
        device = self.prompts.token_embedding.device
        self.prompts = DepthPrompts(self.prompts, config).to(device)
        self._constants = constants_of(self)
        self.config = self.config.replace(prompts=self.prompts.config)
        self.set_trainable(text=config.train_text is True or self._trains["text"], prompts=True)

    def set_readout(self, readout: Readout) -> None:
        """Say what pixels are compared with the prompts by, as ``PromptConfig.readout`` does; without prompts, nothing.

        What reads the maps was trained on the logits of one readout: choose before the decoder is trained.

        Raises:
            ConfigError: another word.
        """
        if self.prompts is not None:
            self.prompts.config = dataclasses.replace(self.prompts.config, readout=readout)
            self.config = self.config.replace(prompts=self.prompts.config)

    def fold_prompts(self) -> None:
        if self.prompts is not None:
            self.prompts.fold()

    def refill_buffers(self) -> None:
        """Compute anew what is in no checkpoint and was lost: buffers after ``to_empty``, or built without memory.

        ``load_state_dict`` does it by itself.
        """
        refill(self, self._constants)

    def text_size(self) -> tuple[tuple[int, ...], int]:
        if self.prompts is None:
            return (), 0
        return self.prompts.word_ids, self.prompts.positional_embedding.shape[0]

    def check_images(self, images: Tensor) -> None:
        """Raise InputError unless these are RGB images in [0, 1] that the encoder takes.

        Values are not looked at under a compiler, on the meta device, or with ``check_values`` off.
        """
        check_images(images)
        if self.check_values and not torch.compiler.is_compiling() and not images.is_meta:
            check_value_range(images)

    # -- what trains -------------------------------------------------------------------------------------

    @property
    def trainable(self) -> dict[str, Any]:
        """What trains of every part, as :meth:`set_trainable` takes it."""
        return dict(self._trains)

    def set_trainable(
        self,
        *,
        semantic: bool | None = None,
        spatial: bool | int | None = None,
        text: TrainText | None = None,
        prompts: bool | None = None,
        fusion: bool | None = None,
    ) -> None:
        """Freeze or release parts; None leaves a part as it is.

        Args:
            semantic: CLIP's image tower.
            spatial: DINO; a number releases only that many of the last blocks.
            text: CLIP's text tower; ``"all_but_blocks"`` releases what is around its blocks, and them not.
            prompts: the learned depth tokens.
            fusion: the aligning convolutions.

        Raises:
            ConfigError: neither a truth value nor, for ``spatial``, a number of blocks, nor, for ``text``, its word.
        """
        asked = {"semantic": semantic, "spatial": spatial, "text": text, "prompts": prompts, "fusion": fusion}
        changed = {part: trains for part, trains in asked.items() if trains is not None}
        for part, trains in changed.items():
            check_value({"spatial": Blocks, "text": TrainText}.get(part, bool), trains, part)
        self._trains |= changed
        released = {id(parameter) for part in changed for parameter in self._released(part)}
        for part in changed:
            for parameter in self.part_parameters()[part]:
                parameter.requires_grad_(id(parameter) in released)
        self.train(self.training)

    def _released(self, part: str) -> list[nn.Parameter]:
        """Return the parameters of a part that are meant to train."""
        trains = self._trains[part]
        if isinstance(trains, str):
            return [] if self.prompts is None else self.prompts.text_parameters(blocks=False)
        if part == "spatial" and self.spatial is not None and not isinstance(trains, bool):
            blocks = list(self.spatial.blocks)
            return [parameter for block in blocks[max(0, len(blocks) - trains) :] for parameter in block.parameters()]
        return self.part_parameters()[part] if trains else []

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by part: semantic, spatial, text, prompts, fusion."""
        tokens = None if self.prompts is None else self.prompts.tokens
        return {
            "semantic": [] if self.semantic is None else list(self.semantic.parameters()),
            "spatial": [] if self.spatial is None else list(self.spatial.parameters()),
            "text": [] if self.prompts is None else self.prompts.text_parameters(),
            "prompts": [] if tokens is None else [tokens],
            "fusion": list(self.fusion.parameters()),
        }

    def frozen_parameters(self) -> list[nn.Parameter]:
        frozen = []
        for part, parameters in self.part_parameters().items():
            released = {id(parameter) for parameter in self._released(part)}
            frozen += [parameter for parameter in parameters if id(parameter) not in released]
        return frozen

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for tower in (self.semantic, self.spatial):
            if tower is not None:
                tower.grad_checkpointing = enable
        if isinstance(inner := getattr(self.spatial, "model", None), nn.Module):
            toggle = "gradient_checkpointing_enable" if enable else "gradient_checkpointing_disable"
            if hasattr(inner, toggle):  # a transformers model runs its own blocks
                getattr(inner, toggle)()
        if self.prompts is not None and self.prompts.folded is None:
            self.prompts.transformer.grad_checkpointing = enable


def _put_constants_back(encoder: nn.Module, keys: Any) -> None:
    if isinstance(encoder, HybridDepthEncoder):
        encoder.refill_buffers()
