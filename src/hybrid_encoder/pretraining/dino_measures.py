"""What a small DINO has learned: what its patches say of the kind of thing and of the distance there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.data.street.frame import StreetFrame
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.base import evaluation_mode
from hybrid_encoder.pretraining.dino import DinoStage

NEIGHBOURS = 10  # of a patch, whose kinds are asked
AT_ONCE = 1024  # patches that are compared with all others: all at once may need 15 GB
RIDGE = 1e-3  # of the linear probes, on standardised features
LEAST_INFORMATION = 0.05  # nats; a teacher that tells patches apart has several tenths, one that does not none
FAR = 80.0  # metres; what is farther counts as this far


@torch.no_grad()
def measure_dino(stage: DinoStage, frames: Sequence[StreetFrame]) -> dict[str, float]:
    """Ask of the patches of the second half of the frames what the first half tells about them.

    Args:
        stage: whose teacher is measured, by its last map.
        frames: rendered ones, all of one size.

    Returns:
        ``kinds``, the share of patches whose kind most of their 10 nearest neighbours have, by cosine similarity;
        ``kinds_linear``, the same by a linear probe; ``kinds_majority``, that of the kind which is most frequent among
        the patches asked; ``depth_linear``, the share of the variance of log depth that a linear probe explains, 0 for
        the mean depth; and ``information``, in nats, what the teacher's prototypes tell about which patch it is: the
        entropy of their mean less the mean of their entropies.

    Raises:
        InputError: fewer than two frames.
    """
    if len(frames) < 2:
        raise InputError(f"there are {len(frames)} frames; two at least are needed, to compare one with the other.")
    half = len(frames) // 2
    with evaluation_mode(stage):
        features, kinds, depths = zip(*(_patches(stage, frame) for frame in frames), strict=True)
    known, asked = torch.cat(features[:half]), torch.cat(features[half:])
    names, truth = torch.cat(kinds[:half]), torch.cat(kinds[half:])
    count = int(max(names.max(), truth.max())) + 1
    unit_known, unit_asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
    count_near = min(NEIGHBOURS, len(known))
    near = torch.cat([names[(part @ unit_known.T).topk(count_near).indices] for part in unit_asked.split(AT_ONCE)])
    by_neighbours = F.one_hot(near, count).sum(1).argmax(1)
    by_probe = _linear_probe(known, F.one_hot(names, count))(asked).argmax(1)
    far, true_far = torch.cat(depths[:half]), torch.cat(depths[half:])
    wrong = (_linear_probe(known, far[:, None])(asked)[:, 0] - true_far).square().mean()
    return {
        "kinds": float((by_neighbours == truth).double().mean()),
        "kinds_linear": float((by_probe == truth).double().mean()),
        "kinds_majority": float(truth.bincount().max() / len(truth)),
        "depth_linear": float(1 - wrong / (true_far - true_far.mean()).square().mean()),
        "information": information(stage, torch.cat([known, asked])),
    }


@torch.no_grad()
def information(stage: DinoStage, patches: Tensor) -> float:
    """Return what a teacher's prototypes tell about which patch it is, in nats.

    A collapsed teacher says the same of all patches, be it one prototype or all of them alike, and tells nothing.

    Args:
        stage: whose teacher's head is asked.
        patches: features of its last map, (n, C).
    """
    said = stage.say(patches)
    each = -(said * said.clamp_min(1e-12).log()).sum(-1).mean()
    mean = said.mean(0)
    return float(-(mean * mean.clamp_min(1e-12).log()).sum() - each)


def _patches(stage: DinoStage, frame: StreetFrame) -> tuple[Tensor, Tensor, Tensor]:
    """Return the features of a frame's patches, (n, C), the most frequent kind of pixel in each, (n,), and the mean of
    its log depth, (n,)."""
    maps, _ = stage.teacher(torch.from_numpy(frame.image)[None])
    last = maps[-1][0]
    grid = (last.shape[-2], last.shape[-1])
    kinds = F.one_hot(torch.from_numpy(frame.kind.astype("int64")).reshape(frame.depth.shape[-2:]))
    shares = F.adaptive_avg_pool2d(kinds.permute(2, 0, 1)[None].float(), grid)[0].flatten(1)
    depth = torch.from_numpy(frame.depth).reshape(1, 1, *frame.depth.shape[-2:])
    seen = torch.from_numpy(frame.valid).reshape(depth.shape)  # nothing is where the sky is
    log = torch.where(seen, depth, FAR).clamp(1.0, FAR).log()
    return last.flatten(1).T, shares.argmax(0), F.adaptive_avg_pool2d(log, grid).flatten()


def _linear_probe(features: Tensor, wanted: Tensor) -> Callable[[Tensor], Tensor]:
    """Fit a ridge regression from (n, C) to (n, K), and return it."""
    mean, spread = features.double().mean(0), features.double().std(0) + 1e-9

    def prepared(x: Tensor) -> Tensor:
        return F.pad((x.double() - mean) / spread, (0, 1), value=1.0)

    x = prepared(features)
    ridge = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ wanted.double())
    return lambda asked: prepared(asked) @ weights
