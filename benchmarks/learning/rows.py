"""The conditions that are compared, and what is claimed of them, as data.

A result says how its row differs from the reference. So the defaults are never changed: another reference is a new row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

Coarse = Literal["true", "shuffled", "relabelled", "none"]
Weights = Literal["random", "clip", "dino", "both", "shuffled captions"]


@dataclass(frozen=True)
class Row:
    """One condition; the defaults are those of the reference.

    Args:
        name: by which the command and the results know it.
        network: the hybrid encoder, a U-Net of the usual size, or what knows nothing of the image.
        towers: which of both.
        language: whether there are prompts.
        coarse: the order that the coarse stage teaches. ``"true"``; ``"shuffled"``, the points of every lane permuted
            anew at every read, so that nothing about depth can be learned from them; ``"relabelled"``, all lanes in one
            wrong order that the seed draws, so that depths are told apart but words stand for others; ``"none"``, no
            coarse stage.
        points: what the coarse stage reads: groups of pixels of increasing ``"depth"``, for which the order of the
            exact rendered depth is the label, or points along ``"lanes"``, whose label is the image row.
        margin: of the coarse stage's ranking loss, in units of the logits; 0 is as published.
        readout: how words are read off the maps, ``"joint"`` or ``"published"``.
        decoder_input: words beside the map, or words alone.
        language_loss: whether the fine stage has the pixel-language loss.
        weights: of the towers before the coarse stage.
        frozen: nothing; the image ``"towers"`` in both stages; or the whole ``"encoder"`` in the fine stage.
        drives: to train on; None takes the number of the settings.
    """

    name: str
    network: Literal["hybrid", "unet", "baseline"] = "hybrid"
    towers: Literal["both", "semantic", "spatial"] = "both"
    language: bool = True
    coarse: Coarse = "true"
    points: Literal["depth", "lanes"] = "depth"
    margin: float = 20.0
    readout: Literal["joint", "published"] = "joint"
    decoder_input: Literal["concat", "logits"] = "concat"
    language_loss: bool = True
    weights: Weights = "random"
    frozen: Literal["nothing", "towers", "encoder"] = "nothing"
    drives: int | None = None

    @property
    def definition(self) -> dict[str, object]:
        """What differs from the defaults, as JSON has it: a field that comes later leaves results as they are."""
        return {name: value for name, value in asdict(self).items() if name != "name" and value != DEFAULTS[name]}

    @property
    def starts_from(self) -> tuple[Literal["clip", "dino"], ...]:
        """The towers that start from weights of the package."""
        clip = self.weights in ("clip", "both") and (self.towers != "spatial" or self.language)
        dino = self.weights in ("dino", "both", "shuffled captions") and self.towers != "semantic"
        return (*(("clip",) if clip else ()), *(("dino",) if dino else ()))

    def differs(self, other: Row) -> tuple[str, ...]:
        """Return the names of the fields in which two rows differ, except the name.

        Nor do the settings of a coarse stage count where one of both has none.
        """
        left_out = {"name", "points", "margin"} if "none" in (self.coarse, other.coarse) else {"name"}
        names = [field.name for field in fields(self) if field.name not in left_out]
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))


REFERENCE = Row("reference")
DEFAULTS = asdict(REFERENCE)
BASELINES = ("constant", "image row", "mean map", "plane")
_ROWS = (
    REFERENCE,
    Row("published readout", readout="published"),
    Row("shuffled order", coarse="shuffled"),
    Row("relabelled order", coarse="relabelled"),
    Row("no margin", margin=0.0),
    Row("no margin, shuffled order", margin=0.0, coarse="shuffled"),
    Row("no coarse stage", coarse="none"),
    Row("no language", language=False, coarse="none"),
    Row("no language loss", language_loss=False),
    Row("no language loss, published readout", language_loss=False, readout="published"),
    Row("lane points", points="lanes"),
    Row("CLIP tower alone", towers="semantic"),
    Row("DINO tower alone", towers="spatial"),
    Row("U-Net", network="unet", language=False, coarse="none"),
    Row("encoder frozen", frozen="encoder"),
    Row("encoder frozen, shuffled order", frozen="encoder", coarse="shuffled"),
    Row("encoder frozen, relabelled order", frozen="encoder", coarse="relabelled"),
    Row("encoder frozen, no coarse stage", frozen="encoder", coarse="none"),
    Row("encoder frozen, no margin", frozen="encoder", margin=0.0),
    Row("encoder frozen, no margin, shuffled order", frozen="encoder", margin=0.0, coarse="shuffled"),
    Row("words alone", frozen="encoder", decoder_input="logits"),
    Row("words alone, shuffled order", frozen="encoder", decoder_input="logits", coarse="shuffled"),
    Row("words alone, no coarse stage", frozen="encoder", decoder_input="logits", coarse="none"),
    Row("words alone, no margin", frozen="encoder", decoder_input="logits", margin=0.0),
    Row(
        "words alone, no margin, shuffled order",
        frozen="encoder",
        decoder_input="logits",
        margin=0.0,
        coarse="shuffled",
    ),
    Row("words alone, published readout", frozen="encoder", decoder_input="logits", readout="published"),
    Row("towers frozen", frozen="towers"),
    Row("pretrained", weights="both"),
    Row("pretrained CLIP", weights="clip"),
    Row("pretrained DINO", weights="dino"),
    Row("pretrained, shuffled captions", weights="shuffled captions"),
    Row("pretrained, shuffled order", weights="both", coarse="shuffled"),
    Row("pretrained, no coarse stage", weights="both", coarse="none"),
    Row("pretrained, no language", weights="both", coarse="none", language=False),
    Row("pretrained, published readout", weights="both", readout="published"),
    Row("pretrained, CLIP tower alone", weights="both", towers="semantic"),
    Row("pretrained, DINO tower alone", weights="both", towers="spatial"),
    Row("pretrained, towers frozen", weights="both", frozen="towers"),
    Row("pretrained, towers frozen, shuffled order", weights="both", frozen="towers", coarse="shuffled"),
    Row("pretrained, towers frozen, no coarse stage", weights="both", frozen="towers", coarse="none"),
    Row("4 drives", drives=4),
    Row("4 drives, pretrained", drives=4, weights="both"),
    Row("16 drives", drives=16),
    Row("16 drives, pretrained", drives=16, weights="both"),
    *(Row(name, network="baseline", language=False, coarse="none") for name in BASELINES),
)
ROWS = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Claim:
    """One row is better than another by a measure, or by any one of several.

    Args:
        says: what is claimed, in a sentence.
        better, worse: names of rows.
        measures: names of measures, of which ``MEASURES`` says which direction is better.
    """

    says: str
    better: str
    worse: str
    measures: tuple[str, ...]


DEPTH = ("abs_rel", "row_wrong")
WORDS = ("words", "words_row_wrong")
CLAIMS = (
    Claim("joint readout keeps the order of words", "reference", "published readout", WORDS),
    Claim("and does without a loss on words", "no language loss", "no language loss, published readout", WORDS),
    Claim("the loss on words above none", "reference", "no language loss", (*DEPTH, *WORDS)),
    Claim("true order above shuffled", "reference", "shuffled order", DEPTH),
    Claim("true order above relabelled", "reference", "relabelled order", DEPTH),
    Claim("relabelled order above shuffled", "relabelled order", "shuffled order", DEPTH),
    Claim("relabelled order above no coarse stage", "relabelled order", "no coarse stage", DEPTH),
    Claim("no coarse stage above shuffled order", "no coarse stage", "shuffled order", DEPTH),
    Claim("a margin above none", "reference", "no margin", DEPTH),
    Claim("without a margin: true order above shuffled", "no margin", "no margin, shuffled order", DEPTH),
    Claim("without a margin: a coarse stage above none", "no margin", "no coarse stage", DEPTH),
    Claim("a coarse stage above none", "reference", "no coarse stage", DEPTH),
    Claim("encoder frozen: true order above shuffled", "encoder frozen", "encoder frozen, shuffled order", DEPTH),
    Claim("encoder frozen: true order above relabelled", "encoder frozen", "encoder frozen, relabelled order", DEPTH),
    Claim(
        "encoder frozen: relabelled order above shuffled",
        "encoder frozen, relabelled order",
        "encoder frozen, shuffled order",
        DEPTH,
    ),
    Claim("encoder frozen: a margin above none", "encoder frozen", "encoder frozen, no margin", DEPTH),
    Claim(
        "encoder frozen, without a margin: coarse above none",
        "encoder frozen, no margin",
        "encoder frozen, no coarse stage",
        DEPTH,
    ),
    Claim("encoder frozen: coarse above none", "encoder frozen", "encoder frozen, no coarse stage", DEPTH),
    Claim("words alone: true order above shuffled", "words alone", "words alone, shuffled order", DEPTH),
    Claim("words alone: a margin above none", "words alone", "words alone, no margin", DEPTH),
    Claim(
        "words alone, without a margin: true order above shuffled",
        "words alone, no margin",
        "words alone, no margin, shuffled order",
        DEPTH,
    ),
    Claim(
        "words alone, without a margin: coarse above none",
        "words alone, no margin",
        "words alone, no coarse stage",
        DEPTH,
    ),
    Claim("words alone: coarse above none", "words alone", "words alone, no coarse stage", DEPTH),
    Claim("words alone: joint above published", "words alone", "words alone, published readout", DEPTH),
    Claim("words beside the map above words alone", "encoder frozen", "words alone", DEPTH),
    Claim("the whole of language above none", "reference", "no language", DEPTH),
    Claim("language without a coarse stage above none", "no coarse stage", "no language", DEPTH),
    Claim("points from depth above points on lanes", "reference", "lane points", DEPTH),
    Claim("both towers above CLIP's alone", "reference", "CLIP tower alone", DEPTH),
    Claim("both towers above DINO's alone", "reference", "DINO tower alone", DEPTH),
    Claim("hybrid above the U-Net", "reference", "U-Net", DEPTH),
    Claim("hybrid without language above the U-Net", "no language", "U-Net", DEPTH),
    Claim("above a plane fitted to each frame", "reference", "plane", DEPTH),
    Claim("above the mean map", "reference", "mean map", DEPTH),
    Claim("pretrained towers above random ones", "pretrained", "reference", DEPTH),
    Claim("pretrained CLIP alone helps", "pretrained CLIP", "reference", DEPTH),
    Claim("pretrained DINO alone helps", "pretrained DINO", "reference", DEPTH),
    Claim("CLIP alone: pretrained above random", "pretrained, CLIP tower alone", "CLIP tower alone", DEPTH),
    Claim("DINO alone: pretrained above random", "pretrained, DINO tower alone", "DINO tower alone", DEPTH),
    Claim("true captions above shuffled", "pretrained", "pretrained, shuffled captions", DEPTH),
    Claim("shuffled captions above a random CLIP", "pretrained, shuffled captions", "pretrained DINO", DEPTH),
    Claim("pretrained: true order above shuffled", "pretrained", "pretrained, shuffled order", DEPTH),
    Claim(
        "pretrained: no coarse stage above shuffled order",
        "pretrained, no coarse stage",
        "pretrained, shuffled order",
        DEPTH,
    ),
    Claim("pretrained: coarse above none", "pretrained", "pretrained, no coarse stage", DEPTH),
    Claim("pretrained: the whole of language above none", "pretrained", "pretrained, no language", DEPTH),
    Claim("pretrained: joint keeps the order of words", "pretrained", "pretrained, published readout", WORDS),
    Claim("pretrained: both above CLIP's alone", "pretrained", "pretrained, CLIP tower alone", DEPTH),
    Claim("pretrained: both above DINO's alone", "pretrained", "pretrained, DINO tower alone", DEPTH),
    Claim(
        "pretrained and frozen: true order above shuffled",
        "pretrained, towers frozen",
        "pretrained, towers frozen, shuffled order",
        DEPTH,
    ),
    Claim(
        "pretrained and frozen: coarse above none",
        "pretrained, towers frozen",
        "pretrained, towers frozen, no coarse stage",
        DEPTH,
    ),
    Claim("4 drives: pretrained above random", "4 drives, pretrained", "4 drives", DEPTH),
    Claim("16 drives: pretrained above random", "16 drives, pretrained", "16 drives", DEPTH),
    Claim("64 drives above 4", "reference", "4 drives", DEPTH),
)
