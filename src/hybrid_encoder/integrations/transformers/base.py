"""What both models share: strict loading, files that this library reads, too, and gradient checkpointing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from hybrid_encoder.checkpoints.filling import is_finite
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig, shipped
from hybrid_encoder.integrations.transformers.offloading import bring_in_at_once, offloaded_weights
from hybrid_encoder.models.encoder import HybridDepthEncoder


class HybridDepthPreTrainedModel(PreTrainedModel):
    """What both models share: strict loading, safetensors alone, and files that this library reads, too.

    Attributes:
        encoder: of this library; what is set on it (``set_trainable``, ``check_values``) holds.
    """

    config: HybridDepthConfig
    config_class = HybridDepthConfig
    base_model_prefix = "encoder"  # an encoder's weights are found in a whole model's
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HybridDepthEncoder"]  # noqa: RUF012  # its towers, prompts and fusion meet in one forward pass
    encoder: HybridDepthEncoder

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass; transformers sets it."""
        return bool(vars(self).get("_recomputes"))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        vars(self)["_recomputes"] = enable
        self.encoder.set_grad_checkpointing(enable)

    def _init_weights(self, module: nn.Module) -> None:
        """Make good what transformers loses while it loads: a model draws its weights itself when it is built."""
        if module is self:
            self._restore()

    def _restore(self) -> None:
        self.encoder.refill_buffers()
        self.encoder.set_trainable(**self.encoder.trainable)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **options: Any
    ) -> Any:
        """Load weights of ``"tiny"``, a folder or a Hub id: of transformers' ``save_pretrained``, or of this library's.

        Args:
            pretrained_model_name_or_path: where they are.
            args, options: of transformers: ``dtype``, ``device_map``, ``revision``, ``output_loading_info``, ...

        Raises:
            CheckpointError: of another model; a name lacks, has no place or another size; a file that is damaged,
                holds numbers that are not finite, or may hold code.
        """
        wants_info = options.pop("output_loading_info", False)
        if options.pop("use_safetensors", True) is False:
            raise CheckpointError("use_safetensors is False, and a pickle can run code; leave the option out.")
        given = pretrained_model_name_or_path
        source: Any = None if given is None else shipped(given)  # None: transformers takes a state_dict=
        problems = {
            "missing_keys": "lack",
            "unexpected_keys": "hold what it has no place for,",
            "mismatched_keys": "have other sizes for",
        }
        if options.pop("ignore_mismatched_sizes", False):
            del problems["mismatched_keys"]
        options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            loaded: Any = super().from_pretrained(source, *args, **options)
        except SafetensorError as error:
            raise CheckpointError(
                f"the weights of {source} are damaged ({error}); copy or download them again."
            ) from error
        model, info = loaded
        for kind, problem in problems.items():
            if names := sorted(key if isinstance(key, str) else key[0] for key in info[kind]):
                raise CheckpointError(
                    f"{source} does not fit a {cls.__name__}: its weights {problem} {names[0]!r} "
                    f"({len(names)} in all); load weights of this model."
                )
        here = ((name, value) for name, value in model.state_dict().items() if not value.is_meta)
        for name, value in chain(here, offloaded_weights(model)):
            if not is_finite(value):
                raise CheckpointError(
                    f"{source}: {name!r} holds values that are not finite; use an earlier checkpoint."
                )
        model._restore()
        return (model, info) if wants_info else model

    def save_pretrained(  # type: ignore[override]  # the options are as they are in every version
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Write the model as transformers does, under the names that ``from_pretrained`` of this library reads."""
        self._follow_encoder()
        state = self._named_as_ours(self.state_dict() if state_dict is None else state_dict)
        super().save_pretrained(save_directory, is_main_process, state, **options)

    def _encode(self, pixel_values: Tensor) -> list[Tensor]:
        bring_in_at_once(self.encoder)
        maps: list[Tensor] = self.encoder(pixel_values)
        return maps

    def _follow_encoder(self) -> None:
        """Take over the encoder's configuration, whose prompts may have been replaced since."""
        raise NotImplementedError

    def _named_as_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)


def asked(given: bool | None, default: bool | None) -> bool:
    """Return an option of a call, or where it says nothing what the configuration has."""
    return bool(default if given is None else given)
