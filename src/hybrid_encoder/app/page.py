"""The page itself, made of gradio's components; what it does is in ``running``."""

from __future__ import annotations

import html
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from hybrid_encoder.app.choices import COLORMAPS, NATIVE, RIGHT, TOY, Choices
from hybrid_encoder.app.running import USUAL_FOV, DepthRunner, VideoStep
from hybrid_encoder.errors import HybridEncoderError, InputError

SIZES = (RIGHT, NATIVE, "96x320", "192x640", "320x1024")
DOWNLOADS = ("Coloured map (.png)", "Depth (.npy)", "Points (.ply)")
AROUND, ABOVE, AWAY = 90, 80, 0.75  # degrees, degrees, extents: from behind the one who took the picture
SECONDS = 20  # that a sentence is shown
WAITING = 20  # visitors in the queue
# The network works for one visitor at a time. Values come as the browser sends them: ``Choices`` says what is checked.
BY_ONE: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "network",
    "preprocess": False,
    "api_visibility": "private",
}
QUICK: dict[str, Any] = {"api_visibility": "private", "queue": False}
# Where uploads are, which says nothing to a visitor.
FOLDER = re.compile(r"\S*[/\\]hybrid-encoder-app-\w+[/\\](?:\S*[/\\])?")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

HEAD = "# Depth from one picture\nBring a picture or a video; see how far away everything is, and turn it in space. {}"
HERE = "Everything is computed on this machine, and your pictures stay on it."
ELSEWHERE = "Pictures are sent to the machine that serves this page, and deleted there after {} minutes."
TOY_NOTE = (
    "**`tiny` is a toy**: it was trained on rendered streets alone, and shows what the method does. For "
    "photographs, take weights that were trained on photographs."
)
# On a wide screen the results stand beside input and settings; on a phone they come between them.
CSS = """
.gradio-container { max-width: 1400px !important; margin: 0 auto !important; }
#areas { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr);
         grid-template-areas: "input" "results" "settings"; }
#input { grid-area: input; } #results { grid-area: results; } #settings { grid-area: settings; }
@media (min-width: 800px) {
  #areas { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); grid-template-rows: auto 1fr;
           grid-template-areas: "input results" "settings results"; }
}
"""


def looks() -> dict[str, Any]:
    """Return how the page looks, for ``launch``; its fonts are those of the visitor's system."""
    return {"theme": gr.themes.Default(primary_hue="indigo", font=FONTS, font_mono=MONO), "css": CSS}


def build_page(runner: DepthRunner, *, local: bool, kept_for: int) -> gr.Blocks:
    """Return the page, not yet served.

    Args:
        runner: does the work.
        local: only this machine can reach the page.
        kept_for: seconds after which gradio's copies of files are deleted.
    """
    page: gr.Blocks
    with gr.Blocks(title="Depth from one picture", analytics_enabled=False, delete_cache=(60, kept_for)) as page:
        gr.Markdown(HEAD.format(HERE if local else ELSEWHERE.format(round(kept_for / 60))))
        with gr.Row(elem_id="areas"):
            with gr.Column(elem_id="input"), gr.Tabs():
                with gr.Tab("Picture") as picture_tab:
                    picture = gr.Image(label="Picture", sources=["upload", "clipboard"], type="filepath", height=260)
                    predict = gr.Button("Predict depth", variant="primary")
                    example = gr.Button("Try the example", size="sm")
                with gr.Tab("Video") as video_tab:
                    video = gr.Video(label="Video", sources=["upload"], height=260)
                    source_above = gr.Checkbox(label="Show the source above the depth", value=True)
                    predict_video = gr.Button("Predict depth", variant="primary")
                    stop = gr.Button("Stop", size="sm")
            with gr.Column(elem_id="results"):
                with gr.Column() as of_picture:
                    slider = gr.ImageSlider(label="Picture | depth", interactive=False, max_height=600)
                    summary = gr.HTML()
                    words = gr.Image(
                        label="What the words say",
                        type="filepath",
                        interactive=False,
                        visible=False,
                        buttons=["download", "fullscreen"],  # by default it offers to share, on another machine
                    )
                    scene = gr.Model3D(label="Point cloud", height=420, visible="hidden")
                    with gr.Row():
                        files = [gr.DownloadButton(name, size="md", visible=False) for name in DOWNLOADS]
                with gr.Column(visible=False) as of_video:
                    result = gr.Video(label="Depth", interactive=False, autoplay=True, loop=True)
                    progress = gr.HTML()
            with gr.Column(elem_id="settings"):
                choices = _choices(runner)

        outputs = [slider, summary, words, scene, *files]
        run: dict[str, Any] = {
            "fn": partial(_on_picture, runner),
            "inputs": [picture, *choices],
            "outputs": outputs,
            "show_progress_on": slider,
            **BY_ONE,
        }
        for begin in (predict.click, picture.upload):
            begin(_nothing, outputs=outputs, **QUICK).then(**run)
        example.click(_nothing, outputs=outputs, **QUICK).then(runner.example, outputs=picture, **QUICK).success(**run)
        picture.clear(_nothing, outputs=outputs, **QUICK)

        running = predict_video.click(
            partial(_on_video, runner),
            inputs=[video, *choices, source_above],
            outputs=[result, progress],
            show_progress_on=result,
            **BY_ONE,
        )
        # Said once it is true: a last step on its way would be shown over it.
        stop.click(None, cancels=[running], **QUICK).then(
            lambda: (None, "<p>Stopped.</p>"), outputs=[result, progress], **QUICK
        )
        video.clear(lambda: (None, ""), outputs=[result, progress], **QUICK)

        for tab, is_picture in ((picture_tab, True), (video_tab, False)):
            tab.select(partial(_show, is_picture), outputs=[of_picture, of_video], show_progress="hidden", **QUICK)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


def _choices(runner: DepthRunner) -> list[gr.components.Component]:
    """Return what can be chosen, in the order of the fields of ``Choices``."""
    with gr.Group():
        weights = gr.Dropdown(
            list(runner.weights),
            label="Weights",
            info="Or type a checkpoint folder or a Hub id." if runner.any_weights else None,
            allow_custom_value=runner.any_weights,
        )
        size = gr.Dropdown(
            list(SIZES),
            label="Working size",
            info="Right: as the weights were fitted. Or type height x width.",
            allow_custom_value=True,
        )
        with gr.Row():
            colormap = gr.Dropdown(list(COLORMAPS), label="Colours", info="magma: near is bright")
            fov = gr.Textbox(
                label="Field of view",
                info="degrees, for the cloud",
                placeholder=f"EXIF data, else {USUAL_FOV:g}",
                max_lines=1,
            )
    if TOY in runner.weights:
        gr.Markdown(TOY_NOTE)
    return [weights, size, colormap, fov]


def _on_picture(runner: DepthRunner, picture: dict[str, Any] | None, *choices: Any) -> tuple[Any, ...]:
    with _told():
        done = runner.picture(_path(runner, picture, "picture"), Choices(*choices))
    files = (gr.DownloadButton(value=path, visible=True) for path in (done.colors, done.numbers, done.cloud))
    scene = gr.Model3D(str(done.scene), camera_position=(AROUND, ABOVE, AWAY * done.extent), visible=True)
    words = gr.Image(None if done.words is None else str(done.words), visible=done.words is not None)
    return (done.picture, done.depth), _paragraph(done.summary), words, scene, *files


def _on_video(runner: DepthRunner, video: dict[str, Any] | None, *choices: Any) -> Iterator[tuple[Any, ...]]:
    with _told():
        for step in runner.video(_path(runner, video, "video"), Choices(*choices)):
            yield (step.video, _paragraph(step.summary)) if step.video else (gr.skip(), _progress(step))


def _nothing() -> tuple[Any, ...]:
    """Return what the results of a picture are where there is none."""
    hidden = (gr.DownloadButton(value=None, visible=False) for _ in DOWNLOADS)
    return None, "", gr.Image(None, visible=False), gr.Model3D(None, visible="hidden"), *hidden


def _show(is_picture: bool) -> tuple[Any, ...]:
    return gr.Column(visible=is_picture), gr.Column(visible=not is_picture)


def _path(runner: DepthRunner, payload: dict[str, Any] | None, what: str) -> Path:
    """Return the path of an uploaded file.

    Raises:
        InputError: there is none; or a browser that is none asks for another file of this machine.
    """
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str):
        raise InputError(f"there is no {what} yet; drop one on the page, or take the example.")
    if not Path(path).resolve().is_relative_to(runner.folder.parent):
        raise InputError(f"the {what} was not uploaded; drop it on the page.")
    return Path(path)


@contextmanager
def _told() -> Iterator[None]:
    """Say on the page what went wrong: our own errors as they are, for others the terminal has the traceback."""
    try:
        yield
    except HybridEncoderError as error:
        sentence = FOLDER.sub("", str(error))
        raise gr.Error(html.escape(sentence), duration=SECONDS, print_exception=False) from None
    except Exception as error:
        traceback.print_exc()
        raise gr.Error(
            f"Something went wrong ({type(error).__name__}); the terminal of this page says more.",
            duration=SECONDS,
            print_exception=False,
        ) from None


def _progress(step: VideoStep) -> str:
    total = f" of {step.total}" if step.total else ""
    known = f'max="{step.total}" value="{step.done}" ' if step.total else ""
    return f'<p>{step.done}{total} frames</p><progress {known}style="width: 100%; accent-color: #6366f1"></progress>'


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
