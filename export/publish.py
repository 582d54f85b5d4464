"""What parity found goes into the manifests, and what may be published gets its name, by one rename each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.bench.speed import FASTER, Speeds, faster, in_words, speedup
from export.concurrency import Claim
from export.prove import REPORT
from export.report import card
from lfdeploy.artifact import Artifact, read, sealed
from lfdeploy.backends import executes
from lfdeploy.config import ExportConfig
from lfdeploy.errors import LfdeployError, ParityError, UnverifiedError
from lfdeploy.places import publish, quarantine
from lfdeploy.run import shown, typed, write_json

FLOAT = "float.onnx"  # int8's fp32 sibling, there only while it is staged


def _of_members(report: dict[str, Any]) -> dict[str, Any]:
    found = report.get("members", {}).items()
    accuracy = {
        name: {key: told[key] for key in ("images", "top1", "top1_reference")} for name, told in found
    }
    return {"members": accuracy} if accuracy else {}


def _with_report(place: Path) -> dict[str, Any]:
    """The manifest of a staged artifact, in which it writes what parity found."""
    report, examined = json.loads((place / REPORT).read_text(encoding="utf-8")), read(place)
    examined.check_file()  # the bytes may have been proven by an export that was interrupted long ago
    manifest, found = examined.manifest, report["statistics"]
    manifest["accuracy"] = found and {
        "split": "test",
        "images": found["images"],
        "top1": found["top1"],
        "top1_reference": found["top1_reference"],
        "measured_on": report["subject"],
        "chance": report.pop("chance"),
    } | report.pop("by_class", {}) | _of_members(report) | report.pop("judged", {})
    manifest["parity"] = report
    write_json(place / "manifest.json", sealed(manifest))
    return manifest


def publish_proven(config: ExportConfig, claims: list[Claim]) -> None:
    """Write what parity found into the manifests, then give all that may be published their names, one
    rename each.
    """
    ready: list[tuple[Path, Path]] = []
    unverified: list[tuple[Path, str]] = []
    failed, slow = [], []
    for place, final in ((own.staged, own.final) for own in claims):
        manifest = _with_report(place)
        report = manifest["parity"]
        if report["verdict"] == "fail":
            (place / REPORT).unlink()
            where = quarantine(place, final, report)
            failed.append(
                f"{final.name} failed at {report['reason']}; it is in {shown(where)}, nothing was published"
            )
            continue
        backend = executes(manifest)
        if (place / FLOAT).exists() and config.format != "trt":
            sizes = tuple(sorted({1, config.profile[1]}))
            speeds = speedup(backend, place / FLOAT, place / manifest["file"], manifest, sizes)
            manifest["speedup_over_fp32"] = speeds
            write_json(place / "manifest.json", sealed(manifest))
            if config.require_faster and not faster(speeds):
                slow.append(f"{final.name}: {_too_slow(speeds)}. It was not published")
                continue
        if report["verdict"] == "unverified":
            unverified.append((final, report["reason"]))
        (place / "README.md").write_text(card.model_card(manifest), encoding="utf-8")
        ready.append((place, final))
    for place, final in ready:
        for extra in ("source.onnx", FLOAT, REPORT):
            (place / extra).unlink(missing_ok=True)
        publish(place, final)
    published = f". Published: {', '.join(final.name for _, final in ready)}." if ready else "."
    if failed:
        raise ParityError(". ".join(failed) + published)
    if slow:
        raise LfdeployError(". ".join(slow) + published)
    if config.require_verified:
        _refuse_unverified(config, unverified, published)


def hold_to(config: ExportConfig, artifacts: list[Artifact]) -> None:
    """What another export published meanwhile is held to what this one requires."""
    for artifact in artifacts:
        speeds = artifact.manifest.get("speedup_over_fp32")
        if config.require_faster and speeds and not faster(speeds):
            raise LfdeployError(f"{artifact.name}: {_too_slow(speeds)}. Another export has published it.")
    if config.require_verified:
        found = [(a.path, a.manifest["parity"]["reason"]) for a in artifacts if a.verdict == "unverified"]
        _refuse_unverified(config, found, ".")


def _too_slow(speeds: Speeds) -> str:
    return f"{in_words(speeds)}; --require-faster needs {FASTER} times"


def _refuse_unverified(config: ExportConfig, found: list[tuple[Path, str]], published: str) -> None:
    """Raise `UnverifiedError` for the places and reasons of unverified artifacts, if there are any."""
    if not found:
        return
    said = ". ".join(f"{place.name} is built but unverified: {reason}" for place, reason in found)
    if config.format == "trt":
        commands = ", ".join(f"lfdeploy verify {typed(place)}" for place, _ in found)
        said += f". Complete it on a machine with the GPU: {commands}"
    raise UnverifiedError(said + published)
