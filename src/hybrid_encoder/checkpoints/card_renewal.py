"""Model cards that are written again: what is ours is renewed, and what a person wrote stays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LIBRARY = "hybrid-encoder"


@dataclass
class Card:
    """A card in its parts.

    Attributes:
        metadata: of the block at the top, which the Hub reads.
        intro: what stands before the first section, the title included.
        sections: Markdown by heading (``## ...``), in their order.
    """

    metadata: dict[str, Any]
    intro: str
    sections: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        from huggingface_hub import CardData

        block = CardData(**self.metadata).to_yaml()
        parts = [self.intro, *(f"## {heading}\n\n{text}" for heading, text in self.sections.items())]
        return f"---\n{block}\n---\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def read_card(text: str | None) -> Card | None:
    """Return a card of this library in its parts; None for anything else, which is its author's alone."""
    from huggingface_hub import RepoCard

    if not text or not text.lstrip().startswith("---"):
        return None
    try:
        read = RepoCard(text)
        metadata: dict[str, Any] = vars(read.data)
    except Exception:  # whatever YAML that a person wrote makes its parser raise
        return None
    if metadata.get("library_name") != LIBRARY:
        return None
    intro, *sections = _split(read.text)
    found: dict[str, str] = {}
    for section in sections:
        heading, _, body = section.partition("\n")
        heading = heading.removeprefix("## ").strip()
        while heading in found:  # two sections of one name are two
            heading += " "
        found[heading] = body.strip()
    return Card(metadata, intro.strip(), found)


def renew(old: Card, new: Card, kept: Sequence[str], given: Mapping[str, Any]) -> Card:
    """Return a card anew, with what a person changed in the old one.

    Args:
        old: as it stands there.
        new: as it would be written where none is.
        kept: the sections of ours that stay as they are.
        given: the metadata that the caller gives; other metadata of the old card stays, except what ``new`` knows
            better than a person: the library, the task, the models that it was made from.
    """
    known: dict[str, Any] = {
        key: new.metadata[key] for key in ("library_name", "pipeline_tag", "base_model") if key in new.metadata
    }
    # The name and address of a licence go with the licence that is taken.
    stated = {k: v for k, v in new.metadata.items() if "license" not in old.metadata or not k.startswith("license_")}
    unchanged = {k: v for k, v in old.metadata.items() if "license" not in given or not k.startswith("license_")}
    metadata: dict[str, Any] = {**stated, **unchanged, **known, **given}
    tags = old.metadata.get("tags")
    metadata["tags"] = list(dict.fromkeys([*(tags if isinstance(tags, list) else []), *new.metadata["tags"]]))
    sections: dict[str, str] = {
        heading: new.sections[heading] if heading in new.sections and heading not in kept else text
        for heading, text in old.sections.items()
    }
    return Card(metadata, old.intro, {**sections, **{k: v for k, v in new.sections.items() if k not in sections}})


def _split(text: str) -> list[str]:
    """Return what stands before the first heading of the second level, and each section; code is no heading."""
    parts: list[list[str]] = [[]]
    fence = ""
    for line in text.splitlines():
        if found := re.match(r"\s*(```+|~~~+)", line):
            fence = "" if fence and found[1].startswith(fence) else fence or found[1]
        if not fence and line.startswith("## "):
            parts.append([])
        parts[-1].append(line)
    return ["\n".join(lines) for lines in parts]
