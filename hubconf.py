"""What ``torch.hub`` finds in a clone of this repository, installed or not.

.. code-block:: python

    model = torch.hub.load("path/to/clone", "hybrid_depth", weights="tiny", source="local")
    depth = model.infer("image.jpg").relative_depth
"""

import sys as _sys
from pathlib import Path as _Path
from typing import Any as _Any

# What a model cannot be loaded and run without; torch.hub looks whether it is there before it calls anything here.
dependencies = [
    "torch",
    "torchvision",
    "einops",
    "huggingface_hub",
    "lazy_loader",
    "numpy",
    "open_clip",
    "PIL",
    "safetensors",
    "timm",
    "typing_extensions",
]

_SOURCE = str(_Path(__file__).resolve().parent / "src")
if "hybrid_encoder" not in _sys.modules and _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)  # to stay: models import more of the package when they are used


def hybrid_depth(weights: str = "tiny", **hub: _Any) -> _Any:
    """Depth from one picture, in evaluation mode: ``model.infer("image.jpg")``, or disparity of a batch in [0, 1].

    Args:
        weights: ``"tiny"`` (ships with the code), a folder, a file or a Hugging Face Hub id.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Returns:
        ``hybrid_encoder.HybridDepthModel``, a ``torch.nn.Module``: RGB in [0, 1], (B, 3, H, W), to disparity
        (B, 1, H, W). It normalises by itself.
    """
    from hybrid_encoder.models.depth import HybridDepthModel

    return HybridDepthModel.from_pretrained(weights, **hub)


def hybrid_encoder(weights: str | None = "tiny", config: str = "paper", **hub: _Any) -> _Any:
    """The encoder alone: four maps on one grid for a decoder of your own.

    Args:
        weights: as for ``hybrid_depth``, in evaluation mode; ``"backbones"`` for an encoder to train, which starts
            from the public weights of CLIP and DINO (a download); None for one of random weights.
        config: of an encoder without trained weights, which otherwise name their own: ``"paper"``, ``"small"``,
            ``"large"`` or ``"tiny"``.
        hub: as for ``hybrid_depth``.

    Returns:
        ``hybrid_encoder.HybridDepthEncoder``, a ``torch.nn.Module``: RGB in [0, 1], (B, 3, H, W), to four maps
        (B, C_i, h, w); ``feature_info.channels()`` are the C_i. It normalises by itself.
    """
    from hybrid_encoder.models.encoder import HybridDepthEncoder

    if weights is None or weights == "backbones":
        return HybridDepthEncoder(config, pretrained=weights == "backbones")
    return HybridDepthEncoder.from_pretrained(weights, **hub)
