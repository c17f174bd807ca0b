"""``hybrid-encoder pretrain-clip`` and ``pretrain-dino``: small foundation models, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli._config import ConfigOption
from hybrid_encoder.cli.options import OnCpu, make_folder
from hybrid_encoder.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_encoder.config import HybridEncoderConfig
    from hybrid_encoder.data.street.frame import StreetFrame

FRAMES = 2  # of a drive: different streets teach more than a street seen again
HELD_OUT = shared.NUM_RENDERED_SEEDS * shared.SEEDS_PER_RUN  # the first seed that no run trains on
NUM_HELD_OUT = {"clip": 32, "dino": 96}  # drives: probes of the DINO are fitted on half of them, and need more

Preset = Annotated[str, typer.Option(help="The preset whose tower is trained; its sizes are those of the weights.")]
Drives = Annotated[int, shared.of_data(min=1, max=shared.SEEDS_PER_RUN, help="Number of streets to render.")]


def pretrain_clip_command(
    context: typer.Context,
    encoder: Preset = "tiny",
    output: shared.Output = Path("runs/clip"),
    shuffle_captions: Annotated[
        bool,
        shared.of_recipe("--shuffle-captions", help="Permute the captions of every batch: the control."),
    ] = False,
    drives: Drives = 400,
    steps: shared.Steps = None,
    batch_size: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    size: shared.Size = None,
    workers: shared.Workers = None,
    save_every: shared.SaveEvery = 500,
    precision: shared.PrecisionOption = "auto",
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    resume_from: shared.ResumeFrom = None,
    cpu: OnCpu = False,
    config_file: ConfigOption = None,
) -> None:
    """Train a small CLIP on rendered streets and sentences about their parts, from random weights.

    hybrid-encoder pretrain-clip --output runs/clip --cpu
    """
    from hybrid_encoder.pretraining.recipes import CLIP
    from hybrid_encoder.pretraining.running import pretrain_clip

    changes: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "shuffle_captions": shuffle_captions or None}
    recipe = shared.change_recipe(CLIP, context, epochs=None, steps=steps, size=size, lr_scale=None, **changes)
    config, console = _prepared(encoder, seed, cpu, output)
    trained, held_out = _streets(drives, recipe.size, seed, console), _held_out("clip", recipe.size)
    options = {"workers": workers, "save_every": save_every, "precision": precision, "seed": seed, "cpu": cpu}
    described = {"encoder": encoder, "drives": drives}
    weights = pretrain_clip(
        config.semantic,
        trained,
        held_out,
        output,
        recipe,
        described=described,
        resume=resume_from or resume,
        console=console,
        **options,
    )
    shared.print_result(console, weights, output)


def pretrain_dino_command(
    context: typer.Context,
    encoder: Preset = "tiny",
    output: shared.Output = Path("runs/dino"),
    images: Annotated[
        Path | None, shared.of_data(help="Folder of pictures to learn from as well, in any folders below it.")
    ] = None,
    drives: Drives = 1500,
    steps: shared.Steps = None,
    batch_size: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    size: shared.Size = None,
    patch_weight: Annotated[
        float | None, shared.of_recipe(help="Weight of the loss on hidden patches (iBOT); 0 is DINO alone.")
    ] = None,
    workers: shared.Workers = None,
    save_every: shared.SaveEvery = 500,
    precision: shared.PrecisionOption = "auto",
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    resume_from: shared.ResumeFrom = None,
    cpu: OnCpu = False,
    config_file: ConfigOption = None,
) -> None:
    """Train a small DINO by self-distillation on rendered streets, and on pictures of yours, from random weights.

    hybrid-encoder pretrain-dino --images /data/pictures --output runs/dino --cpu
    """
    from hybrid_encoder.pretraining.recipes import DINO
    from hybrid_encoder.pretraining.running import pretrain_dino

    changes: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "patch_weight": patch_weight}
    recipe = shared.change_recipe(DINO, context, epochs=None, steps=steps, size=size, lr_scale=None, **changes)
    pictures = [] if images is None else _pictures(images, recipe.size)
    config, console = _prepared(encoder, seed, cpu, output)
    rendered, held_out = _images(drives, recipe.size, seed, console), _held_out("dino", recipe.size)
    options = {"workers": workers, "save_every": save_every, "precision": precision, "seed": seed, "cpu": cpu}
    described = {"encoder": encoder, "drives": drives, "images": images, "pictures": len(pictures)}
    weights = pretrain_dino(
        config.spatial,
        rendered,
        held_out,
        output,
        recipe,
        pictures=pictures,
        described=described,
        resume=resume_from or resume,
        console=console,
        **options,
    )
    shared.print_result(console, weights, output)


def _prepared(encoder: str, seed: int, cpu: bool, output: Path) -> tuple[HybridEncoderConfig, Console]:
    """Return the configuration and the console of a run, whose folder is made."""
    from hybrid_encoder.config import PRESETS

    shared.check_seed(seed, shared.SYNTHETIC)
    if encoder not in PRESETS:
        raise ConfigError(f"--encoder is {encoder!r}; it must be a preset: {', '.join(PRESETS)}.")
    console = shared.console_of_run(cpu)
    make_folder(output)
    return PRESETS[encoder].encoder, console


def _streets(drives: int, size: tuple[int, int], seed: int, console: Console) -> Sequence[Sequence[StreetFrame]]:
    """Render the streets to train on."""
    from hybrid_encoder.data.street.drive import render_streets

    first = shared.SEEDS_PER_RUN * seed
    return render_streets(range(first, first + drives), FRAMES, size, _shown(console))


def _images(drives: int, size: tuple[int, int], seed: int, console: Console) -> list[Any]:
    """Render the streets to train on, and keep their images as bytes: thousands of whole frames would need GBs."""
    from hybrid_encoder.data.street.drive import render_streets

    first, found = shared.SEEDS_PER_RUN * seed, []
    for number in _shown(console)(range(first, first + drives)):
        (drive,) = render_streets([number], FRAMES, size)
        found += [(255 * frame.image).round().astype("uint8") for frame in drive]
    return found


def _held_out(kind: Literal["clip", "dino"], size: tuple[int, int]) -> Sequence[Sequence[StreetFrame]]:
    """Render the streets to measure on."""
    from hybrid_encoder.data.street.drive import render_streets

    return render_streets(range(HELD_OUT, HELD_OUT + NUM_HELD_OUT[kind]), FRAMES, size)


def _shown(console: Console) -> Any:
    from rich.progress import track

    return partial(track, description="rendering drives", console=console)


def _pictures(folder: Path, size: tuple[int, int]) -> list[Any]:
    """Read the pictures of a folder as bytes, each just large enough to cover the size of the rendered frames.

    Raises:
        InputError: no such folder, no picture in it, or one that cannot be read.
    """
    from hybrid_encoder.data.finding import find_files
    from hybrid_encoder.data.images import read_image
    from hybrid_encoder.data.transforms import resize_images

    if not folder.is_dir():
        raise InputError(f"--images is {folder}, which is no folder; give a folder of pictures.")
    found = []
    for file, _ in find_files([str(folder)]):
        image = read_image(file)
        sides = image.shape[-2:]
        scale = max(wanted / side for wanted, side in zip(size, sides, strict=True))
        height, width = (max(wanted, round(side * scale)) for wanted, side in zip(size, sides, strict=True))
        found.append((255 * resize_images(image[None], (height, width))[0]).round().byte())
    return found
