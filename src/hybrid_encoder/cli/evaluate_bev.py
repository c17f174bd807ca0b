"""``hybrid-encoder evaluate-bev``: a bird's-eye view against the truth of rendered drives that it has not seen."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hybrid_encoder.cli import _surround
from hybrid_encoder.cli.options import Device, check_file, console, parse_size, pick_device

TITLES = {
    "iou_vehicle": "vehicle IoU",
    "iou_road": "road IoU",
    "miou": "mean IoU",
    "ap": "AP of centres",
    "ap_0.5": "at 0.5 m",
    "ap_1": "at 1 m",
    "ap_2": "at 2 m",
    "ap_4": "at 4 m",
}
NUM_PRIOR = 60  # drives that the constant map is made of


def evaluate_bev_command(
    data: Annotated[Literal["synthetic"], typer.Argument(help="'synthetic': rendered drives with six cameras.")],
    weights: Annotated[str, typer.Option(help="What train-bev has made: a checkpoint folder, or a Hub id.")],
    size: Annotated[
        str, typer.Option(help="HEIGHTxWIDTH of the images; those that the weights were trained on.")
    ] = "64x176",
    drives: Annotated[int, typer.Option(min=1, max=10_000, help="Number of drives to render.")] = 60,
    seed: Annotated[int, typer.Option(help="Which drives; none that a training renders, whatever its seed.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write numbers and settings to this file.")] = None,
    device: Device = "auto",
) -> None:
    """Measure a bird's-eye view: intersection over union of its maps, average precision of the centres of vehicles.

    A map that says the same of every scene, the mean of other drives, is measured beside it.

    hybrid-encoder evaluate-bev synthetic --weights runs/bev/final
    """
    from rich.table import Table

    from hybrid_encoder.bev.model import BevModel
    from hybrid_encoder.training.bev_results import constant_map, evaluate_bev, refuse_seen_seeds
    from hybrid_encoder.writing import write_whole

    _surround.check_seed(seed)
    if json is not None:
        check_file(json, "numbers.json")
    image_size, place = parse_size(size), pick_device(device)
    model = BevModel.from_pretrained(weights).to(place)
    seeds = _surround.drive_seeds(_surround.HELD_OUT, seed, drives)
    known = refuse_seen_seeds(model.training_history, seeds)
    items = _surround.render(seeds, image_size, model.grid, console)
    prior = _surround.render(
        _surround.drive_seeds(_surround.TRAINING, seed, NUM_PRIOR), image_size, model.grid, console
    )
    found = {"model": evaluate_bev(model, items), "constant map": evaluate_bev(constant_map(prior), items)}
    if json is not None:
        settings: dict[str, Any] = {
            "data": data,
            "weights": weights,
            "depth": model.config.depth,
            "size": list(image_size),
        }
        settings |= {"drives": drives, "seed": seed, "frames": len(items), "trained_on_is_known": known}
        told = {**found["model"], "baselines": {"constant map": found["constant map"]}, "settings": settings}
        write_whole(json, (json_format.dumps(told, indent=2) + "\n").encode())
    table = Table("", *found)
    for name, title in TITLES.items():
        table.add_row(title, *(f"{numbers[name]:.3f}" for numbers in found.values()))
    console.print(table)
    unknown = "" if known else "; not all that the weights were trained on is known"
    console.print(f"{len(items)} frames of {drives} drives; depth: {model.config.depth}{unknown}")
