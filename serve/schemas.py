"""What answers consist of, for the OpenAPI document and its page."""

from __future__ import annotations

from typing import Any

NUMBER, TEXT, TRUTH = {"type": "number"}, {"type": "string"}, {"type": ["boolean", "null"]}
#: The fields of an answer, in words.
FIELDS = {
    "artifact": "the name of the artifact that answered",
    "sha256": "of the file that answered",
    "parity": "whether the file was proven to answer as the trained network: pass, unverified or fail",
    "label": "the most probable class",
    "probability": "its probability, from 0 to 1",
    "top": "the most probable classes, by falling probability",
    "abstain": "true where the artifact is not sure: below its threshold; null where it has none",
    "unfamiliar": "true where the picture is unlike those of training; null where nothing is known of that",
    "notes": "remarks about the picture: further frames, an extreme shape",
    "milliseconds": "what decoding, waiting and the model took",
    "batch": "how many pictures shared the model's run",
    "heatmap": "with explain: where the evidence for the most probable class lies in the largest centred "
    "square of the picture, in the unit of the logits; float32, little-endian, rows from the top, base64",
    "request_id": "also in the header X-Request-Id, and in the server's log",
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_KINDS: dict[str, Any] = {
    "artifact": TEXT,
    "sha256": TEXT,
    "parity": {"enum": ["pass", "unverified", "fail"]},
    "label": TEXT,
    "probability": NUMBER,
    "top": _array(_object(label=TEXT, probability=NUMBER)),
    "abstain": TRUTH,
    "unfamiliar": TRUTH,
    "notes": _array(TEXT),
    "milliseconds": _object(decode=NUMBER, queue=NUMBER, model=NUMBER),
    "batch": {"type": "integer"},
    "heatmap": _object(shape=_array({"type": "integer"}), dtype={"const": "float32"}, base64=TEXT),
    "request_id": TEXT,
}
_ANSWER = {name: {**_KINDS[name], "description": about} for name, about in FIELDS.items()}
_ERROR = _object(code=TEXT, message=TEXT, request_id=TEXT)
_PLACE = {"index": {"type": "integer", "description": "of the file in the form, from 0"}, "name": TEXT}
SCHEMAS: dict[str, Any] = {
    "Answer": _object(**_ANSWER),
    "Line": _object(
        **_PLACE,
        **{name: kind for name, kind in _ANSWER.items() if name != "request_id"},
        error=_object(code=TEXT, message=TEXT),
    ),
    "Artifacts": _object(
        artifacts=_array(
            _object(
                name=TEXT,
                sha256=TEXT,
                parity=_KINDS["parity"],
                runs={"type": "boolean"},
                reason=TEXT,
                backend={"type": ["string", "null"]},
                device={"type": ["string", "null"]},
                target=TEXT,
                precision=TEXT,
                size={"type": "integer"},
                labels=_array(TEXT),
                accuracy={
                    "type": ["object", "null"],
                    "description": "in %, of how many images; class by class too",
                },
                heatmap={"type": "boolean"},
                default={"type": "boolean"},
            )
        )
    ),
    "Error": _object(error=_ERROR),
    "Sentence": _object(error=TEXT),
}
