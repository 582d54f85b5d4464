"""From an uploaded file to an answer or a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from serve_pictures import BAD, GOOD, JPEG

from lfdeploy.artifact import Artifact
from lfdeploy.predict import Predictor
from serve.answer import Answer, answer, classify
from serve.engine import Engine
from serve.entries import Entry, open_all
from serve.render import answered
from serve.state import state_of

FUSED = "fused-onnx-fp32"


def upload(folder: Path, name: str, blob: bytes) -> dict[str, str]:
    path = folder / name
    path.write_bytes(blob)
    return {"path": str(path)}


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_get_the_answer_of_predict(
    name: str, engines: Mapping[str, Engine], tmp_path: Path
) -> None:
    sent = upload(tmp_path, name, GOOD[name]())
    found = answer(engines, tmp_path, sent, FUSED)
    assert found is not None and not found.error
    expected = Predictor.open(engines[FUSED].entry.artifact.path, device="cpu").predict(
        [sent["path"]], top=10
    )[0]
    assert found.top == expected.top
    assert found.notes == expected.notes
    assert found.decode_ms > 0 and found.model_ms > 0
    assert bool(found.notes) == (name.startswith(("animated", "1x", "20000x")))


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_sentence(name: str, engines: Mapping[str, Engine], tmp_path: Path) -> None:
    make, word = BAD[name]
    found = answer(engines, tmp_path, upload(tmp_path, name, make()), FUSED)
    assert found is not None and word in found.error and not found.top
    assert found.error[0].isupper() and found.error.endswith(".") and "\n" not in found.error
    assert str(tmp_path) not in found.error and "Traceback" not in found.error
    assert found.error.replace("'", "&#x27;") in answered(found)


def test_a_bad_file_leaves_the_next_answer_as_it_was(engines: Mapping[str, Engine], tmp_path: Path) -> None:
    good = upload(tmp_path, "good.jpg", JPEG)
    before = answer(engines, tmp_path, good, FUSED)
    assert answer(engines, tmp_path, upload(tmp_path, "bad.jpg", b"?"), FUSED).error  # type: ignore[union-attr]
    after = answer(engines, tmp_path, good, FUSED)
    assert before is not None and after is not None and before.top == after.top


def test_switching_the_artifact_answers_anew(engines: Mapping[str, Engine], tmp_path: Path) -> None:
    sent = upload(tmp_path, "a.jpg", JPEG)
    fused, peer = (answer(engines, tmp_path, sent, key) for key in (FUSED, "peer0-onnx-fp32"))
    assert fused is not None and peer is not None
    assert fused.top != peer.top and "peer0-onnx-fp32" in answered(peer)


@pytest.mark.parametrize(
    "sent",
    ["/etc/passwd", {"path": "/etc/passwd"}, {"path": "http://127.0.0.1/a.png"}, {"path": None}, {}, 7],
)
def test_only_uploads_are_opened(sent: object, engines: Mapping[str, Engine], tmp_path: Path) -> None:
    found = answer(engines, tmp_path, sent, FUSED)
    assert found is not None and found.error == "Only uploaded files are accepted, not paths or addresses."


def test_links_out_of_the_uploads_are_not_followed(engines: Mapping[str, Engine], tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (tmp_path / "uploads/link.jpg").symlink_to(tmp_path / "secret.jpg")
    found = answer(engines, tmp_path / "uploads", {"path": str(tmp_path / "uploads/link.jpg")}, FUSED)
    assert found is not None and "Only uploaded files" in found.error


def test_what_a_client_may_send_besides(engines: Mapping[str, Engine], tmp_path: Path) -> None:
    assert answer(engines, tmp_path, None, FUSED) is None
    for key in (None, 3, ["x"], "nope"):
        found = answer(engines, tmp_path, None, key)
        assert found is not None and "There is no artifact" in found.error and FUSED in found.error
    gone = answer(engines, tmp_path, {"path": str(tmp_path / "gone.png")}, FUSED)
    assert gone is not None and "no longer on the server" in gone.error


def test_a_failing_model_is_a_sentence(
    engines: Mapping[str, Engine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        backend = device = "nowhere"

        def __call__(self, images: object) -> None:
            raise RuntimeError("out of memory")

    held = engines[FUSED].entry.artifact
    table = state_of([Entry(FUSED, held, Predictor(held, Broken()))]).engines  # type: ignore[arg-type]
    found = answer(table, tmp_path, upload(tmp_path, "a.jpg", JPEG), FUSED)
    assert found is not None and "failed on this picture" in found.error
    assert "out of memory" in capsys.readouterr().err


def test_an_artifact_that_cannot_run_says_why(engines: Mapping[str, Engine], tmp_path: Path) -> None:
    entry = Entry("engine", engines[FUSED].entry.artifact, reason="this machine has no NVIDIA GPU.")
    table = state_of([entry]).engines
    for sent in (None, {"path": "x"}):
        found = answer(table, tmp_path, sent, "engine")
        assert found is not None
        assert found.error == "engine cannot run here: this machine has no NVIDIA GPU. Pick another artifact."


def test_document_holds_every_class_in_full_precision(engines: Mapping[str, Engine]) -> None:
    found: Answer = classify(engines[FUSED], JPEG)
    document = found.document()
    assert len(document["top"]) == 10 and document["label"] == found.top[0][0]
    assert sum(row["probability"] for row in document["top"]) == pytest.approx(1, abs=1e-5)
    assert (
        document["sha256"] == engines[FUSED].entry.artifact.manifest["sha256"]
        and document["parity"] == "pass"
    )


def test_an_artifact_with_a_threshold_says_when_it_is_not_sure(
    changed: Callable[..., Artifact], engines: Mapping[str, Engine]
) -> None:
    best = classify(engines["peer0-onnx-fp32"], JPEG).top[0][1]
    for least, unsure in ((best + 1e-4, True), (best, False), (best - 1e-4, False)):
        artifact = changed(f"from-{least}", probability_calibration={"temperature": None, "threshold": least})
        (engine,) = state_of(open_all([artifact], "cpu")).engines.values()
        found = classify(engine, JPEG)
        assert found.abstain is unsure and found.document()["abstain"] is unsure and found.top[0][1] == best
    assert classify(engines[FUSED], JPEG).document()["abstain"] is None
