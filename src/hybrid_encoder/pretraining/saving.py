"""Trained towers as folders: weights in half precision, and a card that says how they were made, and how good."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_encoder.checkpoints.tensor_files import save_tensors
from hybrid_encoder.config import SemanticConfig, SpatialConfig
from hybrid_encoder.data.street.captions import VOCABULARY
from hybrid_encoder.language.tokens import END, START, ClipTokens
from hybrid_encoder.pretraining.clip import ClipStage
from hybrid_encoder.pretraining.dino import DinoStage
from hybrid_encoder.towers.own_weights import Kind, own_tensors
from hybrid_encoder.writing import replace_together

WEIGHTS, CARD = "model.safetensors", "README.md"
NAMES = {"clip": "A small CLIP of streets", "dino": "A small DINO of streets"}
USES = {
    "clip": 'SemanticConfig(..., pretrained="{file}")',
    "dino": 'SpatialConfig(..., pretrained="{file}")',
}


def vocabulary_tokens() -> list[int]:
    """Return CLIP's tokens of all words that captions of streets are made of, with the start and the end, ascending."""
    tokens = ClipTokens()
    found = {token for word in (*VOCABULARY, ",") for token in tokens.encode(word)}
    return sorted({START, END, *found})


def save_clip(stage: ClipStage, folder: str | Path, notes: str, numbers: Mapping[str, float]) -> Path:
    """Save a CLIP that was trained on captions of streets; see :func:`_save`."""
    stage.clamp_scale()
    return _save(stage.clip, "clip", stage.config, Path(folder), notes, numbers, vocabulary_tokens())


def save_dino(stage: DinoStage, folder: str | Path, notes: str, numbers: Mapping[str, float]) -> Path:
    """Save the teacher, which is better than the student; see :func:`_save`."""
    return _save(stage.teacher.model, "dino", stage.config, Path(folder), notes, numbers)


def _save(
    module: Any,
    kind: Kind,
    config: SemanticConfig | SpatialConfig,
    folder: Path,
    notes: str,
    numbers: Mapping[str, float],
    tokens: list[int] | None = None,
) -> Path:
    """Write ``model.safetensors`` and ``README.md`` into a folder, both or neither; a tower has the same bytes always.

    Args:
        module: the tower.
        kind, config: of it.
        folder: made where it does not exist.
        notes: how it was made.
        numbers: how good it is, with the controls.
        tokens: that a CLIP knows.

    Returns:
        The file of weights.
    """
    tensors, beside = own_tensors(module, kind, config, tokens)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        save_tensors(Path(temporary) / WEIGHTS, tensors, beside, folder / WEIGHTS)
        size = (Path(temporary) / WEIGHTS).stat().st_size / 1e6
        count = sum(tensor.numel() for tensor in tensors.values())
        rows = "\n".join(f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in numbers.items())
        card = (
            "---\nlibrary_name: hybrid-encoder\nlicense: apache-2.0\n---\n\n"
            f"# {NAMES[kind]}\n\n{notes}\n\n"
            f"{count / 1e6:.2f} million numbers in half precision, {size:.1f} MB. "
            f"`{USES[kind].format(file='path/to/' + WEIGHTS)}` starts a tower from it.\n\n"
            f"| measured on drives that it was not trained on | |\n| --- | --- |\n{rows}\n\n"
            "No real picture was seen unless the lines above say so. Meant for trying things out.\n"
        )
        (Path(temporary) / CARD).write_text(card, encoding="utf-8")
        replace_together(Path(temporary), folder, [CARD, WEIGHTS])
    return folder / WEIGHTS
