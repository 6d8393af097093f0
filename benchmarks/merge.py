"""Merging checkpoints beside mergekit: a Llama-shaped base and three fine-tunes in bf16, from folder to folder.

    python benchmarks/merge.py                                     our side alone, 1.1 billion parameters
    benchmarks/peers.sh && python benchmarks/merge.py --peer .peers  and mergekit, from its own environment
    python benchmarks/merge.py --size small --methods linear ties  134 million parameters, some methods

Both sides are a command (`wspace run --bare`, `mergekit-yaml`) on the same YAML, one after the other, so start-up
counts (compiled programs are kept between runs, as they are for a user). Ours refuses NaN, reads back what it wrote and
keeps a digest for each leaf; `full` is `wspace run` with ledger, report and record of the inputs besides. CPU seconds
are user + system: on a shared machine compare these. Memory is the peak of anonymous pages. The floor reads the inputs
once, writes as many bytes as the result has, and does nothing else. `equal` is the share of entries on which both
results agree to the last bit of bf16 (the random methods draw other numbers).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measured import CACHE, Cost, child, floor, read_anew, table, write
from wspace.io import open_checkpoint, write_folder
from wspace.io.stage import MANIFEST

# layers, width, feed-forward, vocabulary, heads, key-value heads
SIZES = {
    "big": (22, 2048, 5632, 32000, 32, 4),
    "small": (12, 768, 2048, 32000, 12, 12),
    "tiny": (2, 256, 704, 8000, 4, 4),
}
MODELS = ("base", "one", "two", "three")
GOALS = {
    "linear": 8, "slerp": 8, "task_arithmetic": 5, "model_stock": 3, "dare_ties": 20, "ties": 15, "breadcrumbs": 12,
}  # fmt: skip  # times less CPU than mergekit
RANDOM = ("dare_ties",)


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """The leaves of a Llama of that size, torch's [out, in]."""
    layers, width, inner, words, heads, kv_heads = SIZES[size]
    kv = width // heads * kv_heads
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for k in range(layers):
        at = f"model.layers.{k}"
        found |= {f"{at}.self_attn.{p}_proj.weight": (width, width) for p in "qo"}
        found |= {f"{at}.self_attn.{p}_proj.weight": (kv, width) for p in "kv"}
        found |= {f"{at}.mlp.{p}_proj.weight": (inner, width) for p in ("gate", "up")}
        found |= {f"{at}.mlp.down_proj.weight": (width, inner)}
        found |= {f"{at}.{p}_layernorm.weight": (width,) for p in ("input", "post_attention")}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (words, width)}


def make(folder: Path, size: str) -> None:
    """Base and fine-tunes, once: normal weights, task vectors 2 % as large with 1 % of entries ten times larger.

    Values are cut out of one pool of random numbers, at a place of each leaf's own: quick, and the same everywhere.
    """
    pool = np.random.default_rng(0).standard_normal(1 << 26, np.float32)
    steps = pool[::-1] * np.where(np.random.default_rng(1).random(1 << 26, np.float32) < 0.01, 4e-3, 4e-4)
    layers, width, inner, words, heads, kv_heads = SIZES[size]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "vocab_size": words,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip

    def cut(source: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
        n = int(np.prod(shape))
        start = zlib.crc32(name.encode()) % (len(source) - 1)
        return np.resize(source[start : start + n], n).reshape(shape) if n else source[:0]

    for model in MODELS:
        if (folder / model / "config.json").exists():
            continue
        print(f"making {folder / model}")
        specs = {name: (shape, ml_dtypes.bfloat16) for name, shape in shapes(size).items()}
        with write_folder(folder / model, specs, shard_size="1GB", overwrite=True) as sink:
            for name, shape in shapes(size).items():
                w = np.ones(shape, np.float32) if len(shape) == 1 else np.float32(0.02) * cut(pool, name, shape)
                if model != "base":
                    w = w + cut(steps, f"{model} {name}", shape).astype(np.float32)
                sink[name] = w.astype(ml_dtypes.bfloat16)
            (sink.directory / "config.json").write_text(json.dumps(config))
        (folder / model / MANIFEST).unlink()  # as they come from elsewhere


def recipe(method: str, folder: Path) -> dict[str, Any]:
    """The YAML of a method, as mergekit reads it (JSON is YAML)."""
    base, *models = (str(folder / m) for m in MODELS)
    each: dict[str, Any] = {"weight": 0.4}
    each |= {"density": 0.5} if method in ("ties", "dare_ties", "breadcrumbs") else {}
    each |= {"gamma": 0.01} if method == "breadcrumbs" else {}
    made: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        return made | {
            "base_model": base,
            "models": [{"model": m} for m in (base, models[0])],
            "parameters": {"t": 0.4},
        }
    if method == "model_stock":
        return made | {"base_model": base, "models": [{"model": m} for m in models]}
    made["models"] = [{"model": m, "parameters": each} for m in models]
    return made if method == "linear" else made | {"base_model": base}


def inputs(method: str, folder: Path) -> list[Path]:
    """The files that a method has to read."""
    used = {"linear": MODELS[1:], "slerp": MODELS[:2]}.get(method, MODELS)
    return sorted(file for m in used for file in (folder / m).glob("*.safetensors"))


def agreement(a: Path, b: Path) -> float:
    """The share of equal entries of two results, on every eighth leaf."""
    ours, theirs = open_checkpoint(a), open_checkpoint(b)
    names = list(ours)[::8]
    same = sum(int(np.count_nonzero(ours[n].view(np.uint16) == theirs[n].view(np.uint16))) for n in names)
    return same / sum(ours[n].size for n in names)


def one(method: str, folder: Path, work: Path, peer: Path | None) -> dict[str, Any]:
    """Floor, ours, theirs, one after the other, on warm files."""
    file = work / f"{method}.yml"
    file.write_text(json.dumps(recipe(method, folder)))
    reads = inputs(method, folder)
    read_anew(reads)
    written = sum(f.stat().st_size for f in (folder / "base").glob("*.safetensors"))
    sides = {"floor": floor(reads, written, work / "floor")}
    ours, theirs = work / "ours", work / "theirs"
    command = [sys.executable, "-m", "wspace.app.cli", "run", str(file), str(ours), "--quiet", "--overwrite"]
    sides["full"] = child(command, **CACHE)
    sides["wspace"] = child([*command, "--bare"], **CACHE)
    equal = None
    if peer is not None:
        command = [str(peer / "bin" / "mergekit-yaml"), str(file), str(theirs), "--quiet"]
        sides["mergekit"] = child(command, HF_HUB_OFFLINE="1")
        equal = agreement(ours, theirs)
    for out in (ours, theirs):
        shutil.rmtree(out, ignore_errors=True)
    return {"sides": {name: cost._asdict() for name, cost in sides.items()}, "equal": equal}


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number over the rounds."""
    names = runs[0]["sides"]
    middle = {
        name: {k: statistics.median(run["sides"][name][k] for run in runs) for k in Cost._fields} for name in names
    }
    return {"sides": middle, "equal": runs[0]["equal"]}


def shown(method: str, row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    sides = row["sides"]
    floored, ours, full, theirs = (sides.get(name) for name in ("floor", "wspace", "full", "mergekit"))
    cells = [method, *(f"{x:.1f}" for x in (floored["wall"], ours["wall"], ours["cpu"], full["cpu"]))]
    cells.append(f"{ours['anonymous'] / 2**20:.0f}")
    if theirs is None:
        return [*cells, "", "", "", "", "", ""]
    return [
        *cells,
        f"{theirs['wall']:.1f}",
        f"{theirs['cpu']:.1f}",
        f"{theirs['anonymous'] / 2**20:.0f}",
        f"{theirs['cpu'] / ours['cpu']:.1f}",
        str(GOALS[method]),
        f"{row['equal']:.4f}" if method not in RANDOM else "random",
    ]


HEAD = (
    "method", "floor s", "wspace s", "CPU s", "full CPU s", "MiB", "mergekit s",
    "CPU s", "MiB", "CPU ratio", "goal", "equal"
)  # fmt: skip


def main() -> None:
    """Make the models, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="big", help="small where less than 24 GB of disk are free")
    parser.add_argument("--methods", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--peer", type=Path, help="the environment that peers.sh made")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "wspace-bench")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    size = given.size
    if size == "big" and shutil.disk_usage(given.data).free < 24e9:
        size = "small"
        print(f"less than 24 GB are free in {given.data}: taking the small size")
    folder, work = given.data / size, given.data / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    make(folder, size)
    rows = {}
    for method in given.methods:
        rows[method] = summed([one(method, folder, work, given.peer) for _ in range(given.rounds)])
        print("\n".join(table(HEAD, [shown(method, rows[method])]).splitlines()[len(rows) > 1 :]), flush=True)
    parameters = sum(int(np.prod(shape)) for shape in shapes(size).values())
    print(f"\n{parameters / 1e9:.2f} billion parameters, bf16; CPU ratio = mergekit / wspace\n")
    print(table(HEAD, [shown(m, row) for m, row in rows.items()]))
    write(given.json, "merge", {"parameters": parameters, "rounds": given.rounds, "rows": rows})


if __name__ == "__main__":
    main()
