"""Kill `wspace run` at random moments until each of two outputs is there, and count what was lost: nothing should be.

    python benchmarks/crash.py --kills 50

A first run is killed until it is done, then one that overwrites another result, and so on in turn. After each kill the
output is absent or the old one to the last byte, or it is the new one; in the end it is that of a run that nothing
interrupted, to the last byte; and what was whole is taken over. Measured on two shared cores: 50 kills, 53 outputs, 546
leaves taken over; after 30 kills the output was absent, after 14 the old one.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measured import CACHE, ROOT
from wspace.io import open_checkpoint, verify, write_folder

RECIPE = """
merge_method: {method}
base_model: ./base
models:
  - {{model: ./a, parameters: {{weight: 1.0, density: 0.5}}}}
  - {{model: ./b, parameters: {{weight: 0.5, density: 0.5}}}}
"""
METHODS = ("ties", "dare_ties")  # what is written, and what may lie there before


def make(folder: Path, leaves: int, rows: int) -> None:
    """Three models of some leaves of `rows` x 1024 numbers."""
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        specs = {f"layers.{i}.weight": ((rows, 1024), np.float32) for i in range(leaves)}
        with write_folder(folder / name, specs, shard_size=8 * rows * 1024 * 4) as sink:
            for leaf in specs:
                sink[leaf] = rng.standard_normal((rows, 1024), np.float32)
    for method in METHODS:
        (folder / f"{method}.yml").write_text(RECIPE.format(method=method))


def start(folder: Path, method: str) -> subprocess.Popen[str]:
    """`wspace run` as a process of its own."""
    command = [sys.executable, "-m", "wspace.app.cli", "run", f"{method}.yml", "out", "--overwrite"]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **CACHE}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def files(folder: Path) -> dict[str, bytes] | None:
    """Every file of an output, None without one."""
    if not folder.exists():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finished(folder: Path, method: str) -> tuple[float, dict[str, bytes] | None]:
    """Seconds and files of a run that nothing interrupts."""
    began = time.perf_counter()
    child = start(folder, method)
    said = child.communicate()[0]
    if child.returncode:
        raise SystemExit(said)
    return time.perf_counter() - began, files(folder / "out")


def loop(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kills and what was found after each; SystemExit at the first wrong thing."""
    whole = {}
    for method in METHODS:
        seconds, whole[method] = finished(folder, method)
        shutil.rmtree(folder / "out")
    print(f"a whole run takes {seconds:.1f} s")
    draw, found = random.Random(seed), Counter[str]()
    before: dict[str, bytes] | None = None
    method = METHODS[0]
    while found["kills"] < kills:
        child = start(folder, method)
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        found["kills"] += child.poll() is None
        child.kill()
        said = child.communicate()[0] or ""
        resumed = re.search(r"resumed: (\d+) of", said)
        found["leaves taken over"] += int(resumed[1]) if resumed else 0
        if (folder / "out").exists():  # opening puts the old one back after a kill between the two renames
            verify(folder / "out")
        elif before is not None:
            open_checkpoint(folder / "out")
        now = files(folder / "out")
        if now not in (before, whole[method]):
            raise SystemExit(f"kill {found['kills']}: the output is neither the old one nor the new one")
        found["absent" if now is None else "old" if now == before else "new"] += 1
        if now == whole[method]:
            found["done"] += 1
            found["done in spite of the kill"] += child.returncode != 0
            if before is None:
                before, method = now, METHODS[1]
            else:
                shutil.rmtree(folder / "out")
                before, method = None, METHODS[0]
    _, last = finished(folder, method)
    if last != whole[method] or [p.name for p in folder.iterdir() if p.name.startswith(".out")]:
        raise SystemExit("the last run left something else than a run that nothing interrupts")
    return found


def main() -> None:
    """Make the models, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leaves", type=int, default=48)
    parser.add_argument("--rows", type=int, default=512)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.leaves, given.rows)
        print(dict(loop(Path(folder), given.kills, given.seed)))


if __name__ == "__main__":
    main()
