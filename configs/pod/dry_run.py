"""What a pod would hold and send, without a pod: Llama 70 B and 405 B, abstract, on 256 devices.

    python configs/pod/dry_run.py                                  # 256 virtual CPU devices
    python configs/pod/dry_run.py --topology v5e:16x16             # compiled for that TPU pod, no TPU needed: libtpu

For every method one layer and the embedding are compiled as one program on the mesh (all layers are alike), and its
text is searched for collectives. A leaf-wise merge sends nothing. A statistic of a leaf, or of all, is a small sum over
the devices: a count or a histogram, never a leaf. No weight is allocated.

Hardware: 2 CPU cores. Time: 40 s of CPU a model and topology. Expected (jax 0.10.2, libtpu 0.0.51): the tables in
README.md beside this file.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

if __name__ == "__main__":  # before jax is asked for devices
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=256".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

import wspace as ws
from wspace.core.sizes import size

Shapes = Mapping[str, tuple[int, ...]]


class Llama(NamedTuple):
    """The numbers that give all shapes."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv: int
    vocab: int
    head: int = 128

    def layer(self, n: int) -> Shapes:
        """One block, as Hugging Face names it: torch's [out, in]."""
        at, wide, keys = f"model.layers.{n}.", self.heads * self.head, self.kv * self.head
        return {
            f"{at}self_attn.q_proj.weight": (wide, self.width),
            f"{at}self_attn.k_proj.weight": (keys, self.width),
            f"{at}self_attn.v_proj.weight": (keys, self.width),
            f"{at}self_attn.o_proj.weight": (self.width, wide),
            f"{at}mlp.gate_proj.weight": (self.hidden, self.width),
            f"{at}mlp.up_proj.weight": (self.hidden, self.width),
            f"{at}mlp.down_proj.weight": (self.width, self.hidden),
            f"{at}input_layernorm.weight": (self.width,),
            f"{at}post_attention_layernorm.weight": (self.width,),
        }

    def around(self) -> Shapes:
        """What is no layer."""
        both = (self.vocab, self.width)
        return {"model.embed_tokens.weight": both, "model.norm.weight": (self.width,), "lm_head.weight": both}

    def shapes(self) -> Shapes:
        """All leaves."""
        return {**self.around(), **{k: v for n in range(self.layers) for k, v in self.layer(n).items()}}


MODELS = {
    "tiny": Llama(2, 4096, 8192, 32, 8, 32000),
    "70B": Llama(80, 8192, 28672, 64, 8, 128256),
    "405B": Llama(126, 16384, 53248, 128, 8, 128256),
}
MERGES = {
    "task_arithmetic": lambda: ws.merge.task_arithmetic(lam=0.4),
    "dare": lambda: ws.merge.dare(density=0.5),
    "ties": lambda: ws.merge.ties(density=0.2),
}
OTHERS = {
    "rtn 4 bits": lambda: ws.on("proj", ws.quant.rtn(bits=4, group=128)),
    "magnitude": lambda: ws.prune.magnitude(0.5),
    "magnitude, global": lambda: ws.prune.magnitude(0.5, scope="global"),
}
COLLECTIVE = re.compile(
    r"= (\(?[^=]*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Kind -> how many, and the bytes of the largest, in the text of a compiled program."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in COLLECTIVE.findall(text):
        numbers = (
            math.prod(map(int, filter(None, n.split(",")))) * int(bits) // 8 for _, bits, n in ARRAY.findall(shapes)
        )
        count, most = found.get(kind, (0, 0))
        found[kind] = (count + 1, max(most, sum(numbers)))
    return found


def abstract(shapes: Shapes, place: Any) -> dict[str, Any]:
    """bfloat16 leaves that know where they would lie."""
    return {k: jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place(k, s)) for k, s in shapes.items()}


def share(tree: Mapping[str, Any]) -> int:
    """Bytes of a tree on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in tree.values())


def compiled(t: Any, tree: Any, models: int, based: bool) -> Any:
    """The transform on a tree as one program, compiled for the devices that the tree lies on."""
    sides = {"base": tree} if based else {}
    where = jax.tree.map(lambda x: x.sharding, tree)

    def run(trees: Any, sides: Any, seed: Any) -> Any:
        return t(*trees, **sides, **({"key": jax.random.key(seed)} if "key" in t.needs else {}))

    same = jax.eval_shape(run, (tree,) * models, sides, 0)
    plain = all(isinstance(x, jax.ShapeDtypeStruct) for x in same.values())
    program = jax.jit(run, out_shardings=where if plain else None)
    return program.lower((tree,) * models, sides, jax.ShapeDtypeStruct((), jnp.uint32)).compile()


def dry_run(name: str, mesh: Mesh, models: int = 3) -> None:
    """Prints one model's table."""
    llama, place = MODELS[name], ws.placement(mesh)
    whole = abstract(llama.shapes(), place)
    total = sum(math.prod(x.shape) for x in whole.values())
    print(f"\n{name}: {len(whole)} leaves, {total / 1e9:.1f} B parameters on {dict(mesh.shape)}")
    print(
        f"each device holds {size(share(whole))} of every model: {size((models + 2) * share(whole))} to merge {models}"
    )
    print(ws.plan(MERGES["task_arithmetic"](), *(whole,) * models, base=whole).summary())
    some = abstract({**llama.layer(0), "model.embed_tokens.weight": llama.around()["model.embed_tokens.weight"]}, place)
    print(f"{'a layer and the embedding':28} {'arguments':>10} {'result':>10} {'temporary':>10}  collectives (largest)")
    for method, make in (*MERGES.items(), *OTHERS.items()):
        based = method in MERGES
        made = compiled(make(), some, models if based else 1, based)
        memory, sent = made.memory_analysis(), collectives(made.as_text())
        cells = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
        words = ", ".join(f"{n} {kind} ({size(most)})" for kind, (n, most) in sorted(sent.items())) or "none"
        print(f"{method:28} {' '.join(f'{size(n):>10}' for n in cells)}  {words}", flush=True)


def devices(topology: str | None) -> Any:
    """256 of this machine's, or those of a TPU pod that isn't there."""
    if topology is None:
        return jax.devices()
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as problem:
        reason = str(problem).splitlines()[0]
        sys.exit(f"skipped: no TPU compiler for {topology}: {reason} (pip install libtpu, as jax[tpu] pins it)")


def main() -> None:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["70B", "405B"], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--topology", help="a TPU pod such as v5e:16x16, or v5p:8x8x4 with --data 8")
    parser.add_argument("--data", type=int, default=16, help="size of the mesh's data axis; model has the rest")
    given = parser.parse_args()
    found = devices(given.topology)
    auto, sizes = (AxisType.Auto,) * 2, (given.data, len(found) // given.data)
    mesh = jax.make_mesh(sizes, ("data", "model"), axis_types=auto, devices=found)
    print(f"{len(found)} devices: {found[0].device_kind}")
    for name in given.models:
        dry_run(name, mesh)


if __name__ == "__main__":
    main()
