"""``hybrid-encoder predict`` on folders, lists and photographs: what is read, what is written where, what is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import HybridDepthModel, __version__

from helpers.pictures import encoded, png, scene

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--size", "32x64", "--device", "cpu")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tree = Path("tree")
    for number, name in enumerate(("top.jpg", "a/1.png", "a/b/2.png", "c/1.png")):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(scene(), 7 * number, 1)).save(path)
    return tree


def files(folder: str | Path, ending: str = "_depth.png") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob(f"*{ending}"))


def test_the_tree_is_mirrored(run: Run, tree: Path) -> None:
    code, out, err = run("predict", tree, "-o", "out", *QUICK)
    assert code == 0, err
    assert "4 images -> out" in out
    assert files("out") == ["a/1_depth.png", "a/b/2_depth.png", "c/1_depth.png", "top_depth.png"]
    Path("list.txt").write_text("tree/a/1.png\ntree/c/1.png\n")
    assert run("predict", "list.txt", "-o", "listed", *QUICK)[0] == 0
    assert files("listed") == ["a/1_depth.png", "c/1_depth.png"]
    for name in ("a/1", "c/1"):
        one, other = (np.load(f"{folder}/{name}_relative_depth.npy") for folder in ("out", "listed"))
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_the_output_may_lie_in_the_input(run: Run, tree: Path) -> None:
    for _ in range(2):
        code, out, err = run("predict", tree, "-o", tree / "out", *QUICK)
        assert code == 0, err
        assert "4 images" in out
    assert len(files(tree)) == 4


def test_batches_give_what_single_pictures_give(run: Run, tree: Path) -> None:
    for number in range(5):
        Image.fromarray(scene(70, 50 + number)).save(tree / f"other{number}.png")
    results = []
    for batch_size in (1, 3, 8):
        assert run("predict", tree, "-o", f"out{batch_size}", "--batch-size", batch_size, *QUICK)[0] == 0
        results.append([np.load(Path(f"out{batch_size}", name)) for name in files(f"out{batch_size}", ".npy")])
    assert len(results[0]) == 9
    model = HybridDepthModel.from_pretrained("tiny")
    alone = model.infer(tree / "a/b/2.png", size=(32, 64)).depth[0].numpy()
    np.testing.assert_allclose(np.load("out8/a/b/2_relative_depth.npy"), alone, rtol=1e-4)
    for one, other in zip(results[0], results[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_json_tells_what_was_done(run: Run, tree: Path) -> None:
    code, out, err = run("predict", tree, "-o", "out", "--json", "--numbers", "png16", "--device", "cpu")
    assert code == 0 and err == ""
    summary = json.loads(out)
    assert summary["weights"] == "tiny" and summary["damaged"] == [] and summary["seconds"] > 0
    rows = {row["path"]: row for row in summary["results"]}
    assert sorted(rows) == ["tree/a/1.png", "tree/a/b/2.png", "tree/c/1.png", "tree/top.jpg"]
    for row in rows.values():
        assert row["size"] == [48, 64] and row["working_size"] == [154, 196]
        assert row["scale"] == "relative" and 0 < row["seconds"] < summary["seconds"]
        assert all(Path(file).is_file() for file in row["files"])
    assert rows["tree/a/b/2.png"]["files"] == ["out/a/b/2_depth.png", "out/a/b/2_disparity_x65535.png"]


def test_quiet_and_what_is_said_once(run: Run, tree: Path) -> None:
    assert run("predict", tree, "-o", "out", "--quiet", *QUICK) == (0, "", "")
    out = " ".join(run("predict", tree, "-o", "out", "--device", "cpu")[1].split())
    assert out.count("tiny, a toy for rendered streets") == 1
    assert out.count("working at 96 x 320, or as many pixels at another aspect; depth without a scale") == 1
    assert "working at 32 x 64;" in run("predict", tree, "-o", "out", *QUICK)[1].replace("\n", " ").replace("  ", " ")
    HybridDepthModel.from_pretrained("tiny").save_pretrained("weights")
    assert "toy" not in run("predict", tree, "-o", "out", "--weights", "weights", *QUICK)[1]


def test_colours_and_their_range(run: Run, tree: Path) -> None:
    picture = tree / "a/1.png"
    assert run("predict", picture, "-o", "out", "--colormap", "viridis", "--range", 0.5, 20, *QUICK)[0] == 0
    expected = HybridDepthModel.from_pretrained("tiny").infer(picture, size=(32, 64)).colored("viridis", 0.5, 20)
    assert np.array_equal(np.asarray(Image.open("out/1_depth.png")), expected)
    for arguments, says in (
        (("--colormap", "magna"), "colormap is 'magna'"),
        (("--range", 20, 0.5), "--range is 20.0 0.5; give two depths above 0"),
        (("--range", 0, 5), "--range is 0.0 5.0"),
        (("--size", "0x0"), "--size is '0x0'"),
    ):
        code, _, err = run("predict", picture, "-o", "never", *arguments)
        assert code == 2 and says in err and err.count("\n") == 1
    assert not Path("never").exists()


def test_point_clouds(run: Run, tree: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    picture = tree / "a/1.png"
    expected = HybridDepthModel.from_pretrained("tiny").infer(picture, size=(32, 64)).points(fov=70)
    for arguments in (("--fov", 70), ("--intrinsics", "45.6988,45.6988,31.5,23.5")):
        for kind in ("ply", "glb"):
            assert run("predict", picture, "-o", "out", "--point-cloud", kind, *arguments, *QUICK)[0] == 0
        loaded = trimesh.load("out/1_points.ply")
        np.testing.assert_allclose(loaded.vertices, expected.positions, rtol=1e-4, atol=1e-5)
        assert np.array_equal(loaded.colors[:, :3], expected.colors)
        assert len(trimesh.load("out/1_points.glb", force="scene").geometry) == 1
    code, out, _ = run("predict", "out", tree, "-o", "out", *QUICK)
    assert code == 0 and "4 images" in out, "point clouds are no input, and no hindrance"


def test_intrinsics_in_files(run: Run, tree: Path) -> None:
    K = np.array([[45.7, 0, 31.5], [0, 45.7, 23.5], [0, 0, 1]])
    Path("K.json").write_text(json.dumps(K.tolist()))
    np.savetxt("K.txt", K)
    np.save("K.npy", K)
    clouds = set()
    for name in ("K.json", "K.txt", "K.npy", "45.7,45.7,31.5,23.5"):
        arguments = ("--point-cloud", "ply", "--intrinsics", name)
        assert run("predict", tree / "top.jpg", "-o", "out", *arguments, *QUICK)[0] == 0
        clouds.add(Path("out/top_points.ply").read_bytes())
    assert len(clouds) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--point-cloud", "ply"), "nothing says how wide the camera saw that made tree/top.jpg; give --fov"),
        (("--fov", 60), "--fov and --intrinsics are for point clouds; add --point-cloud"),
        (("--point-cloud", "ply", "--fov", 180), "--fov is 180"),
        (("--point-cloud", "ply", "--fov", 60, "--intrinsics", "1,2,3,4"), "both given"),
        (("--point-cloud", "ply", "--intrinsics", "1,2,3"), "give fx,fy,cx,cy or a .json"),
        (("--point-cloud", "ply", "--intrinsics", "1,2,3,x"), "four numbers"),
        (("--point-cloud", "ply", "--intrinsics", "gone.txt"), "gone.txt holds no 3x3 matrix"),
        (("--point-cloud", "ply", "--intrinsics", "two.json"), "two.json holds no 3x3 matrix"),
        (("--point-cloud", "ply", "--intrinsics", "pipe.json"), "pipe.json is not a regular file"),
        (("--point-cloud", "ply", "--intrinsics", "600,600,320,240"), "outside of the picture of 48 x 64; scale them"),
        (("--point-cloud", "ply", "--intrinsics", "60,60,31,23", "big.png"), "big.png 96 x 128; give one size at a"),
    ],
)
def test_cameras_that_cannot_be(run: Run, tree: Path, arguments: tuple[object, ...], says: str) -> None:
    Path("two.json").write_text("[[1, 2], [3, 4]]")
    os.mkfifo("pipe.json")
    Image.new("RGB", (128, 96)).save("big.png")
    code, _, err = run("predict", tree / "top.jpg", "-o", "out", *arguments, *QUICK)
    assert code == 2 and says in err and err.count("\n") == 1
    assert not Path("out").exists()


def test_damaged_files_are_left_out_where_asked(run: Run, tree: Path) -> None:
    (tree / "cut.jpg").write_bytes(encoded("JPEG")[:900])
    (tree / "a" / "cut.png").write_bytes(encoded("PNG")[:-20])
    code, _, err = run("predict", tree, "-o", "out", *QUICK)
    assert code == 2 and "2 of 6 files cannot be used: tree/cut.jpg and tree/a/cut.png" in err
    assert not Path("out").exists()
    code, out, err = run("predict", tree, "-o", "out", "--skip-damaged", *QUICK)
    assert code == 0, err
    assert "4 images" in out and "left out, as damaged: 2" in out
    assert len(files("out")) == 4
    code, out, _ = run("predict", tree, "-o", "out", "--skip-damaged", "--json", *QUICK)
    assert [row["path"] for row in json.loads(out)["damaged"]] == ["tree/cut.jpg", "tree/a/cut.png"]
    code, _, err = run("predict", tree / "cut.jpg", "-o", "out", "--skip-damaged", *QUICK)
    assert code == 2 and "cut.jpg cannot be read" in err


def test_damage_that_only_decoding_shows(run: Run, tree: Path) -> None:
    """Its check sums are right, and what is compressed in it is not: the others are predicted, and the end tells."""
    rows = zlib.compress(np.random.default_rng(0).bytes(48 * 65))
    (tree / "a" / "half.png").write_bytes(png(64, 48, rows[:1000] + bytes(100) + rows[1100:]))
    code, out, err = run("predict", tree, "-o", "out", *QUICK)
    assert code == 2 and "half.png" in err and err.count("\n") == 1
    assert "4 images" in out and len(files("out")) == 4


def test_damage_that_only_decoding_shows_is_skipped_where_asked(run: Run, tree: Path) -> None:
    rows = zlib.compress(np.random.default_rng(0).bytes(48 * 65))
    (tree / "half.png").write_bytes(png(64, 48, rows[:1000] + bytes(100) + rows[1100:]))
    code, out, err = run("predict", tree, "-o", "out", "--skip-damaged", *QUICK)
    assert code == 0 and err == "" and "left out, as damaged: 1 (tree/half.png)" in " ".join(out.split())
    code, out, _ = run("predict", tree, "-o", "out", "--skip-damaged", "--json", *QUICK)
    told = json.loads(out)
    assert code == 0 and told["error"] is None and [row["path"] for row in told["damaged"]] == ["tree/half.png"]
    code, out, err = run("predict", tree / "half.png", "-o", "out", "--skip-damaged", *QUICK)
    assert code == 2 and "half.png cannot be read" in err and "->" not in out


def test_json_is_printed_however_it_ends(run: Run, tree: Path) -> None:
    for name in ("cut.jpg", "a/cut.jpg"):
        (tree / name).write_bytes(encoded("JPEG")[:900])
    for arguments, damaged in (((tree,), 2), (("gone.png",), 0), ((tree / "top.jpg", "--colormap", "magna"), 0)):
        code, out, err = run("predict", *arguments, "-o", "out", "--json", *QUICK)
        told = json.loads(out)
        assert code == 2 and err == f"error: {told['error']}\n" and told["results"] == []
        assert len(told["damaged"]) == damaged


def test_a_picture_without_a_point_stops_no_other(run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid_encoder.models.prediction import DepthPrediction

    points = DepthPrediction.points

    def none_of_one(self: DepthPrediction, **options: Any) -> Any:
        cloud = points(self, **options)
        return type(cloud)(cloud.positions[:0], cloud.colors[:0]) if str(self.source).endswith("2.png") else cloud

    monkeypatch.setattr(DepthPrediction, "points", none_of_one)
    code, out, err = run("predict", tree, "-o", "out", "--point-cloud", "ply", "--fov", 60, *QUICK)
    assert code == 2 and "2_points.ply would hold no point" in err and err.count("\n") == 1
    assert "3 images" in out and len(files("out", ".ply")) == 3 and len(files("out")) == 3


def test_two_pictures_of_one_name(run: Run, tree: Path) -> None:
    Image.fromarray(scene()).save(tree / "a" / "1.jpg")
    code, _, err = run("predict", tree, "-o", "out", *QUICK)
    assert code == 2 and "would be written to the same files" in err


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"hybrid-encoder {__version__}\n", "")
    for arguments in (("-h",), ("predict", "-h"), ("evaluate", "-h")):
        code, out, _ = run(*arguments)
        assert code == 0 and "Usage: hybrid-encoder" in out


MEMORY = """
import sys
from hybrid_encoder.cli import main
from helpers.memory import peak
sys.argv = ["hybrid-encoder", "predict", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    status = stop.code
print(status or 0, peak() // 2**20)
"""


@pytest.mark.slow
def test_photographs_of_12_megapixels_take_little_memory(tmp_path: Path) -> None:
    """Three of them, at the default size, with numbers and colours of all 12 megapixels each."""
    for number in range(3):
        small = Image.fromarray(np.roll(scene(), number, 0))
        small.resize((4000, 3000), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg")
    arguments = [str(tmp_path), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    helpers = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *arguments], env=helpers, capture_output=True, text=True, check=True
    )
    status, megabytes = map(int, done.stdout.split())
    assert status == 0 and megabytes < 2000
    assert np.load(tmp_path / "out" / "2_relative_depth.npy").shape == (3000, 4000)
