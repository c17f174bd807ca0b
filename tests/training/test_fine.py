"""The fine stage: its geometry on drives with known truth, what it starts from, and the files it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from hybrid_encoder import (
    CheckpointError,
    ConfigError,
    HybridDepthConfig,
    HybridDepthEncoder,
    HybridDepthModel,
    InputError,
    PromptConfig,
)
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.config.pose import PoseConfig
from hybrid_encoder.data import Frames, SyntheticDrive, SyntheticSequences
from hybrid_encoder.geometry.camera import warp
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.language import DepthPrompts, bin_centers
from hybrid_encoder.losses import pixel_language_loss
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.models.pose_network import ClassTokenPoseHead, PoseNetwork, load_motion
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.fine_motion import shrink
from hybrid_encoder.training.recipes import FineRecipe
from hybrid_encoder.training.view_synthesis import FineStage

from helpers.published_layout import stage1_config, write_stage1

SIZE = (64, 192)
RECIPE = FineRecipe(1e-3, 0.01, 2, steps=2, pose="test_resnet", pose_channels=16, scales=(0, 1), size=(48, 96))
WORDED = dataclasses.replace(RECIPE, prompts_init="words")


# -- the truth in the stage's place ------------------------------------------------------------------------


class Known(nn.Module):
    """Stands in for a model and a pose network: finds the frame that it is given and returns its truth."""

    config = HybridDepthConfig.preset("tiny")
    to_depth = HybridDepthModel.to_depth

    def __init__(self, drives: list[SyntheticDrive]) -> None:
        super().__init__()
        self.frames = [frame for drive in drives for frame in drive]
        self.spatial = self.prompts = None
        self.weight = nn.Parameter(torch.zeros(()))
        self.pairs: list[tuple[int, int]] = []

    @property
    def encoder(self) -> Known:
        return self

    def find(self, image: Tensor) -> int:
        found = [i for i, f in enumerate(self.frames) if torch.equal(as_seen(torch.from_numpy(f.image)), image)]
        assert len(found) == 1, "networks see the augmented images, as they are"
        return found[0]

    def forward_features(self, images: Tensor) -> HybridFeatures:
        depth = torch.stack([torch.from_numpy(self.frames[self.find(image)].depth) for image in images])
        return HybridFeatures([depth], [depth], None, None, None)

    def decoder(self, maps: list[Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        low, high = 1 / self.config.max_depth, 1 / self.config.min_depth
        return {0: (1 / maps[0] - low) / (high - low) + self.weight}

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The motion that takes points of the first camera to the second."""
        motions = []
        for one, two in zip(first, second, strict=True):
            i, j = self.find(one), self.find(two)
            self.pairs.append((i, j))
            poses = [self.frames[k].world_T_cam.astype(np.float64) for k in (i, j)]
            motions.append(np.linalg.inv(poses[1]) @ poses[0])
        motion = torch.from_numpy(np.stack(motions))
        return _axis_angle(motion[:, :3, :3]).float(), motion[:, :3, 3].float()


def as_seen(images: Tensor) -> Tensor:
    """Change the colours: the images that networks see are not those that views are compared by."""
    return 1 - images


def _axis_angle(rotation: Tensor) -> Tensor:
    skew = rotation - rotation.transpose(-1, -2)
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1) / 2
    sine = axis.norm(dim=-1, keepdim=True)
    return axis * torch.where(sine > 1e-9, sine.asin() / sine.clamp(min=1e-9), 1)


DRIVES = [SyntheticDrive(seed=seed, num_frames=3, height=SIZE[0], width=SIZE[1]) for seed in (3, 4)]


def _frames(offsets: tuple[int, ...]) -> Frames:
    items = SyntheticSequences(DRIVES, offsets)
    batch: Frames = default_collate([items[i] for i in range(len(items))])
    return batch._replace(augmented=as_seen(batch.images))


@pytest.mark.parametrize("offsets", [(-1,), (1,), (-1, 1), (1, -1), (-2, -1)])
def test_true_depth_and_motion_explain_the_sources_on_both_sides(offsets: tuple[int, ...]) -> None:
    known, batch = Known(DRIVES), _frames(offsets)
    found = FineStage(known, known, offsets, automask=False)(batch)  # type: ignore[arg-type]
    assert found["reprojection"] < 0.6 * found["identity"]
    assert known.pairs and all(first < second for first, second in known.pairs), "frames come in temporal order"

    # The motion the other way round explains less than standing still does.
    class Backwards(Known):
        def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(second, first)

    wrong = Backwards(DRIVES)
    against = FineStage(wrong, wrong, offsets, automask=False)(batch)  # type: ignore[arg-type]
    assert against["reprojection"] > 1.3 * found["reprojection"]
    torch.testing.assert_close(against["identity"], found["identity"])


def test_motions_take_the_target_to_every_source() -> None:
    known, offsets = Known(DRIVES), (1, -1)
    batch = _frames(offsets)
    found = FineStage(known, known, offsets).motions(batch.augmented, None)  # type: ignore[arg-type]
    for row, drive in enumerate(DRIVES):
        for column, source in enumerate((2, 0)):
            true = np.linalg.inv(drive.world_T_cam(source)) @ drive.world_T_cam(1)
            np.testing.assert_allclose(found[row, column], true, atol=1e-5)


def test_small_images_are_explained_by_the_same_truth() -> None:
    known, batch = Known(DRIVES), _frames((-1, 1))
    for levels in ((1,), (2,)):
        found = FineStage(known, known, automask=False, levels=levels)(batch)  # type: ignore[arg-type]
        assert found["reprojection"] < 0.6 * found["identity"], levels


def test_the_mean_over_levels_and_scales_and_the_smoothness_make_the_loss() -> None:
    known, batch = Known(DRIVES), _frames((-1, 1))

    def loss(levels: tuple[int, ...], smoothness: float = 0.0) -> float:
        stage = FineStage(known, known, automask=False, levels=levels, smoothness=smoothness)  # type: ignore[arg-type]
        return float(stage(batch)["loss"].item())

    one, two = loss((0,)), loss((1,))
    assert abs(one - two) > 1e-3 and loss((0, 1)) == pytest.approx((one + two) / 2)
    rough = loss((0,), 1.0) - one
    assert rough > 1e-3 and loss((0,), 0.5) - one == pytest.approx(rough / 2, rel=1e-3)


@pytest.mark.parametrize(("factor", "size", "tolerance"), [(2, SIZE, 1e-5), (4, SIZE, 1e-5), (4, (70, 186), 0.75 / 70)])
def test_intrinsics_shrink_with_the_images(factor: int, size: tuple[int, int], tolerance: float) -> None:
    # Where sizes do not divide, averages are over whole pixels, a little beside the place.
    height, width = size
    K = torch.from_numpy(SyntheticDrive(seed=3, height=height, width=width).K)[None]
    # Colour says the place, so that averaging and every affine motion leave it linear.
    v, u = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    image = torch.stack([u, v, u * 0 + 0.5])[None]
    small, intrinsics = shrink(image[None], K, factor)
    lower, narrower = height // factor, width // factor
    assert small.shape == (1, 1, 3, lower, narrower)
    # A roll, and the source so far behind that it sees all of the target's view.
    motion = pose_matrix(torch.tensor([[0.0, 0.0, 0.35]]), torch.tensor([[0.1, -0.1, 4.0]]))
    moved, inside = warp(image, torch.full((1, 1, height, width), 3.0), K, motion)
    assert inside.all() and (moved - image).abs().mean() > 0.05
    expected = F.interpolate(moved, (lower, narrower), mode="area")
    depth = torch.full((1, 1, lower, narrower), 3.0)
    found = warp(small[:, 0], depth, intrinsics, motion)[0]
    error = (found - expected).abs()
    # Without the half pixel the same comparison fails.
    naive = torch.diag(torch.tensor([narrower / width, lower / height, 1.0])) @ K
    wrong = (warp(small[:, 0], depth, naive, motion)[0] - expected).abs()
    assert error.max() < tolerance < wrong.max() and error.mean() < 0.5 * wrong.mean()


def test_a_factor_of_one_changes_nothing() -> None:
    images, K = torch.rand(1, 2, 3, 8, 8), torch.rand(1, 3, 3)
    small, intrinsics = shrink(images, K, 1)
    assert torch.equal(small, images) and torch.equal(intrinsics, K)


# -- the stage around a real model -------------------------------------------------------------------------


def _batch(size: tuple[int, int] = (48, 96), offsets: tuple[int, ...] = (-1, 1)) -> Frames:
    drives = [SyntheticDrive(seed=seed, num_frames=3, height=size[0], width=size[1]) for seed in (0, 1)]
    items = SyntheticSequences(drives, offsets)
    batch: Frames = default_collate([items[i] for i in range(len(items))])
    return batch


def test_class_tokens_give_the_motion_in_temporal_order(tiny_model: HybridDepthModel) -> None:
    stage, batch = FineStage(tiny_model).eval(), _batch()
    assert isinstance(stage.token_pose, ClassTokenPoseHead)
    nn.init.normal_(stage.token_pose.linear.weight, generator=torch.Generator().manual_seed(0))
    spatial = tiny_model.encoder.spatial
    assert spatial is not None
    target, before, after = (spatial(batch.images[:, i])[1] for i in range(3))
    assert target is not None and before is not None and after is not None
    found = stage.motions(batch.images, target)
    axis_angle, translation = stage.token_pose(before, target)
    torch.testing.assert_close(found[:, 0], pose_matrix(axis_angle, translation, invert=True))
    torch.testing.assert_close(found[:, 1], pose_matrix(*stage.token_pose(target, after)))
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-4
    stage(batch)["loss"].backward()
    gradient = stage.token_pose.linear.weight.grad
    assert gradient is not None and gradient.any()


def test_a_step_moves_encoder_decoder_and_pose(tiny_model: HybridDepthModel) -> None:
    pose = PoseNetwork("test_resnet", channels=16)
    losses = FineStage(tiny_model, pose, automask=False)(_batch())
    losses["loss"].backward()
    for part in (tiny_model.encoder, tiny_model.decoder, pose):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert 0 < losses["reprojection"] < 1 and 0 < losses["identity"] < 1 and 0 <= losses["moved"] <= 1
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]


def test_the_language_loss_is_added_with_its_weight(tiny_model: HybridDepthModel) -> None:
    pose, batch = PoseNetwork("test_resnet", channels=16), _batch()
    with torch.no_grad():
        plain, worded = (FineStage(tiny_model, pose, language_loss=w).eval()(batch) for w in (0.0, 0.3))
        features = tiny_model.encoder.forward_features(batch.images[:, 0])
        depth = tiny_model.to_depth(tiny_model.decoder(features.maps, (48, 96))[0])
    assert features.logits is not None and len(features.logits) == 4
    centers = bin_centers(16, tiny_model.config.min_depth, tiny_model.config.max_depth)
    expected = torch.stack([pixel_language_loss(logits, depth, centers) for logits in features.logits]).mean()
    assert expected > 0.1 and "language" not in plain
    torch.testing.assert_close(worded["language"], expected)
    torch.testing.assert_close(worded["loss"] - plain["loss"], 0.3 * expected, atol=1e-5, rtol=1e-4)


def test_wrong_input_is_refused(tiny_model: HybridDepthModel) -> None:
    config = tiny_model.config
    with pytest.raises(InputError, match=r"images are \(4, 2, 3, 48, 96\); \(B, 3, 3, H, W\) is needed.*\(-1, 1\)"):
        FineStage(tiny_model)(_batch(offsets=(1,)))
    semantic = HybridDepthModel(config.replace(encoder=config.encoder.replace(towers="semantic")), pretrained=False)
    with pytest.raises(ConfigError, match="motion from class tokens needs the DINO tower; give a pose network"):
        FineStage(semantic)
    FineStage(semantic, PoseNetwork("test_resnet", channels=16))
    silent = HybridDepthModel(config.replace(encoder=config.encoder.replace(prompts=None)), pretrained=False)
    with pytest.raises(ConfigError, match="language_loss is set, and the encoder has no prompts"):
        FineStage(silent, language_loss=0.1)
    FineStage(silent)


# -- what it starts from -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of the coarse stage: an encoder with seven words."""
    torch.manual_seed(1)
    config = HybridDepthConfig.preset("tiny").encoder.replace(prompts=PromptConfig(words=DEPTH_WORDS))
    folder = tmp_path_factory.mktemp("stage1") / "words"
    HybridDepthEncoder(config, pretrained=False).save_pretrained(folder)
    return folder


def _same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return one.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in one.state_dict().items()
    )


def test_a_preset_is_built_with_the_recipes_scales() -> None:
    model = fine_model("tiny", RECIPE, pretrained=False)
    assert model.config == HybridDepthConfig.preset("tiny").replace(decoder=model.config.decoder)
    assert model.config.decoder.scales == (0, 1)
    with torch.no_grad():
        assert sorted(model.forward_scales(torch.rand(1, 3, 48, 96))) == [0, 1]
    untouched = fine_model("tiny", dataclasses.replace(RECIPE, scales=None), pretrained=False)
    assert untouched.config.decoder.scales == (0, 1, 2, 3)


def test_a_coarse_result_gets_a_decoder_of_the_presets_width(words: Path, images: Tensor) -> None:
    model = fine_model(words, RECIPE)
    assert _same(model.encoder, HybridDepthEncoder.from_pretrained(words))
    assert model.config.decoder == dataclasses.replace(HybridDepthConfig.preset("tiny").decoder, scales=(0, 1))
    assert model.config.encoder.prompts == PromptConfig(words=DEPTH_WORDS)
    with torch.no_grad():
        disparity = model(images)
    assert disparity.shape == (2, 1, 70, 106) and disparity.min() > 0 and disparity.max() < 1


def test_a_published_coarse_checkpoint_gets_the_papers_decoder(tmp_path: Path) -> None:
    torch.manual_seed(2)
    path = write_stage1(HybridDepthModel(stage1_config(), pretrained=False), tmp_path / "stage1.ckpt")
    model = fine_model(path, dataclasses.replace(RECIPE, scales=None))
    assert _same(model.encoder, HybridDepthEncoder.from_pretrained(path))
    assert model.config.decoder == HybridDepthConfig.preset("paper").decoder
    assert model.config.encoder.prompts is not None and model.config.encoder.prompts.words == DEPTH_WORDS


def test_a_whole_model_keeps_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = fine_model("tiny", RECIPE, pretrained=False)
    trained.save_pretrained(tmp_path)
    again = fine_model(tmp_path, dataclasses.replace(RECIPE, start_depth=0.6))
    assert _same(again, trained) and again.config == trained.config
    # Other prompts change what the decoder reads: the model's words go on, its decoder cannot.
    with pytest.raises(ConfigError, match=r"has words that this checkpoint.s text tower has not kept"):
        fine_model(tmp_path, WORDED, prompts=8)
    assert fine_model(tmp_path, RECIPE, prompts=8).config.encoder.prompts == PromptConfig(num_tokens=8, train_text=True)


def test_learned_prompts_start_from_the_words(words: Path) -> None:
    before = HybridDepthEncoder.from_pretrained(words)
    torch.manual_seed(4)
    model = fine_model(words, WORDED, prompts=16)
    encoder = model.encoder
    assert before.prompts is not None and encoder.prompts is not None and encoder.prompts.tokens is not None
    added = np.subtract(encoder.feature_info.channels(), before.feature_info.channels())
    assert added.tolist() == [16 - 7] * 4
    assert model.config.encoder.prompts == PromptConfig(num_tokens=16, init="words")
    assert encoder.prompts.tokens.requires_grad
    # Token i starts from the embedding of word i * 7 / 16 alone, its channels taken to the text tower's width.
    embedded = DepthPrompts(before.prompts, PromptConfig(template="{}", words=DEPTH_WORDS))().detach()
    width = encoder.prompts.tokens.shape[1]
    expected = embedded[torch.arange(16) * 7 // 16][:, torch.arange(width) * embedded.shape[1] // width]
    torch.testing.assert_close(encoder.prompts.tokens.detach(), expected)
    for part in ("semantic", "spatial", "fusion"):
        assert _same(getattr(encoder, part), getattr(before, part))
    with torch.no_grad():
        assert model(torch.rand(1, 3, 48, 96)).isfinite().all()


def test_other_prompts_keep_the_sentence_and_what_the_decoder_reads(tmp_path: Path) -> None:
    torch.manual_seed(5)
    own = PromptConfig(template="{}", words=DEPTH_WORDS, decoder_input="logits", readout="joint", train_text=False)
    config = HybridDepthConfig.preset("tiny").encoder.replace(prompts=own)
    HybridDepthEncoder(config, pretrained=False).save_pretrained(tmp_path)
    model = fine_model(tmp_path, dataclasses.replace(RECIPE, readout=None), prompts=8)
    assert model.config.encoder.prompts == dataclasses.replace(own, words=None, num_tokens=8)
    assert model.encoder.feature_info.channels() == [8] * 4


def test_a_source_that_does_not_exist_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"gone\.ckpt is neither a file or folder nor a Hub id"):
        fine_model("gone.ckpt", RECIPE)


@pytest.mark.parametrize("start", [0.3, 0.6, 5.0])
def test_an_untrained_decoder_predicts_the_starting_depth(start: float) -> None:
    torch.manual_seed(5)
    model = fine_model("tiny", dataclasses.replace(RECIPE, start_depth=start), pretrained=False).eval()
    with torch.no_grad():
        disparities = model.forward_scales(_batch().images[:, 0])
    for disparity in disparities.values():
        assert model.to_depth(disparity).median().item() == pytest.approx(start, rel=0.2)


# -- from the first step to files --------------------------------------------------------------------------


@pytest.mark.parametrize("pose", ["test_resnet", "class_token"])
def test_a_run_saves_a_model_that_predicts_the_same(tmp_path: Path, pose: str) -> None:
    drives = [SyntheticDrive(seed=seed, num_frames=4, height=48, width=96) for seed in (0, 1)]
    items = SyntheticSequences([list(drive) for drive in drives], augment=True)
    recipe = dataclasses.replace(RECIPE, pose=pose)
    torch.manual_seed(6)
    model = fine_model("tiny", recipe, pretrained=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_metric_scale(2.0)
    done = train_fine(model, items, tmp_path, recipe, language_loss=0.1, cpu=True)
    assert done == tmp_path / "final" and not model.training
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loaded = HybridDepthModel.from_pretrained(done)
    assert loaded.config.size == (48, 96) and loaded.config == model.config
    assert not loaded.config.metric  # video has no unit, whatever the weights were before
    images = _batch().images[:, 0]
    assert _same(loaded, model)
    with torch.no_grad():  # trained with channels last, which rounds otherwise
        torch.testing.assert_close(loaded(images), model(images), atol=1e-5, rtol=0)
        assert torch.equal(loaded(images), model.to(memory_format=torch.contiguous_format)(images))  # type: ignore[call-overload]
    for place in (tmp_path, done):
        motion = load_motion(place)
        assert motion.config == PoseConfig(
            "class_token" if pose == "class_token" else "network",
            channels=96 if pose == "class_token" else recipe.pose_channels,
            backbone="resnet18" if pose == "class_token" else pose,
            size=(48, 96),
            unit="mean depth" if recipe.refine else "depth",
        )
        assert motion.training_history == model.training_history
    card = (done / "README.md").read_text()
    assert "2 steps of view synthesis" in card and "(48, 96)" in card
