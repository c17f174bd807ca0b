"""What the codebases that grew out of Monodepth2 call their networks, and what they expect of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from hybrid_encoder.errors import AdapterError, ConfigError


@dataclass(frozen=True)
class CodebaseRecipe:
    """Where the depth networks of a codebase stand in its ``networks`` package, and what goes in and out.

    Args:
        name: of the codebase.
        encoder: class or function that builds the depth encoder.
        decoders: those that read its features; the first gives the disparity.
        pretrained: the encoder's argument that asks for public weights; None where it has none, and the encoder
            comes with the public weights that its configuration names.
        frames: the encoder's argument for the number of images at once; None where it is always one.
        strides: of the maps that the codebase's own decoder reads, fine to coarse.
        channels: of these maps; None takes those of a ResNet.
        mean: subtracted from RGB in [0, 1] by the caller, by channel.
        std: by which the caller then divides.
    """

    name: str
    encoder: str = "ResnetEncoder"
    decoders: tuple[str, ...] = ("DepthDecoder",)
    pretrained: str | None = "pretrained"
    frames: str | None = "num_input_images"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    channels: tuple[int, ...] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


RECIPES: dict[str, CodebaseRecipe] = {
    "monodepth2": CodebaseRecipe("Monodepth2"),
    "ra-depth": CodebaseRecipe(
        "RA-Depth",
        encoder="hrnet18",
        decoders=("DepthDecoder_MSF", "DepthDecoder"),
        frames=None,
        channels=(64, 18, 36, 72, 144),
    ),
    "lite-mono": CodebaseRecipe(
        "Lite-Mono",
        encoder="LiteMono",
        pretrained=None,
        frames=None,
        strides=(4, 8, 16),
        channels=(48, 80, 128),
    ),
}

REFUSED: dict[str, str] = {
    "Depth_Decoder_QueryTr": "SQLdepth and SPIdepth predict depth, by their own query decoder, under the key 'disp': "
    "a disparity there would be read as metres. Train in a Monodepth2 checkout instead.",
    "DeepNet": "MonoViT builds encoder and decoder as one network of fixed widths, and its trainer is a fragment for "
    "Monodepth2: patch the Monodepth2 checkout itself (docs/monodepth2.md says how to keep its optimizer).",
}
"""Why no recipe can serve some codebases, by a name that only they hold."""


def recipe_named(name: str) -> CodebaseRecipe:
    """Return the recipe of a name in ``RECIPES``.

    Raises:
        ConfigError: another name.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"recipe is {name!r}; give one of {', '.join(RECIPES)}, or a CodebaseRecipe for another codebase."
        )
    return RECIPES[name]


def find_recipe(networks: ModuleType) -> CodebaseRecipe:
    """Return the recipe for a ``networks`` package: by the names that only one codebase holds, else Monodepth2's.

    Raises:
        AdapterError: no recipe can serve the codebase.
    """
    for name, reason in REFUSED.items():
        if hasattr(networks, name):
            raise AdapterError(f"{networks.__name__} ({networks.__file__}) holds {name!r}: {reason}")
    for recipe in RECIPES.values():
        names = (recipe.encoder, *recipe.decoders)
        if recipe.encoder != "ResnetEncoder" and all(hasattr(networks, name) for name in names):
            return recipe
    return RECIPES["monodepth2"]
