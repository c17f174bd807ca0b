"""``hybrid-encoder info``: what a checkpoint holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid_encoder.cli.options import Source, console
from hybrid_encoder.errors import visible

if TYPE_CHECKING:
    from hybrid_encoder.checkpoints.reading import Checkpoint

LAYOUTS = {
    "ours": "hybrid-encoder",
    "published": "Hybrid-depth stage 2",
    "stage1": "Hybrid-depth stage 1",
    "trained": "Monodepth2 or ManyDepth, trained under patch()",
}


def info_command(source: Source) -> None:
    """Show what a checkpoint holds, without building the model."""
    from rich.text import Text

    from hybrid_encoder.checkpoints.reading import read_checkpoint

    for name, value in _describe(read_checkpoint(source)):
        console.print(Text.assemble((f"{name:<16}", "bold"), f" {visible(value)}"), soft_wrap=True)


def _describe(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    from hybrid_encoder.checkpoints.cards import config_rows
    from hybrid_encoder.evaluation.leaks import describe_training

    tensors = [*checkpoint.tensors.values(), *checkpoint.decoder_tensors.values()]
    num_values = sum(tensor.numel() for tensor in tensors)
    return [
        ("path", str(checkpoint.path)),
        ("layout", LAYOUTS[checkpoint.layout]),
        ("holds", checkpoint.holds),
        *config_rows(checkpoint.config),
        *([("decoder", f"not read: {checkpoint.left_out}")] if checkpoint.left_out else []),
        *(("trained on", describe_training(training)) for training in checkpoint.history or ()),
        ("tensors", f"{len(tensors)} with {num_values / 1e6:.1f} million values"),
    ]
