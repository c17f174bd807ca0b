"""Configurations from strangers: they run no code, ask nothing of the network, and are refused in one sentence."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from hybrid_encoder import CheckpointError, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.checkpoints import read_config
from hybrid_encoder.checkpoints.sources import SHIPPED
from hybrid_encoder.config import PRESETS, SemanticConfig, SpatialConfig
from hybrid_encoder.config.serialization import MAX_BYTES
from hybrid_encoder.errors import ConfigError, HybridEncoderError
from hybrid_encoder.towers.spatial import build_spatial

from helpers.memory import peak, start_peak
from helpers.traps import Traps

Steps = tuple[str | int, ...]
VALID: dict[str, Any] = json.loads((SHIPPED / "tiny" / "config.json").read_text())
DEEP: Any = "deep"
for _ in range(200):
    DEEP = [DEEP]
HOSTILE: tuple[Any, ...] = (
    *(None, "", "x", "../../x", "hf-hub:a/b", "local-dir:/"),
    *(-1, 0, 1e9, 10**400, 1e-300, float("nan"), float("inf"), True),
    *([], {}, [[1]], DEEP),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose config.json each test overwrites."""
    place = tmp_path_factory.mktemp("checkpoint") / "tiny"
    shutil.copytree(SHIPPED / "tiny", place)
    return place


def write(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def fields(content: Any, at: Steps = ()) -> Iterator[Steps]:
    """Every place in nested JSON, outer ones first."""
    if at:
        yield at
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in items:
        yield from fields(value, (*at, name))


def changed(at: Steps, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(VALID)
    inner: Any = content
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = value
    return content


def refusal(folder: Path) -> str | None:
    """Load and predict: return the one sentence of a refusal, or None where the prediction is finite."""
    try:
        model = HybridDepthModel.from_pretrained(folder)
        prediction = model.infer(torch.rand(3, 64, 96))
    except HybridEncoderError as error:
        return one_sentence(str(error))
    assert prediction.disparity.isfinite().all(), "it loaded, and its output is not finite"
    return None


def one_sentence(text: str) -> str:
    assert "\n" not in text and len(text) < 2000
    return text


def with_overrides(tower: str, **changes: Any) -> dict[str, Any]:
    content = copy.deepcopy(VALID)
    encoder = content["config"]["encoder"]
    encoder[tower].update(changes)
    return content


# -- code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"weights_only": False, "pretrained_image": True, "pretrained_image_path": "TRAP"},
        {"weights_only": False, "pretrained_text": True, "pretrained_text_path": "TRAP"},
        {"load_weights": True, "pretrained": "TRAP"},
        {"cache_dir": "TRAP"},
        {"custom_text": True},
        {"multimodal_cfg": {}},
        {"jit": True},
        {"text_cfg": {"hf_model_name": "TRAP"}},
        {"vision_cfg": {"timm_model_name": "local-dir:TRAP", "timm_model_pretrained": True}},
    ],
)
def test_settings_beyond_the_architecture_are_refused(traps: Traps, folder: Path, more: dict[str, Any]) -> None:
    trap = folder / "trap.pt"
    trap.write_bytes(traps.pickle())
    overrides = json.loads(json.dumps(more).replace("TRAP", str(trap)))
    write(folder, with_overrides("semantic", overrides=overrides))
    says = refusal(folder)
    assert says is not None and "semantic.overrides" in says
    assert "unknown setting" in says or "timm_model_name is" in says


@pytest.mark.parametrize("tower", ["semantic", "spatial"])
@pytest.mark.parametrize(
    "name", ["local-dir:TRAP", "hf-hub:a/b", "hf_hub:timm/vit", "TRAP", "../x", "", "x" * 5000, "vit\x1b[31m"]
)
def test_names_with_a_schema_or_a_path_are_refused(traps: Traps, folder: Path, tower: str, name: str) -> None:
    for file in ("open_clip_pytorch_model.bin", "pytorch_model.bin"):
        (folder / file).write_bytes(traps.pickle())
    write(folder, with_overrides(tower, name=name.replace("TRAP", str(folder))))
    says = refusal(folder)
    assert says is not None and f"{tower}.name" in says and "\x1b" not in says


def test_code_beside_a_model_of_transformers_is_not_run(traps: Traps, tmp_path: Path) -> None:
    (tmp_path / "modeling.py").write_text(f"import os\nos.makedirs({str(traps.sprung)!r})\n")
    settings = {"model_type": "mine", "auto_map": {"AutoConfig": "modeling.C", "AutoModel": "modeling.M"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for pretrained in (False, True):
        with pytest.raises(ConfigError, match=r"spatial\.name is"):
            build_spatial(SpatialConfig(name=f"hf:{tmp_path}"), pretrained)


def test_a_pickle_beside_a_model_of_transformers_is_not_read(traps: Traps, tmp_path: Path) -> None:
    settings = {"model_type": "dinov2", "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "pytorch_model.bin").write_bytes(traps.pickle())
    with pytest.raises(ConfigError, match="safetensors"):
        build_spatial(SpatialConfig(name=f"hf:{tmp_path}"), True)


# -- network --------------------------------------------------------------------------------------------


def test_a_model_of_transformers_needs_its_stored_architecture(folder: Path) -> None:
    write(folder, with_overrides("spatial", name="hf:facebook/dinov2-base", overrides={}))
    says = refusal(folder)
    assert says is not None and "spatial.overrides.config" in says


@pytest.mark.parametrize(
    "more",
    [{"auto_map": {"AutoModel": "a/b--c.D"}}, {"_attn_implementation": "a/kernel"}, {"quantization_config": {}}],
)
def test_stored_settings_of_transformers_are_those_of_an_architecture(folder: Path, more: dict[str, Any]) -> None:
    config = {"model_type": "dinov2", "hidden_size": 96, **more}
    write(folder, with_overrides("spatial", name="hf:a/b", overrides={"config": config}))
    says = refusal(folder)
    assert says is not None and "unknown setting" in says


def test_a_kind_of_model_besides_dino_is_refused(folder: Path) -> None:
    write(folder, with_overrides("spatial", name="hf:a/b", overrides={"config": {"model_type": "llama"}}))
    says = refusal(folder)
    assert says is not None and "model_type" in says and "dinov2" in says


def test_every_architecture_of_open_clip_can_be_named(folder: Path) -> None:
    """None of the names asks for anything: a file with one is read, or refused for its text tower."""
    for name in open_clip.list_models():
        SemanticConfig(name=name)
    names = [
        name for name in open_clip.list_models() if "hf_model_name" in open_clip.get_model_config(name)["text_cfg"]
    ]
    assert names
    for name in names:
        write(folder, with_overrides("semantic", name=name, overrides={}))
        says = refusal(folder)
        assert says is not None and "text tower" in says


# -- what cannot be ---------------------------------------------------------------------------------------

CASES = [(at, value) for at in fields(VALID) for value in HOSTILE]


def check_change(folder: Path, at: Steps, value: Any) -> bool:
    """Return whether the change was refused; a refusal names the field."""
    says = refusal(write(folder, changed(at, value)))
    if says is not None:
        named = [str(name) for name in at if isinstance(name, str)]
        last = named[-1] if named[-1] not in ("class", "config") else named[0]
        # A size within its range is named by the tensor of the file that it does not fit.
        assert last in says or "needs" in says or "cannot be built" in says, (at, value, says)
    return says is not None


def test_a_sample_of_single_changes_is_refused_or_predicts(folder: Path) -> None:
    sample = random.Random(0).sample(CASES, 60)
    assert sum(check_change(folder, at, value) for at, value in sample) > 30


@pytest.mark.campaign
def test_every_single_change_is_refused_or_predicts(folder: Path) -> None:
    refused = sum(check_change(folder, at, value) for at, value in CASES)
    for at in fields(VALID):  # left out
        content = copy.deepcopy(VALID)
        inner: Any = content
        for name in at[:-1]:
            inner = inner[name]
        del inner[at[-1]]
        refused += refusal(write(folder, content)) is not None
    print(f"{len(CASES) + len(list(fields(VALID)))} changes, {refused} refused in one sentence, the others predict")


def check_bytes(folder: Path, seed: int, count: int) -> int:
    text, draw, refused = (SHIPPED / "tiny" / "config.json").read_bytes(), random.Random(seed), 0
    for _ in range(count):
        damaged = bytearray(text)
        damaged[draw.randrange(len(text))] = draw.randrange(256)
        (folder / "config.json").write_bytes(bytes(damaged))
        refused += refusal(folder) is not None
    return refused


def test_changed_bytes_are_refused_or_predict(folder: Path) -> None:
    assert check_bytes(folder, 0, 40) > 10


@pytest.mark.campaign
def test_a_thousand_changed_bytes_are_refused_or_predict(folder: Path) -> None:
    print(f"1000 changed bytes, {check_bytes(folder, 1, 1000)} refused")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[1]", "a JSON object is needed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ('{"class": "x", "class": "y"}', "stands twice"),
        ('{"class": NaN, "config": {}}', "this version knows"),
        ('{"class": ' + "9" * 10_000 + "}", "not JSON"),
        ('{"class": "os.system", "config": {}}', "this version knows"),
        ('{"class": ["HybridDepthModel"], "config": {}}', "this version knows"),
        ('{"config": {}}', "has no 'class'"),
        ('{"class": "HybridDepthModel"}', "has no 'config'"),
        ('{"format_version": 1e400}', "format_version"),
        ("x" * (MAX_BYTES + 1), "bytes"),
        ("\udcff", "UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=says) as caught:
        read_config(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (("prompts", "template"), "{} \x1b[2J", "prompts.template"),
        (("prompts", "template"), "{} \ud800", "prompts.template"),
        (("prompts", "words"), ["near\nfar", "far"], "prompts.words"),
        (("spatial", "name"), "hf:a\r| b", "spatial.name"),
        (("semantic", "pretrained"), "\x9b31m", "semantic.pretrained"),
    ],
)
def test_texts_hold_no_control_characters(folder: Path, at: Steps, value: Any, says: str) -> None:
    text = refusal(write(folder, changed(("config", "encoder", *at), value)))
    assert text is not None and says in text and text.isprintable()


def test_a_working_size_takes_no_more_memory_than_pictures_do(folder: Path) -> None:
    """``predict`` works at the size that the configuration states."""
    assert read_config(write(folder, changed(("config", "size"), [1536, 2048]))).size == (1536, 2048)
    says = refusal(write(folder, changed(("config", "size"), [65536, 65536])))
    assert says is not None and "size is (65536, 65536)" in says


def test_the_largest_sizes_are_compared_with_the_file_in_little_time(folder: Path) -> None:
    """A stated size within its range, far beyond the file's: refused by its first key, before memory is taken."""
    import time

    before, start = start_peak(), time.monotonic()
    for tower, overrides in (
        ("spatial", {"depth": 256, "embed_dim": 16384, "num_heads": 256, "img_size": 4096}),
        ("semantic", {"text_cfg": {"layers": 256, "width": 16384, "heads": 256, "vocab_size": 49408}}),
        ("semantic", {"vision_cfg": {"layers": [256, 256, 256, 256], "width": 4096}}),
    ):
        says = refusal(write(folder, with_overrides(tower, overrides=overrides)))
        assert says is not None
    assert time.monotonic() - start < 30 and peak() - before < 2**31


# -- what is right stays right ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read(folder: Path, name: str) -> None:
    config = PRESETS[name]
    write(folder, {"format_version": 2, "class": "HybridDepthModel", "config": config.to_dict()})
    assert read_config(folder) == config


def test_a_file_of_before_keeps_the_architecture_of_transformers(folder: Path) -> None:
    from transformers import Dinov2Config

    written = Dinov2Config(hidden_size=48).to_dict()
    config = HybridEncoderConfig().to_dict()
    config["spatial"].update(name="hf:a/b", overrides={"config": written})
    write(folder, {"format_version": 1, "class": "HybridDepthEncoder", "config": config})
    stored = read_config(folder).spatial.overrides["config"]
    assert stored["hidden_size"] == 48 and stored["model_type"] == "dinov2" and "id2label" not in stored
