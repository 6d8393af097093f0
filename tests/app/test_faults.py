"""Deleted, a bad input could end a run in a traceback, in a half-written folder, or (worst) in a wrong result.

Every fault goes through the command line as a user meets it: one line on stderr, exit code 2, no output folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from wspace.app.cli import main
from wspace.app.execute import open_recipe
from wspace.app.load import load
from wspace.app.resume import resume_key
from wspace.app.weights import check_finite
from wspace.core.errors import NonFinite
from wspace.io import open_checkpoint

RNG = np.random.default_rng(0)
Files = dict[str, np.ndarray]


def leaves(seed: int = 0, **changes: Any) -> Files:
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "layers.0.weight": rng.standard_normal((6, 4)).astype(np.float32),
        "layers.0.bias": rng.standard_normal(6).astype(np.float32),
        "ids": np.arange(5, dtype=np.int64) + 2**40,
    }
    made.update(changes)
    return {k: v for k, v in made.items() if v is not None}


def model(folder: Path, tensors: Files, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("base", 0), ("a", 1), ("b", 2)):
        model(tmp_path / name, leaves(seed))
    (tmp_path / "recipe.yml").write_text(TIES)
    return tmp_path


TIES = """
merge_method: ties
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 1.0, density: 0.5}}
  - {model: ./b, parameters: {weight: 0.5, density: 0.5}}
"""
OURS = "sources: {a: ./a, b: ./b, base: ./base}\nmodels: [a, b]\nbase: base\nsteps:\n  - merge.ties: {density: 0.5}\n"


def fails(here: Path, capsys: pytest.CaptureFixture[str], *words: str, args: tuple[str, ...] = ()) -> str:
    """Runs recipe.yml into out; it must fail in one line that has all words and leave nothing."""
    code = main(["run", "recipe.yml", "out", *args])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("wspace: error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert [word for word in words if word not in error] == [], error
    assert not (here / "out").exists()
    assert [p.name for p in here.iterdir() if p.name.startswith(".")] == []
    return error


def runs(*args: str) -> None:
    assert main(["run", "recipe.yml", "out", "--quiet", *args]) == 0


TREES: dict[int, list[tuple[Files, tuple[str, ...]]]] = {
    1: [
        (leaves(2, **{"layers.0.bias": None}), ("tree 2 (b)", "lacks layers.0.bias", "--mismatch")),
        (leaves(2, extra=np.ones(2, np.float32)), ("has also extra",)),
    ],
    2: [
        (leaves(2, **{"layers.0.weight": np.ones((4, 6), np.float32)}), ("layers.0.weight", "(6, 4)", "transposed")),
        (leaves(2, **{"layers.0.weight": np.ones((7, 4), np.float32)}), ("(6, 4)", "(7, 4)", "vocabulary")),
    ],
    3: [(leaves(2, **{"layers.0.bias": np.ones(1, np.float32)}), ("layers.0.bias", "(6,)", "(1,)"))],
    5: [(leaves(2, ids=np.arange(5, dtype=np.int64)), ("ids", "disagree"))],
    6: [
        (leaves(2, **{"layers.0.bias": np.array([0, 1, np.nan, np.inf, 0, 0], np.float32)}),
         ("b: layers.0.bias", "2 of 6", "(2,)", "--allow-nonfinite")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("fault", "case"), [(n, i) for n, cases in TREES.items() for i in range(len(cases))])
def test_trees_that_do_not_fit(here: Path, capsys: pytest.CaptureFixture[str], fault: int, case: int) -> None:
    tensors, words = TREES[fault][case]
    model(here / "b", tensors)
    fails(here, capsys, *words)


def test_fault_4_dtypes_differ(here: Path) -> None:
    """Merged in float32, written in the first model's dtype."""
    mixed = leaves(2)
    mixed["layers.0.weight"] = mixed["layers.0.weight"].astype(ml_dtypes.bfloat16)
    model(here / "b", mixed)
    runs()
    from wspace.io import open_checkpoint

    assert open_checkpoint(here / "out").specs["layers.0.weight"].dtype == np.float32


def test_fault_6_allowed(here: Path) -> None:
    model(here / "b", leaves(2, **{"layers.0.bias": np.full(6, np.nan, np.float32)}))
    runs("--allow-nonfinite")


def test_fault_7_zero_task_vectors(here: Path) -> None:
    for name in "ab":
        model(here / name, leaves(0))
    runs()
    from wspace.io import open_checkpoint

    for name, leaf in open_checkpoint(here / "out").items():
        np.testing.assert_array_equal(leaf, leaves(0)[name])


def test_fault_8_empty_and_scalar_leaves(here: Path) -> None:
    extra = {"none": np.zeros((0, 3), np.float32), "scalar": np.array(2.5, np.float32)}
    for name, seed in (("base", 0), ("a", 1), ("b", 2)):
        model(here / name, leaves(seed, **extra))
    runs()
    from wspace.io import open_checkpoint

    out = open_checkpoint(here / "out")
    assert out["none"].shape == (0, 3) and out["scalar"] == np.float32(2.5)


def test_fault_9_names_are_printed_safely(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(here / "b", leaves(2, **{"evil\x1b[31m\n../x": np.ones(1, np.float32)}))
    assert "\x1b" not in fails(here, capsys, "\\x1b[31m\\n../x")


def broken(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "12 empty": (lambda b: b"", "b/model.safetensors"),
    "12 seven bytes": (lambda b: b"1234567", "b/model.safetensors"),
    "12 no json": (lambda b: (8).to_bytes(8, "little") + b"no json!", "b/model.safetensors"),
    "13 header of 2^63": (lambda b: (2**63).to_bytes(8, "little") + b[8:], "header"),
    "13 header beyond the file": (lambda b: (10**6).to_bytes(8, "little") + b[8:], "header"),
    "14 trailing bytes": (lambda b: b + b"1234", "b/model.safetensors"),
    "15 shape and bytes disagree": (lambda b: b.replace(b"[6,4]", b"[6,5]"), "layers.0.weight"),
    "16 duplicate key": (lambda b: renamed(b), "layers.0.bias"),
    "17 truncated": (lambda b: b[:-7], "bytes"),
    "19 unknown dtype": (lambda b: b.replace(b'"I64"', b'"F4" '), "b/model.safetensors"),
}


def renamed(raw: bytes) -> bytes:
    """The header with one tensor's name twice."""
    size = int.from_bytes(raw[:8], "little")
    entry = b'{"layers.0.bias":{"dtype":"F32","shape":[6],"data_offsets":[0,0]},'
    header = entry + raw[8 : 8 + size].lstrip()[1:]
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, word = BROKEN[case]
    broken(here / "b", change)
    fails(here, capsys, word)


def test_fault_18_flipped_bit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs()
    file = here / "out" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert main(["verify", "out"]) == 2
    assert "layers.0.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ({"layers.0.weight": "../outside.safetensors"}, "outside"),
        ({"layers.0.weight": "/etc/passwd"}, "passwd"),
        ({"layers.0.weight": "https://example.org/x.safetensors"}, "x.safetensors"),
        ({"layers.0.weight": "gone.safetensors", "x": "gone2.safetensors"}, "gone2.safetensors"),
        ({"absent": "part.safetensors"}, "absent"),
    ],
    ids=["20 parent", "20 absolute", "20 url", "21 missing shard", "21 missing tensor"],
)
def test_index_attacks(here: Path, capsys: pytest.CaptureFixture[str], weights: dict[str, str], word: str) -> None:
    (here / "b" / "model.safetensors").rename(here / "b" / "part.safetensors")
    (here / "b" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    fails(here, capsys, word)


def test_fault_22_tensor_in_two_shards(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = leaves(2)
    save_file(tensors, here / "b" / "one.safetensors")
    save_file({"ids": tensors["ids"]}, here / "b" / "two.safetensors")
    (here / "b" / "model.safetensors").unlink()
    where = {name: "one.safetensors" for name in tensors} | {"ids": "two.safetensors"}
    (here / "b" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    fails(here, capsys, "ids", "one.safetensors")


def test_fault_23_pickles(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "b" / "model.safetensors").rename(here / "b" / "pytorch_model.bin")
    fails(here, capsys, "pytorch_model.bin", "pickle")


RECIPES = {
    "24 unknown key": (TIES.replace("models:", "modles:"), ("recipe.yml:", "modles", "models")),
    "24 unknown method": (TIES.replace("ties", "tiess"), ("recipe.yml:2", "tiess", "ties")),
    "24 unknown parameter": (TIES.replace("density", "densty"), ("densty", "density")),
    "24 out of range": (TIES.replace("density: 0.5", "density: 1.5"), ("1.5",)),
    "24 wrong type": (TIES.replace("density: 0.5", "density: much"), ("much",)),
    "24 our step": (OURS.replace("merge.ties", "merge.tise"), ("merge.tise", "merge.ties")),
    "24 our argument": (OURS.replace("density", "dense"), ("dense", "density")),
    "25 duplicate key": (TIES + "merge_method: linear\n", ("merge_method", "recipe.yml:7", "2")),
    "25 object": (TIES + "name: !!python/object:os.system {}\n", ("python/object",)),
    "25 large": (TIES + "#" * 1_100_000, ("1100163 bytes", "1000000")),
    "26 weights of zero": (
        TIES.replace("ties", "task_arithmetic").replace("0.5, density", "-1.0, density")
        + "parameters: {normalize: true}\n",
        ("zero",),
    ),
    "26 base among the models": (OURS.replace("[a, b]", "[a, base]"), ("base",)),
    "27 hub name": (TIES.replace("./b", "meta/llama"), ("meta/llama", "folder")),
    "27 url": (OURS.replace("./b", "https://example.org/b"), ("https://example.org/b",)),
}


def test_fault_6_a_part_of_a_leaf_says_where_in_the_leaf() -> None:
    with pytest.raises(NonFinite, match=r"the result: w has 1 of 4 values .* the first at \(6, 1\)"):
        check_finite(np.array([[0, 1], [2, np.inf]], np.float32), "w", "the result", [5])


@pytest.mark.parametrize("case", RECIPES)
def test_bad_recipes(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, words = RECIPES[case]
    (here / "recipe.yml").write_text(text)
    fails(here, capsys, *words)


def test_fault_25_a_number_in_exponent_form(here: Path) -> None:
    (here / "recipe.yml").write_text(TIES.replace("density: 0.5", "density: 5e-1"))
    runs()


def test_fault_26_density_one_is_the_identity_for_one_model(here: Path) -> None:
    (here / "recipe.yml").write_text(OURS.replace("[a, b]", "[a]").replace("0.5", "1.0"))
    runs()
    from wspace.io import open_checkpoint

    out, a = open_checkpoint(here / "out"), open_checkpoint(here / "a")
    for name in a:
        np.testing.assert_allclose(out[name], a[name], rtol=0, atol=4e-7)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_fault_30_no_permission(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here.chmod(0o500)
    try:
        assert main(["run", "recipe.yml", "out"]) == 2
        assert "permission" in capsys.readouterr().err.lower()
    finally:
        here.chmod(0o700)


def test_fault_30_too_little_room(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    fails(here, capsys, "10 are free")


def test_fault_31_output_exists_or_is_an_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs()
    before = (here / "out" / "model.safetensors").read_bytes()
    assert main(["run", "recipe.yml", "out"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["run", "recipe.yml", "a", "--overwrite"]) == 2
    assert "is the input" in capsys.readouterr().err
    runs("--overwrite")
    assert (here / "out" / "model.safetensors").read_bytes() == before


def test_fault_32_an_input_changes_meanwhile(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wspace.app import execute

    real = execute.transfer

    def meddle(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        broken(here / "a", lambda b: b + b"more")

    monkeypatch.setattr(execute, "transfer", meddle)
    fails(here, capsys, "a/model.safetensors", "changed")


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and its children too
from wspace.app import execute, cli
real = execute.transfer
def wait(*args, **kwargs):
    print("running", flush=True)
    time.sleep(30)
    real(*args, **kwargs)
execute.transfer = wait
sys.exit(cli.main(["run", "recipe.yml", "out", "--quiet"]))
"""


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_fault_38_signals_clean_up(here: Path, signal: str, code: int) -> None:
    import signal as signals

    path = os.pathsep.join([str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=here, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert child.stdout is not None and child.stdout.readline() == b"running\n"
    assert [p.name for p in here.iterdir() if p.name.startswith(".out")], "nothing was being written"
    child.send_signal(getattr(signals, signal))
    assert child.wait(20) == code
    assert not [p.name for p in here.iterdir() if "out" in p.name]


def test_fault_39_a_rerun_is_byte_identical(here: Path) -> None:
    (here / "recipe.yml").write_text(TIES.replace("merge_method: ties", "merge_method: dare_ties"))
    runs()
    first = {p.name: p.read_bytes() for p in (here / "out").rglob("*") if p.is_file()}
    runs("--overwrite")
    assert {p.name: p.read_bytes() for p in (here / "out").rglob("*") if p.is_file()} == first


def test_a_bare_run_has_the_same_weights_and_no_records(here: Path) -> None:
    runs()
    first = (here / "out" / "model.safetensors").read_bytes()
    runs("--overwrite", "--bare")
    assert (here / "out" / "model.safetensors").read_bytes() == first
    found = {p.name for p in (here / "out").iterdir()}
    assert not found & {"report.html", "ledger.json"} and {"config.json", "wspace-manifest.json"} <= found


KILLED = """
import os, signal, sys
from wspace.app import cli
from wspace.io import journal
add, left = journal.Journal.add, int(sys.argv[1])
def watched(self, fact):
    global left
    add(self, fact)
    left -= "done" in fact
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.add = watched
cli.main(["run", "recipe.py", "out", "--quiet", *sys.argv[2:]])
"""


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


PYTHON = """
import jax, numpy as np, wspace as ws
from wspace.app import Recipe

TABLE = np.linspace(0, 1, 6, dtype=np.float32)

def recipe(scale: float = 0.5, callback: bool = False):
    def mine(leaves, ctx):
        w = leaves[0] * scale + np.resize(TABLE, leaves[0].shape)
        return jax.pure_callback(lambda w: w, jax.ShapeDtypeStruct(w.shape, w.dtype), w) if callback else w

    steps = (ws.merge.dare(density=0.5), ws.leafwise("mine", mine))
    return Recipe({"base": "./base", "a": "./a"}, models=("a",), base="base", steps=steps)
"""


def test_fault_28_a_killed_run_goes_on_where_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a recipe in Python, and in another process: what its code does is known from the programs of the leaves."""
    recipe = here / "recipe.py"
    recipe.write_text(PYTHON)
    assert main(["run", "recipe.py", "out", "--quiet"]) == 0
    once = everything(here / "out")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    command = [sys.executable, "-c", KILLED, "2", "--overwrite"]
    assert subprocess.run(command, cwd=here, env={**os.environ, "PYTHONPATH": path}).returncode == -9
    assert everything(here / "out") == once  # fault 29: the old one stays
    left = sorted(here.glob(".out.wspace-tmp-*"))
    for entry in left:
        entry.rename(entry.with_name(f"kept{entry.name}"))

    def again(*options: str) -> str:
        for entry in left:
            kept = entry.with_name(f"kept{entry.name}")
            shutil.copytree(kept, entry) if kept.is_dir() else shutil.copy(kept, entry)
        assert main(["run", "recipe.py", "out", "--overwrite", *options]) == 0
        assert not list(here.glob(".out*"))
        return capsys.readouterr().out

    count, anew = len(open_checkpoint(here / "a").specs), "begun anew, not from what a run that died left: "
    assert f"resumed: 2 of {count} leaves" in again()
    assert {"report.html", "ledger.json"} <= once.keys() and everything(here / "out") == once
    assert f"{anew}pure_callback calls Python: " in again("--set", "callback=true")
    assert f"{anew}as asked for\n" in again("--restart")
    os.utime(here / "a" / "model.safetensors")
    assert f"{anew}that was another run\n" in again()
    assert everything(here / "out") == once


def test_a_run_is_known_by_what_it_computes_and_not_by_its_text(here: Path) -> None:
    def key(text: str, *sets: str, seed: int = 0, bare: bool = False) -> str | None:
        file = here / ("recipe.py" if "import" in text else "recipe.yml")
        file.write_text(text)
        recipe = replace(load(file, sets), seed=seed)
        return resume_key(open_recipe(recipe, lambda label: lambda *told: None), bare)[0]

    one = key(PYTHON)
    assert one is not None and one == key(PYTHON.replace("def mine", "# a note\n    def mine"))
    others = [
        key(PYTHON, "scale=0.25"),
        key(PYTHON, seed=7),
        key(PYTHON, bare=True),
        key(PYTHON.replace("1, 6", "2, 6")),
    ]
    assert len({one, *others}) == 5 and None not in others
    two = key(OURS)
    assert two is not None and two == key(f"# a note\n{OURS}seed: 3\n")  # nothing in it is random
    assert len({two, key(OURS.replace("0.5", "0.25")), key(OURS.replace("[a, b]", "[b, a]")), key(TIES)}) == 4


def test_fault_45_unfinished_orbax(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (here / "b").iterdir():
        file.unlink()
    (here / "b" / "d").mkdir()
    fails(here, capsys, "b", "not recognised")


def test_fault_46_companions_come_from_the_base(here: Path) -> None:
    model(here / "b", leaves(2), hidden=7)
    runs()
    assert json.loads((here / "out" / "config.json").read_text()) == {"model_type": "bert"}
    assert (here / "out" / "tokenizer.json").read_text() == "{}"
    assert "hidden" in (here / "out" / "report.html").read_text()


def test_fault_47_a_package_that_is_not_installed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "recipe.yml").write_text(OURS.replace("base: ./base", "base: {package: no_such_model}"))
    fails(here, capsys, "no_such_model", "pip install")


def test_fault_48_the_package_opens_no_connection() -> None:
    """No module of the package imports a network client; see also test_style."""
    clients = "('requests', 'httpx', 'huggingface_hub')"
    code = f"import sys, wspace.app.cli, wspace.io, wspace.app.load; print([m for m in {clients} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr


MEMORY = """
import json, sys, threading, time
from pathlib import Path
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l for l in lines if l.startswith("RssAnon")).split()[1]) * 1024
import jax, wspace as ws
from wspace.app.execute import run_recipe
from wspace.app.load import load
jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.numpy.ones(3)))
before, peak, running = anonymous(), [0], [True]
def watch():
    while running[0]:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
_, result = run_recipe(load("recipe.yml"), Path("out"), lambda label: lambda done, total, what: None)
running[0] = False; thread.join()
print(json.dumps([peak[0] - before, peak[0], result.predicted, result.actual]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of a process")
def test_fault_37_a_model_streams_in_a_few_leaves_of_memory(here: Path) -> None:
    """2 models of 12 leaves of 32 MiB: (inputs + 1) leaves and 300 MiB for all else; models and result are 1.1 GiB."""
    leaf, count = 32 * 2**20, 12
    block = RNG.standard_normal((leaf // 4 // 1024, 1024)).astype(np.float32)
    for k, name in enumerate("ab"):
        model(here / name, {f"layers.{i}.weight": np.roll(block, i + k, axis=0) for i in range(count)})
    models = "[{model: ./a, parameters: {weight: 0.5}}, {model: ./b, parameters: {weight: 0.5}}]"
    (here / "recipe.yml").write_text(f"merge_method: linear\nmodels: {models}\n")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=here, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    used, peak, predicted, actual = json.loads(done.stdout.splitlines()[-1])
    assert used <= 3 * leaf + 300 * 2**20, f"{used / 2**20:.0f} MiB"
    assert predicted[:3] == actual[:3] == [3 * count * leaf, count * leaf, 1]  # two models, and one for the ledger
    assert 0.85 < predicted[3] / peak < 1.15 and 0.95 < actual[3] / peak <= 1, (predicted, actual, peak)
    assert predicted[4] is not None
