"""Files that people name: folders with folders inside, globs, lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid_encoder.data.finding import find_files, find_images
from hybrid_encoder.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("top.jpg", "a/1.PNG", "a/b/2.jpg", "c/1.png", "a/notes.md", ".hidden/3.jpg", "a/._1.PNG", "a/.4.jpg"):
        path = Path("tree", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return Path("tree")


def places(*inputs: object) -> dict[str, str]:
    return {str(one.path): str(one.place) for one in find_files([str(text) for text in inputs])}


EVERYTHING = {"tree/top.jpg": ".", "tree/a/1.PNG": "a", "tree/a/b/2.jpg": "a/b", "tree/c/1.png": "c"}


def test_a_folder_with_those_inside_it(tree: Path) -> None:
    assert places(tree) == EVERYTHING
    assert [str(path) for path in find_images([str(tree)])] == ["tree/top.jpg"]
    assert places(tree / "a", tree / "c") == {"tree/a/1.PNG": ".", "tree/a/b/2.jpg": "b", "tree/c/1.png": "."}


def test_links_to_folders_are_followed_once(tree: Path) -> None:
    (tree / "a" / "circle").symlink_to(tree.absolute())
    (tree / "broken").symlink_to("nowhere")
    assert len(places(tree)) == 4


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("tree/*.jpg", {"tree/top.jpg": "."}),
        ("tree/*/*.[pP]*", {"tree/a/1.PNG": "a", "tree/c/1.png": "c"}),
        ("tree/**/*.jpg", {"tree/top.jpg": ".", "tree/a/b/2.jpg": "a/b"}),
        ("tr*/a/*.PNG", {"tree/a/1.PNG": "tree/a"}),
    ],
)
def test_a_glob_mirrors_what_is_open_in_it(tree: Path, pattern: str, found: dict[str, str]) -> None:
    assert places(pattern) == found
    absolute = places(Path.cwd() / pattern)
    assert {os.path.relpath(path): place for path, place in absolute.items()} == found


def test_a_list(tree: Path) -> None:
    """Lines begin in the working folder; files of several folders keep their places among these."""
    Path("list.txt").write_text("\ufefftree/a/1.PNG\n\n  tree/c/1.png  \ntree/a/b/2.jpg\n", encoding="utf-8")
    assert places("list.txt") == {"tree/a/1.PNG": "a", "tree/c/1.png": "c", "tree/a/b/2.jpg": "a/b"}
    Path("one.txt").write_text("tree/a/b/2.jpg")
    assert places("one.txt", tree / "top.jpg") == {"tree/a/b/2.jpg": ".", "tree/top.jpg": "."}
    Path("folder.txt").write_text("tree\n")
    assert places("folder.txt") == EVERYTHING


def test_each_file_once(tree: Path) -> None:
    assert places(tree / "top.jpg", tree, "tree/*.jpg") == EVERYTHING


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"tree/top.jpg\ngone.jpg\n", r"list.txt, line 2: gone.jpg is no file or folder"),
        (b"list.txt\n", "line 1: list.txt is no file"),
        (b"\n\n", "a list without a path"),
        (b"\xff\xfe\x00", "cannot be read as a list"),
        (b"a" * 100_000, "line 1: a.* is no file or folder"),
    ],
)
def test_lists_that_cannot_be(tree: Path, content: bytes, says: str) -> None:
    Path("list.txt").write_bytes(content)
    with pytest.raises(InputError, match=says) as raised:
        find_files(["list.txt"])
    assert len(str(raised.value)) < 500


def test_signs_of_a_pattern_in_the_name_of_a_folder(tree: Path) -> None:
    (tree / "c").rename(tree / "run [1]")
    assert places("tree/run [1]/*.png") == {"tree/run [1]/1.png": "."}
    assert places("tree/run [1]") == {"tree/run [1]/1.png": "."}


def test_a_pattern_that_leads_back_has_its_places_inside_the_output(tree: Path) -> None:
    assert places("tree/a/*/../../c/*.png") == {"tree/a/b/../../c/1.png": "."}


def test_one_file_by_two_names_is_one(tree: Path) -> None:
    Path("link").symlink_to(tree)
    assert places(tree, tree.absolute(), "tree/./top.jpg", "tree/../tree/top.jpg", "link/a/1.PNG") == EVERYTHING
    Path("other.jpg").symlink_to("tree/top.jpg")
    assert len(places(tree, "other.jpg")) == 5, "its own name is its own result"


def test_a_file_whose_name_begins_as_a_home_does(tree: Path) -> None:
    Path("~$x.png").write_bytes(b"")
    assert places("~$x.png") == {"~$x.png": "."}
    with pytest.raises(InputError, match="a user who does not exist"):
        places("~nosuchuser/x.png")


def test_a_list_that_never_ends_is_refused(tree: Path) -> None:
    os.mkfifo("pipe.txt")
    with pytest.raises(InputError, match=r"pipe\.txt is not a regular file; give a text file"):
        places("pipe.txt")


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_folder_that_may_not_be_looked_into_is_not_left_out(
    tree: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "a" / "b").chmod(mode)
    if os.geteuid() == 0:  # who may look into everything
        access, scan, closed = os.access, os.scandir, str(tree / "a" / "b")

        def scandir(path: str) -> object:
            if path == closed and not mode:
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
        monkeypatch.setattr(os, "access", lambda path, what: path != closed and access(path, what))
    with pytest.raises(InputError, match=r"tree/a/b cannot be looked into \(Permission denied\); check its perm"):
        places(tree)
    (tree / "a" / "b").chmod(0o700)
