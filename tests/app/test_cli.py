"""Without this file an argument error could cost the import of jax, and a signal leave a half-written output."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wspace.core.errors import WspaceError
from wspace.core.sizes import bytes_in as size

ROOT = Path(__file__).parents[2]
HEAVY = "{'jax', 'numpy', 'flax', 'orbax', 'matplotlib'}"
WATCHED = f"""
import sys
from wspace.app.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code
print('HEAVY', sorted({HEAVY} & set(sys.modules)))
sys.exit(code)
"""
WORKING = """
import signal, sys, types, pathlib, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and its children too
commands = types.ModuleType('wspace.app.commands')
class Work:
    def __enter__(self): self.path.write_text('half')
    def __exit__(self, *_): self.path.unlink()
def run(arguments):
    work = Work()
    work.path = pathlib.Path(arguments.folder, 'half')
    with work:
        print('working', flush=True)
        time.sleep(60)
commands.run = run
import wspace.app
wspace.app.commands = sys.modules['wspace.app.commands'] = commands
from wspace.app.cli import main
sys.exit(main(['verify', sys.argv[1]]))
"""
PRINTING = WORKING.replace("    work = Work()", "    print('x' * 1_000_000); return 0\n    work = Work()")
FAILING = WORKING.replace("    work = Work()", "    ERROR\n    work = Work()")


def wspace(*arguments: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; fails if something heavy was imported."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WATCHED}", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    out, _, heavy = done.stdout.rpartition("HEAVY ")
    assert heavy == "[]\n"
    return done.returncode, out, done.stderr


def started(script: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_help_and_version_import_nothing_heavy() -> None:
    code, out, err = wspace("--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("run", "plan", "convert", "verify", "inspect", "diff", "methods"))
    assert wspace("run", "--help")[0] == 0
    code, out, _ = wspace("--version")
    assert (code, out.split()[0]) == (0, "wspace")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "a", "b"], "no command 'rnu'. Did you mean 'run'?"),
        ([], "the following arguments are required: COMMAND (see 'wspace --help')"),
        (["run", "good.yml"], "the following arguments are required: OUT (see 'wspace run --help')"),
        (["run", "none.yml", "out"], "argument RECIPE: no such file: none.yml"),
        (["run", ".", "out"], "argument RECIPE: a folder, not a recipe: ."),
        (["run", "good.yml", "out", "--overwite"], "run has no argument '--overwite'. Did you mean '--overwrite'?"),
        (["run", "good.yml", "out", "more"], "run has no argument 'more'."),
        (["--quiet", "run", "good.yml", "out"], "run has no argument '--quiet'. Write it after 'run'."),
        (["run", "good.yml", "out", "--set", "seed"], "must be written as name=value"),
        (["run", "good.yml", "out", "--set", "sede=3"], "--set sede=3: unknown key 'sede'. Did you mean 'seed'?"),
        (["run", "good.yml", "out", "--seed", "-1"], "argument --seed: must be a whole number"),
        (["plan", "bad.yml"], "bad.yml:2: unknown key 'modles'"),
        (["run", "good.yml", "base"], "the output base is the input base (good.yml:1)"),
        (["run", "lost.yml", "out"], "lost.yml:1: no such folder ./nowhere"),
        (["verify", "nowhere"], "argument DIR: no such file or folder: nowhere"),
        (["convert", "base", "out", "--to", "numpy"], "argument --to: invalid choice: 'numpy'"),
        (["convert", "base", "out", "--shard-size", "big"], "argument --shard-size: 'big' is not a size"),
        (["methods", "--quite"], "methods has no argument '--quite'. Did you mean '--quiet'?"),
    ],
)
def test_a_users_error_is_one_line_without_a_traceback(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "good.yml").write_text("sources: {base: base}\nmodels: [base]")
    (tmp_path / "bad.yml").write_text("sources: {base: base}\nmodles: [base]")
    (tmp_path / "lost.yml").write_text("sources: {base: nowhere}\nmodels: [base]")
    code, out, err = wspace(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("wspace: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("models: 3")
    command = [sys.executable, "-m", "wspace.app.cli", "plan", str(tmp_path / "bad.yml"), "--debug"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_cleans_up(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with started(WORKING, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert (tmp_path / "half").exists()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert not (tmp_path / "half").exists()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with started(PRINTING, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(timeout=30)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("raise PermissionError(13, 'Permission denied', '/out')", "wspace: error: Permission denied: /out\n"),
        ("raise OSError(28, 'No space left on device')", "wspace: error: No space left on device\n"),
    ],
)
def test_trouble_with_the_disk_is_one_line(tmp_path: Path, error: str, message: str) -> None:
    with started(FAILING.replace("ERROR", error), tmp_path) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (2, message)


def test_sizes() -> None:
    assert [size(text) for text in ("5GB", "1.5 MiB", "4096", "10k", "2TiB")] == [
        5 * 10**9,
        3 * 2**19,
        4096,
        10**4,
        2**41,
    ]
    for text in ("", "GB", "5PB", "-1MB", "0"):
        with pytest.raises(WspaceError, match="is not a size"):
            size(text)
