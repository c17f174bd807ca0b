"""transformers itself training our models: its Trainer, and its heads of DPT and Depth Anything on our backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoModelForDepthEstimation,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
    Trainer,
    TrainingArguments,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import hybrid_encoder.integrations.transformers as ours
from hybrid_encoder.config import HybridDepthConfig
from hybrid_encoder.errors import InputError
from hybrid_encoder.integrations.transformers.losses import log_depth_loss
from hybrid_encoder.models.depth import HybridDepthModel

from helpers.plugs import plugs


@pytest.fixture
def model() -> Any:
    return ours.HybridDepthForDepthEstimation.from_pretrained("tiny")


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def step(model: Any, images: Tensor) -> set[str]:
    """Take a step of SGD that makes depth smaller, and return the names of the parameters that changed."""
    before = copies(model.train())
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
    model(images).predicted_depth.mean().backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


class TestTrainer:
    @plugs("transformers", "`Trainer`", "run", "train", "save", "load")
    def test_it_learns_measured_depth(self, model: Any, tmp_path: Path) -> None:
        images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        truth = torch.linspace(2, 30, 64)[:, None].expand(64, 96)
        items = [{"pixel_values": image, "labels": truth} for image in images]
        frozen = {name for name, x in model.named_parameters() if not x.requires_grad}
        before = copies(model)
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=12,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=items, eval_dataset=items)
        start = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < 0.7 * start
        changed = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
        assert changed
        assert not changed & frozen
        trainer.save_model(str(tmp_path / "trained"))
        loaded = HybridDepthModel.from_pretrained(tmp_path / "trained")
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_frozen_parts_stay_frozen_when_loaded(self, tmp_path: Path) -> None:
        config = HybridDepthConfig.preset("tiny")
        made = HybridDepthModel(config, pretrained=False)
        made.encoder.set_trainable(semantic=False, text=False)
        asked = ours.HybridDepthForDepthEstimation.from_hybrid(made)
        assert {n for n, x in asked.named_parameters() if not x.requires_grad} >= {
            f"encoder.semantic.{n}"
            for n, _ in made.encoder.semantic.named_parameters()  # type: ignore[union-attr]
        }
        frozen = config.replace(
            encoder=config.encoder.replace(
                semantic=type(config.encoder.semantic)(**{**vars(config.encoder.semantic), "trainable": False})
            )
        )
        HybridDepthModel(frozen, pretrained=False).save_pretrained(tmp_path)
        opened = AutoModelForDepthEstimation.from_pretrained(tmp_path).train()
        parts = [(n, x.requires_grad) for n, x in opened.named_parameters() if n.startswith("encoder.semantic.")]
        assert parts
        assert not any(trains for _, trains in parts)
        assert not any(part.training for part in opened.encoder.semantic.modules())  # nor does batch norm go on

    def test_gradient_checkpointing_changes_no_gradient(self, model: Any) -> None:
        images = torch.rand(2, 3, 64, 96)
        gradients = []
        for enable in (False, True):
            model.zero_grad()
            # The newest versions give it another name, and keep this one.
            getattr(model, f"gradient_checkpointing_{'enable' if enable else 'disable'}")()
            assert model.is_gradient_checkpointing is enable
            assert model.encoder.spatial.grad_checkpointing is enable
            model.train()(images).predicted_depth.mean().backward()
            gradients.append({name: x.grad for name, x in model.named_parameters() if x.grad is not None})
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


class TestLoss:
    def test_its_numbers(self) -> None:
        depth = torch.tensor([[[1.0, 2.0], [4.0, 9.0]]])
        truth = torch.tensor([[[2.0, 2.0], [16.0, 0.0]]])  # of three known pixels, d = -log 2, 0, -2 log 2
        log2 = torch.tensor(2.0).log()
        torch.testing.assert_close(log_depth_loss(depth, truth, scale_counts=True), (5 / 3 - 0.5) * log2**2)
        torch.testing.assert_close(log_depth_loss(depth, truth, scale_counts=False), (5 / 3 - 1) * log2**2)

    def test_a_factor_costs_nothing_where_the_scale_is_unknown(self) -> None:
        depth = torch.rand(2, 8, 9, dtype=torch.float64) + 0.5
        scaled = depth * torch.tensor([7.0, 0.1], dtype=torch.float64)[:, None, None]
        assert float(log_depth_loss(scaled, depth, scale_counts=False)) == pytest.approx(0, abs=1e-12)
        assert float(log_depth_loss(scaled, depth, scale_counts=True)) > 0.5

    def test_unknown_pixels_have_no_gradient(self) -> None:
        depth = torch.rand(1, 3, 3, requires_grad=True)
        truth = torch.ones(1, 3, 3)
        truth[0, 0] = torch.tensor([0.0, -1.0, float("nan")])
        truth[0, 1, 0] = float("inf")
        log_depth_loss(depth, truth, scale_counts=True).backward()
        assert depth.grad is not None
        assert depth.grad.isfinite().all()
        assert (depth.grad[0, 0] == 0).all()
        assert (depth.grad[0, 2] != 0).all()

    def test_the_models_own(self, model: Any) -> None:
        images, truth = torch.rand(1, 3, 64, 96), torch.rand(1, 30, 40) * 20 + 1
        with torch.no_grad():
            disparity = model(images).predicted_depth[None]
            there = nn.functional.interpolate(disparity, (30, 40), mode="bilinear", align_corners=False)
            expected = log_depth_loss(model.to_hybrid().to_depth(there)[:, 0], truth, scale_counts=False)
            assert torch.equal(model(images, labels=truth).loss, expected)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.ones(2, 9, 9), "B = 1"),
            (torch.ones(1, 1, 9, 9), r"\(B, h, w\) is needed"),
            (torch.ones(1, 9, 9, dtype=torch.int64), "floating-point"),
            (torch.zeros(1, 9, 9), "without a single pixel above 0"),
        ],
    )
    def test_labels_that_cannot_be(self, model: Any, labels: Tensor, message: str) -> None:
        with pytest.raises(InputError, match=message):
            model(torch.rand(1, 3, 64, 96), labels=labels)


class TestHeads:
    """Images of 100 x 150: seven rows of ten whole patches, and some pixels more."""

    def heads(self, name: str, config: Any) -> Any:
        sizes: dict[str, Any] = {"neck_hidden_sizes": [16, 24, 32, 40], "fusion_hidden_size": 24}
        if name == "dpt":
            return DPTForDepthEstimation(DPTConfig(backbone_config=config, is_hybrid=False, **sizes))
        return DepthAnythingForDepthEstimation(
            DepthAnythingConfig(
                backbone_config=config, patch_size=config.patch_size, reassemble_hidden_size=config.hidden_size, **sizes
            )
        )

    @plugs("transformers", "heads of DPT and Depth Anything", "build", "run", "train", "save", "load")
    @pytest.mark.parametrize("name", ["dpt", "depth_anything"])
    def test_depth(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = ours.HybridDepthConfig.from_pretrained("tiny", reshape_hidden_states=False)
        model = self.heads(name, config)
        model.backbone = ours.HybridDepthBackbone.from_pretrained("tiny", reshape_hidden_states=False)
        images = torch.rand(2, 3, 100, 150)
        # Depth Anything comes back to the whole patches; DPT's head halves the seven rows to four, and doubles these.
        assert model(images).predicted_depth.shape == (2, *((98, 140) if name == "depth_anything" else (128, 160)))
        frozen = {n for n, x in model.named_parameters() if not x.requires_grad}
        changed = step(model, images)
        assert {"neck", "head", "backbone"} <= {n.split(".")[0] for n in changed}
        assert {n.split(".")[2] for n in changed if n.startswith("backbone.")} >= {"semantic", "spatial", "fusion"}
        assert not changed & frozen
        model.eval().save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert torch.equal(loaded(images).predicted_depth, model(images).predicted_depth)
        assert {n for n, x in loaded.backbone.named_parameters() if not x.requires_grad} == {
            n for n, x in model.backbone.named_parameters() if not x.requires_grad
        }

    def test_tokens_are_the_maps(self) -> None:
        images = torch.rand(1, 3, 98, 140)  # whole patches
        maps = ours.HybridDepthBackbone.from_pretrained("tiny")(images).feature_maps
        rows = ours.HybridDepthBackbone.from_pretrained("tiny", reshape_hidden_states=False)(images).feature_maps
        for x, tokens in zip(maps, rows, strict=True):
            assert torch.equal(tokens[:, 1:].transpose(1, 2).reshape(x.shape), x)
            torch.testing.assert_close(tokens[:, 0], x.mean((2, 3)))

    @plugs("transformers", "`UperNetForSemanticSegmentation`", "build", "run", "train")
    def test_segmentation(self) -> None:
        config = ours.HybridDepthConfig.from_pretrained("tiny")
        wide = config.hidden_size
        options: dict[str, Any] = {"num_labels": 5}  # which every configuration takes
        made = UperNetConfig(backbone_config=config, hidden_size=16, auxiliary_in_channels=wide, **options)
        model = UperNetForSemanticSegmentation(made).train()
        images, labels = torch.rand(2, 3, 70, 106), torch.randint(0, 5, (2, 70, 106))
        found = model(images, labels=labels)
        assert found.logits.shape == (2, 5, 70, 106)
        before, frozen = copies(model), {n for n, x in model.named_parameters() if not x.requires_grad}
        optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
        found.loss.backward()
        optimizer.step()
        changed = {n for n, x in model.named_parameters() if not torch.equal(x, before[n])}
        assert {n for n, _ in model.named_parameters() if ".fusion." in n or n.startswith("decode_head.")} <= changed
        assert not changed & frozen
        assert model(images, labels=labels).loss < found.loss

    def test_checkpointing_reaches_the_backbone(self) -> None:
        model = self.heads("dpt", ours.HybridDepthConfig.from_pretrained("tiny", reshape_hidden_states=False))
        model.gradient_checkpointing_enable()
        assert model.backbone.encoder.spatial.grad_checkpointing

    def test_as_an_auto_backbone_of_a_configuration(self) -> None:
        backbone = AutoBackbone.from_config(ours.HybridDepthConfig("tiny", out_indices=[3]))
        assert [x.shape[1] for x in backbone(torch.rand(1, 3, 64, 96)).feature_maps] == backbone.channels
