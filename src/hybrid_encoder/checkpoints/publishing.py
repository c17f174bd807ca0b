"""Saved models as they are published on the Hugging Face Hub: which files of a folder, and under which card."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_encoder.checkpoints.card_renewal import read_card
from hybrid_encoder.checkpoints.cards import merged_card, model_card
from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
from hybrid_encoder.checkpoints.reading import Checkpoint, read_checkpoint
from hybrid_encoder.checkpoints.repositories import CARD, PICTURES, Repository
from hybrid_encoder.checkpoints.sources import find_local
from hybrid_encoder.errors import CheckpointError


@dataclass(frozen=True)
class Publication:
    """What of a folder is published.

    Attributes:
        checkpoint: as it was read.
        files: paths here, or content, by the names that they have on the Hub.
        card: the text of the model card; None where the one on the Hub stays, which a person wrote.
        left: the names of other files and folders beside the model, which stay here.
    """

    checkpoint: Checkpoint
    files: Mapping[str, Path | bytes]
    card: str | None
    left: tuple[str, ...]


def read_published(source: str | Path) -> Checkpoint:
    """Read the folder of a saved model that is to be published, or ``"tiny"``, which ships in the package.

    Raises:
        CheckpointError: it is not there, damaged, or of another layout than this library's.
    """
    if find_local(source) is None:
        raise CheckpointError(
            f"there is no folder {str(source)!r} here, and a model is published from a folder; check the path, or save "
            "the model with save_pretrained('path/to/folder') first."
        )
    checkpoint = read_checkpoint(source)
    layout = checkpoint.layout
    if layout != "ours" or not (checkpoint.path / WEIGHTS).is_file():
        other = "weights in several files" if layout == "ours" else f"a checkpoint of another layout ({layout})"
        raise CheckpointError(
            f"{source} has {other}; write it in this library's layout with "
            f"'hybrid-encoder convert {source} FOLDER', and publish that folder."
        )
    return checkpoint


def publication(
    checkpoint: Checkpoint,
    there: Repository,
    *,
    notes: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] | None = None,
) -> Publication:
    """Return what of a folder goes to a repository: its files byte by byte, and its card with the repository's name.

    The folder's card says how the weights were made, their licence and data sets; what a person added to the card on
    the Hub stays. A ``README.md`` in the folder that a person wrote is published as it is. One on the Hub stays, unless
    there is one in the folder, too.

    Args:
        checkpoint: from :func:`read_published`.
        there: where it goes.
        notes, license, datasets: for the card; None takes what the folder's card says.

    Raises:
        CheckpointError: something for the card where a person wrote the ``README.md``.
    """
    folder = checkpoint.path
    files: dict[str, Path | bytes] = {n: folder / n for n in (CONFIG, WEIGHTS, PICTURES) if (folder / n).is_file()}
    card: str | None = None
    own = (folder / CARD).read_text("utf-8", errors="replace") if (folder / CARD).is_file() else None
    if own is not None and read_card(own) is None:
        if given := next((n for n, v in (("notes", notes), ("license", license), ("datasets", datasets)) if v), None):
            raise CheckpointError(
                f"{folder / CARD} is not a card of this library, so that nothing is written into it, and {given!r} "
                "would change nothing; write it there, or move the file away for a card to be made."
            )
        card, files[CARD] = own, folder / CARD
    else:
        new = model_card(
            checkpoint.holds,
            checkpoint.config,
            notes=notes,
            license=license,
            datasets=datasets,
            old=own,
            source=there.name,
        )
        card = merged_card(checkpoint.holds, new or "", there.card)
        if card is not None:
            files[CARD] = card.encode()
    left = sorted(name for name in os.listdir(folder) if name not in (CONFIG, WEIGHTS, PICTURES, CARD))
    return Publication(checkpoint, files, card, tuple(left))
