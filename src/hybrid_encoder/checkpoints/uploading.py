"""Files uploaded to a repository on the Hugging Face Hub: in one commit, not twice, and read back."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_encoder.checkpoints.repositories import CARD, Repository
from hybrid_encoder.downloading.network import ask
from hybrid_encoder.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


@dataclass(frozen=True)
class Pushed:
    """What has been pushed, read back from the Hub.

    Attributes:
        address: of the commit, or of the pull request.
        revision: the branch or the pull request that has it.
        changed: whether anything was sent; False where all of it was there already.
        hashes: SHA-256 of each file that the Hub keeps as a large one, by name.
    """

    address: str
    revision: str
    changed: bool
    hashes: Mapping[str, str]


def upload(
    there: Repository,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Pushed:
    """Upload files in one commit, and read back what the Hub then has of them.

    What the Hub has already is not sent again: neither files that are as they were, nor large ones that arrived before
    a connection broke, since these reach the Hub before the commit that names them. Until the commit, nobody sees
    anything of it. A repository that has changed since it was looked at is not written to, and neither is one that was
    made since.

    Args:
        there: from :func:`find_repository`.
        files: each one's path here, or content, by its name there.
        message: of the commit.
        private: whether a repository that is made is private; None leaves it to the Hub.
        create_pr: open a pull request instead.
        token: in the place of that of ``hf auth login``.
        sha256: of files as they were looked at, by name; a file without one is taken as it is now.

    Raises:
        CheckpointError: a file has changed since it was looked at; what is on the Hub afterwards is not what was sent.
        Exception: whatever the network's libraries raise, for :func:`~hybrid_encoder.downloading.weights.uploads`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    if CARD in files:
        _check_metadata(files[CARD])
    added = [CommitOperationAdd(name, content) for name, content in files.items()]  # reads and hashes them
    sent = {one.path_in_repo: one.upload_info.sha256.hex() for one in added}
    _refuse_changed(sent, sha256 or {})
    if not there.exists:
        ask(lambda: api.create_repo(there.name, private=private))  # an error where somebody else has made it by now
    if there.branch != "main" and (there.starts or not there.exists):
        ask(lambda: api.create_branch(there.name, branch=there.branch, revision=there.commit))
    operations: list[Any] = [*added, *map(CommitOperationDelete, there.stale(files))]
    options: dict[str, Any] = {"revision": there.branch, "create_pr": create_pr, "parent_commit": there.commit}
    try:
        commit = api.create_commit(there.name, operations, commit_message=message, **options)
    except Exception:
        _refuse_changed(_hashes(files), sent)  # the Hub was told of one file and given another
        raise
    _refuse_changed(_hashes(files), sent)
    hashes = _read_back(api, there.name, added, commit.pr_revision or commit.oid)
    address = commit.pr_url or str(commit.commit_url)
    return Pushed(address, commit.pr_revision or there.branch, commit.oid != there.commit, hashes)


def _check_metadata(card: Path | bytes) -> None:
    """Ask the Hub whether it takes the metadata of a card, before a repository is made for it.

    ``RepoCard.validate`` of huggingface_hub 1 asks huggingface.co, whatever ``HF_ENDPOINT`` says.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented, not in __all__

    text = (card if isinstance(card, bytes) else card.read_bytes()).decode(errors="replace")
    address, asked = f"{constants.ENDPOINT}/api/validate-yaml", {"repoType": "model", "content": text}
    answer = ask(lambda: get_session().post(address, json=asked, headers={"Accept": "text/plain"}))
    if answer.status_code == 400:
        said = re.findall(r'"message": *"([^"]+)"', answer.text) or [answer.text]
        raise CheckpointError(
            f"the Hugging Face Hub does not take the metadata at the top of {CARD} ({' '.join(said[0].split())}); "
            "licences have the names of https://huggingface.co/docs/hub/repositories-licenses, and data sets those "
            "that they have on the Hub."
        )
    hf_raise_for_status(answer)


def _read_back(api: HfApi, repo: str, added: Sequence[CommitOperationAdd], revision: str) -> dict[str, str]:
    """Compare what the Hub has of files with what was sent, and return the SHA-256 of the large ones by name."""
    names = [one.path_in_repo for one in added]
    rows = {row.path: row for row in ask(lambda: api.get_paths_info(repo, names, revision=revision))}
    hashes = {}
    for name, one in zip(names, added, strict=True):
        row: Any = rows.get(name)
        large = getattr(row, "lfs", None)
        found = None if row is None else (row.size, large.sha256 if large else row.blob_id)
        if large:
            sent = one.upload_info.size, one.upload_info.sha256.hex()
            hashes[name] = sent[1]
        else:
            with one.as_file() as file:
                sent = size_and_hash(file.read(), git=True)
        if found != sent:
            has = (
                "has no such file, which a .gitignore there may leave out"
                if found is None
                else f"has {found[0]} bytes with the hash {found[1]}"
            )
            raise CheckpointError(
                f"{name} of {repo!r} is not on the Hugging Face Hub as it was sent ({sent[0]} bytes with the hash "
                f"{sent[1]}): the Hub {has}; push it again."
            )
    return hashes


def _hashes(files: Mapping[str, Path | bytes]) -> dict[str, str]:
    """Return the SHA-256 of files as they are now; of one that cannot be read any more, nothing."""
    found = {}
    for name, content in files.items():
        with contextlib.suppress(OSError):
            found[name] = size_and_hash(content)[1]
    return found


def _refuse_changed(now: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Raise CheckpointError where a file is no longer the one that was looked at."""
    for name, digest in before.items():
        if now.get(name) != digest:
            raise CheckpointError(
                f"{name} has changed since it was looked at, so that it is not what was to be published; wait until "
                "nothing writes to it any more, and push it again."
            )


def size_and_hash(content: Path | bytes, git: bool = False) -> tuple[int, str]:
    """Return the size in bytes, and the SHA-256 or the SHA-1 by which git names a file."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else hashlib.sha256()
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return size, digest.hexdigest()
