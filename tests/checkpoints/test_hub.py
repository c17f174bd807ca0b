"""Models on the Hub: pushed, loaded, kept in the cache, and what is said where that fails."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors.torch import load, save

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config import PromptConfig
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder

from helpers.fake_hub import FakeHub, fake_hub
from helpers.published_layout import small_config, write_published
from helpers.traps import closed_network

OURS, PUBLISHED = "org/ours", "org/published"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    torch.manual_seed(0)
    return HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False).eval()


@pytest.fixture(scope="module")
def files(model: HybridDepthModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the Hub has: a model of ours, and one of the published layout."""
    folder = tmp_path_factory.mktemp("models")
    model.save_pretrained(folder / "ours")
    write_published(model, folder / "published" / "checkpoints")
    return {
        repo: {
            str(path.relative_to(folder / name)): path.read_bytes()
            for path in (folder / name).rglob("*")
            if path.is_file()
        }
        | {"notes.txt": b"by a person"}
        for repo, name in ((OURS, "ours"), (PUBLISHED, "published"))
    }


@pytest.fixture
def hub(tmp_path: Path, files: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "hub") as served:
        served.files.update({repo: dict(content) for repo, content in files.items()})
        served.revisions.update(
            {repo: {name: (OLDER, dict(content)) for name in ("v1",)} for repo, content in files.items()}
        )
        yield served


def check_equal(loaded: Any, model: HybridDepthModel) -> None:
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def single_files(repo: str, **options: Any) -> None:
    names = {
        OURS: ("config.json", "model.safetensors"),
        PUBLISHED: ("checkpoints/encoder.pth", "checkpoints/depth.pth"),
    }
    for name in names[repo]:
        hf_hub_download(repo, name, **options)


def by_us(repo: str, **options: Any) -> None:
    read_checkpoint(repo, **options)


FILLED: dict[str, Callable[..., Any]] = {
    "ours": by_us,
    "the whole repository": snapshot_download,
    "single files": single_files,
}


class TestCache:
    @pytest.mark.parametrize("repo", [OURS, PUBLISHED])
    @pytest.mark.parametrize("filled", FILLED)
    @pytest.mark.parametrize("revision", [None, "v1", "a commit"])
    def test_what_is_there_loads_without_the_network(
        self, hub: FakeHub, model: HybridDepthModel, repo: str, filled: str, revision: str | None
    ) -> None:
        options = {} if revision is None else {"revision": revision.replace("a commit", hub.commit(repo))}
        FILLED[filled](repo, **options)
        tensors = read_checkpoint(repo, **options).tensors
        asked: list[str] = []
        with closed_network(asked):
            found = [read_checkpoint(repo, local_files_only=True, **options)]
            with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
                found.append(read_checkpoint(repo, **options))
            assert asked == []
            found.append(read_checkpoint(repo, **options))
        for checkpoint in found:
            assert checkpoint.config.encoder == model.config.encoder and not checkpoint.left_out
            torch.testing.assert_close(checkpoint.tensors, tensors, rtol=0, atol=0)
        if revision is None:
            return
        with closed_network([]), pytest.raises(CheckpointError, match="it is not there"):
            HybridDepthModel.from_pretrained(repo, local_files_only=True, revision="v2")

    @pytest.mark.parametrize(
        ("repo", "name", "missing"),
        [
            (OURS, "config.json", "model.safetensors"),
            (OURS, "model.safetensors", "config.json"),
            (PUBLISHED, "checkpoints/depth.pth", "checkpoints/encoder.pth"),
        ],
    )
    def test_a_part_of_it(self, hub: FakeHub, model: HybridDepthModel, repo: str, name: str, missing: str) -> None:
        hf_hub_download(repo, name)
        for options in ({"local_files_only": True}, {}):
            with closed_network([]), pytest.raises(CheckpointError, match=f"part .* the cache \\({missing} is missing"):
                HybridDepthModel.from_pretrained(repo, **options)
        check_equal(HybridDepthModel.from_pretrained(repo), model)  # the rest is downloaded

    def test_the_published_encoder_alone(self, hub: FakeHub, model: HybridDepthModel) -> None:
        hf_hub_download(PUBLISHED, "checkpoints/encoder.pth")
        encoder = HybridDepthEncoder.from_pretrained(PUBLISHED, local_files_only=True)
        torch.testing.assert_close(encoder.state_dict(), model.encoder.state_dict(), rtol=0, atol=0)
        with pytest.raises(CheckpointError, match=r"no depth\.pth beside encoder\.pth; HybridDepthEncoder\.from_pre"):
            HybridDepthModel.from_pretrained(PUBLISHED, local_files_only=True)
        check_equal(HybridDepthModel.from_pretrained(PUBLISHED), model)

    def test_the_older_one_where_the_newer_one_cannot_be_had(self, hub: FakeHub, model: HybridDepthModel) -> None:
        HybridDepthModel.from_pretrained(OURS)
        hub.refusals[OURS] = 503, ""
        check_equal(HybridDepthModel.from_pretrained(OURS), model)
        with pytest.raises(CheckpointError, match="503"):
            HybridDepthModel.from_pretrained(OURS, force_download=True)
        with pytest.raises(CheckpointError, match="exclude each other; leave out one"):
            HybridDepthModel.from_pretrained(OURS, force_download=True, local_files_only=True)

    def test_a_newer_one_is_downloaded(self, hub: FakeHub, model: HybridDepthModel) -> None:
        HybridDepthModel.from_pretrained(OURS, revision="v1")
        torch.manual_seed(1)
        other = HybridDepthModel(model.config, pretrained=False)
        other.push_to_hub(OURS, branch="v1")
        check_equal(HybridDepthModel.from_pretrained(OURS, revision="v1"), other)


def test_weights_in_several_files(hub: FakeHub, model: HybridDepthModel, files: dict[str, dict[str, bytes]]) -> None:
    """As transformers writes those of large models."""
    tensors = load(files[OURS]["model.safetensors"])
    shards = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    places = {name: shards[number % 3] for number, name in enumerate(tensors)}
    content = {s: save({name: x for name, x in tensors.items() if places[name] == s}) for s in shards}
    content["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    hub.files["org/several"] = {"config.json": files[OURS]["config.json"], **content}
    check_equal(HybridDepthModel.from_pretrained("org/several"), model)
    with closed_network([]):
        check_equal(HybridDepthModel.from_pretrained("org/several", local_files_only=True), model)
    cached = Path(hf_hub_download("org/several", shards[1]))
    cached.unlink()
    with closed_network([]), pytest.raises(CheckpointError, match=rf"part .* the cache \({shards[1]} is missing"):
        HybridDepthModel.from_pretrained("org/several", local_files_only=True)
    check_equal(HybridDepthModel.from_pretrained("org/several"), model)


class TestFailures:
    def test_a_download_that_is_cut_goes_on(self, hub: FakeHub, model: HybridDepthModel) -> None:
        """At once, or with an older library when it is called again."""
        hub.cuts.update({"model.safetensors": 1})
        with contextlib.suppress(CheckpointError):
            HybridDepthModel.from_pretrained(OURS)
        check_equal(HybridDepthModel.from_pretrained(OURS), model)
        assert hub.cuts == {"model.safetensors": 0}

    def test_a_download_that_is_always_cut(self, hub: FakeHub, model: HybridDepthModel) -> None:
        hub.cuts.update({"config.json": 99})
        hub.no_ranges = True
        with (
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 2),
            pytest.raises(CheckpointError, match=r"cannot be downloaded: .*; check the connection"),
        ):
            HybridDepthModel.from_pretrained(OURS)
        hub.cuts.clear()
        check_equal(HybridDepthModel.from_pretrained(OURS), model)

    @pytest.mark.parametrize("no_ranges", [False, True])
    def test_nothing_broken_is_taken_for_whole(self, hub: FakeHub, model: HybridDepthModel, no_ranges: bool) -> None:
        hub.hanging.add("half resolve/main/model.safetensors")
        hub.no_ranges = no_ranges
        start = time.monotonic()
        with (
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 1),
            pytest.raises(CheckpointError, match=r"no answer within 1 seconds; check the connection and try again"),
        ):
            HybridDepthModel.from_pretrained(OURS)
        assert time.monotonic() - start < 60
        with pytest.raises(CheckpointError, match=r"only a part .* \(model.safetensors is missing\)"):
            HybridDepthModel.from_pretrained(OURS, local_files_only=True)
        hub.hanging.clear()
        hub.released.set()
        check_equal(HybridDepthModel.from_pretrained(OURS), model)

    @pytest.mark.parametrize("where", ["api/models", "resolve"])
    def test_a_server_that_hangs(self, hub: FakeHub, where: str) -> None:
        hub.hanging.add(where)
        start = time.monotonic()
        with (
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 1),
            pytest.raises(CheckpointError, match="check the connection and try again, copy the folder models--org--o"),
        ):
            HybridDepthModel.from_pretrained(OURS)
        assert time.monotonic() - start < 60

    def test_a_slow_download_is_waited_for(self, hub: FakeHub, model: HybridDepthModel) -> None:
        """It takes longer than the limit, which is for the time without a sign."""
        hub.seconds = 4
        start = time.monotonic()
        with mock.patch("hybrid_encoder.downloading.network.SECONDS", 3):
            check_equal(HybridDepthModel.from_pretrained(OURS), model)
        assert time.monotonic() - start > 3

    def test_a_revision_that_is_not_there(self, hub: FakeHub) -> None:
        with pytest.raises(CheckpointError, match=r"'org/ours' on the Hub has no such revision; check the name of the"):
            HybridDepthModel.from_pretrained(OURS, revision="v2")

    def test_the_command_line_ends_with_one_sentence(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.refusals["org/gated"] = 403, "GatedRepo"
        done = subprocess.run(
            [Path(sys.executable).parent / "hybrid-encoder", "info", "org/gated"],
            capture_output=True,
            text=True,
            env={**os.environ, **hub.environment, "HF_HOME": str(tmp_path)},
        )
        assert done.returncode == 2
        assert "its owner gives it to those who ask" in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
