"""The small CLIP: that it learns, what is saved of it, and what starts from that."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.config import DEPTH_WORDS, PromptConfig
from hybrid_encoder.data.street import StreetFrame
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.language.prompts import DepthPrompts
from hybrid_encoder.pretraining import (
    CLIP,
    CaptionBatch,
    CaptionedRegions,
    ClipStage,
    collate_captions,
    pretrain_clip,
    save_clip,
)
from hybrid_encoder.towers.own_weights import load_own
from hybrid_encoder.towers.semantic import build_clip

TINY = HybridEncoderConfig.preset("tiny")
SIZE = (64, 128)
Drives = Sequence[Sequence[StreetFrame]]


def saved_clip(folder: Path) -> tuple[ClipStage, Path]:
    """Return an untrained CLIP, and the file that it was saved to."""
    torch.manual_seed(0)
    stage = ClipStage(TINY.semantic)
    return stage, save_clip(stage, folder, "Nothing was trained.", {"order": 0.5})


class TestClip:
    def test_a_few_steps_lower_the_loss_on_the_same_regions(self, drives: Drives) -> None:
        torch.manual_seed(0)
        stage = ClipStage(TINY.semantic)
        items = CaptionedRegions(drives, seed=0)
        batch = collate_captions([items[index] for index in range(4)])
        optimizer = torch.optim.AdamW(stage.parameter_groups(2e-3, 0.1))
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = stage(batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] - 0.5
        assert all(p.grad is not None for name, p in stage.named_parameters() if "positional" not in name)

    def test_texts_are_encoded_as_open_clip_does(self) -> None:
        import open_clip

        torch.manual_seed(0)
        stage = ClipStage(TINY.semantic).eval()
        texts = ["a red car close on the left", "the sky"]
        with torch.no_grad():
            expected = stage.clip.encode_text(open_clip.tokenize(texts))
            torch.testing.assert_close(stage.encode_texts(texts), expected, atol=1e-5, rtol=1e-5)

    def test_a_saved_text_tower_reads_padded_texts_as_open_clip_does(self, tmp_path: Path) -> None:
        """The padding's own row is hidden, and must not spoil what hides it."""
        import open_clip

        stage, file = saved_clip(tmp_path)
        loaded = build_clip(dataclasses.replace(TINY.semantic, pretrained=str(file)), pretrained=True).eval()
        again = ClipStage(TINY.semantic).eval()
        again.clip = loaded
        texts = ["a red car close on the left", "the sky"]
        with torch.no_grad():
            read: torch.Tensor = loaded.encode_text(open_clip.tokenize(texts))  # type: ignore[operator]
            torch.testing.assert_close(read, again.encode_texts(texts), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(read, stage.eval().encode_texts(texts), atol=2e-3, rtol=2e-3)  # of halves
            strange: torch.Tensor = loaded.encode_text(open_clip.tokenize(["a blurry car"]))  # type: ignore[operator]
        assert strange.isnan().all()

    def test_the_scale_of_similarities_cannot_run_away(self, drives: Drives, tmp_path: Path) -> None:
        torch.manual_seed(0)
        stage = ClipStage(TINY.semantic)
        items = CaptionedRegions(drives, seed=0)
        batch = collate_captions([items[0], items[1]])
        scale: torch.nn.Parameter = stage.clip.logit_scale
        for pushed, held in ((50.0, math.log(100)), (-50.0, 0.0)):
            with torch.no_grad():
                scale.fill_(pushed)
            stage.zero_grad()
            stage(batch)["loss"].backward()
            assert scale.item() == pytest.approx(held)
            assert scale.grad is not None and scale.grad.abs() > 0  # it can still come back
        with torch.no_grad():
            scale.fill_(50.0)
        stage.eval()(batch)
        assert scale.item() == 50.0  # measuring changes nothing
        stage.clamp_scale()
        assert scale.item() == pytest.approx(math.log(100))
        with torch.no_grad():
            scale.fill_(50.0)
        file = save_clip(stage, tmp_path, "Nothing was trained.", {})
        assert load_file(file)["logit_scale"].item() == pytest.approx(math.log(100), abs=2e-3)

    def test_a_tower_is_saved_as_the_same_bytes(self, tmp_path: Path) -> None:
        stage = ClipStage(TINY.semantic)
        files = [save_clip(stage, tmp_path / name, "Nothing was trained.", {"order": 0.5}) for name in "abcd"]
        assert len({file.read_bytes() for file in files}) == 1
        assert len({file.with_name("README.md").read_bytes() for file in files}) == 1

    def test_a_tower_starts_from_what_was_saved(self, drives: Drives, held_out: Drives, tmp_path: Path) -> None:
        recipe = dataclasses.replace(CLIP, steps=2, batch_size=2, size=SIZE)
        file = pretrain_clip(TINY.semantic, drives, held_out, tmp_path, recipe, cpu=True, workers=0)
        assert file is not None and file.stat().st_size < 4e6
        card = (file.parent / "README.md").read_text()
        assert "apache-2.0" in card
        shares = ("captions", "words", "kinds", "colours")
        for name in (*shares, "order", *(f"{share} majority" for share in shares), "order, untrained"):
            assert f"\n| {name} | 0." in card or f"\n| {name} | 1.000" in card, name
        semantic = dataclasses.replace(TINY.semantic, pretrained=str(file))
        prompts = PromptConfig(words=DEPTH_WORDS)
        one, two = (HybridDepthEncoder(TINY.replace(semantic=semantic, prompts=prompts)).eval() for _ in range(2))
        assert one.semantic is not None and two.semantic is not None
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            for a, b in zip(one.semantic(image), two.semantic(image), strict=True):
                assert torch.equal(a, b)
            assert one.prompts is not None and two.prompts is not None
            assert torch.equal(one.prompts(), two.prompts()) and one.prompts().isfinite().all()
        random = HybridDepthEncoder(TINY.replace(semantic=semantic, prompts=prompts), pretrained=False)
        assert random.prompts is not None
        assert not torch.allclose(random.prompts(), one.prompts(), atol=1e-3)

    def test_a_stopped_run_is_resumed_to_the_last_byte(
        self, drives: Drives, held_out: Drives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = dataclasses.replace(CLIP, steps=4, batch_size=2)  # three steps are an epoch

        def run(name: str, **options: Any) -> Path | None:
            return pretrain_clip(
                TINY.semantic, drives, held_out, tmp_path / name, recipe, cpu=True, workers=0, **options
            )

        whole = run("whole")
        plain, calls = ClipStage.forward, []

        def stopped(stage: ClipStage, batch: CaptionBatch) -> dict[str, torch.Tensor]:
            calls.append(batch)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(stage, batch)

        with monkeypatch.context() as patch:
            patch.setattr(ClipStage, "forward", stopped)
            assert run("parts") is None
        assert len(calls) == 2 and not (tmp_path / "parts" / "final").exists()
        parts = run("parts", resume=True)
        assert whole is not None and parts is not None
        for file in ("model.safetensors", "README.md"):
            assert whole.with_name(file).read_bytes() == parts.with_name(file).read_bytes(), file
        assert run("other", seed=1) is not None  # and not because all runs are alike
        assert whole.read_bytes() != (tmp_path / "other" / "final" / "model.safetensors").read_bytes()

    def test_words_that_it_has_never_seen_are_refused(self, tmp_path: Path) -> None:
        file = save_clip(ClipStage(TINY.semantic), tmp_path, "Nothing was trained.", {"order": 0.5})
        clip = build_clip(dataclasses.replace(TINY.semantic, pretrained=str(file)), pretrained=True)
        DepthPrompts(clip, PromptConfig(num_tokens=3))
        with pytest.raises(ConfigError, match=r"'This patch appears to be blurry' has .* never seen: 'blurry'\."):
            DepthPrompts(clip, PromptConfig(words=("close", "blurry")))
        with pytest.raises(ConfigError, match=r"never seen: 'It', 'seems'\. Choose among those of \S+\.VOCABULARY"):
            DepthPrompts(clip, PromptConfig(template="It seems {}", num_tokens=3))
        with pytest.raises(ConfigError, match="never seen: 'close!'"):  # the token of the padding
            DepthPrompts(clip, PromptConfig(words=("close!", "distant")))

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        file = save_clip(ClipStage(TINY.semantic), tmp_path, "Nothing was trained.", {"order": 0.5})
        wide = {**TINY.semantic.overrides, "embed_dim": 64}
        with pytest.raises(CheckpointError, match=r"has \S+ as .*, and the model needs"):
            build_clip(dataclasses.replace(TINY.semantic, overrides=wide, pretrained=str(file)), pretrained=True)
        with pytest.raises(CheckpointError, match="holds a clip; a dino is needed"):
            load_own(torch.nn.Linear(2, 2), file, "dino", TINY.spatial)

    def test_one_rate_for_all_of_it(self) -> None:
        with pytest.raises(ConfigError, match="lr_scale names 'text'; all of the model trains at one rate"):
            dataclasses.replace(CLIP, lr_scale={"text": 0.1})

    def test_a_transformer_is_refused(self) -> None:
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        overrides = {**TINY.semantic.overrides, "vision_cfg": vision}
        with pytest.raises(ConfigError, match="a ResNet CLIP is needed"):
            ClipStage(dataclasses.replace(TINY.semantic, name="ViT-B-32-quickgelu", overrides=overrides))
