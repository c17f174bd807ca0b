"""The recipes of the coarse and the fine stage: the published ones, and small ones for the tiny preset."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.config.checking import check_value
from hybrid_encoder.config.parts import MAX_PROMPTS, Readout
from hybrid_encoder.data.transforms import Jitter, Resample, Size
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.coarse import Sampling
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.stage_recipe import StageRecipe, check_size

STEREO_START = 10.0  # metres


PromptsInit = Literal["random", "words", "fitted"]


@dataclass(frozen=True)
class CoarseRecipe(StageRecipe):
    """The settings of the coarse stage.

    Args:
        freeze_spatial: keep the DINO tower as it is.
        freeze_text: keep CLIP's text tower as it is, so that the words stay where CLIP has them.
        two_sided, sampling, box, margin: of :class:`hybrid_encoder.losses.coarse.CoarsePatchLoss`.
        words: the prompts, from near to far; a lane has as many points.
        readout: what the encoder says of its logits, for whatever reads these; the stage itself compares jointly.
        size: (H, W) of the images; or the least that their shorter side may have, at the aspect of each image.
        flip: mirror half of the items.
        jitter: change the colours of all items.
    """

    freeze_spatial: bool = True
    freeze_text: bool = False
    two_sided: bool = False
    sampling: Sampling = "cell"
    box: float = 32.0
    margin: float = 0.0
    words: tuple[str, ...] = DEPTH_WORDS
    readout: Readout = "published"
    size: Size = (224, 224)
    flip: bool = True
    jitter: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("box", self.box, above=0)
        check_number("margin", self.margin, 0)
        check_number("the number of words", len(self.words), 2)
        check_value(Readout, self.readout, "readout")
        check_size(self.size)


@dataclass(frozen=True)
class FineRecipe(StageRecipe):
    """The settings of the fine stage.

    Args:
        pose: ``"class_token"``, or the name of a timm backbone for a pose network.
        pose_pretrained: start that backbone from timm's public weights.
        pose_channels: of the pose network's convolutions.
        pose_lr: factor on the pose network's learning rate.
        scales: of the decoder; None keeps the preset's.
        levels, refine, automask, smoothness: of :class:`hybrid_encoder.training.fine.FineStage`.
        start_depth: the depth that an untrained decoder with a sigmoid predicts everywhere; None leaves its bias alone.
        size: (H, W) of the frames.
        offsets: of the neighbouring frames from the target, in frames.
        prompts: how many learned prompts take the place of a coarse result's words; None keeps the words.
        prompts_init: learned prompts that come after words start from noise (std 0.02), ``"random"``; from
            ``"words"``, whose encodings are interpolated and taken for tokens, which keeps no order; or ``"fitted"``:
            their encodings are those of the words, interpolated, which keeps the order.
        readout: what pixels are compared with the prompts by (``PromptConfig.readout``), where the decoder is new; None
            keeps the source's.
        raw_input: feed both towers of a coarse result raw RGB in [0, 1]; else with its own normalisation.
        stereo: compare with the right view too, ``"add"``, or with it alone, ``"only"``, which needs no motion; either
            gives depth in metres.
        intrinsics: as the recordings say, ``"given"``, or learned, ``"learn"``, one camera for each recording.
        intrinsics_lr: factor on the learning rate of learned intrinsics; None lets a focal length double or halve
            within the run, whatever its steps and ``lr``.
        teacher_weight: of the loss that follows a teacher, where there is one.
        jitter, resample: of :class:`hybrid_encoder.data.sequences.SourceSequences`.
    """

    pose: str = "resnet18"
    pose_pretrained: bool = False
    pose_channels: int = 256
    pose_lr: float = 1.0
    scales: tuple[int, ...] | None = None
    levels: tuple[int, ...] = (0,)
    refine: int = 0
    automask: bool = True
    smoothness: float = 1e-3
    start_depth: float | None = None
    size: tuple[int, int] = (192, 640)
    offsets: tuple[int, ...] = (-1, 1)
    prompts: int | None = None
    prompts_init: PromptsInit = "random"
    readout: Readout | None = None
    raw_input: bool = False
    stereo: Literal["no", "add", "only"] = "no"
    intrinsics: Literal["given", "learn"] = "given"
    intrinsics_lr: float | None = None
    teacher_weight: float = 0.1
    jitter: Jitter = "per_item"
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("pose_channels", self.pose_channels, 1, whole=True)
        check_number("pose_lr", self.pose_lr, above=0, high=1 / self.lr)
        check_number("smoothness", self.smoothness, 0)
        check_number("refine", self.refine, 0, whole=True)
        if self.start_depth is not None:
            check_number("start_depth", self.start_depth, above=0)
        check_size(self.size)
        if self.prompts is not None:
            check_number("prompts", self.prompts, 2, MAX_PROMPTS, whole=True)
        check_value(PromptsInit, self.prompts_init, "prompts_init")
        check_value(Readout | None, self.readout, "readout")
        check_value(Literal["no", "add", "only"], self.stereo, "stereo")
        check_value(Literal["given", "learn"], self.intrinsics, "intrinsics")
        if self.intrinsics_lr is not None:
            check_number("intrinsics_lr", self.intrinsics_lr, above=0, high=1 / self.lr)
        check_number("teacher_weight", self.teacher_weight, 0)
        check_value(Jitter, self.jitter, "jitter")
        check_value(Resample, self.resample, "resample")
        for level in self.levels:
            check_number("a level", level, 0, 16, whole=True)
        if not self.levels or min(self.size) >> max(self.levels) < 2:
            raise ConfigError(f"levels is {self.levels} for images of {self.size}; 2 pixels at least must be left.")
        if not self.offsets or 0 in self.offsets:
            raise ConfigError(f"offsets is {self.offsets}; it must name neighbours, such as (-1, 1), and not 0.")

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The offsets of the frames in time that are compared: none where the right view is compared alone."""
        return () if self.stereo == "only" else self.offsets

    @property
    def metric(self) -> bool:
        """Whether depth comes out in metres, which only a known baseline can say."""
        return self.stereo != "no"

    def with_stereo(self, stereo: Literal["add", "only"]) -> FineRecipe:
        """Return these settings with the right view; a decoder that starts from a depth starts from 10 m then.

        The depths that recipes for video start from have no unit. Where all is as near as 0.6 m, say, the right view
        shows nothing of the target.
        """
        start = None if self.start_depth is None else STEREO_START
        return replace(self, stereo=stereo, start_depth=start)


COARSE = {
    "published": CoarseRecipe(
        3.57e-4,
        0.1,
        6,
        # 20 epochs, which there count the 23,157 lines of a KITTI list beside TuSimple's 3,626 pictures.
        steps=20 * math.ceil((3626 + 23157) / 6),
        clip=0.1,
        final_div_factor=100.0,
        freeze_text=True,
        size=224,
        flip=False,
        jitter=True,
    ),
    # Features are averaged over patches of one cell's size: lanes in small images have several points in a cell.
    "small": CoarseRecipe(
        1e-3,
        0.1,
        6,
        steps=120,
        clip=1.0,
        freeze_spatial=False,
        two_sided=True,
        sampling="box",
        box=14.0,
        # Without it, logits shrink to less than a hundredth of what they are at first, and no decoder reads them.
        margin=20.0,
        readout="joint",
        size=(96, 320),
    ),
}
FINE = {
    "published": FineRecipe(
        1e-4,
        0.01,
        16,
        epochs=30,
        schedule="steps",
        pose="resnet18.tv_in1k",
        pose_pretrained=True,
        scales=(0,),
        size=(224, 672),
        prompts=256,
        readout="published",
        raw_input=True,
        jitter="per_frame",
        resample="lanczos",
    ),
    # From random weights the pose network learns more slowly than depth, and depth drifts far away, where the images
    # look as if the camera stood still. Direct alignment (refine) finds the motion from the first step on. Views are
    # compared on small images (levels), where a wrong motion still makes them overlap.
    "small": FineRecipe(
        1e-3,
        0.01,
        4,
        steps=400,
        warm_up=0.1,
        clip=1.0,
        pose="test_resnet",
        pose_channels=64,
        pose_lr=0.5,
        scales=(1,),
        levels=(1, 2, 3),
        refine=3,
        smoothness=1e-2,
        start_depth=0.6,
        prompts_init="fitted",
        readout="joint",
        size=(96, 320),
    ),
}
