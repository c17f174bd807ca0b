"""``hybrid-encoder check-leak``: whether a training has seen the frames of a test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_encoder.cli.options import console
from hybrid_encoder.errors import InputError, visible

if TYPE_CHECKING:
    from hybrid_encoder.evaluation.leaks import Leak

LEAKING = 1  # exit status, so that a script stops
SHOWN = 3  # frames of each kind


def check_leak_command(
    training: Annotated[
        str,
        typer.Argument(
            help="List of the training's frames, one <date>/<drive> <frame> <l or r> a line; or weights that "
            "train-coarse or train-fine has written, which say it themselves."
        ),
    ],
    test: Annotated[Path, typer.Argument(help="List of the test's frames.")],
    offsets: Annotated[
        str, typer.Option(help="Frames that the training sees beside each of a list, such as '-1,1'; 'none' for none.")
    ] = "-1,1",
) -> None:
    """Compare a training's frames with those of a test, by drive and frame; exit status 1 where a test frame was seen.

    hybrid-encoder check-leak splits/benchmark/train_files.txt splits/eigen/test_files.txt

    hybrid-encoder check-leak runs/fine/final splits/eigen/test_files.txt
    """
    from hybrid_encoder.evaluation.frame_lists import read_frame_list
    from hybrid_encoder.evaluation.leaks import find_leak, find_leaks, known_trainings

    test_frames = read_frame_list(test)
    if Path(training).suffix.lower() == ".txt":
        leak = find_leak(read_frame_list(training), test_frames, _offsets(offsets))
    else:
        from hybrid_encoder.checkpoints.reading import find_reader
        from hybrid_encoder.checkpoints.sources import find_source

        read, place = find_reader(find_source(training))
        trainings, known = known_trainings(read(place).history, training)
        leak = find_leaks(trainings, test_frames, known)
    if not leak.seen and not leak.known:
        raise InputError(f"{leak}; give the list of the training's frames instead of {training}.")
    _show(leak)
    if leak.seen:
        raise typer.Exit(LEAKING)


def _show(leak: Leak) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("test frames", "number", "such as", title=f"{leak.num_test} test frames")
    rows = {
        "seen as targets": leak.targets,
        "of these, by the other camera": leak.other_view,
        "seen beside a target": leak.neighbours,
        "not seen, of a drive that was": leak.drives,
    }
    for name, frames in rows.items():
        examples = ", ".join(map(str, frames[:SHOWN])) + (", ..." if len(frames) > SHOWN else "")
        table.add_row(name, str(len(frames)), Text(visible(examples)))
    console.print(table)
    console.print(Text(visible(f"{leak}")), soft_wrap=True)


def _offsets(text: str) -> list[int]:
    try:
        return [] if text == "none" else [int(offset) for offset in text.split(",")]
    except ValueError:
        raise InputError(f"--offsets is {text!r}; give whole numbers such as '-1,1', or 'none'.") from None
