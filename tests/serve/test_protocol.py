"""`/v2`: Triton's own client, and requests that no client would send."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import numpy as np
import pytest
from asked import Api, answering
from serve_pictures import GOOD, JPEG

from lfdeploy.images import decode, fit
from lfdeploy.predict import Predictor
from serve.access import Rules
from serve.entries import Entry
from serve.state import state_of
from serve.tensors import MOST_ROWS

PEER = "peer0-onnx-fp32"
INFER = f"/v2/models/{PEER}/infer"


@pytest.fixture
def client(api: Api) -> Any:
    """Triton's HTTP client, unmodified."""
    from tritonclient.http import InferenceServerClient

    return InferenceServerClient(f"127.0.0.1:{api.port}")


@pytest.fixture
def pixels(entries: dict[str, Entry]) -> Any:
    """Three pictures as the model takes them."""
    predictor = entries[PEER].predictor
    assert predictor is not None
    blobs = (JPEG, GOOD["alpha.png"](), GOOD["16-bit.png"]())
    return np.stack([fit(decode(blob, predictor.size).image, predictor.size) for blob in blobs])


def test_triton_s_client_is_content(client: Any, entries: dict[str, Entry], pixels: Any) -> None:
    """Health, metadata, configuration; pixels and files, as JSON and binary; whole outputs and classes."""
    from tritonclient.http import InferInput, InferRequestedOutput

    size, artifact = pixels.shape[1], entries[PEER].artifact
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(PEER)
    assert client.is_model_ready(PEER, "1") and not client.is_model_ready(PEER, "2")
    assert client.get_server_metadata()["name"] == "lfdeploy"
    about = client.get_model_metadata(PEER)
    assert about["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]}
    assert client.get_model_config(PEER)["output"][0] == {
        "name": "logits",
        "data_type": "TYPE_FP32",
        "dims": [10],
    }
    assert [row["state"] for row in client.get_model_repository_index()] == ["READY", "READY"]

    expected = Predictor.open(artifact.path, device="cpu").run(pixels)
    files = np.array([JPEG, GOOD["alpha.png"](), GOOD["16-bit.png"]()], dtype=np.object_)
    for name, values, kind in (("images", pixels, "UINT8"), ("encoded", files, "BYTES")):
        for binary in (True, False):
            given = InferInput(name, list(values.shape), kind)
            if kind == "BYTES" and not binary:
                continue  # its JSON holds text alone
            given.set_data_from_numpy(values, binary_data=binary)
            result = client.infer(PEER, [given], request_id="7")
            assert np.allclose(result.as_numpy("logits"), expected[0], atol=1e-5)
            assert np.allclose(result.as_numpy("probabilities"), expected[1], atol=1e-6)
            assert result.get_response()["id"] == "7"
            for wanted in (True, False):
                best = InferRequestedOutput("probabilities", binary_data=wanted, class_count=2)
                rows = client.infer(PEER, [given], outputs=[best]).as_numpy("probabilities")
                texts = [[item.decode() if isinstance(item, bytes) else item for item in row] for row in rows]
                top = [int(text.split(":")[1]) for text, _ in texts]
                assert top == expected[1].argmax(1).tolist()
                assert texts[0][0].endswith(f":{artifact.manifest['labels'][top[0]]}")


def test_the_same_bytes_have_the_same_scores_on_every_way(
    api: Api, client: Any, entries: dict[str, Entry]
) -> None:
    """To the bit: `predict`, /v1, and /v2 with a file."""
    from tritonclient.http import InferInput

    for name, make in GOOD.items():
        blob = make()
        wanted = Predictor.open(entries[PEER].artifact.path, device="cpu").predict(blob, top=10)
        told = json.loads(api("POST", f"/v1/classify?artifact={PEER}&top=10", blob)[2])
        given = InferInput("encoded", [1], "BYTES")
        given.set_data_from_numpy(np.array([blob], dtype=np.object_))
        row = client.infer(PEER, [given]).as_numpy("probabilities")[0]
        by_label = dict(zip(entries[PEER].artifact.manifest["labels"], row.tolist(), strict=True))
        assert dict(wanted.top) == by_label == {r["label"]: r["probability"] for r in told["top"]}, name


def request(**changes: Any) -> dict[str, Any]:
    """A good request with changes to its input."""
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [7] * 768} | changes
    return {"inputs": [{key: value for key, value in given.items() if value is not None}]}


def test_plain_json_is_enough(api: Api, entries: dict[str, Entry]) -> None:
    expected = entries[PEER].predictor.run(np.full((1, 16, 16, 3), 7, np.uint8))  # type: ignore[union-attr]
    nested = np.full((1, 16, 16, 3), 7).tolist()
    encoded = {"name": "encoded", "datatype": "BYTES", "data": [base64.b64encode(JPEG).decode()]}
    for body in (
        request(),
        request(data=nested),
        request(**encoded, shape=[1]),
        request(**encoded, shape=[1, 1]),
    ):
        status, headers, text = api("POST", INFER, json.dumps(body).encode())
        told = json.loads(text)
        assert status == 200 and headers["content-type"] == "application/json" and "id" not in told
        assert headers["x-artifact-sha256"] == entries[PEER].artifact.manifest["sha256"]
        if body["inputs"][0]["name"] == "images":
            assert np.allclose(told["outputs"][0]["data"], expected[0][0], atol=1e-5)


BAD: list[Any] = [
    b"{",
    b"[]",
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    {},
    {"inputs": {}},
    {"inputs": []},
    {"inputs": [1]},
    {"inputs": [*request()["inputs"]] * 2},
    request(name="nope"),
    request(name=["images"]),
    request(datatype="FP32"),
    request(datatype=None),
    request(shape=[1, 16, 16]),
    request(shape=[1, 16, 16, 4]),
    request(shape=[2, 16, 16, 3]),
    request(shape=[0, 16, 16, 3]),
    request(shape=[-1, 16, 16, 3]),
    request(shape=[10**9, 16, 16, 3]),
    request(shape=[10**30, 16, 16, 3]),
    request(shape=[True, 16, 16, 3]),
    request(shape=[1.0, 16, 16, 3]),
    request(shape="1,16,16,3"),
    request(shape=None),
    request(data=None),
    request(data=[7] * 767),
    request(data=[256] * 768),
    request(data=[-1] * 768),
    request(data=[0.5] * 768),
    request(data=["7"] * 768),
    request(data=[[7], [7, 7]]),
    request(data=np.full((1, 3, 16, 16), 7).tolist()),
    request(data=np.full((1, 16, 48), 7).tolist()),
    request(data=np.full((16, 16, 3), 7).tolist()),
    request(data=np.full((1, 16, 16, 3, 1), 7).tolist()),
    request(data=[[[[7] * 3] * 15 + [[7] * 4]] * 16]),
    request(data=[True] * 768),
    request(data=[None] * 768),
    request(data=[10**40] * 768),
    request(data={"a": 1}),
    request(parameters=[]),
    request(parameters={"binary_data_size": 768}),
    request(parameters={"binary_data_size": "768"}),
    request(name="encoded", datatype="BYTES", shape=[1], data=["no base64!"]),
    request(name="encoded", datatype="BYTES", shape=[1], data=[7]),
    request(name="encoded", datatype="BYTES", shape=[1], data="AAAA"),
    request(name="encoded", datatype="BYTES", shape=[2], data=["AAAA"]),
    request(name="encoded", datatype="BYTES", shape=[1, 2], data=["AAAA"] * 2),
    request() | {"outputs": []},
    request() | {"outputs": [{"name": "logits"}] * 2},
    request() | {"outputs": [{"name": "logits"}] * 20000},
    request(data=["x" * 1000, *[0] * 767]),
    request(name="encoded", datatype="BYTES", shape=[1], data=["AAAA"] * 9),
    request() | {"outputs": {}},
    request() | {"outputs": [{"name": "nope"}]},
    request() | {"outputs": ["logits"]},
    request() | {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
    request() | {"outputs": [{"name": "logits", "parameters": {"classification": "3"}}]},
    request() | {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]},
    request() | {"parameters": {"binary_data_output": "yes"}},
    request() | {"id": 7},
    request() | {"id": "x" * 1000},
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_no_client_would_send(number: int, api: Api) -> None:
    body = BAD[number]
    status, headers, text = api("POST", INFER, body if isinstance(body, bytes) else json.dumps(body).encode())
    told = json.loads(text)
    assert status == 400 and list(told) == ["error"] and headers["x-error-code"] == "bad_request", text
    assert told["error"].endswith(".") and "\n" not in told["error"] and len(told["error"]) < 300


def test_data_are_nested_as_their_shape_says(api: Api) -> None:
    """Channels first would be other pixels under the same number of them."""
    for data, said in (
        (
            np.full((1, 3, 16, 16), 7).tolist(),
            "nested as [1, 3, 16, 16], and the shape is [1, 16, 16, 3]. Channels",
        ),
        ([7] * 767, "has 767 numbers; the shape [1, 16, 16, 3] takes 768"),
        ([7.0] * 768, "'data' has 7.0; it must hold whole numbers"),
    ):
        status, _, text = api("POST", INFER, json.dumps(request(data=data)).encode())
        assert status == 400 and said in json.loads(text)["error"], text


@pytest.mark.parametrize("told", ["x", "-1", "99999999", "9" * 5000, "000000000000999", ""])
def test_lengths_that_are_none(told: str, api: Api) -> None:
    body = json.dumps(request()).encode()
    assert api("POST", INFER, body, Inference_Header_Content_Length=told)[0] == 400


def test_bytes_behind_the_json(api: Api) -> None:
    """Of another number than the header, the shape, or an element's own length says."""
    for shape, name, size, blob in (
        ([1, 16, 16, 3], "images", 768, bytes(767)),
        ([1, 16, 16, 3], "images", 767, bytes(767)),
        ([1], "encoded", 8, (100).to_bytes(4, "little") + b"abcd"),
        ([1], "encoded", 3, b"abc"),
        ([2], "encoded", 8, (4).to_bytes(4, "little") + b"abcd"),
        ([1], "encoded", 0, b""),
        ([1], "encoded", 8, bytes(8)),
    ):
        kind = "UINT8" if name == "images" else "BYTES"
        given = request(
            name=name, shape=shape, datatype=kind, data=None, parameters={"binary_data_size": size}
        )
        head = json.dumps(given).encode()
        status, _, text = api("POST", INFER, head + blob, Inference_Header_Content_Length=str(len(head)))
        assert status == 400, (shape, size, text)
    head = json.dumps(request()).encode()
    assert api("POST", INFER, head + b"more", Inference_Header_Content_Length=str(len(head)))[0] == 400


def test_a_bad_picture_among_good_ones_is_named(api: Api) -> None:
    rows = [base64.encodebytes(blob).decode() for blob in (JPEG, b"hello", JPEG)]  # in lines
    body = request(name="encoded", datatype="BYTES", shape=[3], data=rows)
    status, headers, text = api("POST", INFER, json.dumps(body).encode())
    assert status == 415 and headers["x-error-code"] == "not_an_image" and b"Picture 2 of 3: " in text


def test_many_rows_are_answered_though_the_queue_is_shorter(own_api: Api, entries: dict[str, Entry]) -> None:
    api = own_api
    api.state.engines[PEER].most = 8
    rows = np.random.default_rng(0).integers(0, 256, (MOST_ROWS, 16, 16, 3), np.uint8)
    given = request(shape=list(rows.shape), data=None, parameters={"binary_data_size": rows.nbytes})
    head = json.dumps(given | {"outputs": [{"name": "logits"}]}).encode()
    status, _, text = api(
        "POST", INFER, head + rows.tobytes(), Inference_Header_Content_Length=str(len(head))
    )
    assert status == 200
    expected = entries[PEER].predictor.run(rows)[0]  # type: ignore[union-attr]
    assert np.allclose(json.loads(text)["outputs"][0]["data"], expected.ravel(), atol=1e-5)


def test_of_many_rows_each_has_one_outcome(own_api: Api) -> None:
    """Also of those that were not begun when one was found to be bad."""
    rows = [base64.b64encode(blob).decode() for blob in (b"hello", *[JPEG] * 99)]
    body = request(name="encoded", datatype="BYTES", shape=[100], data=rows)
    assert own_api("POST", INFER, json.dumps(body).encode())[0] == 415
    text = own_api("GET", "/metrics")[2].decode()
    counts = re.findall(r"lfdeploy_pictures_total\{[^}]*\} ([\d.]+)", text)
    assert sum(map(float, counts)) == 100


def test_the_method_of_a_route_is_told(api: Api) -> None:
    assert api("GET", INFER)[0] == 405


def test_names_and_versions(api: Api) -> None:
    for method, path in (
        ("GET", "/v2/models/nope"),
        ("GET", "/v2/models/nope/ready"),
        ("GET", f"/v2/models/{PEER}/versions/2"),
        ("POST", "/v2/models/nope/infer"),
        ("POST", f"/v2/models/{PEER}/versions/0/infer"),
    ):
        status, headers, text = api(method, path, b"{}" if method == "POST" else b"")
        assert status == 404 and headers["x-error-code"] == "unknown_artifact", (path, text)


@pytest.mark.parametrize("how", ["gzip", "deflate"])
def test_a_request_may_be_packed(how: str, client: Any, pixels: Any, entries: dict[str, Entry]) -> None:
    from tritonclient.http import InferInput

    given = InferInput("images", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    found = client.infer(PEER, [given], request_compression_algorithm=how).as_numpy("logits")
    expected = entries[PEER].predictor.run(pixels)[0]  # type: ignore[union-attr]
    assert np.allclose(found, expected, atol=1e-5)


def test_what_is_packed_has_limits(api: Api) -> None:
    good = json.dumps(request()).encode()
    bomb = gzip.compress(bytes(101_000_000))
    assert len(bomb) < 200_000
    cases = {
        "bomb": (bomb, "gzip", 413, "too_large"),
        "cut": (gzip.compress(good)[:-3], "gzip", 400, "malformed"),
        "more": (gzip.compress(good) + b"x", "gzip", 400, "malformed"),
        "plain": (good, "gzip", 400, "malformed"),
        "empty": (b"", "deflate", 400, "malformed"),
        "brotli": (good, "br", 415, "unsupported_type"),
    }
    for name, (body, how, status, code) in cases.items():
        told = api("POST", INFER, body, Content_Encoding=how)
        assert (told[0], told[1]["x-error-code"]) == (status, code), name
    for how in ("", "identity", "Identity"):
        assert api("POST", INFER, good, Content_Encoding=how)[0] == 200
    assert api("POST", "/v1/classify", JPEG, Content_Encoding="")[0] == 200
    assert api.state.held.total == 0


def test_an_artifact_is_loaded_as_it_lies_there(entries: dict[str, Entry]) -> None:
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    token = {"Authorization": "Bearer 0123456789abcdef"}
    with answering(state_of([entries[PEER]]), Rules(token="0123456789abcdef")) as own:
        client = InferenceServerClient(f"127.0.0.1:{own.port}")
        client.load_model(PEER, headers=token)
        for given in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
            with pytest.raises(InferenceServerException, match="loaded as it lies there"):
                client.load_model(PEER, headers=token, **given)
        client.close()


def test_statistics_are_elsewhere(client: Any) -> None:
    from tritonclient.utils import InferenceServerException

    for name in ("", PEER):
        with pytest.raises(InferenceServerException, match="What is counted stands at /metrics"):
            client.get_inference_statistics(name)
