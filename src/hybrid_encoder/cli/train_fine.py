"""``hybrid-encoder train-fine``: the fine stage on recordings of any kind, without a depth label."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli import _items, _recordings
from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli._config import ConfigOption
from hybrid_encoder.cli.options import OnCpu, check_finite, make_folder, refuse_unused
from hybrid_encoder.config.parts import Readout
from hybrid_encoder.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import HybridDepthModel

Encoder = Annotated[
    str, typer.Option(help="A preset, the weights of a coarse stage (ours, or a stage-1 .ckpt file), or a whole model.")
]
Pose = Annotated[
    str | None,
    shared.of_recipe(help="class_token, or the name of a timm backbone for a pose network."),
]
Automask = Annotated[
    bool | None,
    shared.of_recipe(help="Ignore pixels that an unmoved camera explains better."),
]
PosePretrained = Annotated[
    bool | None,
    shared.of_recipe(
        help="Start that backbone from public weights; by default as the recipe says, with --pretrained.",
    ),
]
Prompts = Annotated[
    int | None,
    shared.of_recipe(
        min=2,
        help="Replace the prompts by this many learned ones, instead of as the recipe says.",
    ),
]
ReplacePrompts = Annotated[
    bool,
    # As run.json says it: a recipe's number of prompts alone only follows words.
    shared.of_recipe("--replace-prompts", hidden=True, help="Replace the prompts by the recipe's number of them."),
]
KeepWords = Annotated[
    bool,
    shared.of_recipe("--keep-words", help="Keep the coarse stage's words as the prompts."),
]
PromptsInit = Annotated[
    Literal["random", "words", "fitted"] | None,
    shared.of_recipe(help="What learned prompts that come after words start from; fitted ones keep the words' order."),
]
HowRead = Annotated[
    Readout | None,
    shared.of_recipe(
        help="Compare each map with the prompts by itself, or all four jointly, as the coarse stage taught the words.",
    ),
]
Jitter = Annotated[
    Literal["per_item", "per_frame"] | None,
    shared.of_recipe(
        help="Whose colours change alike: an item's frames together, or each frame by itself.",
    ),
]
LanguageLoss = Annotated[float, shared.of_recipe(min=0, help="Weight of the pixel-language loss.")]
Teacher = Annotated[
    str | None,
    shared.of_recipe(
        help="Weights of a trained depth model, whose disparity is followed up to scale and shift.",
    ),
]
TeacherWeight = Annotated[float | None, shared.of_recipe(min=0, help="Weight of that loss.")]
Stereo = Annotated[
    Literal["no", "add", "only"] | None,
    shared.of_recipe(help="Compare with the right view too, or with it alone; depth is then in metres."),
]
ValidateEvery = Annotated[
    int, shared.of_run(min=0, help="Steps between validations; 0 validates whenever a checkpoint is saved.")
]
Patience = Annotated[
    int, shared.of_run(min=0, help="Validations without a better one after which the run ends; 0 never ends early.")
]
LogWith = Annotated[
    list[str] | None,
    shared.of_run(help="Log to a service that accelerate knows and that is installed, such as wandb; repeatable."),
]


def train_fine_command(
    context: typer.Context,
    data: _recordings.Data,
    encoder: Encoder = "paper",
    output: shared.Output = Path("runs/fine"),
    config_file: ConfigOption = None,
    recipe: shared.RecipeOption = None,
    split: _recordings.Split = None,
    camera_matrix: _recordings.Intrinsics = None,
    fov: _recordings.Fov = None,
    camera: _recordings.Camera = None,
    stereo: Stereo = None,
    every: _recordings.Every = 1,
    step: _recordings.Step = "1",
    keep_still: _recordings.KeepStill = False,
    cache: _recordings.Cache = None,
    drives: shared.Drives = 60,
    world: shared.World = "plain",
    validation: _recordings.Validation = None,
    validate_every: ValidateEvery = 0,
    patience: Patience = 0,
    epochs: shared.Epochs = None,
    steps: shared.Steps = None,
    batch_size: shared.BatchSize = None,
    accumulate: shared.Accumulate = None,
    lr: shared.LearningRate = None,
    lr_scale: shared.LrScale = None,
    ema: shared.Ema = None,
    size: shared.Size = None,
    pretrained: shared.Pretrained = True,
    pose: Pose = None,
    pose_pretrained: PosePretrained = None,
    automask: Automask = None,
    prompts: Prompts = None,
    replace_prompts: ReplacePrompts = False,
    keep_words: KeepWords = False,
    prompts_init: PromptsInit = None,
    readout: HowRead = None,
    jitter: Jitter = None,
    language_loss: LanguageLoss = 0.0,
    teacher: Teacher = None,
    teacher_weight: TeacherWeight = None,
    workers: shared.Workers = None,
    save_every: shared.SaveEvery = 500,
    precision: shared.PrecisionOption = "auto",
    compile: shared.Compile = False,
    checkpoint_activations: shared.CheckpointActivations = False,
    log_with: LogWith = None,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    resume_from: shared.ResumeFrom = None,
    cpu: OnCpu = False,
) -> None:
    """Run the fine stage: depth is learned from neighbouring frames alone, without a depth label.

    hybrid-encoder train-fine drive.mp4 --intrinsics learn --encoder runs/coarse/final

    hybrid-encoder train-fine /data/kitti_raw --encoder runs/coarse/final --split train_files.txt

    hybrid-encoder train-fine synthetic --encoder tiny --no-pretrained --cpu
    """
    from accelerate.utils import set_seed

    from hybrid_encoder.models.pose_network import check_backbone
    from hybrid_encoder.training.fine import fine_model, train_fine
    from hybrid_encoder.training.recipes import FINE
    from hybrid_encoder.training.teaching import Teacher as TaughtBy

    shared.check_seed(seed, shared.SYNTHETIC if shared.SYNTHETIC in data else "")
    console = shared.console_of_run(cpu)
    learn = camera_matrix == _recordings.LEARN
    usual = FINE[recipe or shared.fitting_recipe(encoder)]
    chosen = shared.change_recipe(
        usual if stereo is None or stereo == "no" else usual.with_stereo(stereo),
        context,
        epochs=epochs,
        steps=steps,
        size=size,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        lr_scale=lr_scale,
        ema=ema,
        stereo=stereo,
        intrinsics=None if camera_matrix is None else _recordings.LEARN if learn else "given",
        pose=pose,
        pose_pretrained=pose_pretrained if pretrained else bool(pose_pretrained),
        automask=automask,
        prompts_init=prompts_init,
        readout=readout,
        jitter=jitter,
        teacher_weight=teacher_weight,
    )
    if keep_words and prompts is not None:
        raise ConfigError(f"--keep-words and --prompts {prompts} exclude each other; give one of them.")
    if keep_words or prompts is not None:
        chosen = dataclasses.replace(chosen, prompts=prompts)
    elif replace_prompts:
        prompts = chosen.prompts
    check_finite("--language-loss", language_loss)
    recordings = _recordings.Recordings(
        data,
        split,
        None if learn else camera_matrix,
        fov,
        camera,
        every,
        step,
        keep_still,
        cache,
        validation,
        drives,
        seed,
        world,
    )
    # What is quick comes first: paths are looked at before weights are read, and videos are decoded after that.
    if chosen.pose != "class_token":
        check_backbone(chosen.pose)
    looked = _items.look(recordings, chosen)
    refuse_unused(context, looked.unused if teacher else {**looked.unused, "teacher_weight": "there is no --teacher"})
    make_folder(output)
    set_seed(seed)
    model = fine_model(encoder, chosen, pretrained, prompts)
    chosen = dataclasses.replace(chosen, readout=_own_readout(model, readout))
    taught_by = None if teacher is None else TaughtBy.from_pretrained(teacher)
    items, held_out = _items.open_items(looked, recordings, chosen, console)
    described = {**recordings.described(), "encoder": encoder, "language_loss": language_loss}
    described |= shared.described_start(pretrained)
    if prompts is not None:
        described["replace_prompts"] = True
    asked = {"teacher": teacher, "validate_every": validate_every, "patience": patience}
    described |= {name: value for name, value in asked.items() if value}
    weights = train_fine(
        model,
        items,
        output,
        chosen,
        language_loss,
        teacher=taught_by,
        validation=held_out,
        described=described,
        resume=resume_from or resume,
        console=console,
        workers=workers,
        save_every=save_every,
        validate_every=validate_every,
        patience=patience,
        precision=precision,
        compile=compile,
        checkpoint_activations=checkpoint_activations,
        log_with=log_with or (),
        seed=seed,
        cpu=cpu,
    )
    shared.print_result(console, weights, output)


def _own_readout(model: HybridDepthModel, asked: Readout | None) -> Readout:
    """Return how the model's words are read, the published way without any.

    Raises:
        ConfigError: another way was asked for.
    """
    prompts = model.config.encoder.prompts
    own: Readout = "published" if prompts is None else prompts.readout
    if asked is not None and asked != own:
        reason = (
            "the encoder has no prompts; leave it out."
            if prompts is None
            else f"this is a whole model, whose decoder has learned from the {own} one; leave it out, or give "
            "--prompts, with which the decoder starts anew."
        )
        raise ConfigError(f"--readout is {asked}, and {reason}")
    return own
