"""What ``train-coarse`` and ``train-fine`` have in common."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from hybrid_encoder.cli._config import from_file
from hybrid_encoder.cli.options import check_finite, parse_size
from hybrid_encoder.cli.terminal import PlainConsole
from hybrid_encoder.errors import ConfigError, InputError, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_encoder.data.synthetic.drive import SyntheticFrame
    from hybrid_encoder.training.stage_recipe import StageRecipe

R = TypeVar("R", bound="StageRecipe")
SYNTHETIC = "synthetic"
NUM_FRAMES = 5  # of a synthetic drive
BASELINE = 0.54  # metres, about KITTI's
SEEDS_PER_RUN = 10_000  # runs with different seeds render different drives
NUM_SEEDS = 2**32  # numpy takes no larger seed
MAX_WORKERS = 256  # each holds a copy of the data set's memory
NUM_RENDERED_SEEDS = 100_000  # those of synthetic drives, each with drives of its own

# Options under their heading in the help.
of_data, of_recipe, of_run = (partial(typer.Option, rich_help_panel=name) for name in ("Data", "Recipe", "Run"))

RecipeName = Literal["published", "small"]
WorldName = Literal["plain", "street"]
Precision = Literal["auto", "no", "bf16", "fp16"]

Output = Annotated[Path, typer.Option(help="Folder of the run; the weights are saved into its 'final'.")]
RecipeOption = Annotated[
    RecipeName | None,
    of_recipe(
        help="published, or small: a short one for the preset tiny, not for the preset small. By default what fits."
    ),
]
Epochs = Annotated[int | None, of_recipe(min=1, help="Passes over the data, instead of the recipe's.")]
Steps = Annotated[int | None, of_recipe(min=1, help="Optimizer steps, instead of the recipe's.")]
BatchSize = Annotated[int | None, of_recipe(min=1, help="Items in a step, for each process.")]
LearningRate = Annotated[float | None, of_recipe(help="Learning rate, instead of the recipe's.")]
Size = Annotated[str | None, of_recipe(help="HEIGHTxWIDTH of the images, instead of the recipe's.")]
Pretrained = Annotated[bool, of_recipe(help="Start the towers of a preset from the weights that it names.")]
Drives = Annotated[
    int,
    of_data(min=1, max=SEEDS_PER_RUN, help="Number of drives to render for 'synthetic'."),
]
World = Annotated[
    WorldName,
    of_data(help="Streets of 'synthetic': plain, or varied ones (curves, slopes, traffic, weather) by any camera."),
]
LrScale = Annotated[
    list[str] | None,
    of_recipe(
        metavar="PART=FACTOR",
        help="Factor on the learning rate of a part, such as spatial=0.1; repeatable.",
    ),
]
Accumulate = Annotated[
    int | None,
    of_recipe(min=1, help="Batches whose gradients make one step, for a larger batch in less memory."),
]
Ema = Annotated[
    float | None,
    of_recipe(
        min=0,
        max=1,
        help="Keep a moving average of the weights with this decay, such as 0.999.",
    ),
]
Compile = Annotated[
    bool,
    of_run("--compile", help="Compile the model (torch.compile) before the first step."),
]
CheckpointActivations = Annotated[
    bool,
    of_run(
        "--checkpoint-activations",
        help="Compute activations again in the backward pass: slower, with less memory.",
    ),
]
Workers = Annotated[
    int | None,
    of_run(
        min=0,
        max=MAX_WORKERS,
        help="Processes that load data; 0 loads in the training process.",
        show_default="several",
    ),
]
SaveEvery = Annotated[int, of_run(min=1, help="Steps between checkpoints.")]
PrecisionOption = Annotated[
    Precision,
    of_run(help="Precision of the forward pass; auto is bf16 where the accelerator has it, else full."),
]
Seed = Annotated[
    int,
    of_run(
        help="Random seed of the weights, the synthetic drives, the data order and the augmentation.",
    ),
]
Resume = Annotated[bool, of_run("--resume", help="Continue exactly from the newest checkpoint.")]
ResumeFrom = Annotated[
    str | None,
    of_run(help="Continue from this checkpoint, such as step_00000500; newer ones are set aside."),
]


ONLY_RENDERED = "they are rendered for 'synthetic' alone"  # why an option of drives would change nothing


def check_seed(seed: int, data: str) -> None:
    """Raise ConfigError unless random numbers, and drives where these are rendered, exist for this seed."""
    num_seeds = NUM_RENDERED_SEEDS if data == SYNTHETIC else NUM_SEEDS
    if not 0 <= seed < num_seeds:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to {num_seeds - 1}.")


def console_of_run(cpu: bool) -> Console:
    """Return the console of a training run: of several processes, only one prints."""
    from hybrid_encoder.training.parallel import process_state

    return PlainConsole(quiet=not process_state(cpu).is_main_process)


def fitting_recipe(encoder: str) -> RecipeName:
    """Return the recipe for towers of this encoder's size."""
    from hybrid_encoder.checkpoints.files import CONFIG
    from hybrid_encoder.checkpoints.reading import read_config
    from hybrid_encoder.config import PRESETS, find_encoder_config

    if encoder in PRESETS or not (Path(encoder) / CONFIG).is_file():
        return "small" if encoder == "tiny" else "published"
    spatial = find_encoder_config(read_config(Path(encoder))).spatial.without_weights()
    return "small" if spatial == PRESETS["tiny"].encoder.spatial.without_weights() else "published"


def change_recipe(
    recipe: R,
    context: typer.Context,
    *,
    epochs: int | None,
    steps: int | None,
    size: str | None,
    lr_scale: Sequence[str] | None,
    **changes: Any,
) -> R:
    """Return the recipe with the settings of ``--config``, and then the options that were given, in place of its own.

    Epochs without steps decide the length.
    """
    check_finite("--lr", changes.get("lr"))
    if epochs and not steps:
        steps = 0
    changes |= {"epochs": epochs, "steps": steps, "size": None if size is None else parse_size(size)}
    changes["lr_scale"] = parse_factors(lr_scale) if lr_scale else None
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(from_file(context, recipe), **given)


def described_start(pretrained: bool) -> dict[str, Any]:
    """Return what ``run.json`` says of ``--no-pretrained``; nothing where a preset starts from public weights."""
    return {} if pretrained else {"pretrained": False}


def parse_factors(texts: Sequence[str]) -> dict[str, float]:
    """Return factors by part, from texts such as ``spatial=0.1``.

    Raises:
        InputError: another form, a factor that is no number from 0 up, or a part that comes twice.
    """
    factors: dict[str, float] = {}
    for text in texts:
        part, _, number = text.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not part or not 0 <= factor < math.inf or part in factors:
            raise InputError(
                f"--lr-scale is {shortened(repr(text), 80)}; give each part once with a factor from 0 up, such as "
                "spatial=0.1."
            )
        factors[part] = factor
    return factors


def render_training_drives(
    num_drives: int,
    size: tuple[int, int],
    seed: int,
    console: Console,
    stereo: bool = False,
    world: WorldName = "plain",
) -> Sequence[Sequence[SyntheticFrame]]:
    """Render the synthetic drives of a run, with a right view for stereo; another seed gives others."""
    from rich.progress import track

    from hybrid_encoder.data.street.drive import render_streets
    from hybrid_encoder.data.synthetic.drive import render_drives

    first = SEEDS_PER_RUN * seed
    show = partial(track, description="rendering drives", console=console)
    render = render_streets if world == "street" else render_drives
    return render(range(first, first + num_drives), NUM_FRAMES, size, show, baseline=BASELINE if stereo else None)


def print_result(console: Console, weights: Path | None, output: Path) -> None:
    """Say where the weights are, or how to continue a run that was stopped."""
    if weights is None:
        console.print(f"stopped; run the same command with --resume to continue from {output}")
    else:
        console.print(f"weights -> {weights}")
