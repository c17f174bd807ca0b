"""The method on rendered streets, with the tiny preset: words for depth first, then depth without a label."""

from __future__ import annotations

import dataclasses
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset

from hybrid_encoder.data.images import write_png
from hybrid_encoder.data.ordered import OrderedDepth, OrderedPatches
from hybrid_encoder.data.sequences import SyntheticSequences
from hybrid_encoder.data.street.drive import render_streets
from hybrid_encoder.data.street.frame import StreetFrame
from hybrid_encoder.data.street.layout import CameraKind
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.demonstration_measures import HeldOut, Report
from hybrid_encoder.training.demonstration_picture import draw_demonstration
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.recipes import COARSE, FINE

SIZE = (64, 208)
CAMERA: CameraKind = "kitti"
NUM_FRAMES = 5  # of a drive
BASELINE = 0.54  # metres between the two views, as in KITTI
LANES = 32  # groups of pixels that the coarse stage reads in a frame
LANGUAGE_LOSS = 0.003
HELD_OUT_SEED = 1_000_000  # far from any seed that is trained on
NUM_HELD_OUT = 24
NUM_SHOWN = 4
NOTES = """\
Made by `hybrid-encoder demo --coarse-steps {coarse_steps} --fine-steps {fine_steps} --drives {drives} --seed {seed}
--save FOLDER`: the tiny preset, {weights}, on {drives} rendered street drives ({height} x {width}, five frames each,
one kind of camera). First the coarse stage: pixels ordered by their rendered depth, by words. Then the fine stage: view
synthesis from the right view of a stereo pair, and the pixel-language loss; no depth label. No real image was seen in
either stage. On {held_out} held-out frames the words put two random pixels in the right order in {start_words:.3f} of
the pairs before the coarse stage, in {coarse_words:.3f} after it, and in {fine_words:.3f} after the fine stage; where
the nearer pixel lies higher in the image, in {start_words_row_wrong:.3f}, {coarse_words_row_wrong:.3f} and
{fine_words_row_wrong:.3f}. A guess is right in 0.5 of either, the image row alone in {row_order:.3f} and 0. The
median-scaled abs_rel of depth went from {coarse_abs_rel:.3f} before the fine stage to {fine_abs_rel:.3f}; a constant
has {constant_abs_rel:.3f}, a plane fitted to each frame {plane_abs_rel:.3f}. Meant for trying things out, not for real
scenes."""


class OrderedStreets(Dataset[OrderedPatches]):
    """Rendered frames with groups of pixels in the order of their exact depth.

    Args:
        drives: frames of each drive, of one size.
        lanes: groups of pixels in a frame.
    """

    rendered = True  # no frame of a known recording is among them, as the weights say later

    def __init__(self, drives: list[list[StreetFrame]], lanes: int = LANES) -> None:
        frames = [frame for drive in drives for frame in drive]
        images = [partial(_image, frame) for frame in frames]
        depths = [partial(_known_depth, frame) for frame in frames]
        height, width = frames[0].image.shape[1:]
        self.items = OrderedDepth(images, depths, (height, width), lanes=lanes, flip=True)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OrderedPatches:
        return self.items[index]


def run_demo(
    output: Path,
    *,
    coarse_steps: int,
    fine_steps: int,
    drives: int,
    seed: int,
    save: Path | None,
    cpu: bool,
    console: Console,
) -> dict[str, float]:
    """Train both stages and show what each of them changed.

    Args:
        output: the PNG file to write.
        coarse_steps, fine_steps: optimizer steps of the stages.
        drives: how many drives to train on, at least 2.
        seed: of the weights, the drives and the data order.
        save: folder for the weights, in half precision; None keeps none.
        cpu: train on the CPU even where there is an accelerator.
        console: where progress is shown.

    Returns:
        What was measured on held-out drives, all finite. For each of ``start``, ``coarse`` and ``fine``, which is
        before training and after each stage: ``start_words`` and ``start_words_row_wrong``, how often the words put
        random pairs of pixels in order, all and those whose row is wrong; ``start_depth`` and
        ``start_depth_row_wrong``, the same for depth; ``start_abs_rel``, of median-scaled depth. The controls:
        ``row_order``, the order of all pairs by the image row alone; ``constant_abs_rel``, and ``plane_abs_rel`` of a
        plane fitted to each frame.

    Raises:
        ConfigError: a number out of its range.
        InputError: a number that was measured is not finite.
        NonFiniteLossError: the training diverged.
    """
    # A step of the coarse stage takes six frames, and a drive has five.
    check_number("drives", drives, 2, 10_000, whole=True)
    check_number("seed", seed, 0, 99, whole=True)
    check_number("coarse_steps", coarse_steps, 1, whole=True)
    check_number("fine_steps", fine_steps, 1, whole=True)
    start = time.monotonic()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    # Random pixels are rarely in one cell, as points of a lane are: the mean over a box would only take time.
    coarse = dataclasses.replace(COARSE["small"], steps=coarse_steps, size=SIZE, sampling="cell")
    fine = dataclasses.replace(FINE["small"], steps=fine_steps, size=SIZE).with_stereo("only")
    seeds = range(seed * 10_000, seed * 10_000 + drives)
    show = partial(track, description="rendering drives", console=console)
    training = render_streets(seeds, NUM_FRAMES, SIZE, show, camera=CAMERA, baseline=BASELINE)
    held_out = HeldOut(range(HELD_OUT_SEED, HELD_OUT_SEED + NUM_HELD_OUT), NUM_FRAMES, SIZE, CAMERA)
    options: dict[str, Any] = {"seed": seed, "cpu": cpu, "save_every": 1_000_000, "console": console}
    report = Report(held_out)
    with tempfile.TemporaryDirectory() as runs:
        set_seed(seed)
        encoder = coarse_encoder("tiny", coarse)
        start_weights = _start_weights(encoder)
        stages = {"start": report.add("start", fine_model(encoder, fine))}
        say(f"coarse stage: {coarse_steps} steps of pixels in the order of depth words")
        set_seed(seed)
        weights = train_coarse(encoder, OrderedStreets(training), Path(runs) / "coarse", coarse, **options)
        model = fine_model(_completed(weights), fine)
        stages["coarse"] = report.add("coarse", model)
        say(f"fine stage: {fine_steps} steps of view synthesis from stereo pairs, without a depth label")
        items = SyntheticSequences(training, fine.neighbours, augment="flip", stereo=True)
        _completed(train_fine(model, items, Path(runs) / "fine", fine, LANGUAGE_LOSS, **options))
        stages["fine"] = report.add("fine", model)
    say(report.text())
    shown = range(0, NUM_HELD_OUT, max(1, NUM_HELD_OUT // NUM_SHOWN))[:NUM_SHOWN]
    write_png(output, draw_demonstration(held_out, stages, shown, report.sentences()))
    if save is not None:
        made_by: dict[str, Any] = {
            "drives": drives,
            "seed": seed,
            "coarse_steps": coarse_steps,
            "fine_steps": fine_steps,
        }
        made_by |= {"height": SIZE[0], "width": SIZE[1], "held_out": NUM_HELD_OUT, "weights": start_weights}
        model.half().save_pretrained(save, notes=NOTES.format(**report.numbers(), **made_by))
        say(f"weights -> {save}")
    say(f"image -> {output} ({time.monotonic() - start:.0f} s in all)")
    return report.numbers()


def _completed(weights: Path | None) -> Path:
    """Return the weights of a run; exit as SIGTERM demands where the run was stopped, since its folder goes away."""
    if weights is None:
        raise SystemExit(128 + signal.SIGTERM)
    return weights


def _start_weights(encoder: HybridDepthEncoder) -> str:
    """Return what the towers start from, for the card of what is saved."""
    clip, dino = encoder.config.semantic, encoder.config.spatial
    random = [tower for tower, pretrained in (("CLIP", clip.pretrained), ("DINO", dino.pretrained)) if not pretrained]
    if len(random) == 2:
        return "from random weights"
    return f"from its pretrained towers{f' ({random[0]} from random weights)' if random else ''}"


def _image(frame: StreetFrame) -> NDArray[np.float32]:
    return frame.image


def _known_depth(frame: StreetFrame) -> NDArray[np.float32]:
    known: NDArray[np.float32] = (frame.depth * frame.valid)[0]
    return known
