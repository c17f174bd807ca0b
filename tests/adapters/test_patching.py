"""Where a patch reaches in a repository, what it refuses, and the way back."""

from __future__ import annotations

import gc
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.adapters.networks import DepthEncoder
from hybrid_encoder.adapters.patching import legacy, replacing
from hybrid_encoder.adapters.patching.hook import HOOK
from hybrid_encoder.config import HybridDepthConfig
from hybrid_encoder.errors import AdapterError, ConfigError, HybridEncoderError

from helpers.toy_repository import FILES, RESNET, Repo

TINY = HybridEncoderConfig.preset("tiny")


# -- the handle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_undo_restores_every_name(repo: Repo, decoder: Any) -> None:
    repo.load()
    before = repo.names()
    handle = monodepth2.patch("tiny", decoder=decoder)
    for name in (
        "networks.resnet_encoder.ResnetEncoder",
        "networks.depth_decoder.DepthDecoder",
        "networks.depth_decoder.F",
    ):
        assert name in handle.replaced and name in str(handle)
    handle.undo()
    after = repo.names()
    assert list(after) == list(before)
    for name, names in before.items():
        assert list(after[name]) == list(names)
        assert all(after[name][key] is value for key, value in names.items())
    assert handle.replaced == [] and not handle.active
    handle.undo()
    assert type(repo.load().direct()) is repo.load().networks.ResnetEncoder


def test_undo_reaches_a_trainer_imported_meanwhile(repo: Repo) -> None:
    with monodepth2.patch("tiny"):
        trainer = repo.load()
    assert trainer.networks.ResnetEncoder is sys.modules["networks.resnet_encoder"].ResnetEncoder
    assert trainer.ResnetEncoder is trainer.networks.ResnetEncoder


def test_a_with_block_undoes_after_an_error(repo: Repo) -> None:
    networks = repo.load().networks
    own = networks.ResnetEncoder.__init__
    with pytest.raises(KeyError), monodepth2.patch("tiny"):
        assert networks.ResnetEncoder.__init__ is not own
        raise KeyError
    assert networks.ResnetEncoder.__init__ is own


def test_the_same_again_is_the_same_handle_and_another_is_refused(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    before = repo.names()
    assert monodepth2.patch("tiny") is handle and monodepth2.patch(TINY) is handle
    with pytest.raises(AdapterError, match=r"another decoder; call undo\(\)"):
        monodepth2.patch("tiny", decoder="repository")
    with pytest.raises(AdapterError, match="another encoder"):
        monodepth2.patch(
            HybridDepthEncoder("tiny", pretrained=False),
            decoder_config=handle.settings.decoder_config,
        )
    assert {n: {**v} for n, v in before.items()} == repo.names() and handle.active
    handle.undo()
    assert monodepth2.patch("tiny", decoder="repository") is not handle


def test_undo_of_an_old_handle_leaves_a_later_patch_alone(repo: Repo) -> None:
    networks = repo.load("networks")
    first = monodepth2.patch("tiny")
    first.undo()
    second = monodepth2.patch("tiny")
    first.undo()
    assert second.active and monodepth2.patch("tiny") is second
    assert isinstance(networks.ResnetEncoder(18, False), DepthEncoder)


def test_the_same_with_and_without_shims_are_two_patches(repo: Repo) -> None:
    with monodepth2.patch("tiny", legacy=False), pytest.raises(AdapterError, match="another legacy"):
        monodepth2.patch("tiny")
    assert legacy.active_shims(repo.root) is None


def test_a_patch_that_fails_half_way_changes_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = repo.load("networks")
    before, finders = repo.names(), list(sys.meta_path)

    def fail(*arguments: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(HOOK, "add", fail)
    with pytest.raises(OSError, match="no"):
        monodepth2.patch("tiny", legacy=False)
    monkeypatch.undo()
    assert (
        repo.names() == before
        and sys.meta_path == finders
        and all(networks not in patch.modules for patch in replacing.ACTIVE)
    )


def test_legacy_shims_come_along_unless_declined(repo: Repo) -> None:
    layers = repo.load("networks.depth_decoder")
    with monodepth2.patch("tiny", legacy=False):
        assert layers.F is torch.nn.functional
    with monodepth2.patch("tiny"):
        assert layers.F is not torch.nn.functional
    shims = legacy.apply_shims(repo.root)
    with monodepth2.patch("tiny"):
        pass
    assert shims.active, "shims that were there before stay"
    shims.undo()


# -- other repositories -----------------------------------------------------------------------------------


def test_another_package_by_name_or_module(repo: Repo) -> None:
    repo.write({f"fork/{name}": text for name, text in FILES.items() if name.startswith("networks")})
    repo.write({"fork/__init__.py": ""})
    with monodepth2.patch("tiny", networks="fork.networks") as handle:
        package = repo.load("fork.networks")
        assert isinstance(package.ResnetEncoder(18, False), DepthEncoder)
        assert monodepth2.patch("tiny", networks=package) is handle
        assert handle.shims is not None and handle.shims.repository.root == str(repo.root)


def test_a_package_that_was_loaded_by_hand(repo: Repo) -> None:
    package = repo.load("networks")
    del sys.modules["networks"]
    with monodepth2.patch("tiny", networks=package):
        assert isinstance(package.ResnetEncoder(18, False), DepthEncoder)
    assert type(package.ResnetEncoder(18, False)) is package.ResnetEncoder


REFUSED = {
    "lacks the attribute 'DepthDecoder'": {"networks/__init__.py": "from .resnet_encoder import ResnetEncoder\n"},
    "does not hold as a class or function the attribute 'ResnetEncoder'": {
        "networks/__init__.py": "from .depth_decoder import DepthDecoder\nResnetEncoder = 'resnet18'\n"
    },
    "ResnetEncoder takes no argument 'num_input_images'": {
        "networks/resnet_encoder.py": RESNET.replace(", num_input_images=1", "").replace("num_input_images", "1")
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_repository_that_lacks_something_is_refused_unchanged(repo: Repo, message: str) -> None:
    repo.write(REFUSED[message])
    networks = repo.load("networks")
    before, finders = repo.names(), list(sys.meta_path)
    with pytest.raises(AdapterError, match=message) as error:
        monodepth2.patch("tiny")
    assert str(repo.root) in str(error.value)
    assert repo.names() == before and sys.meta_path == finders
    assert all(networks not in patch.modules for patch in replacing.ACTIVE) and legacy.active_shims(repo.root) is None


def test_no_networks_module_is_refused(repo: Repo) -> None:
    for name in ("", ".networks"):
        with pytest.raises(AdapterError, match="is not the full name of a module"):
            monodepth2.patch("tiny", networks=name)
    with pytest.raises(AdapterError, match=r"no module 'elsewhere\.networks'.*networks="):
        monodepth2.patch("tiny", networks="elsewhere.networks")
    with pytest.raises(AdapterError, match="has no file"):
        monodepth2.patch("tiny", networks=ModuleType("made_up"))


def test_a_missing_requirement_of_the_repository_is_said_as_it_is(repo: Repo) -> None:
    repo.write({"networks/__init__.py": "import a_package_that_is_not_there\n"})
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        monodepth2.patch("tiny")


def test_arguments_that_do_not_exist_are_refused(repo: Repo) -> None:
    with pytest.raises(ConfigError, match="'dpt' or 'repository'"):
        monodepth2.patch("tiny", decoder="cnn")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'huge'.*'paper', 'small', 'large', 'tiny'"):
        monodepth2.patch("huge")
    with pytest.raises(HybridEncoderError, match="encoder is a Conv2d"):
        monodepth2.patch(torch.nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="encoder is a HybridDepthConfig"):
        monodepth2.patch(HybridDepthConfig.preset("tiny"))  # type: ignore[arg-type]
    assert "networks" not in sys.modules


def test_patching_after_a_trainer_was_built_is_refused(repo: Repo) -> None:
    trainer = repo.load().Trainer()
    with pytest.raises(AdapterError, match=r"exists already.*call patch\(\) before Trainer"):
        monodepth2.patch("tiny")
    assert HOOK not in sys.meta_path
    del trainer
    gc.collect()
    monodepth2.patch("tiny")


def test_threads_that_patch_at_once_share_one_patch(repo: Repo) -> None:
    before = repo.load() and repo.names()
    handles: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        handles.append(monodepth2.patch("tiny"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 4 and len({id(handle) for handle in handles}) == 1
    handles[0].undo()
    assert repo.names() == before


def test_threads_that_want_different_patches_are_told(repo: Repo) -> None:
    outcomes: list[Any] = []
    start = threading.Barrier(4)

    def work(decoder: Any) -> None:
        start.wait()
        try:
            outcomes.append(monodepth2.patch("tiny", decoder=decoder))
        except AdapterError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work, args=(decoder,)) for decoder in ("dpt", "repository") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, AdapterError)]
    assert len(outcomes) == 4 and len(refused) == 2
    assert all("is patched already with another decoder" in str(error) for error in refused)
