"""Merge, global prune and calibrated GPTQ by many processes: the same lines on a TPU pod, a GPU cluster, or loopback.

    python configs/pod/jobs.py /shared/out                    # once on every host of a pod; SLURM: srun python ...
    python configs/pod/jobs.py out/pod --loopback 4           # 4 processes with 2 CPU devices each, on this machine

Every process reads its own bytes of each checkpoint onto the mesh, computes, and writes its own bytes of each output,
which appears when the last process is done. The models here are small and random, so that the numbers of one process
can be compared: merge and prune are equal to the last bit; a Gram matrix is a sum over devices, so GPTQ is equal but
for rounding.

Hardware: any; 2 CPU cores take 15 s for two processes. See README.md beside this file for launch lines.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws

MODELS = ("base", "a", "b", "c")
SHAPES = {"up": {"kernel": (16, 32), "bias": (32,)}, "layers": {"kernel": (2, 32, 32)}, "down": {"kernel": (32, 16)}}
LIMIT, GRACE = 300, 3  # seconds that loopback processes may take, and that they may outlive one that failed


def apply(params: Any, x: Any) -> Any:
    """A small net with stacked layers."""
    x = jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"][None])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"]["kernel"])[0]
    return x @ params["down"]["kernel"]


def inputs(folder: Path) -> None:
    """A base and three models near it, as checkpoints."""
    rng = np.random.default_rng(0)

    def normal(scale: float) -> Any:
        is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
        return jax.tree.map(lambda s: scale * rng.standard_normal(s).astype(np.float32), SHAPES, is_leaf=is_shape)

    base = normal(0.3)
    for name in MODELS:
        tree = base if name == "base" else jax.tree.map(np.add, base, normal(0.1))
        ws.io.save(folder / name, {**tree, "step": np.int32(7)}, overwrite=True)


def run(source: Path, out: Path, mesh: jax.sharding.Mesh | None, orbax: bool = True) -> None:
    """The three jobs, on a mesh or as one process would do them. orbax: the merged model in this format, too."""
    place = None if mesh is None else ws.placement(mesh)
    base, *models = (jax.tree.map(jnp.asarray, ws.io.load(source / name, sharding=place)) for name in MODELS)
    small = ws.chain(
        ws.merge.ties(density=0.5),
        ws.on("kernel$", ws.prune.magnitude(0.5)),
        ws.on("kernel$", ws.quant.rtn(bits=4, group=8)),
    )
    merged = small(*models, base=base)
    ws.io.save(out / "merged", merged, overwrite=True)
    if orbax:
        ws.io.write_orbax(out / "merged-orbax", ws.materialize(merged), overwrite=True)
    ws.io.save(out / "pruned", ws.prune.magnitude(0.5, scope="global")(models[0]), overwrite=True)

    batches = [np.random.default_rng(k).standard_normal((64, 16)).astype(np.float32) for k in range(2)]
    if mesh is not None:
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names[0]))
        batches = [jax.make_array_from_callback(x.shape, rows, x.__getitem__) for x in batches]
    gram = ws.calibrate(apply, models[0], batches, "gram")["gram"]
    solved = ws.on("kernel$", ws.quant.gptq(bits=4, group=16))(models[0], gram=gram)
    ws.io.save(out / "gptq", ws.materialize(solved), overwrite=True)


def work(source: Path, out: Path, data: int, orbax: bool = True) -> None:
    """What one of many processes does."""
    began = time.perf_counter()
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((data, jax.device_count() // data), ("data", "model"), axis_types=auto)
    run(source, out, mesh, orbax)
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, mesh {dict(mesh.shape)}: {time.perf_counter() - began:.1f} s")


def loopback(line: list[str], count: int, devices: int = 2) -> list[int]:
    """A Python command line as `count` processes on this machine; their exit codes. None outlives LIMIT seconds, nor
    another that failed by more than a few."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"  # the last one counts
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *line, "--coordinator", address, "--process"]
    children = [subprocess.Popen([*command, f"{k}/{count}"], env=environment) for k in range(count)]
    end = time.monotonic() + LIMIT
    try:
        while any(child.poll() is None for child in children) and time.monotonic() < end:
            if any(child.poll() for child in children):
                end = min(end, time.monotonic() + GRACE)
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()
    return [child.wait() for child in children]


def join(coordinator: str | None, process: str | None) -> None:
    """Meet the other processes: where jax can't find them by itself, at the coordinator's address, as K of N."""
    if coordinator is None or process is None:
        jax.distributed.initialize()
        return
    index, count = map(int, process.split("/"))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=10)


def compared(found: Path, wanted: Path) -> bool:
    """Prints how far two folders of results are apart; whether merge and prune are equal to the last bit."""
    good = True
    for name in ("merged", "merged-orbax", "pruned", "gptq"):
        a, b = ws.io.open_checkpoint(found / name), ws.io.open_checkpoint(wanted / name)
        far = max(float(np.max(np.abs(a[k].astype(float) - b[k].astype(float)))) for k in b)
        equal = all(a[k].tobytes() == b[k].tobytes() for k in b)
        print(f"{name}: {'equal to the last bit' if equal else f'at most {far:.1e} apart'}")
        good &= equal or (name == "gptq" and far < 1e-6)
    return good


def main() -> None:
    """Parses the flags; joins the other processes, or starts them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, help="where the models lie (default: made in OUT/in)")
    parser.add_argument("--loopback", type=int, metavar="N", help="start N processes on this machine, and compare")
    parser.add_argument("--data", type=int, default=2, help="size of the mesh's data axis")
    parser.add_argument("--coordinator", help="address, where jax can't find it by itself")
    parser.add_argument("--process", help="K/N, where jax can't find it by itself")
    given = parser.parse_args()
    source = given.source or given.out / "in"
    if given.loopback:
        inputs(source)
        codes = loopback([__file__, str(given.out), "--source", str(source)], given.loopback)
        run(source, given.out / "one", None)
        sys.exit(any(codes) or not compared(given.out, given.out / "one"))
    join(given.coordinator, given.process)
    work(source, given.out, given.data)


if __name__ == "__main__":
    main()
