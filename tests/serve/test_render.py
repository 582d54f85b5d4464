"""What the answer looks like as HTML."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from lfdeploy.artifact import Artifact
from lfdeploy.confidence import percent
from serve.answer import Answer
from serve.entries import Entry
from serve.render import answered, foot, heading, title, verdict

EVIL = "<img src=x onerror=alert(1)> ${1+1} {{value}} \"'&"


def entry(base: dict[str, Entry], **manifest: object) -> Entry:
    held = base["fused-onnx-fp32"]
    return replace(held, artifact=Artifact(Path("somewhere"), held.artifact.manifest | manifest))


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, "100.0 %"),
        (0.99999, "> 99.9 %"),
        (0.9731, "97.3 %"),
        (0.5, "50.0 %"),
        (0.0004, "< 0.1 %"),
        (0.0, "0.0 %"),
    ],
)
def test_percent_never_rounds_to_certainty(probability: float, text: str) -> None:
    assert percent(probability) == text


def test_an_answer_has_headline_bars_times_and_verdict(entries: dict[str, Entry]) -> None:
    top = (
        ("cat", 0.7312),
        ("dog", 0.2),
        ("cow", 0.03),
        ("hen", 0.02),
        ("ant", 0.01),
        ("bee", 0.005),
        ("fly", 0.0038),
    )
    page = answered(Answer(entries["fused-onnx-fp32"], top, ("first of 3 frames used",), 2.04, 1.96))
    for part in (
        "<h2>cat</h2>",
        "73.1 % probability",
        "width:73.12%",
        "20.0 %",
        "2 less probable classes",
        "First of 3 frames used.",
    ):
        assert part in page
    assert "Answered in 4.0 ms: decode 2.0 ms, model 2.0 ms" in page
    assert (
        "<b>fused-onnx-fp32</b> (onnxruntime on cpu)" in page
        and "Export verified" in page
        and 'role="status"' in page
    )
    assert page.index("2 less probable classes</summary>") < page.index("bee") < page.index("</details>")


def test_an_answer_below_the_threshold_is_not_sure(entries: dict[str, Entry]) -> None:
    top = (("cat", 0.7312), ("dog", 0.2688))
    told = {
        "temperature": 1.2,
        "threshold": 0.93,
        "target_accuracy": 99.0,
        "split": "val",
        "right": 398,
        "answered": 400,
    }
    held = entry(entries, probability_calibration=told)
    page = answered(Answer(held, top, ("first of 3 frames used",), abstain=True))
    for part in (
        "<h2>Not sure</h2>",
        "Closest: <b>cat</b>, 73.1 %",
        "First of 3 frames used.",
        "width:73.12%",
        "width:26.88%",
    ):
        assert part in page
    assert (
        "Of the validation pictures answered with 93.0 % or more, 398 of 400 were right. This answer "
        "has less." in page
    )
    measured = {"split": "test", "right": 1970, "answered": 2000}
    held = entry(entries, probability_calibration=told, parity={"verdict": "pass", "probabilities": measured})
    assert "Of the test pictures answered with 93.0 % or more, 1,970 of 2,000 were right." in answered(
        Answer(held, top, abstain=True)
    )
    for sure in (False, None):
        page = answered(Answer(held, top, abstain=sure))
        assert "<h2>cat</h2>" in page and "73.1 % sure" in page and "Not sure" not in page
    evil = answered(Answer(held, ((EVIL, 0.9), (EVIL, 0.1)), abstain=True))
    assert "<img" not in evil and "&lt;img" in evil


def test_sure_is_said_only_of_calibrated_probabilities(entries: dict[str, Entry]) -> None:
    top = (("cat", 0.7312), ("dog", 0.2688))
    for block, word in (
        (None, "probability"),
        ({"temperature": 1.2, "threshold": None}, "sure"),
        ({"threshold": 0.5}, "sure"),
    ):
        page = answered(
            Answer(entry(entries, probability_calibration=block), top, abstain=False if block else None)
        )
        assert f"73.1 % {word}" in page and ("sure</p>" in page) == (word == "sure")


def test_a_network_no_better_than_its_most_frequent_class_says_so(entries: dict[str, Entry]) -> None:
    line = "This network is not shown to be better than always answering the most frequent class."
    accuracy = {"split": "test", "images": 359, "top1": 10.3}
    for chance, shown in (
        ({"p": 0.4, "majority": 11.0, "above": False}, True),
        ({"above": True}, False),
        (None, False),
        ("?", False),
    ):
        held = entry(entries, accuracy=accuracy | ({} if chance is None else {"chance": chance}))
        assert (line in answered(Answer(held, (("cat", 0.6), ("dog", 0.4))))) == shown
        assert (line in foot(held)) == shown
    assert line not in foot(entry(entries, accuracy=None))


def test_names_are_escaped_everywhere(entries: dict[str, Entry]) -> None:
    run = {"name": EVIL, "method": EVIL, "archs": [EVIL], "data": EVIL}
    held = replace(
        entry(entries, run=run, parity={"verdict": "unverified", "reason": EVIL}, sha256=EVIL), key=EVIL
    )
    pages = [
        answered(Answer(held, ((EVIL, 0.9), (EVIL, 0.1)), (EVIL,))),
        answered(Answer(error=EVIL)),
        heading(held),
        foot(held),
        verdict(held),
    ]
    for page in pages:
        assert "<img" not in page and "&lt;img" in page


def test_verdicts(entries: dict[str, Entry]) -> None:
    assert "as the trained network did on 359 test pictures" in verdict(entries["fused-onnx-fp32"])
    unverified = verdict(entry(entries, parity={"verdict": "unverified", "reason": "no GPU."}))
    assert "Unverified" in unverified and "no GPU." in unverified and "no GPU.." not in unverified
    assert "Parity failed" in verdict(entry(entries, parity={"verdict": "fail"}))


def test_heading_and_foot(entries: dict[str, Entry]) -> None:
    held = entries["fused-onnx-fp32"]
    assert "<h1>digits</h1>" in heading(held)
    assert "lfmkd · 2 × resnet8" in heading(held) and "goes to this server alone" in heading(held)
    line = foot(held)
    assert (
        held.artifact.manifest["sha256"][:12] in line
        and " MB" in line
        and "% right on 359 test pictures of digits" in line
    )
    assert foot(entry(entries, accuracy=None, bytes=None))


def test_title_shows_no_path(entries: dict[str, Entry]) -> None:
    run = entries["fused-onnx-fp32"].artifact.manifest["run"]
    assert title(entry(entries, run=run | {"data": "some/where/pets.npz"})) == "pets.npz"
    assert title(entry(entries, run=run | {"data": None})) == run["name"]


def test_empty_place() -> None:
    assert "lf-empty" in answered(None)


def test_classes_the_least_recognised_first(entries: dict[str, Entry]) -> None:
    accuracy = {
        "split": "test", "images": 30, "top1": 80.0, "per_class_recall": [90.0, None, 70.0],
        "per_class_images": [10, 0, 20], "per_class_taken_for": [None, None, [0, 5]],
    }  # fmt: skip
    page = foot(entry(entries, accuracy=accuracy, labels=[EVIL, "dog", "cow"]))
    assert "How often it is right, class by class" in page
    assert page.index("70 % of 20") < page.index("90 % of 10")
    assert f"5 taken for {escape(EVIL)}" in page
    assert EVIL not in page
    assert "dog" not in page
    assert "class by class" not in foot(entry(entries, accuracy={"split": "test", "images": 3, "top1": 80.0}))


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"parity": {"familiarity": {"images": 1200, "familiar": 1130}}}, "Of 1,200 test pictures"),
        (
            {"familiarity": {"test": {"images": 50, "familiar": 49}}},
            "are of the known kind, 1 are marked so too",
        ),
        ({}, ""),
    ],
)
def test_how_often_it_is_wrong_of_the_known_kind(
    manifest: dict[str, object], said: str, entries: dict[str, Entry]
) -> None:
    """Counted, or not said."""
    parity = {"verdict": "pass", "checks": []} | manifest.get("parity", {})  # type: ignore[operator]
    held = entry(entries, **({"familiarity": None} | manifest | {"parity": parity}))
    page = answered(Answer(held, (("cat", 0.7),), unfamiliar=True))
    assert said in page and ("known kind" in page) is bool(said) and "one in twenty" not in page


def test_a_warning_stands_once_on_the_page(entries: dict[str, Entry]) -> None:
    poor = entry(entries, accuracy={"chance": {"above": False}})
    shown = answered(Answer(poor, (("cat", 0.7),)))
    assert "lf-warning" in shown and "lf-warning" in foot(poor)
    assert "lf-warning" not in foot(poor, shown) and "lf-warning" in foot(poor, "<p>No answer</p>")
