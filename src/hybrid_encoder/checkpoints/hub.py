"""The base class of all models: save into a folder, push to the Hub."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hybrid_encoder.checkpoints.cards import model_card
from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
from hybrid_encoder.checkpoints.history import History, history_metadata
from hybrid_encoder.checkpoints.repositories import CARD, PICTURES, find_repository, log_in
from hybrid_encoder.checkpoints.tensor_files import save_tensors
from hybrid_encoder.checkpoints.uploading import upload
from hybrid_encoder.config import FORMAT_VERSION
from hybrid_encoder.config.kinds import MODEL_TYPE
from hybrid_encoder.downloading.weights import uploads
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.writing import replace_files


class HubModel(nn.Module):
    """``save_pretrained`` and ``push_to_hub``; models bring their own ``from_pretrained``.

    Attributes:
        config: the configuration that the model was built from, one of :data:`hybrid_encoder.config.MODEL_CONFIGS`.
        training_history: the trainings that its weights have been through, saved with them; empty where there was
            none, and None where it is not known.
    """

    config: Any
    training_history: History | None = ()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        notes: str | None = None,
        license: str | None = None,
        datasets: str | Sequence[str] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder.

        Of a model that Hugging Face transformers opens, ``preprocessor_config.json`` is written, too: how its pipelines
        bring pictures to the size that it works at. All of them are written whole before one takes its place, so that
        a checkpoint that stood there before stays as it was when the disk is full. Other files stay, also a README.md
        that is not a card of this library. A card of this library is renewed; what a person added to it stays.

        Args:
            save_directory: made if it is not there.
            notes: "how it was made", for the card; None keeps what a card says that stands there.
            license: the Hub's name of the weights' licence, such as ``"apache-2.0"``, for the card.
            datasets: Hub ids or names of what the weights were trained on, for the card.
            push_to_hub: push the model, too; options are those of :meth:`push_to_hub`.
            repo_id: where to; the name of the folder without it.

        Returns:
            The address of the commit where the model was pushed, else None.

        Raises:
            CheckpointError: a file of that name exists, or the model cannot be pushed.
            OSError: the folder cannot be written.
            TypeError: an option of pushing where nothing is pushed.
        """
        if options and not push_to_hub:
            raise TypeError(f"save_pretrained() got {next(iter(options))!r}, which goes with push_to_hub=True.")
        folder = Path(save_directory)
        if os.path.lexists(folder) and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file; a model is saved into a folder: choose another name.")
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"notes": notes, "license": license, "datasets": datasets}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as written:
            card = {**about, "old": _read(folder / CARD), **({"source": repo_id} if repo_id else {})}
            replace_files(Path(written), folder, self._write(Path(written), card))
        return self.push_to_hub(repo_id or folder.resolve().name, **about, **options) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        notes: str | None = None,
        license: str | None = None,
        datasets: str | Sequence[str] | None = None,
        commit_message: str = "Push a model of hybrid-encoder",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        overwrite: bool = False,
    ) -> str:
        """Upload the files of :meth:`save_pretrained` to the Hugging Face Hub, in one commit, and read them back.

        A card that is there is renewed as in a folder; a README.md of another kind stays.

        Args:
            repo_id: ``organisation/name``, or a name of your own; made if it is not there.
            notes, license, datasets: for the card.
            commit_message: of the commit.
            private: whether a repository that is made is private; None leaves it to the Hub.
            token: in the place of that of ``hf auth login``.
            branch: in the place of ``main``; made if it is not there.
            create_pr: open a pull request instead.
            overwrite: whether the model may take the place of another kind of model.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            CheckpointError: the Hub cannot be reached, or refuses it; or another kind of model is there.
        """
        with uploads(repo_id), tempfile.TemporaryDirectory() as folder:
            user = log_in(token)
            there = find_repository(repo_id, user, token=token, branch=branch, create_pr=create_pr, private=private)
            if not overwrite:
                there.refuse_other_kind(type(self).__name__)
            card = {"notes": notes, "license": license, "datasets": datasets, "old": there.card, "source": there.name}
            files = {name: Path(folder) / name for name in self._write(Path(folder), card)}
            done = upload(there, files, commit_message, private=private, create_pr=create_pr, token=token)
        return done.address

    def _write(self, folder: Path, card: Mapping[str, Any]) -> list[str]:
        """Write the files of the model into an empty folder, and return their names; no card in a person's place."""
        self._save_pretrained(folder)
        names = sorted(file.name for file in folder.iterdir())
        text = model_card(type(self).__name__, self.config, **card)
        if text is None:
            return names
        (folder / CARD).write_text(text, encoding="utf-8")
        return [*names, CARD]

    def picture_settings(self) -> dict[str, Any] | None:
        """Return how transformers brings pictures to this model, None for one that it does not open."""
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "library": "hybrid-encoder",
            "model_type": MODEL_TYPE,
            "config": self.config.to_dict(),
        }
        (save_directory / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        if settings := self.picture_settings():
            (save_directory / PICTURES).write_text(json.dumps(settings, indent=2) + "\n")
        final = save_directory.parent / WEIGHTS
        save_tensors(save_directory / WEIGHTS, self.state_dict(), history_metadata(self.training_history), final)


def _read(card: Path) -> str | None:
    try:
        return card.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
