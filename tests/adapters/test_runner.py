"""``hybrid-encoder run``: somebody's script, patched, without editing it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.adapters.runner import run_script

from helpers.toy_repository import FILES

TRAIN = """
import sys
import numpy as np
from PIL import Image
from trainer import Trainer

if __name__ == "__main__":
    trainer = Trainer()
    print("arguments", sys.argv[1:], "main", sys.modules["__main__"].__file__.endswith("train.py"))
    print("encoder", type(trainer.encoder).__name__, "pose", type(trainer.pose_encoder).__name__)
    print("old names", Image.ANTIALIAS == Image.LANCZOS, np.int(3.7))
    sys.exit(7 if "--fail" in sys.argv else 0)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {f"code/{name}": text for name, text in FILES.items()}
    for name, text in {**files, "code/train.py": TRAIN}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def _run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "hybrid_encoder", "run", "monodepth2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_a_script_from_another_folder_and_its_exit_status(checkout: Path) -> None:
    code, out, err = _run(checkout, "--encoder", "tiny", "--", "code/train.py", "--png", "--height", "96", "--fail")
    assert code == 7, err
    assert "arguments ['--png', '--height', '96', '--fail'] main True" in out
    assert "encoder DepthEncoder pose ResnetEncoder" in out
    assert "old names True 3" in out


def test_a_module_with_poses_from_class_tokens(checkout: Path) -> None:
    code, out, err = _run(checkout / "code", "--encoder", "tiny", "--pose", "class_token", "--", "-m", "train", "--png")
    assert code == 0, err
    assert "arguments ['--png'] main True" in out
    assert "encoder DepthEncoder pose PoseEncoder" in out


def test_a_package_whose_own_import_fails_is_not_called_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "broken_package").mkdir()
    (checkout / "broken_package" / "__init__.py").write_text("import no_such_dependency")
    monkeypatch.chdir(checkout)
    monkeypatch.syspath_prepend(str(checkout))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        run_script(["-m", "broken_package.train"], monodepth2.patch)


def test_print_shows_and_does_not_run(checkout: Path) -> None:
    code, out, err = _run(checkout, "--encoder", "tiny", "--print", "--", "code/train.py")
    assert code == 0, err
    assert "networks.resnet_encoder.ResnetEncoder" in out
    assert "networks.depth_decoder.DepthDecoder" in out
    assert "arguments" not in out


def test_bad_input_is_one_sentence(checkout: Path) -> None:
    (checkout / "alone.py").write_text("print(1)")
    for arguments, says in (
        (("--", "gone.py"), "gone.py is not a script"),
        (("--", "-m", "gone.module"), "there is no module 'gone.module'"),
        (("--", "-m"), "-m names no module"),
        (("--", "-m", ".."), "there is no module '..'"),
        (("--", "alone.py"), "there is no module 'networks'"),
        (("--encoder", "huge", "--", "code/train.py"), "encoder is 'huge'"),
        (("--networks", "nets", "--", "code/train.py"), "there is no module 'nets'"),
    ):
        code, _, err = _run(checkout, *arguments)
        assert code == 2, (arguments, err)
        assert says in err
        assert err.count("\n") == 1, err
