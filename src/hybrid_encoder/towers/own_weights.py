"""Weights of towers that this library has trained itself: files of ``pretrain_clip`` and ``pretrain_dino``.

A file is safetensors with a few words beside the tensors: which kind of model it is; its architecture, since tensors of
the same sizes may be meant for other activations or numbers of heads; and, of a CLIP, which of its tokenizer's tokens
it knows. Of the table of tokens it holds these rows alone. Two files ship with the package, for the towers of ``tiny``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.models import PRESETS
from hybrid_encoder.config.parts import STREET, TOWER_KIND, SemanticConfig, SpatialConfig
from hybrid_encoder.errors import CheckpointError

Kind = Literal["clip", "dino"]
TOKENS = "hybrid_encoder.tokens"  # names, as TOWER_KIND does, what stands beside the tensors
ARCHITECTURE = "hybrid_encoder.architecture"
TABLE = "token_embedding.weight"
PADDING = 0  # of CLIP's tokenizer: it follows the end of a text, where no causal tower looks
WEIGHTS = Path(__file__).parents[1] / "weights"
SHIPPED: dict[Kind, str] = {"clip": "tiny_clip/model.safetensors", "dino": "tiny_dino/model.safetensors"}


def own_file(pretrained: Any, kind: Kind) -> Path | None:
    """Return the file of weights of this library's that a configuration names; None where it names others.

    Args:
        pretrained: of a tower's configuration; ``"street"`` names the file that ships with the package.
        kind: of the tower.

    Raises:
        CheckpointError: a damaged file, or an installation without the weights that ship.
    """
    if pretrained == STREET:
        if (file := WEIGHTS / SHIPPED[kind]).is_file():
            return file
        raise CheckpointError(
            f"this installation lacks the weights {STREET!r} of a small {kind.upper()} (weights/{SHIPPED[kind]} in the "
            "package); install hybrid-encoder anew, or name another file of weights."
        )
    if not isinstance(pretrained, str) or not pretrained.endswith(".safetensors"):
        return None
    file = Path(pretrained)
    return file if file.is_file() and TOWER_KIND in read_notes(file) else None


def read_notes(file: Path) -> dict[str, str]:
    """Return the words that stand beside the tensors of a safetensors file.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors ({error}); check the path.") from error


def load_own(module: nn.Module, file: Path, kind: Kind, config: SemanticConfig | SpatialConfig) -> None:
    """Fill a model with weights of this library's, all of it; of a CLIP, the tokens that the file knows.

    A CLIP's ``known_tokens`` says afterwards which these are; the rows of all others are NaN, lest they pass for
    something. The padding after a text is zeros, which open_clip's own ``encode_text`` hides from what it reads.

    Args:
        module: built as the configuration says.
        file: of :func:`own_tensors`.
        kind: of the tower.
        config: of the tower.

    Raises:
        CheckpointError: a file of another kind, of a model of other sizes or another architecture, or a damaged one.
    """
    from safetensors.torch import load_file

    notes = read_notes(file)
    if notes.get(TOWER_KIND) != kind:
        raise CheckpointError(f"{file} holds a {notes.get(TOWER_KIND, 'model of another kind')}; a {kind} is needed.")
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(f"{file} has numbers in {broken[0]} that are not finite; write it anew.")
    if kind == "clip" and TABLE in tensors:
        table = dict(module.named_parameters())[TABLE].detach()
        tokens = _tokens(file, notes, len(table))
        if tensors[TABLE].ndim == 2 and len(tensors[TABLE]) != len(tokens):
            raise CheckpointError(
                f"{file} names {len(tokens)} tokens, and has {len(tensors[TABLE])} rows for them; write it anew."
            )
        if tensors[TABLE].shape != (len(tokens), table.shape[1]):
            raise _other_sizes(file, TABLE, tensors[TABLE], table[: len(tokens)])
        whole = torch.full_like(table, float("nan"))
        whole[PADDING] = 0.0  # hidden, and yet multiplied by what hides it
        whole[tokens] = tensors[TABLE].to(whole)
        tensors[TABLE] = whole
        module.known_tokens = frozenset(tokens)  # type: ignore[assignment]
    own = module.state_dict()
    if missing := sorted(own.keys() ^ tensors.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{file} and the model differ in {missing[0]}{more}; they are not of one kind.")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise _other_sizes(file, name, tensor, own[name])
    wanted, found = architecture(config), _stated(file, notes, kind)
    if wanted != found:
        part = "semantic" if kind == "clip" else "spatial"
        differs = next(name for name in sorted(wanted | found) if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"{file} was trained with {part}.{differs} = {shown(found.get(differs))}, and the configuration has "
            f"{shown(wanted.get(differs))}: its tensors fit, and would compute something else. Give the same."
        )
    module.load_state_dict(tensors)


def architecture(config: SemanticConfig | SpatialConfig) -> dict[str, Any]:
    """Return what weights are meant for beside their sizes, as JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps({"name": config.name, "overrides": config.overrides}))
    return found


def _stated(file: Path, notes: dict[str, str], kind: Kind) -> dict[str, Any]:
    """Return the architecture that a file says it is of."""
    if ARCHITECTURE not in notes and file == WEIGHTS / SHIPPED[kind]:
        tiny = PRESETS["tiny"].encoder
        return architecture(tiny.semantic if kind == "clip" else tiny.spatial)
    try:
        found = json.loads(notes[ARCHITECTURE])
        if not isinstance(found, dict):
            raise ValueError("it is no table")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} does not say of which architecture it is ({error}); write it anew.") from None
    return found


def own_tensors(
    module: nn.Module, kind: Kind, config: SemanticConfig | SpatialConfig, tokens: list[int] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what a file of a trained tower holds: tensors in half precision, and the words beside them.

    Args:
        module: a CLIP of open_clip, or a DINO of timm.
        kind: which of both.
        config: that it was built from.
        tokens: of a CLIP, the tokens that it was trained on; only their rows are kept.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    notes = {TOWER_KIND: str(kind), ARCHITECTURE: json.dumps(architecture(config), sort_keys=True)}
    if tokens is not None:
        tensors[TABLE] = tensors[TABLE][tokens]
        notes[TOKENS] = json.dumps(tokens)
    halves = {name: (t.half() if t.is_floating_point() else t).contiguous().clone() for name, t in tensors.items()}
    return halves, notes


def _tokens(file: Path, notes: dict[str, str], vocabulary: int) -> list[int]:
    try:
        tokens = json.loads(notes[TOKENS])
        if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < vocabulary for t in tokens):
            raise ValueError(f"they are no list of whole numbers below {vocabulary}")
        if len(set(tokens)) != len(tokens):
            raise ValueError("one is named twice")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} does not say which tokens it knows ({error}); write it anew.") from None
    return tokens


def _other_sizes(file: Path, name: str, found: Tensor, needed: Tensor) -> CheckpointError:
    return CheckpointError(
        f"{file} has {name} as {tuple(found.shape)}, and the model needs {tuple(needed.shape)}; give the sizes that it "
        "was trained with, those of the preset 'tiny'."
    )
