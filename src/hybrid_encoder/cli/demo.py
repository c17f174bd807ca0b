"""``hybrid-encoder demo``: the whole method on rendered streets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid_encoder.cli.options import OnCpu, check_file, console, make_folder


def demo_command(
    output: Annotated[Path, typer.Option(help="Image to write, with results on held-out drives.")] = Path("demo.png"),
    coarse_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the coarse stage.")] = 240,
    fine_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the fine stage.")] = 300,
    drives: Annotated[int, typer.Option(min=2, max=10_000, help="Rendered drives to train on.")] = 64,
    seed: Annotated[
        int, typer.Option(min=0, max=99, help="Random seed of the weights, the drives and the data order.")
    ] = 0,
    save: Annotated[Path | None, typer.Option(help="Folder to save the trained weights in, too.")] = None,
    cpu: OnCpu = False,
) -> None:
    """Train the tiny preset on rendered streets, coarse stage and fine stage, and show what each of them changes."""
    from hybrid_encoder.training.demonstration import run_demo

    check_file(output, "demo.png")
    if save is not None:
        make_folder(save)
    run_demo(
        output,
        coarse_steps=coarse_steps,
        fine_steps=fine_steps,
        drives=drives,
        seed=seed,
        save=save,
        cpu=cpu,
        console=console,
    )
