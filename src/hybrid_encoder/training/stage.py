"""What the training loop trains: a module that turns a batch into losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.base import HybridModel
from hybrid_encoder.models.decoder import DPTDecoder
from hybrid_encoder.towers.base import Tower
from hybrid_encoder.towers.dino import SpatialTower


class Stage(nn.Module):
    """Everything that trains, in one module, and how a batch becomes losses.

    Attributes:
        share: factor on the part of the loss that is a mean over the batch's ``num_terms``, so that the mean of the
            batches of a step, in all processes, is the mean over all of their terms; set by the loop.
    """

    share: Tensor | float = 1.0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return scalars to log by name; ``"loss"`` is minimised, and is a mean over the batch."""
        raise NotImplementedError

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def begin_step(self) -> None:
        """Prepare an optimizer step: called by the loop once before its batches. By default nothing."""

    def describe(self, batch: Any) -> str:
        """Return what the batch was made of, for an error message: file names, where there are any."""
        return ", ".join(map(str, getattr(batch, "names", None) or getattr(batch, "name", None) or ("a batch",)))

    def num_terms(self, batch: Any) -> int | None:
        """Return what a part of the loss is a mean over, such as lanes; None where that is as much in every batch."""
        return None

    def parts_to_compile(self) -> Sequence[nn.Module]:
        """Return the parts that ``torch.compile`` is worth its time for, each of which is called as a whole.

        They are the decoders and the towers; of a tower with blocks these, which are alike and compiled once for all.
        """
        parts: list[nn.Module] = []
        for module in self.modules():
            if isinstance(module, SpatialTower):
                parts += module.blocks
            elif isinstance(module, Tower | DPTDecoder):
                parts.append(module)
        return parts

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute the towers' activations again in the backward pass.

        Raises:
            ConfigError: no model of this library is in the stage.
        """
        models = self._models()
        if not models:
            raise ConfigError("checkpoint_activations is set, and the stage has no tower; leave it out.")
        for model in models:
            model.set_grad_checkpointing(enable)

    def _models(self) -> list[HybridModel]:
        return [module for module in self.modules() if isinstance(module, HybridModel)]
