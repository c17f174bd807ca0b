"""Learned prompts that say what other prompts say, so that what features learned to match is still there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.prompts import DepthPrompts

LEAST = 0.99  # mean cosine similarity of a fit that is taken
LR = 0.02


def spread_prompts(matrix: Tensor, count: int) -> Tensor:
    """Return prompts between these, evenly spaced along their order; the first and the last stay.

    Args:
        matrix: (n, D), near before far, as ``DepthPrompts`` returns it.
        count: how many, from 2 up.

    Returns:
        (count, D), each of length 1, whatever the lengths were.

    Example:
        >>> spread_prompts(torch.eye(2), 3).round(decimals=2)
        tensor([[1.0000, 0.0000],
                [0.7100, 0.7100],
                [0.0000, 1.0000]])
    """
    rows = F.normalize(matrix, dim=1)
    return F.normalize(F.interpolate(rows.T[None], count, mode="linear", align_corners=True)[0].T, dim=1)


def fit_tokens(prompts: DepthPrompts, matrix: Tensor, steps: int = 300) -> float:
    """Train learned tokens, and nothing else, until the prompts are those that :func:`spread_prompts` puts between
    others.

    It runs on the accelerator where there is one; the prompts are back on their own device after it.

    Args:
        prompts: with learned tokens, changed in place.
        matrix: (n, D), the other prompts, of the same text tower.
        steps: of Adam, with a falling rate; the text tower alone runs in each.

    Returns:
        The mean cosine similarity that was reached.

    Raises:
        ConfigError: fixed words, or a fit below 0.99.
    """
    tokens = prompts.tokens
    if tokens is None:
        raise ConfigError("these prompts have no learned tokens to fit; give PromptConfig num_tokens without words.")
    own, device = tokens.device, torch.accelerator.current_accelerator(check_available=True) or tokens.device
    prompts.to(device)
    flag = tokens.requires_grad
    try:
        target = spread_prompts(matrix.detach().float().to(device), prompts.num_prompts)
        tokens.requires_grad_(True)
        optimizer = torch.optim.Adam([tokens], LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with torch.enable_grad():
            for _ in range(steps):
                alike = F.cosine_similarity(prompts(), target)
                (tokens.grad,) = torch.autograd.grad((1 - alike).sum(), [tokens])
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            reached = F.cosine_similarity(prompts(), target).mean().item()
    finally:
        tokens.grad = None
        tokens.requires_grad_(flag)
        prompts.to(own)
    if not reached >= LEAST:
        raise ConfigError(
            f"fitted prompts reach a cosine similarity of {reached:.3f} to the words, and {LEAST} is needed; keep the "
            "words, or let the prompts start in another way."
        )
    return reached
