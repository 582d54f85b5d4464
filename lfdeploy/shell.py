"""The process of one command: its streams, its signals, and the line and code with which it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from lfdeploy.console import Meter, be_silent, is_silent, say
from lfdeploy.errors import Interrupted, LfdeployError, Unsaid, UsageError, sentence
from lfdeploy.exit_codes import exit_code
from lfdeploy.names import printable


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Command(click.Command):
    """A command that takes no empty value, and says what to type for a word that it has no place for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Also ``-o KEY=VALUE``, as `lfdeploy compare` writes it, for ``-o KEY VALUE``."""
        apart: list[str] = []
        for before, word in zip(["", *args], args, strict=False):
            pair = before in ("-o", "--option") and re.fullmatch(r"[a-z_-]+=.+", word)
            apart += word.split("=", 1) if pair else [word]
        if not ctx.resilient_parsing:
            self._check_given(apart)
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, apart)
        if rest and not ctx.resilient_parsing:
            raise self._unasked(rest)
        return rest

    def _check_given(self, words: list[str]) -> None:
        """Raise `UsageError` for an empty value, which an unset variable of a shell leaves: no default is
        meant by it.
        """
        valued = [param for param in self.params if isinstance(param, click.Option) and not param.is_flag]
        flags = {name for param in valued for name in param.opts if param.nargs == 1}
        for before, word in zip(["", *words], words, strict=False):
            flag, _, value = word.partition("=") if "=" in word else (before, "", word)
            if flag in flags and not value.strip():
                raise UsageError(f"{flag} is empty; write a value after it, or leave it out.")
            if word == "--":
                return

    def _unasked(self, words: list[str]) -> UsageError:
        """For words that this command has no place for."""
        told, command = f"{self.name} has no place for {shlex.join(words)}.", f"lfdeploy {self.name}"
        by_flag = any("--data" in param.opts for param in self.params)
        if by_flag and not any(isinstance(param, click.Argument) for param in self.params):
            return UsageError(f"{told} Did you mean: {command} --data {shlex.quote(words[0])}")
        return UsageError(f"{told} See: {command} --help")


class Work(Command):
    """A command that may take long: where there is no terminal, it says now and then that it is at work."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function."""
        with Meter(f"lfdeploy {self.name}"):
            return super().invoke(ctx)


class Commands(click.Group):
    """Turns expected failures into one line and an exit code, and guesses at mistyped commands."""

    command_class = Work

    def main(self, args: Any = None, *others: Any, **more: Any) -> Any:
        """Run the command line; without arguments it is the process's own, and streams and signals are
        set up.
        """
        if args is None:
            speak_utf8()
            open_streams()
            catch_signals()
        return super().main(args, *others, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake never shows a traceback."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except click.UsageError as error:
            line = printable(" ".join(error.format_message().split()))
            line += "" if line.endswith((".", "?")) else "."
            command = " ".join(filter(None, ("lfdeploy", ctx.invoked_subcommand)))
            end(f"Error: {line} See: {command} --help", 2)
        except Unsaid as error:
            end("", exit_code(error))
        except LfdeployError as error:
            be_silent(isinstance(error, Interrupted) and is_silent())
            end(f"Error: {printable(str(error))}", exit_code(error))
        except KeyboardInterrupt as stopped:
            end("Interrupted.", 128 + getattr(stopped, "number", signal.SIGINT))
        except BrokenPipeError:
            end("", 0)
        except ModuleNotFoundError as error:
            if not (package := package_of(error.name or "")):
                raise
            what = (
                f"lfdeploy {ctx.invoked_subcommand} needs {package.split()[0]}, which is not installed here"
            )
            end(f"Error: {what}. Run: pip install {package}", 1)
        except OSError as error:
            if not error.strerror:
                raise
            end(f"Error: {printable(sentence(error))}", 1)

    def resolve_command(
        self,
        ctx: click.Context,
        args: list[str],
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The named command, or an error with the nearest name."""
        if args and args[0] not in self.commands:
            import difflib

            near = difflib.get_close_matches(args[0], self.commands, n=1)
            known = f"Commands: {', '.join(self.commands)}."
            ctx.fail(f"No command '{args[0]}'. " + (f"Did you mean '{near[0]}'?" if near else known))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(self.commands)


#: What is to be installed for a module that is not there: a server needs less than all of it.
PACKAGES = {
    "gradio": "gradio",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnx_ir": "onnxscript",
    "onnxruntime": "onnxruntime-gpu",
    "onnxscript": "onnxscript",
    "prometheus_client": "prometheus-client",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch torchvision",
    "torchvision": "torch torchvision",
}


def package_of(module: str) -> str:
    """What is to be installed for a module that is not there; empty for one that nobody has to have."""
    return PACKAGES.get(module.split(".")[0], "")


def end(message: str, code: int) -> NoReturn:
    """Say the message and end the command with the code; what standard output cannot take is dropped."""
    if code > 128 and signal.getsignal(signal.SIGINT) is _stop:
        # a second Ctrl-C, while all is taken down, needs no words
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if message:
        say(message)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, ValueError):
            pass
    sys.exit(code)


def speak_utf8() -> None:
    """Start again in UTF-8 mode where the locale has another encoding: names of files are UTF-8 everywhere.

    What is printed stays in the locale's encoding; what that lacks is escaped.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    shown = sys.stdout or sys.stderr
    if shown is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{shown.encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
    os.execv(sys.executable, [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]])


def open_streams() -> None:
    """Let closed standard streams lead nowhere: else the next file opened gets their number and all output.

    Text that has no encoding, like a file name that is no UTF-8, is escaped rather than an error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def catch_signals() -> None:
    """Ctrl-C and SIGTERM end the command as `Stopped`; a signal that is ignored stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _not_lost


def _stop(number: int, frame: FrameType | None) -> None:
    """Within an import end at once: nothing is half-written, and extension modules turn signals into
    other errors.
    """
    if _importing(frame):
        _end_now(number)
    raise Stopped(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _not_lost(failure: Any) -> None:
    """A signal that met a finaliser or a callback would be dropped with a traceback."""
    if isinstance(failure.exc_value, KeyboardInterrupt):
        _end_now(getattr(failure.exc_value, "number", signal.SIGINT))
    sys.__unraisablehook__(failure)


def _end_now(number: int) -> NoReturn:
    try:
        cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar may have hidden it
        os.write(2, cursor + b"Interrupted.\n")
    except OSError:
        pass
    os._exit(128 + number)
