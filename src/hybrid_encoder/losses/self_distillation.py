"""Self-distillation: a student says of a view what its teacher, an average of its past, says of another."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.similarity import at_least_float32

ITERATIONS = 3  # of Sinkhorn-Knopp, as published


def self_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | None = None,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Return the cross entropy of the student's prototypes under the teacher's, which are sharpened.

    Nothing but the teacher's targets keeps both from saying the same of everything; so these are either centred or
    balanced.

    Args:
        student, teacher: logits of prototypes, (..., K), of one shape; no gradient reaches the teacher.
        center: running mean of the teacher's logits, (K,), which is taken off, as in DINO; None balances the teacher's
            prototypes over all that is given (:func:`sinkhorn`), as in DINOv2.
        student_temperature, teacher_temperature: divide the logits; the lower the sharper.

    Returns:
        (...), each from 0 up.

    Raises:
        InputError: logits of different shapes, or a center of another one.

    Source: DINO (Caron et al., ICCV 2021), DINOv2 (Oquab et al., TMLR 2024); on patches, iBOT (Zhou et al., ICLR 2022).

    Example:
        >>> self_distillation_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.zeros(2))
        tensor([0.6931])
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"student is {tuple(student.shape)} and teacher {tuple(teacher.shape)}; both must be (..., K)."
        )
    return _cross_entropy(student, _targets(teacher, center, teacher_temperature), student_temperature)


def multi_crop_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | None = None,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Return the mean of :func:`self_distillation_loss` over all pairs of different views of an image.

    Args:
        student: logits of all views, those of the teacher first, (V, B, K).
        teacher: logits of the global views, (G, B, K), with G up to V.
        center: as for :func:`self_distillation_loss`; without it, prototypes are balanced over all global views.
        student_temperature, teacher_temperature: as for :func:`self_distillation_loss`.

    Returns:
        A scalar.

    Raises:
        InputError: fewer than two views, or logits or a center of other shapes.

    Source: DINO (Caron et al., ICCV 2021).
    """
    views = student.ndim == teacher.ndim == 3 and student.shape[1:] == teacher.shape[1:]
    if not views or not 1 <= len(teacher) <= len(student) or len(student) < 2 or not student.numel():
        raise InputError(
            f"student is {tuple(student.shape)} and teacher {tuple(teacher.shape)}; (V, B, K) and (G, B, K) are "
            "needed, with at least two views and one image."
        )
    losses = [
        _cross_entropy(seen, wanted, student_temperature).mean()
        for number, wanted in enumerate(_targets(teacher, center, teacher_temperature))
        for view, seen in enumerate(student)
        if view != number
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float = 0.04, iterations: int = ITERATIONS) -> Tensor:
    """Turn logits into probabilities of which all prototypes get about the same share.

    Args:
        logits: of prototypes, (..., K); those of all leading dimensions are balanced together.
        temperature: divides the logits.
        iterations: how often prototypes are given equal shares, and probabilities a sum of 1 after that.

    Returns:
        (..., K), float32 at least, each summing to 1; no gradient passes.

    Raises:
        InputError: a temperature or iterations that are not above 0.

    Source: SwAV (Caron et al., NeurIPS 2020), whose entropic optimal transport is that of Cuturi (NeurIPS 2013).

    Example:
        >>> sinkhorn(torch.tensor([[0.1, 0.0], [0.1, 0.0]]))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if not temperature > 0 or iterations < 1:
        raise InputError(f"temperature is {temperature} and iterations {iterations}; they must be above 0.")
    log = at_least_float32(logits).reshape(-1, logits.shape[-1]) / temperature
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp().view_as(logits)


@torch.no_grad()
def _targets(teacher: Tensor, center: Tensor | None, temperature: float) -> Tensor:
    if center is None:
        return sinkhorn(teacher, temperature)
    if center.shape != teacher.shape[-1:]:
        raise InputError(f"center is {tuple(center.shape)} and teacher {tuple(teacher.shape)}; (K,) is needed.")
    return ((at_least_float32(teacher) - center) / temperature).softmax(-1)


def _cross_entropy(student: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    return -(wanted * (at_least_float32(student) / temperature).log_softmax(-1)).sum(-1)
