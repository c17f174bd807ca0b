"""Weights of our networks in a codebase's files: they say what they are of, and what does not fit is one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hybrid_encoder.checkpoints.described import KEY, Description
from hybrid_encoder.errors import CheckpointError

from .patching.proxies import PassesFor


class StrictLoading(PassesFor, nn.Module):
    """Describes itself in its ``state_dict()``, and refuses weights of another model.

    Monodepth2's trainer drops the names that it does not know, lays the rest over ``state_dict()`` and loads
    that: a checkpoint of another model would be loaded without a word. What was filled in shares its memory with the
    module's own weights, which gives it away.
    """

    def describe(self) -> Description:
        """Return what this network is; ``state_dict()`` has it beside the weights."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # torch's own way, get_extra_state, asks the class that an instance passes for.
        destination[prefix + KEY] = self.describe().pack()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for names in (missing_keys, unexpected_keys):  # the description is no weight, and older files have none
            if prefix + KEY in names:
                names.remove(prefix + KEY)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as any module does.

        Raises:
            CheckpointError: some of the weights are this module's own.
        """
        own = self.state_dict()
        filled = [
            name
            for name, value in state_dict.items()
            if name in own and value.numel() and value.data_ptr() == own[name].data_ptr()
        ]
        if filled:
            raise CheckpointError(
                f"the weights hold nothing for {filled[0]!r} ({len(filled)} of {len(own)} names): they are another "
                "model's, the unpatched repository's perhaps; load them without patch(), or train under it first."
            )
        return super().load_state_dict(state_dict, strict, assign)
