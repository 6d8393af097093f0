"""Make tests/quant/qwix_numbers.npz: qwix's codes of one matrix, by kind of code and tiles.

Run it where qwix is installed beside jax (0.1.8 was used, with jax 0.10.2; `pip install --no-deps qwix` is enough):

    python benchmarks/qwix_numbers.py tests/quant/qwix_numbers.npz

The file holds `w`, float32 [64, 24], and for each case "KIND/TILE" `qvalue` (as int8; float8 as float32), `scale` and,
of asymmetric ones, `zero_point`. TILE: inputs that share a scale, 0: all.
"""

from __future__ import annotations

import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import qwix

KINDS: dict[str, tuple[Any, str]] = {
    "int8": (jnp.int8, "absmax"),
    "int4": (jnp.int4, "absmax"),
    "nf4": ("nf4", "absmax"),
    "float8_e4m3fn": (jnp.float8_e4m3fn, "absmax"),
    "float8_e5m2": (jnp.float8_e5m2, "absmax"),
    "int8 minmax": (jnp.int8, "minmax"),
    "int4 minmax": (jnp.int4, "minmax"),
}


def main() -> None:
    """A second or two."""
    w = np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32) + 0.2
    arrays = {"w": w}
    for kind, (qtype, method) in KINDS.items():
        for tile in (0, 16):
            q = qwix.quantize(
                jnp.asarray(w), qtype, channelwise_axes=[1], tiled_axes={0: tile} if tile else None,
                calibration_method=method,
            )  # fmt: skip
            codes = q.qvalue.astype(jnp.float32 if "float8" in kind else jnp.int8)
            arrays |= {f"{kind}/{tile}/qvalue": np.asarray(codes), f"{kind}/{tile}/scale": np.asarray(q.scale)}
            if q.zero_point is not None:
                arrays[f"{kind}/{tile}/zero_point"] = np.asarray(q.zero_point.astype(jnp.int8))
    np.savez_compressed(sys.argv[1], allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
