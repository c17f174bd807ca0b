"""The ``hybrid-encoder`` program: its commands put together, and how it reports errors.

The commands import heavy libraries when they run, not when this module is imported, so that help appears at once.
"""

from __future__ import annotations

import sys

import typer

from hybrid_encoder.cli.convert import convert_command
from hybrid_encoder.cli.demo import demo_command
from hybrid_encoder.cli.evaluate import evaluate_command
from hybrid_encoder.cli.export import export_command
from hybrid_encoder.cli.info import info_command
from hybrid_encoder.cli.predict import predict_command
from hybrid_encoder.cli.run import run_command
from hybrid_encoder.cli.train_coarse import train_coarse_command
from hybrid_encoder.cli.train_fine import train_fine_command
from hybrid_encoder.errors import HybridEncoderError

app = typer.Typer(
    help="Monocular depth from CLIP and DINO under language guidance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("predict")(predict_command)
app.command("evaluate")(evaluate_command)
app.command("info")(info_command)
app.command("convert")(convert_command)
app.command("demo")(demo_command)
app.command("export")(export_command)
app.command("train-coarse")(train_coarse_command)
app.command("train-fine")(train_fine_command)
app.command("run")(run_command)


def main() -> None:
    """Run the program; an error of this library becomes one sentence on standard error and exit status 2."""
    try:
        app()
    except HybridEncoderError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
