"""The language loss in the training of somebody else's trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.pixel_language import pixel_language_loss

from .patching.methods import ExtendedMethod


def extend_compute_losses(weight: float) -> ExtendedMethod:
    """Return the extension of ``compute_losses(inputs, outputs)`` that adds the language loss, as in Monodepth2.

    It reads the logits that :class:`~hybrid_encoder.adapters.networks.DepthDecoder` handed on, the trainer's depth
    ``outputs["depth", 0, 0]`` and the trainer's depth range ``opt.min_depth`` to ``opt.max_depth``.

    Args:
        weight: of the loss in ``losses["loss"]``; it is logged without it, as ``losses["language_loss"]``.
    """

    def wrap(own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def compute_losses(trainer: Any, inputs: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
            losses = own(trainer, inputs, outputs, *args, **kwargs)
            levels = [value for key, value in outputs.items() if isinstance(key, tuple) and key[0] == "language"]
            # A method that calls its base class's, which is extended too, has the loss already.
            if levels and "language_loss" not in losses:
                centers = bin_centers(levels[0].shape[1], trainer.opt.min_depth, trainer.opt.max_depth)
                depth = outputs["depth", 0, 0]
                total = sum(pixel_language_loss(logits, depth, centers) for logits in levels)
                losses["language_loss"] = total / len(levels)
                losses["loss"] = losses["loss"] + weight * losses["language_loss"]
            return losses

        return compute_losses

    return ExtendedMethod("compute_losses", wrap)
