"""Repositories on the Hugging Face Hub that models are pushed to: who asks for one, and what is there already."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid_encoder.checkpoints.files import CONFIG, FILES
from hybrid_encoder.config import MODEL_CONFIGS
from hybrid_encoder.config.serialization import MAX_BYTES, parse
from hybrid_encoder.downloading.network import LOG_IN, ask
from hybrid_encoder.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
PICTURES = "preprocessor_config.json"  # as transformers calls it
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # in which huggingface_hub looks for one, in its order
TOKENS = "https://huggingface.co/settings/tokens"
WEIGHTS_OF_OTHERS = (*FILES, ".gguf", ".h5", ".keras", ".msgpack", ".onnx", ".pkl", ".pdparams", ".tflite")


@dataclass(frozen=True)
class Repository:
    """A repository that a model goes to, as it was found.

    Attributes:
        name: ``owner/name``.
        branch: the one that the commit goes to.
        exists: whether the repository is there.
        commit: that the branch is at, or starts from; None where the repository is not there.
        starts: whether the branch is to be made.
        private: whether only its owner sees it; None where the Hub did not say, or where it is not there.
        files: the names of what is on the branch, or on the one that it starts from.
        holds: the class of a model of this library that stands there, a few words on what else is a model, or nothing.
        card: the text of ``README.md``, None where there is none.
    """

    name: str
    branch: str = "main"
    exists: bool = False
    commit: str | None = None
    private: bool | None = None
    files: tuple[str, ...] = ()
    holds: str = ""
    card: str | None = None
    starts: bool = False

    def stale(self, files: Container[str]) -> list[str]:
        """Return the names of what is there of the model that stood there, and has no place beside these files."""
        return [PICTURES] if PICTURES in self.files and PICTURES not in files else []

    def refuse_other_kind(self, kind: str) -> None:
        """Raise CheckpointError where another kind of model than this class is there, which would be replaced."""
        if self.holds not in ("", kind):
            raise CheckpointError(
                f"{self.name!r} on the Hugging Face Hub holds {self.holds}, which a {kind} would replace; name another "
                "repository, or allow it with overwrite=True (--overwrite on the command line)."
            )


def log_in(token: str | bool | None = None) -> str:
    """Return the name of the user that the Hub knows a token as: that of ``hf auth login`` where none is given.

    Raises:
        CheckpointError: a token that is not valid, or that may not write.
        Exception: whatever the network's libraries raise, for :func:`~hybrid_encoder.downloading.weights.uploads`.
    """
    from huggingface_hub import HfApi, errors

    if token is False:
        raise CheckpointError(f"token=False asks the Hub as nobody, and nobody may push; leave it out, and {LOG_IN}.")
    try:
        who = ask(lambda: HfApi(token=token).whoami())
    except errors.HfHubHTTPError as error:
        variable = next((name for name in VARIABLES if os.environ.get(name)), None)
        if token in (None, True) and variable and _status(error) == 401:
            raise CheckpointError(
                f"the Hugging Face Hub does not know the token in {variable}, which comes before that of 'hf auth "
                f"login'; unset {variable}, or set it to a token of {TOKENS}."
            ) from None
        raise
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise CheckpointError(
            f"{who['name']!r} is logged in with a token that may only read; make one that may write at {TOKENS}, and "
            "run 'hf auth login' with it."
        )
    return str(who["name"])


def find_repository(
    name: str,
    user: str,
    *,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
) -> Repository:
    """Look at a repository that a model is to be pushed to; nothing is changed.

    Args:
        name: ``owner/name``, or a name of the user's own.
        user: who is logged in, as :func:`log_in` returns it.
        token: in the place of that of ``hf auth login``.
        branch: that the commit goes to.
        create_pr: whether the commit becomes a pull request.
        private: whether the repository is to be private, for a new one.

    Raises:
        CheckpointError: what is asked for cannot be done there.
        Exception: whatever the network's libraries raise, for :func:`~hybrid_encoder.downloading.weights.uploads`.
    """
    from huggingface_hub import HfApi, errors

    if create_pr and branch not in (None, "main"):
        raise CheckpointError(
            f"a pull request goes to the branch main, and {branch!r} was asked for; leave out the branch, or the "
            "pull request."
        )
    branch = branch or "main"
    name = name if "/" in name else f"{user}/{name}"
    api = HfApi(token=token)
    try:
        about = ask(lambda: api.model_info(name))
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        if create_pr:
            raise CheckpointError(
                f"the Hugging Face Hub has no model {name!r} that {user!r} may see, so that there is nothing to open a "
                "pull request for; check the name, or push without one, which makes it."
            ) from None
        return Repository(name, branch)
    if private and about.private is False:
        raise CheckpointError(
            f"{name!r} is on the Hugging Face Hub already and public, and only a new repository is made private; "
            "change it in its settings first, or name another one."
        )
    starts = False
    if branch != "main":
        try:
            about = ask(lambda: api.model_info(name, revision=branch))
        except errors.RevisionNotFoundError:
            starts = True
    files = tuple(sibling.rfilename for sibling in about.siblings or ())
    card = _download(api, name, CARD, about.sha).decode(errors="replace") if CARD in files else None
    holds = "" if starts else _kind(api, name, files, about.sha)  # on a new branch, nothing is replaced
    return Repository(name, branch, True, about.sha, about.private, files, holds, card, starts)


def _kind(api: HfApi, repo: str, files: tuple[str, ...], revision: str | None) -> str:
    """Return the class of a model of this library, a few words on what else is a model, or nothing."""
    if CONFIG in files:
        try:
            content = parse(_download(api, repo, CONFIG, revision))
        except ConfigError:
            return f"a {CONFIG} that is not of this library"
        kind = content.get("class")
        if isinstance(kind, str) and kind in MODEL_CONFIGS and "config" in content:
            return kind
        return "a model of another library"
    weights = [name for name in files if name.endswith(WEIGHTS_OF_OTHERS)]
    return f"weights of another kind ({', '.join(weights[:3])})" if weights else ""


def _download(api: HfApi, repo: str, name: str, revision: str | None) -> bytes:
    with open(ask(lambda: api.hf_hub_download(repo, name, revision=revision)), "rb") as file:
        return file.read(MAX_BYTES + 1)


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
