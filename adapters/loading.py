"""Weights of our networks in a codebase's files: they say what they are of, and what does not fit is one sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Set
from typing import Any

from torch import Tensor, nn

from hybrid_encoder.checkpoints.described import KEY, Description, stored_config
from hybrid_encoder.config import PRESETS, HybridMatchingConfig, find_encoder_config
from hybrid_encoder.errors import CheckpointError

from .patching.proxies import PassesFor

# What a forward pass does not depend on, what trainers set anew, and what the names of the weights tell anyway.
FREE = {"pretrained", "trainable", "trainable_blocks", "train_text", "init", "scales"}
FREE |= {"min_depth_bin", "max_depth_bin", "adaptive_bins"}
CODEBASE_OPTIONS = ("scales", "num_depth_bins", "depth_binning")


class StrictLoading(PassesFor, nn.Module):
    """Describes itself in its ``state_dict()``, and refuses weights of another model.

    Monodepth2's trainer drops the names that it does not know, lays the rest over ``state_dict()`` and loads
    that: a checkpoint of another model would be loaded without a word. What was filled in shares its memory with the
    module's own weights, which gives it away.
    """

    def describe(self) -> Description | None:
        """Return what this network is, for ``state_dict()`` to hold beside the weights; None keeps it to them."""
        return None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # torch's own way, get_extra_state, asks the class that an instance passes for.
        if (description := self.describe()) is not None:
            destination[prefix + KEY] = description.pack()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for names in (missing_keys, unexpected_keys):  # the description is no weight, and older files have none
            if prefix + KEY in names:
                names.remove(prefix + KEY)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as any module does.

        Raises:
            CheckpointError: weights of another model, or of this one in another configuration. With ``strict=False``,
                only where nothing fits, or something has another shape.
        """
        own = {name: value for name, value in self.state_dict().items() if name != KEY}
        given = {n: x for n, x in state_dict.items() if n in own and isinstance(x, Tensor) and not _same(x, own[n])}
        missing = [name for name in own if name not in given and (strict or not given)]
        differing = [name for name, value in given.items() if value.shape != own[name].shape]
        extra = [name for name in state_dict if name != KEY and name not in own and strict]
        misfit = bool(missing or differing or extra)
        difference = self._difference(state_dict, misfit) if strict or misfit else ""
        if difference or misfit:
            raise CheckpointError(difference or self._misfit(own, given, missing, differing, extra))
        return super().load_state_dict(state_dict, strict, assign)

    def _difference(self, weights: Mapping[str, Any], misfit: bool) -> str:
        """Return how the network that the weights describe differs from this one; empty where they do not say."""
        stored, own = stored_config(weights), self.describe()
        if stored is None or own is None:
            return ""
        there, here = (
            {**_flat(x.config, FREE - {"scales"} if misfit else FREE), "network": x.network, "neck": _neck(x)}
            for x in (stored, own)
        )
        name = next((name for name in sorted({*there, *here}) if there.get(name) != here.get(name)), None)
        if name is None:
            return ""
        values = " there, and ".join(x.get(name, "not set") for x in (there, here))
        return (
            f"the weights are of {_named(stored)}, and this is {_named(own)} ({name} is {values} here): build what was "
            f"trained, {_fix(name, stored, own)}."
        )

    def _misfit(
        self,
        own: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        missing: list[str],
        differing: list[str],
        extra: list[str],
    ) -> str:
        """Return which name does not fit, how many do not, and what to do."""
        kind = self._get_name()
        if missing:
            return (
                f"the weights hold nothing for {missing[0]!r} ({len(missing)} of {len(own)} names of this {kind}): "
                "they are another model's, the unpatched repository's perhaps; load them without patch(), or train "
                "under it first."
            )
        what, names = "", extra
        if differing:
            name, names = differing[0], differing
            what = f"{name!r} as {tuple(given[name].shape)}, and this {kind} needs {tuple(own[name].shape)}"
        else:
            what = f"{extra[0]!r}, which this {kind} has no place for"
        return (
            f"the weights hold {what} ({len(names)} names in all): they were trained with another encoder or decoder; "
            "give patch() (--encoder, --decoder) the one that they were trained with."
        )


def _same(value: Tensor, own: Tensor) -> bool:
    """Return whether a value is the module's own, which somebody filled in."""
    return bool(value.numel()) and value.data_ptr() == own.data_ptr()


def _neck(description: Description) -> str:
    return "none" if description.neck is None else json.dumps(dataclasses.asdict(description.neck))


def _flat(config: Any, ignored: Set[str] = FREE) -> dict[str, str]:
    """Return the settings of a configuration that a forward pass depends on, by dotted name, as JSON."""
    found: dict[str, str] = {}

    def visit(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                if key not in ignored:
                    visit(inner, f"{name}.{key}" if name else key)
        elif value is not None:
            if name.endswith("spatial.name"):  # after the dot timm names the weights; a folder of transformers may move
                value = "hf:" if value.startswith("hf:") else value.split(".")[0]
            found[name] = json.dumps(value)

    visit(dataclasses.asdict(config), "")
    return found


def _named(description: Description) -> str:
    """Return in words what a network is."""
    if description.network == "DepthDecoder":
        return "a DPT decoder"
    encoder, preset = find_encoder_config(description.config), _preset(description)
    towers = [encoder.semantic.name] * encoder.uses_semantic + [encoder.spatial.name] * encoder.uses_spatial
    name = f"the encoder {preset!r}" if preset else f"an encoder of {' and '.join(towers)}"
    frames = " for several frames" if isinstance(description.config, HybridMatchingConfig) else ""
    return f"{name}{frames}{' for the own decoder of a repository' if description.neck else ''}"


def _preset(description: Description) -> str | None:
    encoder = _flat(find_encoder_config(description.config))
    for name, preset in PRESETS.items():
        if encoder in (_flat(preset.encoder), _flat(HybridMatchingConfig.preset_encoder(name))):
            return name
    return None


def _fix(name: str, stored: Description, own: Description) -> str:
    """Return how to build what the weights are of.

    Args:
        name: of the first setting that differs.
        stored, own: of the weights, and of the network that is to take them.
    """
    if name in CODEBASE_OPTIONS:
        value = getattr(stored.config, name)
        return f"with --{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
    if name == "match":
        return f"with patch(match={stored.config.match!r})"
    if stored.network == "DepthDecoder":
        widths = {field: getattr(stored.config, field) for field in ("features", "channels", "head_channels")}
        return f"with patch(decoder_config=DecoderConfig({', '.join(f'{n}={value}' for n, value in widths.items())}))"
    preset, decoder = _preset(stored), ""
    if (stored.neck is None) != (own.neck is None):
        decoder = f", decoder={'dpt' if stored.neck is None else 'repository'!r}"
    if preset is not None:
        return f"with patch({preset!r}{decoder})"
    if stored.network == "MatchingEncoder":  # no single-frame encoder is loaded from its folder
        return f"with patch(stored_config(torch.load(FILE)).config.encoder{decoder}), FILE being the weights'"
    return f"with patch(FOLDER{decoder}), FOLDER being where the weights are (--encoder FOLDER)"
