"""Public weights of open_clip's models: found, and compared with the architecture that they are for."""

from __future__ import annotations

import os
from typing import Any

from hybrid_encoder.config import SemanticConfig
from hybrid_encoder.downloading.weights import hub_folder
from hybrid_encoder.errors import ConfigError


def find_weights(name: str, pretrained: str) -> str:
    """Return the file of weights that a tag of open_clip stands for, downloaded where it is not in the cache.

    Args:
        name: of the architecture.
        pretrained: a tag, or a file of the user's own, which is returned as it is.

    Raises:
        ConfigError: neither.
        CheckpointError: the file is not in the cache, and cannot be downloaded.
    """
    import open_clip

    stated = open_clip.get_pretrained_cfg(name, pretrained)
    if not stated:
        if os.path.isfile(pretrained):
            return pretrained
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"semantic.pretrained is {pretrained!r}, which is neither a file nor weights of {name} that open_clip "
            f"knows; it knows {tags}. Of a run of pretrain-clip, give the path of final/model.safetensors."
        )
    if not stated.get("hf_hub"):
        return pretrained  # open_clip finds these
    repo, _, named = stated["hf_hub"].rpartition("/")
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if named:
        names = [named] if named.endswith(".safetensors") else [f"{os.path.splitext(named)[0]}.safetensors", named]
    folder, found = hub_folder(repo, [(n, [n]) for n in names], f"CLIP's weights {pretrained!r} of {name}")
    return str(folder / found)


def check_activation(config: SemanticConfig, base: dict[str, Any]) -> None:
    """Raise ConfigError where weights were trained with another activation than the architecture has: they load, and
    what they compute is wrong."""
    import open_clip

    weights = open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if not weights:
        return  # a file of the user's own, or a tag that open_clip refuses
    wanted = bool(weights.get("quick_gelu", False))
    if wanted == bool(config.overrides.get("quick_gelu", base.get("quick_gelu", False))):
        return
    other = f"{config.name}-quickgelu" if wanted else config.name.removesuffix("-quickgelu")
    by_name = other != config.name and open_clip.get_pretrained_cfg(other, config.pretrained)
    fix = f"name {other!r}" if by_name else f'give overrides={{"quick_gelu": {wanted}}}'
    raise ConfigError(
        f"semantic.name is {config.name!r}, built with{'out' if wanted else ''} QuickGELU, and its weights "
        f"{config.pretrained!r} were trained with{'' if wanted else 'out'} it; {fix}."
    )
