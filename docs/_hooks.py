"""What mkdocs.yml cannot say: addresses, pages that are made from other files, links out of docs/, equations.

The pages are written to be read on GitHub too. There a link such as ``../CHANGELOG.md`` or ``../examples/x.py`` leads
to the file; in the site it leads to a page that is made from it, so that no link needs an address that may not exist.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from latex2mathml.converter import convert as mathml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
"""Files of the repository that become pages, and their names in the site."""
INSTEAD = {**PAGES, "README.md": "index.md"}
"""Files of the repository, and the page that a link to them leads to."""
API = "api"
"""In the navigation of mkdocs.yml: the pages of all rooms."""
ADAPTERS = "hybrid_encoder.adapters"
"""The package whose files are not below src/: a link leads there, which is not followed."""
WHOLE = ("errors", "testing")
"""Modules without a list of public names: everything in them that has no underscore is public."""
BEHIND = "---\nsearch: {boost: 0.1}\n---\n\n"
"""In a search, the reference comes after the pages that explain."""
LANGUAGES = {".py": "python", ".pyi": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "bash"}

FENCED = re.compile(r"(^(?P<fence>```+).*?^(?P=fence)[ ]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def rooms() -> dict[str, list[str]]:
    """Every room and its public names, ``__all__`` of its ``__init__``; no names for a module that is shown whole."""
    found = {}
    for top, source in (("hybrid_encoder", ROOT / "src" / "hybrid_encoder"), (ADAPTERS, ROOT / "adapters")):
        for stub in source.glob("**/__init__.py*"):
            if names := _public(stub):
                found[".".join((top, *stub.parent.relative_to(source).parts))] = names
    found |= {f"hybrid_encoder.{module}": [] for module in WHOLE}
    return dict(sorted(found.items()))


def _public(stub: Path) -> list[str]:
    for statement in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            named = [node.value for node in ast.walk(statement.value) if isinstance(node, ast.Constant)]
            return sorted(named, key=str.lower)
    return []


def _api_page(room: str) -> str:
    """``hybrid_encoder.losses`` -> ``api/losses.md``."""
    return f"api/{room.partition('.')[2] or 'index'}.md"


def _api_text(room: str, names: list[str]) -> str:
    if room == "hybrid_encoder":
        return _api_index(names)
    bare = "show_root_heading: false, show_root_toc_entry: false"
    shown = "members: false" if names else "heading_level: 1"
    parts = [f"{BEHIND}# {room}", f"::: {room}\n    options: {{{bare}, {shown}}}"]
    parts += [f"::: {room}.{name}\n    options: {{heading_level: 2}}" for name in names]
    return "\n\n".join(parts) + "\n"


def _api_index(names: list[str]) -> str:
    inside = ROOT / "src" / "hybrid_encoder"
    values = [
        name
        for name in names
        if not (name.startswith("_") or (inside / name).exists() or (inside / f"{name}.py").exists())
    ]
    top = [f"- [`{name}`][hybrid_encoder.{name}]" for name in values]
    others = [f"- [`{room}`]({_api_page(room)[4:]})" for room in rooms() if room != "hybrid_encoder"]
    return BEHIND + "\n".join(("# API", "", *top, "", *others, ""))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the addresses from pyproject.toml, and put the pages of the API into the navigation."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hybrid-encoder"]
    config.site_url = told["documentation"]
    config.repo_url = told["repository"] or None
    for section in config.nav:
        for pages in section.values():
            if API in pages:
                pages[pages.index(API)] = {"API": [_api_page(room) for room in rooms()]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: the changelog and its like, the API, and the files that pages link to."""
    made = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in PAGES.items()}
    made |= {_api_page(room): _api_text(room, names) for room, names in rooms().items()}
    texts = [(Path(f.src_uri), f.content_string) for f in files.documentation_pages() if f.src_uri.endswith(".md")]
    texts = [(Path("docs") / page, text) for page, text in texts] + [
        (Path(file), made[page]) for file, page in PAGES.items()
    ]
    for page, text in texts:
        for file in _linked_files(page, text):
            made[_source_page(file)] = _source_text(file)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def _linked_files(page: Path, text: str) -> list[str]:
    """Files outside of docs/ that ``page``, a path in the repository, links to and that have no page."""
    targets = [_in_repository(page, link["target"]) for link in LINK.finditer(FENCED.sub("", text))]
    return [t for t in targets if t and _place(t) == _source_page(t) and (ROOT / t).is_file()]


def _place(file: str) -> str:
    """The page or file of the site that shows a file of the repository."""
    if file in INSTEAD:
        return INSTEAD[file]
    if file.startswith("docs/") and Path(file).suffix not in LANGUAGES:
        return file.removeprefix("docs/")
    return _source_page(file)


def _in_repository(page: Path, target: str) -> str:
    """The path in the repository that a relative link of ``page`` leads to; empty for other links."""
    if ":" in target or target.startswith("/"):
        return ""
    return posixpath.normpath(posixpath.join(page.parent.as_posix(), target))


def _source_page(file: str) -> str:
    return f"source/{file.replace('/.', '/').lstrip('.')}.md"  # hidden files have no pages


def _source_text(file: str) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    fence = "`" * (max((len(ticks) for ticks in re.findall("`{3,}", text)), default=2) + 1)
    language = LANGUAGES.get(Path(file).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {file}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    origin = {made: file for file, made in PAGES.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = _in_repository(Path(origin), link["target"])
        if not target:
            return link[0]
        to = _place(target)
        return f"{link['before']}{posixpath.relpath(to, posixpath.dirname(here) or '.')}{link['anchor'] or ''}"

    parts = FENCED.split(markdown)  # text, code, its fence, text, ...
    return "".join(LINK.sub(moved, part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 != 2)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write equations as MathML, which browsers show without a script."""
    return MATH.sub(_equation, content)


def _equation(found: re.Match[str]) -> str:
    source = html.unescape(found[3])
    equation = mathml(source, display="block" if found[2] == "[" else "inline")
    if "\\" in equation:
        raise PluginError(f"the equation {source!r} has a command that latex2mathml does not know; write it otherwise.")
    return f'<{found[1]} class="math">{equation}</{found[1]}>'
