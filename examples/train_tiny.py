"""How the weights `tiny` in the package were made: both stages on rendered streets, and nothing else.

python examples/train_tiny.py --drives 20 --coarse-steps 2 --steps 2

That little only shows that it runs. Without these numbers it takes about an hour on one core.

What the small recipes train sees depth in drives like its own. To be of some use on photographs, weights need more
variety, and that is where this script differs from them: every picture is of another street, most were taken by another
camera; pictures have three aspects; their colours, light, sharpness and noise change much. In the fine stage, views of
two cameras are compared as the method does it, and the depth that the renderer knows is a label beside that.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms import v2

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderError
from hybrid_encoder.data.frames import Frames
from hybrid_encoder.data.ordered import OrderedDepth
from hybrid_encoder.data.street import StreetDrive
from hybrid_encoder.data.synthetic import SyntheticDrive
from hybrid_encoder.errors import InputError
from hybrid_encoder.losses.distillation import mean_gradient
from hybrid_encoder.training.averaging import AveragedWeights
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.fine import fine_model, fine_stage
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.recipes import COARSE, FINE, CoarseRecipe, FineRecipe

SIZES = ((96, 320), (126, 238), (154, 196))  # about as many pixels at the aspects of KITTI, of video and of photographs
SHARES = (0.5, 0.25, 0.25)
PLAIN_SHARE = 0.2  # of the pictures: streets of the simpler kind, which examples, tests and the bird's-eye view use
KITTI_SHARE = 0.3  # of the other wide ones: taken by a camera like KITTI's; the rest by one drawn at random
FIRST_SEED = 70_000
BASELINE = 0.3  # metres to the second camera
BATCH_SIZE, RATE, DECAY, LANGUAGE = 8, 2e-3, 0.998, 0.003  # weights are averaged; LANGUAGE: weight of that loss
NEAREST, FARTHEST = 0.5, 80.0  # metres; what is farther counts as sky

NOTES = """Made by `python examples/train_tiny.py {made_by}`:
the tiny preset, whose CLIP starts from the small one in the package and whose DINO starts from random weights, on that
many rendered streets, one frame of each, most of them seen by a camera whose height, pitch, roll and focal length are
drawn at random. First the coarse stage: pixels in the order of the depth that the renderer knows, by words. Then the
fine stage: view synthesis from a second camera, the pixel-language loss{labels}.
No real image was seen."""

LOOKS = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.6, hue=0.08)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], 0.4),
        v2.RandomApply([v2.GaussianNoise(sigma=0.03)], 0.4),
    ]
)


class Street(NamedTuple):
    """One frame: what two cameras saw of it, and how far it is; images as bytes, lest hundreds of drives need GBs."""

    image: Tensor  # (3, H, W), uint8
    right: Tensor  # (3, H, W), uint8
    depth: Tensor  # (1, H, W), metres, 0 for the sky
    K: Tensor  # (3, 3)


def render(seed: int, choose: random.Random) -> Street:
    """Render one frame of a drive of its own."""
    size = choose.choices(SIZES, SHARES)[0]
    plain, kitti = choose.random() < PLAIN_SHARE, size == SIZES[0] and choose.random() < KITTI_SHARE
    if plain:
        frame = SyntheticDrive(seed, 1, *size, baseline=BASELINE)[0]
    else:
        frame = StreetDrive(seed, 1, *size, camera="kitti" if kitti else "random", baseline=BASELINE)[0]
    image, right = ((torch.from_numpy(x) * 255).round().byte() for x in (frame.image, frame.right))
    return Street(image, right, torch.from_numpy(frame.depth * frame.valid), torch.from_numpy(frame.K))


def change_looks(images: Tensor) -> Tensor:
    """Change colours, sharpness and noise of RGB in [0, 1], (B, 3, H, W), and light them unevenly, each at random."""
    changed = []
    for image in images:
        image = LOOKS(image)
        if torch.rand(()) < 0.5:
            image = image.clamp_min(1e-4) ** torch.empty(()).uniform_(0.6, 1.6)
        if torch.rand(()) < 0.5:
            light = torch.empty(1, 1, 2, 2).uniform_(0.5, 1.5)
            image = image * F.interpolate(light, image.shape[-2:], mode="bilinear", align_corners=True)[0]
        changed.append(image.clamp(0, 1))
    return torch.stack(changed)


def draw_batch(streets: dict[tuple[int, int], list[Street]], choose: random.Random) -> tuple[Frames, Tensor]:
    """Return a batch of one size, mirrored in half of the cases, and its depth, (B, 1, H, W)."""
    size = choose.choices(list(streets), [len(found) for found in streets.values()])[0]
    chosen = choose.choices(streets[size], k=BATCH_SIZE)
    left, right = (torch.stack(x).float() / 255 for x in ([s.image for s in chosen], [s.right for s in chosen]))
    depth, K = torch.stack([s.depth for s in chosen]), torch.stack([s.K for s in chosen])
    baseline = torch.full((BATCH_SIZE,), BASELINE)
    if mirrored := choose.random() < 0.5:
        left, right, depth, baseline = left.flip(-1), right.flip(-1), depth.flip(-1), -baseline
        K[:, 0, 2] = size[1] - 1 - K[:, 0, 2]
    images, seen = torch.stack([left, right], 1), torch.stack([change_looks(left), right], 1)
    return Frames(images, seen, K, "a rendered street", 0, mirrored, baseline), depth  # type: ignore[arg-type]


def label_loss(depth: Tensor, truth: Tensor) -> Tensor:
    """Return how far the logarithm of depth is from the truth, mostly once each image's own scale is taken away.

    The scale is worth less, since no picture tells how large its camera's world is. Steps of the error from pixel to
    pixel count, too, at three sizes of the map, as in MiDaS (Ranftl et al., TPAMI 2020).

    Args:
        depth: (B, 1, h, w), metres.
        truth: (B, 1, H, W), metres, 0 for the sky, of which is only asked not to be near.
    """
    truth = F.interpolate(truth, depth.shape[-2:], mode="nearest")
    sky = truth == 0
    error = depth.clamp(NEAREST, 100).log() - truth.clamp(NEAREST, FARTHEST).log()
    of_sky = depth.clamp(NEAREST, FARTHEST).log() - torch.tensor(FARTHEST).log()
    scales = [(e[~s].median() if (~s).any() else e.sum() * 0) for e, s in zip(error, sky, strict=True)]
    scaled = error - torch.stack(scales).view(-1, 1, 1, 1)
    loss = torch.where(sky, of_sky, scaled).abs().mean() + 0.2 * torch.where(sky, of_sky, error).abs().mean()
    known = torch.where(sky, 0, error)
    for step in (1, 2, 4):
        loss = loss + 0.3 * mean_gradient(known[..., ::step, ::step])
    return loss


def learn_words(streets: Sequence[Street], folder: Path, recipe: CoarseRecipe, seed: int) -> Path:
    """Run the coarse stage on pictures of one size, and return its weights."""
    images = [lambda s=s: (s.image / 255).numpy() for s in streets]
    depths = [lambda s=s: s.depth[0].numpy() for s in streets]
    items = OrderedDepth(images, depths, recipe.size, lanes=32, flip=True)
    with torch.random.fork_rng(devices=[]):
        config, console = coarse_encoder("tiny", recipe, pretrained=False).config, Console()
    # The weights in the package were made before there was a small DINO to start from.
    encoder = HybridDepthEncoder(config.replace(spatial=config.spatial.without_weights()))
    weights = train_coarse(encoder, items, folder, recipe, seed=seed, workers=0, console=console)
    if weights is None:
        raise SystemExit(f"stopped before the end; remove {folder} and start again.")
    return weights


def learn_depth(
    words: Path, streets: dict[tuple[int, int], list[Street]], recipe: FineRecipe, label_weight: float, seed: int
) -> HybridDepthModel:
    """Run the fine stage from the weights of the coarse one, and return the model with averaged weights."""
    model, steps = fine_model(words, recipe), recipe.steps
    stage = fine_stage(model, recipe, language_loss=LANGUAGE)
    averages, choose = AveragedWeights(model, DECAY), random.Random(seed)
    optimizer = torch.optim.AdamW(stage.parameter_groups(recipe.lr), recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, pct_start=0.1
    )
    stage.train()
    for _ in track(range(steps), "fine stage"):
        batch, truth = draw_batch(streets, choose)
        prediction = stage.predict(batch)
        loss = stage.losses(batch, prediction)["loss"]
        if label_weight:
            finest = prediction.disparities[min(prediction.disparities)]
            loss = loss + label_weight * label_loss(model.to_depth(finest), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averages.update()
    averages.exchange()
    # Cameras are drawn at random, and no picture tells which: depth is known up to its scale.
    model.config = model.config.replace(size=recipe.size, metric=False)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/tiny"), help="a new or an empty folder")
    parser.add_argument("--drives", type=int, default=1500, help="streets, of which one frame each is rendered")
    parser.add_argument("--coarse-steps", type=int, default=400, help="optimizer steps of the coarse stage")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of the fine stage")
    parser.add_argument("--label-weight", type=float, default=0.1, help="weight of the renderer's depth; 0: no label")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, and of what is drawn")
    options = parser.parse_args()
    if options.output.exists() and any(options.output.iterdir()):
        raise InputError(f"--output is {options.output}, which holds something already; name a new folder.")
    check_number("--label-weight", options.label_weight, 0)
    coarse = dataclasses.replace(COARSE["small"], steps=options.coarse_steps, size=SIZES[0], jitter=True)
    fine = dataclasses.replace(FINE["small"].with_stereo("only"), steps=options.steps, lr=RATE, size=SIZES[0])
    set_seed(options.seed)
    choose, seeds = random.Random(options.seed), range(FIRST_SEED, FIRST_SEED + options.drives)
    streets: dict[tuple[int, int], list[Street]] = {size: [] for size in SIZES}
    for seed in track(seeds, "rendering streets"):
        street = render(seed, choose)
        streets[street.image.shape[1], street.image.shape[2]].append(street)
    words = learn_words(streets[SIZES[0]], options.output / "coarse", coarse, options.seed)
    set_seed(options.seed)
    model = learn_depth(words, streets, fine, options.label_weight, options.seed)
    training = {"stage": "train_tiny", "drives": {}, "offsets": [], "known": True, "seeds": list(seeds)}
    model.training_history = [training]
    made_by = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in vars(options).items() if name != "output"
    )
    labels = " and, as a label, the depth that the renderer knows" if options.label_weight else " and no depth label"
    model.half().save_pretrained(options.output / "final", notes=NOTES.format(made_by=made_by, labels=labels))
    print(f"weights -> {options.output / 'final'}")


if __name__ == "__main__":
    try:
        main()
    except (HybridEncoderError, OSError) as error:  # a setting that cannot be, a full disk: one sentence is enough
        sys.exit(f"error: {error}")
