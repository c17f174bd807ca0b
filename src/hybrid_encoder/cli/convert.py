"""``hybrid-encoder convert``: a checkpoint of any layout, written in this library's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hybrid_encoder.cli.options import Source, console, make_folder
from hybrid_encoder.errors import InputError


def convert_command(
    source: Source,
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not hold a checkpoint yet.")],
    notes: Annotated[str, typer.Option(help="How the weights were made, for the model card.")] = "",
) -> None:
    """Write a checkpoint in this library's layout: config.json, model.safetensors and a model card."""
    import hybrid_encoder
    from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
    from hybrid_encoder.checkpoints.reading import read_checkpoint

    for name in (CONFIG, WEIGHTS):
        if os.path.lexists(output / name):  # a broken link is there, too
            raise InputError(f"{output / name} exists already; name another folder.")
    checkpoint = read_checkpoint(source)
    model = getattr(hybrid_encoder, checkpoint.holds).from_checkpoint(checkpoint)
    make_folder(output)
    model.save_pretrained(output, notes=notes or f"Converted from a checkpoint of the {checkpoint.layout} layout.")
    left_out = f"; the decoder was not read: {checkpoint.left_out}" if checkpoint.left_out else ""
    console.print(f"{checkpoint.holds} -> {output}{left_out}")
