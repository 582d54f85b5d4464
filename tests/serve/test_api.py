"""`/v1`, health and metrics, by real requests to the application."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import Api, answering, form
from serve_pictures import BAD, GOOD, JPEG

from export import export
from lfdeploy.artifact import Artifact, sealed
from lfdeploy.config import ExportConfig
from lfdeploy.predict import Predictor
from lfdeploy.run import Run
from serve.access import Rules
from serve.entries import Entry, open_all
from serve.openapi import OPERATIONS, PICTURES
from serve.problems import STATUS
from serve.state import state_of

FUSED, PEER = "fused-onnx-fp32", "peer0-onnx-fp32"
#: What the page, the command line and a program are told of each kind of bad file.
CODES = {
    "truncated": (422, "truncated"),
    "million pixels": (413, "too_many_pixels"),
    "not a picture": (415, "not_an_image"),
    "empty": (400, "empty"),
    "10 MB": (413, "too_large"),
    "HEIC": (415, "heic"),
    "floating-point": (415, "unsupported"),
}


def refused(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    """Status and code of a problem, which is told as all are."""
    status, headers, body = answer
    told = json.loads(body)["error"]
    assert set(told) == {"code", "message", "request_id"}
    assert told["message"][0].isupper() and told["message"].endswith(".") and "\n" not in told["message"]
    assert headers["x-error-code"] == told["code"] and headers["x-request-id"] == told["request_id"]
    return status, told["code"]


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_get_the_numbers_of_predict(name: str, api: Api, entries: dict[str, Entry]) -> None:
    blob = GOOD[name]()
    status, _, body = api("POST", f"/v1/classify?artifact={PEER}&top=10", blob)
    expected = Predictor.open(entries[PEER].artifact.path, device="cpu").predict(blob, top=10)
    told = json.loads(body)
    assert status == 200
    assert tuple((row["label"], row["probability"]) for row in told["top"]) == expected.top
    assert told["notes"] == list(expected.notes) and told["artifact"] == PEER
    assert told["sha256"] == entries[PEER].artifact.manifest["sha256"]
    assert set(told["milliseconds"]) == {"decode", "queue", "model"} and told["batch"] == 1


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_a_status_a_code_and_a_sentence(name: str, api: Api) -> None:
    make, word = BAD[name]
    for body, kind in ((make(), "image/png"), form((name, make()))):
        assert refused(api("POST", "/v1/classify", body, Content_Type=kind)) in (
            CODES[word], (400, "empty"), (413, "too_large")
        )  # fmt: skip


def test_a_form_and_a_body_are_answered_alike(api: Api) -> None:
    body, kind = form(("a\u00e9\U0001f4f7.jpg", JPEG))
    plain = json.loads(api("POST", "/v1/classify", JPEG)[2])["top"]
    assert json.loads(api("POST", "/v1/classify", body, Content_Type=kind)[2])["top"] == plain
    assert len(plain) == 5


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("top=0", 400, "bad_parameter"),
        ("top=11", 400, "bad_parameter"),
        ("top=x", 400, "bad_parameter"),
        ("top=" + "9" * 5000, 400, "bad_parameter"),
        ("top=00000000199", 400, "bad_parameter"),
        ("explain=perhaps", 400, "bad_parameter"),
        ("explain=true", 409, "no_heatmap"),
        ("artifact=nope", 404, "unknown_artifact"),
        ("pictures=3", 400, "bad_parameter"),
        ("top=1&top=2", 400, "bad_parameter"),
    ],
)
def test_queries_are_checked(query: str, status: int, code: str, api: Api) -> None:
    assert refused(api("POST", f"/v1/classify?{query}", JPEG)) == (status, code)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_form_that_ends_early_has_no_answer(cut: int, api: Api) -> None:
    """Not of the files before its end either: nobody would know that there was one more."""
    for files in ([("a.jpg", JPEG)], [("a.jpg", JPEG), ("b.jpg", JPEG)]):
        body, kind = form(*files)
        whole = body.removesuffix(b"\r\n")  # what may follow the last boundary says nothing
        for short in (whole[:-cut], whole[: -len(JPEG) // 2]):
            for path in ("/v1/classify", "/v1/batch"):
                status, headers, told = api("POST", path, short, Content_Type=kind)
                assert (status, headers["x-error-code"]) == (400, "malformed") and b"ends early" in told
    assert api("POST", "/v1/batch", whole, Content_Type=kind)[2].count(b'"top"') == 2


def test_a_picture_that_curl_took_bytes_from(api: Api) -> None:
    """By -d: without ends of lines and null characters."""
    fields, cut = "application/x-www-form-urlencoded", JPEG.translate(None, b"\r\n\0")
    assert b"--data-binary @photo.jpg" in api("POST", "/v1/classify", cut, Content_Type=fields)[2]
    assert b"--data-binary" not in api("POST", "/v1/classify", cut, Content_Type="image/jpeg")[2]
    assert api("POST", "/v1/classify", JPEG, Content_Type=fields)[0] == 200


def test_malformed_requests(api: Api) -> None:
    two = form(("a.jpg", JPEG), ("b.jpg", JPEG))
    mark = "multipart/form-data; boundary="
    other = b'--o\r\nContent-Disposition: form-data; name="artifact"\r\n\r\npeer0\r\n--o--\r\n'
    cases: list[Any] = [
        (("POST", "/v1/classify", b""), {}, (400, "empty")),
        (("POST", "/v1/classify", two[0]), {"Content_Type": two[1]}, (400, "bad_request")),
        (
            ("POST", "/v1/classify", b"--x--"),
            {"Content_Type": f"{mark}x"},
            (400, "empty"),
        ),
        (("POST", "/v1/classify", b"x"), {"Content_Type": "multipart/form-data"}, (400, "malformed")),
        (
            ("POST", "/v1/classify", b"xyz"),
            {"Content_Type": f"{mark}y"},
            (400, "malformed"),
        ),
        (
            ("POST", "/v1/classify", b"x"),
            {"Content_Type": f"multipart/form-data; boundary={'y' * 3000}"},
            (400, "malformed"),
        ),
        (("POST", "/v1/classify", JPEG), {"Content_Encoding": "gzip"}, (415, "unsupported_type")),
        (("GET", "/v1/classify", b""), {}, (405, "method_not_allowed")),
        (
            ("POST", "/v1/classify", b'{"image": "x"}'),
            {"Content_Type": "application/json"},
            (415, "unsupported_type"),
        ),
        (("POST", "/v1/classify", other), {"Content_Type": f"{mark}o"}, (400, "bad_parameter")),
        (("GET", "/v1/nothing", b""), {}, (404, "not_found")),
        (("POST", "/v1/artifacts", b"x"), {}, (405, "method_not_allowed")),
        (("POST", "/v1/classify", JPEG), {"Origin": "http://["}, (403, "cross_site")),
        (
            ("POST", "/v1/batch", b"--b\r\na:b\r\n\r\n\r\n" * 5000),
            {"Content_Type": f"{mark}b"},
            (413, "too_large"),
        ),
    ]
    for words, headers, expected in cases:
        assert refused(api(*words, **headers)) == expected, words


def test_a_name_in_percent_code_is_a_file_s(api: Api) -> None:
    body = (
        b"--m\r\nContent-Disposition: form-data; name=f; filename*=utf-8''%C3%A4.jpg\r\n\r\n"
        + JPEG
        + b"\r\n--m--\r\n"
    )
    status, _, text = api("POST", "/v1/batch", body, Content_Type="multipart/form-data; boundary=m")
    assert status == 200 and json.loads(text)["name"] == "\u00e4.jpg"


def test_who_leaves_while_he_sends_is_no_failure_of_ours(
    own_api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", own_api.port), 30) as connection:
        connection.sendall(head)
        while not own_api.state.held.total:
            threading.Event().wait(0.001)
    while own_api.state.active:
        threading.Event().wait(0.001)
    text = own_api("GET", "/metrics")[2].decode()
    assert 'lfdeploy_requests_total{route="v1:classify",status="500"}' not in text
    assert "failed" not in capsys.readouterr().err


def test_a_body_is_refused_while_it_arrives(api: Api) -> None:
    """By its length, before a byte of it; without a length, as soon as it is too long."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
    for rest in (b"Content-Length: 99000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", api.port), 30) as connection:
            connection.sendall(head + rest)
            try:
                for _ in range(200 if b"chunked" in rest else 0):
                    connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            except OSError:
                pass  # the server reads no further
            assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_all_uploads_together_are_limited(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is told to come again while others hold too much, and what each held is given back."""
    monkeypatch.setattr("serve.bodies.MOST_HELD", len(JPEG) + 100)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", api.port), 30) as slow:
        slow.sendall(head + JPEG[:200])
        while not api.state.held.total:
            threading.Event().wait(0.001)
        answer = api("POST", "/v1/classify", JPEG)
        assert refused(answer) == (429, "busy") and answer[1]["retry-after"] == "2"
        slow.sendall(JPEG[200:])
        assert b" 200 " in slow.recv(65536).split(b"\r\n")[0]
    assert api("POST", "/v1/classify", JPEG)[0] == 200 and api.state.held.total == 0


def test_many_pictures_are_a_stream_of_lines(api: Api) -> None:
    """One bad file is a line with its reason; the others are answered as alone."""
    names = ["good.jpg", "bad.txt", "half.jpg", "also good.png"]
    blobs = [JPEG, b"hello", JPEG[:400], GOOD["alpha.png"]()]
    body, kind = form(*zip(names, blobs, strict=True))
    status, headers, text = api("POST", "/v1/batch?top=3", body, Content_Type=kind)
    rows = sorted((json.loads(line) for line in text.splitlines()), key=lambda row: row["index"])
    assert status == 200 and headers["content-type"].startswith("application/x-ndjson")
    assert [row["name"] for row in rows] == names
    assert [row.get("error", {}).get("code") for row in rows] == [None, "not_an_image", "truncated", None]
    alone = json.loads(api("POST", "/v1/classify?top=3", JPEG)[2])
    assert rows[0]["top"] == alone["top"]


def test_what_is_served_is_listed(api: Api, entries: dict[str, Entry]) -> None:
    rows = json.loads(api("GET", "/v1/artifacts")[2])["artifacts"]
    assert [row["name"] for row in rows] == list(entries)
    assert [row["name"] for row in rows if row["default"]] == [FUSED]
    assert all(row["parity"] == "pass" and row["runs"] and len(row["labels"]) == 10 for row in rows)


@pytest.mark.slow
def test_a_heat_map_is_sent_where_the_artifact_has_one(tiny_run: Run, tmp_path: Path) -> None:
    made = export(ExportConfig(peer=0, explain=True, out=str(tmp_path / "made")), tiny_run)
    (entry,) = open_all(made, "cpu")
    with answering(state_of([entry])) as api:
        plain, explained = (
            json.loads(api("POST", f"/v1/classify?explain={flag}", JPEG)[2]) for flag in ("0", "true")
        )
    told = explained["heatmap"]
    heatmap = np.frombuffer(base64.b64decode(told["base64"]), "<f4").reshape(told["shape"])
    assert plain["top"] == explained["top"] and "heatmap" not in plain
    assert heatmap.ndim == 2 and np.isfinite(heatmap).all() and heatmap.std() > 0


def test_health_and_a_server_that_stops(own_api: Api) -> None:
    api = own_api
    assert [api("GET", path)[0] for path in ("/health/live", "/health/ready")] == [200, 200]
    api.state.closing.set()
    assert [api("GET", path)[0] for path in ("/health/live", "/health/ready")] == [200, 503]
    assert refused(api("POST", "/v1/classify", JPEG)) == (503, "stopping")


def counted(api: Api) -> dict[str, float]:
    """Pictures by outcome."""
    text = api("GET", "/metrics")[2].decode()
    rows = re.findall(r'lfdeploy_pictures_total\{artifact="([^"]+)",outcome="(\w+)"\} ([\d.]+)', text)
    found: dict[str, float] = {}
    for _, outcome, count in rows:
        found[outcome] = found.get(outcome, 0) + float(count)
    return found


def test_every_picture_has_one_outcome(entries: dict[str, Entry]) -> None:
    """Of many that come at once some are turned away, some are bad, and all are counted once."""
    state = state_of([entries[PEER]])
    state.engines[PEER].most = 4
    with answering(state) as api:
        sent = [JPEG if number % 3 else b"hello" for number in range(90)]
        statuses: list[int] = []
        busy: list[str] = []

        def ask(blob: bytes) -> None:
            status, headers, _ = api("POST", "/v1/classify", blob)
            statuses.append(status)
            if status == 429:
                busy.append(headers["retry-after"])

        threads = [threading.Thread(target=ask, args=(blob,)) for blob in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes = counted(api)
    assert set(statuses) <= {200, 415, 429} and len(statuses) == 90
    assert sum(outcomes.values()) == 90 and "failure" not in outcomes
    assert outcomes.get("success", 0) == statuses.count(200)
    assert outcomes.get("refused", 0) == statuses.count(415)
    assert outcomes.get("rejected", 0) == statuses.count(429) == len(busy)
    assert all(int(seconds) >= 1 for seconds in busy)


def test_who_leaves_is_counted_and_forgotten(entries: dict[str, Entry]) -> None:
    entered, gate = threading.Event(), threading.Event()
    held = entries[PEER]
    assert held.predictor is not None

    class Waiting:
        backend = device = "gate"

        def __call__(self, images: Any) -> Any:
            entered.set()
            assert gate.wait(30)
            assert held.predictor is not None
            return held.predictor.session(images)

    entry = Entry(PEER, held.artifact, Predictor(held.artifact, Waiting()))  # type: ignore[arg-type]
    state = state_of([entry])
    with answering(state) as api:
        first = threading.Thread(target=lambda: api("POST", "/v1/classify", JPEG))
        first.start()
        assert entered.wait(30)
        with socket.create_connection(("127.0.0.1", api.port), 30) as connection:
            head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(JPEG)}\r\n\r\n"
            connection.sendall(head.encode() + JPEG)
            while state.engines[PEER].depth < 2:
                threading.Event().wait(0.001)
        while state.engines[PEER].depth > 1:
            threading.Event().wait(0.001)
        gate.set()
        first.join()
        assert counted(api) == {"success": 1, "cancelled": 1}


def test_a_failure_of_ours_is_no_trace(entries: dict[str, Entry], capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        backend = device = "nowhere"

        def __call__(self, images: object) -> None:
            raise RuntimeError("out of memory at 0x7f")

    held = entries[PEER].artifact
    with answering(state_of([Entry(PEER, held, Predictor(held, Broken()))])) as api:  # type: ignore[arg-type]
        answer = api("POST", "/v1/classify", JPEG)
        assert refused(answer) == (500, "internal") and b"memory" not in answer[2]
        assert counted(api) == {"failure": 1}
    assert "out of memory" in capsys.readouterr().err


def test_the_document_names_every_route_and_no_other(api: Api) -> None:
    document = json.loads(api("GET", "/openapi.json")[2])
    page = api("GET", "/docs")
    assert page[0] == 200 and b"<script" not in page[2]
    for each in OPERATIONS:
        assert each.method in document["paths"][each.path] and each.path.encode() in page[2]
        path = each.path.replace("{model}", PEER)
        status, _, _ = api(each.method.upper(), path, b"x" if each.method == "post" else b"")
        assert status not in (404, 405), each.path


def test_the_document_s_fields_are_those_of_the_answers(api: Api) -> None:
    document = json.loads(api("GET", "/openapi.json")[2])
    schemas = document["components"]["schemas"]

    def known(schema: dict[str, Any], told: dict[str, Any], *absent: str) -> None:
        assert set(schema["properties"]) - set(absent) == set(told)

    known(schemas["Answer"], json.loads(api("POST", "/v1/classify", JPEG)[2]), "heatmap")
    known(schemas["Error"], json.loads(api("POST", "/v1/classify", b"x")[2]))
    known(schemas["Sentence"], json.loads(api("POST", f"/v2/models/{PEER}/infer", b"x")[2]))
    (row, *_) = json.loads(api("GET", "/v1/artifacts")[2])["artifacts"]
    known(schemas["Artifacts"]["properties"]["artifacts"]["items"], row)
    body, kind = form(("a.jpg", JPEG), ("b.jpg", b"x"))
    lines = api("POST", "/v1/batch", body, Content_Type=kind)[2].splitlines()
    good, bad = sorted((json.loads(line) for line in lines), key=lambda line: line["index"])
    known(schemas["Line"], good, "heatmap", "error")
    assert set(bad) == {"index", "name", "error"}
    assert set(schemas["Line"]["properties"]["error"]["properties"]) == set(bad["error"])


def test_the_page_of_routes_names_every_code_of_a_picture(api: Api) -> None:
    """Codes of pictures are told where they are found; here they are listed once more."""
    found = {(code, status) for status, code in CODES.values()} - {("too_large", 413)}
    assert found <= set(PICTURES.items())
    page = api("GET", "/docs")[2].decode()
    assert all(code in page for code in {**PICTURES, **STATUS})


def test_a_version_of_a_name_with_a_slash(entries: dict[str, Entry]) -> None:
    """Two runs with artifacts of one name are told apart by the run's."""
    entry = Entry("run/peer0", entries[PEER].artifact, entries[PEER].predictor)
    with answering(state_of([entry])) as api:
        for path in ("/v2/models/run/peer0", "/v2/models/run/peer0/versions/1/ready"):
            assert api("GET", path)[0] == 200, path


def test_replacing_an_artifact(changed: Callable[..., Artifact], tiny_run: Run) -> None:
    """What was exported again is served; what is damaged, failed or has other classes changes nothing."""
    artifact = changed("served")
    state = state_of(open_all([artifact], "cpu"))
    with answering(state, Rules(token="t" * 16)) as api:
        told = {"Authorization": f"Bearer {'t' * 16}"}

        def load() -> int:
            return api("POST", "/v2/repository/models/served/load", b"{}", **told)[0]

        for broken in (
            {"labels": [*"abcdefghij"]},
            {"parity": {"verdict": "fail", "reason": "x", "checks": []}},
            {"input": artifact.manifest["input"] | {"resize": None}},
            {"outputs": [*artifact.manifest["outputs"], {"name": "more"}]},
        ):
            before = (artifact.path / "manifest.json").read_bytes()
            changed_manifest(artifact, **broken)
            assert load() == 409
            (artifact.path / "manifest.json").write_bytes(before)
        assert load() == 200
        (artifact.path / "model.onnx").write_bytes(b"damaged")
        assert load() == 409
        status, _, body = api("POST", "/v1/classify", JPEG, **told)
        assert status == 200 and json.loads(body)["sha256"] == artifact.manifest["sha256"]
        assert api("POST", "/v2/repository/models/nope/load", b"{}", **told)[0] == 404
    with answering(state) as api:
        assert api("POST", "/v2/repository/models/served/load", b"{}")[0] == 403


def changed_manifest(artifact: Artifact, **values: object) -> None:
    """Its manifest with other values, sealed."""
    (artifact.path / "manifest.json").write_text(json.dumps(sealed(artifact.manifest | values)))
