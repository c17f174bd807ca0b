"""Files of weights as strangers, failing disks and other people's training code write them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.traps import Traps

Content = dict[Any, Any]
FIRST, LAST = "encoder.pth", "depth.pth"
WEIGHT, NORM = "clip.visual.conv1.weight", "dinov2.norm.bias"


class Calls:
    """Pickles to a call: what a hostile file would have Python's own reader do."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Subclass(torch.Tensor):
    """A tensor of a class that nobody else has."""


@dataclass(frozen=True)
class Case:
    """One file that must be refused.

    Attributes:
        name: what is wrong with it.
        write: changes a good checkpoint's folder.
        says: part of the sentence that must come: the name of the key, or of the file.
    """

    name: str
    write: Callable[[Path, Traps], None]
    says: str


def changed(name: str, change: Callable[[Content], Any], says: str, file: str = FIRST, **how: Any) -> Case:
    """A published checkpoint one of whose files is loaded, changed and saved again."""

    def write(folder: Path, traps: Traps) -> None:
        content = torch.load(folder / file, weights_only=True)
        change(content)
        torch.save(content, folder / file, **how)

    return Case(f"{file}: {name}", write, says)


def put(name: str, key: Any, value: Any, says: str, file: str = FIRST) -> Case:
    return changed(name, lambda content: content.update({key: value() if callable(value) else value}), says, file)


def without(key: str, file: str = FIRST, says: str = "") -> Case:
    return changed(f"no {key}", lambda content: content.pop(key), says or key, file)


def reshaped(key: str, *shape: int, file: str = FIRST) -> Case:
    return put(f"{key} as {shape}", key, lambda: torch.zeros(shape), key, file)


def other_type(name: str, key: str, make: Callable[[Tensor], Any]) -> Case:
    return changed(name, lambda content: content.update({key: make(content[key])}), "norm.bias")


def several_frames(name: str, entries: Content, says: str) -> Case:
    """A published encoder that matches several frames, with these entries over its own."""
    reduce = {"reduce_conv.0.0.weight": torch.zeros(64, 80, 3, 3), "reduce_conv.0.0.bias": torch.zeros(64)}

    def change(content: Content) -> None:
        content.update({"layer0_clip.0.weight": content[WEIGHT], **reduce, **entries})

    return changed(f"several frames, {name}", change, says)


def raw(name: str, content: Any, says: str, file: str = FIRST) -> Case:
    """A file of these bytes."""

    def write(folder: Path, traps: Traps) -> None:
        (folder / file).write_bytes(content(traps) if callable(content) else content)

    return Case(f"{file}: {name}", write, says)


def instead(name: str, place: Callable[[Path], Any], says: str) -> Case:
    """Something that is no file, under the name of one."""

    def write(folder: Path, traps: Traps) -> None:
        (folder / FIRST).unlink()
        place(folder / FIRST)

    return Case(f"{FIRST}: {name}", write, says)


def header(name: str, change: Callable[[Content], Any], says: str = "model.safetensors") -> Case:
    """One of ours, with a changed header over the same values."""

    def write(folder: Path, traps: Traps) -> None:
        file = folder / "model.safetensors"
        content, values = split_safetensors(file)
        found = change(content)
        text = found if isinstance(found, bytes) else json.dumps(content if found is None else found).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + values)

    return Case(f"model.safetensors: {name}", write, says)


def split_safetensors(file: Path) -> tuple[Content, bytes]:
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def torch_archive(described: bytes, **more: bytes) -> bytes:
    """A zip archive as ``torch.save`` lays it out, around any description."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", described)
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def compressed(folder: Path, traps: Traps) -> None:
    """Replace the values of one tensor by 200 MB of zeros, which zip makes 0.2 MB of."""
    with zipfile.ZipFile(folder / FIRST) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / FIRST, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in records.items():
            archive.writestr(name, bytes(200_000_000) if name.endswith("/data/0") else content)


def colliding() -> bytes:
    """A dictionary of numbers that all have one hash, which takes Python hours to build once they are a million."""
    numbers = (number * (2**61 - 1) for number in range(2**20, 2**20 + 100_000))
    return b"\x80\x02}(" + b"".join(b"\x8a\x0b" + number.to_bytes(11, "little") + b"N" for number in numbers) + b"u."


NESTED = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # a tuple of tuples of ... as the key of a dictionary
RECORDS = b"PK\x03\x04" + bytes(2 * 10**7) + b"PK\x05\x06" + bytes(8) + struct.pack("<LLH", 2 * 10**7, 4, 0)
MEMORY = b"\x80\x02}r\xff\xff\xff\x7f."  # "keep this as number 2147483647": Python makes room for as many
ESCAPES = "clip.\x1b]0;title\x07\x1b[2J.weight"
TOKEN = "extra_tkns_learnables_depth."


def _entry(content: Content) -> Content:
    return next(entry for name, entry in content.items() if name != "__metadata__")


def _first_name(content: Content) -> str:
    return str(next(name for name in content if name != "__metadata__"))


def _nested(depth: int) -> bytes:
    return b'{"a": ' + b"[" * depth + b"]" * depth + b"}"


PUBLISHED = [
    *[
        without(key)
        for key in (
            "clip.text_projection",
            "clip_align_conv.1.weight",
            "clip.positional_embedding",
            "clip.token_embedding.weight",
            WEIGHT,
            "dinov2.pos_embed",
        )
    ],
    without(NORM, says="norm.bias"),
    without(f"{TOKEN}0"),
    without("dinov2.blocks.1.norm1.weight", says="blocks.1.norm1.weight"),
    *[
        without(key, LAST)
        for key in (
            "depth_head.projects.0.weight",
            "depth_head.projects.2.weight",
            "depth_head.scratch.layer1_rn.weight",
            "depth_head.scratch.output_conv2.0.weight",
        )
    ],
    reshaped("clip.text_projection", 64),
    reshaped("clip.text_projection", 64, 96, 1),
    reshaped("dinov2.pos_embed", 26, 128),
    reshaped("dinov2.pos_embed", 1, 0, 128),
    reshaped(WEIGHT, 8, 27),
    reshaped("clip.positional_embedding", 77),
    reshaped("clip.token_embedding.weight", 49408),
    put("a vocabulary of 5", "clip.token_embedding.weight", lambda: torch.zeros(5, 64), "published describes a model"),
    reshaped("clip_align_conv.1.weight", 64),
    reshaped(f"{TOKEN}3", 1, 65),
    reshaped(f"{TOKEN}3"),
    reshaped("depth_head.projects.0.weight", 8, file=LAST),
    reshaped("depth_head.projects.1.weight", file=LAST),
    reshaped("depth_head.projects.1.weight", 0, 8, 1, 1, file=LAST),
    put("a block far away", "dinov2.blocks.999999999.norm1.weight", lambda: torch.zeros(1), "dinov2.blocks.5."),
    put("a block without number", "dinov2.blocks.x.norm1.weight", lambda: torch.zeros(1), "dinov2.blocks.5."),
    put("a layer far away", f"clip.visual.layer1.{'9' * 5000}.x", lambda: torch.zeros(1), "clip.visual.layer1.1."),
    put("height is text", "height", "x", "'height'"),
    put("height below 0", "height", -70, "'height'"),
    put("height is not a number", "height", float("nan"), "'height'"),
    put("height is infinite", "height", float("inf"), "'height'"),
    put("height is huge", "height", 10**400, "'height'"),
    put("height is two numbers", "height", lambda: torch.tensor([70, 98]), "'height'"),
    put("width is half a pixel", "width", 97.5, "'width'"),
    put("a bin is text", "min_depth_bin", "x", "'min_depth_bin'"),
    put("a bin is not a number", "max_depth_bin", float("nan"), "'max_depth_bin'"),
    several_frames("a row of weights", {"reduce_conv.0.0.weight": torch.zeros(5)}, "reduce_conv.0.0.weight"),
    several_frames("one weight", {"reduce_conv.0.0.weight": torch.zeros(())}, "reduce_conv.0.0.weight"),
    several_frames("too few inputs", {"reduce_conv.0.0.weight": torch.zeros(64, 8, 3, 3)}, "num_depth_bins is -56"),
    several_frames("far before near", {"min_depth_bin": 30.0, "max_depth_bin": 20.0}, "from 30 to 20"),
    several_frames("a block far away", {f"layer1_dino.{'9' * 5000}.x": torch.zeros(1)}, "layer1_dino.999"),
    put("a number as a key", 3, lambda: torch.zeros(1), "the key 3"),
    changed("numbers as keys", lambda c: [c.pop(key) for key in list(c)] and c.update({1: torch.ones(1)}), "the key 1"),
    put("escape sequences", ESCAPES, lambda: torch.zeros(1), r"\x1b]0;title\x07\x1b[2J"),
    other_type("complex", NORM, lambda value: value.to(torch.complex64)),
    other_type("bool", NORM, lambda value: value > 0),
    other_type("int8", NORM, lambda value: value.to(torch.int8)),
    other_type("float8", NORM, lambda value: value.to(torch.float8_e4m3fn)),
    other_type("sparse", NORM, lambda value: value.to_sparse()),
    other_type("quantised", NORM, lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
    other_type("on no device", NORM, lambda value: value.to("meta")),
    other_type("text in its place", NORM, lambda value: "weights"),
    other_type("a list in its place", NORM, lambda value: value.tolist()),
    other_type("NaN", NORM, lambda value: torch.full_like(value, float("nan"))),
    other_type("infinite", NORM, lambda value: value.index_fill(0, torch.tensor(3), float("-inf"))),
    other_type("10^12 values of 1", NORM, lambda value: torch.zeros(1).expand(10**6, 10**6)),
    other_type("strides that overlap", NORM, lambda value: torch.zeros(300).as_strided((150, 150), (1, 1))),
    other_type("empty", NORM, lambda value: value[:0]),
    put("a subclass of tensors", NORM, lambda: torch.zeros(128).as_subclass(Subclass), NORM),
    raw("a plain pickle", lambda traps: traps.pickle(), FIRST),
    raw("code", lambda traps: torch_archive(traps.pickle()), FIRST),
    raw("code in text form", lambda traps: torch_archive(f"cos\nmkdir\n(V{traps.sprung}\ntR.".encode()), FIRST),
    raw("no pickle", torch_archive(b"hello"), FIRST),
    raw("an endless pickle", torch_archive(b"\x80\x02}" + b"K\x01" * 2_000_000), FIRST),
    raw("a big endian file", torch_archive(b"\x80\x02}.", byteorder=b"big"), FIRST),
    raw("a zip of other things", torch_archive(b"").replace(b"data.pkl", b"data.txt"), FIRST),
    raw("10 GB by one call", lambda traps: torch_archive(pickle.dumps({"a": Calls(bytearray, 10**10)}, 2)), FIRST),
    raw(
        "a tensor by one call",
        lambda traps: torch_archive(pickle.dumps({"a": Calls(torch.FloatTensor, 10**11)})),
        FIRST,
    ),
    raw("16 GB of pickle's memory", torch_archive(MEMORY), FIRST),
    raw("a key without end", torch_archive(NESTED), FIRST),
    raw("keys of one hash", torch_archive(colliding()), FIRST),
    raw(
        "300 000 entries", lambda traps: torch_archive(pickle.dumps(dict.fromkeys(map(str, range(300_000))), 2)), FIRST
    ),
    Case(f"{FIRST}: compressed", compressed, FIRST),
    raw("a list of 400 000 records", RECORDS, "lists its records in 20000000 bytes"),
    raw("empty", b"", "is empty"),
    raw("a web page", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
    raw("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    raw("text", b"hello", FIRST),
    raw("a gzip archive", b"\x1f\x8b\x08" + bytes(100), "gzip"),
    instead("a folder", lambda path: path.mkdir(), "holds no checkpoint"),
    instead("a pipe", lambda path: os.mkfifo(path), "holds no checkpoint"),
    instead("a link to a device", lambda path: path.symlink_to("/dev/zero"), "holds no checkpoint"),
    instead("a link to itself", lambda path: path.symlink_to(path), "holds no checkpoint"),
    instead("a link to other text", lambda path: path.symlink_to("/etc/passwd"), FIRST),
]

OURS = [
    header("not JSON", lambda _: b"{'a': 1}"),
    header("not text", lambda _: b'{"\xff\xfe": 1}'),
    header("a list", lambda _: b"{}[]"),
    header("nested a million deep", lambda _: _nested(1_000_000)),
    header("an entry that is a number", lambda c: c.update(a=3)),
    header("an entry without a place", lambda c: _entry(c).pop("data_offsets")),
    header("a place below 0", lambda c: _entry(c).update(data_offsets=[-4, 0])),
    header("a place that is half a byte", lambda c: _entry(c).update(data_offsets=[0.5, 1.5])),
    header("a place beyond the end", lambda c: _entry(c).update(data_offsets=[10**15, 10**15 + 4])),
    header("two tensors in one place", lambda c: c.update(again=dict(_entry(c)))),
    header("a gap", lambda c: c.pop(_first_name(c))),
    header("a shape below 0", lambda c: _entry(c).update(shape=[-1, 4])),
    header("a shape of 10^18", lambda c: _entry(c).update(shape=[10**9, 10**9])),
    header("a shape of text", lambda c: _entry(c).update(shape=["x", 10**9])),
    header("a shape that is none", lambda c: _entry(c).update(shape=None)),
    header("nine dimensions", lambda c: _entry(c).update(shape=[*_entry(c)["shape"], 1, 1, 1, 1, 1, 1, 1, 1, 1])),
    header("an unknown type", lambda c: _entry(c).update(dtype="F7")),
    header("a type that is a list", lambda c: _entry(c).update(dtype=[])),
    header("no tensors", lambda c: {}),
    header("another name", lambda c: {"surprise" if k == _first_name(c) else k: v for k, v in c.items()}, "has no key"),
    raw("empty", b"", "is empty", "model.safetensors"),
    raw("a header of 2^63 bytes", struct.pack("<Q", 2**63) + b"{}", "model.safetensors", "model.safetensors"),
    raw("a web page", b"<html><body>Not found</body></html>", "is a web page", "model.safetensors"),
    raw("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "model.safetensors"),
    raw("a pickle", lambda traps: traps.pickle(), "model.safetensors", "model.safetensors"),
]


def _stage1(name: str, content: Any, says: str, **how: Any) -> tuple[str, Any, str, dict[str, Any]]:
    return name, content, says, how


STAGE1 = [
    _stage1("a list", [1, 2, 3], "holds a list"),
    _stage1("a number", 3, "holds a int"),
    _stage1("no state", {"epoch": 3}, "'epoch'"),
    _stage1("an empty state", {"state_dict": {}}, "'state_dict'"),
    _stage1("a state that is a list", {"state_dict": [torch.zeros(1)]}, "'state_dict'"),
    _stage1("numbers as keys", {"state_dict": {3: torch.zeros(1)}}, "the key 3"),
    _stage1("tensors alone", {"a": torch.zeros(1)}, "no 'state_dict'"),
    _stage1("two levels", {"state_dict": {"model": {"a": torch.zeros(1)}}}, "'state_dict'"),
    _stage1(
        "two of them", {"teacher": {"a": torch.zeros(1)}, "student": {"a": torch.zeros(1)}}, "'teacher', 'student'"
    ),
    _stage1("another model", {"state_dict": {"conv1.weight": torch.zeros(8, 3, 7, 7)}}, "has no key"),
]
