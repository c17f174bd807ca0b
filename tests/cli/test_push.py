"""``hybrid-encoder push``: what is checked before, what is sent, and what is said, against a Hub on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from huggingface_hub.utils._http import _DEFAULT_RETRY_ON_EXCEPTIONS
from safetensors.torch import load_file, save_file

import hybrid_encoder
from hybrid_encoder.checkpoints.sources import SHIPPED
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder

from helpers.command_line import Ended, call
from helpers.fake_hub import TOKEN, FakeHub, fake_hub

REPO, TINY, MINE = "somebody/roads", SHIPPED / "tiny", b"# Mine alone\n"
PERSONS = "\n## Seen on the Hub\n\nBy a person.\n"
KINDS = ("HybridDepthEncoder", "HybridMatchingEncoder", "HybridMatchingModel", "BevModel")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "hub") as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    HybridDepthEncoder.from_pretrained("tiny").save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def no_waiting() -> Iterator[None]:
    with mock.patch("time.sleep"):
        yield


def push(*arguments: object, repo: str = REPO, yes: bool = True) -> Ended:
    ended = call("push", *arguments, "--repo", repo, *(["--yes"] if yes else []))
    assert TOKEN not in ended.out + ended.err
    return ended


def done(*arguments: object, **options: Any) -> Ended:
    ended = push(*arguments, **options)
    assert ended.status == 0, ended.err
    return ended


def refused(*arguments: object, **options: Any) -> str:
    ended = push(*arguments, **options)
    assert ended.fault() is None and ended.status == 2, ended
    return ended.err


def asked(hub: FakeHub) -> list[str]:
    """Return what was asked, but for what huggingface_hub asks once for itself."""
    return [row for row in hub.requests if "agent-harnesses" not in row]


def weights_sent(hub: FakeHub) -> int:
    return sum(row.startswith("PUT /objects/") for row in hub.requests)


class TestWhatIsSent:
    def test_the_shipped_weights(self, hub: FakeHub) -> None:
        said = done("tiny").out
        files = hub.files[REPO]
        assert set(files) == {file.name for file in TINY.iterdir()}
        for name in ("config.json", "model.safetensors"):
            assert files[name] == (TINY / name).read_bytes()
        card = files["README.md"].decode()
        assert "license: apache-2.0" in card and f'from_pretrained("{REPO}")' in card and "train_tiny.py" in card
        digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
        for part in (
            "a new repository, public unless",
            "you are somebody",
            "model.safetensors             3.4 MB",
            card.strip(),
            f"model.safetensors is on the Hub as it is here: SHA-256 {digest}\n",
            f"{hub.address}/{REPO}/commit/{hub.commit(REPO)}\n",
            f'\nHybridDepthModel.from_pretrained("{REPO}")\n',
        ):
            assert " ".join(part.split()) in " ".join(said.split())
        assert asked(hub)[0] == "GET /api/whoami-v2" and hub.private == set()
        loaded, here = HybridDepthModel.from_pretrained(REPO), HybridDepthModel.from_pretrained("tiny")
        torch.testing.assert_close(loaded.state_dict(), here.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_of_model(self, hub: FakeHub, tmp_path: Path, kind: str) -> None:
        torch.manual_seed(0)
        model = getattr(hybrid_encoder, kind)("tiny", pretrained=False)
        model.save_pretrained(tmp_path / "final", notes="Random numbers.")
        assert f'\n{kind}.from_pretrained("{REPO}")\n' in done(tmp_path / "final", repo="roads").out
        assert hub.files[REPO]["model.safetensors"] == (tmp_path / "final" / "model.safetensors").read_bytes()
        loaded = getattr(hybrid_encoder, kind).from_pretrained(REPO)
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_what_else_is_in_the_folder_stays_here(self, hub: FakeHub, folder: Path) -> None:
        (folder / "secret.txt").write_text("mine")
        for inner in ("__pycache__", ".saving-x"):
            (folder / inner).mkdir()
            (folder / inner / "model.safetensors").write_bytes(b"Not shown.")
        (folder / "optimizer.pth").write_bytes(b"\x80\x04.")
        (folder / "preprocessor_config.json").write_text("{}")
        assert "stays here: .saving-x, __pycache__, optimizer.pth, secret.txt\n" in done(folder).out
        assert set(hub.files[REPO]) == {"config.json", "model.safetensors", "README.md", "preprocessor_config.json"}

    def test_a_branch_that_is_made(self, hub: FakeHub, folder: Path) -> None:
        done("tiny")
        said = done(folder, "--branch", "trials/one", "--notes", "Another.").out
        assert said.endswith(f'HybridDepthModel.from_pretrained("{REPO}", revision="trials/one")\n')
        assert "Another." in hub.revisions[REPO]["trials/one"][1]["README.md"].decode()
        assert "Another." not in hub.files[REPO]["README.md"].decode()

    def test_a_branch_starts_from_main_and_keeps_what_a_person_wrote_there(self, hub: FakeHub, encoder: Path) -> None:
        done("tiny")
        hub.files[REPO]["README.md"] += PERSONS.encode()
        hub.files[REPO]["preprocessor_config.json"] = b"{}"
        said = " ".join(done(encoder, "--branch", "encoder").out.split())
        assert "which is there (public); branch is made from main" in said
        assert "deleted there: preprocessor_config.json, which is not of this model" in said
        made = hub.revisions[REPO]["encoder"][1]
        assert set(made) == {"config.json", "model.safetensors", "README.md"}
        assert "By a person." in made["README.md"].decode() and "# HybridDepthEncoder\n" in made["README.md"].decode()
        assert b"HybridDepthModel" in hub.files[REPO]["config.json"]

    def test_a_pull_request(self, hub: FakeHub) -> None:
        assert "nothing to open a pull request for" in refused("tiny", "--create-pr")
        assert "goes to the branch main" in refused("tiny", "--create-pr", "--branch", "v1")
        done("tiny")
        before = dict(hub.files[REPO])
        said = done("tiny", "--create-pr", "--license", "mit").out
        assert f"{hub.address}/{REPO}/discussions/1\n" in said and 'revision="refs/pr/1")' in said
        assert hub.files[REPO] == before
        assert "license: mit" in hub.revisions[REPO]["refs/pr/1"][1]["README.md"].decode()

    def test_private(self, hub: FakeHub) -> None:
        assert "a new repository, private; " in " ".join(done("tiny", "--private").out.split())
        assert hub.private == {REPO}
        assert "which is there (private)" in " ".join(done("tiny", "--private").out.split())
        hub.private.clear()
        hub.requests.clear()
        assert "already and public, and only a new repository is made private" in refused("tiny", "--private")
        assert hub.sent() == []
        with pytest.raises(CheckpointError, match="already and public"):
            HybridDepthModel.from_pretrained("tiny").push_to_hub(REPO, private=True)


class TestCard:
    def test_what_is_said_for_it(self, hub: FakeHub, folder: Path) -> None:
        done(folder, "--notes", "By hand.", "--license", "MIT", "--datasets", "org/drives, KITTI")
        card = hub.files[REPO]["README.md"].decode()
        assert "## How it was made\n\nBy hand.\n" in card and "license: mit\n" in card
        assert "datasets:\n- org/drives\n- KITTI\n" in card
        assert (folder / "README.md").read_bytes() == (TINY / "README.md").read_bytes()

    def test_without_one_in_the_folder(self, hub: FakeHub, folder: Path) -> None:
        (folder / "README.md").unlink()
        done(folder, "--notes", "By hand.")
        assert "By hand." in hub.files[REPO]["README.md"].decode()
        done(folder)  # what the card there says stays, as nothing is said here
        assert "By hand." in hub.files[REPO]["README.md"].decode()

    def test_what_a_person_wrote_on_the_hub_stays(self, hub: FakeHub, folder: Path) -> None:
        done(folder)
        text = hub.files[REPO]["README.md"].decode() + PERSONS
        text = text.replace("# HybridDepthModel", "# Roads").replace("library_name", "language: en\nlibrary_name")
        hub.files[REPO]["README.md"] = text.encode()
        done(folder, "--notes", "By hand.", "--license", "mit")
        card = hub.files[REPO]["README.md"].decode()
        assert "# Roads\n" in card and "By a person." in card and "language: en\n" in card
        assert "By hand." in card and "train_tiny.py" not in card and "license: mit\n" in card
        hub.files[REPO]["README.md"] = MINE
        assert "was written by a person, and stays as it is" in done(folder).out
        assert hub.files[REPO]["README.md"] == MINE

    def test_what_a_person_wrote_in_the_folder_goes_there(self, hub: FakeHub, folder: Path) -> None:
        HybridDepthModel.from_pretrained("tiny").save_pretrained(folder)
        (folder / "preprocessor_config.json").unlink()
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(card.replace("# HybridDepthModel", "# Of mine") + PERSONS)
        done("tiny")
        done(folder)
        assert "# Of mine\n" in hub.files[REPO]["README.md"].decode()
        assert "By a person." in hub.files[REPO]["README.md"].decode()
        (folder / "README.md").write_bytes(MINE)
        done(folder)
        assert hub.files[REPO]["README.md"] == MINE
        assert "is not a card of this library" in refused(folder, "--license", "mit")

    def test_metadata_that_the_hub_does_not_take(self, hub: FakeHub) -> None:
        said = refused("tiny", "--license", "mine alone")
        assert "does not take the metadata at the top of README.md" in said and "repositories-licenses" in said
        assert hub.files == {}


class TestAgain:
    def test_nothing_is_sent_twice(self, hub: FakeHub) -> None:
        done("tiny")
        before = hub.commit(REPO)
        hub.requests.clear()
        assert "has all of it already; nothing was sent" in done("tiny").out
        assert weights_sent(hub) == 0 and not any("/commit/" in row for row in hub.requests)
        assert "nothing was sent" not in done("tiny", "--notes", "By hand.").out
        assert weights_sent(hub) == 0 and hub.commit(REPO) != before

    def test_a_connection_that_breaks_before_the_commit(self, hub: FakeHub, no_waiting: None) -> None:
        hub.cuts["/commit/"] = 99
        said = refused("tiny")
        assert "check the connection and try again, or push it again later" in said
        assert weights_sent(hub) == 1 and hub.files[REPO] == {}
        hub.cuts.clear()
        done("tiny")
        assert weights_sent(hub) == 1 and "model.safetensors" in hub.files[REPO]

    def test_a_connection_that_breaks_within_the_weights(self, hub: FakeHub, no_waiting: None) -> None:
        hub.cuts["/objects/"] = 1
        hub.cuts["/preupload/"] = 1
        # Newer huggingface_hub tries each again by itself; older ones leave it to the person, who is told.
        tried_again = "RemoteProtocolError" in {kind.__name__ for kind in _DEFAULT_RETRY_ON_EXCEPTIONS}
        for _ in range(0 if tried_again else 2):
            assert "check the connection and try again, or push it again later" in refused("tiny")
        done("tiny")
        hub.cuts["/objects/"] = 99
        hub.objects.clear()
        assert "check the connection" in refused("tiny", repo="somebody/other")
        assert hub.files["somebody/other"] == {}
        hub.cuts.clear()
        done("tiny", repo="somebody/other")
        assert hub.files["somebody/other"]["model.safetensors"] == hub.files[REPO]["model.safetensors"]

    def test_what_arrives_otherwise_is_told(self, hub: FakeHub) -> None:
        hub.changes = True
        said = refused("tiny")
        digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
        assert "model.safetensors of 'somebody/roads' is not on the Hugging Face Hub as it was sent" in said
        assert digest in said and said.endswith("push it again.\n")

    @pytest.mark.parametrize(
        ("asked_for", "change", "says"),
        [
            ("/paths-info/", lambda row: row.update(oid="0" * 40), f"bytes with the hash {'0' * 40}; push it"),
            ("/paths-info/", lambda row: row.update(path="other"), "the Hub has no such file"),
            ("/preupload/", lambda row: row.update(shouldIgnore=True), "the Hub has no such file"),
        ],
    )
    def test_small_files_that_arrive_otherwise_are_told(
        self, hub: FakeHub, asked_for: str, change: Any, says: str
    ) -> None:
        """The last one as by a .gitignore there, for which huggingface_hub leaves a file out and says nothing."""
        answer = hub.answer

        def changed(method: str, path: str, body: bytes, token: str = "") -> Any:
            status, headers, text = answer(method, path, body, token)
            if asked_for in path:
                about = json.loads(text)
                rows = about["files"] if isinstance(about, dict) else about
                change(next(row for row in rows if row["path"] == "config.json"))
                text = json.dumps(about).encode()
            return status, headers, text

        with mock.patch.object(hub, "answer", changed):
            said = refused("tiny")
        assert "config.json of 'somebody/roads' is not on the Hugging Face Hub as it was sent" in said and says in said

    def test_a_repository_that_changes_meanwhile_is_not_written_to(self, hub: FakeHub) -> None:
        done("tiny")
        shown = "hybrid_encoder.cli.push._confirm"
        with mock.patch(shown, side_effect=lambda *_: hub.files[REPO].update({"notes.txt": b"By another."})):
            assert "somebody has changed it in the meantime" in refused("tiny", "--notes", "By hand.")
        assert b"By hand." not in hub.files[REPO]["README.md"]

    def test_a_repository_that_somebody_makes_meanwhile(self, hub: FakeHub) -> None:
        """It may be public, where a private one was asked for, and hold what nobody was shown."""
        shown = "hybrid_encoder.cli.push._confirm"
        with mock.patch(shown, side_effect=lambda *_: hub.files.update({REPO: {"notes.txt": b"By another."}})):
            assert "409, as somebody has changed it in the meantime; look at what is" in refused("tiny", "--private")
        assert hub.files[REPO] == {"notes.txt": b"By another."} and weights_sent(hub) == 0

    def test_a_process_that_is_killed(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.hanging.add("/commit/")
        line = [sys.executable, "-m", "hybrid_encoder", "push", "tiny", "--repo", REPO, "--yes"]
        with subprocess.Popen(line, env={**os.environ, **hub.environment}, stdout=subprocess.DEVNULL) as running:
            for _ in range(1200):
                if any("/commit/" in row for row in hub.requests) or running.poll() is not None:
                    break
                time.sleep(0.1)
            running.kill()
        assert weights_sent(hub) == 1 and hub.files[REPO] == {}
        hub.hanging.clear()
        done("tiny")
        assert weights_sent(hub) == 1 and "model.safetensors" in hub.files[REPO]


class TestFolderThatChanges:
    def other_weights(self, folder: Path) -> None:
        torch.manual_seed(0)
        HybridDepthModel("tiny", pretrained=False).save_pretrained(folder)

    def test_after_it_was_shown(self, hub: FakeHub, folder: Path) -> None:
        with mock.patch("hybrid_encoder.cli.push._confirm", side_effect=lambda *_: self.other_weights(folder)):
            said = refused(folder)
        assert "model.safetensors has changed since it was looked at" in said and hub.files == {}

    def test_while_it_is_checked(self, hub: FakeHub, folder: Path) -> None:
        with mock.patch.object(HybridDepthModel, "from_checkpoint", side_effect=lambda *_: self.other_weights(folder)):
            assert "model.safetensors has changed since it was looked at" in refused(folder)
        assert hub.files == {}

    def test_while_it_is_uploaded(self, hub: FakeHub, folder: Path) -> None:
        answer = hub.answer

        def change(method: str, path: str, body: bytes, token: str = "") -> Any:
            if "/objects/batch" in path:  # it is hashed, and not sent yet
                weights = folder / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:-1] + b"?")
            return answer(method, path, body, token)

        with mock.patch.object(hub, "answer", change):
            said = refused(folder)
        assert "model.safetensors has changed since it was looked at" in said and hub.files[REPO] == {}

    def test_small_files_are_those_that_were_shown(self, hub: FakeHub, folder: Path) -> None:
        def change(*_: object) -> None:
            for name in ("config.json", "README.md"):
                (folder / name).write_text("Not shown.")

        with mock.patch("hybrid_encoder.cli.push._confirm", side_effect=change):
            done(folder)
        assert hub.files[REPO]["config.json"] == (TINY / "config.json").read_bytes()
        assert b"train_tiny.py" in hub.files[REPO]["README.md"]

    def test_weights_that_are_a_link(self, hub: FakeHub, folder: Path, tmp_path: Path) -> None:
        (folder / "model.safetensors").rename(tmp_path / "blob")
        (folder / "model.safetensors").symlink_to(tmp_path / "blob")
        done(folder)
        assert hub.files[REPO]["model.safetensors"] == (tmp_path / "blob").read_bytes()
        (tmp_path / "blob").unlink()
        assert "has no model.safetensors" in refused(folder)


class TestLogin:
    def test_nobody_is_logged_in(self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        for folder in ("tiny", "nowhere"):  # it is the first thing to be checked
            assert "nobody is logged in; run 'hf auth login'" in refused(folder)
        assert asked(hub) == []

    def test_a_token_that_is_not_known(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_stale")
        ended = push("nowhere")
        assert ended.status == 2 and "hf_stale" not in ended.out + ended.err
        assert "does not know the token in HF_TOKEN" in ended.err and "unset HF_TOKEN" in ended.err
        assert asked(hub) == ["GET /api/whoami-v2"]
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older")
        assert "does not know the token in HUGGING_FACE_HUB_TOKEN" in refused("tiny")

    def test_a_token_that_may_only_read(self, hub: FakeHub) -> None:
        hub.tokens[TOKEN] = "somebody", "read"
        assert "token that may only read; make one that may write at https://hugg" in refused("tiny")
        with pytest.raises(CheckpointError, match="may only read"):
            HybridDepthModel.from_pretrained("tiny").push_to_hub(REPO)
        assert hub.sent() == []


class TestFolder:
    def test_another_layout(self, hub: FakeHub, published: Path) -> None:
        said = refused(published)
        assert "has a checkpoint of another layout (published)" in said
        assert f"with 'hybrid-encoder convert {published} FOLDER'" in said

    def test_weights_in_several_files(self, hub: FakeHub, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        places = dict.fromkeys(load_file(folder / "model-1.safetensors"), "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        assert "has weights in several files; write it" in refused(folder)

    def test_the_folder_of_a_run(self, hub: FakeHub, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "roads"
        shutil.copytree(TINY, run / "final")
        (run / "run.json").write_text("{}")
        (run / "checkpoints" / "step_8").mkdir(parents=True)
        for folder in (run, run / "checkpoints" / "step_8"):
            assert f"name {run / 'final'}" in refused(folder)
        assert hub.sent() == []
        done(run / "final")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda folder: shutil.rmtree(folder), "there is no folder|is neither a file or folder"),
            (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
            (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
            (lambda folder: (folder / "config.json").write_text("{}"), "is not a configuration of this library"),
            (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors "),
            (lambda folder: _without_a_tensor(folder), "decoder"),
        ],
    )
    def test_a_folder_that_is_not_whole(self, hub: FakeHub, folder: Path, change: Any, says: str) -> None:
        change(folder)
        assert re.search(says, refused(folder))
        assert hub.sent() == []

    def test_a_name_on_the_hub(self, hub: FakeHub) -> None:
        assert "there is no folder 'org/roads' here" in refused("org/roads")


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.startswith("decoder."))]
    save_file(tensors, folder / "model.safetensors")


class TestAnotherKind:
    OTHERS = (
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}, "holds a model of another library"),
        ({"config.json": b"[", "model.safetensors": b"x"}, "holds a config.json that is not of this library"),
        ({"encoder.pth": b"x", "depth.pth": b"x"}, r"holds weights of another kind (encoder.pth, depth.pth)"),
    )

    @pytest.mark.parametrize(("files", "says"), OTHERS)
    def test_is_not_replaced_unasked(self, hub: FakeHub, files: dict[str, bytes], says: str) -> None:
        hub.files[REPO] = dict(files)
        said = refused("tiny")
        assert says in said and "--overwrite" in said
        assert hub.sent() == [] and hub.files[REPO] == files
        with pytest.raises(CheckpointError, match="overwrite=True"):
            HybridDepthModel.from_pretrained("tiny").push_to_hub(REPO)
        done("tiny", "--overwrite")
        HybridDepthModel.from_pretrained(REPO)

    def test_of_this_library(self, hub: FakeHub, tmp_path: Path, encoder: Path) -> None:
        HybridDepthModel.from_pretrained("tiny").save_pretrained(tmp_path / "whole")
        done(tmp_path / "whole")
        assert "holds HybridDepthModel, which a HybridDepthEncoder would replace" in refused(encoder)
        done(encoder, "--overwrite")
        assert set(hub.files[REPO]) == {"config.json", "model.safetensors", "README.md"}  # pictures are not for it
        assert "# HybridDepthEncoder\n" in hub.files[REPO]["README.md"].decode()

    def test_notes_alone_are_no_model(self, hub: FakeHub) -> None:
        hub.files[REPO] = {".gitattributes": b"*.bin", "notes.txt": b"By a person."}
        done("tiny")
        assert hub.files[REPO]["notes.txt"] == b"By a person."


class Terminal(io.StringIO):
    """A person at the keyboard, who has typed all of this."""

    def isatty(self) -> bool:
        return True


class TestAsked:
    def answered(self, text: str, *arguments: object) -> Ended:
        with mock.patch.object(sys, "stdin", Terminal(text)):
            return push(*arguments, yes=False)

    def test_without_a_terminal(self, hub: FakeHub) -> None:
        with mock.patch.object(sys, "stdin", io.StringIO("y\n")):
            ended = push("tiny", yes=False)
        assert ended.status == 2 and "and give --yes" in ended.err and "# HybridDepthModel" in ended.out
        assert hub.sent() == []

    def test_at_a_terminal(self, hub: FakeHub) -> None:
        for text in ("\n", "n\n"):
            ended = self.answered(text, "tiny")
            assert ended.status == 1 and ended.out.endswith("Nothing was uploaded.\n")
        assert hub.sent() == []
        ended = self.answered("y\n", "tiny")
        assert ended.status == 0 and "Upload this to somebody/roads? [y/N]" in ended.out
        assert "model.safetensors" in hub.files[REPO]

    def test_before_another_kind_is_replaced(self, hub: FakeHub, encoder: Path) -> None:
        done("tiny")
        before = dict(hub.files[REPO])
        assert self.answered("n\ny\n", encoder).status == 1
        assert hub.files[REPO] == before
        ended = self.answered("y\ny\n", encoder)
        assert ended.status == 0 and "Replace what is there (HybridDepthModel) by a HybridDepthEncoder?" in ended.out
        HybridDepthEncoder.from_pretrained(REPO)


class TestFailures:
    @pytest.mark.parametrize(
        ("part", "status", "says", "code"),
        [
            ("repos/create", 403, "answered 403, as your token does not allow it; run 'hf auth login'", ""),
            ("/commit/", 403, "answered 403, as your token does not allow it; run 'hf auth login'", ""),
            ("/commit/", 403, "answered 403: Storage limit reached; free some space there", "Storage limit reached."),
            ("objects/batch", 500, "answered 500; try again in a few minutes, or push it again later", ""),
            ("whoami", 429, "answered 429; try again in a few minutes", ""),
        ],
    )
    def test_the_hub_refuses(
        self, hub: FakeHub, no_waiting: None, part: str, status: int, says: str, code: str
    ) -> None:
        hub.refusals[part] = status, code
        said = refused("tiny")
        assert f"cannot be pushed to '{REPO}' on the Hugging Face Hub: " in said and says in said
        assert not hub.files.get(REPO)

    @pytest.mark.parametrize("name", ["a/b/c", "-roads", "a b", "some..body/roads"])
    def test_a_name_that_cannot_be(self, hub: FakeHub, name: str) -> None:
        assert "cannot be a name on the Hub; check the name" in refused("tiny", repo=name)
        assert hub.sent() == []

    def test_no_network(self, hub: FakeHub) -> None:
        with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
            assert "offline mode is on; unset HF_HUB_OFFLINE" in refused("tiny")
        with mock.patch("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"):
            assert "check the connection and try again, or push it again later" in refused("tiny")

    def test_a_server_that_hangs(self, hub: FakeHub) -> None:
        hub.hanging.add("whoami")
        with mock.patch("hybrid_encoder.downloading.network.SECONDS", 1):
            assert "no answer within 1 seconds; check the connection" in refused("tiny")
