"""Temperature and threshold: numbers against brute force and by hand, planted faults, formats, and where
answers are shown.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from marks import some
from PIL import Image
from scipy import stats

from export.build.graph import METADATA, in_precision, to_onnx
from export.numbers.check import Check, Unexamined
from export.numbers.temperature import (
    find_threshold,
    fit,
    lower_bound,
    needed,
    nll,
    probabilities,
    reliability,
    tail,
)
from export.parity.contract import lone_facts
from export.parity.probabilities import FEWEST, calibrate, measured, on_test, read_back, temperature_checks
from export.parity.reference import reference, validation
from lfdeploy.artifact import read, sealed
from lfdeploy.confidence import KEY
from lfdeploy.config import ExportConfig
from lfdeploy.data import Data, Split
from lfdeploy.errors import UsageError
from lfdeploy.images import Pixels
from lfdeploy.predict import Predictor
from lfdeploy.run import Run, sha256, write_json

pytestmark = pytest.mark.usefixtures("one_reference")


def drawn(n: int, t: float, seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network whose labels follow softmax(logits / t)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (n, classes)).astype(np.float32)
    p = probabilities(logits, t)
    return logits, np.array([random.choice(classes, p=row) for row in p])


# Numbers


@pytest.mark.parametrize("t", [0.4, 1.0, 2.5, 6.0])
def test_temperature_is_that_of_least_nll_and_of_the_labels(t: float) -> None:
    logits, labels = drawn(4000, t)
    found, reason = fit(logits, labels)
    assert found is not None and not reason
    grid = np.linspace(0.8 * t, 1.25 * t, 901)
    best = grid[np.argmin([nll(logits, labels, value) for value in grid])]
    assert found == pytest.approx(best, abs=grid[1] - grid[0])
    assert found == pytest.approx(t, rel=0.08)
    assert fit(logits, labels) == (found, "") and float(f"{found:.4g}") == found
    assert nll(logits, labels, found) <= nll(logits, labels, 1.0)


def test_no_temperature_at_an_edge() -> None:
    logits, _ = drawn(200, 1.0)
    found, reason = fit(logits, logits.argmax(1))
    assert found is None and "falls below 0.1" in reason
    found, reason = fit(logits, logits.argmin(1))
    assert found is None and "rises above 10" in reason
    logits[3, 1] = np.nan
    assert fit(logits, logits.argmin(1))[1] == "the network gives logits that are not finite"


def test_nll_and_calibration_error_by_hand() -> None:
    # two classes, top probabilities 0.6, 0.7, 0.8, 0.9; the first is wrong
    top = np.array([0.6, 0.7, 0.8, 0.9])
    logits, labels = np.log(np.stack([top, 1 - top], 1)), np.array([1, 0, 0, 0])
    assert nll(logits, labels, 1.0) == pytest.approx(-np.log([0.4, 0.7, 0.8, 0.9]).mean())
    found = reliability(logits, labels, 1.0, bins=2)
    assert (
        found.confidence == pytest.approx([0.65, 0.85])
        and found.accuracy.tolist() == [0.5, 1.0]
        and found.count.tolist() == [2, 2]
    )
    assert found.error == pytest.approx(100 * (0.15 + 0.15) / 2)
    assert reliability(logits, labels, 1.0).count.tolist() == [1, 1, 1, 1]
    # at T = 2 the odds are the square roots of those at T = 1
    assert probabilities(logits, 2.0)[:, 0] == pytest.approx(1 / (1 + np.sqrt((1 - top) / top)))


def test_bins_have_equal_mass() -> None:
    logits, labels = drawn(1000, 1.0)
    found = reliability(logits, labels, 1.0)
    assert set(found.count.tolist()) == {66, 67} and (np.diff(found.confidence) > 0).all()
    assert found.error < 4 < reliability(logits, labels, 0.2).error


@pytest.mark.parametrize(
    ("right", "n"), [(1, 1), (10, 10), (299, 299), (95, 100), (470, 473), (3, 200), (0, 7), (4990, 5000)]
)
def test_lower_bound_is_clopper_pearsons(right: int, n: int) -> None:
    wanted = stats.beta.ppf(0.05, right, n - right + 1) if right else 0.0
    assert lower_bound(right, n) == pytest.approx(100 * wanted, abs=1e-6)
    for p in (0.5, 0.9, 0.99):
        assert tail(right, n, p) == pytest.approx(stats.binom.sf(right - 1, n, p), abs=1e-9)


def test_pictures_needed() -> None:
    assert (needed(99), needed(95)) == (299, 59)
    assert lower_bound(299, 299) >= 99 > lower_bound(298, 298)


@pytest.mark.parametrize("seed", range(6))
def test_threshold_is_the_smallest_that_holds(seed: int) -> None:
    random = np.random.default_rng(seed)
    # with many ties, or hardly any
    confidence = random.choice(np.linspace(0.3, 1, 40 if seed % 2 else 5000), 400)
    right = random.random(400) < 1 - (1 - confidence) * random.uniform(0.05, 0.4)
    found = find_threshold(confidence, right, 95)
    passing = []
    for value in np.unique(confidence):
        sure = confidence >= value
        k, n = int(right[sure].sum()), int(sure.sum())
        if k and stats.beta.ppf(0.05, k, n - k + 1) >= 0.95:
            passing.append((value, n, k))
    if not passing:
        assert found is None
        return
    least, n, k = min(passing)
    assert found is not None and (found.answered, found.right) == (n, k)
    assert found.bound == pytest.approx(100 * stats.beta.ppf(0.05, k, n - k + 1), abs=1e-6)
    assert least - 1.001e-3 <= found.value <= least and (confidence >= found.value).sum() == n


def test_threshold_at_its_ends() -> None:
    confidence = np.linspace(0.5, 0.99, 100)
    every = find_threshold(confidence, np.ones(100, bool), 95)
    assert every is not None and every.answered == 100 and every.value == pytest.approx(0.499)
    assert find_threshold(confidence, np.ones(100, bool), 99) is None  # too few to prove it
    assert find_threshold(np.ones(1000), np.arange(1000) % 10 > 0, 95) is None  # all equally sure, 90 % right
    close = find_threshold(np.array([0.9 - 1e-9] + [0.9] * 99), np.arange(100) > 0, 97)
    assert close is not None and close.answered == 99 and 0.9 - 1e-9 < close.value <= 0.9


def test_the_guard_holds_on_new_pictures() -> None:
    """Of 300 networks with calibrated confidences, few get a threshold beyond which the true accuracy is
    below the target.
    """
    random = np.random.default_rng(1)

    def confidences(n: int) -> np.ndarray:
        return np.where(
            random.random(n) < 0.3, random.uniform(0.3, 1, n), 1 - random.exponential(0.004, n).clip(0, 0.5)
        )

    everyone = np.sort(confidences(100_000))
    broken, found = 0, 0
    for _ in range(300):
        c = confidences(400)
        least = find_threshold(c, random.random(400) < c, 96)
        if least:
            found += 1
            broken += everyone[everyone >= least.value].mean() < 0.96
    assert found > 250 and broken / found <= 0.07


def test_temperature_is_read_back_from_outputs() -> None:
    logits, _ = drawn(64, 1.0)
    for t in (0.5, 1.0, 1.7):
        assert read_back(logits, probabilities(logits, t).astype(np.float32)) == pytest.approx(t, rel=1e-5)
    assert np.isnan(read_back(1000 * np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)))


# From a run


@pytest.fixture(scope="module")
def pictures(tiny_run: Run) -> Data:
    return tiny_run.data()


@pytest.fixture(scope="module")
def calibrated(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first peer as ONNX with a temperature, in a place of its own."""
    from export import export

    place = tmp_path_factory.mktemp("calibrated") / "calibrated-onnx-fp32"
    return export(ExportConfig(peer=0, calibrate=True, accuracy_when_sure=90, out=str(place)), tiny_run)[
        0
    ].path


@pytest.fixture
def broken(calibrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated, tmp_path / calibrated.name))


def outputs(path: Path, images: Pixels) -> tuple[np.ndarray, np.ndarray]:
    return Predictor.open(path, device="cpu").run(images)


def test_probabilities_are_those_of_the_divided_logits(
    tiny_run: Run, calibrated: Path, pictures: Data
) -> None:
    logits, p = outputs(calibrated, pictures.test.images)
    plain, plain_p = outputs(tiny_run.artifacts / "peer0-onnx-fp32", pictures.test.images)
    told = read(calibrated).manifest[KEY]
    assert np.array_equal(logits, plain) and not np.allclose(p, plain_p, atol=1e-3)
    assert p == pytest.approx(probabilities(logits, told["temperature"]), abs=1e-6)
    assert np.array_equal(p.argmax(1), plain_p.argmax(1))
    split, wanted = validation(tiny_run, "peer0", pictures)
    assert (
        len(split) == told["images"] == len(pictures.val) - told["left_out"]
        and told["digest"] == pictures.val.digest
    )
    assert told["temperature"] == fit(wanted, split.labels)[0] != 1
    assert told["nll_after"] < told["nll_before"]
    sure = probabilities(wanted, told["temperature"]).max(1) >= told["threshold"]
    assert told["answered"] == sure.sum() and told["accuracy_lower_bound"] >= 90


def test_test_pictures_tell_what_it_is_worth(calibrated: Path, pictures: Data) -> None:
    manifest = read(calibrated).manifest
    logits, p = outputs(calibrated, pictures.test.images)
    told, right, sure = (
        manifest["parity"]["probabilities"],
        p.argmax(1) == pictures.test.labels,
        p.max(1) >= manifest[KEY]["threshold"],
    )
    assert (told["answered"], told["right"], told["images"]) == (sure.sum(), (sure & right).sum(), len(right))
    assert told["coverage"] == pytest.approx(100 * sure.mean())
    assert told["ece_after"] == pytest.approx(
        reliability(logits, pictures.test.labels, manifest[KEY]["temperature"]).error, abs=1e-3
    )
    assert told["ece_before"] == pytest.approx(reliability(logits, pictures.test.labels, 1.0).error, abs=1e-3)
    card, page = ((calibrated / name).read_text() for name in ("README.md", "report.html"))
    assert (
        f"{told['right']:,} of these" in card
        and f"and {told['ece_after']:.2f} % with it" in card
        and f">= {manifest[KEY]['threshold']!r}" in card
    )
    assert page.count("<circle") == 2 * 15 + 2 and f"calibration error {told['ece_after']:.2f} %" in page
    assert on_test(manifest, None, pictures.test.labels) is None


def test_a_lone_file_knows_its_temperature_and_one_without_is_as_before(
    tiny_run: Run, calibrated: Path
) -> None:
    def facts(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            {e.key: e.value for e in onnx.load(path / "model.onnx").metadata_props}[METADATA]
        )
        return found

    told = read(calibrated).manifest[KEY]
    assert facts(calibrated)[KEY] == {"temperature": told["temperature"], "threshold": told["threshold"]}
    plain = tiny_run.artifacts / "peer0-onnx-fp32"
    assert (
        KEY not in facts(plain)
        and KEY not in read(plain).manifest
        and "probabilities" not in read(plain).manifest["parity"]
    )
    assert "Div" not in [node.op_type for node in onnx.load(plain / "model.onnx").graph.node]
    assert (
        "<circle" not in (plain / "report.html").read_text()
        and "## Probabilities" not in (plain / "README.md").read_text()
    )


def test_no_temperature_is_said_and_stored(tiny_run: Run, pictures: Data) -> None:
    empty = Split(pictures.val.images[:0], pictures.val.labels[:0], "")
    none = replace(pictures, val=empty)
    told = calibrate(*validation(tiny_run, "peer0", none), none, 99.0)
    assert (
        told["temperature"] is None
        and told["threshold"] is None
        and "--val-fraction 0" in told["reason"]
        and told["images"] == 0
    )
    few = replace(
        pictures,
        val=Split(
            *(part[: FEWEST - 1] for part in (pictures.val.images, pictures.val.labels)),
            "",
            pictures.val.digests[: FEWEST - 1],
        ),
    )
    assert "too few" in calibrate(*validation(tiny_run, "peer0", few), few, 99.0)["reason"]
    shared = replace(pictures, test=pictures.val)
    told = calibrate(*validation(tiny_run, "peer0", shared), shared, 99.0)
    assert (
        told["images"] == 0
        and told["left_out"] == len(pictures.val)
        and "in train or test too" in told["reason"]
    )


def test_no_threshold_is_said_and_stored() -> None:
    logits, labels = drawn(160, 1.0)
    told = measured(5 * logits, labels, 99.0)
    assert told["temperature"] is not None and told["threshold"] is None
    assert (
        "it takes 299, all right" in told["threshold_reason"]
        and "at most --accuracy-when-sure 98 can" in told["threshold_reason"]
    )
    assert measured(logits, labels, 98.0)["threshold_reason"].startswith("at no probability")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"accuracy_when_sure": 99.0}, "without --calibrate"),
        ({"calibrate": True, "accuracy_when_sure": 100.0}, "below 100"),
        ({"calibrate": True, "accuracy_when_sure": float("nan")}, "below 100"),
    ],
)
def test_settings_that_contradict(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ExportConfig(peer=0, **values)


# Planted faults


Block = dict[str, Any]
Mutation = Callable[[Path, Run, Data, Block], None]


def seal(path: Path, manifest: Block, blob: bytes) -> None:
    (path / "model.onnx").write_bytes(blob)
    manifest |= {"sha256": sha256(path / "model.onnx"), "bytes": len(blob)}
    write_json(path / "manifest.json", sealed(manifest))


def tell(path: Path, run: Run, block: Block, t: float | None) -> None:
    """Put another block into the manifest (none, if it is empty), and export the file again with the
    temperature ``t``.
    """
    manifest = {k: v for k, v in read(path).manifest.items() if k != KEY} | ({KEY: block} if block else {})
    seal(
        path,
        manifest,
        to_onnx(in_precision(run.classifier("peer0"), "fp32", 16, t), 16, (1, 8, 64), lone_facts(manifest)),
    )


def in_the_file(t: Callable[[float], float | None]) -> Mutation:
    return lambda path, run, data, told: tell(path, run, told, t(told["temperature"]))


def in_both(**values: Any) -> Mutation:
    return lambda path, run, data, told: tell(path, run, told | values, (told | values)["temperature"])


def in_the_manifest(path: Path, run: Run, data: Data, told: Block) -> None:
    manifest = read(path).manifest | {KEY: told | {"temperature": 1.5 * told["temperature"]}}
    seal(path, manifest, (path / "model.onnx").read_bytes())


def retold(path: Path, block: Any) -> None:
    seal(path, read(path).manifest | {KEY: block}, (path / "model.onnx").read_bytes())


def of_split(name: str, *claims: str) -> Mutation:
    """T and threshold of another split, in file and manifest; of its digest, size and name what is in
    ``claims`` is told.
    """

    def mutate(path: Path, run: Run, data: Data, told: Block) -> None:
        split = data.split(name)
        found = told | measured(outputs(path, split.images)[0], split.labels, 90.0)
        truth = {"digest": split.digest, "images": len(split), "split": name}
        tell(path, run, found | {key: truth[key] for key in claims}, found["temperature"])

    return mutate


def rewired(change: Callable[[onnx.NodeProto, onnx.NodeProto], None], last: str) -> Mutation:
    """The division and the softmax connected otherwise; the ``last`` of them comes last."""

    def mutate(path: Path, run: Run, data: Data, told: Block) -> None:
        model = onnx.load(path / "model.onnx")
        pair = [
            next(node for node in model.graph.node if node.op_type == kind) for kind in ("Div", "Softmax")
        ]
        rest = [node for node in model.graph.node if node not in pair]
        for node in rest:
            node.output[:] = [
                "raw" if name == "logits" and last == "Softmax" else name for name in node.output
            ]
        change(*pair)
        ordered = [*rest, *sorted(pair, key=lambda node: node.op_type == last)]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        seal(path, read(path).manifest, model.SerializeToString())

    return mutate


def logits_divided(division: onnx.NodeProto, softmax: onnx.NodeProto) -> None:
    division.input[0], division.output[0], softmax.input[0] = "raw", "logits", "logits"


def probabilities_divided(division: onnx.NodeProto, softmax: onnx.NodeProto) -> None:
    softmax.input[0], softmax.output[0] = "logits", "undivided"
    division.input[0], division.output[0] = "undivided", "probabilities"


#: name: (stage that must be named, how to break it)
FAULTS: dict[str, tuple[str, Mutation]] = {
    "temperature: dropped": ("values", in_the_file(lambda t: None)),
    "temperature: inverted": ("values", in_the_file(lambda t: 1 / t)),
    "temperature: twice": ("values", in_the_file(lambda t: t * t)),
    "temperature: 1 % off in the file": ("values", in_the_file(lambda t: 1.01 * t)),
    "temperature: on the logits": ("values", rewired(logits_divided, "Softmax")),
    "temperature: on the probabilities": ("values", rewired(probabilities_divided, "Div")),
    "temperature: in the file, not told": (
        "values",
        lambda path, run, data, told: tell(path, run, {}, told["temperature"]),
    ),
    "temperature: another in the manifest": ("file", in_the_manifest),
    "temperature: of the test split": ("temperature", of_split("test")),
    "temperature: of the training split": ("temperature", of_split("train")),
    "temperature: of the test split, and says so": (
        "temperature",
        of_split("test", "split", "digest", "images"),
    ),
    "temperature: of the test split, called val": ("temperature", of_split("test", "digest", "images")),
    "temperature: none": ("temperature", in_both(temperature=None, threshold=None)),
    "temperature: 1": ("temperature", in_both(temperature=1.0)),
    "temperature: NaN": (
        "temperature",
        lambda path, run, data, told: tell(path, run, told | {"temperature": float("nan")}, 1.0),
    ),
    "temperature: 0": (
        "temperature",
        lambda path, run, data, told: tell(path, run, told | {"temperature": 0.0}, 1.0),
    ),
    "temperature: no number": (
        "file",
        lambda path, run, data, told: retold(path, told | {"temperature": "hot"}),
    ),
    "temperature: no object": ("file", lambda path, run, data, told: retold(path, ["hot"])),
    "threshold: counts are no numbers": ("temperature", in_both(answered=None)),
    "threshold: lowered": ("temperature", in_both(threshold=0.2)),
    "threshold: raised": ("temperature", in_both(threshold=0.9999)),
    "threshold: forgotten": ("temperature", in_both(threshold=None)),
    "threshold: of a higher promise": ("temperature", in_both(target_accuracy=97.0)),
}


@pytest.mark.parametrize(
    "name",
    some(list(FAULTS), 6),
)
def test_fault_is_caught(
    name: str,
    tiny_run: Run,
    broken: Path,
    pictures: Data,
    lf: Callable[..., Result],
    record_property: Callable[[str, object], None],
) -> None:
    stage, mutate = FAULTS[name]
    mutate(broken, tiny_run, pictures, read(broken).manifest[KEY])
    result = lf("verify", broken, "--run", tiny_run.path)
    found = re.search(r"Error: .*?stage (\w+):", result.stderr)
    named = found[1] if found and result.exit_code == 3 else f"exit {result.exit_code}"
    record_property("fault", (name, stage, named))
    assert named == stage, result.stderr


@pytest.mark.slow
def test_untouched_passes_and_bisects_clean(tiny_run: Run, broken: Path, lf: Callable[..., Result]) -> None:
    told = read(broken).manifest[KEY]
    tell(broken, tiny_run, told, told["temperature"])  # the harness itself breaks nothing
    assert lf("verify", broken, "--run", tiny_run.path).exit_code == 0
    assert lf("verify", broken, "--run", tiny_run.path, "--images", "5").exit_code == 0
    document = json.loads(lf("bisect", broken, "--run", tiny_run.path, "--json").stdout)
    assert document["first"] is None and not document["others"] and not document["silent"]
    tell(broken, tiny_run, told, None)
    document = json.loads(lf("bisect", broken, "--run", tiny_run.path, "--json").stdout)
    assert document["first"]["layer"] == "outputs", document["sentence"]


def test_with_other_pictures_the_run_s_own_validation_pictures_are_examined(
    tiny_run: Run, calibrated: Path, pictures: Data, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    arrays = {
        f"{name}_{axis}": getattr(pictures.split(name), what)[::2]
        for name in ("train", "test")
        for axis, what in (("x", "images"), ("y", "labels"))
    }
    np.savez(tmp_path / "other.npz", classes=np.array(pictures.classes), **arrays)
    result = lf("verify", calibrated, "--run", tiny_run.path, "--data", tmp_path / "other.npz")
    assert result.exit_code == 0, result.stderr
    assert "T = " in result.stdout and "not examined" not in result.stderr


def test_without_the_run_s_own_validation_pictures_its_origin_is_not_examined(
    tiny_run: Run, calibrated: Path, pictures: Data
) -> None:
    others = replace(pictures, val=pictures.test)
    ref = reference(tiny_run, "peer0", pictures.test, others)
    check, unexamined = temperature_checks(read(calibrated).manifest, ref, same_data=False)
    assert isinstance(check, Check)
    assert check.name == "split"
    assert isinstance(unexamined, Unexamined)
    assert "where T comes from" in unexamined.reason


# Formats and precisions


@pytest.mark.parametrize(
    ("format", "precision"),
    [
        ("onnx", "fp16"),
        pytest.param("onnx", "bf16", marks=pytest.mark.wide),
        pytest.param("onnx", "int8", marks=pytest.mark.wide),
        ("openvino", "fp32"),
        pytest.param("openvino", "fp16", marks=pytest.mark.wide),
        pytest.param("torch", "fp32", marks=pytest.mark.wide),
        pytest.param("trt", "fp32", marks=pytest.mark.wide),
        ("trt", "int8"),
    ],
)
@pytest.mark.slow
def test_every_format_carries_it(
    format: str, precision: str, tiny_run: Run, calibrated: Path, pictures: Data, tmp_path: Path
) -> None:
    from export import export

    what = {"format": format, "precision": precision, "calibrate": True, "accuracy_when_sure": 90.0}
    config = ExportConfig(peer=0, out=str(tmp_path / "made"), **what)
    made = export(config, tiny_run)[0]
    wanted = read(calibrated).manifest[KEY]
    assert made.manifest[KEY] == wanted
    names = {check["name"]: check for check in made.manifest["parity"]["checks"]}
    assert names["T read back from the outputs: relative difference"]["value"] < 1e-4
    assert made.manifest["parity"]["probabilities"]["images"] == len(pictures.test)
    if made.verdict == "pass":
        logits, p = outputs(made.path, pictures.test.images[:40])
        assert p == pytest.approx(probabilities(logits, wanted["temperature"]), abs=1e-5)
    else:
        assert format == "trt" or precision == "bf16"


# Where answers are shown


@pytest.fixture
def doubtful(calibrated: Path, pictures: Data, tmp_path: Path) -> tuple[Path, list[Path], list[bool]]:
    """The artifact, its six least and its six most sure pictures as files, of the test pictures and of every
    two neighbours of them blended; and for which it is not sure.
    """
    manifest, plain = read(calibrated).manifest, pictures.test.images
    blended = (plain[:-1].astype(np.uint16) + plain[1:]) // 2
    images = np.concatenate([plain, blended.astype(np.uint8)])
    p = outputs(calibrated, images)[1].max(1)
    order = np.argsort(p)
    files = []
    for index in (*order[:6], *order[-6:]):
        files.append(tmp_path / f"{len(files):02}.png")
        Image.fromarray(images[index]).save(files[-1])
    return calibrated, files, [bool(p[i] < manifest[KEY]["threshold"]) for i in (*order[:6], *order[-6:])]


def test_predict_marks_what_it_is_not_sure_of(
    doubtful: tuple[Path, list[Path], list[bool]], tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    path, files, unsure = doubtful
    assert unsure[0] and not unsure[-1]
    document = json.loads(lf("predict", path, *files, "--json").stdout)
    assert [row["abstain"] for row in document["predictions"]] == unsure and all(
        row["label"] for row in document["predictions"]
    )
    lines = lf("predict", path, *files).stdout.splitlines()
    assert ["(not sure" in line for line in lines] == unsure and all("%" in line for line in lines)
    (tmp_path / "bad.png").write_bytes(b"?")
    lf("predict", path, *files, tmp_path / "bad.png", "--csv", tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["abstain"] for row in rows] == [str(value).lower() for value in unsure] + [""]
    plain = tiny_run.artifacts / "peer0-onnx-fp32"
    assert {
        row["abstain"] for row in json.loads(lf("predict", plain, *files, "--json").stdout)["predictions"]
    } == {None}
    assert "not sure" not in lf("predict", plain, *files).stdout


def test_the_module_in_its_place_has_the_temperature_too(
    calibrated: Path, tiny_run: Run, pictures: Data
) -> None:
    module = Predictor.open(calibrated, backend="pytorch", run=str(tiny_run.path), device="cpu")
    assert module.run(pictures.test.images[:30])[1] == pytest.approx(
        outputs(calibrated, pictures.test.images[:30])[1], abs=1e-5
    )


@pytest.mark.slow
def test_export_says_what_came_of_it(
    tiny_run: Run, calibrated: Path, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    result = lf(
        "export",
        tiny_run.path,
        "--peer",
        "0",
        "--calibrate",
        "--accuracy-when-sure",
        "99.5",
        "--out",
        tmp_path / "strict",
    )
    told = read(tmp_path / "strict").manifest[KEY]
    assert (
        result.exit_code == 0
        and told["temperature"] == read(calibrated).manifest[KEY]["temperature"]
        and told["threshold"] is None
    )
    assert "NO threshold for 'not sure'" in result.stderr and "it takes 598" in result.stderr
    assert "There is no threshold" in (tmp_path / "strict/README.md").read_text()
