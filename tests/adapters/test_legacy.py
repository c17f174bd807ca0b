"""Each old idiom in a small repository of our own, with and without its shim, and the way back."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.utils import data

from hybrid_encoder import adapters
from hybrid_encoder.adapters.patching import legacy, stand_ins
from hybrid_encoder.adapters.patching.hook import HOOK
from hybrid_encoder.adapters.patching.proxies import ModuleProxy
from hybrid_encoder.adapters.patching.shims import SHIMS
from hybrid_encoder.errors import AdapterError, HybridEncoderError

FILES = {
    "old_layers.py": """
        import numpy as np
        import torch
        import torch.nn as nn
        import torch.nn.functional as F
        from torch.nn.functional import grid_sample

        class Shift(nn.Module):
            def forward(self, images, grid):
                return F.grid_sample(images, grid, padding_mode="border")

        def sample(images, grid):
            return [
                Shift()(images, grid),
                grid_sample(images, grid, padding_mode="border"),
                torch.nn.functional.grid_sample(images, grid, padding_mode="border"),
            ]

        def sample_as_said(images, grid):
            return F.grid_sample(images, grid, align_corners=False)

        def grid(theta):
            return F.affine_grid(theta, [1, 1, 4, 4])

        def cells(points):
            return points.astype(np.int), np.zeros(2, dtype=np.float), np.array([None], dtype=np.object)

        def infinity():
            return np.Inf

        def save(file, depths):
            np.savez_compressed(file, data=np.array(depths))

        def load(file):
            return np.load(file, fix_imports=True, encoding="latin1")["data"]
    """,
    "old_data/__init__.py": "from .frames import Frames\n",
    "old_data/frames.py": """
        import PIL.Image as pil
        from PIL import Image
        import torch.utils.data as data
        from torchvision import transforms
        from torchvision.transforms import ColorJitter

        class Frames(data.Dataset):
            def __init__(self):
                self.interp = Image.ANTIALIAS
                self.resize = transforms.Resize((4, 6), interpolation=self.interp)
                self.to_tensor = transforms.ToTensor()

            def __len__(self):
                return 4

            def __getitem__(self, index):
                jitter = transforms.ColorJitter.get_params((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.1, 0.1))
                frame = self.resize(pil.new("RGB", (12, 8), (40 * index, 90, 160)))
                return {i: self.to_tensor(jitter(frame)) for i in (-1, 0, 1)}

        def filters():
            return pil.ANTIALIAS, Image.LINEAR, Image.CUBIC

        def draw():
            return ColorJitter.get_params((0.5, 1.5), (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3))

        def whole_jitter():
            return transforms.ColorJitter(0.2, 0.2, 0.2, 0.1)
    """,
    "old_trainer.py": """
        import torchvision.models as models
        from torch.utils.data import DataLoader
        from old_layers import *
        import old_data

        class Block(models.resnet.BasicBlock):
            pass

        def batches(workers):
            iterator = iter(DataLoader(old_data.Frames(), 2, num_workers=workers))
            return [iterator.next(), iterator.next()], iterator

        def urls():
            return models.resnet.model_urls

        def is_loader(x):
            return isinstance(x, DataLoader)
    """,
}
ITEMS: Any = [1]
NAMES = ("old_layers", "old_data", "old_data.frames", "old_trainer")


class Repo:
    """The toy repository, with modules imported on demand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in FILES.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))

    def load(self) -> tuple[ModuleType, ModuleType, ModuleType]:
        layers, _, frames, trainer = (importlib.import_module(name) for name in NAMES)
        return layers, frames, trainer


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    root = tmp_path / "repo"
    monkeypatch.syspath_prepend(str(root))
    yield Repo(root)
    handle = legacy.active_shims(root)
    if handle is not None:
        handle.undo()
    assert HOOK not in sys.meta_path and not HOOK.listeners
    for name, module in list(sys.modules.items()):
        if str(vars(module).get("__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(params=["imported before", "imported after"])
def served(repo: Repo, request: pytest.FixtureRequest) -> Iterator[Repo]:
    if request.param == "imported before":
        repo.load()
    with legacy.apply_shims(repo.root):
        yield repo


def _names(*modules: ModuleType) -> list[dict[str, Any]]:
    return [dict(vars(module)) for module in modules]


def _same(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    return all(list(a) == list(b) and all(a[key] is b[key] for key in a) for a, b in zip(before, after, strict=True))


# -- the idioms ------------------------------------------------------------------------------------------


def test_the_idioms_fail_without_shims(repo: Repo) -> None:
    layers, frames, trainer = repo.load()
    with pytest.raises(AttributeError, match="ANTIALIAS"):
        frames.filters()
    with pytest.raises(TypeError, match="not callable"):
        frames.draw()(PIL.Image.new("RGB", (4, 4)))
    with pytest.raises(AttributeError, match="next"):
        iter(trainer.DataLoader(ITEMS)).next()
    with pytest.raises(AttributeError, match="model_urls"):
        trainer.urls()
    with pytest.raises(AttributeError, match="int"):
        layers.cells(np.ones(1))


def test_removed_pillow_constants(served: Repo) -> None:
    _, frames, _ = served.load()
    filters = PIL.Image.Resampling
    assert frames.filters() == (filters.LANCZOS, filters.BILINEAR, filters.BICUBIC)


def test_removed_numpy_aliases(served: Repo) -> None:
    layers, _, trainer = served.load()
    integers, floats, objects = layers.cells(np.array([1.7, 2.2]))
    assert integers.dtype == np.dtype(int)
    assert floats.dtype == np.float64
    assert objects.dtype == np.dtype(object)
    assert layers.infinity() == trainer.np.Inf == float("inf")


def test_modules_that_are_gone_can_be_imported_from(repo: Repo) -> None:
    (repo.root / "old_model.py").write_text(
        "import old_data\n"  # a nested import must not take them away
        "from torchvision.models.utils import load_state_dict_from_url\n"
        "from torch._six import container_abcs, inf\n"
    )
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("old_model")
    with legacy.apply_shims(repo.root):
        model = importlib.import_module("old_model")
        assert model.load_state_dict_from_url is torch.hub.load_state_dict_from_url
        assert isinstance({}, model.container_abcs.Mapping) and model.inf > 1e308
        assert "torchvision.models.utils" not in sys.modules and "torch._six" not in sys.modules


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((2, 3), (2, 5)), ((2, 3), (2, 3))])
def test_arrays_of_different_shapes_are_saved_and_read(
    served: Repo, tmp_path: Path, shapes: list[tuple[int, int]]
) -> None:
    layers, _, _ = served.load()
    depths = [np.random.default_rng(0).random(shape, dtype=np.float32) for shape in shapes]
    layers.save(tmp_path / "depths.npz", depths)
    read = layers.load(tmp_path / "depths.npz")
    for depth, same in zip(depths, read, strict=True):
        assert same.dtype == np.float32
        np.testing.assert_array_equal(same, depth)
    with pytest.raises(ValueError, match="could not convert"):
        layers.np.array("text", dtype=float)


def test_a_summary_takes_an_image_with_a_batch_axis(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "tensorboardX.py").write_text(
        "class SummaryWriter:\n    def add_image(self, tag, image, step=None, dataformats='CHW'):\n"
        "        assert len(image.shape) == len(dataformats), 'size of input tensor'\n        return image.shape\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    (repo.root / "old_log.py").write_text("from tensorboardX import SummaryWriter\nwriter = SummaryWriter\n")
    image = np.zeros((1, 3, 4, 6))
    with legacy.apply_shims(repo.root):
        log = importlib.import_module("old_log")
        assert log.SummaryWriter().add_image("target", image, 7) == (3, 4, 6)
        assert log.SummaryWriter().add_image("target", image, dataformats="NCHW") == (1, 3, 4, 6)
        assert isinstance(sys.modules["tensorboardX"].SummaryWriter(), log.SummaryWriter)
    with pytest.raises(AssertionError, match="size of input"):
        log.SummaryWriter().add_image("target", image)
    monkeypatch.delitem(sys.modules, "tensorboardX")


def test_reading_arrays_runs_no_code(served: Repo, tmp_path: Path) -> None:
    layers, _, _ = served.load()
    np.savez(tmp_path / "bad.npz", data=np.array([Path(), None], dtype=object))
    with pytest.raises(pickle.UnpicklingError, match=r"holds a pathlib\S* beside arrays"):
        layers.load(tmp_path / "bad.npz")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA, so nothing is replaced")
def test_cuda_can_mean_the_cpu(tmp_path: Path) -> None:
    held = torch.Tensor.cuda, torch.nn.Module.cuda, torch.load
    torch.save(torch.ones(1), tmp_path / "weights.pth")
    with legacy.cuda_means_cpu():
        image, layer = torch.ones(1).cuda(), torch.nn.Linear(1, 1).cuda()
        assert layer(image).device.type == torch.load(tmp_path / "weights.pth").device.type == "cpu"
    assert held == (torch.Tensor.cuda, torch.nn.Module.cuda, torch.load)


def test_grid_sample_aligns_corners_unless_told(served: Repo, recwarn: pytest.WarningsRecorder) -> None:
    layers, _, _ = served.load()
    images, grid = torch.rand(1, 3, 6, 8), torch.rand(1, 5, 5, 2) * 2 - 1
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=True)
    for sampled in layers.sample(images, grid):
        torch.testing.assert_close(sampled, expected, rtol=0, atol=0)
    other = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(layers.sample_as_said(images, grid), other, rtol=0, atol=0)
    theta = torch.rand(1, 2, 3)
    torch.testing.assert_close(layers.grid(theta), F.affine_grid(theta, [1, 1, 4, 4], align_corners=True))
    assert not [w for w in recwarn if "align_corners" in str(w.message)]


def test_a_jitter_is_drawn_once_and_applied_in_its_order(served: Repo) -> None:
    _, frames, _ = served.load()
    adjust = torchvision.transforms.functional
    operations = (
        adjust.adjust_brightness,
        adjust.adjust_contrast,
        adjust.adjust_saturation,
        adjust.adjust_hue,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    orders = set()
    for seed in range(4):
        torch.manual_seed(seed)
        jitter = frames.draw()
        order, *factors = jitter  # today's use goes on working
        expected = image
        for index in order.tolist():
            expected = operations[index](expected, factors[index])
        state = torch.get_rng_state()
        for _ in range(2):
            assert np.array_equal(np.asarray(jitter(image)), np.asarray(expected))
        assert torch.equal(torch.get_rng_state(), state), "a call must not draw again"
        copied = pickle.loads(pickle.dumps(jitter))
        assert np.array_equal(np.asarray(copied(image)), np.asarray(expected))
        orders.add(tuple(order.tolist()))
    assert len(orders) > 1
    whole = frames.whole_jitter()
    assert whole(image).size == image.size
    assert isinstance(pickle.loads(pickle.dumps(whole)), torchvision.transforms.ColorJitter)


def test_a_jitter_leaves_out_what_is_not_asked_for() -> None:
    image = torch.rand(3, 4, 4)
    assert torch.equal(stand_ins.ColorJitter.get_params(None, None, None, None)(image), image)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_iterators_answer_to_next(served: Repo, workers: int) -> None:
    _, _, trainer = served.load()
    batches, iterator = trainer.batches(workers)
    for batch in batches:
        assert batch[0].shape == (2, 3, 4, 6)
        # one draw for all frames of an item
        assert torch.equal(batch[0], batch[1]) and torch.equal(batch[0], batch[-1])
    assert len(iterator) == 2
    with pytest.raises(StopIteration):
        iterator.next()
    assert len(list(trainer.DataLoader(trainer.old_data.Frames(), 2))) == 2


def test_weight_urls_come_from_torchvision(served: Repo) -> None:
    _, _, trainer = served.load()
    urls = trainer.urls()
    assert {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"} <= set(urls)
    assert urls["resnet18"] == torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url


# -- stand-ins are transparent ---------------------------------------------------------------------------


def test_stand_ins_pass_for_what_they_stand_for(served: Repo) -> None:
    layers, _, trainer = served.load()
    assert trainer.is_loader(data.DataLoader(ITEMS)) and trainer.is_loader(trainer.DataLoader(ITEMS))
    assert not trainer.is_loader([1])
    assert isinstance(trainer.DataLoader(ITEMS), data.DataLoader)
    assert issubclass(data.DataLoader, trainer.DataLoader)
    assert isinstance(layers.Shift(), torch.nn.Module)
    assert isinstance(torch.ones(1), layers.torch.Tensor)
    assert isinstance(layers.np, ModuleType)
    assert issubclass(trainer.Block, torchvision.models.resnet.BasicBlock)

    class Special(trainer.DataLoader):  # type: ignore[misc,name-defined]
        pass

    assert not isinstance(data.DataLoader(ITEMS), Special)
    assert isinstance(Special(ITEMS), Special)


def test_stand_in_modules_pass_everything_through(served: Repo) -> None:
    layers, _, _ = served.load()
    proxy = layers.np
    assert isinstance(proxy, ModuleProxy)
    assert proxy.__name__ == "numpy" and proxy.__version__ == np.__version__ and proxy.__file__ == np.__file__
    assert proxy.__doc__ == np.__doc__ and "numpy" in repr(proxy)
    assert {"int", "linspace"} <= set(dir(proxy))
    assert proxy.linalg is np.linalg
    assert pickle.loads(pickle.dumps(proxy)) is np and copy.deepcopy(proxy) is np
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = proxy.no_such_name
    layers.torch.some_setting = 3
    assert torch.some_setting == 3  # type: ignore[attr-defined]
    del layers.torch.some_setting
    assert not hasattr(torch, "some_setting")
    assert isinstance(pickle.loads(pickle.dumps(layers.Shift())), layers.Shift)


# -- where shims reach -----------------------------------------------------------------------------------


def test_undo_restores_every_name(repo: Repo) -> None:
    modules = repo.load()
    before = _names(*modules)
    handle = legacy.apply_shims(repo.root)
    assert not _same(before, _names(*modules))
    assert "old_trainer.DataLoader" in handle.replaced
    assert "old_trainer.DataLoader" in str(handle)
    handle.undo()
    assert _same(before, _names(*modules))
    assert handle.replaced == [] and "undone" in str(handle)
    handle.undo()


def test_undo_reaches_modules_imported_meanwhile(repo: Repo) -> None:
    with legacy.apply_shims(repo.root):
        layers, frames, trainer = repo.load()
        assert isinstance(trainer.F, ModuleProxy) and isinstance(frames.pil, ModuleProxy)
    for module in (layers, trainer):
        assert module.np is np and module.F is F and module.nn is torch.nn and module.torch is torch
        assert module.grid_sample is F.grid_sample
    assert frames.pil is PIL.Image and frames.transforms is torchvision.transforms
    assert frames.ColorJitter is torchvision.transforms.ColorJitter
    assert trainer.DataLoader is data.DataLoader and trainer.models is torchvision.models
    assert trainer.__spec__ is not None and "exec_module" not in vars(trainer.__spec__.loader)
    assert vars(importlib.reload(layers))["np"] is np


def test_undo_leaves_alone_what_the_repository_bound_itself(repo: Repo) -> None:
    layers, _, _ = repo.load()
    with legacy.apply_shims(repo.root):
        mine = object()
        vars(layers)["np"] = mine
    assert layers.np is mine


def test_a_reloaded_module_is_served_again(served: Repo) -> None:
    layers, _, _ = served.load()
    assert vars(importlib.reload(layers))["np"].int is int


def test_the_libraries_stay_as_they_are(repo: Repo) -> None:
    touched = [sys.modules[shim.module] for shim in SHIMS]
    before = _names(*touched)
    with legacy.apply_shims(repo.root):
        _, _, trainer = repo.load()
        trainer.batches(0)
        assert _same(before, _names(*touched))
        assert np.__dict__.get("int") is None and sys.modules["numpy"] is np
        assert globals()["np"] is np and not isinstance(np, ModuleProxy)
        with pytest.raises(AttributeError):
            _ = PIL.Image.ANTIALIAS  # type: ignore[attr-defined]
        assert not hasattr(iter(data.DataLoader(ITEMS)), "next")
    assert _same(before, _names(*touched))


def test_an_environment_inside_the_folder_is_not_served(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = repo.root / ".venv" / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "old_installed.py").write_text("import numpy as np\n")
    monkeypatch.syspath_prepend(str(packages))
    with legacy.apply_shims(repo.root):
        assert importlib.import_module("old_installed").np is np
        importlib.import_module("old_layers")
        assert sys.modules["old_installed"].np is np


def test_a_script_that_goes_on_importing_is_served(repo: Repo) -> None:
    text = """
        import os
        from hybrid_encoder.adapters.patching import legacy
        handle = legacy.apply_shims(os.path.dirname(__file__))
        import numpy as np
        import old_layers
    """
    (repo.root / "old_script.py").write_text(textwrap.dedent(text))
    script = importlib.import_module("old_script")
    assert script.np.int is int
    script.handle.undo()
    assert script.np is np


def test_two_repositories_at_once(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "other_layers.py").write_text("import numpy as np\n")
    monkeypatch.syspath_prepend(str(other))

    class Asking:
        """A finder that asks all finders, as some import tools do."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name != "other_layers":
                return None
            finders = [finder for finder in sys.meta_path if finder is not self]
            specs = (finder.find_spec(name, path, target) for finder in finders)
            return next((spec for spec in specs if spec is not None), None)

    monkeypatch.setattr(sys, "meta_path", [Asking(), *sys.meta_path])
    with legacy.apply_shims(repo.root), legacy.apply_shims(other) as second:
        layers, _, _ = repo.load()
        found = importlib.import_module("other_layers")
        assert found.np.int is layers.np.int is int
        assert second.replaced == ["other_layers.np"]
        second.undo()
        assert found.np is np and layers.np is not np
    assert layers.np is np


def test_importing_the_package_loads_no_adapter() -> None:
    code = "import sys; from hybrid_encoder import adapters; print('torch' in sys.modules, dir(adapters))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False [")
    assert "'patching', " in done.stdout and "'monodepth2'" in done.stdout
    with pytest.raises(AttributeError, match=r"attribute.*monodepth3"):
        _ = adapters.monodepth3  # type: ignore[attr-defined]


# -- asking for it ---------------------------------------------------------------------------------------


def test_shims_are_declared_by_name_and_reason() -> None:
    names = [shim.name for shim in SHIMS]
    assert len(set(names)) == len(names)
    for shim in SHIMS:
        assert shim.reason and "\n" not in shim.reason
        assert shim.module in sys.modules or shim.library == "tensorboardX"


def test_some_shims_only(repo: Repo) -> None:
    layers, frames, trainer = repo.load()
    with legacy.apply_shims(repo.root, shims=["PIL.Image.ANTIALIAS"]) as handle:
        assert sorted(handle.replaced) == [
            "old_data.frames.Image",
            "old_data.frames.pil",
        ]
        assert frames.pil.ANTIALIAS == PIL.Image.Resampling.LANCZOS
        assert layers.np is np and trainer.DataLoader is data.DataLoader


def test_the_same_again_is_the_same_handle(repo: Repo) -> None:
    handle = legacy.apply_shims(repo.root)
    assert legacy.apply_shims(repo.root) is handle and legacy.active_shims(repo.root) is handle
    with pytest.raises(AdapterError, match="other shims"):
        legacy.apply_shims(repo.root, shims=["PIL.Image.ANTIALIAS"])
    handle.undo()
    assert legacy.active_shims(repo.root) is None
    again = legacy.apply_shims(repo.root)
    assert again is not handle


def test_a_name_that_the_library_still_has_is_not_replaced(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "ANTIALIAS", 77, raising=False)
    _, frames, _ = repo.load()
    with legacy.apply_shims(repo.root):
        assert frames.filters()[0] == 77


def test_refusals_name_the_value_and_the_fix(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"'numpy\.integer'.*PIL\.Image\.ANTIALIAS"):
        legacy.apply_shims(repo.root, shims=["numpy.integer"])
    with pytest.raises(AdapterError, match="not a folder"):
        legacy.apply_shims(tmp_path / "nowhere")
    with pytest.raises(HybridEncoderError, match="holds torch itself"):
        legacy.apply_shims(Path(torch.__file__).parents[1])
