"""What a file says or is called reaches the terminal as text: no escape sequence, no markup, no line of its own."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file

from hybrid_encoder.cli.failures import sentence_of
from hybrid_encoder.cli.terminal import PlainConsole
from hybrid_encoder.errors import (
    MAX_LENGTH,
    AdapterError,
    CheckpointError,
    ConfigError,
    HybridEncoderError,
    InputError,
    visible,
)

from helpers.command_line import call, lay_out

HOSTILE = {
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",  # clears the screen
    "\x1b]0;title\x07": r"\x1b]0;title\x07",  # names the window
    "\x9b31m": r"\x9b31m",  # the same in one byte of C1
    "a\rb\x08\x7f": r"a\rb\x08\x7f",
    "two\nlines\ttab\vfeed": r"two\nlines\ttab\x0bfeed",
    "\u202egnp.exe": r"\u202egnp.exe",  # written from right to left
    "\u2066x\u2069\u200b\ufeff": r"\u2066x\u2069\u200b\ufeff",
    "\u2028\u2029\x85": r"\u2028\u2029\x85",  # line ends, too
    os.fsdecode(b"\xff\xfe"): r"\udcff\udcfe",
    "\U000e0041": r"\U000e0041",  # tags: invisible
}
HARMLESS = ("[/x]", "[red]x[/]", ":smile:", "a b", "日本語 é ß", "\\x1b", "{0} %s", "C:\\data")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [HybridEncoderError, ConfigError, InputError, CheckpointError, AdapterError])
def test_an_error_shows_what_does_not_show(kind: type[HybridEncoderError], name: str) -> None:
    error = kind(f"{name} does not exist; check the path.")
    assert str(error) == f"{HOSTILE[name]} does not exist; check the path."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_shows_stays_as_it_is(name: str) -> None:
    assert str(InputError(name)) == visible(name) == name


@given(st.text(st.characters(categories=("C", "L", "Z", "S")), max_size=50))
def test_any_text_becomes_one_line_that_shows(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
    assert InputError(text).args == (visible(text),)


@pytest.mark.parametrize("name", ["x" * 5000, "x " * 3000, "\x1b" * 5000])
def test_an_absurdly_long_name_leaves_room_for_the_rule(name: str) -> None:
    said = str(InputError(f"{name} is no picture; give a JPEG, PNG or similar."))
    assert len(said) <= MAX_LENGTH
    assert said.startswith(visible(name)[:100])
    assert said.endswith("is no picture; give a JPEG, PNG or similar.")


def printed(*things: object, **options: object) -> str:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=200, color_system="truecolor", **options)
    for thing in things:
        console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_console_prints_names_as_text_wherever_they_stand(name: str) -> None:
    table = Table(name, title=name, caption=name)
    table.add_row(name)
    for shown in (printed(name), printed(table), printed(Panel(name, title=name))):
        plain = shown.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[2;3m", "").replace("\x1b[3m", "")
        assert all(sign.isprintable() or sign == "\n" for sign in plain), ascii(plain)
    file = io.StringIO()
    console = PlainConsole(file=file, width=200)  # no terminal: all control characters would be the name's
    list(track([1], description=name.replace("[", ""), console=console))
    assert all(sign.isprintable() or sign == "\n" for sign in file.getvalue()), ascii(file.getvalue())


@pytest.mark.parametrize("name", HARMLESS)
def test_the_console_knows_no_markup_and_no_emoji(name: str) -> None:
    table = Table(name)
    table.add_row(name)
    assert printed(name) == f"{name}\n"
    assert printed(table).count(name) == 2


def test_a_style_of_ours_still_shows() -> None:
    from rich.text import Text

    assert printed(Text("bold", "bold")) == "\x1b[1mbold\x1b[0m\n"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    lay_out(folder)
    return folder


@pytest.fixture
def folder(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["[/x]", "\x1b[31mred", "\u202egnp", "two\nlines", os.fsdecode(b"\xff"), ":smile:"])
def test_a_checkpoint_of_any_name_is_described(folder: Path, name: str) -> None:
    target = folder / "in" / name
    shutil.copytree(folder / "weights", target)
    ended = call("info", target)
    assert (ended.status, ended.fault()) == (0, None), ended
    assert visible(name) in "".join(ended.out.split())


@pytest.mark.parametrize("value", ["\x1b[31mred", "[/x]", "\x1b]0;owned\x07", "two\nlines"])
def test_what_a_configuration_says_reaches_nobody_s_terminal(folder: Path, value: str) -> None:
    """Every text field of a configuration, one after the other."""
    file = folder / "weights" / "config.json"
    whole = json.loads(file.read_text())

    def fields(data: object) -> list[tuple[dict[str, object], str]]:
        if not isinstance(data, dict):
            return []
        own = [(data, key) for key, text in data.items() if isinstance(text, str)]
        return own + [found for part in data.values() for found in fields(part)]

    places = fields(whole)
    assert len(places) > 5
    for data, key in places:
        before, data[key] = data[key], value
        file.write_text(json.dumps(whole))
        ended = call("info", "weights")
        assert ended.fault() is None, (key, ended)
        data[key] = before


def test_the_keys_of_a_hostile_file_reach_nobody_s_terminal(folder: Path) -> None:
    tensors = {"\x1b[31m[/x]": torch.zeros(1), "two\nlines": torch.zeros(1)}
    save_file(tensors, folder / "weights" / "model.safetensors")
    ended = call("predict", "a.png", "--weights", "weights")
    assert (ended.status, ended.fault()) == (2, None), ended


def test_an_encoding_that_knows_few_characters(folder: Path) -> None:
    shutil.copytree(folder / "weights", folder / "日本")
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_encoder", "info", "日本"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5\\u672c" in done.stdout


def test_what_the_system_refuses_is_a_sentence(tmp_path: Path) -> None:
    """Failures as they are raised: by Python, by torch, by numpy, by safetensors."""

    def raised(call: object, *args: object) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call(*args)  # type: ignore[operator]
        return caught.value

    missing = tmp_path / "no" / "\x1b[31mfile"
    cases = [
        (raised(open, missing), "No such file or directory"),
        (raised(open, tmp_path), "Is a directory"),
        (raised(open, tmp_path / ("x" * 300)), "File name too long"),
        (raised(np.empty, 10**15), "memory"),
        (raised(torch.empty, 10**15), "allocate memory"),
        (raised(save_file, {"a": torch.zeros(1)}, str(tmp_path / "no" / "x")), "No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (RuntimeError("Caught OSError: [Errno 24] Too many open files"), "ulimit -n"),
    ]
    for error, says in cases:
        said = sentence_of(error)
        assert said is not None and says in said, (error, said)
        assert said.count("\n") == 0


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: str) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("hybrid_encoder.checkpoints.reading.read_checkpoint", broken)
    with pytest.raises(KeyError, match="a bug"):
        call("info", "tiny")
    assert sentence_of(RuntimeError("shapes cannot be multiplied")) is None
    assert sentence_of(ValueError("x")) is None


def test_control_c_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybrid_encoder.checkpoints.reading.read_checkpoint", interrupted)
    ended = call("info", "tiny")
    assert (ended.status, ended.out, ended.err) == (130, "", "error: interrupted.\n")


def test_a_reader_that_left_is_no_error(folder: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m hybrid_encoder info tiny | head -c 1", shell=True, capture_output=True, check=False
    )
    assert done.stderr == b""
