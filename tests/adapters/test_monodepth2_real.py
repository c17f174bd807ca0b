"""Training and prediction with the real Monodepth2 code on real KITTI frames.

The licence of that code is non-commercial: it is read from the user's own checkout, never kept here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from helpers.checkouts import BASE, DATA, DRIVE, HEIGHT, ITEMS, REPO, WIDTH, Checkout
from helpers.plugs import plugs

CHECKOUT = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")
EPOCHS = 12
MODEL = "mono_640x192"  # test_simple.py takes the names of the published models only

pytestmark = [
    pytest.mark.monodepth2,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(CHECKOUT, "trainer.py").is_file(),
        reason="HYBRID_ENCODER_MONODEPTH2 names no Monodepth2 checkout",
    ),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)"),
]

# Where the two lines go: before the trainer is imported, or after.
PLACES = {
    "dpt": "from trainer import Trainer\n",
    "repository": "options = MonodepthOptions()\n",
}
PLACE_IN_TEST = "def parse_args():\n"


def _lines(decoder: str) -> str:
    return f'from hybrid_encoder import adapters\nadapters.monodepth2.patch("tiny", decoder="{decoder}")\n'


def _insert(file: Path, place: str, lines: str) -> None:
    text = file.read_text()
    assert text.count(place) == 1
    file.write_text(text.replace(place, lines + place))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(CHECKOUT, tmp_path / "checkout")


@plugs("monodepth2", "`train.py`, `test_simple.py`", "build", "run", "train", "save", "load")
@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_training_and_prediction_with_two_lines_added(checkout: Checkout, tmp_path: Path, decoder: str) -> None:
    lines = _lines(decoder)
    _insert(checkout.folder / "train.py", PLACES[decoder], lines)
    _insert(checkout.folder / "test_simple.py", PLACE_IN_TEST, lines)
    checkout.assert_unmodified({"train.py", "test_simple.py"})
    for name in ("train.py", "test_simple.py"):
        assert (checkout.folder / name).read_text().replace(lines, "") == Path(CHECKOUT, name).read_text()

    options = f"--no_cuda --num_workers 0 --weights_init scratch --png --height {HEIGHT} --width {WIDTH}"
    options += f" --batch_size 2 --num_epochs {EPOCHS} --log_frequency 1"
    folders = ["--data_path", str(DATA), "--log_dir", str(tmp_path / "log")]
    output = checkout.run("train.py", *folders, *options.split())

    found = re.findall(r"epoch +(\d+) \| batch +\d+ .*\| loss: ([\d.]+)", output)
    epochs = [[float(loss) for epoch, loss in found if int(epoch) == i] for i in range(EPOCHS)]
    assert [len(losses) for losses in epochs] == [4] * EPOCHS
    means = [float(np.mean(losses)) for losses in epochs]
    print(f"\n{decoder}: loss of epoch 1 {means[0]:.4f}, of epoch {EPOCHS} {means[-1]:.4f}")
    print("  by epoch: " + " ".join(f"{mean:.4f}" for mean in means))
    assert means[-1] < means[0]

    weights = tmp_path / "log" / "mdp" / "models" / f"weights_{EPOCHS - 1}"
    saved = {file.name for file in weights.iterdir()}
    assert saved == {
        "encoder.pth",
        "depth.pth",
        "pose_encoder.pth",
        "pose.pth",
        "adam.pth",
    }
    shutil.copytree(weights, checkout.folder / "models" / MODEL)

    frame = checkout.folder / "frame.png"
    shutil.copy(DATA / DRIVE / "image_02" / "data" / "0000000005.png", frame)
    checkout.run(
        "test_simple.py",
        "--image_path",
        str(frame),
        "--model_name",
        MODEL,
        "--no_cuda",
    )
    disparity = np.load(checkout.folder / "frame_disp.npy")
    assert disparity.shape == (1, 1, HEIGHT, WIDTH)
    assert np.isfinite(disparity).all()
    assert disparity.std() > 0
    with (
        PIL.Image.open(frame) as image,
        PIL.Image.open(checkout.folder / "frame_disp.jpeg") as shown,
    ):
        assert shown.size == image.size


# What `hybrid-encoder run monodepth2` is told, and the options of train.py: one epoch of four steps each.
ROWS = {
    "mono": ([], ""),
    "mono, own decoder": (["--decoder", "repository"], ""),
    "mono and stereo": ([], "--use_stereo"),
    "shared pose": ([], "--pose_model_type shared"),
    "pose of all frames": ([], "--pose_model_type shared --pose_model_input all"),
    "posecnn": ([], "--pose_model_type posecnn"),
    "predictive mask": (["--cpu"], "--predictive_mask --disable_automasking"),
    "language in the loss": (["--language-loss", "0.1"], ""),
    "class-token pose": (["--pose", "class_token"], ""),
    "first scale alone": ([], "--scales 0"),
    "workers": ([], "--num_workers 2"),
}
RUN = ["-m", "hybrid_encoder", "run", "monodepth2", "--encoder", "tiny"]


@pytest.mark.parametrize("row", ROWS)
def test_unmodified_training(checkout: Checkout, tmp_path: Path, row: str) -> None:
    ours, theirs = ROWS[row]
    options = [*BASE, "--num_epochs", "1", "--log_frequency", "1", *theirs.split()]
    output = checkout.run(*RUN, *ours, "--", "train.py", *options, "--log_dir", str(tmp_path / "log"))
    losses = [float(loss) for loss in re.findall(r"\| loss: ([\d.]+)", output)]
    print(f"\n{row}: " + " ".join(f"{loss:.4f}" for loss in losses))
    assert len(losses) == 4 and np.isfinite(losses).all()
    checkout.assert_unmodified()


@plugs("monodepth2", "`evaluate_depth.py`, `evaluate_pose.py`", "build", "run", "load")
def test_unmodified_evaluation(checkout: Checkout, tmp_path: Path) -> None:
    data = _kitti_with_jpeg(tmp_path)
    weights = tmp_path / "log" / "mdp" / "models" / "weights_0"
    train = [*BASE, "--num_epochs", "1", "--data_path", str(data), "--log_dir", str(tmp_path / "log")]
    checkout.run(*RUN, "--", "train.py", *train)
    encoder = torch.load(weights / "encoder.pth")
    assert (encoder["height"], encoder["width"], encoder["use_stereo"]) == (HEIGHT, WIDTH, False)

    splits = {"eigen": (0, 1, 2, 3, 4, 5), "eigen_benchmark": (5,)}
    for split, frames in splits.items():
        (checkout.folder / "splits" / split).mkdir(exist_ok=True)
        (checkout.folder / "splits" / split / "test_files.txt").write_text("\n".join(f"{DRIVE} {i} l" for i in frames))
        checkout.run(*RUN, "--", "export_gt_depth.py", "--data_path", str(data), "--split", split)
        options = ["--load_weights_folder", str(weights), "--eval_mono", "--eval_split", split, "--num_workers", "0"]
        output = checkout.run(*RUN, "--cpu", "--", "evaluate_depth.py", "--data_path", str(data), *options)
        abs_rel = float(re.findall(r"&\s+([\d.]+)", output)[0])
        print(f"\nevaluate_depth.py, {split}: abs_rel {abs_rel}")
        assert 0 < abs_rel < 1

    odometry = _odometry(tmp_path)
    (checkout.folder / "splits" / "odom" / "test_files_09.txt").write_text("\n".join(f"9 {i} l" for i in range(5)))
    options = [*BASE, "--data_path", str(odometry), "--load_weights_folder", str(weights), "--eval_split", "odom_9"]
    output = checkout.run(*RUN, "--cpu", "--", "evaluate_pose.py", *options)
    assert re.search(r"Trajectory error: [\d.]+, std: [\d.]+", output)
    assert np.load(weights / "poses.npy").shape == (5, 4, 4)
    checkout.assert_unmodified()


def test_weights_of_the_unpatched_repository_are_refused(checkout: Checkout, tmp_path: Path) -> None:
    log = ["--num_epochs", "1", "--log_dir", str(tmp_path / "log")]
    checkout.run(str(_shims_alone(checkout, tmp_path)), *BASE, *log)
    weights = str(tmp_path / "log" / "mdp" / "models" / "weights_0")
    command = [*RUN, "--", "train.py", *BASE, *log, "--load_weights_folder", weights]
    done = checkout.start(*command)
    assert done.returncode == 2
    assert "they are another model's, the unpatched repository's perhaps" in done.stderr


def _shims_alone(checkout: Checkout, folder: Path) -> Path:
    """A script that runs the checkout's train.py with the compatibility layer and nothing else of ours."""
    runner = folder / "runner.py"
    runner.write_text(
        textwrap.dedent(
            f"""
            import runpy, sys
            from hybrid_encoder.adapters.patching import legacy

            sys.path.insert(0, {str(checkout.folder)!r})
            sys.argv[0] = {str(checkout.folder / "train.py")!r}
            with legacy.apply_shims({str(checkout.folder)!r}):
                runpy.run_path(sys.argv[0], run_name="__main__")
            """
        )
    )
    return runner


def _drive(checkout: Checkout, kind: str, result: Path, items: int) -> dict[str, Any]:
    """Monodepth2's Trainer, driven by monodepth2_driver.py."""
    (checkout.folder / "splits" / "eigen_zhou" / "train_files.txt").write_text("\n".join((ITEMS * items)[:items]))
    options = [*BASE, "--num_epochs", "1", "--log_frequency", "1000"]
    driver = REPO / "tests" / "helpers" / "monodepth2_driver.py"
    checkout.run(str(driver), kind, str(result), *options, "--log_dir", str(result.parent / "log"))
    numbers: dict[str, Any] = json.loads(result.read_text())
    return numbers


def test_a_resumed_training_equals_an_uninterrupted_one(checkout: Checkout, tmp_path: Path) -> None:
    numbers = _drive(checkout, "resume", tmp_path / "resume.json", 10)
    assert len(numbers["uninterrupted"]) == 5
    difference = np.abs(np.subtract(numbers["uninterrupted"], numbers["resumed"])).max()
    print(f"\nlargest difference of the loss over 5 steps after resuming: {difference:.1e}")
    assert difference < 1e-5
    assert np.abs(np.subtract(numbers["first"], numbers["resumed"])).max() > 1e-3, "other batches, other losses"


def test_after_200_steps_the_loss_is_where_a_resnet18s_is(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tenth of the parameters, a tie: the pose network, the same in both, decides when the loss begins to fall, and
    # that differs so much from seed to seed that the mean over three is compared.
    found: dict[str, list[dict[str, Any]]] = {"shipped": [], "repository": []}
    for seed in range(3):
        monkeypatch.setenv("SEED", str(seed))
        (tmp_path / str(seed)).mkdir()
        for kind, several in found.items():
            numbers = _drive(checkout, kind, tmp_path / str(seed) / f"{kind}.json", 400)
            assert len(numbers["losses"]) == 200
            print(f"\n{kind}, seed {seed}: before {numbers['before']}, after 200 steps {numbers['after']}")
            several.append(numbers)

    def mean(kind: str, when: str, loss: str) -> float:
        return float(np.mean([numbers[when][loss] for numbers in found[kind]]))

    for loss in ("plain", "auto-masked"):
        assert mean("shipped", "after", loss) < 0.9 * mean("shipped", "before", loss)
        assert mean("shipped", "after", loss) < 1.05 * mean("repository", "after", loss)


def _kitti_with_jpeg(folder: Path) -> Path:
    """A copy of the frames with JPEGs beside: evaluation reads nothing else."""
    copy = folder / "kitti"
    shutil.copytree(DATA, copy)
    for file in copy.rglob("image_0[23]/data/*.png"):
        with PIL.Image.open(file) as image:
            image.save(file.with_suffix(".jpg"), quality=95)
    return copy


def _odometry(folder: Path) -> Path:
    """The frames as sequence 9 of the odometry layout, driven straight on at the speed that the car measured."""
    images = folder / "odometry" / "sequences" / "09" / "image_2"
    images.mkdir(parents=True)
    frames = sorted((DATA / DRIVE / "image_02" / "data").glob("*.png"))
    for index, file in enumerate(frames):
        with PIL.Image.open(file) as image:
            image.save(images / f"{index:06d}.jpg")
    oxts = sorted((DATA / DRIVE / "oxts" / "data").glob("*.txt"))
    forward = [float(file.read_text().split()[8]) / 10 for file in oxts]  # metres a frame, at 10 frames a second
    along = np.concatenate([[0], np.cumsum([*forward, forward[-1]])])[: len(frames)]
    poses = folder / "odometry" / "poses"
    poses.mkdir()
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {z:.6f}" for z in along]
    (poses / "09.txt").write_text("\n".join(rows))
    return folder / "odometry"


def test_the_unmodified_code_runs_on_shims_alone(checkout: Checkout, tmp_path: Path) -> None:
    # Frames with lidar depth, the stereo pair and worker processes take further paths through old idioms.
    items = [f"{DRIVE} {frame} {side}" for frame in (2, 3) for side in "lr"]
    checkout.split(items)
    options = f"--no_cuda --num_workers 2 --weights_init scratch --png --height {HEIGHT} --width {WIDTH}"
    options += " --batch_size 2 --num_epochs 1 --log_frequency 1 --use_stereo"
    folders = ["--data_path", str(DATA), "--log_dir", str(tmp_path / "log")]
    output = checkout.run(str(_shims_alone(checkout, tmp_path)), *folders, *options.split())
    checkout.assert_unmodified()
    assert len(re.findall(r"\| loss: [\d.]+", output)) == 2


@pytest.mark.parametrize("order", ["import trainer", ""])
def test_undo_restores_every_module_of_the_checkout(checkout: Checkout, tmp_path: Path, order: str) -> None:
    script = tmp_path / "undo.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(checkout.folder)!r})
            {order}
            from hybrid_encoder.adapters import monodepth2

            def names():
                files = {{name: str(vars(module).get("__file__")) for name, module in sys.modules.items()}}
                own = [name for name, file in files.items() if file.startswith({str(checkout.folder)!r})]
                return {{name: dict(vars(sys.modules[name])) for name in own}}

            before = names()
            handle = monodepth2.patch("tiny")
            import trainer
            assert trainer.networks.ResnetEncoder.__name__ == "ResnetEncoder"
            assert {{"trainer.DataLoader", "networks.resnet_encoder.ResnetEncoder"}} <= set(handle.replaced)
            handle.undo()
            after = names()
            for name, module in before.items():
                assert list(after[name]) == list(module), name
                assert all(after[name][key] is value for key, value in module.items()), name
            for name, module in after.items():
                for key, value in module.items():
                    assert not type(value).__module__.startswith("hybrid_encoder"), (name, key)
                    assert not getattr(value, "__module__", "").startswith("hybrid_encoder"), (name, key)
            """
        )
    )
    checkout.run(str(script))
