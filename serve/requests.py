"""What a client may post to Gradio's routes; anything else would end as a 500 and a traceback there."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    import gradio as gr

CALL = re.compile(r"/gradio_api/call/(v2/)?([^/]*)/?")
JOIN = re.compile(r"/gradio_api/queue/join/?")
DIRECT = re.compile(r"(/gradio_api)?/(run|api)/.*")
STREAM = re.compile(r"/gradio_api/call/(v2/)?[^/]*/([^/]*)")
MULTIPART = re.compile(
    rb'multipart/form-data\s*;.*?boundary=("[^"]{1,70}"|[^\s";,]{1,70})\s*(;.*)?', re.IGNORECASE
)
MOST_BODY = 1_000_000


def refusal(page: gr.Blocks, path: str, body: bytes) -> tuple[int, str] | None:
    """Status and sentence for a body that Gradio's function of this path cannot take; None where it can."""
    direct = DIRECT.fullmatch(path)
    call, join = CALL.fullmatch(path), JOIN.fullmatch(path)
    try:
        document = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return 400, "The body is not JSON."
    if not isinstance(document, dict):
        return 400, "The body must be a JSON object."
    if call is not None and call[1]:
        known = any(function.api_name == call[2] for function in page.fns.values())
        return None if known else (404, "There is no such function. Post to /gradio_api/call/predict.")
    if call is None and join is None and direct is None:
        return None
    if direct is not None and document.get("fn_index") not in _unqueued(page):
        return 404, "This page takes no direct calls. Post to /gradio_api/call/predict."
    data = document.get("data")
    if not isinstance(data, list):
        return 422, "The body's 'data' must be a list, a value for each input."
    return _refused_call(page, call[2] if call else None, document, data)


def _unqueued(page: gr.Blocks) -> list[int]:
    """Numbers of the functions that the page itself calls directly: those that put
    an example in its place.
    """
    return [number for number, function in page.fns.items() if function.queue is False]


def refusal_of_stream(page: gr.Blocks, path: str, query: str) -> tuple[int, str] | None:
    """Status and sentence for a GET of answers that nobody asked for, which Gradio
    would begin and break off.
    """
    queue, call = page._queue, STREAM.fullmatch(path)
    if call is not None:
        number = call[2]
        asked = number in queue.event_ids_to_events or any(
            number in held for held in queue.pending_event_ids_session.values()
        )
    elif path == "/gradio_api/queue/data":
        asked = parse_qs(query).get("session_hash", [""])[0] in queue.pending_messages_per_session
    else:
        return None
    return None if asked else (404, "There is no such call, or its answer was fetched already.")


def _refused_call(
    page: gr.Blocks, name: str | None, document: dict[str, Any], data: list[Any]
) -> tuple[int, str] | None:
    from pydantic import ValidationError

    if name is None:
        index = document.get("fn_index")  # a bool is an int to Python, and no number here
        function = page.fns.get(index) if type(index) is int else None
    else:
        function = next((each for each in page.fns.values() if each.api_name == name), None)
    if function is None:
        return 404, "There is no such function. Post to /gradio_api/call/predict."
    for key in ("session_hash", "event_id"):
        if not isinstance(document.get(key), (str, type(None))) or len(document.get(key) or "") > 200:
            return 422, f"The body's '{key}' must be a short text."
    if not isinstance(document.get("trigger_id"), (int, type(None))):
        return 422, "The body's 'trigger_id' must be a number."
    if len(data) != len(function.inputs):
        return 422, f"The body's 'data' has {len(data)} values; this function takes {len(function.inputs)}."
    for component, value in zip(function.inputs, data, strict=True):
        samples = getattr(component, "samples", None)
        if samples is not None and not (type(value) is int and 0 <= value < len(samples)):
            return 422, "There is no such example."
        if value is None or getattr(component, "data_model", None) is None:
            continue
        try:
            component.data_model.model_validate(value)
        except ValidationError:
            return (
                422,
                'A picture is given as {"path": ..., "meta": {"_type": "gradio.FileData"}}, '
                "the path from an upload.",
            )
    return None
