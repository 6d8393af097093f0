"""Layer solvers against the published torch codes on the same CPU, in one run: seconds, their ratios, and errors.

    python benchmarks/quant.py .peers/bin/python FOLDER          # a layer of 5632 inputs and 2048 outputs
    python benchmarks/quant.py .peers/bin/python FOLDER --inputs 512 --outputs 256 --tokens 1024

FOLDER holds IST-DASLab/gptq and mit-han-lab/llm-awq as gptq and llm-awq (see benchmarks/quant_numbers.py). Both sides
take turns, job by job, so that a load on the machine falls on both; the ratio is of CPU seconds, the best of each.
Compilation is what the first call takes more than the best one, CPU seconds too; it is in no ratio. QuantEase (5 sweeps
from rounding) has no published code at hand: it is set against our GPTQ. On a machine that is busy with other things
run it on one core (`taskset -c 0 python ...`): threads that wait for each other burn CPU.

Measured so, on one core of a machine with a load of 4 on 2 cores (torch 2.14.1, jax 0.10.2, int4, group 128, factor
included in GPTQ), CPU seconds, torch / ours, and what it was when errors were carried on to all later inputs:

                       5632 x 2048, 8192 tokens     2048 x 1024, 4096 tokens     error
    Gram matrix            4.24 / 3.24   1.31          0.23 / 0.21   1.14
    factor                 4.51 / 1.30   3.48          0.29 / 0.07   4.31  (2.69)
    RTN                                                0.03 / 0.01   5.1         .010124
    GPTQ                   6.05 / 2.03   2.99 (1.81)   0.71 / 0.16   4.32  (3.26)  .001691 (ours .001692)
    GPTQ, act-order                                    0.81 / 0.19   4.32  (3.07)  .000804
    AWQ                   44.66 / 7.32   6.10          2.97 / 0.68   4.37  (2.97)  .008975
    QuantEase (GPTQ / it)  2.03 / 6.62   0.31          0.16 / 0.53   0.31        .001538

The factor is what GPTQ needs of the Gram matrix: in torch the Cholesky factor of its inverse, here its own (reversed).

What bounds it: XLA's matrix products on the CPU run at 100 to 130 GFLOP/s on one core, those of torch at 140 to 165;
LAPACK's Cholesky at 40 to 55 in both, which is why large factors are made by halves. Five sweeps of QuantEase are 651
GFLOP of products in the large layer, 43 in the small one, so that it runs at five sixths of that rate; GPTQ has a
tenth of these. A Gram matrix is a product of half the size, in parts that are no faster each: columns of a matrix lie
apart in memory.

Compilation: 1 to 4 CPU seconds. A tree of 16 layers of one shape compiles no more programs than one layer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import wspace as ws
from benchmarks.measured import write
from wspace.core.axes import Axes
from wspace.quant.gptq import upper_factor
from wspace.stats.seen import Rows, Seen

GROUP = 128


def problem(inputs: int, outputs: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """w [in, out] and correlated x [tokens, in], float32."""
    rng = np.random.default_rng(0)
    few = inputs // 8
    x = rng.standard_normal((tokens, few), np.float32) @ rng.standard_normal((few, inputs), np.float32) / few**0.5
    x += 0.3 * rng.standard_normal((tokens, inputs), np.float32)
    return rng.standard_normal((inputs, outputs), np.float32), x * np.exp(rng.standard_normal(inputs, np.float32) / 2)


def ours(w: jax.Array, x: jax.Array) -> dict[str, Callable[[], Any]]:
    """Our side of each job; what quantizes gives its leaf."""
    params, size = {"kernel": w}, {"kernel": jnp.mean(jnp.abs(x), axis=0)}
    fold = ws.stats.gram()
    product = jax.jit(lambda x: fold.finish(fold.lift(Seen(Rows(x), None))))
    gram = {"kernel": product(x)}
    damped = gram["kernel"] + 0.01 * jnp.mean(jnp.diagonal(gram["kernel"])) * jnp.eye(len(w))
    factor = jax.jit(upper_factor)
    how: dict[str, Any] = {"bits": 4, "group": GROUP, "symmetric": False}

    def leaf(t: ws.Transform, **sides: Any) -> Callable[[], Any]:
        return lambda: t(params, axes=Axes(), **sides)["kernel"]

    return {
        "gram": lambda: product(x),
        "factor": lambda: factor(damped),
        "rtn": leaf(ws.quant.rtn(**how)),
        "gptq": leaf(ws.quant.gptq(**how), gram=gram),
        "gptq_act_order": leaf(ws.quant.gptq(**how, act_order=True), gram=gram),
        "awq": leaf(ws.quant.awq(**how), gram=gram, abs_mean=size),
        "quantease": leaf(ws.quant.quantease(**how, sweeps=5), gram=gram),
    }


def timed(job: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds of one call, and what it gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = jax.block_until_ready(job())
    return time.perf_counter() - wall, time.process_time() - cpu, made


def compiled(shapes: int) -> int:
    """How many programs GPTQ on a tree of that many layers of one shape compiles."""
    seen: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *a, **k: seen.append(name) if name.endswith("backend_compile_duration") else None
    )
    rng = np.random.default_rng(1)
    params = {f"layer{k}": {"kernel": jnp.asarray(rng.standard_normal((96, 64)), jnp.float32)} for k in range(shapes)}
    gram = {name: {"kernel": jnp.eye(96)} for name in params}
    ws.quant.gptq(4, 32)({"layer0": params["layer0"]}, gram={"layer0": gram["layer0"]})
    once = len(seen)
    ws.quant.gptq(4, 32)(params, gram=gram)
    return len(seen) - once


def main() -> None:
    """A table: job, seconds of both, ratio, compilation, errors of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="an interpreter with torch and transformers")
    parser.add_argument("folder", help="with the repositories gptq and llm-awq")
    parser.add_argument("--inputs", type=int, default=5632)
    parser.add_argument("--outputs", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="jobs: gram factor rtn gptq gptq_act_order awq quantease")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    w, x = problem(given.inputs, given.outputs, given.tokens)
    with tempfile.TemporaryDirectory() as held:
        np.savez(Path(held) / "problem.npz", allow_pickle=False, w=w, x=x)
        worker = Path(__file__).with_name("quant_torch.py")
        command = [given.python, str(worker), given.folder, f"{held}/problem.npz"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            jobs = ours(jnp.asarray(w), jnp.asarray(x))
            rows = run(peer, {name: jobs[name] for name in given.only or jobs}, given.rounds, w, x)
    write(given.json, "quant", {"layer": w.shape, "tokens": given.tokens, "rows": rows})
    print(f"a tree of 16 layers of one shape compiles {compiled(16)} programs more than one layer does")


def run(peer: Any, jobs: dict[str, Callable[[], Any]], rounds: int, w: np.ndarray, x: np.ndarray) -> dict[str, Any]:
    """Turn by turn, printed as a table; CPU seconds of both for each job."""
    rows: dict[str, Any] = {}

    def torch(job: str) -> dict[str, Any]:
        print(job, file=peer.stdin, flush=True)
        return dict(json.loads(peer.stdout.readline()))

    print(f"{json.loads(peer.stdout.readline())}, jax {jax.__version__}, layer {w.shape}, {len(x)} tokens")
    print(
        f"{'':16}{'torch CPU s':>12}{'ours CPU s':>12}{'ratio':>8}{'torch s':>10}{'ours s':>9}{'compile s':>11}  errors"
    )
    gram = x.T @ x
    scale = float(np.sum(w * (gram @ w), dtype=np.float64))
    best: dict[str, float] = {}
    for name, job in jobs.items():
        _, first, made = timed(job)
        mine, theirs = [], []
        for _ in range(rounds):
            mine.append(timed(job)[:2])
            theirs.append(None if name == "quantease" else torch(name))
        wall, cpu = (min(turn[k] for turn in mine) for k in range(2))
        best[name] = cpu
        known = [t for t in theirs if t is not None]
        other = min((t["cpu"] for t in known), default=best.get("gptq", 0.0))
        error = f"{known[0]['error']:.6f}" if known and known[0]["error"] is not None else ""
        if name not in ("gram", "factor"):
            e = np.asarray(made.materialize()) - w
            error += f" {float(np.sum(e * (gram @ e), dtype=np.float64)) / scale:.6f}"
        lasted = min((t["wall"] for t in known), default=float("nan"))
        print(
            f"{name:16}{other:12.2f}{cpu:12.2f}{other / max(cpu, 1e-9):8.2f}{lasted:10.2f}{wall:9.2f}"
            f"{max(first - cpu, 0):11.2f}  {error}",
            flush=True,
        )
        rows[name] = {"peer cpu": other if known else None, "cpu": cpu, "compile cpu": max(first - cpu, 0)}
    return rows


if __name__ == "__main__":
    main()
