"""The examples of all docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import hybrid_encoder

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(hybrid_encoder.__path__, "hybrid_encoder.")
    if module.name != "hybrid_encoder.__main__"
)
AT_LEAST = {
    "hybrid_encoder.losses.coarse": 7,
    "hybrid_encoder.losses.pixel_language": 2,
    "hybrid_encoder.language.depth_words": 2,
    "hybrid_encoder.data.ordered": 1,
    "hybrid_encoder.models.encoder": 3,
    "hybrid_encoder.models.matching": 5,
    "hybrid_encoder.deploy.export": 3,
}
"""How many example lines a module is known to have, so that none is lost unseen."""


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name: str) -> None:
    module = importlib.import_module(name)
    namespace = {"torch": importlib.import_module("torch"), **vars(module)}
    result = doctest.testmod(module, extraglobs=namespace)
    assert not result.failed
    assert result.attempted >= AT_LEAST.get(name, 0)
