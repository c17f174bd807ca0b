"""What a codebase's classes take and give is compared with ours when they are patched, not in the first step."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from hybrid_encoder.adapters import codebases, monodepth2, unserved
from hybrid_encoder.adapters.networks import DepthEncoder
from hybrid_encoder.adapters.patching.seams import output_keys, required_inputs
from hybrid_encoder.adapters.recipes import CodebaseRecipe
from hybrid_encoder.errors import AdapterError, ConfigError

from helpers.toy_repository import DECODER, RESNET, Repo

STORE = '("disp", s): torch.sigmoid(F.interpolate(self.heads[s](features[s]), scale_factor=2))'
# What is changed in the toy repository, and what patch() says.
CASES: dict[str, tuple[str, str, str, str]] = {
    "an input beside the features": (
        "depth_decoder",
        "forward(self, features)",
        "forward(self, features, norm_pix_coords)",
        r"DepthDecoder: its forward needs 'norm_pix_coords' beside 'features'.*decoder='repository'",
    ),
    "inputs beside the image": (
        "resnet_encoder",
        "forward(self, images)",
        "forward(self, images, time_of_day, stage)",
        r"ResnetEncoder: its forward needs 'time_of_day', 'stage' beside 'images'.*recipe=",
    ),
    "keys of three parts": (
        "depth_decoder",
        STORE,
        STORE.replace('("disp", s)', '("disp", 0, s)'),
        r"its forward gives \('disp', …, …\), and the DPT decoder \('disp', scale\): decoder='repository'",
    ),
    "keys of another name": (
        "depth_decoder",
        STORE,
        STORE.replace('"disp"', '"disparity"'),
        r"its forward gives \('disparity', …\), and the DPT decoder",
    ),
    "a list": (
        "depth_decoder",
        "return {\n                " + STORE,
        "return [self.heads[s](features[s]) for s in self.scales] or {\n                s: 0",
        r"its forward gives no outputs under such keys, and the DPT decoder",
    ),
    "no scales": (
        "depth_decoder",
        "num_ch_enc, scales=range(4), num_output_channels=1, use_skips=True",
        "num_ch_enc, num_output_channels=1, scale_list=()",
        r"DepthDecoder takes no argument 'scales', which says what to build: decoder='repository'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_ours_does_not_take_or_give_is_said_when_it_is_patched(repo: Repo, case: str) -> None:
    module, old, new, says = CASES[case]
    text = {"depth_decoder": DECODER, "resnet_encoder": RESNET}[module]
    assert old in text
    repo.write({f"networks/{module}.py": text.replace(old, new)})
    with pytest.raises(AdapterError, match=says):
        monodepth2.patch("tiny")
    if module == "depth_decoder":
        with monodepth2.patch("tiny", decoder="repository"):
            assert isinstance(repo.load("networks").ResnetEncoder(18, False), DepthEncoder)


@pytest.mark.parametrize(
    "body",
    [
        "outputs = {}\n        outputs['disp', 0] = x",
        "self.outputs[('disp', 0)] = x",
        "return {('disp', 0): x}",
        "return {('disp', s): x for s in (0, 1)}",
        "out.update({('disp', 0): x})",
    ],
)
def test_keys_are_read_off_the_source(repo: Repo, body: str) -> None:
    repo.write(
        {"decoder.py": "import torch.nn as nn\nclass D(nn.Module):\n    def forward(self, x, y=1):\n        " + body}
    )
    found = repo.load("decoder").D
    assert output_keys(found) == {("disp", 2)} and required_inputs(found) == ["x"]


def test_what_has_no_source_or_no_forward_is_not_judged() -> None:
    made: Any = type("Made", (nn.Module,), {"forward": lambda self, x: x})
    assert output_keys(made) is None
    assert output_keys(type("Bare", (nn.Module,), {})) is None


def test_recipes_choose_the_decoder_that_can_work(repo: Repo) -> None:
    own = CodebaseRecipe("fork", own_decoder="it reads more")
    with monodepth2.patch("tiny", recipe=own) as handle:
        assert handle.settings.decoder == "repository"
    with pytest.raises(AdapterError, match=r"fork's decoder cannot be replaced .*, as it reads more: decoder='reposi"):
        monodepth2.patch("tiny", recipe=own, decoder="dpt")
    with pytest.raises(AdapterError, match="as it reads more"):
        monodepth2.patch("tiny", recipe=own, language_loss=0.1)
    other = CodebaseRecipe("fork", dpt_decoder="its own reads lists")
    with pytest.raises(AdapterError, match=r"fork's own decoder cannot read .*, as its own reads lists: decoder='dpt'"):
        monodepth2.patch("tiny", recipe=other, decoder="repository")
    for old in ("monodepth2", "manydepth"):
        with pytest.raises(ConfigError, match=f"decoder is '{old}'; it must be 'dpt' or 'repository'"):
            monodepth2.patch("tiny", decoder=old)  # type: ignore[arg-type]


def test_a_teacher_of_the_codebases_own_is_left_alone(repo: Repo) -> None:
    recipe = CodebaseRecipe("fork", left_alone=(("num_layers", 50),), own_decoder="it has a teacher")
    networks = repo.load("networks")
    with monodepth2.patch("tiny", recipe=recipe):
        assert isinstance(networks.ResnetEncoder(18, False), DepthEncoder)
        assert type(networks.ResnetEncoder(50, False)) is networks.ResnetEncoder


def test_several_recipes_serve_one_codebase(repo: Repo) -> None:
    repo.write({"networks/other.py": RESNET.replace("ResnetEncoder", "Other")})
    networks, both = repo.load("networks"), (CodebaseRecipe("a"), CodebaseRecipe("b", "other.Other"))
    with monodepth2.patch("tiny", recipe=both):
        assert isinstance(networks.ResnetEncoder(18, False), DepthEncoder)
        assert isinstance(repo.load("networks.other").Other(18, False), DepthEncoder)


def test_no_two_codebases_share_all_their_marks() -> None:
    known = {name: each.marks for name, each in codebases.SINGLE_FRAME.items() if each.marks}
    known |= {name: each.marks for name, each in unserved.REFUSED.items()}
    for name, marks in known.items():
        assert not any(set(marks) <= set(others) for other, others in known.items() if other != name), name
