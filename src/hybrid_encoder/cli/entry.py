"""The ``hybrid-encoder`` program: its commands put together, and how it ends.

The commands import heavy libraries when they run, not when this module is imported, so that help appears at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from hybrid_encoder.cli.app import app_command
from hybrid_encoder.cli.check_leak import check_leak_command
from hybrid_encoder.cli.convert import convert_command
from hybrid_encoder.cli.demo import demo_command
from hybrid_encoder.cli.evaluate import evaluate_command
from hybrid_encoder.cli.evaluate_bev import evaluate_bev_command
from hybrid_encoder.cli.evaluate_pose import evaluate_pose_command
from hybrid_encoder.cli.export import export_command
from hybrid_encoder.cli.failures import sentence_of
from hybrid_encoder.cli.fit_scale import fit_scale_command
from hybrid_encoder.cli.info import info_command
from hybrid_encoder.cli.options import console
from hybrid_encoder.cli.predict import predict_command
from hybrid_encoder.cli.pretrain import pretrain_clip_command, pretrain_dino_command
from hybrid_encoder.cli.push import push_command
from hybrid_encoder.cli.run import run_command
from hybrid_encoder.cli.terminal import complain, give_up_streams, prepare_streams
from hybrid_encoder.cli.track import track_command
from hybrid_encoder.cli.train_bev import train_bev_command
from hybrid_encoder.cli.train_coarse import train_coarse_command
from hybrid_encoder.cli.train_fine import train_fine_command
from hybrid_encoder.errors import InputError

WRONG, INTERRUPTED = 2, 130  # exit statuses, as shells have them


def _show_version(asked: bool) -> None:
    if asked:
        from hybrid_encoder import __version__

        console.print(f"hybrid-encoder {__version__}")
        raise typer.Exit


app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Monocular depth from CLIP and DINO under language guidance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command("predict")(predict_command)
app.command("app")(app_command)
app.command("evaluate")(evaluate_command)
app.command("check-leak")(check_leak_command)
app.command("fit-scale")(fit_scale_command)
app.command("info")(info_command)
app.command("convert")(convert_command)
app.command("push")(push_command)
app.command("demo")(demo_command)
app.command("export")(export_command)
app.command("pretrain-clip")(pretrain_clip_command)
app.command("pretrain-dino")(pretrain_dino_command)
app.command("train-coarse")(train_coarse_command)
app.command("train-fine")(train_fine_command)
app.command("train-bev")(train_bev_command)
app.command("evaluate-bev")(evaluate_bev_command)
app.command("track")(track_command)
app.command("evaluate-pose")(evaluate_pose_command)
app.command("run")(run_command)


def main() -> None:
    """Run the program.

    Wrong input, and what the system refuses (a full disk, no permission, no memory), become one sentence on standard
    error and exit status 2. What can only be a bug keeps its traceback.
    """
    prepare_streams()
    try:
        status = _run(sys.argv[1:])
        sys.stdout.flush()
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        if sentence:
            complain(sentence)
        status = WRONG
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        complain("interrupted.")
    give_up_streams()
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return the exit status."""
    _check_arguments(arguments)
    try:
        # Without typer's own ending, which prints what was typed with its control characters.
        return int(app(args=list(arguments), prog_name="hybrid-encoder", standalone_mode=False) or 0)
    except typer.Abort:  # what older typers make of Ctrl-C
        return INTERRUPTED


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse values that no option means: an empty one is a shell variable that was never set.

    What comes after ``--`` is for another program.

    Raises:
        InputError: an empty value, or one with a zero byte.
    """
    for argument in arguments:
        if argument == "--":
            return
        if "\0" in argument:
            raise InputError(f"the argument {argument!r} holds a zero byte, which no name can have; leave it out.")
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            before = argument or "''"
            raise InputError(
                f"the argument {before} of {' '.join(arguments)!r} is empty; give a value, or leave it out."
            )
