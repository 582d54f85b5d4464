"""A command as a process: closed and full streams, other locales, and signals at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = "from lfdeploy.cli import main; main()"
LIST = ["list", "archs", "--json"]


def shell(line: str, *, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A line for /bin/sh, in which ``lf`` is the command."""
    text = f"lf() {{ {sys.executable} -c '{START}' \"$@\"; }}\n{line}"
    return subprocess.run(
        ["/bin/sh", "-c", text],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("closed", ["2>&-", "0<&-", "2>/dev/full", "0<&- 2>&-"])
def test_json_is_answered_whatever_becomes_of_other_streams(closed: str, tmp_path: Path) -> None:
    done = shell(f"lf list datasets --json {closed}", cwd=tmp_path)
    assert done.returncode == 0
    assert {row["data"] for row in json.loads(done.stdout)} >= {"digits", "DIR"}


def test_a_closed_stream_is_no_file(tmp_path: Path) -> None:
    """Where standard error is closed, the next file opened would get its number and all that is
    printed there.
    """
    code = (
        "import os, sys; from lfdeploy.shell import open_streams; open_streams(); os.write(2, b'x'); "
        "print(os.fstat(2).st_rdev)"
    )
    done = shell(f'{sys.executable} -c "{code}" 2>&-', cwd=tmp_path)
    assert int(done.stdout) == Path(os.devnull).stat().st_rdev


@pytest.mark.parametrize(("to", "code"), [("/dev/full", 1), ("a pipe that nobody reads", 0), ("nothing", 0)])
def test_an_output_that_takes_nothing_is_at_most_a_line(to: str, code: int, tmp_path: Path) -> None:
    line = "exec >&-; " if to == "nothing" else ""
    if to == "/dev/full":
        out = os.open(to, os.O_WRONLY)
    else:
        end, out = os.pipe()
        os.close(end)
    command = ["/bin/sh", "-c", f"{line}exec {sys.executable} -c '{START}' list datasets"]
    done = subprocess.run(command, cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    assert done.returncode == code
    assert done.stderr == (
        "Error: The disk is full: a file could not be written. Free some space, or name another place.\n"
        if code
        else ""
    )


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}]
)
def test_text_is_utf8_in_every_locale(locale: dict[str, str], tmp_path: Path) -> None:
    """Names of runs and documents in them, read and printed."""
    run = tmp_path / "runs" / "猫é"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"method": "猫"}', encoding="utf-8")
    (run / "spec.json").write_text('{"archs": ["é😀"]}', encoding="utf-8")
    done = shell("lf list runs --json; lf list runs; lf doctor 犬", cwd=tmp_path, **locale)
    assert "Traceback" not in done.stderr
    rows, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert (rows[0]["run"], rows[0]["method"], rows[0]["networks"]) == ("猫é", "猫", "é😀")
    names = ("猫é", "犬") if "UTF" in locale["LC_ALL"] else (r"\u732b\xe9", r"\u72ac")
    assert names[0] in done.stdout.replace(json.dumps(rows), "")
    assert f"There is no artifact '{names[1]}'" in done.stderr


def test_a_message_is_one_line(tmp_path: Path) -> None:
    done = shell('lf doctor "$(printf "a\\nb\\033[31m")"', cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert r"a\nb\x1b[31m" in done.stderr


IN_IMPORT = f"""
import importlib.abc, os, signal, sys
class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == os.environ["MODULE"]:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
{START}
"""


@pytest.mark.parametrize("module", ["click", "lfdeploy.config", "lfdeploy.listing", "lfdeploy.models"])
def test_a_signal_in_an_import(module: str, tmp_path: Path) -> None:
    """Sent to itself at the moment at which Python looks for the module."""
    command, env = [sys.executable, "-c", IN_IMPORT, *LIST], os.environ | {"MODULE": module}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr in ("", "Interrupted.\n")


AS_EXTENSIONS_DO = IN_IMPORT.replace(
    "            signal.raise_signal(signal.SIGINT)",
    """            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                raise ImportError("initialization failed")""",
)


def test_a_signal_of_which_an_import_makes_another_error(tmp_path: Path) -> None:
    command, env = (
        [sys.executable, "-c", AS_EXTENSIONS_DO, *LIST],
        os.environ | {"MODULE": "lfdeploy.listing"},
    )
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_a_signal_while_the_commands_are_declared(tmp_path: Path) -> None:
    """After its imports the command line is itself still being imported."""
    code = f"""
import signal
from lfdeploy import flags_from_fields
declare = flags_from_fields.flags
def flags(config):
    signal.raise_signal(signal.SIGINT)
    return declare(config)
flags_from_fields.flags = flags
{START}
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *LIST], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_signal_in_a_finaliser(tmp_path: Path) -> None:
    """Python would drop it, with a traceback, and go on."""
    code = """
import signal
from lfdeploy.shell import catch_signals
class Fleeting:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
catch_signals()
Fleeting()
print("not reached")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def ended_by(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What a process writes to standard error until signals end it.

    One that arrives between Python's last look and the system's read is noticed when the read ends, which of
    an empty pipe is never; the next one interrupts it.
    """
    while True:
        process.send_signal(number)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_file_is_read(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """The file is a pipe that gives nothing, so that the command is surely at it; nothing is half-written."""
    os.mkfifo(tmp_path / "config.json")
    command = [sys.executable, "-c", START, "train", "--config", "config.json"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "config.json").open("w"):  # opens as soon as the command has opened it
        said = ended_by(process, number)
    assert process.returncode == code
    assert said == "Interrupted.\n"
    assert not (tmp_path / "runs").exists()


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """As of a job that a script put in the background."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{IN_IMPORT}"
    command, env = [sys.executable, "-c", code, *LIST], os.environ | {"MODULE": "lfdeploy.listing"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_are_told_to_sleep_before_torch_is_there(
    given: dict[str, str], spins: str | None
) -> None:
    """What the user says of OpenMP stands."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_WAIT"))}
    code = (
        "import os, sys; from lfdeploy import cli; print(os.getenv('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=own | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(spins), "False"]
