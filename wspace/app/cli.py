"""The command line: `wspace run RECIPE OUT` and its relatives.

Only this file and the recipe readers run before an argument or recipe error is found: no array library is imported
until there is work to do. Exit codes: 0 done, 1 a check failed, 2 a user's error (one line, no traceback), 130 and 143
after SIGINT and SIGTERM, once everything was cleaned up.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from wspace import __version__
from wspace.core.errors import WspaceError, nearest, printable
from wspace.core.sizes import bytes_in

T = TypeVar("T")

KEPT = 100_000  # new objects before garbage is looked for: those that imports and programs make stay, and are many
EXIT_USER, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_PIPE = 2, 130, 143, 141


class Parser(argparse.ArgumentParser):
    """argparse that raises a `WspaceError` where it would print its usage and exit; knows its options by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options: list[str] = []
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise WspaceError(printable(f"{message} (see '{self.prog} --help')"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = gc.get_threshold()
    gc.set_threshold(KEPT)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains
        return EXIT_PIPE
    except (WspaceError, OSError) as problem:
        if "--debug" in arguments:
            raise
        return _failed(_one_line(problem), EXIT_USER)
    finally:
        gc.set_threshold(*before)


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    top = Parser(
        prog="wspace", description="Weight-space work on checkpoints: merge, prune, quantize, compare, convert."
    )
    top.add_argument("--version", action="version", version=f"wspace {__version__}")
    group = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    commands: dict[str, Parser] = {}

    def command(name: str, text: str, run: Callable[[argparse.Namespace], int] = _plain) -> Parser:
        made = commands[name] = group.add_parser(name, help=text, description=text)
        made.add_argument("--quiet", action="store_true", help="print errors only")
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(run=run)
        return made

    run = command("run", "Run a recipe (YAML, mergekit's YAML or a Python config) into a folder.", _with_recipe)
    _recipe_arguments(run)
    run.add_argument("out", metavar="OUT", type=Path, help="output folder; complete or absent, never half")
    run.add_argument("--overwrite", action="store_true", help="replace what is in OUT, once the new output is complete")
    run.add_argument("--allow-nonfinite", action="store_true", help="let NaN and infinity through")
    run.add_argument(
        "--bare", action="store_true", help="no ledger, no report, no record of the inputs' files: less CPU time"
    )
    run.add_argument(
        "--digests", action="store_true",
        help="record the sha256 of all that is in the inputs' files, not of headers alone: half a second a GB",
    )  # fmt: skip
    run.add_argument("--restart", action="store_true", help="begin anew, not where a killed run ended")
    run.add_argument(
        "--distributed", metavar="auto|K/N@HOST:PORT",
        help="one of many processes that run this line: auto on TPU pods, SLURM, Open MPI and GKE, else process K of N",
    )  # fmt: skip
    run.add_argument("--seed", type=_seed, metavar="N", help="seed of all that is random (default: the recipe's)")
    _recipe_arguments(command("plan", "Show what a recipe would do and cost, without doing it.", _with_recipe))

    convert = command("convert", "Write a checkpoint in another format.")
    convert.add_argument(
        "source", metavar="SRC", type=_existing, help="safetensors folder or file, Orbax directory, or PEFT adapter"
    )
    convert.add_argument("out", metavar="DST", type=Path, help="output folder")
    convert.add_argument(
        "--to", choices=("safetensors", "orbax", "peft"), help="format of DST (default: the one SRC is not)"
    )
    convert.add_argument("--base", metavar="DIR", type=_existing, help="the model that a PEFT adapter stands on")
    convert.add_argument("--shard-size", type=_size, metavar="SIZE", help="bytes of a shard, such as 5GB")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace what is in DST, once the new one is complete"
    )

    verify = command("verify", "Check a folder against the digests in its manifest.")
    verify.add_argument("folder", metavar="DIR", type=_existing, help="folder that wspace wrote")
    inspect = command("inspect", "List the leaves of a checkpoint: shape, dtype, size, statistics.")
    inspect.add_argument("path", metavar="PATH", type=_existing, help="checkpoint folder or file")
    diff = command("diff", "Compare two checkpoints leaf by leaf: distance, cosine, sign flips, rounding.")
    diff.add_argument("first", metavar="A", type=_existing, help="checkpoint folder or file")
    diff.add_argument("second", metavar="B", type=_existing, help="checkpoint folder or file")
    methods = command("methods", "List the methods, or show one of them.")
    methods.add_argument("name", metavar="NAME", nargs="?", help="a method such as merge.ties, or a room such as prune")
    return top, commands


def _dispatch(arguments: list[str]) -> int:
    top, commands = parser()
    word = next((text for text in arguments if not text.startswith("-")), None)
    if word is not None and word not in commands:
        raise WspaceError(printable(f"no command {word!r}.{nearest(word, commands)}"))
    parsed, extra = top.parse_known_args(arguments)
    if extra:
        option, options = extra[0].partition("=")[0], commands[parsed.command].options
        advice = f" Write it after {parsed.command!r}." if option in options else nearest(option, options)
        raise WspaceError(
            printable(f"{parsed.command} has no argument {option!r}.{advice if option[0] == '-' else ''}")
        )
    return int(parsed.run(parsed))


def _recipe_arguments(command: Parser) -> None:
    command.add_argument(
        "recipe", metavar="RECIPE", type=_recipe, help=".yml, .yaml or .py (a .py recipe runs its code)"
    )
    command.add_argument(
        "--set", dest="sets", action="append", default=[], type=_assignment, metavar="A.B=C", help="override one value"
    )
    command.add_argument(
        "--memory",
        type=_size,
        metavar="SIZE",
        help="anonymous memory that the process may take, such as 4GiB; leaves that don't fit go through in parts",
    )
    command.add_argument(
        "--mesh",
        metavar="NAME=SIZE,...",
        help="spread every leaf over devices, as data=2,model=4; in memory, and --bare",
    )
    command.add_argument(
        "--shard", metavar="PATTERN=AXES", action="append", default=[],
        help="how leaves whose path the pattern finds lie on the mesh, one entry an axis: a name, two joined by +, or "
        "- for none, as 'embed=model,-'; the first rule counts (default: every axis of the mesh, the largest first, "
        "splits the longest axis of a leaf that it divides, so that scalars lie everywhere)",
    )  # fmt: skip
    command.add_argument(
        "--mismatch", choices=("refuse", "intersect", "base", "pad"),
        help="what becomes of leaves that not all models have in one shape (default: the recipe's, else refuse)",
    )  # fmt: skip


def _with_recipe(arguments: argparse.Namespace) -> int:
    if arguments.mesh is not None or arguments.shard or getattr(arguments, "distributed", None):
        _spread(arguments)
    from wspace.app.load import load
    from wspace.app.recipe import check_mismatch
    from wspace.app.sources import check_out, inputs

    arguments.recipe = load(arguments.recipe, arguments.sets)
    if arguments.mismatch is not None:
        arguments.recipe = replace(arguments.recipe, mismatch=arguments.mismatch)
    check_mismatch(arguments.recipe)
    if arguments.command == "run":
        check_out(arguments.out, inputs(arguments.recipe.sources), overwrite=arguments.overwrite)
    return _plain(arguments)


def _spread(arguments: argparse.Namespace) -> None:
    """`mesh` becomes a Spread; the other processes are met before anything asks for devices."""
    from wspace.app.mesh import join, spread

    if arguments.mesh is None or arguments.memory is not None:
        raise WspaceError("--shard and --distributed go with --mesh, which runs in memory: no --memory beside it")
    arguments.mesh = spread(arguments.mesh, arguments.shard)
    if getattr(arguments, "distributed", None):
        join(arguments.distributed)
        from jax import process_index

        arguments.quiet = arguments.quiet or process_index() > 0


def _plain(arguments: argparse.Namespace) -> int:
    from wspace.app.commands import run

    return run(arguments)


def _existing(text: str) -> Path:
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no such file or folder: {text}")
    return Path(text)


def _recipe(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"{'a folder, not a recipe' if Path(text).is_dir() else 'no such file'}: {text}"
        )
    return Path(text)


def _assignment(text: str) -> str:
    from wspace.app.override import assignment

    _argument(assignment, text)
    return text


def _size(text: str) -> int:
    return _argument(bytes_in, text)


def _argument(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except WspaceError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, not {text!r}")
    return int(text)


def _one_line(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return printable(": ".join(str(part) for part in (problem.strerror, problem.filename) if part))
    return str(problem)


def _failed(message: str, code: int) -> int:
    print(f"wspace: error: {message}" if code == EXIT_USER else f"wspace: {message}", file=sys.stderr)
    return code


def _terminate(*_: int | FrameType | None) -> NoReturn:
    """SIGTERM unwinds the main thread, so that every context manager cleans up; a second one doesn't disturb that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
