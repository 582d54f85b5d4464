"""Export: trace, cast, build, prove in a fresh process, publish by one rename, or quarantine."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from export import triton
from export.build.graph import opset_of, traced_of
from export.build.quantize import SCHEMES, quantize
from export.concurrency import Claim, claim, release
from export.parity.contract import lone_facts
from export.parity.probabilities import calibration, in_one_line
from export.prove import REPORT, in_fresh_process
from export.publish import FLOAT, hold_to, publish_proven
from lfdeploy.artifact import SCHEMA, Artifact, input_of, outputs_of, read, sealed
from lfdeploy.backends import BACKENDS, Material, builder
from lfdeploy.confidence import temperature
from lfdeploy.config import ExportConfig
from lfdeploy.console import decoding, say
from lfdeploy.data import Data
from lfdeploy.devices import gpus, instruction_set
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.familiarity import of_run
from lfdeploy.models.explain import explained, output_of, side_of
from lfdeploy.models.multi_output import ALL, main_of, member_outputs
from lfdeploy.models.targets import FUSED, layout_of
from lfdeploy.run import Run, sha256, shown, versions, write_json
from lfdeploy.run_data import check_data


def export(config: ExportConfig, run: Run, data: str | None = None) -> list[Artifact]:
    """Make the artifacts that the config asks for and return them, each published with its verdict.

    Raises `ParityError` when one failed (it is in quarantine/, the others are published) and
    `UnverifiedError` when one could not be run here and ``require_verified`` is set.
    """
    run.finished()
    check_data(run, data)  # before anything is built
    wanted = _targets(config, run)
    backends = {p: builder(config.format, config.engine, p, config.portable) for p in config.precisions}
    for target in wanted if config.explain else ():
        explained(run.classifier(target), target, run.spec)  # refused before anything is built
    jobs = [(target, precision) for target in wanted for precision in config.precisions]
    folder = Path(config.out) if config.out else run.artifacts
    finals = [folder / f"{target}-{config.format}-{precision}" for target, precision in jobs]
    finals = [folder] if config.out and len(jobs) == 1 else finals
    if config.triton:
        names = [n for final in finals for n in triton.names_of(final.name, config.triton_pictures)]
        triton.check(backends[config.precisions[0]], Path(config.triton), names, run.spec["classes"])
    pictures = _pictures(run, data) if "int8" in config.precisions or config.calibrate else None
    claims = claim(finals, [_key(config, run, job, backends[job[1]], data) for job in jobs])
    try:
        mine = [own for own in claims if not own.done]
        _build(config, run, jobs, claims, backends, pictures)
        open_ = [own for own in mine if not (own.staged / REPORT).exists()]
        if open_:
            say(f"Parity in a fresh process: {', '.join(own.final.name for own in open_)}")
            in_fresh_process(run, [own.staged for own in open_], data, [own.lock for own in claims])
        publish_proven(config, mine)
        made = [read(own.final) for own in claims]
        hold_to(config, [artifact for artifact, own in zip(made, claims, strict=True) if own.done])
    except (LfdeployError, OSError) as fault:
        for own in claims:
            shutil.rmtree(own.staged, ignore_errors=True)
        if isinstance(fault, OSError) and fault.filename is None:
            fault.filename = shown(claims[0].final)
        raise
    except KeyboardInterrupt:
        say("What is finished is kept: the same command goes on from there.")
        raise
    finally:
        release(claims)
    for artifact in made if config.calibrate else ():
        say(f"{artifact.name}: {in_one_line(artifact.manifest)}")
    for artifact in made if config.triton else ():
        triton.write(artifact, Path(str(config.triton)), config.triton_pictures)
    return made


def _targets(config: ExportConfig, run: Run) -> list[str]:
    """The names of what is to be exported. What cannot be kept of the config is refused."""
    if config.force:
        say("--force does nothing: int8 is published however fast it is, unless --require-faster is given.")
    if config.require_faster and ("int8" not in config.precisions or config.format == "trt"):
        why = "it is about int8, which is not asked for. Add --precision int8, or leave it out."
        if config.format == "trt":
            why = "an engine's speed is measured by lfdeploy bench. Leave it out."
        raise UsageError(f"--require-faster cannot be kept here: {why}")
    layout = layout_of(run.spec)
    known = list(layout.targets)
    if config.single_file and len(layout.networks) == 1 and layout[layout.main].kind != FUSED:
        raise LfdeployError(
            f"Run {run.name} has one network and no fused classifier: every output of one file would "
            "be the same. Use --peer 0."
        )
    wanted = [ALL] if config.single_file else known if config.all else [config.named]
    if wanted[0] not in (*known, ALL):
        raise LfdeployError(f"Run {run.name} has no {wanted[0]}; it has {', '.join(known)}.")
    return wanted


def _build(
    config: ExportConfig,
    run: Run,
    jobs: list[tuple[str, str]],
    claims: list[Claim],
    backends: dict[str, str],
    pictures: Data | None,
) -> None:
    """Stage what is neither done nor built already; a target is calibrated once for all its precisions."""
    calibrated = functools.cache(
        lambda target: calibration(config, run, main_of(run.spec) if target == ALL else target, pictures)
    )
    for (target, precision), own in zip(jobs, claims, strict=True):
        if own.done:
            continue
        backend = backends[precision]
        if own.staged.exists():
            say(f"{target}, {config.format} {precision}: built already, by an export that was interrupted")
            continue
        by = f", with {backend}" if config.format == "trt" else ""
        say(f"Exporting {target} to {config.format}, {precision}{by}")
        more, place = calibrated(target) | {"made_from": own.key}, own.workplace()
        try:
            _stage(config, run, target, precision, backend, place, pictures, more)
            os.rename(place, own.staged)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _key(config: ExportConfig, run: Run, job: tuple[str, str], backend: str, data: str | None) -> str:
    """What a finished stage depends on; one with the same key need not be made again."""
    parts: list[Any] = [config.calibrate, config.accuracy_when_sure, config.portable, config.explain]
    parts += [*job, config.format, backend, config.profile, data, sha256(run.weights), run.spec, versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _pictures(run: Run, data: str | None) -> Data:
    with decoding() as report:
        return run.data(data, report)


def _manifest(config: ExportConfig, run: Run, target: str, precision: str, file: str) -> dict[str, Any]:
    """What a manifest says of a file before it is built."""
    spec = run.spec
    size = int(spec["image_size"])
    summary = run.read("summary.json")
    heat = output_of(side_of(explained(run.classifier(target), target, spec), size)) if config.explain else []
    networks = list(layout_of(spec).archs(main_of(spec) if target == ALL else target))
    return {
        "schema": SCHEMA,
        "target": target,
        "format": config.format,
        "precision": precision,
        "file": file,
        "input": input_of(size),
        "outputs": outputs_of(len(spec["classes"])) + member_outputs(target, spec) + heat,
        "labels": spec["classes"],
        "batch": dict(zip(("min", "opt", "max"), config.profile, strict=True)),
        "run": {
            "name": run.name,
            "method": spec["method"],
            "archs": spec["archs"],
            "networks": networks,
            "epochs": summary["epochs"],
            "data": summary["data"]["name"],
            "data_fingerprint": spec["data_fingerprint"],
            "weights_sha256": sha256(run.weights),
        },
        **of_run(run, main_of(spec) if target == ALL else target),
        "parity": {"verdict": "unverified", "reason": "not examined yet", "checks": []},
        "versions": versions(),
        "cpu": instruction_set(),
        "gpu": gpus()[0].name if gpus() else None,
    }


def _stage(
    config: ExportConfig,
    run: Run,
    target: str,
    precision: str,
    backend: str,
    place: Path,
    pictures: Data | None,
    more: dict[str, Any],
) -> None:
    """Everything of an artifact but its verdict, in a directory that nobody else looks at; int8 calibrates
    on ``pictures``.

    ``more`` is further keys of the manifest.
    """
    place.mkdir(parents=True)
    row, profile = BACKENDS[backend], config.profile
    assert row.build is not None
    manifest = _manifest(config, run, target, precision, row.file) | more
    manifest |= {"main": main_of(run.spec)} if target == ALL else {}
    onnx = place / "source.onnx"
    traced = traced_of(run, target, precision, profile, temperature(manifest), config.explain)
    blob = traced.onnx(lone_facts(manifest))
    manifest["opset"] = opset_of(blob)
    if pictures and precision == "int8":
        (place / FLOAT).write_bytes(blob)
        if config.format not in SCHEMES:
            raise UsageError(f"--format {config.format} has no int8 scheme. Drop int8 from --precision.")
        blob, manifest["calibration"] = quantize(blob, SCHEMES[config.format], pictures)
    onnx.write_bytes(blob)
    material = Material(onnx, profile, traced.program, lone_facts(manifest), config.portable)
    told = row.build(material, place / row.file)
    if told:
        manifest["engine"] = told | {"source_sha256": sha256(onnx)}
    else:
        onnx.unlink()
    extra = {
        name: {"sha256": sha256(place / name), "bytes": (place / name).stat().st_size} for name in row.extra
    }
    manifest |= {
        "sha256": sha256(place / row.file),
        "bytes": sum((place / name).stat().st_size for name in (row.file, *row.extra)),
    }
    manifest |= {"files": extra} if extra else {}
    write_json(place / "manifest.json", sealed(manifest))
