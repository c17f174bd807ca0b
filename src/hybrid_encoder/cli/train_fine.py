"""``hybrid-encoder train-fine``: the fine stage on KITTI raw or on synthetic drives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli.options import OnCpu, check_finite, make_folder
from hybrid_encoder.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from torch.utils.data import Dataset

    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.recipes import FineRecipe


Data = Annotated[str, typer.Argument(help="KITTI raw, the folder of the dates, or 'synthetic'.")]
Encoder = Annotated[
    str, typer.Option(help="A preset, the weights of a coarse stage (ours, or a stage-1 .ckpt file), or a whole model.")
]
Split = Annotated[
    Path | None,
    typer.Option(
        help="Text file with lines <date>/<drive> <frame> <l or r>; by default all frames that have neighbours."
    ),
]
Pose = Annotated[str | None, typer.Option(help="class_token, or the name of a timm backbone for a pose network.")]
Automask = Annotated[bool | None, typer.Option(help="Ignore pixels that an unmoved camera explains better.")]
PosePretrained = Annotated[
    bool | None,
    typer.Option(help="Start that backbone from public weights; by default as the recipe says, with --pretrained."),
]
Prompts = Annotated[
    int | None,
    typer.Option(min=2, help="Replace the prompts by this many learned ones, instead of as the recipe says."),
]
KeepWords = Annotated[bool, typer.Option("--keep-words", help="Keep the coarse stage's words as the prompts.")]
PromptsInit = Annotated[
    Literal["random", "words"] | None, typer.Option(help="What learned prompts that come after words start from.")
]
Jitter = Annotated[
    Literal["per_item", "per_frame"] | None,
    typer.Option(help="Whose colours change alike: an item's frames together, or each frame by itself."),
]
LanguageLoss = Annotated[float, typer.Option(min=0, help="Weight of the pixel-language loss.")]


def train_fine_command(
    context: typer.Context,
    data: Data,
    encoder: Encoder = "paper",
    output: shared.Output = Path("runs/fine"),
    recipe: shared.RecipeOption = None,
    split: Split = None,
    epochs: shared.Epochs = None,
    steps: shared.Steps = None,
    batch_size: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    size: shared.Size = None,
    pose: Pose = None,
    pose_pretrained: PosePretrained = None,
    automask: Automask = None,
    prompts: Prompts = None,
    keep_words: KeepWords = False,
    prompts_init: PromptsInit = None,
    jitter: Jitter = None,
    language_loss: LanguageLoss = 0.0,
    pretrained: shared.Pretrained = True,
    drives: shared.Drives = 60,
    workers: shared.Workers = 0,
    save_every: shared.SaveEvery = 500,
    precision: shared.PrecisionOption = "no",
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    resume_from: shared.ResumeFrom = None,
    cpu: OnCpu = False,
) -> None:
    """Run the fine stage: depth is learned from neighbouring frames alone, without a depth label.

    hybrid-encoder train-fine /data/kitti_raw --encoder runs/coarse/final --split train_files.txt

    hybrid-encoder train-fine synthetic --encoder runs/coarse/final --recipe small --cpu
    """
    from accelerate.utils import set_seed

    from hybrid_encoder.training.fine import fine_model, train_fine
    from hybrid_encoder.training.recipes import FINE

    shared.check_seed(seed, data)
    console = shared.console_of_run(cpu)
    chosen = shared.change_recipe(
        FINE[recipe or shared.fitting_recipe(encoder)],
        context,
        epochs=epochs,
        steps=steps,
        size=size,
        batch_size=batch_size,
        lr=lr,
        lr_scale=None,
        pose=pose,
        pose_pretrained=pose_pretrained if pretrained else bool(pose_pretrained),
        automask=automask,
        prompts_init=prompts_init,
        jitter=jitter,
    )
    if keep_words and prompts is not None:
        raise ConfigError(f"--keep-words and --prompts {prompts} exclude each other; give one of them.")
    if keep_words or prompts is not None:
        chosen = dataclasses.replace(chosen, prompts=prompts)
    check_finite("--language-loss", language_loss)
    # What is quick comes first: files are looked at before weights are read, and drives are rendered after that.
    items = None if data == shared.SYNTHETIC else _open_kitti(data, chosen, split)
    make_folder(output)
    set_seed(seed)
    model = fine_model(encoder, chosen, pretrained, prompts)
    if items is None:
        items = _synthetic_sequences(chosen, drives, seed, console)
    described = {
        "data": data,
        "split": split,
        "encoder": encoder,
        "language_loss": language_loss,
        "drives": drives if data == shared.SYNTHETIC else None,
    }
    loop = {"workers": workers, "save_every": save_every, "precision": precision, "seed": seed, "cpu": cpu}
    options = {"described": described, "resume": resume_from or resume, "console": console, **loop}
    weights = train_fine(model, items, output, chosen, language_loss, **options)
    shared.print_result(console, weights, output)


def _open_kitti(data: str, recipe: FineRecipe, split: Path | None) -> Dataset[Frames]:
    from hybrid_encoder.data.sequences import KittiSequences

    return KittiSequences(
        data, recipe.size, recipe.offsets, split, augment=True, jitter=recipe.jitter, resample=recipe.resample
    )


def _synthetic_sequences(recipe: FineRecipe, num_drives: int, seed: int, console: Console) -> Dataset[Frames]:
    from hybrid_encoder.data.sequences import SyntheticSequences

    rendered = shared.render_training_drives(num_drives, recipe.size, seed, console)
    return SyntheticSequences(rendered, recipe.offsets, augment=True, jitter=recipe.jitter)
