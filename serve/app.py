"""The page, built and not launched: what is on it and which event answers what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.errors import LfdeployError
from serve.answer import Answer, answer, uploaded
from serve.comparison import compared, itself, quicker
from serve.engine import Engine
from serve.entries import Entry, find, open_all, preferred
from serve.examples import Example
from serve.folded import MANY, code, truth
from serve.guard import seal
from serve.offline import go_offline
from serve.render import answered, foot, heading, title, verbatim
from serve.state import state_of
from serve.why import why

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
        height=360,
        show_label=False,
        buttons=[],
        webcam_options=gr.WebcamOptions(mirror=False),
        alt_text="The picture to classify",
        elem_id="photo",
    )


def build_page(
    engines: Mapping[str, Engine], examples: Sequence[Example] = (), named: str = "", token: bool = False
) -> gr.Blocks:
    """The page for the engines of artifacts by key, with pictures to try and the title it was given.
    ``token``: one is asked for.
    """
    go_offline()
    import gradio as gr

    entries = [engine.entry for engine in engines.values()]
    first = preferred(entries)
    head = named or title(first)
    with gr.Blocks(title=f"{head} · lfdeploy", **BLOCKS) as page:
        _html(heading(first, named), "heading")
        with gr.Row(equal_height=False, elem_id="middle"):
            with gr.Column(min_width=300):
                photo = _photo()
                if examples:
                    rows, caption = [[str(each.path)] for each in examples], "Or try a test picture"
                    gr.Examples(rows, photo, label=caption, elem_id="examples", api_visibility="private")
            with gr.Column(min_width=300):
                shown = _html(answered(answer(engines, HERE, None, first.key)), "answer")
                pickers = _pickers(entries, first)
                why_asked, reason = _reasons() if any(entry.explains for entry in entries) else (None, None)
        about = _html(foot(first), "foot")
        _html(MANY + code(token) + truth(examples), "folded")
        seal(photo, *pickers)
        if len(pickers) > 1:
            how: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
            page.load(_linked(engines), outputs=pickers, **how)
        _wire(engines, photo, pickers, (shown, about, *([reason] if reason else ())), why_asked)
    page.queue(api_open=False, max_size=64)
    return page


def _html(value: str, elem_id: str) -> gr.Markdown:
    """HTML in its place. Gradio's component for HTML makes a program of it, which the page's policy forbids;
    the one for Markdown leaves blocks of HTML alone up to an empty line.
    """
    import gradio as gr

    return gr.Markdown(verbatim(value), elem_id=elem_id, sanitize_html=False, latex_delimiters=[])


# Of what is not needed nothing is on the page, not even hidden: each component costs every call of a program.
def _pickers(entries: Sequence[Entry], first: Entry) -> list[gr.Dropdown]:
    """Which artifact answers, and where there are several, which is compared with it."""
    import gradio as gr

    choices = [(entry.choice, entry.key) for entry in entries]
    picker = gr.Dropdown(choices, value=first.key, label="Artifact", filterable=False, elem_id="picker")
    if len(entries) == 1:
        return [picker]
    others = [("no other", ""), *choices]
    other = gr.Dropdown(others, value="", label="Compare with", filterable=False, elem_id="other")
    return [picker, other]


def _reasons() -> tuple[gr.Button, gr.Markdown]:
    """The question, and the place of its answer."""
    import gradio as gr

    return gr.Button("Why?", size="sm", elem_id="ask-why"), _html("", "why")


def _linked(engines: Mapping[str, Engine]) -> Any:
    """What the page does when it is opened: choose what its address names (``?artifact=KEY&compare=KEY``)."""
    import gradio as gr

    def chosen(request: Any) -> Any:
        keys = [request.query_params.get(name) for name in ("artifact", "compare")]
        return tuple(key if key in engines else gr.skip() for key in keys)

    chosen.__annotations__["request"] = gr.Request  # by which Gradio knows what to hand in
    return chosen


def _entry(engines: Mapping[str, Engine], key: object) -> Entry:
    """What goes by the key; for one that is none, what the page opens with."""
    known = engines.get(key) if isinstance(key, str) else None
    return known.entry if known else preferred([engine.entry for engine in engines.values()])


def _answered(
    engines: Mapping[str, Engine], uploads: Path, picture: object, key: object, other: object
) -> str:
    """The answer, and what the other artifact says beside it."""
    found = answer(engines, uploads, picture, key)
    if found and other and other == key:
        return answered(found) + itself(_entry(engines, key).key)
    second = answer(engines, uploads, picture, other) if other else None
    if found and second:  # each once more: the first of them came to cold caches
        found, second = (
            quicker(one, answer(engines, uploads, picture, name))
            for one, name in ((found, key), (second, other))
        )
    return answered(found) + compared(found, second)


def _wire(
    engines: Mapping[str, Engine], photo: Any, pickers: Sequence[Any], places: Sequence[Any], why_asked: Any
) -> None:
    """What happens when a picture is there, an artifact is chosen, why is asked, or a program calls."""
    import gradio as gr

    turns = count()

    def uploads() -> Path:
        return Path(photo.GRADIO_CACHE)

    def fresh(html: str) -> str:
        # the browser sees it as new, even where it says the same as before: then it is no longer waited for
        return f"{verbatim(html)}<!--{next(turns)}-->"

    def show(picture: object, key: object, other: object = "") -> tuple[str, ...]:
        said = _answered(engines, uploads(), picture, key, other)
        told = said, foot(_entry(engines, key), said), ""
        return tuple(map(fresh, told[: len(places)]))

    def explain(picture: object, key: object) -> str:
        try:
            blob = None if picture is None else uploaded(uploads(), picture)
        except LfdeployError as error:
            return f'<p class="lf-quiet">{escape(str(error))}</p>'
        able = [name for name, engine in engines.items() if engine.entry.explains]
        return fresh(why(engines[_entry(engines, key).key], blob, able))

    def predict(picture: object, artifact: object) -> dict[str, Any]:
        found = answer(engines, uploads(), picture, artifact) or Answer(error="No picture was sent.")
        if found.error:
            raise gr.Error(found.error, print_exception=False)
        return found.document()

    how: dict[str, Any] = {"preprocess": False, "concurrency_id": "model", "concurrency_limit": 16}
    quiet = how | {"show_progress": "hidden", "api_visibility": "private"}
    last = quiet | {"inputs": [photo, *pickers], "trigger_mode": "always_last"}
    gr.on([photo.change, pickers[0].change], show, outputs=list(places), **last)
    for other in pickers[1:]:  # what answers stays, and so does why
        other.change(lambda *chosen: show(*chosen)[:2], outputs=list(places[:2]), **last)
    if why_asked is not None:
        why_asked.click(explain, inputs=[photo, pickers[0]], outputs=places[-1], **quiet)
    program = gr.Button(visible=False)
    program.click(
        predict, inputs=[photo, pickers[0]], outputs=gr.JSON(visible=False), api_name="predict", **how
    )
