"""The language loss in the training of a repository's own trainer."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from hybrid_encoder import HybridEncoderConfig
from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.pixel_language import PixelLanguageLoss

from helpers.toy_repository import Repo

TINY = HybridEncoderConfig.preset("tiny")


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("first", ["patch", "trainer"])
def test_the_language_loss_is_added_and_logged_under_its_name(repo: Repo, first: str) -> None:
    if first == "trainer":
        repo.load()
    handle = monodepth2.patch("tiny", language_loss=0.5)
    module = repo.load()
    assert "trainer.Trainer.compute_losses" in handle.replaced
    torch.manual_seed(0)
    trainer = module.Trainer()
    losses, outputs = trainer.step(_images())
    logits = [outputs["language", level] for level in range(4)]
    assert {x.shape[:2] for x in logits} == {(2, 16)}
    expected = sum(PixelLanguageLoss(bin_centers(16, 0.1, 100.0))(x, outputs["depth", 0, 0]) for x in logits) / 4
    torch.testing.assert_close(losses["language_loss"], expected)
    torch.testing.assert_close(losses["loss"], outputs["disp", 0].mean() + 0.5 * expected)
    losses["language_loss"].backward()
    assert trainer.encoder.encoder.prompts.tokens.grad.abs().sum() > 0
    assert all(p.grad is None for p in trainer.depth.parameters()), "the depth is a target, not a thing to bend"
    assert ("language", 0) not in trainer.mask(trainer.encoder(_images()))
    handle.undo()
    assert module.Trainer.compute_losses.__module__ == "trainer"
    assert "language_loss" not in trainer.compute_losses({}, outputs)


def test_the_joint_readout_reaches_the_repository_s_training(repo: Repo) -> None:
    assert TINY.prompts is not None
    joint = TINY.replace(prompts=dataclasses.replace(TINY.prompts, readout="joint"))
    with monodepth2.patch(joint, language_loss=0.5):
        module = repo.load()
        torch.manual_seed(0)
        trainer = module.Trainer()
        losses, outputs = trainer.step(_images())
    assert trainer.encoder.encoder.config.prompts.readout == "joint"
    first = outputs["language", 0]
    assert all(torch.equal(outputs["language", level], first) for level in range(4))
    expected = PixelLanguageLoss(bin_centers(16, 0.1, 100.0))(first, outputs["depth", 0, 0])
    torch.testing.assert_close(losses["language_loss"], expected)


def test_a_trainer_that_extends_another_adds_the_language_loss_once(repo: Repo) -> None:
    repo.write(
        {
            "special.py": """
                from trainer import Trainer

                class Special(Trainer):
                    def compute_losses(self, inputs, outputs):
                        return super().compute_losses(inputs, outputs)
            """
        }
    )
    handle = monodepth2.patch("tiny", language_loss=0.5)
    special = repo.load("special").Special
    names = {"trainer.Trainer.compute_losses", "special.Special.compute_losses"}
    assert names <= set(handle.replaced)
    losses, outputs = special().step(_images())
    torch.testing.assert_close(losses["loss"], outputs["disp", 0].mean() + 0.5 * losses["language_loss"])


def test_undo_leaves_a_method_alone_that_was_given_anew(repo: Repo) -> None:
    handle = monodepth2.patch("tiny", language_loss=0.5)
    trainer = repo.load().Trainer

    def mine(self: object, inputs: object, outputs: object) -> dict[str, torch.Tensor]:
        return {}

    trainer.compute_losses = mine
    handle.undo()
    assert trainer.compute_losses is mine


def test_without_a_weight_nothing_is_added(repo: Repo) -> None:
    handle = monodepth2.patch("tiny")
    losses, outputs = repo.load().Trainer().step(_images())
    assert list(losses) == ["loss"] and ("language", 0) not in outputs
    assert not any("compute_losses" in name for name in handle.replaced)


def test_a_language_loss_that_cannot_be_is_named(repo: Repo) -> None:
    for weight in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"language_loss is .*; it is a weight, 0 or more"):
            monodepth2.patch("tiny", language_loss=weight)
    with pytest.raises(ConfigError, match="language_loss needs decoder='dpt'"):
        monodepth2.patch("tiny", language_loss=0.1, decoder="repository")
    with (
        monodepth2.patch(TINY.replace(prompts=None), language_loss=0.1),
        pytest.raises(ConfigError, match="the encoder has no prompts"),
    ):
        repo.load().Trainer()
    networks = repo.load("networks")
    del sys.modules["trainer"]
    with monodepth2.patch("tiny", language_loss=0.1):
        encoder = networks.ResnetEncoder(18, False)
        with pytest.raises(AdapterError, match="no class with compute_losses"):
            networks.DepthDecoder(encoder.num_ch_enc, [0])
