"""``hybrid-encoder run``: a script of another codebase, with the hybrid encoder inside."""

from __future__ import annotations

import contextlib
import logging
import traceback
import urllib.error
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hybrid_encoder.cli.options import check_finite, console
from hybrid_encoder.errors import ConfigError, HybridEncoderError, InputError, visible

if TYPE_CHECKING:
    from hybrid_encoder.adapters.patching.replacing import Patch

RepositoryName = Literal["monodepth2", "manydepth"]
Decoder = Literal["dpt", "repository"]
Pose = Literal["repository", "class_token"]
Teacher = Literal["hybrid", "repository"]
Training = Literal["repository", "published"]


def run_command(
    repository: Annotated[RepositoryName, typer.Argument(help="The codebase that the script belongs to.")],
    command: Annotated[list[str], typer.Argument(help="After --: train.py ARGS, or -m package.module ARGS.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A preset, a checkpoint folder, or a Hub id. By default paper, or what weights that the script reads "
            "were trained with."
        ),
    ] = None,
    decoder: Annotated[
        Decoder | None,
        typer.Option(
            help="dpt: this library's decoder. repository: its own decoder on our feature pyramid. "
            "By default dpt, wherever that can take the place of its decoder."
        ),
    ] = None,
    pose: Annotated[
        Pose | None, typer.Option(help="monodepth2: camera motion from its own network, or from DINO class tokens.")
    ] = None,
    language_loss: Annotated[float | None, typer.Option(help="monodepth2: weight of the pixel-language loss.")] = None,
    teacher: Annotated[
        Teacher | None, typer.Option(help="manydepth: the single-frame network, ours or its own.")
    ] = None,
    share_frozen: Annotated[
        bool | None,
        typer.Option("--share-frozen", help="manydepth: keep one copy of frozen towers for both networks."),
    ] = None,
    training: Annotated[
        Training | None,
        typer.Option(help="manydepth: its own, or gradient clipping and weight decay as published for this encoder."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name of a known codebase; by default it is recognised by its files.")
    ] = None,
    networks: Annotated[
        str | None, typer.Option(help="Import name of the package that holds the codebase's networks.")
    ] = None,
    legacy: Annotated[bool, typer.Option(help="Make old code run on current versions of its libraries.")] = True,
    cpu: Annotated[bool, typer.Option("--cpu", help="Where there is no CUDA, make .cuda() stay on the CPU.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Show what would be replaced, and exit.")] = False,
) -> None:
    """Run a script of your own checkout with the hybrid encoder inside, without editing a file.

    hybrid-encoder run monodepth2 --encoder tiny -- train.py --data_path /data/kitti --png

    hybrid-encoder run manydepth -- -m manydepth.train --data_path /data/kitti --png
    """
    from hybrid_encoder import adapters
    from hybrid_encoder.adapters import runner
    from hybrid_encoder.adapters.patching.legacy import cuda_means_cpu

    check_finite("--language-loss", language_loss)
    options = _options_of(
        repository,
        monodepth2={"pose": pose, "language_loss": language_loss},
        manydepth={"teacher": teacher, "share_frozen": share_frozen, "training": training},
    )
    options |= {"encoder": encoder, "networks": networks, "recipe": recipe, "legacy": legacy}
    if decoder is not None:
        options["decoder"] = decoder
    shown: list[str] = []
    read = False

    def patch() -> Patch:
        nonlocal read
        read = True
        patched: Patch = getattr(adapters, repository).patch(**options)
        shown.append(str(patched))
        return patched

    with cuda_means_cpu() if cpu else contextlib.nullcontext(), _told("hybrid_encoder.adapters"):
        try:
            runner.run_script(command, patch, show=show)
        except HybridEncoderError:
            raise
        except Exception as error:
            if not read and isinstance(error, SyntaxError | ValueError | OSError):  # of the script's text
                raise InputError(f"{' '.join(command[:2])} cannot be run ({error}); name a Python script.") from error
            if isinstance(error, urllib.error.URLError):
                raise InputError(
                    f"{' '.join(command[:2])} could not download what it asks for ({error.reason}): check the "
                    "connection, put the file where the script looks for it, or ask for none, as --weights_init "
                    "scratch and a folder of your own weights do."
                ) from error
            if not shown:
                raise
            traceback.print_exc()  # the script's own failure, as Python itself would end
            raise SystemExit(1) from None
    if show:
        console.print(shown[0])


class _Telling(logging.Handler):
    """Prints what a patch tells: what it replaced, which networks it built, and that they train."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"hybrid-encoder: {visible(record.getMessage())}", err=True)  # the script's own output stays its own


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Print what a logger tells, from INFO on, while this lasts."""
    logger, handler = logging.getLogger(name), _Telling()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _options_of(repository: str, **given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given for this codebase.

    Raises:
        ConfigError: an option of another codebase was given.
    """
    options = {name: value for name, value in given.pop(repository).items() if value is not None}
    for other, unused in given.items():
        for name, value in unused.items():
            if value is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for {other}; leave it out with {repository}.")
    return options
