"""Runs that are damaged, attacked or killed: nothing runs code, nothing is lost, and no other run comes of it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_encoder.errors import CheckpointError, ConfigError, HybridEncoderError
from hybrid_encoder.training.checkpointing import damage_of, list_checkpoints, newest_checkpoint, newest_whole
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.manifest import MANIFEST, seal
from hybrid_encoder.training.running import train_stage
from hybrid_encoder.training.stage_recipe import StageRecipe
from hybrid_encoder.training.state import MODEL, OPTIMIZER, STATE, random_file
from hybrid_encoder.training.trees import from_json, tensors_of, to_json

from helpers import killed_runs
from helpers.command_line import Ended, call
from helpers.small_runs import Numbers, Regression, regress
from helpers.traps import Traps

FILES = (MODEL, OPTIMIZER, STATE, random_file(0), MANIFEST)
OLD, NEW = "step_00000005", "step_00000010"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    regress(folder, 10)
    return folder


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nothing happens to."""
    return regress(tmp_path_factory.mktemp("whole"), 13)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run, to do harm to."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


# -- damage ------------------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    make(path)


def _say(path: Path, **changes: Any) -> None:
    content = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**content, **changes}))


def _of_earlier_version(path: Path) -> None:
    (path / MANIFEST).unlink()
    for name in ("custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin"):
        torch.save({}, path / name)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _take_older(path: Path) -> None:
    shutil.copy(path.parent.with_name(OLD) / path.name, path)


OF_A_FILE: dict[str, Callable[[Path], object]] = {
    "is missing": Path.unlink,
    "is empty": lambda path: path.write_bytes(b""),
    "is cut": _cut,
    "has another bit": _flip,
    "is a folder": lambda path: _replace(path, Path.mkdir),
    "is a pipe": lambda path: _replace(path, os.mkfifo),
    "is of another step": _take_older,
}
OF_A_FOLDER: dict[str, Callable[[Path], object]] = {
    "it is a file": lambda path: _replace(path, Path.touch),
    "it is a broken link": lambda path: _replace(path, lambda p: p.symlink_to("nowhere")),
    "it is empty": lambda path: _replace(path, Path.mkdir),
    "it has another name": lambda path: path.rename(path.with_name("step_00000012")),
    "an earlier version saved it": _of_earlier_version,
    "no random state is listed": lambda path: _say(path, files={}),
    "its format is newer": lambda path: _say(path, format=2),
    "it was of many processes": lambda path: _say(path, processes=10**12),
    "its manifest lists other places": lambda path: _say(path, files={"../x": {"size": 1, "sha256": ""}}),
    "its manifest is a list": lambda path: (path / MANIFEST).write_text("[1]"),
    "its manifest is deep": lambda path: (path / MANIFEST).write_text("[" * 100_000),
    "its manifest is another encoding": lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe{}"),
}


DAMAGES = [*(f"{name} {what}" for name in FILES for what in OF_A_FILE), *OF_A_FOLDER]


def _damage(path: Path, damage: str) -> None:
    name, _, what = damage.partition(" ")
    if name in FILES:
        OF_A_FILE[what](path / name)
    else:
        OF_A_FOLDER[damage](path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_newest_whole_one(damage: str, run: Path, losses: list[float]) -> None:
    _damage(run / "checkpoints" / NEW, damage)
    with pytest.raises(CheckpointError, match=rf"is damaged \(.*newest whole one is .*{OLD}: resume") as caught:
        regress(run, 13, resume=True)
    newest = newest_checkpoint(run)
    assert newest is not None and str(newest) in str(caught.value) and "Traceback" not in str(caught.value)
    if damage in ("it is a file", f"{MODEL} is cut", "it has another name"):  # they go on in the same way
        assert regress(run, 13, resume=OLD) == losses[5:]
        names = sorted(path.name for path in (run / "checkpoints").iterdir())
        assert names == [NEW, f"{newest.name}.aside", "step_00000013"]
        assert newest_whole(run) == run / "checkpoints" / "step_00000013"


def test_without_a_whole_checkpoint_the_sentence_says_so(run: Path) -> None:
    for path in list_checkpoints(run):
        (path / MODEL).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other one is whole: begin again in another folder"):
        regress(run, 13, resume=True)
    assert newest_whole(run) is None


def test_a_checkpoint_is_chosen_by_name(run: Path, losses: list[float]) -> None:
    with pytest.raises(ConfigError, match=rf"holds no checkpoint 'step_00000007'; it holds {OLD}, {NEW}"):
        regress(run, 13, resume="step_00000007")
    with pytest.raises(ConfigError, match=r"holds no checkpoint '\.\./checkpoints/step_00000005'"):
        regress(run, 13, resume="../checkpoints/step_00000005")
    assert regress(run, 13, resume=OLD) == losses[5:]


def test_what_else_lies_in_a_checkpoint_is_left_alone(run: Path, losses: list[float], traps: Traps) -> None:
    for name in ("notes.txt", "custom_checkpoint_0.pkl", "pytorch_model.bin", "random_states_0.pkl", "scaler.pt"):
        (run / "checkpoints" / NEW / name).write_bytes(traps.pickle())
    assert regress(run, 13, resume=True) == losses[10:]


def _change_bytes(run: Path, count: int, seed: int) -> None:
    """Change single bytes of every file; as the manifest knows their sums, each is noticed."""
    rng, path = random.Random(seed), run / "checkpoints" / NEW
    for name in FILES:
        whole = (path / name).read_bytes()
        for _ in range(count):
            changed = bytearray(whole)
            place = rng.randrange(len(changed))
            changed[place] ^= rng.randrange(1, 256)
            (path / name).write_bytes(changed)
            damage = damage_of(path)
            if name != MANIFEST:
                assert damage == f"{name} is not as it was saved"
            elif damage is None:  # between the words of a manifest, or in the number of a file that is not needed
                assert json.loads(changed) == json.loads(whole)
        (path / name).write_bytes(whole)
    assert damage_of(path) is None


def test_every_changed_byte_is_noticed(run: Path) -> None:
    _change_bytes(run, 50, seed=0)


@pytest.mark.campaign
def test_thousands_of_changed_bytes_are_noticed(run: Path) -> None:
    _change_bytes(run, 3000, seed=1)


# -- attack ------------------------------------------------------------------------------------------------


def _reseal(path: Path) -> None:
    """Make the manifest fit what lies in the folder, as somebody can who means harm."""
    said = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).unlink()
    seal(path, said["step"], said["processes"])


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_can_run_code(name: str, kind: str, run: Path, traps: Traps) -> None:
    file = run / "checkpoints" / NEW / name
    if kind == "pickle":
        file.write_bytes(traps.pickle())
    else:
        torch.save(traps.trap(), file)
    if name != MANIFEST:
        _reseal(run / "checkpoints" / NEW)
    with pytest.raises(CheckpointError, match=NEW):
        regress(run, 13, resume=True)
    (run / "run.json").write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"run.json is damaged"):
        _stage_run(run, resume=True)


def test_a_run_of_an_earlier_version_is_refused_unread(run: Path, traps: Traps) -> None:
    folder = run / "checkpoints" / NEW
    for path in folder.iterdir():
        path.unlink()
    for name in ("custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "random_states_0.pkl", "optimizer.bin"):
        (folder / name).write_bytes(traps.pickle())
    with pytest.raises(CheckpointError, match="an earlier version saved it, as pickles"):
        regress(run, 13, resume=True)


def _change_and_reseal(run: Path, count: int, seed: int) -> dict[str, int]:
    """Change single bytes of every file and make the manifest fit; whatever comes of it is no traceback."""
    rng, path = random.Random(seed), run / "checkpoints" / NEW
    ended = {"resumed": 0, "refused": 0}
    for name in FILES[:-1]:
        for _ in range(count):
            copy = Path(shutil.copytree(run, run.with_name("copy")))
            changed = bytearray((path / name).read_bytes())
            changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
            (copy / "checkpoints" / NEW / name).write_bytes(changed)
            _reseal(copy / "checkpoints" / NEW)
            try:
                regress(copy, 12, resume=True)
                ended["resumed"] += 1
            except HybridEncoderError:
                ended["refused"] += 1
            shutil.rmtree(copy)
    return ended


def test_changed_bytes_under_a_new_manifest_are_one_sentence(run: Path) -> None:
    ended = _change_and_reseal(run, 12, seed=0)
    assert ended["resumed"] > 0 and ended["refused"] > 0


@pytest.mark.campaign
def test_many_changed_bytes_under_a_new_manifest_are_one_sentence(run: Path) -> None:
    assert sum(_change_and_reseal(run, 250, seed=1).values()) == 1000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("scheduler"), "other parts"),
        (lambda state: state.update(more=1), "other parts"),
        (lambda state: state["progress"].update(step=-1), "counts are needed"),
        (lambda state: state["progress"].update(step=10**30), "counts are needed"),
        (lambda state: state["progress"].update(step=9), "is of step 9"),
        (lambda state: state["progress"].update(epoch="1"), "progress is another one"),
        (lambda state: state["scheduler"].update(step="x"), "scheduler is another one"),
        (lambda state: state["scheduler"].update(base_lrs=[]), "scheduler is another one"),
        (lambda state: state["scheduler"].update(T_max="40"), "scheduler is another one"),
        (lambda state: state["optimizer"]["param_groups"][0].update(lr="x"), "optimizer is another one"),
        (lambda state: state["optimizer"]["param_groups"][0].update(params=[0]), "optimizer is another one"),
        (lambda state: state["optimizer"].pop("state"), "does not fit this run"),
    ],
)
def test_a_state_of_another_run_is_refused(change: Callable[[Any], object], says: str, run: Path) -> None:
    path = run / "checkpoints" / NEW
    state = from_json((path / STATE).read_bytes(), tensors_of((path / OPTIMIZER).read_bytes()))
    change(state)
    (path / STATE).write_text(to_json(state)[0])
    _reseal(path)
    with pytest.raises(CheckpointError, match=rf"{NEW}.*{says}"):
        regress(run, 13, resume=True)


@pytest.mark.campaign
def test_the_command_line_goes_on_from_a_checkpoint_by_name(tmp_path: Path) -> None:
    def train(folder: Path, *more: str) -> Ended:
        options = "--encoder tiny --no-pretrained --cpu --drives 2 --size 48x96 --batch-size 2 --steps 6 --save-every 2"
        return call("train-coarse", "synthetic", *options.split(), "--output", folder, *more)

    assert train(tmp_path / "whole").status == 0
    assert train(tmp_path / "run").status == 0
    shutil.rmtree(tmp_path / "run" / "final")
    (tmp_path / "run" / "checkpoints" / "step_00000006" / MODEL).unlink()
    ended = train(tmp_path / "run", "--resume")
    assert ended.fault() is None and ended.status == 2
    assert "model.safetensors is missing" in ended.err and "--resume-from step_00000004" in ended.err
    assert train(tmp_path / "run", "--resume-from", "step_00000009").status == 2
    assert train(tmp_path / "run", "--resume-from", "step_00000004").status == 0
    one, other = ((tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert one == other


# -- run.json ----------------------------------------------------------------------------------------------


def _stage_run(folder: Path, resume: bool | str = False, steps: int = 4) -> int | None:
    stage, recipe = Regression(), StageRecipe(1e-2, 0.0, 4, steps=steps)
    groups = [{"name": "all", "params": list(stage.parameters()), "lr": recipe.lr}]
    return train_stage(stage, Numbers(), groups, recipe, folder, cpu=True, resume=resume, save_every=2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 100_000, b'{"lr": NaN}'])
def test_damaged_settings_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    _stage_run(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"run.json is damaged|keep it"):
        _stage_run(tmp_path, resume=True)
    (tmp_path / "run.json").unlink()
    assert _stage_run(tmp_path, resume=True) == 4, "without the file, the settings of the command hold"
    assert json.loads((tmp_path / "run.json").read_text())["lr"] == 1e-2


# -- one run in a folder -----------------------------------------------------------------------------------


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_run(tmp_path), hold_run(tmp_path):
            held.set()
            over.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    with pytest.raises(ConfigError, match="another run is using"):
        regress(tmp_path, 3)
    assert not (tmp_path / "checkpoints").exists()
    over.set()
    other.join()
    assert len(regress(tmp_path, 3)) == 3


def test_a_killed_run_leaves_its_folder_free(tmp_path: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from hybrid_encoder.training.locking import hold_run
        from hybrid_encoder.training.parallel import process_state
        process_state(cpu=True)
        with hold_run(Path({str(tmp_path)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another run is using"):
            _stage_run(tmp_path)
        assert not (tmp_path / "run.json").exists()
        other.send_signal(signal.SIGKILL)
        other.wait(30)
    assert _stage_run(tmp_path) == 4


def test_a_folder_that_cannot_hold_a_run_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stage = Regression()
    with pytest.raises(ConfigError, match=r"file.* cannot hold a run"):
        regress(tmp_path / "file" / "run", 3, stage)
    (tmp_path / "checkpoints").touch()
    with pytest.raises(ConfigError, match=r"checkpoints is not a folder; move it away"):
        regress(tmp_path, 3, stage)
    assert not stage.seen


# -- disks -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:log.jsonl ends at step:UserWarning")  # the log is on the same disk
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_costs_no_checkpoint(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float]
) -> None:
    regress(tmp_path, 5)

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=rf"{NEW} cannot be saved.*{OLD}") as said:
        patch.setattr(os, failing, full)
        regress(tmp_path, 13, resume=True)
    assert "No space left on device" in str(said.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [OLD], "no half checkpoint stays"
    assert regress(tmp_path, 13, resume=True) == losses[5:]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(tmp_path: Path, losses: list[float]) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this system mounts no tmpfs")
    try:
        regress(tmp_path / "run", 5)
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
        with (
            pytest.warns(UserWarning, match=r"the log for TensorBoard ends at step 6 \(No space"),
            pytest.raises(CheckpointError, match=rf"{NEW} cannot be saved \(.*No space left.*{OLD}"),
        ):
            regress(tmp_path / "run", 13, resume=True, log_every=1)
        filler.unlink()
        assert regress(tmp_path / "run", 13, resume=True) == losses[5:]
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(ConfigError, match="cannot hold a run"):
            regress(tmp_path / "other", 13)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- kills -------------------------------------------------------------------------------------------------


def _kill(kind: str, count: int, seed: int, place: Path) -> dict[str, Any]:
    command = [sys.executable, killed_runs.__file__, str(place), kind, str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["coarse", "fine", "all", "two"])
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    """HYBRID_ENCODER_KILLS runs of each kind, 1 by default."""
    count = int(os.environ.get("HYBRID_ENCODER_KILLS", "1"))
    found = _kill(kind, count, random.Random(kind).randrange(1000), tmp_path)
    assert found["equal"] == [True] * count and found["kills"] > 0
