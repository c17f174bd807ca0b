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
from hybrid_encoder.checkpoints.uploading import size_and_hash
from hybrid_encoder.errors import CheckpointError


@dataclass(frozen=True)
class Publication:
    """What of a folder is published.

    Attributes:
        checkpoint: as it was read.
        files: content by the names that they have on the Hub; of the weights, the path here.
        sha256: of the weights, before they were read.
        card: the text of the model card; None where the one on the Hub stays, which a person wrote.
        left: the names of other files and folders beside the model, which stay here.
    """

    checkpoint: Checkpoint
    files: Mapping[str, Path | bytes]
    sha256: str
    card: str | None
    left: tuple[str, ...]


def read_published(source: str | Path) -> tuple[Checkpoint, str]:
    """Read the folder of a saved model that is to be published, or ``"tiny"``, which ships in the package.

    Returns:
        The checkpoint, and the SHA-256 of its weights as they were before they were read, so that a file which changes
        later is noticed.

    Raises:
        CheckpointError: it is not there, damaged, or of another layout than this library's.
    """
    local = find_local(source)
    if local is None:
        raise CheckpointError(
            f"there is no folder {str(source)!r} here, and a model is published from a folder; check the path, or save "
            "the model with save_pretrained('path/to/folder') first."
        )
    weights = (local if local.is_dir() else local.parent) / WEIGHTS
    sha256 = size_and_hash(weights)[1] if weights.is_file() else ""
    checkpoint = read_checkpoint(source)
    layout = checkpoint.layout
    if layout != "ours" or not (checkpoint.path / WEIGHTS).is_file():
        other = "weights in several files" if layout == "ours" else f"a checkpoint of another layout ({layout})"
        raise CheckpointError(
            f"{source} has {other}; write it in this library's layout with "
            f"'hybrid-encoder convert {source} FOLDER', and publish that folder."
        )
    return checkpoint, sha256


def publication(
    checkpoint: Checkpoint,
    sha256: str,
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
        checkpoint, sha256: from :func:`read_published`.
        there: where it goes.
        notes, license, datasets: for the card; None takes what the folder's card says.

    Raises:
        CheckpointError: something for the card where a person wrote the ``README.md``.
    """
    folder = checkpoint.path
    # Small files are read now, so that what is uploaded is what is shown.
    small = {name: (folder / name).read_bytes() for name in (CONFIG, PICTURES, CARD) if (folder / name).is_file()}
    mine = small.pop(CARD, None)
    files: dict[str, Path | bytes] = {**small, WEIGHTS: folder / WEIGHTS}
    card: str | None = None
    own = None if mine is None else mine.decode(errors="replace")
    if mine is not None and own is not None and read_card(own) is None:
        if given := next((n for n, v in (("notes", notes), ("license", license), ("datasets", datasets)) if v), None):
            raise CheckpointError(
                f"{folder / CARD} is not a card of this library, so that nothing is written into it, and {given!r} "
                "would change nothing; write it there, or move the file away for a card to be made."
            )
        card, files[CARD] = own, mine
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
    return Publication(checkpoint, files, sha256, card, tuple(left))
