"""The Open Inference Protocol's tensors, as JSON and in its binary extension: read from requests, written to
answers.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md and extension_classification.md.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels
from serve.bodies import MOST_PICTURE, too_large
from serve.problems import Problem

#: The input that takes pictures as files, BYTES [N]; the other one, named by the manifest, takes pixels.
ENCODED = "encoded"
#: Pictures of one request, and bytes of its JSON: nobody else runs while it is parsed, half a second at most.
MOST_ROWS = 256
MOST_JSON = 8_000_000
LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Asked:
    """A parsed request: pictures as files or as pixels (size, size, 3), and the outputs wanted."""

    number: str
    rows: Sequence[bytes | Pixels]
    outputs: Sequence[Output]


@dataclass(frozen=True)
class Output:
    """An output, whether it is sent as bytes, and of how many classes; 0: all numbers as they are."""

    name: str
    binary: bool
    classes: int = 0


def wrong(message: str) -> Problem:
    """400."""
    return Problem("bad_request", message)


def parse(body: bytes, length: str | None, name: str, size: int, known: Sequence[str]) -> Asked:
    """A request's body. ``length`` is that of its JSON, where bytes follow; ``name`` the input of pixels,
    (N, size, size, 3); ``known`` the outputs that there are. Raises `Problem`.
    """
    split = len(body)
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 10 and int(length) <= split):
            raise wrong(f"Inference-Header-Content-Length is '{length[:20]}', the body has {split:,} bytes.")
        split = int(length)
    if split > MOST_JSON:
        raise Problem(
            "too_large",
            f"The JSON is larger than {MOST_JSON // 1_000_000} MB. Send pixels by the binary extension.",
        )
    document = _document(body[:split])
    given = _input(document, name)
    wants_bytes = _flag(_parameters(document), "binary_data_output")
    outputs = document.get("outputs")
    if outputs is None:
        outputs = [{"name": output} for output in known]
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= len(known):
        raise wrong(f"'outputs' must be a list of one to {len(known)} objects, or left out.")
    rest = memoryview(body)[split:]
    rows = _encoded(given, rest) if given["name"] == ENCODED else _pixels(given, rest, size)
    number = document.get("id", "")
    if not isinstance(number, str) or len(number) > 200:
        raise wrong("'id' must be a text of at most 200 characters.")
    found = [_output(output, known, wants_bytes) for output in outputs]
    if len({output.name for output in found}) < len(found):
        raise wrong("'outputs' names an output twice.")
    return Asked(number, rows, found)


def parameters(body: bytes) -> dict[str, Any]:
    """The parameters of a request that may have a body. Raises `Problem`."""
    return _parameters(_document(body)) if body.strip() else {}


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("The request is not JSON.") from None
    if not isinstance(document, dict):
        raise wrong("The request must be a JSON object.")
    return document


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise wrong("'parameters' must be an object.")
    return parameters


def _flag(parameters: dict[str, Any], key: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise wrong(f"The parameter '{key}' must be true or false.")
    return value


def _input(document: dict[str, Any], name: str) -> dict[str, Any]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise wrong(f"'inputs' must be a list of one object: '{name}' (UINT8) or '{ENCODED}' (BYTES).")
    given: dict[str, Any] = inputs[0]
    kinds = {name: "UINT8", ENCODED: "BYTES"}
    if not isinstance(given.get("name"), str) or given["name"] not in kinds:
        raise wrong(f"There is no input '{str(given.get('name'))[:40]}'. There are '{name}' and '{ENCODED}'.")
    if given.get("datatype") != kinds[given["name"]]:
        raise wrong(
            f"The input '{given['name']}' is {kinds[given['name']]}, not '{str(given.get('datatype'))[:20]}'."
        )
    shape = given.get("shape")
    if not (isinstance(shape, list) and shape and all(type(n) is int and 0 <= n < 2**31 for n in shape)):
        raise wrong("'shape' must be a list of sizes.")
    if not 1 <= shape[0] <= MOST_ROWS:
        raise wrong(f"The shape {str(shape)[:60]} has {shape[0]} pictures; a request takes 1 to {MOST_ROWS}.")
    return given


def _binary(given: dict[str, Any], rest: memoryview) -> memoryview | None:
    """The input's bytes, where it has them behind the JSON."""
    told = _parameters(given).get("binary_data_size")
    if told is None:
        if rest:
            raise wrong("Bytes follow the JSON that no input has. Give the input 'binary_data_size'.")
        return None
    if type(told) is not int:
        raise wrong(f"'binary_data_size' must be a whole number, not {json.dumps(told)[:20]}.")
    if told != len(rest):
        raise wrong(f"'binary_data_size' is {str(told)[:20]}, and {len(rest):,} bytes follow the JSON.")
    if "data" in given:
        raise wrong("The input has 'data' and 'binary_data_size'. Give one of them.")
    return rest


def _pixels(given: dict[str, Any], rest: memoryview, size: int) -> list[Pixels]:
    shape, blob = given["shape"], _binary(given, rest)
    if shape[1:] != [size, size, 3]:
        raise wrong(f"The shape is {str(shape)[:60]}; it must be [N, {size}, {size}, 3].")
    if blob is not None:
        if len(blob) != math.prod(shape):
            raise wrong(f"The shape {shape} takes {math.prod(shape):,} bytes; {len(blob):,} were sent.")
        return list(np.frombuffer(blob, np.uint8).reshape(shape))
    flat = _flat(given.get("data"), shape)
    odd = [item for item in flat if type(item) is not int or not 0 <= item <= 255]
    if odd:
        raise wrong(f"'data' has {json.dumps(odd[0])[:20]}; it must hold whole numbers from 0 to 255.")
    return list(np.array(flat, np.uint8).reshape(shape))


def _flat(data: Any, shape: list[int]) -> list[Any]:
    """The numbers of a tensor that is flat, or nested as its shape is."""
    if not isinstance(data, list):
        raise wrong("'data' must be a list of numbers, flat or nested like the shape.")
    if not any(isinstance(item, list) for item in data):
        if len(data) != math.prod(shape):
            raise wrong(f"'data' has {len(data):,} numbers; the shape {shape} takes {math.prod(shape):,}.")
        return data
    flat, level = data, [data]
    for size in shape:
        if not all(isinstance(row, list) and len(row) == size for row in level):
            first = " Channels come last: transpose(0, 2, 3, 1)." * (_sizes(data)[1:2] == [3])
            raise wrong(f"'data' is nested as {_sizes(data)}, and the shape is {shape}.{first}")
        flat = level = [item for row in level for item in row]
    return flat


def _sizes(data: Any) -> list[int]:
    """How long nested lists are, by the first of each."""
    sizes: list[int] = []
    while isinstance(data, list) and len(sizes) < 8:
        sizes.append(len(data))
        data = data[0] if data else None
    return sizes


def _encoded(given: dict[str, Any], rest: memoryview) -> list[bytes]:
    shape, blob = given["shape"], _binary(given, rest)
    if shape[1:] not in ([], [1]):
        raise wrong(f"The shape of '{ENCODED}' is {str(shape)[:60]}; it must be [N].")
    rows = _lengths(blob, shape[0]) if blob is not None else _base64(given.get("data"), shape[0])
    if len(rows) != shape[0]:
        raise wrong(f"The shape {shape} has {shape[0]} pictures; another number was sent.")
    if max(map(len, rows)) > MOST_PICTURE:
        raise too_large(MOST_PICTURE)
    return rows


def _lengths(blob: memoryview, count: int) -> list[bytes]:
    """Elements of a BYTES tensor, one more than ``count`` at most: each a length of four bytes (little
    endian), and so many bytes.
    """
    rows: list[bytes] = []
    at = 0
    while at < len(blob) and len(rows) <= count:
        end = at + 4 + int.from_bytes(blob[at : at + 4], "little")
        if at + 4 > len(blob) or end > len(blob):
            raise wrong("A BYTES element is longer than what was sent.")
        rows.append(bytes(blob[at + 4 : end]))
        at = end
    return rows


def _base64(data: Any, count: int) -> list[bytes]:
    try:
        flat = [item for row in data[: count + 1] for item in (row[:2] if isinstance(row, list) else [row])]
        return [base64.b64decode("".join(item.split()), validate=True) for item in flat]
    except (TypeError, ValueError, AttributeError):
        raise wrong(f"'data' of '{ENCODED}' must be a list of texts, each a file in plain base64.") from None


def _output(given: Any, known: Sequence[str], binary: bool) -> Output:
    if not isinstance(given, dict):
        raise wrong(f'Each of \'outputs\' must be an object, as in {{"name": "{known[0]}"}}.')
    name = given.get("name")
    if not isinstance(name, str) or name not in known:
        raise wrong(f"There is no output '{str(name)[:40]}'. There are {', '.join(known)}.")
    parameters = _parameters(given)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise wrong("The parameter 'classification' must be a number of classes.")
    return Output(name, _flag(parameters, "binary_data", binary), classes)


def written(
    model: str, asked: Asked, values: dict[str, Floats], labels: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers, for outputs (N, ...) by name."""
    blobs: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for output in asked.outputs:
        rows = values[output.name]
        told: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": list(rows.shape)}
        if output.classes:
            texts = [_classes(row, labels, output.classes) for row in rows]
            told |= {"datatype": "BYTES", "shape": [len(texts), len(texts[0])]}
            flat = [text for row in texts for text in row]
            blob = b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in flat)
            data: list[Any] = flat
        else:
            blob, data = np.ascontiguousarray(rows, "<f4").tobytes(), []
        if output.binary:
            told["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            told["data"] = data or [float(value) for value in rows.ravel()]
        outputs.append(told)
    document = {"model_name": model, "model_version": "1", "outputs": outputs}
    head = json.dumps(document | ({"id": asked.number} if asked.number else {})).encode()
    if not blobs:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return b"".join([head, *blobs]), headers


def _classes(row: Floats, labels: Sequence[str], count: int) -> list[str]:
    """The classification extension's texts, value:index:label, by falling value."""
    return [f"{row[i]:f}:{i}:{labels[i]}" for i in np.argsort(-row, kind="stable")[:count]]
