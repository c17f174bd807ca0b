"""transformers itself on our models: its pipeline, Auto classes, loading and saving."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
    pipeline,
)

import hybrid_encoder.integrations.transformers as ours
from hybrid_encoder.checkpoints.sources import SHIPPED
from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig, PromptConfig
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.matching import HybridMatchingModel

from helpers.plugs import plugs

AUTO = '`AutoModelForDepthEstimation`, `pipeline("depth-estimation")`'
BACKBONE = "`AutoBackbone`"


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def metric(model: HybridDepthModel) -> HybridDepthModel:
    copy = HybridDepthModel(model.config, pretrained=False)
    copy.load_state_dict(model.state_dict())
    copy.set_metric_scale(3.0)
    return copy.eval()


@pytest.fixture(scope="module")
def folders(
    model: HybridDepthModel, metric: HybridDepthModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What this library saved: a model, one in metres, and an encoder."""
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder / "model")
    metric.save_pretrained(folder / "metric")
    model.encoder.save_pretrained(folder / "encoder")
    return {path.name: path for path in folder.iterdir()}


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def equal_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    trains = {name: parameter.requires_grad for name, parameter in b.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in a.named_parameters()} == trains


class TestPipeline:
    @plugs("transformers", AUTO, "build", "run", "load")
    @pytest.mark.parametrize(("height", "width"), [(96, 320), (123, 201), (33, 400), (240, 77)])
    def test_it_gives_what_infer_gives(
        self, folders: dict[str, Path], model: HybridDepthModel, height: int, width: int
    ) -> None:
        image = picture(height, width)
        found = pipeline("depth-estimation", model=str(folders["model"]))(image)
        disparity = model.infer(image).disparity[0]
        torch.testing.assert_close(found["predicted_depth"], disparity, rtol=0, atol=1e-6)
        assert found["depth"].size == (width, height)
        shown = np.asarray(found["depth"]).astype(int)  # near is bright
        assert shown.flat[int(disparity.argmax())] == 255
        assert shown.flat[int(disparity.argmin())] == 0

    def test_metres_where_the_scale_is_known(self, folders: dict[str, Path], metric: HybridDepthModel) -> None:
        image = picture(150, 210)
        found = pipeline("depth-estimation", model=str(folders["metric"]))(image)["predicted_depth"]
        metres = metric.infer(image).depth_m
        assert metres is not None
        torch.testing.assert_close(found, metres[0], rtol=1e-5, atol=0)

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
    def test_pictures_of_other_kinds(self, folders: dict[str, Path], model: HybridDepthModel, mode: str) -> None:
        image = picture(100, 140, mode)
        found = pipeline("depth-estimation", model=str(folders["model"]))(image)["predicted_depth"]
        torch.testing.assert_close(found, model.infer(image).disparity[0], rtol=0, atol=1e-6)

    def test_several_of_several_sizes(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        images: list[Any] = [picture(96, 320), picture(60, 200), picture(300, 200)]
        run: Any = pipeline("depth-estimation", model=str(folders["model"]))
        for image, found in zip(images, run(images), strict=True):
            torch.testing.assert_close(found["predicted_depth"], model.infer(image).disparity[0], rtol=0, atol=1e-6)
        # Worked at in one size, they go through the network together.
        for image, found in zip(images[:2], run(images[:2], batch_size=2), strict=True):
            torch.testing.assert_close(found["predicted_depth"], model.infer(image).disparity[0], rtol=0, atol=1e-5)
        images[0].save(tmp_path / "a.png")
        assert torch.equal(run(str(tmp_path / "a.png"))["predicted_depth"], run(images[0])["predicted_depth"])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_halves(self, folders: dict[str, Path], model: HybridDepthModel, dtype: torch.dtype) -> None:
        image = picture(96, 320)
        found = pipeline("depth-estimation", model=str(folders["model"]), dtype=dtype)(image)["predicted_depth"]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, model.infer(image).disparity[0], rtol=0, atol=0.02)

    def test_tiny_by_its_name(self, model: HybridDepthModel) -> None:
        run = pipeline(
            "depth-estimation",
            model=ours.HybridDepthForDepthEstimation.from_pretrained("tiny"),
            image_processor=ours.HybridDepthImageProcessor.from_pretrained("tiny"),
        )
        image = picture(80, 250)
        assert torch.equal(run(image)["predicted_depth"], model.infer(image).disparity[0])


class TestImageProcessor:
    def test_one_tensor_has_one_size(self, folders: dict[str, Path]) -> None:
        processor = AutoImageProcessor.from_pretrained(folders["model"])
        images = [picture(96, 320), picture(320, 96)]
        with pytest.raises(InputError, match=r"different sizes \(\(96, 320\) and \(\d+, \d+\)\).* name a size="):
            processor(images, return_tensors="pt")
        size = {"height": 64, "width": 128}
        assert processor(images, size=size, return_tensors="pt")["pixel_values"].shape == (2, 3, 64, 128)
        assert [x.shape[1] > x.shape[2] for x in processor(images)["pixel_values"]] == [False, True]
        own = processor(images[1], do_resize=False, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(own[0].transpose(1, 2, 0), np.asarray(images[1]) / 255, atol=1e-6)

    def test_arrays_and_tensors(self, folders: dict[str, Path]) -> None:
        processor = AutoImageProcessor.from_pretrained(folders["model"])
        image = picture(70, 210)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        array = np.asarray(image)
        for same in (
            array,
            torch.from_numpy(array.transpose(2, 0, 1).copy()),
            torch.from_numpy(array / 255).permute(2, 0, 1),
        ):
            found = processor(same, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(found.float(), pixels, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": {"shortest_edge": 9}}, "size is .*shortest_edge.* is needed"),
            ({"patch_size": 0}, "patch_size is 0"),
            ({"depth_estimation_type": "inverse"}, "depth_estimation_type is 'inverse'"),
        ],
    )
    def test_values_that_cannot_be(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ours.HybridDepthImageProcessor(**options)

    def test_bad_pictures(self, folders: dict[str, Path]) -> None:
        processor = AutoImageProcessor.from_pretrained(folders["model"])
        with pytest.raises(InputError, match="return_tensors is 'jax'; 'pt', 'np' or None"):
            processor(picture(96, 320), return_tensors="jax")
        for bad, message in ((torch.rand(3, 40, 50) * 255, "RGB in \\[0, 1\\]"), ([], "empty list"), (7, "is a int")):
            with pytest.raises(InputError, match=message):
                processor(bad, return_tensors="pt")


class TestFolders:
    @plugs("transformers", AUTO, "save", "load")
    def test_both_ways_and_twice(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        opened = AutoModelForDepthEstimation.from_pretrained(folders["model"])
        assert type(opened) is ours.HybridDepthForDepthEstimation
        assert not opened.training
        equal_weights(opened, model)
        opened.save_pretrained(tmp_path / "theirs")
        back = HybridDepthModel.from_pretrained(tmp_path / "theirs")
        equal_weights(back, model)
        assert back.config == model.config
        again = AutoModelForDepthEstimation.from_pretrained(tmp_path / "theirs")
        again.save_pretrained(tmp_path / "again")
        for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
        equal_weights(AutoModelForDepthEstimation.from_pretrained(tmp_path / "again"), model)

    @plugs("transformers", BACKBONE, "build", "run", "save", "load")
    @pytest.mark.parametrize("name", ["model", "encoder"])
    def test_backbones_both_ways(
        self, folders: dict[str, Path], model: HybridDepthModel, name: str, tmp_path: Path
    ) -> None:
        images = torch.rand(1, 3, 70, 106)
        backbone = AutoBackbone.from_pretrained(folders[name])
        maps = model.encoder(images)
        assert all(map(torch.equal, backbone(images).feature_maps, maps))
        assert backbone.channels == list(model.encoder.feature_info.channels())
        backbone.save_pretrained(tmp_path)
        equal_weights(HybridDepthEncoder.from_pretrained(tmp_path), model.encoder)
        some = AutoBackbone.from_pretrained(tmp_path, out_features=["stage2", "stage4"])
        found = some(images, output_hidden_states=True)
        assert [bool(torch.equal(a, maps[i])) for a, i in zip(found.feature_maps, (1, 3), strict=True)] == [True, True]
        assert all(map(torch.equal, found.hidden_states, maps))
        assert (some.out_indices, some.channels) == ([1, 3], [backbone.channels[1], backbone.channels[3]])
        assert AutoBackbone.from_pretrained(tmp_path, out_indices=[0, -1]).out_features == ["stage1", "stage4"]

    def test_a_backbone_leaves_the_callers_configuration(self, folders: dict[str, Path]) -> None:
        config = AutoConfig.from_pretrained(folders["model"])
        AutoBackbone.from_config(config)
        assert isinstance(config.hybrid, HybridDepthConfig)

    def test_in_several_files(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        AutoModelForDepthEstimation.from_pretrained(folders["model"]).save_pretrained(tmp_path, max_shard_size="1MB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        equal_weights(AutoModelForDepthEstimation.from_pretrained(tmp_path), model)
        equal_weights(HybridDepthModel.from_pretrained(tmp_path), model)
        index = tmp_path / "model.safetensors.index.json"
        places = json.loads(index.read_text())["weight_map"]
        key = next(iter(places))
        for change, message in (
            ({"weight_map": {**places, key: "../x.safetensors"}}, "names '../x.safetensors'; .* beside it"),
            ({"weight_map": {**places, key: "x.pth"}}, "names 'x.pth'"),
            ({"weight_map": {**places, "more": places[key]}}, "has no 'more', which model.safetensors.index.json says"),
            ({}, "has no 'weight_map'"),
        ):
            index.write_text(json.dumps(change))
            with pytest.raises(CheckpointError, match=message):
                HybridDepthModel.from_pretrained(tmp_path)

    def test_the_shipped_weights_are_as_saved_today(self, folders: dict[str, Path]) -> None:
        for name in ("config.json", "preprocessor_config.json"):
            assert (SHIPPED / "tiny" / name).read_text() == (folders["model"] / name).read_text()
        saved, shipped = (load_file(folder / "model.safetensors") for folder in (folders["model"], SHIPPED / "tiny"))
        assert {x.dtype for x in shipped.values() if x.is_floating_point()} == {torch.float16}  # to be small
        torch.testing.assert_close(
            {name: x.to(saved[name].dtype) for name, x in shipped.items()}, saved, rtol=0, atol=0
        )

    def test_the_shipped_folder(self, model: HybridDepthModel) -> None:
        image = picture(110, 330)
        found: Any = pipeline("depth-estimation", model=str(SHIPPED / "tiny"))(image)
        torch.testing.assert_close(found["predicted_depth"], model.infer(image).disparity[0], rtol=0, atol=1e-6)
        opened = AutoModelForDepthEstimation.from_pretrained(SHIPPED / "tiny")
        assert opened.dtype == torch.float32
        equal_weights(opened, model)
        equal_weights(AutoBackbone.from_pretrained(SHIPPED / "tiny").encoder, model.encoder)

    def test_older_folders(self, model: HybridDepthModel, tmp_path: Path) -> None:
        shutil.copy(SHIPPED / "tiny" / "model.safetensors", tmp_path)
        content = json.loads((SHIPPED / "tiny" / "config.json").read_text())
        del content["model_type"], content["config"]["encoder"]["prompts"]["token_ids"]
        (tmp_path / "config.json").write_text(json.dumps({**content, "format_version": 2}))
        equal_weights(ours.HybridDepthForDepthEstimation.from_pretrained(tmp_path), model)
        equal_weights(ours.HybridDepthBackbone.from_pretrained(tmp_path).encoder, model.encoder)
        assert ours.HybridDepthImageProcessor.from_pretrained(tmp_path).size == {"height": 96, "width": 320}
        for folder in (tmp_path, SHIPPED / "tiny"):
            options: Any = {"size": (64, 128), "do_resize": False, "patch_size": 16}
            settings = ours.HybridDepthImageProcessor.from_pretrained(folder, **options)
            assert (settings.size, settings.do_resize, settings.patch_size) == ({"height": 64, "width": 128}, False, 16)
            with pytest.raises(ConfigError, match="patch_size is 0"):
                ours.HybridDepthImageProcessor.from_pretrained(folder, patch_size=0)
        with pytest.raises(OSError, match="nowhere"):
            ours.HybridDepthImageProcessor.from_pretrained(tmp_path / "nowhere")

    def test_subfolders(self, model: HybridDepthModel) -> None:
        options: Any = {"subfolder": "tiny"}
        equal_weights(AutoBackbone.from_pretrained(SHIPPED, **options).encoder, model.encoder)
        equal_weights(AutoModelForDepthEstimation.from_pretrained(SHIPPED, **options), model)
        assert AutoImageProcessor.from_pretrained(SHIPPED, **options).size == {"height": 96, "width": 320}

    def test_models_handed_over(self, model: HybridDepthModel) -> None:
        wrapped = ours.HybridDepthForDepthEstimation.from_hybrid(model)
        assert wrapped.encoder is model.encoder
        image = picture(96, 320)
        back = wrapped.to_hybrid()
        assert (back.encoder, back.decoder, back.config) == (model.encoder, model.decoder, model.config)
        assert torch.equal(back.infer(image).disparity, model.infer(image).disparity)

    def test_replaced_prompts_are_saved(self, folders: dict[str, Path], tmp_path: Path) -> None:
        backbone = AutoBackbone.from_pretrained(folders["encoder"])
        backbone.encoder.set_prompts(PromptConfig(words=("close", "distant")))
        backbone.save_pretrained(tmp_path)
        prompts = HybridDepthEncoder.from_pretrained(tmp_path).config.prompts
        assert prompts is not None
        assert prompts.words == ("close", "distant")

    @pytest.mark.slow
    def test_in_another_process(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        picture(96, 320).save(tmp_path / "a.png")
        program = (
            "import hybrid_encoder.integrations.transformers, torch, sys\n"
            "from transformers import pipeline\n"
            "found = pipeline('depth-estimation', model=sys.argv[1])(sys.argv[2])\n"
            "torch.save(found['predicted_depth'], sys.argv[3])\n"
        )
        out = tmp_path / "out.pt"
        command = [sys.executable, "-c", program, str(folders["model"]), str(tmp_path / "a.png"), str(out)]
        subprocess.run(command, check=True, capture_output=True)
        torch.testing.assert_close(torch.load(out), model.infer(tmp_path / "a.png").disparity[0], rtol=0, atol=1e-6)

    def test_imported_again(self, folders: dict[str, Path]) -> None:
        opens = AutoBackbone.from_pretrained
        importlib.reload(ours)
        assert AutoBackbone.from_pretrained == opens
        assert type(AutoConfig.from_pretrained(folders["model"])) is ours.HybridDepthConfig


class TestMemory:
    """Models built without memory, and filled."""

    def outputs(self, model: Any) -> torch.Tensor:
        with torch.no_grad():
            found = model(torch.rand(1, 3, 70, 106, generator=torch.Generator().manual_seed(1)))
        return found if isinstance(found, torch.Tensor) else found.predicted_depth[:, None]

    @pytest.mark.parametrize(
        "options",
        [{"device_map": {"": "cpu"}}, {"device_map": "auto"}, {"dtype": "auto"}, {"low_cpu_mem_usage": True}],
        ids=str,
    )
    def test_by_transformers(self, folders: dict[str, Path], model: HybridDepthModel, options: dict[str, Any]) -> None:
        opened = AutoModelForDepthEstimation.from_pretrained(folders["model"], **options)
        assert torch.equal(self.outputs(opened), self.outputs(model))

    @pytest.mark.parametrize("encoder", ["disk", "cpu"])
    def test_offloaded(self, folders: dict[str, Path], model: HybridDepthModel, encoder: str, tmp_path: Path) -> None:
        device_map = {"encoder": encoder, "decoder": "cpu" if encoder == "disk" else "disk"}
        options: Any = {"device_map": device_map, "offload_folder": str(tmp_path)}
        opened = AutoModelForDepthEstimation.from_pretrained(folders["model"], **options)
        away = {name.partition(".")[0] for name, x in opened.named_parameters() if x.is_meta}
        assert away == {name for name, place in device_map.items() if place == "disk"}
        for _ in range(2):  # weights leave again
            assert torch.equal(self.outputs(opened), self.outputs(model))
        assert any(x.is_meta for x in opened.parameters())
        assert torch.equal(self.outputs(opened.to_hybrid()), self.outputs(model))
        opened.save_pretrained(tmp_path / "saved")
        equal_weights(HybridDepthModel.from_pretrained(tmp_path / "saved"), model)

    def test_an_offloaded_backbone_under_a_head(self, tmp_path: Path) -> None:
        config = ours.HybridDepthConfig.from_pretrained("tiny", reshape_hidden_states=False)
        sizes: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
        head = DPTForDepthEstimation(DPTConfig(backbone_config=config, is_hybrid=False, **sizes)).eval()
        head.save_pretrained(tmp_path)
        options: Any = {
            "device_map": {"backbone": "disk", "neck": "cpu", "head": "cpu"},
            "offload_folder": str(tmp_path / "away"),
        }
        opened = DPTForDepthEstimation.from_pretrained(tmp_path, **options)
        assert {name.partition(".")[0] for name, x in opened.named_parameters() if x.is_meta} == {"backbone"}
        assert torch.equal(self.outputs(opened), self.outputs(head))

    def test_on_the_meta_device(self, model: HybridDepthModel) -> None:
        with torch.device("meta"):
            built = HybridDepthModel(model.config, pretrained=False)
        assert {parameter.is_meta for parameter in built.parameters()} == {True}
        built.load_state_dict(model.state_dict(), assign=True)
        equal_weights(built, model)
        assert torch.equal(self.outputs(built.eval()), self.outputs(model))

    @pytest.mark.parametrize("include_buffers", [False, True])
    def test_by_accelerate(self, folders: dict[str, Path], model: HybridDepthModel, include_buffers: bool) -> None:
        with init_empty_weights(include_buffers=include_buffers):
            built = HybridDepthModel(model.config, pretrained=False)
        file = str(folders["model"] / "model.safetensors")
        filled = load_checkpoint_and_dispatch(built, file, device_map={"": "cpu"}).eval()
        assert torch.equal(self.outputs(filled), self.outputs(model))

    def test_tokens_that_start_from_words(self) -> None:
        config = HybridEncoderConfig.preset("tiny").replace(prompts=PromptConfig(num_tokens=5, init="words"))
        real = HybridDepthEncoder(config, pretrained=False).eval()
        for empty in (torch.device("meta"), init_empty_weights()):
            with empty:
                built = HybridDepthEncoder(config, pretrained=False).eval()
            built.load_state_dict(real.state_dict(), assign=True)
            images = torch.rand(1, 3, 64, 96)
            assert all(map(torch.equal, built(images), real(images)))

    def test_emptied_and_loaded(self, model: HybridDepthModel) -> None:
        built = HybridDepthModel(model.config, pretrained=False).to_empty(device="cpu")
        for buffer in built.buffers():
            buffer.zero_()
        built.load_state_dict(model.state_dict())
        assert torch.equal(self.outputs(built.eval()), self.outputs(model))

    def test_prompts_replaced_and_emptied(self, model: HybridDepthModel) -> None:
        encoder = HybridDepthEncoder(model.config.encoder, pretrained=False)
        encoder.load_state_dict(model.encoder.state_dict())
        encoder.set_prompts(PromptConfig(words=("close", "distant")))
        images, state = torch.rand(1, 3, 70, 106), {name: x.clone() for name, x in encoder.state_dict().items()}
        before = encoder.eval()(images)
        encoder.to_empty(device="cpu")
        encoder.load_state_dict(state)
        assert all(map(torch.equal, encoder(images), before))


class TestRefused:
    def damaged(self, folder: Path, to: Path, **changes: torch.Tensor | None) -> Path:
        shutil.copytree(folder, to)
        tensors = load_file(to / "model.safetensors")
        for name, value in changes.items():
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value
        save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
        return to

    def test_weights_that_do_not_fit(self, folders: dict[str, Path], tmp_path: Path) -> None:
        name = next(name for name in load_file(folders["model"] / "model.safetensors") if name.startswith("decoder."))
        for word, value in (("lack", None), ("have other sizes for", torch.zeros(2, 3))):
            folder = self.damaged(folders["model"], tmp_path / word.replace(" ", ""), **{name: value})
            with pytest.raises(CheckpointError, match=rf"does not fit a .*: its weights {word} '{name}' \(1 in all\)"):
                AutoModelForDepthEstimation.from_pretrained(folder)
        folder = self.damaged(folders["model"], tmp_path / "more", extra=torch.zeros(2))
        for kind in (AutoModelForDepthEstimation, AutoBackbone):
            with pytest.raises(CheckpointError, match=r"hold what it has no place for, 'extra' \(1 in all\)"):
                kind.from_pretrained(folder)

    def test_damaged_files(self, folders: dict[str, Path], tmp_path: Path) -> None:
        nan = torch.full((1,), float("nan"))
        name = next(n for n, x in load_file(folders["model"] / "model.safetensors").items() if x.shape == (1,))
        folder = self.damaged(folders["model"], tmp_path / "nan", **{name: nan})
        with pytest.raises(CheckpointError, match=f"'{name}' holds values that are not finite"):
            AutoModelForDepthEstimation.from_pretrained(folder)
        part, other = ("decoder", "encoder") if name.startswith("decoder.") else ("encoder", "decoder")
        away: Any = {"device_map": {part: "disk", other: "cpu"}, "offload_folder": str(tmp_path / "away")}
        with pytest.raises(CheckpointError, match=f"'{name}' holds values that are not finite"):
            AutoModelForDepthEstimation.from_pretrained(folder, **away)
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=r"are damaged .* download them again"):
            AutoModelForDepthEstimation.from_pretrained(folder)

    def test_code_beside_the_weights_is_not_run(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = self.damaged(folders["model"], tmp_path / "code")
        content = json.loads((folder / "config.json").read_text())
        content["auto_map"] = {"AutoConfig": "code.C", "AutoModelForDepthEstimation": "code.M"}
        (folder / "config.json").write_text(json.dumps(content))
        (folder / "code.py").write_text("raise SystemExit('ran')\n")
        opened = AutoModelForDepthEstimation.from_pretrained(folder)
        assert type(opened) is ours.HybridDepthForDepthEstimation

    def test_folders_of_other_models(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match="encoder is of a HybridDepthEncoder, which has no decoder; open it as"
        ):
            AutoModelForDepthEstimation.from_pretrained(folders["encoder"])
        HybridMatchingModel("tiny", pretrained=False).save_pretrained(tmp_path / "frames")
        for kind in (AutoModelForDepthEstimation, AutoBackbone):
            with pytest.raises(ConfigError, match=r"a multi-frame model, .* HybridMatchingModel\.from_pretrained"):
                kind.from_pretrained(tmp_path / "frames")
        (tmp_path / "config.json").write_text('{"model_type": "dinov2", "hidden_size": 32}')
        with pytest.raises(CheckpointError, match="another library's model, 'dinov2'"):
            ours.HybridDepthForDepthEstimation.from_pretrained(tmp_path)

    def test_pickles(self, folders: dict[str, Path], model: HybridDepthModel, tmp_path: Path) -> None:
        shutil.copy(folders["model"] / "config.json", tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match=r"model\.safetensors"):
            AutoModelForDepthEstimation.from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="a pickle can run code"):
            AutoModelForDepthEstimation.from_pretrained(tmp_path, use_safetensors=False)

    def test_stages(self, folders: dict[str, Path]) -> None:
        for options in ({"out_features": ["stage5"]}, {"out_indices": [4]}, {"out_features": ["stage2", "stage1"]}):
            with pytest.raises((ValueError, IndexError)):
                AutoBackbone.from_pretrained(folders["encoder"], **options)

    def test_configurations(self) -> None:
        with pytest.raises(ConfigError, match="unknown preset 'huge'"):
            ours.HybridDepthConfig("huge")
        with pytest.raises(ConfigError, match="config is 7"):
            ours.HybridDepthConfig(7)  # type: ignore[arg-type]
        assert ours.HybridDepthConfig("tiny").hybrid == HybridDepthConfig.preset("tiny")
        content: Any = {"config": HybridDepthConfig.preset("tiny").to_dict()}
        bad: Any = "HybridDepthModel"
        made = ours.HybridDepthConfig(**content, **{"class": bad})
        assert made.hybrid == HybridDepthConfig.preset("tiny")
        for bad, message in ((None, "'class' is None"), (["x"], r"'class' is \['x'\]"), ("X", "'class' is 'X'")):
            with pytest.raises(ConfigError, match=message):
                ours.HybridDepthConfig(**content, **{"class": bad})
        with pytest.raises(ConfigError, match="without the 'class' that it is of, HybridDepthModel or"):
            ours.HybridDepthConfig(**content)
        uneven = HybridEncoderConfig.preset("tiny").replace(towers="semantic", prompts=None)
        assert len(set(ours.HybridDepthBackbone(ours.HybridDepthConfig(uneven)).channels)) == 1
