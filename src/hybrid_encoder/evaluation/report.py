"""A report of an evaluation: all its numbers, what they depend on, and its worst and best images to look at."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS
from hybrid_encoder.checkpoints.reading import find_reader
from hybrid_encoder.checkpoints.sources import find_local, find_source
from hybrid_encoder.data.images import write_png
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.evaluating import Compared, compare
from hybrid_encoder.evaluation.parts import mean_parts
from hybrid_encoder.evaluation.pictures import Example, error_map, worst_and_best
from hybrid_encoder.evaluation.predictors import Predictor
from hybrid_encoder.evaluation.protocols import Protocol, find_protocol
from hybrid_encoder.evaluation.results import Evaluation, ImageResult
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.evaluation.tables import all_numbers, images_csv, tables
from hybrid_encoder.writing import written_folder

NUMBERS, IMAGES, TABLE, PICTURE, ERROR_MAPS = "report.json", "images.csv", "table.md", "worst_best.png", "error_maps"
MARK = "hybrid-encoder evaluate"
HASHED = (WEIGHTS, CONFIG, "encoder.pth", "depth.pth")
BLOCK = 1 << 20  # bytes that are hashed at once


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    predictor: Predictor,
    protocol: str | Protocol | None = None,
    *,
    baselines: Sequence[Evaluation] = (),
    about: Mapping[str, Any] | None = None,
    split: str | Path | None = None,
    weights: str | Path | None = None,
    examples: int = 4,
    error_maps: bool = False,
) -> Path:
    """Write a folder with all that an evaluation found, whole or not at all.

    - ``report.json``: the means, by distance and region too, of the predictor and of the baselines, the numbers of
      every image, settings, versions, and the SHA-256 of split and weights;
    - ``images.csv``: the numbers of every image;
    - ``table.md``: the means as tables;
    - ``worst_best.png``: the worst and the best images;
    - ``error_maps/``: |prediction - truth| / truth of every image, if it is asked for.

    Args:
        folder: is made; a report that stands there is replaced.
        evaluation: of ``samples`` by ``predictor``.
        samples, predictor: as they were evaluated. Images that are shown are predicted once more.
        protocol: by which they were; by default the one of the evaluation's name.
        baselines: evaluations of the same samples, from ``evaluate_baselines``.
        about: further entries of ``report.json``, such as what was found of a leak.
        split: file of the list of images; its hash is written down.
        weights: as ``from_pretrained`` takes them; the hashes of their files are written down.
        examples: how many of the worst images to show, and how many of the best.
        error_maps: write one of every image, which predicts all of them once more.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds something that is no report.
        CheckpointError: there are no such weights.
        OSError: it cannot be written.
    """
    folder = check_report_folder(folder)
    protocol = find_protocol(evaluation.protocol if protocol is None else protocol)
    content = report_content(evaluation, baselines)
    content.update(about or {})
    content["sha256"] = {
        "images": hashlib.sha256("\n".join(sample.name for sample in samples).encode()).hexdigest(),
        **({} if split is None else {"split": file_hash(Path(split))}),
        **({} if weights is None else {"weights": weight_hashes(weights)}),
    }

    def compared(sample: Sample) -> Compared:
        options = {name: evaluation.settings[name] for name in ("median_scaling", "factor")}
        return compare(predictor.predict(sample), sample.read_truth(), protocol, name=sample.name, **options)

    with written_folder(folder) as written:
        (written / NUMBERS).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (written / IMAGES).write_text(images_csv(evaluation.images), encoding="utf-8", newline="")
        (written / TABLE).write_text(tables(evaluation, baselines, protocol), encoding="utf-8")
        if shown := _examples(evaluation.images, samples, examples, compared):
            title = f"{evaluation.predictor} by {evaluation.protocol}: {len(samples)} images, "
            title += f"mean abs_rel {evaluation.mean.abs_rel:.3f}"
            write_png(written / PICTURE, worst_and_best(shown, title))
        if error_maps:
            (written / ERROR_MAPS).mkdir()
            for index, sample in enumerate(samples):
                write_png(written / ERROR_MAPS / f"{index:05d}.png", error_map(compared(sample)))
    return folder


def check_report_folder(folder: str | Path) -> Path:
    """Return the folder as a path, if a report may be written there: before the work, not after it.

    Raises:
        InputError: it is a file, or holds something that no report has.
    """
    folder = Path(folder).expanduser()
    if not os.path.lexists(folder):
        return folder
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"{folder} is no folder; give another one for the report.")
    ours = {NUMBERS, IMAGES, TABLE, PICTURE, ERROR_MAPS}
    found = [path for path in folder.iterdir() if path.name not in ours]
    if (folder / ERROR_MAPS).is_dir():
        found += [path for path in (folder / ERROR_MAPS).iterdir() if not _is_error_map(path)]
    if found:
        raise InputError(f"{folder} holds {found[0].name}, which is no part of a report; give an empty or new folder.")
    if any(folder.iterdir()) and not _is_report(folder / NUMBERS):
        raise InputError(f"{folder} is not empty and holds no report; give an empty or new folder.")
    return folder


def _is_error_map(path: Path) -> bool:
    return path.suffix == ".png" and path.stem.isdigit() and path.is_file()


def _is_report(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_bytes())["written_by"] == MARK)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def report_content(evaluation: Evaluation, baselines: Sequence[Evaluation] = ()) -> dict[str, Any]:
    """Return what ``report.json`` says, without the hashes: plain data.

    Args:
        evaluation: of a predictor.
        baselines: on the same images.
    """
    return {
        "written_by": MARK,
        "predictor": evaluation.predictor,
        "protocol": evaluation.protocol,
        "num_images": len(evaluation.images),
        **means(evaluation),
        "baselines": {baseline.predictor: means(baseline) for baseline in baselines},
        "settings": dict(evaluation.settings),
        "versions": {
            "hybrid-encoder": version("hybrid-encoder"),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "pillow": version("pillow"),
            "python": platform.python_version(),
        },
        "images": [
            {
                "name": image.name,
                **all_numbers(image.metrics),
                "scale": image.scale,
                "parts": {name: all_numbers(part) for name, part in image.parts.items()},
                **({} if image.order is None else {"order": image.order.as_dict()}),
            }
            for image in evaluation.images
        ],
    }


def means(evaluation: Evaluation) -> dict[str, Any]:
    """Return the mean metrics of an evaluation, those of its parts, and the order of pairs, as JSON has them."""
    parts = mean_parts(evaluation.images)
    return {
        "mean": all_numbers(evaluation.mean),
        "parts": {name: {**all_numbers(part.metrics), "num_images": part.num_images} for name, part in parts.items()},
        **({} if evaluation.order is None else {"order": evaluation.order.as_dict()}),
    }


def _examples(
    images: Sequence[ImageResult], samples: Sequence[Sample], count: int, compared: Callable[[Sample], Compared]
) -> list[Example]:
    """Return the worst images and then the best, at most ``count`` of each and none twice, from worst to best."""
    order = sorted(range(len(images)), key=lambda index: -images[index].metrics.abs_rel)
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = order[len(worst) :][-count:] if count else []
    labels = [f"worst {place}" for place in range(1, len(worst) + 1)]
    labels += [f"best {place}" for place in range(len(best), 0, -1)]
    return [
        Example(samples[index].name, samples[index].read_image(), compared(samples[index]), label)
        for index, label in zip(worst + best, labels, strict=True)
    ]


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def weight_hashes(weights: str | Path) -> dict[str, str]:
    """Return the SHA-256 of the files that weights are made of, by name.

    Args:
        weights: as ``from_pretrained`` takes them; those of the Hub must have been downloaded.

    Raises:
        CheckpointError: they are not there.
    """
    path = find_local(weights)
    _, place = find_reader(find_source(weights, local_files_only=True) if path is None else path)
    if place.is_file() and place.name not in HASHED:
        return {place.name: file_hash(place)}
    folder = place if place.is_dir() else place.parent
    return {name: file_hash(folder / name) for name in HASHED if (folder / name).is_file()}
