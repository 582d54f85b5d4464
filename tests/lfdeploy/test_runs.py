"""Which run is the newest, in every state that runs/latest can be in, and new runs at the same moment."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.listing import show
from lfdeploy.names import check_classes, check_name, printable, stem_of
from lfdeploy.run import Run, config_json, typed
from lfdeploy.runs import all_runs, may_begin, new_run, newest_first, point_latest, resolve
from lfdeploy.training_commands import _config_of, _print


def make(runs: Path, *names: str, finished: bool = True) -> list[Run]:
    """Runs in this order of age, the last also as runs/latest."""
    made = []
    for second, name in enumerate(names):
        run, lock = new_run(runs, name, "", {"config.json": {}, "spec.json": {}})
        lock.release()
        if finished:
            (run.path / "summary.json").write_text("{}")
        os.utime(run.path / "config.json", (second, second))
        made.append(run)
    point_latest(made[-1])
    return made


def test_the_newest_is_what_latest_points_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = make(tmp_path, "old", "new")
    assert resolve(None, tmp_path).path == new.path
    assert "Run: new (the newest)" in capsys.readouterr().err
    point_latest(old)  # as --resume does
    assert resolve(None, tmp_path).path == old.path
    assert [run.name for run in newest_first(tmp_path)] == ["old", "new"]


@pytest.mark.parametrize("fate", ["renamed", "removed", "no run any more", "link removed"])
def test_a_broken_latest_mends_itself(fate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, middle, new = make(tmp_path, "first", "middle", "new")
    if fate == "renamed":
        new.path.rename(tmp_path / "final")
    elif fate == "removed":
        shutil.rmtree(new.path)
    elif fate == "no run any more":
        (new.path / "config.json").unlink()
    else:
        (tmp_path / "latest").unlink()
    expected = {"renamed": "final", "link removed": "new"}.get(fate, middle.name)
    assert resolve(None, tmp_path).name == expected
    said = capsys.readouterr().err
    assert f"Run: {expected} (the newest)" in said
    if fate != "link removed":
        assert said.count("pointed at new, which is no run") == 1
        assert (tmp_path / "latest").readlink() == Path(expected)
        resolve(None, tmp_path)
        assert "pointed at" not in capsys.readouterr().err


def test_latest_may_be_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a copy without links makes it: a new run is not lost by it."""
    old, new = make(tmp_path, "old", "new")
    (tmp_path / "latest").unlink()
    shutil.copytree(old.path, tmp_path / "latest")
    point_latest(new)
    assert "cannot be made a link to new" in capsys.readouterr().err
    assert not list(tmp_path.glob(".latest.*"))


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(LfdeployError, match=r"no run in .* yet"):
        resolve(None, tmp_path)


def test_an_unfinished_run_names_a_finished_one(tmp_path: Path) -> None:
    make(tmp_path, "done")
    (cut,) = make(tmp_path, "cut", finished=False)
    with pytest.raises(LfdeployError, match=r"--resume .*cut. Or name a finished run: done"):
        cut.finished()


def test_a_run_in_training_is_not_to_be_resumed(tmp_path: Path) -> None:
    run, lock = new_run(tmp_path, "now", "", {"config.json": {}})
    with pytest.raises(LfdeployError, match=rf"still training, by process {os.getpid()} on"):
        run.finished()
    lock.release()
    with pytest.raises(LfdeployError, match="--resume"):
        run.finished()


RACER = """
import sys
from pathlib import Path
from lfdeploy.errors import LfdeployError
from lfdeploy.runs import new_run
print("ready", flush=True)
sys.stdin.readline()
try:
    run, lock = new_run(Path(sys.argv[1]), sys.argv[2] or None, "stem", {"config.json": {}})
    print(run.name)
except LfdeployError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["same", ""])
def test_new_runs_at_the_same_moment(name: str, tmp_path: Path) -> None:
    """Of one name one wins; without a name each gets a number of its own."""
    command = [sys.executable, "-c", RACER, str(tmp_path), name]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = sorted(racer.communicate()[0].strip() for racer in racers)
    if name:
        assert sum("There is a run 'same'" in answer for answer in answers) == 3
        assert answers[-1] == "same"
    else:
        assert answers == [f"stem-{number}" for number in range(1, 5)]
    assert not list(tmp_path.glob(".new.*"))


def test_what_a_dead_training_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".new.0123abcd"
    left.mkdir()
    (left / ".lock").touch()
    (left / "config.json").write_text(json.dumps({}))
    make(tmp_path, "next")
    assert left.exists()  # so young, its training may live and not have locked it yet
    os.utime(left, (0, 0))
    make(tmp_path, "another")
    shutil.rmtree(tmp_path / "another")
    assert [run.name for run in all_runs(tmp_path)] == ["next"]
    assert not left.exists()


@pytest.mark.parametrize(
    "name", ["", ".x", "-x", "latest", "a/b", "a\nb", "a\x1b[31m", "caf\udce9", "x" * 201, ".."]
)
def test_names_that_no_run_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="--name is") as caught:
        check_name(name)
    assert printable(str(caught.value)) == str(caught.value)


def test_names_that_runs_may_have() -> None:
    for name in ("a b", "$x$", "猫", "a=b", "Zürich", "x" * 200):
        check_name(name)
    assert stem_of("a\nb/c") == "a_b_c"
    assert stem_of("pictures-lfmkd-timm:resnet10t") == "pictures-lfmkd-timm_resnet10t"
    assert stem_of("...") == "run"
    check_name(stem_of("." + "猫" * 300))


@pytest.mark.parametrize("name", ["a\nb", "caf\udce9", "\x00", " ", "a\u2028b"])
def test_class_names_that_are_no_line(name: str) -> None:
    check_classes(("cat", "=猫", "a\u3000b"), "d")
    with pytest.raises(LfdeployError, match="is not a line of readable text") as caught:
        check_classes(("cat", name), "d")
    str(caught.value).encode()


def test_a_name_that_is_taken_is_refused_before_any_work(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    with pytest.raises(LfdeployError, match="--resume mine"):
        may_begin(tmp_path, "mine")
    may_begin(tmp_path / "not" / "there", "mine")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("damage", ["not json {", "[]", "{}"])
@pytest.mark.parametrize("file", ["config.json", "spec.json", "summary.json"])
def test_a_damaged_run_hides_no_other(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = make(tmp_path, "whole", "broken")
    for run in (whole, broken):
        (run.path / "config.json").write_text('{"method": "lfmkd"}')
        (run.path / "spec.json").write_text('{"archs": ["resnet8"]}')
        (run.path / "summary.json").write_text('{"test": {"peers": [90.0], "fused": 91.0, "ensemble": 91.0}}')
    (broken.path / file).write_text(damage)
    show("runs", None, str(tmp_path), as_json=True)
    captured = capsys.readouterr()
    assert {row["run"]: row["state"] for row in json.loads(captured.out)} == {
        "broken": "damaged",
        "whole": "finished",
    }
    assert "run broken is damaged" in captured.err


def test_a_data_set_stays_one_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digits", "photos"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert config_json(TrainConfig(data="digits"))["data"] == "digits"
    assert config_json(TrainConfig(data="photos"))["data"] == str(tmp_path / "photos")


def test_paths_in_commands_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(tmp_path / "my runs" / "a") == "'my runs/a'"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("spec.json", '{"schema": 1}', "is no config.json of a run. Write: --config RUN/config.json"),
        ("spec.json", "[]", "is no config.json of a run"),
        ("config.json", '{"data": "digits", "method": "ffl"}', "is no config.json of a run"),
        (
            "config.json",
            '{"data": "digits", "method": "ffl", "option": [], "colour": 1}',
            "none here: colour",
        ),
        ("config.json", '{"data": "digits", "method": "ffl", "option": [1]}', "cannot be used"),
        ("config.json", "{", "cannot be read"),
    ],
)
def test_a_file_that_is_no_config(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LfdeployError, match=said):
        _config_of(str(tmp_path / name))


def test_a_config_beside_is_proposed(tmp_path: Path) -> None:
    (run,) = make(tmp_path, "one")
    with pytest.raises(LfdeployError, match=rf"Write: --config {run.path}/config\.json"):
        _config_of(str(run.path / "spec.json"))


def test_a_full_standard_output_costs_no_run(tmp_path: Path) -> None:
    """The run is there; a pipe that nobody reads stays what it is."""
    (run,) = make(tmp_path, "one")

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LfdeployError, match=r"Standard output .*No space left.*run one is whole, in .*one"):
        _print(full, run)

    def closed() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        _print(closed, run)
