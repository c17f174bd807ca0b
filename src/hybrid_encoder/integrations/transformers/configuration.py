"""The configuration of a model of this library, as transformers keeps one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin
from typing_extensions import Self

from hybrid_encoder import config as data
from hybrid_encoder.checkpoints.described import LIBRARY
from hybrid_encoder.checkpoints.filling import no_initialisation
from hybrid_encoder.checkpoints.reading import DESCRIBED, decode_config
from hybrid_encoder.checkpoints.sources import SHIPPED
from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.kinds import MODEL_TYPE
from hybrid_encoder.config.serialization import migrate
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder

OPENED = {"HybridDepthModel": data.HybridDepthConfig, "HybridDepthEncoder": data.HybridEncoderConfig}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


class HybridDepthConfig(BackboneConfigMixin, PretrainedConfig):
    """A model of this library as a configuration of transformers; ``config.json`` is the same file for both.

    Args:
        config: a preset's name (``"paper"``, ``"small"``, ``"large"``, ``"tiny"``), a configuration
            (``hybrid_encoder.config.HybridDepthConfig``, or ``HybridEncoderConfig`` for a backbone alone); a file's
            content as a dict, with its ``class`` among the options.
        out_features: of a backbone: which of ``"stage1"`` to ``"stage4"`` it returns; all without it.
        out_indices: the same by number, 0 to 3.
        reshape_hidden_states: of a backbone: return maps (B, C, h, w); False returns tokens (B, 1 + h * w, C), as the
            heads of DPT and Depth Anything read them.
        options: what every configuration of transformers takes; and ``format_version`` and ``class`` of a file.

    Raises:
        ConfigError: no configuration, or of a model that transformers does not open.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        config: str | data.HybridDepthConfig | data.HybridEncoderConfig | dict[str, Any] = "paper",
        *,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        reshape_hidden_states: bool = True,
        **options: Any,
    ) -> None:
        content: dict[str, Any] = {
            name: options.pop(name) for name in ("format_version", "class", "library") if name in options
        }
        options.pop("stage_names", None)
        super().__init__(**options)
        if isinstance(config, str):
            config = data.HybridDepthConfig.preset(config)
        if isinstance(config, dict):
            if "class" not in content:
                raise ConfigError(
                    f"config is {shown(config)} without the 'class' that it is of, {' or '.join(OPENED)}."
                )
            config = _decoded({**content, "config": config})
        self.describe(config)
        self.stage_names = list(STAGES)
        self.reshape_hidden_states = reshape_hidden_states
        named = None if out_features is None else list(out_features)
        numbered = None if out_indices is None else list(out_indices)
        self.set_output_features_output_indices(
            out_features=list(STAGES) if named is None and numbered is None else named, out_indices=numbered
        )

    def describe(self, config: Any) -> None:
        """Take over a configuration of this library.

        Raises:
            ConfigError: not of a model that transformers opens.
        """
        kind = next((name for name, each in OPENED.items() if isinstance(config, each)), None)
        if kind is None:
            raise ConfigError(
                f"config is {shown(config)}; a preset's name, a HybridDepthConfig or a HybridEncoderConfig of "
                "hybrid_encoder.config is needed."
            )
        content = {"format_version": data.FORMAT_VERSION, "class": kind, "library": LIBRARY}
        # Lists in the place of tuples, as a file has them: transformers compares the two.
        vars(self).update(content, config=json.loads(json.dumps(config.to_dict())))

    @property
    def hybrid(self) -> data.HybridDepthConfig | data.HybridEncoderConfig:
        """The configuration as this library has it."""
        decoded: data.HybridDepthConfig | data.HybridEncoderConfig = _decoded(
            {name: getattr(self, name) for name in ("format_version", "class", "config")}
        )
        return decoded

    @property
    def depth_estimation_type(self) -> str:
        """``"metric"`` where depth is in metres, else ``"relative"``, as Depth Anything has it."""
        return "metric" if getattr(self.hybrid, "metric", False) else "relative"

    @property
    def patch_size(self) -> int:
        """Pixels per cell of the maps."""
        return self._measures()[1]

    @property
    def hidden_size(self) -> int:
        """Channels of the maps, where all four have as many.

        Raises:
            ConfigError: they have not.
        """
        channels = self._measures()[0]
        if len(set(channels)) > 1:
            raise ConfigError(f"the four maps have {channels} channels, and hidden_size is one number for all of them.")
        return channels[0]

    def _measures(self) -> tuple[tuple[int, ...], int]:
        return _measured(json.dumps(data.find_encoder_config(self.hybrid).to_dict(), sort_keys=True))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the options are as they are in every version
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> Self:
        """Read the configuration of ``"tiny"``, a folder or a Hub id; see transformers for the options."""
        config: Self = super().from_pretrained(shipped(pretrained_model_name_or_path), **options)
        return config

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """Build the configuration of a ``config.json``'s content.

        Raises:
            CheckpointError: it is of another library's model, or of one that transformers does not open.
        """
        if not isinstance(config_dict.get("config"), dict):
            other = config_dict.get("model_type")
            raise CheckpointError(
                f"config.json is of another library's model, {shown(other)}; name weights of a model of hybrid-encoder."
                if other and other != MODEL_TYPE
                else "config.json says of no model what it is; name weights of a model of hybrid-encoder."
            )
        # A file may hold halves to be small: as this library has it, a model computes in float32 until told otherwise.
        return super().from_dict({"dtype": "float32", **config_dict}, **options)


def shipped(source: str | os.PathLike[str]) -> str:
    """Return the folder of ``"tiny"``, which ships in the package; any other source as text."""
    return str(SHIPPED / "tiny") if str(source) == "tiny" else str(Path(source).expanduser())


def _decoded(content: dict[str, Any]) -> Any:
    kind = content.get("class")
    if isinstance(kind, str) and kind in DESCRIBED and kind not in OPENED:
        raise ConfigError(
            f"the weights are of {DESCRIBED[kind]}, which transformers cannot open; load them with "
            f"hybrid_encoder's {kind}.from_pretrained."
        )
    return decode_config(migrate(content))


@lru_cache(maxsize=8)
def _measured(encoder: str) -> tuple[tuple[int, ...], int]:
    """Return the channels of an encoder's maps, and its pixels per cell: what libraries know of their models."""
    with no_initialisation():
        built = HybridDepthEncoder(data.HybridEncoderConfig.from_dict(json.loads(encoder)), pretrained=False)
    return tuple(built.feature_info.channels()), built.stride
