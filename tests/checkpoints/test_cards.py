"""Model cards: what they say, and what of a person's stays when a model is saved again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import RepoCard

from hybrid_encoder.checkpoints.cards import base_models, model_card
from hybrid_encoder.config import HybridEncoderConfig, SemanticConfig, SpatialConfig
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder

from helpers.fake_hub import FakeHub, fake_hub

EARLIER = (Path(__file__).parent / "earlier_card.md").read_text()
CLIP = "timm/resnet50_clip.openai"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "hub") as served:
        yield served


def metadata(card: str | bytes) -> dict[str, Any]:
    return vars(RepoCard(card if isinstance(card, str) else card.decode()).data)


class TestWhatItSays:
    def test_of_a_model(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(
            tmp_path, notes="Fitted to nothing at all.", license="Apache-2.0", datasets=["org/drives", "KITTI"]
        )
        card = (tmp_path / "README.md").read_text()
        assert metadata(card) == {
            "library_name": "hybrid-encoder",
            "pipeline_tag": "depth-estimation",
            "tags": ["depth-estimation", "hybrid-encoder"],
            "license": "apache-2.0",
            "datasets": ["org/drives", "KITTI"],
        }
        for part in (
            "## How it was made\n\nFitted to nothing at all.\n",
            'model = HybridDepthModel.from_pretrained("path/to/this/folder")',
            "(0.485, 0.456, 0.406)",
        ):
            assert part in card

    def test_where_nothing_is_known(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert metadata(card)["license"] == "other" and metadata(card)["license_name"] == "not-stated"
        assert not {"datasets", "base_model"} & set(metadata(card))
        assert "Not written down by whoever saved it." in card

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, [CLIP, "timm/vit_base_patch14_dinov2.lvd142m"]),
            ({"towers": "spatial", "prompts": None}, ["timm/vit_base_patch14_dinov2.lvd142m"]),
            (
                {"spatial": SpatialConfig("hf:facebook/dinov2-small")},
                ["timm/resnet50_clip.openai", "facebook/dinov2-small"],
            ),
            ({"spatial": SpatialConfig("hf:/a/folder"), "semantic": SemanticConfig("RN50", "/my/clip.pt")}, []),
            ({"spatial": SpatialConfig(pretrained=False), "semantic": SemanticConfig(pretrained=None)}, []),
        ],
    )
    def test_which_public_weights_went_in(self, changes: dict[str, Any], expected: list[str]) -> None:
        encoder = HybridEncoderConfig.preset("paper").replace(**changes)
        assert base_models(encoder) == expected
        card = model_card("HybridDepthEncoder", encoder)
        assert card is not None and metadata(card).get("base_model", []) == expected

    @pytest.mark.parametrize(
        ("semantic", "spatial", "clip", "dino"),
        [
            ("openai", True, "OpenAI's weights: MIT", "DINOv2 weights: Apache-2.0"),
            (None, False, "the architecture alone", "the architecture alone"),
            ("street", "street", "on rendered streets: Apache-2.0", "on rendered streets: Apache-2.0"),
            ("/home/me/clip.safetensors", "/home/me/dino.safetensors", "see the card of", "see the card of"),
            ("clip.pt", r"C:\me\dino.safetensors", "see the card of", "see the card of"),
        ],
    )
    def test_whose_licence_a_tower_has(self, semantic: Any, spatial: Any, clip: str, dino: str) -> None:
        encoder = HybridEncoderConfig.preset("paper")
        encoder = encoder.replace(
            semantic=replace(encoder.semantic, pretrained=semantic),
            spatial=replace(encoder.spatial, pretrained=spatial),
        )
        card = model_card("HybridDepthEncoder", encoder)
        assert card is not None and "/home" not in card and "C:" not in card
        said = dict(line[2:].split(": ", 1) for line in card.splitlines() if line.startswith(("- CLIP:", "- DINO:")))
        assert clip in said["CLIP"] and dino in said["DINO"]
        assert ("OpenAI" in card) == (semantic == "openai")

    @pytest.mark.parametrize("folder", ["/home/me/dinov2", "/home/me/dinov2/", "C:\\me\\dinov2"])
    def test_no_folder_of_a_machine_is_told(self, folder: str) -> None:
        encoder = HybridEncoderConfig.preset("paper").replace(spatial=SpatialConfig(f"hf:{folder}"))
        card = model_card("HybridDepthEncoder", encoder)
        assert card is not None and "| spatial (DINO) | hf:dinov2, input" in card and folder not in card


class TestSavedAgain:
    def save(self, model: Any, folder: Path, change: Any = str, **about: Any) -> str:
        """Save a model over its card, which a person has changed."""
        model.save_pretrained(folder, notes="Once.", license="mit", datasets="KITTI")
        (folder / "README.md").write_text(change((folder / "README.md").read_text()))
        model.save_pretrained(folder, **about)
        return (folder / "README.md").read_text()

    def test_nothing_changes(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path, notes="Once.", license="mit", datasets="KITTI")
        first = (tmp_path / "README.md").read_text()
        tiny_model.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == first

    def test_what_is_given_anew(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        card = self.save(tiny_model, tmp_path, notes="Twice.", license="apache-2.0", datasets=["a/b"])
        assert "Twice." in card and "Once." not in card
        assert metadata(card)["license"] == "apache-2.0" and metadata(card)["datasets"] == ["a/b"]
        assert "license_name" not in metadata(card)

    def test_a_persons_text_stays(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        def change(card: str) -> str:
            card = card.replace("# HybridDepthModel", "# My roads\n\nAll of them.")
            card = card.replace("Once.", "Once,\n\n```bash\n## a comment\nmake\n```\n\nwith care.")
            card = card.replace("## What it is made of", "## Results\n\nGood.\n\n## What it is made of")
            card = card.replace("| fusion |", "| old |")
            return card.replace("tags:\n", "language: en\ntags:\n- roads\n") + "\n## Thanks\n\nTo all.\n"

        card = self.save(tiny_model, tmp_path, change)
        order = ["# My roads\n\nAll of them.", "## How to load it", "## Results\n\nGood.", "| fusion |", "## Thanks"]
        places = [card.index(text) for text in order]
        assert places == sorted(places)
        assert "Once,\n\n```bash\n## a comment\nmake\n```\n\nwith care.\n" in card and "| old |" not in card
        assert metadata(card)["language"] == "en"
        assert metadata(card)["tags"] == ["roads", "depth-estimation", "hybrid-encoder"]
        assert metadata(card)["license"] == "mit" and metadata(card)["datasets"] == ["KITTI"]

    def test_another_model(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path)
        tiny_model.encoder.save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "# HybridDepthEncoder" in card and "HybridDepthModel" not in card and "| decoder |" not in card

    def test_a_card_of_an_earlier_version(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(EARLIER + "\n## Mine\n\nToo.\n")
        tiny_model.save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert card.count("| part | setting |") == 1 and card.count("from_pretrained") == 1
        assert "Made by `hybrid-encoder demo" in card and "## Mine\n\nToo." in card

    @pytest.mark.parametrize(
        "text", ["# Mine\n", "---\nlicense: mit\n---\n# Mine\n", "---\n- : [\n---\n", "", "---\n1: 2\n---\n"]
    )
    def test_another_kind_of_readme_stays(self, text: str, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(text)
        tiny_model.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == text


class TestPushed:
    def test_it_says_the_id_and_a_persons_text_stays(self, hub: FakeHub, tiny_model: HybridDepthModel) -> None:
        address = tiny_model.push_to_hub("mine", notes="Once.", license="mit")
        assert address.startswith(f"{hub.address}/somebody/mine/commit/")
        files = hub.files["somebody/mine"]
        assert 'from_pretrained("somebody/mine")' in files["README.md"].decode()
        files["README.md"] += b"\n## Seen on the Hub\n\nBy a person.\n"
        tiny_model.push_to_hub("somebody/mine", datasets="KITTI")
        card = hub.files["somebody/mine"]["README.md"].decode()
        assert "Once." in card and "By a person." in card and metadata(card)["license"] == "mit"
        assert metadata(card)["datasets"] == ["KITTI"]
        hub.files["somebody/mine"]["README.md"] = b"# Mine alone\n"
        tiny_model.push_to_hub("somebody/mine", notes="Twice.")
        assert hub.files["somebody/mine"]["README.md"] == b"# Mine alone\n"

    def test_saved_and_pushed(self, hub: FakeHub, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        address = tiny_model.save_pretrained(tmp_path / "roads", notes="Once.", push_to_hub=True, private=True)
        assert address and "Once." in (tmp_path / "roads" / "README.md").read_text()
        torch.testing.assert_close(
            HybridDepthEncoder.from_pretrained("somebody/roads").state_dict(), tiny_model.encoder.state_dict()
        )

    @pytest.mark.parametrize(
        ("part", "status", "code", "says"),
        [
            (
                "repos/create",
                401,
                "",
                "answered 401, as nobody is logged in .* run 'hf auth login' .*, or save",
            ),
            ("repos/create", 403, "", "answered 403, as your token does not allow it; run 'hf auth login'"),
            ("/commit/", 403, "", "answered 403, as your token does not allow it"),
            ("repos/create", 500, "", "answered 500; try again in a few minutes, or save it with save_pretrained"),
        ],
    )
    def test_what_fails(
        self, hub: FakeHub, tiny_model: HybridDepthModel, part: str, status: int, code: str, says: str
    ) -> None:
        hub.refusals[part] = status, code
        with pytest.raises(CheckpointError, match=rf"cannot be pushed to 'me/mine' on the Hugging Face Hub: .*{says}"):
            tiny_model.push_to_hub("me/mine")

    def test_a_name_that_cannot_be(self, tiny_model: HybridDepthModel, hub: FakeHub) -> None:
        with pytest.raises(CheckpointError, match="cannot be a name on the Hub; check the name"):
            tiny_model.push_to_hub("a/b/c")

    def test_options_that_do_not_exist(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="private"):
            tiny_model.save_pretrained(tmp_path, private=True)
        with pytest.raises(TypeError, match="card"):
            tiny_model.push_to_hub("me/mine", card="mine")  # type: ignore[call-arg]
