"""What pyproject.toml cannot say: where adapters/ is, and what follows from the project's public address.

``[tool.hybrid-encoder]`` in pyproject.toml is the only place for that address. Once ``repository`` is set there, the
package index shows links to it, and the README that it shows has absolute links: relative ones lead nowhere there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import setup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyproject.toml requires it to build

ROOT = Path(__file__).resolve().parent

# [text](link), ![text](link), [name]: link, and the attributes of HTML.
LINKS = re.compile(r"""(?P<before>\]\(|^\[[^\]\n]+\]:[ ]+|\b(?:href|src|srcset)=")(?P<link>[^\s)"<>]+)""", re.MULTILINE)
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[ ]*$)", re.MULTILINE | re.DOTALL)
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp4")


def public_address() -> tuple[str, str]:
    """The addresses of the repository and of the documentation, each empty where there is none yet."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hybrid-encoder"]
    repository, documentation = told["repository"].rstrip("/"), told["documentation"].rstrip("/")
    for address in filter(None, (repository, documentation)):
        if not address.startswith("https://"):
            raise ValueError(f"[tool.hybrid-encoder] names {address!r}; an address there begins with https://.")
    return repository, documentation


def version() -> str:
    """The version in the source, without importing it."""
    source = ROOT.joinpath("src", "hybrid_encoder", "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError('src/hybrid_encoder/__init__.py has no line __version__ = "...".')
    return found[1]


def project_urls(repository: str, documentation: str, tag: str) -> dict[str, str]:
    """The links that the package index shows; none without a repository."""
    if not repository:
        return {"Documentation": documentation} if documentation else {}
    return {
        "Documentation": documentation or f"{repository}/tree/{tag}/docs",
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
    }


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """``text`` with its relative links and pictures at ``tag`` of the repository; code stays as it is.

    Without a repository the text is returned as it is.
    """

    def absolute(found: re.Match[str]) -> str:
        link = found["link"]
        if re.match(r"[a-z][a-z0-9+.-]*:|#|//", link, re.IGNORECASE):
            return found[0]
        path = link.removeprefix("./")
        kind = "raw" if path.split("#")[0].lower().endswith(PICTURES) else "blob"
        return f"{found['before']}{repository}/{kind}/{tag}/{path}"

    if not repository:
        return text
    parts = CODE.split(text)  # the odd ones are code
    return "".join(part if i % 2 else LINKS.sub(absolute, part) for i, part in enumerate(parts))


if __name__ == "__main__":
    # src/hybrid_encoder/adapters is a symbolic link, so that an editable install is a plain folder on the path, which
    # type checkers can follow. Git on Windows may write links as text files; the mapping serves there, but for type
    # checkers.
    linked = ROOT.joinpath("src", "hybrid_encoder", "adapters").is_dir()
    repository, documentation = public_address()
    tag = f"v{version()}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        package_dir={"": "src"} if linked else {"": "src", "hybrid_encoder.adapters": "adapters"},
        version=version(),
        project_urls=project_urls(repository, documentation, tag),
        long_description=with_absolute_links(readme, repository, tag),
        long_description_content_type="text/markdown",
    )
