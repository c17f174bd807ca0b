"""``hybrid-encoder predict`` replaces no file of a person, reads none of its own, and leaves no half results."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import HybridDepthModel

from helpers.pictures import EPS, bomb, encoded, scene

Run = Callable[..., tuple[int, str, str]]
RESULTS = ("depth.png", "relative_depth.npy", "depth_m.npy", "depth_m_x256.png", "disparity_x65535.png")
QUICK = ("--size", "32x64", "--device", "cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("in")
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(scene()).save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("numbers", ["npy", "png16"])
def test_own_results_are_left_out_and_replaced(run: Run, folder: Path, numbers: str) -> None:
    first = run("predict", folder, "--output", folder, "--numbers", numbers, *QUICK)
    assert first[0] == 0 and "2 images" in first[1]
    before = contents(folder)
    named = [str(path) for path in sorted(folder.iterdir())]  # as a shell writes out in/*
    for inputs in ([str(folder)], [str(folder / "*")], named):
        code, out, err = run("predict", *inputs, "--output", folder, "--numbers", numbers, *QUICK)
        assert code == 0, err
        assert "2 images" in out and "left out, as results of earlier runs: " in " ".join(out.split())
        assert contents(folder) == before
    code, _, err = run("predict", folder / "a_depth.png", *QUICK)
    assert code == 2 and "a_depth.png is a result of an earlier run" in err


def test_either_kind_of_numbers_may_follow_the_other(run: Run, folder: Path) -> None:
    for numbers in ("npy", "png16", "npy", "png16"):
        assert run("predict", folder, "--output", "out", "--numbers", numbers, *QUICK)[0] == 0
    assert len(contents(Path("out"))) == 6


@pytest.mark.parametrize("end", RESULTS)
@pytest.mark.parametrize("kind", ["picture", "array", "text", "folder", "link", "broken link"])
def test_a_file_of_a_person_is_never_replaced(run: Run, folder: Path, kind: str, end: str) -> None:
    target = Path("out", f"b_{end}")
    target.parent.mkdir()
    if kind == "picture":
        target.write_bytes(encoded("PNG"))
    elif kind == "array":
        with target.open("wb") as file:
            np.save(file, np.ones((48, 64), np.float32))
    elif kind == "text":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to((folder / "a.png").absolute() if kind == "link" else "nothing")
    before = contents(Path())
    code, _, err = run("predict", folder, "--output", "out", *QUICK)
    assert code == 2 and f"out/b_{end} would be replaced" in err and err.count("\n") == 1
    assert contents(Path()) == before and os.listdir("out") == [target.name]


def test_a_picture_that_looks_like_a_result_is_a_picture(run: Run, folder: Path) -> None:
    """The reported case: a person's grey a_depth.png beside a.png."""
    Image.open(folder / "a.png").convert("L").save(folder / "a_depth.png")
    before = contents(folder)
    assert run("predict", folder, "--output", folder, *QUICK)[0] == 2
    assert contents(folder) == before
    code, out, _ = run("predict", folder, "--output", "out", *QUICK)
    assert code == 0 and "3 images" in out


def test_all_damaged_images_are_named_at_once(run: Run, folder: Path) -> None:
    for name, content in (
        ("x1.jpg", encoded("JPEG")[:900]),
        ("x2.png", EPS),
        ("x3.bmp", b""),
        ("x4.png", bomb(9999, 9999)),
    ):
        (folder / name).write_bytes(content)
    os.mkfifo("pipe.png")
    code, _, err = run("predict", folder, "pipe.png", *QUICK)
    assert code == 2 and err.count("\n") == 1
    assert "5 of 7 files cannot be used: in/x1.jpg, in/x2.png, in/x3.bmp, in/x4.png and pipe.png" in err
    assert not Path("predictions").exists()


def test_long_names(run: Run, folder: Path) -> None:
    shutil.copy(folder / "a.png", folder / f"{'x' * 230}.png")
    code, _, err = run("predict", folder, "--output", "out", *QUICK)
    assert code == 0, err
    shutil.copy(folder / "a.png", folder / f"{'y' * 240}.png")
    code, _, err = run("predict", folder, "--output", "out", *QUICK)
    assert code == 2 and "would have names of 261 bytes, more than 255; give it a shorter name" in err
    for name in ("z" * 5000, "**y*.png", "~nosuchuser/a.png"):
        code, _, err = run("predict", name, "--output", "out", *QUICK)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("field", ["disparity", "relative_depth"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_result(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: float
) -> None:
    predict = HybridDepthModel._prediction
    calls = 0

    def break_second(self: HybridDepthModel, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        prediction = predict(self, *arguments)
        if calls == 2:
            with torch.inference_mode():
                getattr(prediction, field)[..., 3, 5:9] = value
        return prediction

    monkeypatch.setattr(HybridDepthModel, "_prediction", break_second)
    code, _, err = run("predict", folder, "--output", "out", *QUICK)
    assert code == 2 and "in/b.jpg, 4 are not finite" in err and err.count("\n") == 1
    assert sorted(os.listdir("out")) == ["a_depth.png", "a_relative_depth.npy"]


def test_weights_that_give_nothing_finite(run: Run, folder: Path, tiny_model: HybridDepthModel) -> None:
    with torch.no_grad():
        list(tiny_model.decoder.parameters())[-1].fill_(float("nan"))
    tiny_model.save_pretrained("weights")
    code, _, err = run("predict", folder, "--weights", "weights", "--output", "out", *QUICK)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert not Path("out").exists() or os.listdir("out") == []


@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_what_was_finished_and_nothing_half(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    from hybrid_encoder.data import results
    from hybrid_encoder.models import prediction

    if again:  # of the second picture, both earlier results stay
        assert run("predict", folder, "--output", "out", *QUICK)[0] == 0
        Image.fromarray(255 - scene()).save(folder / "b.jpg")
    expected = contents(Path("out"))
    write = results.write_array

    def fill_up(path: Path, array: Any) -> None:
        full = path.name.startswith("b_")  # two threads write: which of them comes first is not said
        write(path, array[:5] if full else array)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "write_array", fill_up)
        code, _, err = run("predict", folder, "--output", "out", *QUICK)
    assert code == 2 and "No space left" in err and err.count("\n") == 1
    left = contents(Path("out"))
    assert sorted(os.listdir("out")) == ["a_depth.png", "a_relative_depth.npy"] + again * [
        "b_depth.png",
        "b_relative_depth.npy",
    ]
    assert not again or left == expected
    assert run("predict", folder, "--output", "out", *QUICK)[0] == 0
    assert len(contents(Path("out"))) == 4


def test_the_limit_on_pixels(run: Run, folder: Path) -> None:
    code, _, err = run("predict", folder, "--output", "out", "--max-pixels", "3000", *QUICK)
    assert code == 2 and "files cannot be used" in err
    (folder / "b.jpg").unlink()
    code, _, err = run("predict", folder, "--output", "out", "--max-pixels", "3000", *QUICK)
    assert code == 2 and "a.png is 48 x 64, 3,072 pixels; at most 3,000 are read" in err
    assert run("predict", folder, "--output", "out", "--max-pixels", "3072", *QUICK)[0] == 0


def test_without_a_size_the_weights_work_at_the_right_one(run: Run, folder: Path) -> None:
    """The fitted 96 x 320 where the aspect is near it, else as many pixels at the picture's own; never its own size."""
    Image.fromarray(scene()).resize((120, 40)).save(folder / "wide.png")
    for name, right in (("a.png", "154x196"), ("wide.png", "96x320")):
        for output, size in (("own", ()), ("same", ("--size", right)), ("native", ("--size", "native"))):
            assert run("predict", folder / name, "--output", output, *size)[0] == 0
        file = f"{Path(name).stem}_relative_depth.npy"
        own, same, native = (np.load(Path(output, file)) for output in ("own", "same", "native"))
        assert np.array_equal(own, same) and not np.allclose(own, native)


def test_depth_beyond_what_16_bits_hold_is_refused(run: Run, folder: Path, tiny_model: HybridDepthModel) -> None:
    for far, status in ((255.0, 0), (300.0, 2)):
        tiny_model.config = tiny_model.config.replace(metric=True, max_depth=far)
        tiny_model.save_pretrained(f"far{far:g}")
        arguments = ("predict", folder, "--weights", f"far{far:g}", "--output", f"out{far:g}", *QUICK)
        code, _, err = run(*arguments, "--numbers", "png16")
        assert code == status, err
        assert code == 0 or "depth up to 300 m, and a 16-bit PNG holds up to 255.996 m; take --numbers npy" in err
        assert run(*arguments)[0] == 0
