"""One class of any codebase replaced by the hybrid encoder, in front of the codebase's own decoder.

```python
from hybrid_encoder import adapters

adapters.generic.patch("models.DepthNet.ResnetEncoder", "tiny", mean=(0.45,) * 3, std=(0.225,) * 3)
```
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_encoder.errors import ConfigError

from . import monodepth2
from .encoders import EncoderLike
from .patching.replacing import Patch
from .recipes import CodebaseRecipe

RESNET_CHANNELS = (64, 64, 128, 256, 512)
RESNET_STRIDES = (2, 4, 8, 16, 32)


def patch(
    target: str,
    encoder: EncoderLike | None = None,
    *,
    channels: Sequence[int] = RESNET_CHANNELS,
    strides: Sequence[int] = RESNET_STRIDES,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    pretrained: str | None = None,
    frames: str | None = None,
    legacy: bool = True,
) -> Patch:
    """Let a class or function that builds a depth encoder build the hybrid encoder. Call it before the networks.

    What is built takes images (B, 3, H, W) and gives a list of maps (B, channels[i], H / strides[i], W / strides[i]),
    rounded up, which the codebase's own decoder reads; it has ``num_ch_enc``, the channels. A training that goes on
    without it is an AdapterError at the first step of its optimizer.

    Args:
        target: the class or function, ``"module.Name"``, as the codebase imports the module.
        encoder: as in :func:`hybrid_encoder.adapters.monodepth2.patch`.
        channels: of the maps, fine to coarse; those of a ResNet-18 by default.
        strides: of the maps.
        mean: what the codebase subtracts from RGB in [0, 1] before the encoder, by channel; zeros where it hands RGB on
            as it is.
        std: by which the codebase then divides.
        pretrained: the target's argument that asks for public weights; None where it has none, and the encoder comes
            with those that its configuration names.
        frames: the target's argument for the number of images at once, if it builds pose encoders, too, which stay the
            codebase's own; None is ``"num_input_images"``, where it has that.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.patching.legacy` to the codebase.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: there is no such target, or it is patched otherwise already; nothing changes.
        ConfigError: a target that is no dotted name, or channels and strides of different numbers.
    """
    module, _, name = target.rpartition(".")
    if not module or not name.isidentifier():
        raise ConfigError(f"target is {target!r}; give the module and the name in it, as in 'models.net.Encoder'.")
    if len(channels) != len(strides) or not channels:
        raise ConfigError(
            f"channels are {tuple(channels)} and strides {tuple(strides)}; give one of each for every map."
        )
    if len(mean) != 3 or len(std) != 3 or 0 in std:
        raise ConfigError(f"mean is {tuple(mean)} and std {tuple(std)}; give one number for each of R, G and B.")
    recipe = CodebaseRecipe(
        target,
        encoder=name,
        decoders=(),
        pretrained=pretrained,
        frames=frames,
        strides=tuple(strides),
        channels=tuple(channels),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        networks=(module,),
        own_decoder="it was not named",
    )
    return monodepth2.patch(encoder, networks=module, recipe=recipe, legacy=legacy)
