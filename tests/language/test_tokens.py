"""Prompts through every kind of text tower and tokenizer, against open_clip's own ``encode_text``."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import pytest
import torch

from hybrid_encoder import CheckpointError, ConfigError, HybridDepthEncoder, HybridEncoderConfig, PromptConfig
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.language import DepthPrompts, prompts, tokens
from hybrid_encoder.towers.semantic import build_clip

from helpers.small_models import small_clip, small_dino
from helpers.small_timm import small_family

NAMES = ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "EVA02-B-16", "MobileCLIP-B", "MobileCLIP-S1", "MobileCLIP2-S3")
WORDS = sorted({*" ".join(DEPTH_WORDS).split(), *["this", "patch", "appears", "to", "be", "it", "is", "a"]})


def write_tokenizer(folder: Path, padding: int) -> Path:
    """Write a tokenizer in the files that SigLIP's have on the Hub: a text, an end, and padding."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *(f"\u2581{word}" for word in WORDS)])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    own.normalizer = normalizers.Strip()
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="</s>", pad_token=special[padding], unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[mock.Mock]:
    """Both families' tokenizers where the Hub would have put them; counts how often the Hub is asked."""
    folders = {padding: write_tokenizer(tmp_path / str(padding), padding) for padding in (0, 1)}

    def find(repository: str, *_: Any, **__: Any) -> tuple[Path, str]:
        return folders[0 if "SigLIP2" in repository else 1], "tokenizer.json"

    with mock.patch.object(tokens, "hub_folder", side_effect=find) as hub:
        yield hub


def _clip(name: str) -> Any:
    torch.manual_seed(3)
    clip: Any = build_clip(small_family(name), False).eval()
    for parameter in clip.text.parameters():
        if parameter.ndim == 1:  # norms and biases, which start as if they were not there
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    return clip


def _own_ids(name: str, clip: Any, texts: list[str], tmp_path: Path) -> torch.Tensor:
    """Tokenize as open_clip does for the model."""
    if "SigLIP" in name:
        folder = tmp_path / ("0" if "SigLIP2" in name else "1")
        cleaning = open_clip.get_model_config(name)["text_cfg"]["tokenizer_kwargs"]
        tokenizer: Any = open_clip.tokenizer.HFTokenizer(str(folder), context_length=64, **cleaning)
    else:
        tokenizer = open_clip.get_tokenizer(name)
    return torch.as_tensor(tokenizer(texts))


def _matrix(clip: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        rows: torch.Tensor = clip.encode_text(ids, normalize=True)
        matrix: torch.Tensor = rows / rows.norm()
    return matrix


@pytest.mark.parametrize("name", NAMES)
def test_words_are_what_open_clip_encodes(name: str, asked: mock.Mock, tmp_path: Path) -> None:
    clip, config = _clip(name), PromptConfig(words=DEPTH_WORDS)
    ids = _own_ids(name, clip, [config.template.format(word) for word in DEPTH_WORDS], tmp_path)
    ours = DepthPrompts(clip, config)
    torch.testing.assert_close(ours().detach(), _matrix(clip, ids), atol=1e-6, rtol=0)
    assert ours().detach().std(0).max() > 1e-4, "the words differ"
    assert asked.called == ("SigLIP" in name)


@pytest.mark.parametrize("template", ["This patch appears to be {}", "{}", "a {} it is"])
@pytest.mark.parametrize("name", NAMES)
def test_learned_tokens_are_what_open_clip_encodes(name: str, template: str, asked: mock.Mock, tmp_path: Path) -> None:
    clip = _clip(name)
    ours = DepthPrompts(clip, PromptConfig(template=template, num_tokens=3))
    assert ours.tokens is not None
    # "close" is one token: its place is that of the learned token, which takes the embedding of a token that is free.
    ids = _own_ids(name, clip, [template.format("close")] * 3, tmp_path)
    of_close = _own_ids(name, clip, ["close"], tmp_path)[0, 0 if "SigLIP" in name else 1]
    place = int((ids[0] == of_close).nonzero()[0])
    free = torch.tensor([45, 46, 47])
    ids[:, place] = free
    whole = copy.deepcopy(clip)
    with torch.no_grad():
        whole.text.token_embedding.weight[free] = ours.tokens
    torch.testing.assert_close(ours().detach(), _matrix(whole, ids), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "MobileCLIP-S1"])
def test_a_tower_that_sees_all_tokens_is_never_read_causally(name: str, asked: mock.Mock) -> None:
    with mock.patch.object(prompts, "encode_causally") as causal:
        found = DepthPrompts(_clip(name), PromptConfig(num_tokens=3))
        found()
    assert not causal.called and found.shared == 0
    assert found.index.shape == (3, found.reading.places), "padding is seen, too"


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "MobileCLIP-S1"])
def test_gradients_reach_every_part(name: str, asked: mock.Mock) -> None:
    found = DepthPrompts(_clip(name), PromptConfig(num_tokens=3, init="words"))
    (found() @ torch.randn(found.dim)).square().sum().backward()
    silent = [key for key, parameter in found.named_parameters() if parameter.grad is None]
    assert not silent
    assert ("text_projection_bias" in dict(found.named_parameters())) == ("SigLIP" in name)
    frozen = {id(parameter) for parameter in found.text_parameters()}
    assert found.tokens is not None and id(found.tokens) not in frozen


def test_a_checkpoint_is_loaded_without_the_tokenizer(asked: mock.Mock, tmp_path: Path) -> None:
    config = HybridEncoderConfig(
        semantic=small_family("ViT-B-16-SigLIP2"),
        spatial=small_dino("vit_small_patch14_dinov2"),
        prompts=PromptConfig(num_tokens=7, init="words"),
    )
    encoder = HybridDepthEncoder(config, pretrained=False).eval()
    assert asked.called
    encoder.save_pretrained(tmp_path / "saved")
    asked.reset_mock()
    again = HybridDepthEncoder.from_pretrained(tmp_path / "saved")
    assert not asked.called
    assert again.prompts is not None and encoder.prompts is not None
    assert torch.equal(again.prompts(), encoder.prompts())
    # Other prompts of known texts need it as little; new words ask for it, and may need an embedding that is gone.
    again.set_prompts(PromptConfig(num_tokens=3))
    assert not asked.called and again.config.prompts is not None and set(again.config.prompts.token_ids) == {
        "", "This patch appears to be "
    }  # fmt: skip
    with pytest.raises(ConfigError, match="has words that this checkpoint's text tower has not kept"):
        again.set_prompts(PromptConfig(words=("close", "distant")))
    assert asked.called


def test_stored_tokens_are_those_of_their_texts(asked: mock.Mock) -> None:
    clip = _clip("ViT-B-16-SigLIP")
    stored = DepthPrompts(clip, PromptConfig(words=("close", "distant"))).config
    assert stored.token_ids[""] == [1, 1]
    assert [len(ids) for text, ids in stored.token_ids.items() if text] == [6, 6]
    asked.reset_mock()
    assert DepthPrompts(clip, stored).config == stored and not asked.called
    changed = DepthPrompts(clip, dataclasses.replace(stored, words=("close", "very distant")))
    assert asked.called, "a text that is new is not taken for an old one"
    assert set(changed.config.token_ids) == {
        "",
        "This patch appears to be close",
        "This patch appears to be very distant",
    }
    assert DepthPrompts(_clip("EVA02-B-16"), stored).config.token_ids == {}, "CLIP's own need no storing"


def test_a_tokenizer_that_cannot_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = _clip("ViT-B-16-SigLIP")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        DepthPrompts(clip, PromptConfig(num_tokens=3))
    says = str(error.value)
    assert says.startswith("the tokenizer of the prompts (timm/ViT-B-16-SigLIP on the Hugging Face Hub) cannot be")
    assert says.endswith("(ViT-B-16, EVA02-B-16, MobileCLIP2-S2, ...).") and "\n" not in says
    (tmp_path / "tokenizer.json").write_text("{")
    with (
        mock.patch.object(tokens, "hub_folder", return_value=(tmp_path, "tokenizer.json")),
        pytest.raises(CheckpointError, match=r"'timm/ViT-B-16-SigLIP' in .* cannot be read .*; remove this folder"),
    ):
        DepthPrompts(clip, PromptConfig(num_tokens=3))


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))  # adds no end
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    with (
        mock.patch.object(tokens, "hub_folder", return_value=(tmp_path, "tokenizer.json")),
        pytest.raises(CheckpointError, match="does not end a text with one token and padding"),
    ):
        DepthPrompts(_clip("ViT-B-16-SigLIP2"), PromptConfig(num_tokens=3))


@pytest.mark.parametrize("kind", ["T5Tokenizer", "GemmaTokenizer"])
def test_siglips_kinds_of_tokenizer_give_what_their_files_say(kind: str, tmp_path: Path) -> None:
    """SigLIP's files name T5's class and SigLIP2's Gemma's, which transformers builds in its own way."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = sorted({"\u2581", *"".join(WORDS)})
    own: Any
    if kind == "T5Tokenizer":
        special = ["<pad>", "</s>", "<unk>"]
        scores = [(token, 0.0) for token in special] + [(f"\u2581{word}", -1.0) for word in WORDS]
        own = Tokenizer(models.Unigram([*scores, *((letter, -9.0) for letter in letters)], unk_id=2))
        own.pre_tokenizer = pre_tokenizers.Metaspace()
        stated = {"eos_token": "</s>", "pad_token": "</s>", "extra_ids": 0}
    else:
        special = ["<pad>", "<eos>", "<bos>", "<unk>"]
        own = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *letters])}, [], unk_token="<unk>"))
        own.normalizer = normalizers.Replace(" ", "\u2581")
        stated = {"eos_token": "<eos>", "pad_token": "<pad>", "add_eos_token": True, "padding_side": "right"}
    end = special[1]
    own.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    own.add_special_tokens(special)
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **stated}))
    with mock.patch.object(tokens, "hub_folder", return_value=(tmp_path, "tokenizer.json")):
        read = tokens.HubTokens("timm/x-SigLIP", {})
        assert (read.end, read.padding) == (1, 1 if kind == "T5Tokenizer" else 0)
        assert [*read.encode("This patch, appears"), 1] == own.encode("this patch appears").ids
        both = [*read.encode("This patch "), *read.encode(" it is"), 1]
        assert both == own.encode("this patch it is").ids, "as one text"


def test_tokens_that_the_text_tower_lacks_are_refused() -> None:
    ids = {"": [1, 0], "This patch appears to be ": [5, 700]}
    with pytest.raises(ConfigError, match=r"gives the token 700, and this text tower has 64"):
        DepthPrompts(_clip("ViT-B-16-SigLIP2"), PromptConfig(num_tokens=3, token_ids=ids))
    with pytest.raises(ConfigError, match=r"prompts.token_ids\['a'\] is \[-1\]"):
        PromptConfig(token_ids={"a": [-1]})


def test_clips_own_tower_is_unchanged() -> None:
    """Nothing of the above is in the configuration or the weights of a CLIP of OpenAI's kind."""
    torch.manual_seed(3)
    found = DepthPrompts(build_clip(small_clip("RN50-quickgelu", layers=[1, 1, 1, 1], width=16), False), PromptConfig())
    assert found.config == PromptConfig() and "text_projection_bias" not in found.state_dict()
    assert found.reading.length is None and found.shared == 6
