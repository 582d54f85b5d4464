"""Nothing of the user's is written over or removed; no artifact answers for a file that lies beside it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from made_pictures import classes, fill, picture

from export import export
from lfdeploy.artifact import has_run, resolve
from lfdeploy.artifact import run_of as run_of_artifact
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.places import check_place, publish, quarantine
from lfdeploy.run import Run, may_write, write_bytes
from training import train

LF = Callable[..., Result]


@pytest.fixture
def artifact(tiny_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "art"))


def refusal(place: Path) -> str:
    with pytest.raises(LfdeployError) as caught:
        check_place(place)
    return str(caught.value)


def test_a_folder_of_somebody_else_is_not_replaced(artifact: Path, tmp_path: Path) -> None:
    """Web pages have a manifest.json too; and people keep notes beside a model."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "app"}')
    assert "manifest.json is not that of an artifact" in refusal(site)
    (site / "manifest.json").write_text("{")
    (site / "index.html").touch()
    assert "has index.html in it" in refusal(site)
    check_place(artifact)
    (artifact / ".DS_Store").touch()
    check_place(artifact)
    (artifact / "manifest.json").write_text("{")  # a damaged one is made anew
    check_place(artifact)
    (artifact / "notes.txt").touch()
    assert "has notes.txt in it, which would be removed" in refusal(artifact)
    (artifact / "notes.txt").unlink()
    (artifact / ".git").mkdir()
    assert "has .git in it" in refusal(artifact)


def of_run(artifact: Path, name: str, weights: str) -> Path:
    """The artifact, as another run's."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["run"] |= {"name": name, "weights_sha256": weights}
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    return artifact


@pytest.mark.parametrize(
    ("run", "weights", "said"),
    [
        ("other", "a" * 64, "was peer0-onnx-fp32 of run other and is peer0-onnx-fp32 of run tiny now."),
        ("tiny", "a" * 64, "was peer0-onnx-fp32 of an earlier run tiny and is"),
        ("renamed", "", ""),
    ],
)
def test_what_is_replaced_is_said(
    run: str, weights: str, said: str, artifact: Path, tiny_run: Run, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An artifact of another run too; the same weights under another name are the same artifact."""
    own = resolve(artifact).manifest["run"]["weights_sha256"]
    final = of_run(Path(shutil.copytree(artifact, tmp_path / "final")), run, weights or own)
    publish(artifact, final)
    assert resolve(final).manifest["run"]["name"] == "tiny"
    told = capsys.readouterr().err
    assert said in told and bool(told) is bool(said)


def test_a_run_of_the_same_name_is_another_run(
    artifact: Path, tiny_run: Run, tmp_path: Path, lf: LF, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another project: as without it, but where it is the artifact's own place, or is named."""
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(tiny_run.path, tmp_path / "runs" / "tiny")
    found = resolve(artifact)
    assert run_of_artifact(found).path == Path("runs/tiny") and has_run(found)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert not has_run(found)
    said = lf("verify", artifact)
    assert said.exit_code == 1
    assert "The run 'tiny' of art is not here; name the directory that holds it with --runs." in said.stderr
    assert "runs/tiny has other weights." in said.stderr
    for words in (("art", "--run", "runs/tiny"), (other / "artifacts" / "peer0-onnx-fp32",)):
        said = lf("verify", *words)
        assert said.exit_code == 3 and "exported from other weights" in said.stderr
    assert run_of_artifact(found, str(tiny_run.path)).path == tiny_run.path


def test_a_quarantine_with_notes_is_left(artifact: Path, tmp_path: Path) -> None:
    """What failed takes another name there, and its reason is told all the same."""
    places = []
    for note in ("first", "second"):
        staged = Path(shutil.copytree(artifact, tmp_path / f".staged {note}"))
        places.append(quarantine(staged, tmp_path / "out", {"reason": note}))
        (places[-1] / "notes.txt").touch()
    assert [place.name for place in places] == ["out", "out-2"]
    assert all((place / "notes.txt").exists() for place in places)


def test_an_export_into_such_a_folder_leaves_it(tiny_run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "app"}')
    with pytest.raises(LfdeployError, match="not that of an artifact"):
        export(ExportConfig(peer=0, out=str(site)), tiny_run)
    assert [file.name for file in site.iterdir()] == ["manifest.json"]


def test_a_file_beside_the_model_is_not_taken_for_it(artifact: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "manifest.json", "README.md"):
        assert resolve(artifact / name).path == artifact
    for name in ("other.onnx", "notes.md"):
        (artifact / name).touch()
        with pytest.raises(
            LfdeployError, match=f"{name} is no file of the artifact art, which is model.onnx"
        ):
            resolve(artifact / name)
    lone = tmp_path / "lone.onnx"
    lone.touch()
    with pytest.raises(LfdeployError, match=r"lone.onnx lies in no artifact.*lfdeploy bench"):
        resolve(lone)
    picture(1).save(tmp_path / "a.png")
    with pytest.raises(LfdeployError, match="the artifact comes first"):
        resolve(tmp_path / "a.png")


def test_the_name_that_the_page_gives_one_of_two_is_taken(tiny_run: Run) -> None:
    name = f"{tiny_run.name}/peer0-onnx-fp32"
    assert resolve(name, tiny_run.path.parent).path == tiny_run.artifacts / "peer0-onnx-fp32"


def test_a_table_does_not_replace_a_picture(artifact: Path, tmp_path: Path, lf: LF) -> None:
    """`--csv photos/*.png`: the shell puts the first picture where the table's name belongs."""
    photos = fill(tmp_path / "photos")
    before = (photos / "0.png").read_bytes()
    result = lf("predict", artifact, "--csv", *sorted(photos.iterdir()))
    assert result.exit_code == 2 and "0.png: that file is there and is no table" in result.stderr
    assert (photos / "0.png").read_bytes() == before
    for ending in (".csv", ".tsv", ""):
        (tmp_path / f"t{ending}").write_text("a,b")
        may_write("--csv", str(tmp_path / f"t{ending}"))
    may_write("--csv", "/dev/stdout")
    with pytest.raises(UsageError, match="is no table"):
        may_write("--markdown", str(artifact / "model.onnx"))


def test_links_and_pipes_are_written_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.csv").touch()
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_bytes(tmp_path / "link.csv", b"new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", b"rows")
    reader.join(30)
    assert found == [b"rows"] and (tmp_path / "pipe").is_fifo()


def test_tables_have_the_notes_and_go_to_standard_output(artifact: Path, tmp_path: Path, lf: LF) -> None:
    picture(1).resize((2000, 3)).save(tmp_path / "wide.png")
    result = lf("predict", artifact, tmp_path / "wide.png", "--csv", "-")
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert "extreme shape (2000x3)" in row["notes"] and row["label1"]
    assert not Path("-").exists()


@pytest.mark.slow
def test_heat_maps_are_named_and_lie_elsewhere(tiny_run: Run, tmp_path: Path, lf: LF) -> None:
    made = export(ExportConfig(peer=0, explain=True, out=str(tmp_path / "why")), tiny_run)[0].path
    places = [fill(tmp_path / name, 1) for name in ("a", "b")]
    before = (places[0] / "0.png").read_bytes()
    assert "pictures to answer lie there" in lf("predict", made, *places, "--explain", places[0]).stderr
    assert (places[0] / "0.png").read_bytes() == before
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "0.png").symlink_to(places[0] / "0.png")
    assert (
        "pictures to answer lie there"
        in lf("predict", made, tmp_path / "links", "--explain", tmp_path / "links").stderr
    )
    mine = fill(tmp_path / "mine", 1)  # a picture of the same name that is no heat map
    kept = (mine / "0.png").read_bytes()
    for _ in range(2):
        lf("predict", made, places[0], "--explain", mine)
    assert sorted(file.name for file in mine.iterdir()) == ["0-2.png", "0.png"]
    assert (mine / "0.png").read_bytes() == kept and (places[0] / "0.png").read_bytes() == before
    result = lf("predict", made, *places, "--explain", tmp_path / "maps", "--json")
    maps = {row["picture"]: row["heatmap"] for row in json.loads(result.stdout)["predictions"]}
    assert maps == {str(places[0] / "0.png"): "0.png", str(places[1] / "0.png"): "0-2.png"}
    assert sorted(file.name for file in (tmp_path / "maps").iterdir()) == sorted(maps.values())


def test_data_that_are_nowhere_are_missed_before_anything_is_built(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pipeline._build", lambda *given: pytest.fail("it was built"))
    with pytest.raises(LfdeployError, match="nope"):
        export(ExportConfig(peer=0), tiny_run, "nope")


def test_trainings_in_threads_keep_their_seeds(tmp_path: Path) -> None:
    """They wait for each other, because they share what draws random numbers."""
    photos = str(classes(tmp_path / "photos", count=8))
    settings: dict[str, Any] = {"method": "independent", "peers": 1, "arch": "resnet8", "epochs": 1}
    config = TrainConfig(data=photos, **settings)
    found: list[bytes] = []

    def one(number: int) -> None:
        found.append(train(config, name=f"r{number}", runs=tmp_path / "runs").weights.read_bytes())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
