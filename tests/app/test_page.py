"""The page as a visitor has it: in Chromium, on a desktop and on a phone, without the internet."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.app import scenes
from hybrid_encoder.app.running import EXAMPLE, DepthRunner, VideoStep
from hybrid_encoder.app.serving import serving
from hybrid_encoder.data.video import VideoFrames
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.word_pictures import draw_words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = Path(os.environ.get("HYBRID_ENCODER_CHROMIUM", "/usr/bin/chromium"))
PATIENCE = 120_000  # milliseconds: a busy machine draws the page slowly
DESKTOP, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}


class Visit(Protocol):
    def __call__(self, size: dict[str, int] = ..., refused: str = ...) -> Page: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"browser: {CHROMIUM} is absent; HYBRID_ENCODER_CHROMIUM can name another Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(browser: Browser) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, serving(["tiny"], device=torch.device("cpu")) as url:
        patch.setattr(scenes, "POINTS_SHOWN", 30_000)  # without a graphics card, each takes its time
        yield url


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    """Open the page. In the end, nothing was asked of another machine, and the console holds no error."""
    contexts: list[BrowserContext] = []
    elsewhere: list[str] = []
    problems: list[str] = []

    own = (url, "data:", "blob:")

    def open_page(size: dict[str, int] = DESKTOP, refused: str = "WebGPU") -> Page:
        contexts.append(browser.new_context(viewport=size, accept_downloads=True))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda r: None if r.url.startswith(own) or refused in r.url else elsewhere.append(r.url))
        page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        # The viewer tries WebGPU first, which this browser has not, and tells it before it takes WebGL.
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" and refused not in m.text else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert problems == []


def served(page: Page, image: Locator) -> NDArray[Any]:
    """The pixels that the browser was given for an image."""
    address = image.get_attribute("src")
    assert address
    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB"))


def drawn(part: Locator) -> NDArray[Any]:
    """The pixels of a part of the page as it is drawn."""
    return np.asarray(Image.open(io.BytesIO(part.screenshot())).convert("RGB")).astype(int)


def num_coloured(part: Locator) -> int:
    return int((np.ptp(drawn(part), axis=2) > 8).sum())


def wait_for(condition: Callable[[], bool], page: Page) -> None:
    for _ in range(PATIENCE // 500):
        if condition():
            return
        page.wait_for_timeout(500)
    raise AssertionError("that did not happen in time")


def begin(page: Page) -> None:
    page.get_by_role("button", name="Predict depth").locator("visible=true").click()


def to_video(page: Page, path: Path) -> None:
    page.get_by_role("tab", name="Video").click()
    page.locator("input[type=file][accept*=video]").set_input_files(path)
    page.locator("#input video").locator("visible=true").wait_for()


@pytest.fixture(scope="module")
def expected() -> DepthPrediction:
    return HybridDepthModel.from_pretrained("tiny").infer(EXAMPLE)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_picture_is_uploaded_and_its_depth_is_on_the_slider(
    visit: Visit, expected: DepthPrediction, size: dict[str, int]
) -> None:
    page = visit(size)
    page.locator("input[type=file][accept*=image]").set_input_files(EXAMPLE)
    page.get_by_text("Made by 'tiny' at 96 x 320 on cpu").wait_for()
    left, right = page.get_by_test_id("imageslider-image").all()
    assert np.array_equal(served(page, left), np.asarray(Image.open(EXAMPLE)))
    assert np.array_equal(served(page, right), expected.colored())
    handle, box = page.get_by_test_id("slider"), left.bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    middle = drawn(left)
    grip = handle.locator(".icon-wrap").bounding_box()
    assert grip
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.1 * box["width"], grip["y"] + 5, steps=5)
    page.mouse.up()
    moved = np.abs(drawn(left) - middle).max(axis=2) > 30
    columns = moved.mean(axis=0)
    width = moved.shape[1]
    assert columns[int(0.2 * width) : int(0.4 * width)].mean() > 0.5  # the picture gave way to depth there
    assert columns[int(0.6 * width) : int(0.9 * width)].mean() < 0.05
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_the_cloud_can_be_turned_and_results_can_be_kept(visit: Visit, expected: DepthPrediction) -> None:
    page = visit()
    page.get_by_role("button", name="Try the example").click()
    page.get_by_text("field of view 81.2°").wait_for()
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    wait_for(lambda: num_coloured(canvas) > 5000, page)
    before, box = drawn(canvas), canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 150, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    wait_for(lambda: bool((np.abs(drawn(canvas) - before).max(axis=2) > 30).sum() > 2000), page)
    assert num_coloured(canvas) > 5000
    with page.expect_download() as download:
        page.get_by_role("button", name="Depth (.npy)").click()
    assert download.value.suggested_filename == "street_relative_depth.npy"
    assert np.array_equal(np.load(download.value.path()), expected.depth[0].numpy())


def test_what_the_words_say_is_shown_and_goes_with_its_picture(visit: Visit) -> None:
    said = HybridDepthModel.from_pretrained("tiny").infer(EXAMPLE, words=True).words
    assert said is not None
    page = visit()
    title = page.get_by_text("What the words say")
    assert not title.is_visible()
    page.locator("input[type=file][accept*=image]").set_input_files(EXAMPLE)
    title.wait_for()
    shown = page.locator("#results .image-frame img")
    shown.wait_for()
    assert np.array_equal(served(page, shown), draw_words(said, (288, 960)))
    assert page.get_by_label("Share").count() == 0
    page.get_by_label("Clear").or_(page.get_by_title("Clear")).or_(page.get_by_label("Remove Image")).first.click()
    title.wait_for(state="hidden")


def test_what_goes_wrong_is_a_sentence_on_the_page(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    begin(page)
    page.get_by_text("there is no picture yet; drop one on the page, or take the example.").wait_for()
    page.locator("input[type=file][accept*=image]").set_input_files(broken)
    sentence = "broken.png is not an image of a format that is read here; give one of JPEG, PNG"
    toast = page.get_by_test_id("toast-text").filter(has_text=sentence)
    toast.wait_for()
    assert toast.inner_text().startswith("broken.png is not")  # without the folder that it was put into
    page.get_by_label("Clear").or_(page.get_by_title("Clear")).or_(page.get_by_label("Remove Image")).first.click()
    page.get_by_label("Weights").fill("<b>no</b> weights")
    page.get_by_label("Weights").press("Enter")
    page.get_by_role("button", name="Try the example").click()
    page.get_by_text("<b>no</b> weights is neither a file or folder nor a Hub id").wait_for()


def test_what_can_only_be_a_bug_is_named_and_told_in_the_terminal(
    visit: Visit, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(self: object, path: Path, choices: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(DepthRunner, "picture", fail)
    page = visit()
    page.get_by_role("button", name="Try the example").click()
    page.get_by_text("Something went wrong (ZeroDivisionError)").wait_for()
    assert "secret" not in page.content()
    assert 'raise ZeroDivisionError("secret")' in capfd.readouterr().err


def test_a_video_goes_through(visit: Visit, drive: Path, tmp_path: Path) -> None:
    page = visit()
    to_video(page, drive)
    begin(page)
    page.get_by_text("10 frames").locator("visible=true").wait_for()
    video = page.locator("#results video")
    wait_for(lambda: float(video.evaluate("v => v.videoHeight")) == 192, page)  # the source above the depth
    assert video.evaluate("v => v.duration") == pytest.approx(1, abs=0.1)
    address = video.get_attribute("src")
    assert address
    (tmp_path / "result.mp4").write_bytes(page.request.get(address).body())
    with VideoFrames(tmp_path / "result.mp4") as frames:
        assert frames.size == (192, 320)
        assert sum(1 for _ in frames) == 10


def test_a_video_can_be_stopped_and_one_that_is_left_gives_way(
    visit: Visit, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(self: object, path: Path, choices: object) -> Iterator[VideoStep]:
        try:
            for done in range(10**6):
                time.sleep(0.1)
                yield VideoStep(done, 10**6)
        finally:
            closed.append(path.name)

    closed: list[str] = []
    monkeypatch.setattr(DepthRunner, "video", endless)
    page = visit()
    to_video(page, drive)
    begin(page)
    page.get_by_text("of 1000000 frames").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    wait_for(lambda: closed == ["drive.mp4"], page)
    begin(page)
    page.get_by_text("of 1000000 frames").wait_for()
    page.close()
    other = visit()
    other.get_by_role("button", name="Try the example").click()
    other.get_by_text("Made by 'tiny'").wait_for()
    assert closed == ["drive.mp4"] * 2


def test_the_page_can_ask_no_other_machine(visit: Visit) -> None:
    """The policy that goes with the page holds, also for what a library would fetch by itself."""
    page = visit(refused="203.0.113.7")
    told = page.evaluate(
        """async () => {
            const told = new Promise(done => document.addEventListener('securitypolicyviolation', done));
            try { await fetch('http://203.0.113.7/', {signal: AbortSignal.timeout(5000)}) } catch {}
            const nothing = new Promise(done => setTimeout(() => done({blockedURI: 'nothing'}), 5000));
            return (await Promise.race([told, nothing])).blockedURI
        }"""
    )
    assert told == "http://203.0.113.7/"
