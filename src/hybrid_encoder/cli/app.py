"""``hybrid-encoder app``: a page in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid_encoder.cli.options import Device, console, pick_device

Given = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="'tiny' (ships with the package), a checkpoint folder, or a Hub id; several times for a choice, the first "
        "of which the page begins with.",
    ),
]


def app_command(
    weights: Given = None,
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to serve on. Every other than this machine's own is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860 on.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Show a page in the browser: a picture or a video goes in, depth and a point cloud come out.

    Pictures stay on the machine that serves the page. It works until Ctrl-C; then what it wrote is deleted.
    """
    from hybrid_encoder.app.serving import is_local, serve

    target = pick_device(device)
    if not is_local(host):
        console.print(
            f"warning: whoever reaches {host} on the network can use this page and this machine's time; weights can "
            "be chosen among the given ones alone."
        )
    serve(weights or ["tiny"], device=target, host=host, port=port, open_browser=open_, say=console.print)
