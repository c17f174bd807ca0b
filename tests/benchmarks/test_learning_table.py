"""The learning table: its rows, its measures, its statistics against numbers made by hand, and its file of results."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")

from benchmarks.learning import __main__ as command  # after the check that they are there
from benchmarks.learning import measures, results, settings, statistics, table, training, words, worlds
from benchmarks.learning.rows import BASELINES, CLAIMS, DEFAULTS, REFERENCE, ROWS, Claim, Row
from benchmarks.learning.settings import Settings, weights_digests

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.data.ordered import OrderedPatches
from hybrid_encoder.data.synthetic import SyntheticFrame
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.evaluation.ordering import RATIO, order_shares

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"
SMALL = Settings(size=(32, 96), drives=1, coarse_steps=1, steps=1, batch_size=2, held_out=2, pairs=16)


# -- statistics --------------------------------------------------------------------------------------------


def test_paired_differences_have_the_interval_of_students_t() -> None:
    """t(0.975) is 4.3027 for 2 degrees of freedom and 2.7764 for 4, as tables have it."""
    found = statistics.paired_difference({0: 0.30, 1: 0.25, 2: 0.28}, {0: 0.31, 1: 0.27, 2: 0.31, 7: 0.9})
    half = 4.302653 * 0.01 / math.sqrt(3)  # differences -0.01, -0.02, -0.03
    assert found.pairs == 3
    assert (found.mean, found.low, found.high) == pytest.approx((-0.02, -0.02 - half, -0.02 + half), abs=1e-7)
    five = statistics.paired_difference(dict(enumerate([1.0, 2, 3, 4, 5])), dict.fromkeys(range(5), 0.0))
    assert five.high - five.mean == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "differences", "says"),
    [
        ("abs_rel", [-0.02, -0.021, -0.019], "holds"),  # less error
        ("abs_rel", [0.02, 0.021, 0.019], "fails: the opposite"),
        ("abs_rel", [-0.05, 0.0, 0.04], "fails: not shown"),
        ("words", [0.2, 0.21, 0.19], "holds"),  # more in order
        ("words", [-0.2, -0.21, -0.19], "fails: the opposite"),
        ("words", [0.2], "open"),
        ("words", [], "open"),
    ],
)
def test_verdicts(measure: str, differences: list[float], says: str) -> None:
    values = {
        "a": {measure: {seed: 0.5 + difference for seed, difference in enumerate(differences)}},
        "b": {measure: dict.fromkeys(range(5), 0.5)},
    }
    assert statistics.verdict(Claim("a is better", "a", "b", (measure,)), measure, values).says == says


# -- rows --------------------------------------------------------------------------------------------------


def test_claims_are_about_rows_and_measures_that_exist() -> None:
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= set(ROWS)
        assert set(claim.measures) <= set(measures.MEASURES)


def test_a_claim_compares_rows_that_differ_in_one_thing() -> None:
    """But for language as a whole, without which there is no coarse stage, and for other networks."""
    whole = {"language", "coarse"}
    for claim in CLAIMS:
        better, worse = ROWS[claim.better], ROWS[claim.worse]
        differs = better.differs(worse)
        if better.network == worse.network and set(differs) != whole:
            assert len(differs) == 1, (claim.says, differs)


def test_every_row_of_random_weights_can_be_built() -> None:
    """As far as rows differ in what is built."""
    seen = set()
    for row in ROWS.values():
        kind = (row.towers, row.language, row.frozen == "towers")
        if row.network == "hybrid" and row.weights == "random" and kind not in seen:
            seen.add(kind)
            encoder = training.encoder_of(row, 0, SMALL)
            assert (encoder.semantic is None, encoder.spatial is None) == (
                row.towers == "spatial",
                row.towers == "semantic",
            )
            assert (encoder.prompts is not None) == row.language
            trains = any(
                p.requires_grad for p in encoder.part_parameters()["spatial" if encoder.spatial else "semantic"]
            )
            assert trains == (row.frozen != "towers")
    assert len(seen) == 5


def test_rows_of_pretrained_towers_never_start_from_random_ones() -> None:
    """They start from weights that are there, or not at all; the control's weights are the person's."""
    with pytest.raises(ConfigError, match="give --shuffled-clip"):
        training.encoder_of(ROWS["pretrained, shuffled captions"], 0, SMALL)
    with pytest.raises((ConfigError, CheckpointError), match="not-there"):
        training.encoder_of(ROWS["pretrained, shuffled captions"], 0, SMALL, "not-there.safetensors")


@pytest.mark.parametrize(("name", "part"), [("pretrained CLIP", "semantic"), ("pretrained DINO", "spatial")])
def test_a_pretrained_tower_has_weights_of_its_own(name: str, part: str) -> None:
    tiny = HybridEncoderConfig.preset("tiny")
    tiny = tiny.replace(semantic=tiny.semantic.without_weights(), spatial=tiny.spatial.without_weights())
    config = training.with_weights(tiny, ROWS[name], None)
    assert config == tiny.replace(**{part: dataclasses.replace(getattr(tiny, part), pretrained="street")}) != tiny
    encoder = HybridDepthEncoder(config)
    random = training.encoder_of(REFERENCE, 0, SMALL)
    pairs = zip(encoder.part_parameters()[part], random.part_parameters()[part], strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_rows_of_one_seed_start_alike() -> None:
    one, other = (training.encoder_of(ROWS[name], 3, SMALL) for name in ("reference", "no coarse stage"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    changed = training.encoder_of(REFERENCE, 4, SMALL)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), changed.parameters(), strict=True))


# -- the controls of the coarse stage ----------------------------------------------------------------------


class Lanes(torch.utils.data.Dataset[OrderedPatches]):
    points = torch.stack([torch.arange(7.0), torch.arange(7.0)], -1).expand(4, 7, 2)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> OrderedPatches:
        return OrderedPatches(torch.zeros(3, 32, 32), self.points, "lanes")


def test_shuffled_lanes_have_the_same_points_in_an_order_that_changes() -> None:
    torch.manual_seed(0)
    shuffled = training.Reordered(Lanes(), None)
    first, second = shuffled[0].points, shuffled[0].points
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    for points in (first, second):
        assert torch.equal(points.sort(1).values, Lanes.points)


def test_relabelled_lanes_are_all_in_one_wrong_order() -> None:
    order = training.wrong_order(7, seed=1)
    relabelled = training.Reordered(Lanes(), order)
    assert torch.equal(relabelled[0].points[..., 0], order.float().expand(4, 7))
    for seed in range(20):
        order = training.wrong_order(7, seed)
        near, far = torch.triu_indices(7, 7, 1)
        assert sorted(order.tolist()) == list(range(7))
        assert int((order[near] < order[far]).sum()) in (10, 11)  # of 21


# -- measures ----------------------------------------------------------------------------------------------


def held_out(depth: torch.Tensor, pairs: list[list[list[int]]]) -> worlds.HeldOut:
    valid = torch.ones_like(depth, dtype=torch.bool)
    images = torch.zeros(len(depth), 3, *depth.shape[-2:])
    index = torch.zeros(len(pairs), dtype=torch.int64)
    return worlds.HeldOut(images, depth, valid, {"hidden": depth > 20}, torch.tensor(pairs).float(), index)


def test_words_are_read_in_the_cell_that_holds_the_pixel() -> None:
    measured = held_out(torch.ones(1, 1, 4, 8), [[[0, 3], [7, 0]], [[0, 0], [7, 3]], [[0, 1], [2, 1]]])
    logits = torch.full((1, 3, 2, 4), -50.0)
    logits[0, 0, 1, 0] = 50.0  # near, at the lower left
    logits[0, 2, 0, 3] = 50.0  # far, at the upper right
    logits[0, 2, 0, 0] = 50.0
    logits[0, 1, 1, 3] = 50.0
    found = words.word_positions([logits], measured)
    assert found.tolist() == [pytest.approx([0.0, 2.0]), pytest.approx([2.0, 1.0]), pytest.approx([2.0, 1.0])]
    assert measured.row_wrong.tolist() == [False, True, False]
    assert order_shares(found, measured.row_wrong) == pytest.approx((1 / 3, 0.0))


def test_the_mean_word_is_weighed_by_a_softmax() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(3), 0.0, -90.0]])
    assert words.mean_word(logits, 1).tolist() == pytest.approx([1.0, 0.25])
    assert torch.equal(words.mean_word(logits.T, 0), words.mean_word(logits, 1))


def test_how_much_words_tell_beside_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, noise = (torch.randn(4, count, 6, 8, generator=generator) for count in (3, 2))
    linear = torch.stack([2 * maps[:, 0] - maps[:, 1] + 5, maps[:, 2]], 1)
    assert words.words_explained(linear, maps) == pytest.approx(1.0)
    noisy = linear + linear.std((0, 2, 3), keepdim=True) * noise
    assert words.words_explained(noisy, maps) == pytest.approx(0.5, abs=0.15)
    assert words.words_explained(noise, maps) < 0.1
    alike = maps[:, :1].expand(-1, 7, -1, -1)
    assert words.words_apart(alike) == pytest.approx(0.0, abs=1e-6)
    apart = alike + torch.tensor([-3.0, -2, -1, 0, 1, 2, 3])[:, None, None]
    assert words.words_apart(apart) == pytest.approx(2.160247 / float(maps[:, 0].double().std()), rel=1e-4)
    assert words.words_spread(apart) == pytest.approx(float(maps[:, 0].double().std()), rel=1e-6)


def test_a_constant_orders_half_of_the_pairs_and_none_is_no_number() -> None:
    values = torch.ones(6, 2)
    assert order_shares(values, torch.tensor([True] * 3 + [False] * 3)) == (0.5, 0.5)
    overall, wrong = order_shares(values, torch.zeros(6, dtype=torch.bool))
    assert overall == 0.5 and math.isnan(wrong)


def test_a_plane_is_fitted_exactly_and_a_region_has_its_own_error() -> None:
    rows = torch.arange(4.0)[:, None].expand(4, 8)
    truth = (1 / (0.05 + 0.1 * rows))[None, None]
    measured = held_out(truth, [[[0, 3], [0, 0]]])
    numbers = measures.measure_baseline("plane", [], measured, SMALL)
    assert numbers["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert numbers["depth_order"] == 1.0 and math.isnan(numbers["row_wrong"])
    found = measures.measure_depth(torch.ones_like(truth), measured)
    middle = float((truth[0, 0, 1, 0] + truth[0, 0, 2, 0]) / 2)
    assert found["hidden"] == pytest.approx(abs(middle - 20) / 20, abs=1e-6) or math.isnan(found["hidden"])
    assert found["depth_order"] == 0.5


def test_regions_have_the_error_of_their_own_pixels() -> None:
    truth = torch.tensor([10.0, 10, 10, 40]).view(1, 1, 1, 4)
    measured = held_out(truth, [[[0, 0], [3, 0]]])
    assert measures.measure_depth(torch.ones_like(truth), measured)["hidden"] == pytest.approx(0.75)


def test_baselines_of_training_drives() -> None:
    measured = worlds.held_out(SMALL)
    drives = worlds.training_drives(SMALL, 0)
    found = {name: measures.measure_baseline(name, drives, measured, SMALL) for name in BASELINES}
    assert found["constant"]["depth_order"] == found["constant"]["row_wrong"] == 0.5
    assert found["image row"]["depth_order"] > found["image row"]["row_wrong"]
    assert len({numbers["abs_rel"] for numbers in found.values()}) == len(BASELINES)


def frame(depth: np.ndarray, x: float) -> SyntheticFrame:
    """A frame of a camera at x metres, which looks ahead."""
    height, width = depth.shape
    K = np.array([[8, 0, (width - 1) / 2], [0, 8, (height - 1) / 2], [0, 0, 1]], dtype=np.float32)
    pose = np.eye(4, dtype=np.float32)
    pose[0, 3] = x
    image = np.zeros((3, height, width), dtype=np.float32)
    lanes, rows = np.zeros((0, 0), dtype=np.int64), np.zeros(0, dtype=np.int64)
    return SyntheticFrame(image, depth[None].astype(np.float32), depth[None] < 80, K, pose, lanes, rows)


def test_what_a_nearer_surface_hides_is_not_seen() -> None:
    """A wall at 8 m, a post at 2 m before it; from 1 m further right the post is seen 4 columns to the left."""
    wall = np.full((8, 24), 8.0)
    here, there = wall.copy(), wall.copy()
    here[:, 12:15], there[:, 8:11] = 2.0, 2.0
    seen = worlds.seen_in(frame(here, 0.0), frame(there, 1.0), 1)[0, 4]
    # The wall moves one column to the left; what lies within a pixel of the post's edge counts as seen.
    assert not seen[10] and not seen[0]  # behind the post's middle; beyond the image's left end
    assert seen[12:15].all() and seen[1:8].all() and seen[16:].all()
    three = (frame(there, 1.0), frame(here, 0.0), frame(there, 1.0))
    assert worlds.hidden(*three)[0, 4].tolist() == (~seen).tolist()


def test_what_the_right_view_does_not_see() -> None:
    """The wall's disparity is 1 column, the post's 4, with a focal length of 8 pixels and 1 m between the views."""
    depth = np.full((8, 24), 8.0)
    depth[:, 12:15] = 2.0
    unseen = worlds.hidden_right(replace(frame(depth, 0.0), baseline=1.0))[0, 4]
    assert np.flatnonzero(unseen).tolist() == [0, 9, 10, 11]  # left of what both see; behind the post


def test_regions_of_both_worlds() -> None:
    plain = worlds.held_out(replace(SMALL, world="plain"))
    street = worlds.held_out(replace(SMALL, views="video"))
    assert set(plain.regions) == {"textureless", "hidden"} and set(street.regions) == {*plain.regions, "moving"}
    for measured in (plain, street):
        assert all((mask <= measured.valid).all() for mask in measured.regions.values())
        depth = measured.depth[measured.index, 0]
        x, y = measured.pairs.long().unbind(-1)
        near, far = depth[torch.arange(len(depth))[:, None], y, x].unbind(1)
        assert (far >= RATIO * near * 0.9999).all()
    shown = SyntheticDrive(0, 1, 32, 96)[0]
    flat = replace(shown, image=np.full_like(shown.image, 0.5))
    assert worlds.textureless(flat).all() and not worlds.textureless(shown).all()


# -- results -----------------------------------------------------------------------------------------------


def result(row: Row, seed: int, settings: Settings = SMALL, **numbers: float | None) -> results.Result:
    return results.Result(row.name, seed, row.definition, settings.as_dict(), dict(numbers), {"torch": "2"}, "abc")


def test_results_are_read_back_and_known_by_row_seed_and_settings(tmp_path: Path) -> None:
    kept = results.Results(tmp_path / "new" / "file.jsonl")
    assert kept.read() == []
    first, second = result(REFERENCE, 0, abs_rel=0.25, moving=None), result(ROWS["U-Net"], 0, abs_rel=0.3)
    kept.add(first)
    kept.add(second)
    assert kept.read() == [first, second]
    assert kept.has(REFERENCE, 0, SMALL)
    assert not kept.has(REFERENCE, 1, SMALL)
    assert not kept.has(replace(REFERENCE, coarse="none"), 0, SMALL)  # the same name, another definition
    assert not kept.has(REFERENCE, 0, replace(SMALL, steps=2))
    values = results.by_row(results.known(kept.read(), SMALL.as_dict()))
    assert values == {"reference": {"abs_rel": {0: 0.25}}, "U-Net": {"abs_rel": {0: 0.3}}}


def test_a_result_is_of_the_weights_that_ship_now() -> None:
    names = {kind: f"tiny_{kind}/model.safetensors" for kind in ("clip", "dino")}
    now = weights_digests()
    assert set(now) == set(names.values())
    for row, used in (("pretrained", ("clip", "dino")), ("pretrained CLIP", ("clip",)), ("reference", ())):
        mine = replace(result(ROWS[row], 0, abs_rel=0.2), versions=now)
        assert mine.is_of(ROWS[row], 0, SMALL)
        for kind, name in names.items():
            other = replace(mine, versions={**now, name: "0" * 16})
            assert other.is_of(ROWS[row], 0, SMALL) == (kind not in used)
            assert len(list(results.known([other], SMALL.as_dict()))) == (kind not in used)
    assert ROWS["pretrained, DINO tower alone"].starts_from == ("clip", "dino")  # CLIP's text tower reads the prompts
    assert ROWS["pretrained, CLIP tower alone"].starts_from == ("clip",)


def test_no_seed_trains_on_held_out_drives(capsys: pytest.CaptureFixture[str]) -> None:
    most = Settings(drives=settings.APART)
    assert (settings.SEEDS - 1) * settings.APART + most.drives <= settings.HELD_OUT
    with pytest.raises(ConfigError, match="drives is 10001"):
        Settings(drives=10_001)
    with pytest.raises(SystemExit):
        command.main(["--seeds", "99,100"])
    assert "from 100 on they would train on held-out drives" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="drives is 0; it must be 1 to 10000"):
        command.main(["--drives", "0"])


def test_what_results_differ_from_stands_still() -> None:
    """Results name how their row differs from these."""
    assert DEFAULTS == {
        "name": "reference",
        "network": "hybrid",
        "towers": "both",
        "language": True,
        "coarse": "true",
        "points": "depth",
        "margin": 20.0,
        "readout": "joint",
        "decoder_input": "concat",
        "language_loss": True,
        "weights": "random",
        "frozen": "nothing",
        "drives": None,
    }


def test_a_torn_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    kept = results.Results(file)
    kept.add(result(REFERENCE, 0, abs_rel=0.25))
    file.write_bytes(before := file.read_bytes()[:-9])
    with pytest.raises(SystemExit, match="line 1 is not a result"):
        kept.read()
    with pytest.raises(SystemExit, match="whole line"):
        kept.add(result(REFERENCE, 1, abs_rel=0.25))
    assert file.read_bytes() == before


def test_numbers_that_are_not_finite_cannot_be_kept_as_numbers() -> None:
    assert measures.finite({"a": math.nan, "b": 1.0, "c": math.inf}) == {"a": None, "b": 1.0, "c": None}
    with pytest.raises(ValueError, match="JSON"):
        _ = result(REFERENCE, 0, abs_rel=math.nan).line


def test_the_tables_have_means_spreads_and_verdicts() -> None:
    found = [result(REFERENCE, s, abs_rel=0.2 + 0.01 * s, words=0.9) for s in range(3)]
    found += [result(ROWS["no coarse stage"], s, abs_rel=0.3 + 0.01 * s) for s in range(3)]
    found.append(result(replace(REFERENCE, language_loss=False), 0, abs_rel=9.0))  # defined differently then
    text = table.markdown(found)
    assert "| reference | 3 | 0.210 ± 0.010 |" in text
    assert "| reference | 3 | 0.900 ± 0.000 |" in text
    claim = "| a coarse stage above none | reference against no coarse stage | abs_rel | -0.100 (-0.100 to -0.100) | 3 "
    assert claim + "| holds |" in text
    assert "9.000" not in text


def test_tables_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_into(page, "new\n")
    assert page.read_text() == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="has not both lines"):
        table.write_into(page, "new")


def test_the_page_has_the_tables_of_the_file(tmp_path: Path) -> None:
    if not (found := results.Results(command.RESULTS).read()):
        pytest.skip("no results were kept yet")
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    table.write_into(page, table.markdown(found))
    assert page.read_text() == PAGE.read_text(), "renew it: python -m benchmarks.learning --into docs/learning.md"


# -- the command -------------------------------------------------------------------------------------------


def test_two_rows_are_trained_once_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.jsonl"
    given = ["--results", str(file), "--seeds", "0", "--size", "32", "96", "--drives", "2", "--coarse-steps", "1"]
    given += [
        "--views",
        "video",
        "--camera",
        "random",
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--held-out",
        "2",
        "--pairs",
        "16",
    ]
    rows = ["published readout", "no language", "plane"]
    only = [word for row in rows for word in ("--only", row)]
    command.main([*given, *only])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["row"] for line in lines] == rows
    assert lines[0]["numbers"].keys() >= {"abs_rel", "row_wrong", "words", "taught", "handover", "explained", "zeroed"}
    assert "words" not in lines[1]["numbers"] and lines[1]["numbers"]["abs_rel"] > 0
    assert len(lines[0]["code"]) == 16 and lines[0]["versions"]["torch"] == torch.__version__
    capsys.readouterr()
    command.main([*given, *only])
    assert capsys.readouterr().out.count("known") == len(rows)
    command.main(["--results", str(file), "--table"])
    said = capsys.readouterr().out
    assert all(f"| {row} | 1 |" in said for row in rows)
    assert len(file.read_text().splitlines()) == len(rows)


def test_a_row_that_cannot_be_trained_is_an_error_and_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> dict[str, float]:
        row = given[0]
        assert isinstance(row, Row)
        if row.name == "reference":
            raise ConfigError("it has no weights; train them.")
        return {"abs_rel": 0.5}

    monkeypatch.setattr(command, "run", refuse)
    file = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit, match="some rows were not trained"):
        command.main(["--results", str(file), "--seeds", "0", "--only", "reference", "--only", "U-Net"])
    assert "reference, seed 0: not trained: it has no weights; train them." in capsys.readouterr().out
    assert [found.row for found in results.Results(file).read()] == ["U-Net"]


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for given, says in ((["--only", "nothing"], "there is no row 'nothing'"), (["--seeds", "4-0"], "which are none")):
        with pytest.raises(SystemExit):
            command.main(given)
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit, match="has no results"):
        command.main(["--results", str(tmp_path / "none.jsonl"), "--table"])
