"""Pictures and sentences brought together: the contrastive loss of CLIP, for captions that occur several times."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.similarity import at_least_float32


def caption_contrastive_loss(images: Tensor, captions: Tensor, which: Tensor, scale: Tensor | float) -> Tensor:
    """Compare pictures with captions in both directions; pictures with one caption are all right for it.

    The mean of two cross entropies: of every picture, whose caption is one of all different captions; and of every
    caption, whose pictures are equally likely, each of them one of all pictures.

    Args:
        images: embeddings, (N, D), of any length.
        captions: embeddings of the different captions, (M, D), of any length.
        which: index of each picture's caption, (N,), int64; every caption has a picture.
        scale: factor on the cosine similarities, above 0.

    Returns:
        A scalar; zero, with a gradient, without pictures.

    Raises:
        InputError: tensors of other shapes, or a caption without a picture.

    Source: CLIP (Radford et al., ICML 2021); captions that occur several times as in UniCL (Yang et al., CVPR 2022).

    Example:
        >>> round(caption_contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 2.0).item(), 4)
        0.1269
    """
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise InputError(
            f"images is {tuple(images.shape)} and captions {tuple(captions.shape)}; (N, D) and (M, D) are needed."
        )
    if which.shape != images.shape[:1] or which.is_floating_point():
        raise InputError(f"which is {tuple(which.shape)} of {which.dtype}; {len(images)} whole numbers are needed.")
    if not len(images):
        return images.sum() + captions.sum()
    count = torch.bincount(which, minlength=len(captions))
    if len(count) != len(captions) or not bool((count > 0).all()):
        raise InputError(
            f"which names {int((count > 0).sum())} captions, and there are {len(captions)}; give each a picture."
        )
    images, captions = (F.normalize(at_least_float32(x), dim=1) for x in (images, captions))
    logits = scale * images @ captions.T
    of_captions = -logits.log_softmax(0)[torch.arange(len(which), device=which.device), which] / count[which]
    return (F.cross_entropy(logits, which) + of_captions.sum() / len(captions)) / 2
