"""The documentation site: built without a warning, whole, findable, and readable without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHROMIUM = Path(os.environ.get("HYBRID_ENCODER_CHROMIUM", "/usr/bin/chromium"))
SEARCHES = {  # what people type, and a page that must be among the first results
    "backbone": "backbones.html",
    "image": "words.html",
    "stage 1": "coarse.html",
    "stage 2": "fine.html",
    "output format": "predict.html",
    "suffix": "predict.html",
    "text similarity": "start.html",
    "fine-tune": "start.html",
    "intrinsics": "intrinsics.html",
    "pose": "pose.html",
    "point cloud": "predict.html",
    "onnx": "export.html",
    "weights": "weights.html",
    "gpu": "performance.html",
    "install": "start.html",
    "video": "video.html",
    "licence": "checkpoints.html",
    "HybridDepthModel": "api/models.html",
}
FIRST_RESULTS = 5


class Document(HTMLParser):
    """What a page is reached by, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.equations = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.equations += tag == "math"
        if tag in ("a", "area"):
            self.links += [given["href"]] if "href" in given else []
        elif tag == "link":
            self.loads += [given["href"]] if given.get("rel") not in ("canonical", "next", "prev", "edit") else []
        else:
            self.loads += [given[name] for name in ("src", "poster", "data") if name in given]
            self.loads += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def documents(site: Path) -> dict[str, Document]:
    pages = sorted(site.rglob("*.html"))
    return {page.relative_to(site).as_posix(): Document(page.read_text(encoding="utf-8")) for page in pages}


def _is_outside(address: str) -> bool:
    return bool(urlsplit(address).scheme or urlsplit(address).netloc)


def _broken(site: Path, documents: dict[str, Document], page: str, address: str) -> str:
    """Why an address on a page leads nowhere inside of the site; empty where it leads somewhere."""
    parts = urlsplit(address)
    start = site if parts.path.startswith("/") else (site / page).parent
    file = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else site / page
    file = file / "index.html" if file.is_dir() else file
    if not file.is_relative_to(site.resolve()) or not file.is_file():
        return f"{page}: {address} is no file of the site"
    target = documents.get(file.relative_to(site.resolve()).as_posix())
    if parts.fragment and target and unquote(parts.fragment) not in {*target.anchors, "__consent"}:
        return f"{page}: {address} has no such anchor"
    return ""


def test_every_link_and_every_picture_inside_of_the_site_is_there(site: Path, documents: dict[str, Document]) -> None:
    addresses = [
        (page, address)
        for page, document in documents.items()
        for address in (*document.links, *document.loads)
        if not _is_outside(address)
    ]
    assert len(addresses) > 5000 and sum(address.endswith((".png", ".jpg")) for _, address in addresses) > 4
    broken = [_broken(site, documents, page, address) for page, address in addresses]
    assert not any(broken), "\n".join(sorted(set(filter(None, broken))))


def test_the_checker_finds_what_is_broken(tmp_path: Path) -> None:
    text = '<h1 id="top">x</h1><a href="b.html#no">1</a><a href="c.html">2</a><img src="d.png"><a href="#top">3</a>'
    (tmp_path / "a.html").write_text(text)
    (tmp_path / "b.html").write_text("<h1 id='yes'>x</h1>")
    documents = {name: Document((tmp_path / name).read_text()) for name in ("a.html", "b.html")}
    found = [
        _broken(tmp_path, documents, "a.html", x) for x in (*documents["a.html"].links, *documents["a.html"].loads)
    ]
    assert [bool(why) for why in found] == [True, True, False, True]


def test_nothing_is_loaded_from_elsewhere(documents: dict[str, Document]) -> None:
    outside = {x for document in documents.values() for x in document.loads if _is_outside(x)}
    assert {x for x in outside if not x.startswith("data:")} == set()


def test_no_address_of_this_project_is_invented(documents: dict[str, Document]) -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hybrid-encoder"]
    known = tuple(filter(None, (told["repository"], told["documentation"])))
    ours = {
        x
        for document in documents.values()
        for x in document.links
        if _is_outside(x) and re.search(r"hybrid[-_]?encoder", x, re.IGNORECASE) and not x.startswith(known)
    }
    assert not ours


def test_the_address_of_the_repository_comes_from_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mkdocs.config import load_config

    described = importlib.util.spec_from_file_location("_hooks", ROOT / "docs" / "_hooks.py")
    assert described is not None and described.loader is not None
    hooks = importlib.util.module_from_spec(described)
    described.loader.exec_module(hooks)
    text = (
        '[tool.hybrid-encoder]\nrepository = "https://example.org/a/b"\ndocumentation = "https://example.org/docs/"\n'
    )
    (tmp_path / "pyproject.toml").write_text(text)
    config = load_config(str(ROOT / "mkdocs.yml"))
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    monkeypatch.setattr(hooks, "rooms", dict)
    config = hooks.on_config(config)
    assert (config.repo_url, config.site_url) == ("https://example.org/a/b", "https://example.org/docs/")


def test_no_page_names_this_machine(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page


def test_equations_are_drawn_by_the_browser_alone(site: Path, documents: dict[str, Document]) -> None:
    source = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert documents["method.html"].equations == len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", source, re.DOTALL)) > 40
    assert not [page for page in site.rglob("*.html") if 'class="arithmatex"' in page.read_text(encoding="utf-8")]


def test_every_public_name_is_in_the_reference(documents: dict[str, Document]) -> None:
    anchors = {anchor for page, document in documents.items() if page.startswith("api/") for anchor in document.anchors}
    rooms = sorted({page.removeprefix("api/").removesuffix(".html") for page in documents if page.startswith("api/")})
    missing = []
    for line in (ROOT / "tests" / "api.txt").read_text(encoding="utf-8").splitlines():
        name, _, kind = line.partition(": ")
        tail = name.partition(".")[2]
        # What the top of the package offers is shown once, in the room that it is from.
        if (
            kind != "module"
            and name not in anchors
            and not any(f"hybrid_encoder.{room}.{tail}" in anchors for room in rooms)
        ):
            missing.append(name)
    assert set(missing) <= {"hybrid_encoder.__version__"}


def test_every_page_has_a_place_and_a_title_of_its_own(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    titles = defaultdict(set)
    for section in index:
        if "#" not in section["location"]:
            titles[section["title"]].add(section["location"])
    assert all(titles), "a page without a title"
    assert {title: pages for title, pages in titles.items() if len(pages) > 1} == {}


@pytest.mark.parametrize("words", SEARCHES)
def test_a_heading_has_the_words_that_people_search_for(site: Path, words: str) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    pages = {s["location"]: s["title"] for s in index if "#" not in s["location"]}
    wanted = re.findall(r"\w+", words.lower())
    found = set()
    for section in index:
        page = section["location"].partition("#")[0]
        title = f"{pages.get(page, '')} {section['title']}".lower()
        if all(word in title for word in wanted):
            found.add(page)
    assert SEARCHES[words] in found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"browser: {CHROMIUM} is absent; HYBRID_ENCODER_CHROMIUM can name another Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
def test_a_search_finds_the_page_without_a_server(site: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    outside: list[str] = []
    page.on("request", lambda r: outside.append(r.url) if r.url.startswith("http") else None)
    missed = {}
    for words, wanted in SEARCHES.items():
        page.goto((site / "index.html").as_uri())
        page.locator(".md-search__input").fill(words)
        page.locator(".md-search-result__item").first.wait_for(timeout=60_000)
        page.wait_for_timeout(300)
        links = page.locator(".md-search-result__item > a").evaluate_all("all => all.map(a => a.href)")
        found = [urlsplit(link).path.removeprefix(f"{site}/") for link in links[:FIRST_RESULTS]]
        if wanted not in found:
            missed[words] = found
    page.close()
    assert not missed
    assert not outside


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(
    site: Path, documents: dict[str, Document], browser: Browser, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide, without = [], []
    for name in documents.keys() - {"404.html"}:  # which only a server shows, at the top of its address
        page.goto((site / name).as_uri())
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
        if page.evaluate("[...document.images].some(i => i.loading != 'lazy' && i.complete && !i.naturalWidth)"):
            without.append(name)
    page.close()
    assert not wide
    assert not without
