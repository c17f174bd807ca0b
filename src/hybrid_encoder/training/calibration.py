"""What learned intrinsics are worth: the numbers of each camera, and whether its frames could tell them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.cache import as_recorded
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.photometric import reprojection_loss
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.training.composition import parts_of
from hybrid_encoder.training.fine_motion import shrink
from hybrid_encoder.training.view_synthesis import FineStage
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames

FILE = "intrinsics.json"  # beside the weights
WAIT = 0.25  # share of all steps, until depth has taken shape
EXAMINED, FEWEST = 128, 16  # items in all, and of each camera
FITTED = 32  # items of a camera, those that turn most
BATCH = 4
TOLERANCE = 0.1  # largest relative error of a focal length that counts as told
BLUR = 0.5  # pixels by which a view may be wrong unseen
CHANGE = 1.15  # factor on the focal length, by which views must become worse
LEVELS, STEPS = (1, 2, 3), 10  # of alignment, after such a change
CERTAIN = 2.0  # standard errors


@dataclass(frozen=True)
class CameraStart:
    """A camera before training: its name, the size (H, W) of its images and its intrinsics in pixels of these."""

    name: str
    size: tuple[int, int]
    K: Tensor


@dataclass(frozen=True)
class Calibration:
    """The learned intrinsics of one camera.

    Args:
        name: of the camera.
        size: (H, W) of its images as they were recorded.
        fx, fy, cx, cy: in pixels of these images; pixel centres are at integers.
        start: the same four numbers before training.
        told: whether the frames tell the focal length; where not, it is anywhere near where it started.
        why: a sentence on that, with what to do about it.
    """

    name: str
    size: tuple[int, int]
    fx: float
    fy: float
    cx: float
    cy: float
    start: tuple[float, float, float, float]
    told: bool
    why: str

    def __str__(self) -> str:
        verdict = "told by its turns" if self.told else "NOT told"
        numbers = f"fx {self.fx:.1f}, fy {self.fy:.1f}, cx {self.cx:.1f}, cy {self.cy:.1f}"
        return f"{self.name} ({self.size[0]} x {self.size[1]}): {numbers}; {verdict}: {self.why}"


def learned_intrinsics(items: Dataset[Frames], num_batches: int) -> LearnedIntrinsics:
    """Return intrinsics to be learned, one set for each camera of a data set; they wait for depth to take shape.

    Args:
        items: ``SourceSequences``, or a subset of it.
        num_batches: of the whole training.

    Raises:
        ConfigError: data of another kind, which does not say what cameras it has.
    """
    return LearnedIntrinsics([start.name for start in camera_starts(items)], wait=round(WAIT * num_batches))


def rate_to_double(num_steps: int, lr: float) -> float:
    """Return the factor on a learning rate with which a focal length can double or halve within the steps of a run."""
    # Adam moves by less than the rate where gradients vary, most of a schedule is below its peak, and the start waits.
    return min(4 / num_steps, 0.05) / lr


def camera_starts(items: Dataset[Frames]) -> list[CameraStart]:
    """Return the cameras of a data set in the order of ``Frames.camera``.

    Raises:
        ConfigError: data of another kind than ``SourceSequences``.
    """
    parts = parts_of(items)
    whole = parts[0].items if len(parts) == 1 else items
    if not isinstance(whole, SourceSequences):
        raise ConfigError(
            f"intrinsics cannot be learned from {type(whole).__name__}, which does not number its cameras; put all "
            "recordings into one SourceSequences, or give their intrinsics."
        )
    found: dict[str, CameraStart] = {}
    for source in whole.sources:
        name, recorded = source.camera or source.name, as_recorded(source)
        found.setdefault(name, CameraStart(name, recorded.size, torch.as_tensor(recorded.K).float()))
    return [found[name] for name in whole.cameras]


def calibrations(stage: FineStage, items: Dataset[Frames]) -> list[Calibration]:
    """Return the learned intrinsics of each camera after training, and whether its frames could tell them.

    Args:
        stage: trained, with intrinsics.
        items: what it was trained on.
    """
    assert stage.intrinsics is not None  # the caller has asked for them
    modes = [(module, module.training) for module in stage.modules()]
    stage.eval()
    found = []
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # of the items' augmentation
        turns = _turns(stage, items)
        for number, start in enumerate(camera_starts(items)):
            told, why = _judged(stage, items, turns.get(number, []))
            learned, before = (_four(K) for K in (stage.intrinsics.estimate(number, start.K), start.K))
            found.append(Calibration(start.name, start.size, *learned, start=before, told=told, why=why))
    for module, mode in modes:
        module.training = mode
    return found


def save_calibrations(found: Sequence[Calibration], folder: Path) -> None:
    """Write learned intrinsics as JSON, ``intrinsics.json`` in a folder: a list with one entry for each camera."""
    write_whole(folder / FILE, (json.dumps([asdict(one) for one in found], indent=2) + "\n").encode())


def read_calibrations(folder: Path) -> list[Calibration]:
    """Return what :func:`save_calibrations` has written to a folder; nothing where intrinsics were not learned."""
    if not (folder / FILE).is_file():
        return []
    found = json.loads((folder / FILE).read_text())
    return [Calibration(**one | {"size": tuple(one["size"]), "start": tuple(one["start"])}) for one in found]


def rotation_tolerance(K: Tensor, motion: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the relative error of the focal length that a rotation lets pass unseen.

    As in Gordon et al., "Depth from Videos in the Wild", ICCV 2019: with the focal length f, an image w wide and a
    rotation r about the vertical axis, an error of 2 f^2 / (w^2 r) moves no pixel by more than one, once the rotation
    makes up for the rest. Here half a pixel, and the better of both axes.

    Args:
        K: (..., 3, 3), in pixels of the images.
        motion: (..., 4, 4), or rotations (..., 3, 3).
        size: (H, W) of the images.

    Returns:
        (...); infinite without rotation.
    """
    pitch = (motion[..., 2, 1] - motion[..., 1, 2]).abs() / 2
    yaw = (motion[..., 0, 2] - motion[..., 2, 0]).abs() / 2
    height, width = size
    return 2 * BLUR / torch.maximum(width**2 * yaw / K[..., 0, 0], height**2 * pitch / K[..., 1, 1])


def _four(K: Tensor) -> tuple[float, float, float, float]:
    return K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()


def _batch(stage: FineStage, items: Dataset[Frames], indices: Sequence[int]) -> Frames:
    batch: Any = default_collate([items[index] for index in indices])
    device = next(stage.parameters()).device
    moved: Frames = type(batch)(*(value.to(device) if isinstance(value, Tensor) else value for value in batch))
    return moved


def _turns(stage: FineStage, items: Dataset[Frames]) -> dict[int, list[tuple[float, float, int]]]:
    """Return, for each camera, the tolerance, the rotation in degrees and the number of items across the data set."""
    count: int = len(items)  # type: ignore[arg-type]
    assert stage.intrinsics is not None
    examined = min(count, max(EXAMINED, FEWEST * len(stage.intrinsics.cameras)))
    chosen = [index * count // examined for index in range(examined)]
    found: dict[int, list[tuple[float, float, int]]] = {}
    for first in range(0, examined, BATCH):
        indices = chosen[first : first + BATCH]
        batch = _batch(stage, items, indices)
        prediction = stage.predict(batch)
        motions = prediction.motions[:, : len(stage.offsets)]
        size = (batch.images.shape[-2], batch.images.shape[-1])
        tolerances, widest = rotation_tolerance(prediction.K[:, None], motions, size).min(1)
        rotations = motions[torch.arange(len(motions)), widest, :3, :3]
        cosines = (rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
        degrees = cosines.clamp(-1, 1).acos().rad2deg()
        cameras: list[int] = batch.camera.tolist()  # type: ignore[attr-defined]  # a tensor in a batch
        rows = zip(tolerances.tolist(), degrees.tolist(), indices, strict=True)
        for camera, row in zip(cameras, rows, strict=True):
            found.setdefault(camera, []).append(row)
    return found


def _judged(stage: FineStage, items: Dataset[Frames], turns: list[tuple[float, float, int]]) -> tuple[bool, str]:
    """Return whether frames of one camera tell its focal length, and a sentence on that."""
    advice = "add a recording with turns, or give the intrinsics or the field of view"
    if not turns:
        return False, f"none of its frames was among those examined; {advice}."
    turns = sorted(turns)
    tolerance, degrees, _ = turns[len(turns) // 20]  # not the very best one, which may be a wrong motion
    turned = f"between neighbouring frames the camera turns by {degrees:.1f} degrees"
    if not tolerance <= TOLERANCE:
        amount = f"{100 * tolerance:.0f} %" if math.isfinite(tolerance) else "any amount"
        return False, (
            f"{turned} at most, so that a focal length wrong by {amount} shows the same, where {100 * TOLERANCE:.0f} % "
            f"is the limit: {advice}."
        )
    errors = torch.cat([
        _errors(stage, _batch(stage, items, [index for *_, index in turns[first : first + BATCH]]))
        for first in range(0, min(FITTED, len(turns)), BATCH)
    ])  # fmt: skip
    rises = errors[:, [0, 2]] - errors[:, 1:2]
    certain = rises.mean(0) > CERTAIN * rises.std(0) / math.sqrt(len(rises))  # False for a single item
    percent = f"{100 * (CHANGE - 1):.0f} %"
    if not certain.all():
        side = "shorter" if not certain[0] else "longer"
        return False, f"{turned}, but a focal length {percent} {side} explains them as well; {advice}."
    rise = 100 * (rises.mean(0) / errors[:, 1].mean()).amin().item()
    return True, f"{turned}, and a focal length {percent} off explains them worse, by {rise:.1f} % at least."


def _errors(stage: FineStage, batch: Frames) -> Tensor:
    """Return how badly views fit with a shorter, the learned and a longer focal length, (B, 3).

    Motions are aligned anew for each.
    """
    prediction = stage.predict(batch)
    count = len(stage.offsets)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    depth, images = stage.finest_depth(prediction.disparities, size), batch.images[:, : 1 + count]
    levels = [level for level in LEVELS if min(size) >> level >= 8] or [0]
    columns = []
    for factor in (1 / CHANGE, 1.0, CHANGE):
        scale = torch.tensor([[factor, factor, 1], [1, factor, 1], [1, 1, 1]], device=depth.device)
        K = prediction.K * scale
        motions = stage.refined(images, depth, K, prediction.motions[:, :count], levels, STEPS)
        errors = []
        for level in levels:
            frames, intrinsics = shrink(images, K, 2**level)
            small = F.interpolate(depth, frames.shape[-2:], mode="area")
            view = reprojection_loss(frames[:, 0], frames[:, 1:], small, intrinsics, motions)
            errors.append(torch.minimum(view.error, view.identity).mean((1, 2, 3)))
        columns.append(torch.stack(errors).mean(0))
    return torch.stack(columns, dim=1)
