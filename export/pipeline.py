"""Export: trace, cast, build, prove in a fresh process, publish by one rename, or quarantine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import lfdeploy
from export import card, triton
from export.contract import lone_facts
from export.graph import OPSET, OPSETS, in_precision, to_onnx, trace
from export.prove import in_fresh_process
from export.quantize import SCHEMES, quantize
from export.speed import not_worth, speedup
from lfdeploy.artifact import SCHEMA, Artifact, input_of, publish, quarantine, read
from lfdeploy.backends import BACKENDS, Material, builder
from lfdeploy.config import ExportConfig
from lfdeploy.console import decoding, say
from lfdeploy.data import Data
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError, ParityError, UnverifiedError
from lfdeploy.models.deploy import targets
from lfdeploy.run import Run, sha256, shown, versions, write_json

FLOAT = "float.onnx"  # int8's fp32 sibling, there only while it is staged


def export(config: ExportConfig, run: Run, data: str | None = None) -> list[Artifact]:
    """Make the artifacts that the config asks for and return them, each published with its verdict.

    Raises `ParityError` when one failed (it is in quarantine/, the others are published) and `UnverifiedError`
    when one could not be run here and ``require_verified`` is set.
    """
    run.finished()
    spec = run.spec
    known = targets(len(spec["archs"]), spec["fused"] is not None)
    wanted = known if config.all else ["fused" if config.fused else "ensemble" if config.ensemble else f"peer{config.peer}"]
    if wanted[0] not in known:
        raise LfdeployError(f"Run {run.name} has no {wanted[0]}; it has {', '.join(known)}.")
    backend = builder(config.format, config.engine, config.precision)
    folder = Path(config.out) if config.out and config.all else run.artifacts
    finals = [Path(config.out) if config.out and not config.all else folder / f"{t}-{config.format}-{config.precision}" for t in wanted]
    if config.triton:
        triton.check(backend, Path(config.triton), [final.name for final in finals])
    pictures = _pictures(run, data) if config.precision == "int8" else None
    staging = finals[0].resolve().parent / f".staging.{os.getpid()}"
    try:
        staged = []
        for target, final in zip(wanted, finals, strict=True):
            say(f"Exporting {target} to {config.format}, {config.precision}" + (f", with {backend}" if config.format == "trt" else ""))
            staged.append(_stage(config, run, target, backend, staging / final.name, pictures))
        say(f"Parity in a fresh process: {', '.join(final.name for final in finals)}")
        reports = in_fresh_process(run, staged, data)
        made = _publish(config, run, staged, finals, reports)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for artifact in made if config.triton else ():
        triton.write(artifact, Path(str(config.triton)))
    return made


def _pictures(run: Run, data: str | None) -> Data:
    with decoding() as report:
        return run.data(data, report)


def _stage(config: ExportConfig, run: Run, target: str, backend: str, place: Path, pictures: Data | None) -> Path:
    """Everything of an artifact but its verdict, in a directory that nobody else looks at; int8 calibrates on ``pictures``."""
    place.mkdir(parents=True)
    spec, profile = run.spec, config.profile
    size = int(spec["image_size"])
    summary = run.read("summary.json")
    row = BACKENDS[backend]
    assert row.build is not None
    manifest: dict[str, Any] = {
        "schema": SCHEMA, "target": target, "format": config.format, "precision": config.precision, "file": row.file,
        "input": input_of(size),
        "outputs": [{"name": n, "dtype": "float32", "shape": ["batch", len(spec["classes"])]} for n in ("logits", "probabilities")],
        "labels": spec["classes"], "batch": dict(zip(("min", "opt", "max"), profile, strict=True)),
        "opset": OPSETS.get(config.precision, OPSET),
        "run": {
            "name": run.name, "method": spec["method"], "archs": spec["archs"], "epochs": summary["epochs"],
            "data": summary["data"]["name"], "data_fingerprint": spec["data_fingerprint"], "weights_sha256": sha256(run.weights),
        },
        "parity": {"verdict": "unverified", "reason": "not examined yet", "checks": []},
        "versions": {"lfdeploy": lfdeploy.__version__} | versions(),
        "gpu": gpus()[0].name if gpus() else None,
    }  # fmt: skip
    onnx = place / "source.onnx"
    classifier = in_precision(run.classifier(target), config.precision, size)
    blob = to_onnx(classifier, size, profile, lone_facts(manifest))
    if pictures:
        (place / FLOAT).write_bytes(blob)
        blob, manifest["calibration"] = quantize(blob, SCHEMES[config.format], pictures)
    onnx.write_bytes(blob)
    told = row.build(Material(onnx, profile, lambda: trace(classifier, size, profile), lone_facts(manifest)), place / row.file)
    if told:
        manifest["engine"] = told | {"source_sha256": sha256(onnx)}
    else:
        onnx.unlink()
    extra = {name: {"sha256": sha256(place / name), "bytes": (place / name).stat().st_size} for name in row.extra}
    manifest |= {"sha256": sha256(place / row.file), "bytes": sum((place / name).stat().st_size for name in (row.file, *row.extra))}
    manifest |= {"files": extra} if extra else {}
    write_json(place / "manifest.json", manifest)
    return place


def _publish(config: ExportConfig, run: Run, staged: list[Path], finals: list[Path], reports: list[dict[str, Any]]) -> list[Artifact]:
    made, failed, unverified, slow = [], [], [], []
    for place, final, report in zip(staged, finals, reports, strict=True):
        manifest = json.loads((place / "manifest.json").read_text())
        found = report["statistics"]
        manifest["accuracy"] = found and {
            "split": "test", "images": found["images"], "top1": found["top1"], "top1_reference": found["top1_reference"],
            "measured_on": report["subject"],
        }  # fmt: skip
        manifest["parity"] = report
        write_json(place / "manifest.json", manifest)
        if report["verdict"] == "fail":
            where = quarantine(place, final, report)
            failed.append(f"{final.name} failed at {report['reason']}; it is in {shown(where)}, nothing was published")
            continue
        if (place / FLOAT).exists() and config.format == "onnx":
            manifest["speedup_over_fp32"] = speedup(
                place / FLOAT, place / "model.onnx", manifest["input"]["height"], (1, config.profile[1])
            )
            write_json(place / "manifest.json", manifest)
            reason = not_worth(manifest["speedup_over_fp32"])
            if reason and not config.force:
                slow.append(f"{final.name}: {reason}. It was not published; --force publishes it")
                continue
        for extra in ("source.onnx", FLOAT):
            (place / extra).unlink(missing_ok=True)
        (place / "README.md").write_text(card.model_card(manifest))
        publish(place, final)
        made.append(read(final))
        if report["verdict"] == "unverified":
            unverified.append(f"{final.name} is built but unverified: {report['reason']}")
    if failed:
        raise ParityError(". ".join(failed) + ".")
    if slow:
        raise LfdeployError(". ".join(slow) + ".")
    if unverified and config.require_verified:
        raise UnverifiedError(". ".join(unverified) + f". Complete it on a machine with the GPU: lfdeploy verify {shown(finals[0])}")
    return made
