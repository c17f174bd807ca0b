"""Public weights: what is in the cache is used without the network, and what cannot be had is told in one sentence."""

from __future__ import annotations

import errno
import importlib
import io
import json
import threading
import time
import traceback
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub.errors as hub_errors
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import nn

from hybrid_encoder.config import SemanticConfig, SpatialConfig
from hybrid_encoder.downloading.weights import downloads, hub_folder, timm_weights
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.pose_network import PoseNetwork
from hybrid_encoder.towers.semantic import build_clip
from hybrid_encoder.towers.spatial import build_spatial

from helpers.fake_hub import FakeHub, cache_at, fake_hub, put_into_cache
from helpers.small_models import small_clip
from helpers.traps import closed_network

# What huggingface_hub stands on: httpx, or its successor in later versions.
httpx: Any = importlib.import_module(hub_errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
DINO, RESNET = "test_vit.r160_in1k", "test_resnet.r160_in1k"  # of timm, the smallest of their kind with weights
CLIP = small_clip("RN50-quickgelu", layers=[1, 1, 1, 1], width=16)
SOURCES: dict[str, Callable[[], Any]] = {
    f"timm/{DINO}": lambda: build_spatial(SpatialConfig(DINO), True),
    "timm/resnet50_clip.openai": lambda: build_clip(SemanticConfig(CLIP.name, "openai", CLIP.overrides), True),
    "org/dino": lambda: build_spatial(SpatialConfig("hf:org/dino"), True),
    "org/name": lambda: HybridDepthModel.from_pretrained("org/name"),
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """An empty cache, and a network in which nothing answers."""
    with cache_at(tmp_path / "hub"):
        yield tmp_path / "hub"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A Hub on this machine, with an empty cache."""
    with fake_hub(tmp_path / "hub") as served:
        yield served


def same(model: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether a model holds these tensors, for the names that both have; at least half of its own must be there."""
    own = model.state_dict()
    shared = [name for name in own if name in tensors and own[name].shape == tensors[name].shape]
    return len(shared) > len(own) // 2 and all(torch.equal(own[name], tensors[name]) for name in shared)


class TestCache:
    """Weights that are there are read without one question to the network."""

    @pytest.fixture(autouse=True)
    def closed(self, cache: Path) -> Iterator[None]:
        asked: list[str] = []
        with closed_network(asked):
            yield
        assert asked == []

    def test_dino_of_timm(self, cache: Path) -> None:
        tensors = timm.create_model(DINO).state_dict()
        save_file(tensors, put_into_cache(cache, f"timm/{DINO}", "model.safetensors"))
        tower = build_spatial(SpatialConfig(DINO), True)
        assert same(tower.model, tensors)
        assert not same(build_spatial(SpatialConfig(DINO), False).model, tensors)

    def test_dino_of_transformers(self, cache: Path) -> None:
        from transformers import Dinov2Config, Dinov2Model

        small = Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14)
        source = Dinov2Model(small)
        source.save_pretrained(put_into_cache(cache, "org/dino", "config.json").parent)
        tower = build_spatial(SpatialConfig("hf:org/dino"), True)
        assert same(tower.model, source.state_dict())
        assert tower.config.overrides["config"]["hidden_size"] == 32

    def test_clip(self, cache: Path) -> None:
        tensors = build_clip(CLIP, False).state_dict()
        save_file(tensors, put_into_cache(cache, "timm/resnet50_clip.openai", "open_clip_model.safetensors"))
        with_tag = SemanticConfig(CLIP.name, "openai", CLIP.overrides)
        assert same(build_clip(with_tag, True), tensors)
        assert not same(build_clip(with_tag, False), tensors)

    def test_pose(self, cache: Path) -> None:
        tensors = timm.create_model(RESNET).state_dict()
        save_file(tensors, put_into_cache(cache, f"timm/{RESNET}", "model.safetensors"))
        network = PoseNetwork(RESNET, pretrained=True)
        assert same(network.backbone, tensors)
        stem = "conv1.0.weight"
        torch.testing.assert_close(network.backbone.state_dict()[stem], torch.cat([tensors[stem] / 2] * 2, dim=1))


class TestHub:
    def test_downloaded_once_and_then_read_from_the_cache(self, hub: FakeHub) -> None:
        tensors = timm.create_model(DINO).state_dict()
        hub.files[f"timm/{DINO}"] = {"model.safetensors": save(tensors), "pytorch_model.bin": b"x", "README.md": b"x"}
        assert same(build_spatial(SpatialConfig(DINO), True).model, tensors)
        assert any("resolve" in asked and "model.safetensors" in asked for asked in hub.requests)
        assert not any("pytorch_model.bin" in asked or "README" in asked for asked in hub.requests)
        hub.requests.clear()
        assert same(build_spatial(SpatialConfig(DINO), True).model, tensors)
        assert hub.requests == []

    def test_a_trained_model_is_loaded_again_without_the_network(self, hub: FakeHub, tmp_path: Path) -> None:
        model = HybridDepthModel("tiny", pretrained=False)
        model.save_pretrained(tmp_path / "saved")
        files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
        hub.files["org/name"] = {**files, "huge.bin": b"not for us"}
        assert same(HybridDepthModel.from_pretrained("org/name"), model.state_dict())
        assert not any("huge.bin" in asked for asked in hub.requests)
        with closed_network([]):
            assert same(HybridDepthModel.from_pretrained("org/name"), model.state_dict())
            assert same(HybridDepthModel.from_pretrained("org/name", local_files_only=True), model.state_dict())
            with pytest.raises(CheckpointError, match=r"only the cache may be asked.*leave out local_files_only"):
                HybridDepthModel.from_pretrained("org/other", local_files_only=True)

    def test_a_newer_revision_is_asked_for_where_it_matters(self, hub: FakeHub) -> None:
        hub.files["org/name"] = {"a.txt": b"1"}
        hub_folder("org/name", [("a.txt", ["a.txt"])])
        hub.requests.clear()
        folder, name = hub_folder("org/name", [("a.txt", ["a.txt"])], cached_first=False)
        assert hub.requests and (folder / name).read_bytes() == b"1"

    @pytest.mark.parametrize(
        ("status", "code", "says"),
        [
            (401, "RepoNotFound", r"no model 'org/name' that you may see; check the name, and where it is private run"),
            (404, "RepoNotFound", r"no model 'org/name' that you may see; check the name, and where it is private run"),
            (
                401,
                "Invalid credentials in Authorization header",
                r"401, as nobody is logged in or the token is not valid; run 'hf auth",
            ),
            (403, "", r"answered 403, as your token does not allow it; run 'hf auth login' .* that may use org/name,"),
            (403, "GatedRepo", r"ask at https://huggingface.co/org/name, and then run 'hf auth login'"),
            (404, "RevisionNotFound", r"no such revision; check the name of the branch, tag or commit"),
            (429, "", r"the server answered 429; try again in a few minutes"),
            (500, "", r"the server answered 500; try again in a few minutes"),
            (503, "", r"the server answered 503; try again in a few minutes"),
        ],
    )
    def test_what_the_hub_answers(self, hub: FakeHub, status: int, code: str, says: str) -> None:
        for repo, build in SOURCES.items():
            hub.refusals[repo] = status, code
            start = time.monotonic()
            with pytest.raises(CheckpointError, match=says.replace("org/name", repo)):
                build()
            assert time.monotonic() - start < 60
        assert len(hub.requests) == len(SOURCES)

    @pytest.mark.parametrize("where", ["/api/models/", "/resolve/", "half /resolve/"])
    @pytest.mark.parametrize("repo", [f"timm/{DINO}", "timm/resnet50_clip.openai", "org/dino"])
    def test_a_server_that_hangs(self, hub: FakeHub, where: str, repo: str) -> None:
        names = "config.json", "model.safetensors", "open_clip_model.safetensors"
        hub.files[repo] = dict.fromkeys(names, b"x" * 1000)
        hub.hanging.add(where)
        start = time.monotonic()
        with (
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 1),
            pytest.raises(
                CheckpointError, match=rf"\({repo} on .*; check the connection and try again, copy the folder"
            ),
        ):
            SOURCES[repo]()
        assert time.monotonic() - start < 60

    @pytest.mark.parametrize("repo", [repo for repo in SOURCES if repo != "org/name"])
    def test_a_damaged_file(self, hub: FakeHub, repo: str) -> None:
        """Cut while the cache was copied: downloaded again, or told where that cannot be."""
        tensors = save({"a": torch.zeros(100)})
        hub.files[repo] = dict.fromkeys(("model.safetensors", "open_clip_model.safetensors"), tensors)
        hub.files[repo]["config.json"] = b"{}"
        names = [name for name in hub.files[repo] if name != "config.json"]
        for name in names:
            folder, _ = hub_folder(repo, [(name, [name, "config.json"])])
            (folder / name).write_bytes(tensors[:-100])
        with (
            closed_network([]),
            pytest.raises(CheckpointError, match=r"in the cache it is damaged \(.* is not whole\); c"),
        ):
            SOURCES[repo]()
        for name in names:
            assert (hub_folder(repo, [(name, [name])])[0] / name).read_bytes() == tensors
            hub.files[repo][name] = tensors[:-100]
            with pytest.raises(CheckpointError, match=rf"{name} is damaged on the Hub; tell its owner"):
                hub_folder(repo, [(name, [name])], force_download=True)

    def test_no_name_server(self, cache: Path) -> None:
        """Looking up a name has no limit of time of its own."""
        ended = threading.Event()
        with (
            mock.patch("socket.getaddrinfo", side_effect=lambda *_, **__: ended.wait() and []),
            mock.patch("hybrid_encoder.downloading.network.SECONDS", 0.5),
        ):
            for repo, build in SOURCES.items():
                start = time.monotonic()
                with pytest.raises(CheckpointError, match=rf"{repo}.* no answer within 0.5 seconds; check the connect"):
                    build()
                assert time.monotonic() - start < 60
            ended.set()

    def test_a_repository_without_weights(self, hub: FakeHub) -> None:
        hub.files["org/name"] = {"config.json": json.dumps({"model_type": "dinov2"}).encode(), "model.bin": b"x"}
        with pytest.raises(
            CheckpointError, match=r"holds neither model.safetensors nor .*; check the name, start from"
        ):
            build_spatial(SpatialConfig("hf:org/name"), True)

    def test_a_full_disk_is_not_the_networks(self, hub: FakeHub) -> None:
        hub.files["org/name"] = {"a.txt": b"1"}
        full = OSError(errno.ENOSPC, "No space left on device", "/there")
        with (
            mock.patch("huggingface_hub.hf_hub_download", side_effect=full),
            pytest.raises(OSError, match="No space"),
        ):
            hub_folder("org/name", [("a.txt", ["a.txt"])])


def raised(error: Exception, cause: Exception | None = None) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error from cause

    return fail


def of_requests() -> Exception:
    of_its_own: type[Exception] = type("ConnectionError", (OSError,), {"__module__": "requests.exceptions"})
    return of_its_own("Max retries exceeded")


class TestSentence:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (httpx.ConnectError("[Errno -2] Name or service not known"), "ConnectError: .*not known; check the conn"),
            (httpx.ReadTimeout("The read operation timed out"), "ReadTimeout: .*; check the connection and try again"),
            (ConnectionResetError(104, "Connection reset by peer"), r"Connection reset by peer; check the connection"),
            (TimeoutError("timed out"), "TimeoutError: timed out; check the connection"),
            (of_requests(), "ConnectionError: Max retries exceeded; check the connection"),
            (hub_errors.OfflineModeIsEnabled("Cannot reach https://x"), "offline mode is on; unset HF_HUB_OFFLINE"),
            (hub_errors.LocalEntryNotFoundError("An error happened"), "An error happened; check the connection"),
            (hub_errors.HFValidationError("Repo id must use"), "cannot be a name on the Hub; check the name"),
            (RuntimeError("anything else"), "RuntimeError: anything else; check the connection"),
        ],
    )
    def test_of_what_the_hubs_library_raises(self, cache: Path, error: Exception, says: str) -> None:
        """One question, one sentence: the second tower is not asked for once the first cannot be had."""
        with mock.patch("huggingface_hub.HfApi.model_info", side_effect=error) as asked:
            with pytest.raises(CheckpointError, match=says) as told:
                HybridDepthEncoder("paper")
            assert asked.call_count == 1
        message = str(told.value)
        assert message.startswith("CLIP's weights 'openai' of RN50-quickgelu (timm/resnet50_clip.openai on the Hugging")
        assert "\n" not in message and message.endswith(".")
        assert "pretrained=False" in message and "--weights_init scratch" in message and "from_pretrained(" in message
        if "check the name" not in message:
            assert f"copy the folder models--timm--resnet50_clip.openai into {cache}" in message
        assert len(traceback.format_exception(told.value)) < 12  # the sentence, not what libraries said before it

    @pytest.mark.parametrize(
        ("error", "cause", "says"),
        [
            (
                RuntimeError("Failed to download weights for tag 'openai': Failed to download file (x) for y."),
                FileNotFoundError("Failed to download file (x) for y."),
                "Failed to download weights for tag 'openai'",
            ),
            (RuntimeError("Failed to download weights"), httpx.ConnectError("no route"), "ConnectError: no route"),
            (urllib.error.URLError("[Errno -2] Name or service not known"), None, "Name or service not known"),
            (
                urllib.error.HTTPError("http://x", 404, "Not Found", {}, io.BytesIO()),  # type: ignore[arg-type]
                None,
                "the server answered 404; check the name",
            ),
            (RuntimeError('invalid hash value (expected "a", got "b")'), None, "invalid hash value"),
            (RuntimeError("Model has been downloaded but the SHA256 checksum does not not match"), None, "SHA256"),
            (
                OSError("We couldn't connect to 'https://huggingface.co'"),
                hub_errors.LocalEntryNotFoundError("x"),
                "x; c",
            ),
        ],
    )
    def test_of_what_libraries_raise_for_an_address(self, error: Exception, cause: Exception | None, says: str) -> None:
        with pytest.raises(CheckpointError, match=says), downloads("its weights"):
            raised(error, cause)()

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("img_size"),
            RuntimeError("Error(s) in loading state_dict for CLIP: size mismatch"),
            OSError(errno.ENOSPC, "No space left on device"),
            KeyError("x"),
        ],
    )
    def test_other_errors_pass_as_they_are(self, error: Exception) -> None:
        with pytest.raises(type(error)) as passed, downloads("its weights"):
            raise error
        assert passed.value is error

    def test_weights_of_another_name(self) -> None:
        with pytest.raises(ConfigError, match=r"neither a file nor weights of RN50-quickgelu.*openai, yfcc15m, cc12m"):
            build_clip(SemanticConfig("RN50-quickgelu", "openal"), True)
        for pretrained in (True, False):
            with pytest.raises(
                ConfigError, match=r"no weights 'vit_base_patch14_dinov2.x'; .* knows vit_base.*lvd142m"
            ):
                build_spatial(SpatialConfig("vit_base_patch14_dinov2.x"), pretrained)

    def test_every_model_of_open_clip_and_timm_is_asked_for_where_it_is(self, cache: Path) -> None:
        """No name of a file or repository is composed wrongly: timm's own, and a dozen of the others."""
        with mock.patch(
            "hybrid_encoder.downloading.weights.hub_folder", return_value=(Path("x"), "m.safetensors")
        ) as asked:
            for name in timm.list_models(pretrained=True)[::40]:
                stated: Any = timm.get_pretrained_cfg(name)
                arguments = timm_weights(name, True, "its weights")
                if stated.hf_hub_id and not stated.custom_load:
                    assert asked.call_args[0][0] == stated.hf_hub_id
                    assert arguments["pretrained_cfg_overlay"] == {"file": str(Path("x/m.safetensors"))}
                else:
                    assert arguments == {"pretrained": True}
        assert open_clip.get_pretrained_cfg("RN50-quickgelu", "openai")["hf_hub"] == "timm/resnet50_clip.openai/"
