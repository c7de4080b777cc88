"""The command line: arguments in, text out. Results go to stdout, all else to stderr; exit codes
are those of ggufmix.errors. One file a command, or a few that belong together; heavy imports wait
for the command that needs them.
"""

# SPDX-License-Identifier: MIT

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from ..errors import GgufmixError
from . import (
    calibrate,
    completing,
    convert,
    evaluate,
    fp8,
    imatrix,
    looking,
    meta,
    plan,
    quantize,
    recipes,
    report,
    running,
    splitting,
    verify,
)
from .said import shown

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Model checkpoints to quantized GGUF, in one pass, with rules that know the architecture.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    convert.convert,
    plan.plan,
    quantize.quantize,
    imatrix.imatrix,
    calibrate.calibrate,
    fp8.fp8,
    fp8.dequantize,
    verify.verify,
    report.report,
    splitting.split,
    splitting.merge,
    running.lint,
    running.advise,
    looking.inspect,
    looking.formats,
)
for command in COMMANDS:
    app.command()(command)
app.command(name="eval")(evaluate.evaluate)
app.command()(meta.meta)
app.add_typer(recipes.app, name="recipes")
completing.complete_values(app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("ggufmix"))
        raise typer.Exit


def main() -> None:
    """Entry point of the `ggufmix` command."""
    _open_streams()
    _give_memory_back()
    completing.join_words(os.environ)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGALRM, _interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has set another
            signal.signal(number, _stop)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
            if signal.getitimer(signal.ITIMER_REAL)[0]:  # Ctrl-C has come, and was not yet heard
                raise KeyboardInterrupt
    except GgufmixError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {shown(error.hint)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(1)
    except OSError as error:  # what no message of ours stands for: a full disk behind stdout
        _drop_stdout()
        where = f"{error.filename}: " if error.filename is not None else "output: "
        print(f"error: {shown(f'{where}{error.strerror or error}')}", file=sys.stderr)
        sys.exit(1)
    except MemoryError as error:
        print(f"error: not enough memory: {shown(str(error))}", file=sys.stderr)
        print("\nhint: fewer --threads have fewer rows under way", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before or after what click looks after
        sys.exit(128 + signal.SIGINT)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; while modules are loaded, as soon as they are: those written in C
    make an ImportError of it and print a traceback themselves.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # SIGALRM asks again
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _open_streams() -> None:
    """Let standard streams that are closed lead nowhere. Else the next file that is opened has
    their number, and what is for stderr is printed on stdout.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 as long as the process


def _give_memory_back() -> None:
    """Let glibc return what is freed from 8 MiB on, and keep what is smaller for the next band. By
    itself it raises that limit up to 32 MiB, and each thread keeps as much twice: rows of millions
    of values would stay in memory.
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 8 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 16 << 20)  # M_TRIM_THRESHOLD


def _stop(number: int, _: FrameType | None) -> None:
    """End like Ctrl-C does: what is under way takes its unfinished file away."""
    raise SystemExit(128 + number)


def _drop_stdout() -> None:
    """Let Python's own last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
