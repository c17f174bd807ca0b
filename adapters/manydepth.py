"""ManyDepth with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.manydepth.patch()  # before Trainer(opts)
```
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import weakref
from types import ModuleType
from typing import Literal

from torch import nn

from hybrid_encoder.config import PRESETS, DecoderConfig, HybridDepthConfig, HybridMatchingConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.matching import HybridMatchingEncoder, Match

from . import monodepth2
from .networks import MatchingEncoder
from .patching import replacing
from .patching.replacing import Source
from .recipes import Recipe

MATCHING = "ResnetEncoderMatching"
NEEDED = ("pretrained", "adaptive_bins", "min_depth_bin", "max_depth_bin", "depth_binning", "num_depth_bins")
BINS = NEEDED[1:]


@dataclasses.dataclass(frozen=True)
class Settings(monodepth2.Settings):
    """What a patch builds. Two calls ask for the same if these are equal."""

    teacher: str
    share_frozen: bool
    match: Match

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        return super().needed | {MATCHING: NEEDED}

    def build_student(self, pretrained: bool) -> HybridDepthEncoder:
        """What goes into the matching encoder: a preset's multi-frame configuration, or the source itself."""
        for name in PRESETS:
            if self.encoder == HybridDepthConfig.preset(name).encoder:
                return HybridDepthEncoder(HybridMatchingConfig.preset_encoder(name), pretrained=pretrained)
        return super().build_encoder(pretrained)

    def build_encoder(self, pretrained: bool) -> HybridDepthEncoder:
        """The teacher. Of a ready encoder, which the student has, it gets a copy."""
        encoder = super().build_encoder(pretrained)
        return copy.deepcopy(encoder) if encoder is self.encoder else encoder


class Patched(monodepth2.Patched):
    """What :func:`patch` replaced, and the way back: ``undo()``, or leave the ``with`` block."""

    settings: Settings
    _student: weakref.ref[HybridDepthEncoder] | None = None

    def replace_networks(self) -> None:
        super().replace_networks()
        self.dispatch(MATCHING, (MatchingEncoder,), self._make_matching)

    def _make_matching(self, call: inspect.BoundArguments) -> nn.Module:
        encoder = self.settings.build_student(bool(call.arguments["pretrained"]))
        self._student = weakref.ref(encoder)
        bins = {name: call.arguments[name] for name in BINS}
        matching = HybridMatchingEncoder(encoder, match=self.settings.match, **bins)
        return MatchingEncoder(matching, self._make_neck(encoder))

    def _make_encoder(self, call: inspect.BoundArguments) -> nn.Module | None:
        """The teacher for one image, where it is ours; the rest is the repository's."""
        if self.settings.teacher == "repository":
            return None
        teacher = super()._make_encoder(call)
        student = self._student() if self._student is not None else None
        if teacher is not None and student is not None and self.settings.share_frozen:
            share_frozen(student, teacher.encoder)  # type: ignore[arg-type]
        return teacher


def share_frozen(student: nn.Module, teacher: nn.Module) -> int:
    """Let the teacher hold the student's parameters where neither trains them.

    Args:
        student: keeps its parameters.
        teacher: of the same layout where it is to share.

    Returns:
        How many numbers are held once instead of twice.

    Raises:
        ConfigError: nothing is frozen in both.
    """
    held = dict(student.named_parameters())
    shared = 0
    for path, module in teacher.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            other = held.get(f"{path}.{name}" if path else name)
            if other is None or other.requires_grad or parameter.requires_grad or other.shape != parameter.shape:
                continue
            setattr(module, name, other)
            shared += other.numel()
    if not shared:
        raise ConfigError(
            "share_frozen is set, and no parameter is frozen in student and teacher alike: freeze a tower in the "
            "configuration (trainable_blocks=0), or leave share_frozen out."
        )
    return shared


def patch(
    encoder: Source | None = None,
    *,
    decoder: Literal["dpt", "manydepth"] = "dpt",
    decoder_config: DecoderConfig | None = None,
    networks: str | ModuleType | None = None,
    teacher: Literal["hybrid", "repository"] = "hybrid",
    share_frozen: bool = False,
    match: Match = "semantic",
    legacy: bool = True,
) -> Patched:
    """Put the hybrid encoder into a ManyDepth checkout. Call it before ``Trainer(opts)``.

    ``networks.ResnetEncoderMatching`` gives a ``HybridMatchingEncoder``, with the depth bins that the repository asks
    for and for any image size; ``networks.ResnetEncoder`` gives the single-frame teacher where one image is fed, and
    the repository's ResNet where two are (pose). Options, losses, freezing and checkpoints are the repository's.

    Args:
        encoder: a preset (None is ``"paper"``), whose multi-frame configuration the student gets; or a configuration,
            Hub id, folder or encoder as in :func:`hybrid_encoder.adapters.monodepth2.patch`, for both.
        decoder: ``"dpt"``, sigmoid disparity from a DPT decoder, or ``"manydepth"``, the repository's own decoder on
            a pyramid made of our maps; for the student and a hybrid teacher.
        decoder_config: widths of the DPT decoder; None takes the preset's.
        networks: the package that holds the networks, or its name; None is ``"manydepth.networks"``.
        teacher: ``"hybrid"``, or ``"repository"``, which leaves the teacher a ResNet.
        share_frozen: hold one copy of what is frozen in student and hybrid teacher alike.
        match: in which tower's first map lookup frames are matched: ``"semantic"``, ``"spatial"`` or ``"both"``.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.patching.legacy` to that repository.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: the repository lacks what is needed, or is patched otherwise already; nothing changes.
        ConfigError: a setting that does not exist.
    """
    for name, value, choices in (
        ("decoder", decoder, ("dpt", "manydepth")),
        ("teacher", teacher, ("hybrid", "repository")),
        ("match", match, ("semantic", "spatial", "both")),
    ):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    source, widths = replacing.resolve_encoder(encoder)
    settings = Settings(
        encoder=source,
        decoder=decoder,
        decoder_config=decoder_config or widths,
        legacy=legacy,
        pose="repository",
        recipe=Recipe("ManyDepth"),
        language_loss=0.0,
        teacher=teacher,
        share_frozen=share_frozen,
        match=match,
    )
    where = "manydepth.networks" if networks is None else networks
    return replacing.apply(Patched, where, lambda module: settings, legacy)
