"""The page, built and not launched: what is on it and which event answers what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.answer import MAX_MEGABYTES, Answer, answer
from serve.engine import Engine
from serve.entries import find, open_all, preferred
from serve.guard import seal
from serve.offline import go_offline
from serve.render import answered, foot, heading, title
from serve.state import state_of

if TYPE_CHECKING:
    import gradio as gr

HERE = Path(__file__).parent
BLOCKS: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (600, 600), "fill_width": True}
PROMPT = "Drop, paste or choose a picture"


def build_app(
    artifacts: Sequence[str | Path] = (), *, device: str = "auto", runs: str | Path = "runs"
) -> gr.Blocks:
    """The page for artifacts by path or name (default: those of the newest run), not launched.

    `serve.server.mount` gives it its style and limits; `serve.serve` does all of it.
    """
    return build_page(state_of(open_all(find(artifacts, runs), device)).engines)


def _photo() -> gr.Image:
    import gradio as gr

    return gr.Image(
        label="Picture",
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        placeholder=PROMPT,
        height=380,
        show_label=False,
        buttons=[],
        webcam_options=gr.WebcamOptions(mirror=False),
        alt_text="The picture to classify",
        elem_id="photo",
    )


def build_page(engines: Mapping[str, Engine], examples: Sequence[Path] = ()) -> gr.Blocks:
    """The page for the engines of artifacts by key, and example pictures to try."""
    go_offline()
    import gradio as gr

    entries = [engine.entry for engine in engines.values()]
    first = preferred(entries)

    def uploads() -> Path:
        return Path(photo.GRADIO_CACHE)

    def show(picture: object, key: object) -> tuple[str, str]:
        engine = engines.get(key) if isinstance(key, str) else None
        return answered(answer(engines, uploads(), picture, key)), foot(engine.entry if engine else first)

    def predict(picture: object, artifact: object) -> dict[str, Any]:
        found = answer(engines, uploads(), picture, artifact) or Answer(error="No picture was sent.")
        if found.error:
            raise gr.Error(found.error, print_exception=False)
        return found.document()

    with gr.Blocks(title=f"{title(first)} · lfdeploy", **BLOCKS) as page:
        gr.HTML(heading(first), elem_id="heading")
        with gr.Row(equal_height=False, elem_id="middle"):
            with gr.Column(min_width=300):
                photo = _photo()
                if examples:
                    rows, caption = [[str(path)] for path in examples], "Or try a test picture"
                    gr.Examples(rows, photo, label=caption, elem_id="examples", api_visibility="private")
            with gr.Column(min_width=300):
                shown = gr.HTML(
                    answered(answer(engines, HERE, None, first.key)), elem_id="answer", limit=MAX_MEGABYTES,
                    js_on_load=(HERE / "page.js").read_text(encoding="utf-8"),
                )  # fmt: skip
                choices = [(entry.choice, entry.key) for entry in entries]
                picker = gr.Dropdown(
                    choices, value=first.key, label="Artifact", filterable=False, elem_id="picker"
                )
        seal(photo, picker)
        about = gr.HTML(foot(first), elem_id="foot")
        asked: dict[str, Any] = {"inputs": [photo, picker], "preprocess": False}
        asked |= {"concurrency_id": "model", "concurrency_limit": 16}
        gr.on(
            [photo.change, picker.change], show, outputs=[shown, about],
            trigger_mode="always_last", show_progress="hidden", api_visibility="private", **asked,
        )  # fmt: skip
        program = gr.Button(visible=False)
        program.click(predict, outputs=gr.JSON(visible=False), api_name="predict", **asked)
    page.queue(api_open=False, max_size=64)
    return page
