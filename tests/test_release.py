"""What a release needs: the rules of ``make release-check``, and files that must agree with each other."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import release_check
from release_check import Project, ReleaseError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup_file")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

ADDRESS = "https://example.org/owner/name"
READY = Project(
    version="1.2.3",
    repository=ADDRESS,
    documentation="",
    changelog="# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-02-28\n\n### Added\n",
    citation={"version": "1.2.3", "date-released": "2026-02-28", "repository-code": ADDRESS},
)


def test_a_tree_that_is_ready_has_no_fault() -> None:
    assert release_check.faults(READY, "", "v1.2.3") == []
    assert release_check.faults(READY._replace(documentation="https://docs.example.org"), "") == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"repository": ""}, "The project has no public address: set repository under [tool.hybrid-encoder]"),
        ({"repository": f"{ADDRESS}/"}, "without a slash"),
        ({"documentation": "http://docs.example.org"}, "begins with https://"),
        ({"version": "1.3.0"}, "CHANGELOG.md has no section of 1.3.0"),
        ({"version": "1.2.3rc1"}, "a release has three numbers"),
        ({"changelog": "## [1.2.3] - unreleased\n"}, "CHANGELOG.md says of 1.2.3 'unreleased'"),
        ({"changelog": "## [1.2.3] - 2026-02-30\n"}, "'2026-02-30': write the day of the release"),
        ({"citation": {**READY.citation, "version": "1.2.2"}}, "CITATION.cff has the version '1.2.2': make it 1.2.3."),
        ({"citation": {**READY.citation, "date-released": "2026-02-27"}}, "add 'date-released: 2026-02-28'"),
        ({"citation": {**READY.citation, "repository-code": None}}, f"add 'repository-code: {ADDRESS}'"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, Any], told: str) -> None:
    found = release_check.faults(READY._replace(**change), "")
    assert any(told in sentence for sentence in found), found


def test_a_tree_with_changes_and_another_tag_are_faults() -> None:
    found = release_check.faults(READY, " M README.md\n?? new.py\n", "v1.2.4")
    assert found == [
        "The tree has 2 uncommitted files; commit or remove them.",
        "The tag is 'v1.2.4', and the version 1.2.3: its tag is v1.2.3.",
    ]


def test_a_rehearsal_of_this_tree_lacks_nothing_but_address_and_day(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "src/hybrid_encoder/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    before = Project.read(tmp_path)
    release_check.fill_in(tmp_path, None if before.repository else ADDRESS, "2026-02-27")
    release_check.fill_in(tmp_path, None, "2026-02-28")  # another day replaces it
    assert release_check.faults(Project.read(tmp_path), "") == []


def test_an_sdist_is_compared_with_what_git_tracks() -> None:
    tracked = {"a.py", "docs/start.md", ".github/workflows/ci.yml", release_check.LINK}
    assert (
        release_check.sdist_faults({"a.py", "docs/start.md", "PKG-INFO", "src/x.egg-info/SOURCES.txt"}, tracked) == []
    )
    assert release_check.sdist_faults({"a.py", "password.txt"}, tracked) == [
        "The sdist lacks docs/start.md: see MANIFEST.in.",
        "The sdist holds password.txt, which git does not track.",
    ]


def test_wheels_are_compared_by_their_bytes() -> None:
    assert release_check.wheel_faults({"a.py": b"1"}, {"a.py": b"1"}) == []
    found = release_check.wheel_faults({"a.py": b"1", "b.py": b""}, {"a.py": b"2", "b.py": b"", "c.py": b""})
    assert [sentence.split()[0] for sentence in found] == ["a.py", "c.py"]


def test_a_description_has_links_that_hold_on_the_package_index() -> None:
    urls = "".join(f"Project-URL: {name}, {url}\n" for name, url in SETUP["project_urls"](ADDRESS, "", "v1").items())
    readme = SETUP["with_absolute_links"]((ROOT / "README.md").read_text(), ADDRESS, "v1")
    assert release_check.description_faults(urls + readme) == []
    assert len(release_check.description_faults("[a](docs/a.md) ![b](https://b.org/b.png)")) == 1 + 4


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(ReleaseError, match="failed:\nno luck"):
        release_check.run(sys.executable, "-c", "raise SystemExit('no luck')")


def test_nothing_is_built_where_a_rule_is_broken(tmp_path: Path) -> None:
    """In a repository of its own: the command ends with 1, sentences alone, and an untouched dist/."""
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "src/hybrid_encoder/__init__.py", "tools"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "tools":
            (tmp_path / name).mkdir()
            name = "tools/release_check.py"
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    pyproject = (tmp_path / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(re.sub(r'(?m)^repository = ".*"', 'repository = ""', pyproject))
    (tmp_path / ".gitignore").write_text("build/\n__pycache__/\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "tools/release_check.py", "--date", "2026-02-28"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "The project has no public address: set repository under [tool.hybrid-encoder] in pyproject.toml.\n"
    )
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/a.md#b)", f"[a]({ADDRESS}/blob/v1/docs/a.md#b)"),
        ("[a](./LICENSE)", f"[a]({ADDRESS}/blob/v1/LICENSE)"),
        ("![a](docs/a.jpg)", f"![a]({ADDRESS}/raw/v1/docs/a.jpg)"),
        ("[![a](a.svg)](docs/a.md)", f"[![a]({ADDRESS}/raw/v1/a.svg)]({ADDRESS}/blob/v1/docs/a.md)"),
        ('<img src="docs/a.png" alt="x">', f'<img src="{ADDRESS}/raw/v1/docs/a.png" alt="x">'),
        ('<a href="docs/a.md">', f'<a href="{ADDRESS}/blob/v1/docs/a.md">'),
        ("[name]: docs/a.md\n", f"[name]: {ADDRESS}/blob/v1/docs/a.md\n"),
        ("[a](https://b.org/c.md) [d](#e) [f](mailto:g@h.org)", "[a](https://b.org/c.md) [d](#e) [f](mailto:g@h.org)"),
        ("```python\nx = y[0](docs)\n```\n[a](b.md)", f"```python\nx = y[0](docs)\n```\n[a]({ADDRESS}/blob/v1/b.md)"),
    ],
)
def test_links_become_absolute(text: str, expected: str) -> None:
    assert SETUP["with_absolute_links"](text, ADDRESS, "v1") == expected
    assert SETUP["with_absolute_links"](text, "", "v1") == text


def test_links_of_the_readme_lead_to_files() -> None:
    text = SETUP["with_absolute_links"]((ROOT / "README.md").read_text(), ADDRESS, "v1")
    paths = re.findall(rf"{ADDRESS}/(?:blob|raw)/v1/([^\s)\"#]+)", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_links_of_the_package_index() -> None:
    assert SETUP["project_urls"]("", "", "v1") == {}
    assert SETUP["project_urls"](ADDRESS, "", "v1") == {
        "Documentation": f"{ADDRESS}/tree/v1/docs",
        "Repository": ADDRESS,
        "Issues": f"{ADDRESS}/issues",
        "Changelog": f"{ADDRESS}/blob/v1/CHANGELOG.md",
    }
    assert (
        SETUP["project_urls"](ADDRESS, "https://docs.example.org", "v1")["Documentation"] == "https://docs.example.org"
    )


def test_the_citation() -> None:
    citation = Project.read(ROOT).citation
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == Project.read(ROOT).version
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["keywords"] == PYPROJECT["project"]["keywords"]
    assert citation["authors"] == PYPROJECT["project"]["authors"] == [{"name": "hybrid-encoder contributors"}]
    assert {"message", "title", "type"} <= set(citation)
    assert citation.get("repository-code", "") == PYPROJECT["tool"]["hybrid-encoder"]["repository"]
    paper = citation["preferred-citation"]
    assert (paper["type"], paper["year"]) == ("conference-paper", 2025)
    assert paper["url"] == "https://arxiv.org/abs/2510.09320"
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


def test_the_changelog_has_this_version_first() -> None:
    project = Project.read(ROOT)
    sections = re.findall(r"^## \[(.+?)\](?: - (.+))?$", project.changelog, re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == project.version
    assert sections[1][1] == "unreleased" or release_check.is_date(sections[1][1])


def _steps(workflow: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [(job, step) for job in jobs for step in job["steps"]]


def _pythons() -> list[str]:
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))


def test_workflows_call_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called: set[str] = set()
    for workflow in WORKFLOWS:
        for job, step in _steps(workflow):
            for target in re.findall(r"\bmake (\S+|\$\{\{.+?\}\})", step.get("run", "")):
                if target == "${{":
                    called.update(entry["target"] for entry in job["strategy"]["matrix"]["include"])
                else:
                    called.add(target)
    assert called <= targets
    assert called >= {"lint", "test", "test-lowest", "test-newest", "docs", "coverage", "release-check"}


def test_every_declared_python_is_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == _pythons()
    assert PYPROJECT["project"]["requires-python"] == f">={_pythons()[0]}"
    ends = {entry["target"]: entry["python"] for entry in jobs["ends"]["strategy"]["matrix"]["include"]}
    assert ends == {"test-lowest": _pythons()[0], "test-newest": _pythons()[-1]}
    makefile = (ROOT / "Makefile").read_text()
    assert f"LOWEST_PYTHON ?= {_pythons()[0]}\nNEWEST_PYTHON ?= {_pythons()[-1]}\n" in makefile


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_do_little_and_end(workflow: Path) -> None:
    text = workflow.read_text()
    told = yaml.safe_load(text)
    assert told["permissions"] in ({}, {"contents": "read"})
    assert "concurrency" in told
    assert "pull_request_target" not in text
    for name, job in told["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 120, name
        writes = {what for what, may in job.get("permissions", {}).items() if may == "write"}
        assert writes <= {"id-token"} if name == "publish" else writes <= {"security-events"}, name
    for _, step in _steps(workflow):
        assert "${{" not in step.get("run", "").replace("${{ matrix.target }}", "")  # no text of strangers in a shell
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w/-]+@(v\d+|release/v1|[0-9a-f]{40})", step["uses"])
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_the_image_is_built_of_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [name for names in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in names.split()]
    assert {"constraints.txt", "pyproject.toml", "setup.py", "src", "adapters"} <= set(copied)
    assert ignored[1] == "*"
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:(3\.\d+)-slim", text, re.MULTILINE)
    assert python in _pythons()
    stages = text.split("\nFROM ")
    assert "\nUSER 1000\n" in stages[-1]
    assert 'ENTRYPOINT ["hybrid-encoder"]' in stages[-1]


def test_nothing_is_published_that_was_not_checked() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["publish"]["needs"] == "check"
    assert jobs["publish"]["environment"] == "pypi"
    assert [step.get("run") for step in jobs["check"]["steps"] if "run" in step] == ["make release-check"]
    assert all("run" not in step for step in jobs["publish"]["steps"])
