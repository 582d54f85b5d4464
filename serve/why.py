"""Why this class? The artifact's own heat map over what the model saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from lfdeploy.confidence import percent
from lfdeploy.errors import LfdeployError
from lfdeploy.images import prepare
from lfdeploy.overlay import picture
from serve.answer import answer_of, sentence_of
from serve.engine import Engine
from serve.entries import mapless


def why(engine: Engine, blob: bytes | None, able: Sequence[str] = ()) -> str:
    """The picture and its map side by side, as HTML; or a sentence, with the artifacts that are ``able``."""
    entry = engine.entry
    if blob is None:
        return _said("There is no picture yet.")
    if not entry.explains:
        return _said(mapless(entry.key, able))
    try:
        outcome = engine.submit(blob, explain=True, here=True).result()
        seen = prepare(blob, int(outcome.entry.artifact.manifest["input"]["height"]))
    except LfdeployError as error:
        return _said(sentence_of(error))
    label, probability = answer_of(outcome).top[0]
    file = io.BytesIO()
    assert outcome.heatmap is not None
    picture(seen, outcome.heatmap, f"{label}  {percent(probability)}").save(file, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    text = f"What the model saw, and where in it the evidence for {label} lies: the brighter, the more"
    caption = f"<figcaption>{escape(text)}.</figcaption>"
    return f'<figure class="lf-why"><img src="{source}" alt="{escape(text)}">{caption}</figure>'


def _said(text: str) -> str:
    return f'<p class="lf-quiet" role="status">{escape(text)}</p>'
