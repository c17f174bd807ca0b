"""Self-distillation: a student says of a view what its teacher, an average of its past, says of another."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.similarity import at_least_float32


def self_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Return the cross entropy of the student's prototypes under the teacher's, centred and sharpened.

    Args:
        student, teacher: logits of prototypes, (..., K), of one shape; no gradient reaches the teacher.
        center: running mean of the teacher's logits, (K,); it is taken off, lest one prototype wins everywhere.
        student_temperature, teacher_temperature: divide the logits; the lower the sharper.

    Returns:
        (...), each from 0 up.

    Raises:
        InputError: logits of different shapes.

    Source: DINO (Caron et al., ICCV 2021); on patches, iBOT (Zhou et al., ICLR 2022).

    Example:
        >>> self_distillation_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.zeros(2))
        tensor([0.6931])
    """
    if student.shape != teacher.shape or center.shape != student.shape[-1:]:
        raise InputError(
            f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)} and center {tuple(center.shape)}; "
            "(..., K) twice and (K,) are needed."
        )
    wanted = ((at_least_float32(teacher.detach()) - center) / teacher_temperature).softmax(-1)
    return -(wanted * (at_least_float32(student) / student_temperature).log_softmax(-1)).sum(-1)


def multi_crop_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Return the mean of :func:`self_distillation_loss` over all pairs of different views of an image.

    Args:
        student: logits of all views, those of the teacher first, (V, B, K).
        teacher: logits of the global views, (G, B, K), with G up to V.
        center, student_temperature, teacher_temperature: as for :func:`self_distillation_loss`.

    Returns:
        A scalar.

    Raises:
        InputError: fewer than two views, or logits of other shapes.

    Source: DINO (Caron et al., ICCV 2021).
    """
    if student.ndim != 3 or teacher.ndim != 3 or not 1 <= len(teacher) <= len(student) or len(student) < 2:
        raise InputError(
            f"student is {tuple(student.shape)} and teacher {tuple(teacher.shape)}; (V, B, K) and (G, B, K) are "
            "needed, with at least two views."
        )
    losses = [
        self_distillation_loss(seen, said, center, student_temperature, teacher_temperature).mean()
        for number, said in enumerate(teacher)
        for view, seen in enumerate(student)
        if view != number
    ]
    return torch.stack(losses).mean()
