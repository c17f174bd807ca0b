"""Whatever is typed, the program ends with exit status 0 or 2, and an error is one sentence."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_encoder.cli import app

from helpers.command_line import STRANGE_NAME, add_pipe, call, lay_out
from helpers.traps import Traps

LONG = "x" * 5000
TRAINING = ("--encoder", "tiny", "--no-pretrained", "--cpu", "--drives", 1, "--size", "64x96", "--steps", 1)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What :func:`lay_out` writes, once."""
    folder = tmp_path_factory.mktemp("stock")
    lay_out(folder)
    return folder


@pytest.fixture
def enter(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Make a fresh copy of the stock the working folder, as often as it is called."""
    number = 0

    def anew() -> Path:
        nonlocal number
        number += 1
        folder = tmp_path / f"work{number}"
        shutil.rmtree(tmp_path / f"work{number - 1}", ignore_errors=True)
        shutil.copytree(stock, folder, copy_function=os.link)
        add_pipe(folder)
        monkeypatch.chdir(folder)
        return folder

    return anew


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the Hub: a name such as a/b is one of its ids, and asking for it would be right."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def own_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what ``run`` changes in its process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


CASES: list[tuple[str, list[object]]] = [
    ("x...x", ["predict", LONG]),
    ("", ["predict", "~nosuchuser"]),
    ("", ["predict", "~nosuchuser/*.png"]),
    ("", ["predict", "**y*.png"]),
    ("", ["predict", "]["]),
    ("", ["predict", "***"]),
    ("", ["predict", "pipe"]),
    ("", ["predict", "text.png"]),
    ("", ["predict", "empty"]),
    ("", ["predict", "a.png", "--weights", LONG]),
    ("", ["predict", "a.png", "--weights", "pipe"]),
    ("", ["predict", "a.png", "--weights", "broken"]),
    ("", ["predict", "a.png", "--weights", "noise.ckpt"]),
    ("", ["predict", "a.png", "--weights", "~nosuchuser/w"]),
    ("", ["predict", "a.png", "--output", LONG]),
    ("", ["predict", "a.png", "--output", "pipe"]),
    ("", ["predict", "a.png", "--output", "a.png/x"]),
    ("is empty", ["predict", "a.png", "--output", ""]),
    ("is empty", ["predict", "a.png", "--output="]),
    ("is empty", ["predict", ""]),
    ("zero byte", ["predict", "a\0.png"]),
    ("zero byte", ["info", "a\0"]),
    ("--size is", ["predict", "a.png", "--size", "9999999x9999999"]),
    ("--size is", ["predict", "a.png", "--size", "9" * 5000 + "x32"]),
    ("--size is", ["predict", "a.png", "--size", "-64x-96"]),
    ("--size is", ["predict", "a.png", "--size", "٦٤x٦٤"]),
    ("--device is 'meta'", ["predict", "a.png", "--device", "meta"]),
    ("--device is", ["predict", "a.png", "--device", "xla"]),
    ("--device is", ["predict", "a.png", "--device", "hpu"]),
    ("--device is", ["predict", "a.png", "--device", "mkldnn"]),
    ("--device is", ["predict", "a.png", "--device", "privateuseone"]),
    ("--device is", ["predict", "a.png", "--device", "\udcff"]),
    ("--device is", ["predict", "a.png", "--device", "\x1b[31m"]),
    ("--device is", ["predict", "a.png", "--device", "cpu:-1"]),
    ("--device is", ["predict", "a.png", "--device", LONG]),
    ("requires an argument", ["predict", "a.png", "--size"]),
    ("No such option", ["predict", "a.png", "--\x1b[31mred"]),
    ("No such command", ["\x1b[31m[/x]"]),
    ("Missing argument", ["info"]),
    ("", ["info", "pipe"]),
    ("", ["info", "[/x]\x1b]0;owned\x07"]),
    ("", ["info", "\udcff"]),
    ("", ["info", "/dev/zero"]),
    ("", ["evaluate", "pipe"]),
    ("", ["evaluate", "kitti", "--split", "pipe"]),
    ("", ["evaluate", "kitti", "--split", "empty"]),
    ("", ["evaluate", "kitti", "--split", LONG]),
    ("", ["evaluate", "kitti", "--camera", 10**30]),
    ("", ["evaluate", "kitti", "--max-depth", "nan"]),
    ("cannot be made", ["convert", "tiny", "a.png"]),
    ("cannot be made", ["convert", "tiny", LONG]),
    ("cannot be made", ["convert", "tiny", "a.png/x"]),
    ("exists already", ["convert", "tiny", "weights"]),
    ("encode", ["convert", "tiny", "new", "--notes", "\udcff"]),
    ("is a folder", ["export", "tiny", "folder.onnx", "--size", "64x96"]),
    ("is not a folder", ["export", "tiny", "no/x.onnx", "--size", "64x96"]),
    ("", ["export", "tiny", LONG + ".onnx", "--size", "64x96"]),
    ("", ["export", "tiny", ".onnx", "--size", "64x96"]),
    ("is not a folder", ["demo", "--output", "no/demo.png"]),
    ("no regular file", ["demo", "--output", "pipe"]),
    ("cannot be made", ["demo", "--save", "a.png"]),
    ("--drives", ["demo", "--drives", 1]),
    ("--seed is -1", ["train-coarse", "synthetic", "--seed", -1]),
    ("--seed is", ["train-fine", "synthetic", "--seed", 10**30]),
    ("--workers", ["train-coarse", "synthetic", "--workers", 100_000]),
    ("--lr is inf", ["train-coarse", "synthetic", *TRAINING, "--lr", "inf"]),
    ("--lr is nan", ["train-fine", "synthetic", *TRAINING, "--lr", "nan"]),
    ("--language-loss", ["train-fine", "synthetic", *TRAINING, "--language-loss", "nan"]),
    ("pose is", ["train-fine", "synthetic", *TRAINING, "--pose", LONG]),
    ("pose is", ["train-fine", "synthetic", *TRAINING, "--pose", "hf-hub:a/b"]),
    ("neither a file or folder", ["train-fine", "synthetic", *TRAINING, "--encoder", "nosuch"]),
    ("", ["train-coarse", "pipe", *TRAINING]),
    ("", ["train-coarse", "pictures", *TRAINING, "--depths", "pipe"]),
    ("", ["train-coarse", "pictures", *TRAINING, "--depths", "pictures", "--ending", "*"]),
    ("", ["train-fine", "kitti", *TRAINING, "--split", "pipe"]),
    ("is not a script", ["run", "monodepth2", "--", "pipe"]),
    ("name too long", ["run", "monodepth2", "--", LONG]),
    ("cannot be run", ["run", "monodepth2", "--", "wrong.py"]),
    ("cannot be run", ["run", "monodepth2", "--", "a.png"]),
    ("-m names no module", ["run", "monodepth2", "--", "-m"]),
    ("", ["run", "monodepth2", "--", "-m", "a..b"]),
    ("", ["run", "monodepth2", "--", "-m", ".a"]),
    ("", ["run", "monodepth2", "--encoder", "tiny", "--", "script.py"]),
    ("", ["run", "monodepth2", "--encoder", "tiny", "--networks", "a..b", "--", "script.py"]),
    ("--language-loss is inf", ["run", "monodepth2", "--language-loss", "inf", "--", "script.py"]),
    ("", ["run", "nosuch", "--", "script.py"]),
]


@pytest.mark.parametrize(("says", "arguments"), CASES, ids=lambda value: "" if isinstance(value, str) else value[0])
def test_what_cannot_be_is_refused_in_one_sentence(
    says: str, arguments: list[object], enter: Callable[[], Path]
) -> None:
    enter()
    ended = call(*arguments)
    assert ended.fault() is None, ended
    assert ended.status == 2
    assert says in ended.err


def test_the_longest_names_a_disk_takes_are_read(enter: Callable[[], Path]) -> None:
    folder = enter()
    for name in ("y" * 240 + ".png", "日" * 80 + ".png"):
        os.link("a.png", folder / name)
        ended = call("predict", name, "--size", "64x96")
        assert ended.fault() is None, ended


def test_names_with_markup_and_escapes_are_names(enter: Callable[[], Path]) -> None:
    enter()
    for name in ("[/x].png", "[red]d.png", "\x1b[31me.png", STRANGE_NAME):
        ended = call("predict", name, "--size", "64x96", "--output", f"out{name}")
        assert (ended.status, ended.fault()) == (0, None), ended
        assert Path(f"out{name}", f"{Path(name).stem}_depth.png").is_file()
    assert "out\\x1b[31me.png" in call("predict", "a.png", "--size", "64x96", "--output", "out\x1b[31me.png").out


# Any option of any command: mostly with a value that fits, so that the others are looked at, else with any of these.
STRANGE = (
    *("[/x].png", "\x1b[31me.png", STRANGE_NAME, "text.png", "pipe", "empty", "broken", "noise.ckpt", "wrong.py", "."),
    *("", "=", "-", "--", "-m", "x", LONG, "y" * 240 + ".png", "~nosuchuser", "~nosuchuser/x", "**y*.png", "[", "*"),
    *("-1", "nan", "inf", "1e400", str(10**30), "9999999x9999999", "96", "meta", "cuda:99", "cpu:7", "a/b", "[/x]"),
    *("\x1b]0;x\x07", "\u202egnp.exe", "\udcff", "a\0b", "日本", "hf:x", "hf-hub:a/b", "local-dir:x", "\n", "a.png/x"),
)


FITTING = {
    "images": ("a.png", "b.jpg", "pictures", "*.jpg", "[/x].png", "\x1b[31me.png", STRANGE_NAME),
    "root": ("kitti", "kitti/2011_01_01/2011_01_01_drive_0001_sync"),
    **dict.fromkeys(("source", "weights", "encoder"), ("tiny", "weights")),
    "output": ("out", "x.onnx", "x.pt2", "pictures", "[/x].png"),
    "data": ("synthetic", "kitti", "pictures"),
    "depths": ("pictures", "empty"),
    "repository": ("monodepth2", "manydepth"),
    "command": ("script.py", "wrong.py"),
    "split": ("split.txt",),
    "size": ("64x96", "33x47"),
    "device": ("cpu", "auto"),
    "numbers": ("npy", "png16"),
    "crop": ("garg", "eigen", "none"),
    "file_format": ("onnx", "pt2"),
    "recipe": ("published", "small"),
    "precision": ("no", "bf16"),
    "decoder": ("dpt", "repository"),
    "pose": ("class_token", "repository", "test_resnet"),
    "teacher": ("hybrid", "repository"),
    "camera": ("2", "3"),
}
NUMBERS = ("1", "2", "5", "80", "0.001", "0", "100000")  # of every other option


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Return a command with its arguments and some of its options."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    line: list[str] = [name]
    if name.startswith("train"):
        line += map(str, TRAINING)  # an option given twice counts as it was given last
    strange = st.sampled_from(STRANGE) | st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text)
    for parameter in COMMANDS[name].params:
        fitting = st.sampled_from(FITTING.get(parameter.name, NUMBERS))
        value = draw(strange if draw(st.integers(0, 7)) == 0 else fitting)
        if parameter.param_type_name == "argument":
            line += draw(st.sampled_from([[value]] * 9 + [[]]))
        elif draw(st.integers(0, 9)) < (9 if parameter.required else 2):
            flag = draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))
            line += [flag] if parameter.is_flag else [flag, value]
    return line


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the long work of a command, which comes once all its arguments are accepted."""
    from hybrid_encoder.cli import _training as shared
    from hybrid_encoder.data.synthetic.drive import render_drives

    def trained(model: object, items: object, folder: Path, *args: object, **options: object) -> Path:
        return folder / "final"

    def pretrained(config: object, drives: object, held_out: object, folder: Path, *args: object, **kw: object) -> Path:
        return folder / "final"

    def exported(model: object, path: Path, *args: object, **options: object) -> None:
        for file in (path, path.with_suffix(".bin")):  # the second one of OpenVINO's alone
            file.write_bytes(b"a model")

    drives = render_drives([0], shared.NUM_FRAMES, (64, 96))
    monkeypatch.setattr(shared, "render_training_drives", lambda *args: drives)
    monkeypatch.setattr("hybrid_encoder.training.coarse.train_coarse", trained)
    monkeypatch.setattr("hybrid_encoder.training.fine.train_fine", trained)
    for rendered in ("_streets", "_images", "_held_out"):
        monkeypatch.setattr(f"hybrid_encoder.cli.pretrain.{rendered}", lambda *args: drives)
    for stage in ("pretrain_clip", "pretrain_dino"):
        monkeypatch.setattr(f"hybrid_encoder.pretraining.running.{stage}", pretrained)
    monkeypatch.setattr("hybrid_encoder.training.demonstration.run_demo", lambda *args, **options: {})
    monkeypatch.setattr("hybrid_encoder.app.serving.serve", lambda *args, **options: None)
    for writer in ("export_onnx", "save_aoti", "save_openvino", "save_program"):
        monkeypatch.setattr(f"hybrid_encoder.deploy.files.{writer}", exported)
    monkeypatch.setattr("hybrid_encoder.deploy.files._compare", lambda *args: (0.0, 0.0, 1.0))


def _try_many(enter: Callable[[], Path], traps: Traps, count: int) -> None:
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
    @given(command_lines())
    def check(line: list[str]) -> None:
        enter()
        ended = call(*line)
        assert ended.fault() is None, ended
        traps.check()

    check()


def test_any_command_line_ends_well(enter: Callable[[], Path], traps: Traps, light: Any) -> None:
    _try_many(enter, traps, 100)


@pytest.mark.campaign
def test_any_of_many_command_lines_ends_well(enter: Callable[[], Path], traps: Traps, light: Any) -> None:
    _try_many(enter, traps, 3000)
