"""The base class of all models: save into a folder, push to the Hub."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin
from torch import nn

from hybrid_encoder.checkpoints.cards import model_card
from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
from hybrid_encoder.config import FORMAT_VERSION
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.writing import replace_files

CARD = "README.md"
OURS = "library_name: hybrid-encoder"  # stands in every card


class HubModel(nn.Module, ModelHubMixin):
    """``save_pretrained`` and ``push_to_hub``; models bring their own ``from_pretrained``.

    Attributes:
        config: the configuration that the model was built from, one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
    """

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._hub_mixin_config = None  # the mixin would write the constructor's arguments; we write our own

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        notes: str = "",
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder.

        All three are written whole before one of them takes its place, so that a checkpoint that stood there before
        stays as it was when the disk is full. Other files stay, also a README.md that is not a card of this library.

        Args:
            save_directory: made if it is not there.
            notes: "how it was made", for the card.
            push_to_hub, repo_id, options: of huggingface_hub's mixin.

        Returns:
            The address of the commit where the model was pushed, else None.

        Raises:
            CheckpointError: a file of that name exists.
            OSError: the folder cannot be written.
        """
        folder = Path(save_directory)
        if os.path.lexists(folder) and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file; a model is saved into a folder: choose another name.")
        folder.mkdir(parents=True, exist_ok=True)
        card = options.pop("model_card_kwargs", None) or {"notes": notes}
        options.pop("config", None)  # the mixin's; ours is written with the weights
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as written:
            self._save_pretrained(Path(written))
            names = [CONFIG, WEIGHTS]
            if _may_replace(folder / CARD):
                self.generate_model_card(**card).save(Path(written) / CARD)
                names.append(CARD)
            replace_files(Path(written), folder, names)
        if not push_to_hub:
            return None
        result: str = self.push_to_hub(repo_id or folder.name, model_card_kwargs=card, **options)
        return result

    def _save_pretrained(self, save_directory: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        content = {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "library": "hybrid-encoder",
            "config": self.config.to_dict(),
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        (save_directory / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        try:
            save_file(tensors, save_directory / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            if not (number := re.search(r"os error (\d+)", str(error))):
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(save_directory.parent / WEIGHTS)) from error

    def generate_model_card(self, *args: Any, notes: str = "", **kwargs: Any) -> Any:
        """Return the card that ``save_pretrained`` writes; the mixin calls this."""
        from huggingface_hub import ModelCard

        return ModelCard(model_card(type(self).__name__, self.config, notes))


def _may_replace(card: Path) -> bool:
    """Whether nothing stands there, or a card of ours: a person's own README is kept."""
    try:
        return OURS in card.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
