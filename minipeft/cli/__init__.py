"""The command `minipeft`. Every command returns a JSON value and the text that tells it.

With --json, stdout holds that one value and nothing else; progress goes to stderr. What a
terminal cannot show is printed as "?", so that no result is lost by it.
Exit codes: 0 done; 1 what was asked for failed; 2 wrong usage; 130 stopped by Ctrl-C.
Each file here has a group of commands: what each takes, beside what it does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from minipeft import __version__
from minipeft.cli import course, files, homework, looking, speaking, training
from minipeft.cli.arguments import Result, UsageError
from minipeft.cli.heartbeat import Heartbeat

LONGEST = 24  # lines of an error message
EXPECTED = (ValueError, OSError, RuntimeError, KeyError, ImportError)  # their text says enough
COMMANDS = (
    course.add_doctor, training.add_pretrain, training.add_finetune, training.add_compare,
    speaking.add_generate, speaking.add_evaluate, looking.add_inspect, files.add_merge,
    files.add_data, looking.add_params, looking.add_memory, course.add_methods,
    course.add_lectures, homework.add_homework,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = _parser().parse_args(argv)
    try:
        with _quiet_stdout(args), Heartbeat(f"minipeft {args.command}") as heartbeat:
            args.busy = heartbeat.busy
            value, text, *later = args.run(args)
        print(json.dumps(_plain(value), allow_nan=False) if args.json else text, flush=True)
        for step in later:  # what may fail now loses no result
            with _quiet_stdout(args), Heartbeat(f"minipeft {args.command}"):
                print(step())
        return 1 if args.command == "doctor" and value["problems"] else 0
    except UsageError as error:
        print(f"minipeft {args.command}: {error}\nSee: minipeft {args.command} --help",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", ())  # where the state of training is
        print("\nminipeft: stopped", *notes, sep="\n", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("MINIPEFT_TRACEBACK") == "1":
            raise
        print(f"minipeft {args.command}: {_brief(error)}", file=sys.stderr)
        return 1


def _quiet_stdout(args: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """With --json whatever is printed inside goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # of NumPy
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _brief(error: Exception) -> str:
    """An error in one screen."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = (text or "no message").splitlines()
    cut = [*lines[:LONGEST], "…"] if len(lines) > LONGEST else lines
    kind = type(error)
    known = kind.__module__.startswith("minipeft") or issubclass(kind, EXPECTED)
    if not known:
        cut[0] = f"{kind.__name__}: {cut[0]}"
        cut.append("(MINIPEFT_TRACEBACK=1 shows where it happened)")
    return "\n".join(cut)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minipeft", description="Parameter-efficient fine-tuning, to read and to try.",
        allow_abbrev=False, epilog="minipeft COMMAND --help tells more, with an example.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"minipeft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Result], does: str, example: str) -> Any:
        new = commands.add_parser(
            name, help=does, description=f"{does[0].upper()}{does[1:]}.", allow_abbrev=False,
            epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        new.add_argument("--json", action="store_true", help="print one JSON value, nothing else")
        new.set_defaults(run=run)
        return new

    for add in COMMANDS:
        add(command)
    return parser
