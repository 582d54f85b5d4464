"""The command line. It parses and calls; heavy imports happen inside the commands that need them."""

from __future__ import annotations

# isort: off
from lfdeploy import early

# isort: on
from typing import Any

import click

import lfdeploy
from lfdeploy.completion import ARTIFACT, EITHER, RUN
from lfdeploy.config import ExportConfig
from lfdeploy.errors import UsageError
from lfdeploy.flags_from_fields import flags
from lfdeploy.serving_commands import serve, ship
from lfdeploy.shared_flags import (
    ANSWERED,
    BACKEND,
    DATA,
    DEVICE,
    FROM_RUN,
    JSON,
    MEASURED,
    RUNS,
    TABLES,
    Needed,
    Tables,
)
from lfdeploy.shell import Commands
from lfdeploy.training_commands import compare, train


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lfdeploy.__version__, prog_name="lfdeploy")
def main() -> None:
    """Train image classifiers that teach each other; ship one, or all fused, as a file that is proven to
    answer as the training code did.

    \b
    lfdeploy train --data my_pictures/          peers learn together
    lfdeploy export --peer 0 --format onnx      a verified file
    lfdeploy serve                              a web page that answers

    """


main.add_command(train)


@main.command(short_help="Accuracy of a run or an artifact")
@click.argument("run", required=False, shell_complete=EITHER)
@DATA
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="test",
    metavar="NAME",
    help="which pictures [val|test]",
)
@BACKEND
@DEVICE
@RUNS
@JSON
def evaluate(
    run: str | None, data: str | None, split: str, backend: str, device: str, runs: str, as_json: bool
) -> None:
    """Accuracy of a RUN's networks, or of an ARTIFACT through its own backend (default: the newest run)."""
    from training.scores import evaluate as score

    scores = score(run, runs=runs, data=data, split=split, device=device, backend=backend)
    if as_json:
        from lfdeploy.console import document

        document(scores)
        return
    from lfdeploy.tables import evaluated

    evaluated(scores)


main.add_command(compare)


@main.command(short_help="To ONNX, TensorRT, OpenVINO or torch.export, proven to answer alike")
@click.argument("run", required=False, shell_complete=RUN)
@flags(ExportConfig)
@DATA
@RUNS
@JSON
def export(run: str | None, data: str | None, runs: str, as_json: bool, **values: Any) -> None:
    """Export from RUN (default: the newest) to ONNX, TensorRT, OpenVINO or a torch.export program.

    The file appears only when it answers as the PyTorch module does on every test picture. Exit code 3:
    parity failed, nothing published. 4: built, not run here (with --require-verified).
    """
    config = ExportConfig(**values)
    from lfdeploy.console import document
    from lfdeploy.run import shown
    from lfdeploy.runs import resolve

    chosen = resolve(run, runs).finished()
    from export import export as make

    made = make(config, chosen, data)
    if as_json:
        document([a.manifest | {"path": shown(a.path)} for a in made])
        return
    from lfdeploy.tables import exported

    exported(made)


@main.command(short_help="Prove an artifact again, on this machine")
@click.argument("artifact", cls=Needed, shell_complete=ARTIFACT)
@DATA
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="only N test pictures (default: all)",
)
@BACKEND
@DEVICE
@FROM_RUN
@RUNS
@JSON
def verify(artifact: str, runs: str, as_json: bool, **how: Any) -> None:
    """Parity of an ARTIFACT again, here, against its run's PyTorch module. Exit code 3: it failed."""
    from export.prove import refuse_failed
    from export.prove import verify as judge
    from lfdeploy.artifact import resolve

    found = resolve(artifact, runs)
    report = judge(found, runs=runs, **how)
    if as_json:
        from lfdeploy.console import document

        document(report.document())
    else:
        from lfdeploy.tables import verified

        verified(found.name, report)
    refuse_failed(found, report)


@main.command(short_help="The first layer at which an artifact differs from its module")
@click.argument("artifact", cls=Needed, shell_complete=ARTIFACT)
@DATA
@click.option(
    "--images",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    metavar="N",
    help="test pictures; 0: probes alone",
)
@FROM_RUN
@RUNS
@JSON
def bisect(artifact: str, data: str | None, images: int, run: str | None, runs: str, as_json: bool) -> None:
    """The first layer at which an ARTIFACT, published or in quarantine/, leaves its run's module."""
    from export.bisect.search import bisect as look

    finding = look(artifact, images=images, run=run, runs=runs, data=data)
    if as_json:
        from lfdeploy.console import document

        document(finding)
        return
    from lfdeploy.tables import bisected

    bisected(finding)


@main.command(short_help="Classify pictures with an artifact")
@click.argument("artifact", cls=Needed, shell_complete=ARTIFACT)
@click.argument("pictures", cls=Needed, nargs=-1, required=True, metavar="PICTURE|DIR...")
@ANSWERED
@DEVICE
@FROM_RUN
@RUNS
@JSON
def predict(
    artifact: str, pictures: tuple[str, ...], csv_file: str | None, as_json: bool, **how: Any
) -> None:
    """Classify PICTUREs, or all pictures below a DIR, with an ARTIFACT."""
    if as_json and csv_file:
        raise UsageError("--json and --csv together have no meaning; drop one.")
    from lfdeploy import answers

    answers.predict(artifact, pictures, csv_file=csv_file, as_json=as_json, **how)


@main.command(short_help="Latency, throughput, size, accuracy; training speed")
@click.argument(
    "artifacts",
    cls=Needed,
    shell_complete=ARTIFACT,
    nargs=-1,
    required=True,
    metavar="ARTIFACT|FILE.onnx...|train",
)
@MEASURED
@BACKEND
@DEVICE
@RUNS
@JSON
def bench(
    artifacts: tuple[str, ...],
    batch: str,
    rounds: int | None,
    arch: str,
    method: str,
    markdown: str,
    plot: str,
    as_json: bool,
    **how: Any,
) -> None:
    """Latency, throughput, size and accuracy of ARTIFACTs in one table.

    `bench train`: training speed as ratios.

    Rounds are interleaved, so that a busy machine slows all rows alike: trust ratios before milliseconds. A
    FILE.onnx of another exporter is measured too.
    """
    if artifacts == ("train",):
        from lfdeploy.console import document
        from lfdeploy.tables import training_speed
        from training.bench import bench_training

        speeds = bench_training(arch, method, rounds or 15, how["device"])
        document(speeds) if as_json else training_speed(speeds)
        return
    from export.bench.table import report

    try:
        sizes = [int(part) for part in batch.split(",")]
    except ValueError:
        raise UsageError(f"--batch is '{batch}'; write sizes like 1,8,32.") from None
    report(artifacts, sizes, rounds or 30, markdown, plot, as_json, **how)


main.add_command(serve)
main.add_command(ship)


@main.command("list", short_help="Methods, architectures, data sets, backends, runs, artifacts")
@click.argument("what", required=False, type=Tables(TABLES))
@click.argument("name", required=False)
@RUNS
@JSON
def list_(what: str | None, name: str | None, runs: str, as_json: bool) -> None:
    """Show a table, or all tables; with NAME one method or run, whole."""
    from lfdeploy import listing

    listing.show(what, name, runs, as_json)


@main.command(short_help="What is installed, what works here, and why not")
@click.argument("artifact", required=False, shell_complete=ARTIFACT)
@RUNS
@JSON
def doctor(artifact: str | None, runs: str, as_json: bool) -> None:
    """Versions, devices, which backends work here and why not; with ARTIFACT, whether it runs here."""
    from lfdeploy import doctor as checkup

    checkup.doctor(artifact, runs, as_json)


early.over()
