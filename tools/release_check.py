"""Check what must hold before a release: ``make release-check``. Leaves the distributions in dist/.

First the rules about the files, all of them at once; then the distributions, built from a clone of what is committed;
then the wheel, installed with its dependencies into an empty environment and used from another folder.

``--repository`` and ``--date`` make it a rehearsal: in the clone they stand for what is not known yet, and dist/ is
left alone, so that nothing with an address or a date of a rehearsal can be published.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "release"
PICTURE = "src/hybrid_encoder/app/street.jpg"
LINK = "src/hybrid_encoder/adapters"  # to adapters/, which an sdist holds
MAX_MEGABYTES = 40  # of each distribution; the package index allows 100
MADE = re.compile(r"PKG-INFO|setup\.cfg|.*\.egg-info/.*")  # what setuptools adds to an sdist
RELATIVE = re.compile(r"""(?:\]\(|\b(?:href|src|srcset)=")(?!https?:|mailto:|\#)([^\s)"]+)""")
USE = """
import importlib.metadata, sys
import hybrid_encoder
from hybrid_encoder import adapters
from hybrid_encoder.adapters import generic, manydepth, monodepth2

assert hybrid_encoder.__file__.startswith(sys.prefix), hybrid_encoder.__file__
assert adapters.__file__.startswith(sys.prefix), adapters.__file__
assert callable(monodepth2.patch) and callable(manydepth.patch) and callable(generic.patch)
print(hybrid_encoder.__version__, importlib.metadata.version("hybrid-encoder"))
"""


class ReleaseError(Exception):
    """What keeps this from being released, in one sentence."""


class Project(NamedTuple):
    """What the files of a tree say about its release."""

    version: str
    repository: str
    documentation: str
    changelog: str
    citation: dict[str, Any]

    @classmethod
    def read(cls, root: Path) -> Project:
        """Read pyproject.toml, the package's version, CHANGELOG.md and CITATION.cff below ``root``."""
        address = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hybrid-encoder"]
        source = (root / "src" / "hybrid_encoder" / "__init__.py").read_text(encoding="utf-8")
        version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
        return cls(
            version[1] if version else "",
            address["repository"],
            address["documentation"],
            (root / "CHANGELOG.md").read_text(encoding="utf-8"),
            yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8")),
        )


def faults(project: Project, uncommitted: str, tag: str | None = None) -> list[str]:
    """Return what the files lack, a sentence each.

    ``uncommitted`` is what ``git status --porcelain`` prints; ``tag``, where there is one, is that of the release.
    """
    version, citation = project.version, project.citation
    found = []
    if uncommitted:
        found.append(f"The tree has {len(uncommitted.splitlines())} uncommitted files; commit or remove them.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"The version is {version!r}; a release has three numbers, such as 0.2.0.")
    if tag is not None and tag != f"v{version}":
        found.append(f"The tag is {tag!r}, and the version {version}: its tag is v{version}.")
    if not project.repository:
        found.append("The project has no public address: set repository under [tool.hybrid-encoder] in pyproject.toml.")
    found += [
        f"{address!r} in pyproject.toml is no address: it begins with https:// and ends without a slash."
        for address in (project.repository, project.documentation)
        if address and not re.fullmatch(r"https://[^\s/]+(/[^\s/]+)*", address)
    ]
    released = re.search(rf"^## \[{re.escape(version)}\] - (.+)$", project.changelog, re.MULTILINE)
    if released is None:
        found.append(f"CHANGELOG.md has no section of {version}: add the line '## [{version}] - YYYY-MM-DD'.")
    elif not is_date(released[1]):
        found.append(f"CHANGELOG.md says of {version} {released[1]!r}: write the day of the release, as YYYY-MM-DD.")
    if citation.get("version") != version:
        found.append(f"CITATION.cff has the version {citation.get('version')!r}: make it {version}.")
    if released and is_date(released[1]) and str(citation.get("date-released")) != released[1]:
        found.append(f"CITATION.cff does not have the day of CHANGELOG.md: add 'date-released: {released[1]}'.")
    if project.repository and citation.get("repository-code") != project.repository:
        found.append(f"CITATION.cff does not have the public address: add 'repository-code: {project.repository}'.")
    return found


def is_date(text: str) -> bool:
    """Tell whether ``text`` is a day, written as YYYY-MM-DD."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def fill_in(tree: Path, repository: str | None, date: str | None) -> None:
    """Write an address and a day into the files of a tree, where a release would have them."""
    version = Project.read(tree).version
    citation = tree / "CITATION.cff"
    if repository is not None:
        substitute(tree / "pyproject.toml", r'^repository = ""', f'repository = "{repository}"')
        substitute(citation, r"^(repository-code: .+\n)?license:", f"repository-code: {repository}\nlicense:")
    if date is not None:
        substitute(tree / "CHANGELOG.md", rf"^## \[{re.escape(version)}\] - .+$", f"## [{version}] - {date}")
        substitute(citation, r"^(date-released: .+\n)?version:", f"date-released: {date}\nversion:")


def substitute(file: Path, pattern: str, text: str) -> None:
    """Replace the one place where ``pattern`` matches."""
    before = file.read_text(encoding="utf-8")
    after, times = re.subn(pattern, lambda _: text, before, flags=re.MULTILINE)
    if times != 1:
        raise ReleaseError(f"{file.name} has {times} places for {text.splitlines()[0]!r}; a rehearsal fills in one.")
    file.write_text(after, encoding="utf-8")


def sdist_faults(names: set[str], tracked: set[str]) -> list[str]:
    """Compare an sdist with the tracked files: it holds all but what only git and its host read, and nothing else."""
    wanted = {name for name in tracked if not name.startswith((".", LINK))}
    found = [f"The sdist lacks {name}: see MANIFEST.in." for name in sorted(wanted - names)]
    strange = sorted(name for name in names - tracked if not MADE.fullmatch(name))
    return found + [f"The sdist holds {name}, which git does not track." for name in strange]


def wheel_faults(from_sdist: dict[str, bytes], from_tree: dict[str, bytes]) -> list[str]:
    """Compare the contents of two wheels; both must hold the same files with the same bytes."""
    names = sorted(from_sdist.keys() | from_tree.keys())
    different = [name for name in names if from_sdist.get(name) != from_tree.get(name)]
    return [f"{name} differs between a wheel of the sdist and one of the tree." for name in different]


def description_faults(metadata: str) -> list[str]:
    """Find what the package index would show wrongly: links that are relative, and no link to the project."""
    found = [
        f"The README links to {link!r}, which leads nowhere on the package index."
        for link in RELATIVE.findall(metadata)
    ]
    missing = [
        name
        for name in ("Repository", "Documentation", "Issues", "Changelog")
        if f"Project-URL: {name}, " not in metadata
    ]
    return found + [f"The metadata has no link {name}." for name in missing]


def build(tree: Path, dist: Path) -> tuple[Path, Path]:
    """Build sdist and wheel of ``tree`` into an empty ``dist``, check both, and return their paths."""
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, tree)  # the wheel by way of the sdist
    run(sys.executable, "-m", "build", "--wheel", "--outdir", WORK / "of-tree", tree)
    (sdist,), (wheel,), (other,) = dist.glob("*.tar.gz"), dist.glob("*.whl"), WORK.glob("of-tree/*.whl")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    tracked = set(run("git", "ls-files", cwd=tree).splitlines())
    contents = wheel_contents(wheel)
    (metadata,) = (data.decode() for name, data in contents.items() if name.endswith(".dist-info/METADATA"))
    found = sdist_faults(names, tracked) + wheel_faults(contents, wheel_contents(other)) + description_faults(metadata)
    for file in (sdist, wheel):
        megabytes = file.stat().st_size / 1e6
        print(f"  {file.name}: {megabytes:.1f} MB", flush=True)
        if megabytes > MAX_MEGABYTES:
            found.append(f"{file.name} has {megabytes:.0f} MB, of at most {MAX_MEGABYTES}.")
    if found:
        raise ReleaseError("\n".join(found))
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    run(Path(sys.executable).with_name("check-wheel-contents"), wheel)
    return sdist, wheel


def wheel_contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel by name; the times of packing are left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def try_wheel(wheel: Path, picture: Path, version: str) -> None:
    """Install a wheel with its dependencies into an empty environment, and use it from an empty folder."""
    environment, folder = WORK / "environment", WORK / "elsewhere"
    folder.mkdir()
    uv = Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", sys.executable, environment)
    binaries = environment / ("Scripts" if sys.platform == "win32" else "bin")
    run(uv, "pip", "install", "--quiet", "--python", environment, wheel)
    run(uv, "pip", "check", "--quiet", "--python", environment)
    told = run(binaries / "python", "-I", "-c", USE, cwd=folder).split()
    if told != [version, version]:
        raise ReleaseError(f"The installed package says that it is {told}; it was built as {version}.")
    command = binaries / "hybrid-encoder"
    run(command, "info", "tiny", cwd=folder)
    run(command, "predict", picture, "--output", folder / "results", cwd=folder)
    suffixes = {file.suffix for file in folder.glob("results/**/*")}
    if not {".png", ".npy"} <= suffixes:
        raise ReleaseError(
            f"hybrid-encoder predict left {sorted(suffixes)}; a map (.png) and numbers (.npy) were asked for."
        )


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; one that fails is a ReleaseError with its last words."""
    print("  $", *(str(part) if "\n" not in str(part) else "..." for part in command), flush=True)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def check(repository: str | None, date: str | None, tag: str | None) -> Path:
    """Check everything and return the folder with the distributions."""
    rehearsal = repository is not None or date is not None
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    uncommitted = run("git", "status", "--porcelain")
    tree = WORK / "tree"
    run("git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), tree)
    fill_in(tree, repository, date)
    project = Project.read(tree)
    if found := faults(project, uncommitted, tag):
        raise ReleaseError("\n".join(found))
    dist = WORK / "dist" if rehearsal else ROOT / "dist"
    _, wheel = build(tree, dist)
    try_wheel(wheel, ROOT / PICTURE, project.version)
    return dist


def main() -> int:
    """Run the check; the exit status is 0 where the project may be released."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", help="rehearse with this address, https://...")
    parser.add_argument("--date", help="rehearse with this day of the release, YYYY-MM-DD")
    parser.add_argument("--tag", help="the tag of the release, which is v and the version")
    options = parser.parse_args()
    repository, date = options.repository or None, options.date or None
    try:
        dist = check(repository, date, options.tag or None)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    rehearsed = " A rehearsal: not to be published." if repository or date else ""
    print(f"Everything holds. The distributions are in {dist}.{rehearsed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
