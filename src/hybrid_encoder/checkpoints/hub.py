"""The base class of all models: save into a folder, push to the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin
from torch import nn

from hybrid_encoder.checkpoints.cards import model_card
from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
from hybrid_encoder.config import FORMAT_VERSION
from hybrid_encoder.writing import write_whole


class HubModel(nn.Module, ModelHubMixin):
    """``save_pretrained`` and ``push_to_hub``; models bring their own ``from_pretrained``.

    Attributes:
        config: the configuration that the model was built from, one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
    """

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._hub_mixin_config = None  # the mixin would write the constructor's arguments; we write our own

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder, each file whole or not at all.

        Args:
            save_directory: made if it is not there.
            options: of huggingface_hub's mixin (``push_to_hub``, ``repo_id``, ...); ``notes`` goes into the card
                ("how it was made").
        """
        options["config"] = None  # written with the weights, below
        options["model_card_kwargs"] = {"notes": options.pop("notes", "")}
        result: str | None = super().save_pretrained(save_directory, **options)
        return result

    def _save_pretrained(self, save_directory: Path) -> None:
        from safetensors.torch import save

        content = {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "library": "hybrid-encoder",
            "config": self.config.to_dict(),
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_whole(save_directory / WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_whole(save_directory / CONFIG, (json.dumps(content, indent=2) + "\n").encode())

    def generate_model_card(self, *args: Any, notes: str = "", **kwargs: Any) -> Any:
        """Return the card that ``save_pretrained`` writes; the mixin calls this."""
        from huggingface_hub import ModelCard

        return ModelCard(model_card(type(self).__name__, self.config, notes))
