"""``hybrid-encoder push``: the folder of a saved model, published on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_encoder.cli.options import console
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.checkpoints.publishing import Publication
    from hybrid_encoder.checkpoints.repositories import Repository
    from hybrid_encoder.checkpoints.uploading import Pushed

LATER = "push it again later, when what has arrived by then is not sent again"


def push_command(
    folder: Annotated[
        str, typer.Argument(help="Folder of a saved model, such as the folder 'final' of a training run, or 'tiny'.")
    ],
    repo: Annotated[str, typer.Option(help="Where to: organisation/name, or a name of your own.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, if it is not there yet.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="The Hub's name of the weights' licence, such as apache-2.0, for the model card.")
    ] = None,
    notes: Annotated[str | None, typer.Option(help="How the weights were made, for the model card.")] = None,
    datasets: Annotated[
        str | None, typer.Option(help="What the weights were trained on, for the model card: Hub ids, with commas.")
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option("--branch", "--revision", help="In the place of 'main'; made if it is not there."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow that another kind of model in the repository is replaced.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the upload; needed in scripts.")] = False,
) -> None:
    """Publish a saved model on the Hugging Face Hub, in one commit: first shown, then uploaded, then read back.

    You are known to the Hub by 'hf auth login', or by the environment variable HF_TOKEN. The weights are uploaded byte
    by byte as they are. After a broken connection, give the same command again.
    """
    import hybrid_encoder
    from hybrid_encoder.checkpoints.files import WEIGHTS
    from hybrid_encoder.checkpoints.publishing import publication, read_published
    from hybrid_encoder.checkpoints.repositories import find_repository, log_in
    from hybrid_encoder.checkpoints.uploading import upload
    from hybrid_encoder.downloading.weights import uploads

    with uploads(repo, LATER), _bars_for_people():
        user = log_in()
        checkpoint, digest = read_published(folder)
        getattr(hybrid_encoder, checkpoint.holds).from_checkpoint(checkpoint)  # or an error that says what is wrong
        there = find_repository(repo, user, branch=branch, create_pr=create_pr, private=private)
        names = [name.strip() for name in datasets.split(",") if name.strip()] if datasets else None
        about = publication(checkpoint, digest, there, notes=notes, license=license, datasets=names)
        _show(about, there, user, private)
        _confirm(about, there, yes, overwrite)
        message = f"Push a {checkpoint.holds} of hybrid-encoder"
        sha256 = {WEIGHTS: about.sha256}
        done = upload(there, about.files, message, private=private or None, create_pr=create_pr, sha256=sha256)
    _report(about, there, done)


@contextlib.contextmanager
def _bars_for_people() -> Iterator[None]:
    """Let huggingface_hub draw its bars on a terminal alone: in a log, each of their steps would be a line."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _show(about: Publication, there: Repository, user: str, private: bool) -> None:
    """Print what will be uploaded, and the card in full."""
    if there.exists:
        seen = "private" if there.private else "public"
        holds = "branch is made from main" if there.starts else f"it holds {there.holds or 'no model'}"
        where = f"which is there ({seen}); {holds}"
    else:
        where = "a new repository, " + (
            "private" if private else "public unless your settings on the Hub say otherwise"
        )
    console.print(f"{about.checkpoint.path} -> {there.name}, branch {there.branch}: {where}; you are {user}")
    for name, content in about.files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        console.print(f"  {name:<26}{_readable(size):>10}")
    for name in there.stale(about.files):
        console.print(f"  deleted there: {name}, which is not of this model")
    if about.left:
        console.print(f"  stays here: {', '.join(about.left)}", soft_wrap=True)
    if about.card is None:
        console.print("README.md on the Hub was written by a person, and stays as it is.")
    else:
        console.rule("README.md", style="none")
        console.print(about.card, soft_wrap=True)
        console.rule(style="none")


def _confirm(about: Publication, there: Repository, yes: bool, overwrite: bool) -> None:
    """Ask whether to go on, where there is a terminal and the command line does not say it.

    Raises:
        CheckpointError: another kind of model would be replaced, and nobody allows it.
        InputError: there is nobody to ask.
        typer.Exit: no.
    """
    asks = not yes and sys.stdin is not None and sys.stdin.isatty()
    kind = about.checkpoint.holds
    if not overwrite and not (asks and there.holds not in ("", kind)):
        there.refuse_other_kind(kind)
    elif not overwrite and not typer.confirm(f"Replace what is there ({there.holds}) by a {kind}?"):
        raise _declined()
    if not (yes or asks):
        raise InputError("nobody can be asked here whether to upload this; look at it, and give --yes.")
    if asks and not typer.confirm(f"Upload this to {there.name}?"):
        raise _declined()


def _declined() -> typer.Exit:
    console.print("Nothing was uploaded.")
    return typer.Exit(1)


def _report(about: Publication, there: Repository, done: Pushed) -> None:
    if not done.changed:
        console.print("The Hub has all of it already; nothing was sent.")
    for name, digest in done.hashes.items():
        console.print(f"{name} is on the Hub as it is here: SHA-256 {digest}", soft_wrap=True)
    console.print(done.address, soft_wrap=True)
    revision = "" if done.revision == "main" else f', revision="{done.revision}"'
    console.print(f'{about.checkpoint.holds}.from_pretrained("{there.name}"{revision})', soft_wrap=True)


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
