"""The published recipes, fact by fact: what the published implementation trains with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from hybrid_encoder import CheckpointError, HybridDepthConfig, HybridDepthEncoder, HybridDepthModel, PromptConfig
from hybrid_encoder.config import DEPTH_WORDS, IMAGENET_MEAN, NO_MEAN, NO_STD
from hybrid_encoder.data import KittiSequences, OrderedPatches, SyntheticDrive, SyntheticLanes, TuSimpleLanes, collate
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.pose_network import PoseNetwork
from hybrid_encoder.training.coarse import train_coarse
from hybrid_encoder.training.fine import fine_model, fine_stage
from hybrid_encoder.training.recipes import COARSE, FINE, FineRecipe

from helpers.fake_hub import fake_hub
from helpers.kitti_layout import write_drive
from helpers.published_layout import small_config, stage1_config, write_stage1
from helpers.schedules import rates

PUBLISHED_COARSE, PUBLISHED_FINE = COARSE["published"], FINE["published"]
FREE_FINE = dataclasses.replace(PUBLISHED_FINE, pose_pretrained=False)  # nothing to download
POSE_WEIGHTS = "timm/resnet18.tv_in1k"


# -- how long and how fast -----------------------------------------------------------------------------------


def test_the_coarse_rate_goes_from_a_25th_to_the_peak_and_to_a_2500th() -> None:
    found = rates(PUBLISHED_COARSE, 1000)
    assert found[0] == pytest.approx(3.57e-4 / 25) and max(found) == pytest.approx(3.57e-4)
    assert found[-1] == pytest.approx(3.57e-4 / 25 / 100)
    assert found.index(max(found)) in (299, 300), "three tenths of the way"


def test_the_coarse_stage_takes_some_89_000_steps_of_six() -> None:
    recipe = PUBLISHED_COARSE
    assert recipe.num_steps(3626) == pytest.approx(20 * (3626 + 23157) / 6, abs=20)
    assert 89_000 < recipe.num_steps(3626) < 89_500
    assert (recipe.batch_size, recipe.weight_decay, recipe.clip) == (6, 0.1, 0.1)
    assert (recipe.two_sided, recipe.sampling, recipe.words) == (False, "cell", DEPTH_WORDS)


def test_the_fine_rate_falls_by_ten_after_fifteen_of_thirty_epochs() -> None:
    recipe = PUBLISHED_FINE
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.clip) == (30, 16, 0.01, None)
    epoch = 39810 // 16
    assert recipe.num_steps(39810) == 30 * epoch
    found = rates(recipe, 30 * 4)  # four steps in an epoch
    assert found[:60] == [1e-4] * 60 and found[60:] == pytest.approx([1e-5] * 60)


def test_the_fine_stage_learns_scale_0_from_the_frames_before_and_after() -> None:
    recipe = PUBLISHED_FINE
    assert (recipe.scales, recipe.offsets, recipe.levels, recipe.refine) == ((0,), (-1, 1), (0,), 0)
    assert (recipe.size, recipe.automask, recipe.smoothness, recipe.start_depth) == ((224, 672), True, 1e-3, None)


# -- pictures ------------------------------------------------------------------------------------------------


def tusimple(folder: Path, height: int, width: int) -> Path:
    """One picture of random colours with one lane."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(folder / "0.png")
    rows = list(range(height // 2, height, height // 20))
    label = {"raw_file": "0.png", "h_samples": rows, "lanes": [[width // 3 + row // 4 for row in rows]]}
    (folder / "label_data_0.json").write_text(str(label).replace("'", '"'))
    return folder


@pytest.mark.parametrize(
    ("picture", "size"),
    [((720, 1280), (224, 392)), ((1280, 720), (392, 224)), ((376, 1240), (224, 742)), ((480, 640), (224, 294))],
)
def test_pictures_keep_their_aspect_and_have_a_shorter_side_of_224(
    tmp_path: Path, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    item = TuSimpleLanes(tusimple(tmp_path, *picture), PUBLISHED_COARSE.size)[0]
    assert item.image.shape == (3, *size)
    whole = TuSimpleLanes(tmp_path, size)[0]
    assert torch.equal(item.image, whole.image) and torch.equal(item.points, whole.points)


def test_pictures_of_two_aspects_make_no_batch_and_are_named() -> None:
    items = [OrderedPatches(torch.rand(3, 224, width), torch.zeros(0, 7, 2), f"{width}.png") for width in (392, 294)]
    with pytest.raises(InputError, match=r"392\.png is 224 x 392 and 294\.png 224 x 294.*give \(H, W\) as the size"):
        collate(items)
    with pytest.raises(InputError, match="size is 31; the shorter side must have at least 32 pixels"):
        TuSimpleLanes(".", 31)


def test_coarse_pictures_always_change_their_colours_and_are_never_mirrored(tmp_path: Path) -> None:
    recipe = PUBLISHED_COARSE
    assert (recipe.flip, recipe.jitter) == (False, True)
    folder = tusimple(tmp_path, 144, 256)
    plain = TuSimpleLanes(folder, (72, 128))[0]
    data = TuSimpleLanes(folder, (72, 128), flip=recipe.flip, jitter=recipe.jitter)
    torch.manual_seed(0)
    seen = [data[0] for _ in range(20)]
    for item in seen:
        assert torch.equal(item.points, plain.points)
        grey, before = item.image.mean(0).flatten(), plain.image.mean(0).flatten()
        assert 0.01 < (item.image - plain.image).abs().mean() < 0.35
        assert torch.corrcoef(torch.stack([grey, before]))[0, 1] > 0.8, "the same picture, not its mirror image"
    assert len({float(item.image.sum()) for item in seen}) == 20, "each draws its own"


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kitti")
    frames = list(SyntheticDrive(3, num_frames=3, height=96, width=320))
    write_drive(root, {2: [frame.image for frame in frames]}, frames[0].K)
    return root


def test_fine_frames_are_resized_as_pillow_does_it_with_lanczos(kitti: Path) -> None:
    assert PUBLISHED_FINE.resample == "lanczos"
    item = KittiSequences(kitti, (56, 168), resample=PUBLISHED_FINE.resample)[0]
    file = sorted(kitti.rglob("image_02/data/*.png"))[1]
    expected = np.asarray(Image.open(file).resize((168, 56), Image.Resampling.LANCZOS))
    assert torch.equal((item.images[0] * 255).round().byte(), torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert not torch.equal(KittiSequences(kitti, (56, 168))[0].images, item.images)
    with pytest.raises(InputError, match="resample is 'bicubic'; it must be one of 'bilinear', 'lanczos'"):
        KittiSequences(kitti, (56, 168), resample="bicubic")  # type: ignore[arg-type]


@pytest.mark.parametrize("jitter", ["per_frame", "per_item"])
def test_the_frames_of_an_item_change_by_themselves_or_alike(kitti: Path, jitter: Any) -> None:
    data = KittiSequences(kitti, (56, 168), augment=True, jitter=jitter)
    data.items = data.items[:1]
    same = data[0].images[:1].expand(3, -1, -1, -1).clone()  # three times one frame shows who was changed how
    torch.manual_seed(0)
    changed = 0
    for _ in range(40):
        item = make(data, same)
        if torch.equal(item, same) or torch.equal(item, same.flip(-1)):
            continue
        changed += 1
        apart = (item[1:] - item[:1]).abs().amax((1, 2, 3))
        assert (apart > 0.01).all() if jitter == "per_frame" else not apart.any()
    assert 10 < changed < 30, "half of the items"
    assert PUBLISHED_FINE.jitter == "per_frame" and FineRecipe(1e-4, 0.01, 2, steps=1).jitter == "per_item"


def make(data: KittiSequences, images: Tensor) -> Tensor:
    """The changed colours of an item that has these images."""
    from hybrid_encoder.data.frames import make_frames

    return make_frames(images, torch.eye(3), "", data.augment, data.jitter).augmented


# -- what trains, and what it starts from --------------------------------------------------------------------


def test_the_coarse_stage_keeps_dino_and_the_text_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = HybridDepthEncoder(stage1_config().encoder, pretrained=False)
    trained_before = encoder.trainable
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    items = SyntheticLanes([list(SyntheticDrive(seed=1, num_frames=4, height=56, width=98))])
    recipe = dataclasses.replace(PUBLISHED_COARSE, steps=2, batch_size=2)
    train_coarse(encoder, items, tmp_path, recipe, cpu=True)
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("semantic.", "fusion.")) for name in moved), sorted(moved)[:3]
    # ... and in the fine stage, they are as their configuration says.
    assert encoder.trainable == trained_before and trained_before["text"] == "all_but_blocks"
    loaded = HybridDepthEncoder.from_pretrained(tmp_path / "final")
    assert loaded.trainable == trained_before


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("stage1")
    return write_stage1(HybridDepthModel(stage1_config(), pretrained=False), folder / "stage1.ckpt")


def test_after_stage_1_prompts_start_at_random_and_the_input_is_raw(stage1: Path) -> None:
    torch.manual_seed(0)
    model = fine_model(stage1, FREE_FINE)
    prompts, config = model.encoder.prompts, model.config.encoder
    assert prompts is not None and prompts.tokens is not None and prompts.tokens.shape[0] == 256
    assert float(prompts.tokens.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert abs(float(prompts.tokens.detach().mean())) < 1e-3
    assert config.prompts == PromptConfig(num_tokens=256)
    assert model.encoder.semantic is not None and model.encoder.spatial is not None
    for tower, told in ((model.encoder.semantic, config.semantic), (model.encoder.spatial, config.spatial)):
        assert (told.mean, told.std) == (NO_MEAN, NO_STD)
        pixel = torch.rand(1, 3, 1, 1)
        assert torch.equal(tower.normalise(pixel), pixel)
    before = HybridDepthEncoder.from_pretrained(stage1)
    assert before.config.semantic.mean == IMAGENET_MEAN
    for part in ("semantic", "spatial", "fusion"):
        one, other = getattr(model.encoder, part).state_dict(), getattr(before, part).state_dict()
        assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    assert model.config.decoder == HybridDepthConfig.preset("paper").decoder

    worded = fine_model(stage1, dataclasses.replace(FREE_FINE, prompts_init="words"))
    assert worded.encoder.prompts is not None and worded.encoder.prompts.tokens is not None
    tokens = worded.encoder.prompts.tokens.detach()
    assert torch.equal(tokens[0], tokens[36]) and not torch.equal(tokens[0], tokens[37]), "256 / 7 for each word"
    kept = fine_model(stage1, dataclasses.replace(FREE_FINE, prompts=None, raw_input=False))
    assert kept.config.encoder == before.config


def test_of_clip_the_fine_stage_freezes_twelve_blocks_and_of_dino_all_but_the_last(stage1: Path) -> None:
    model = fine_model(stage1, FREE_FINE)
    frozen = {name.removeprefix("encoder.") for name, p in model.named_parameters() if not p.requires_grad}
    text = {name for name in frozen if name.startswith("prompts.")}
    assert text and all(name.startswith("prompts.transformer.resblocks.") for name in text)
    assert model.encoder.spatial is not None
    last = len(model.encoder.spatial.blocks) - 1
    assert all(name.startswith(("prompts.", "spatial.")) for name in frozen)
    assert not [name for name in frozen if f".blocks.{last}." in name]
    stage = fine_stage(model, dataclasses.replace(FREE_FINE, pose="class_token"))
    groups = {group["name"]: group["params"] for group in stage.parameter_groups(1e-4)}
    assert set(groups) == {"semantic", "spatial", "text", "prompts", "fusion", "decoder", "pose"}
    # token_embedding, positional_embedding, ln_final (2), text_projection; the learned tokens; one block of DINO
    assert (len(groups["text"]), len(groups["prompts"])) == (5, 1)
    block = model.encoder.spatial.blocks[last]
    assert len(groups["spatial"]) == len(list(block.parameters()))
    assert HybridDepthConfig.preset("paper").encoder.spatial.trainable_blocks == 1


def test_the_pose_network_starts_from_imagenets_resnet18(tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights: dict[str, Tensor] = timm.create_model("resnet18.tv_in1k").state_dict()
    model = HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=4)), pretrained=False)
    assert (PUBLISHED_FINE.pose, PUBLISHED_FINE.pose_channels) == ("resnet18.tv_in1k", 256)
    with fake_hub(tmp_path) as hub:
        with pytest.raises(CheckpointError) as refused:
            fine_stage(model, PUBLISHED_FINE)
        said = str(refused.value)
        assert said.startswith(f"the pose network's weights resnet18.tv_in1k ({POSE_WEIGHTS} on the Hugging Face Hub)")
        assert "--no-pose-pretrained" in said and said.count(". ") == 0, "one sentence, with the way on"
        hub.files[POSE_WEIGHTS] = {"model.safetensors": save(weights)}
        stage = fine_stage(model, PUBLISHED_FINE)
    assert isinstance(stage.pose, PoseNetwork)
    state = stage.pose.backbone.state_dict()
    # Two frames: the three channels' weights twice, halved, so that two equal frames give what one gave.
    first = weights.pop("conv1.weight")
    torch.testing.assert_close(state.pop("conv1.weight"), torch.cat([first, first], 1) / 2)
    assert len(state) > 100 and all(torch.equal(value, weights[name]) for name, value in state.items())
