"""Make tests/quant/published_numbers.npz: what the published torch codes make of small matrices, on the CPU.

    benchmarks/peers.sh .peers && .peers/bin/pip install compressed-tensors==0.20.0 bitsandbytes==0.50.2
    # IST-DASLab/gptq and mit-han-lab/llm-awq, cloned into one FOLDER as gptq and llm-awq
    PYTHONPATH=. .peers/bin/python benchmarks/quant_numbers.py FOLDER tests/quant/published_numbers.npz

Made with torch 2.14.1, transformers 5.12.1, compressed-tensors 0.20.0, bitsandbytes 0.50.2. The file holds, without
pickle: `errors` (JSON: "gptq/SETTINGS/PROBLEM" or "awq/..." -> relative output error on tests/quant/problems.py),
`compressed/CASE/...` and `nf4/CASE/...`: the arrays as these tools lay them out, and `out`, what they decode to.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.quant.problems import INPUTS, OUTPUTS, Problem, output_error, problem

GPTQ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # how Quantizer is configured, how the solver is called
    "int4 channel": ({"bits": 4, "sym": False}, {}),
    "int4 channel full": ({"bits": 4, "sym": True}, {}),
    "int3 group 128": ({"bits": 3, "sym": False}, {"groupsize": 128}),
    "int3 group 64 static act-order": (
        {"bits": 3, "sym": False}, {"groupsize": 64, "actorder": True, "static_groups": True},
    ),
}  # fmt: skip


def gptq_error(p: Problem, quantizer: dict[str, Any], call: dict[str, Any]) -> float:
    """The released GPTQ on one linear layer."""
    import gptq
    import quant

    torch.cuda.synchronize = lambda *a, **k: None
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False)
    layer.weight.data = torch.from_numpy(p.w.T.copy())
    solver = gptq.GPTQ(layer)
    solver.quantizer = quant.Quantizer()
    solver.quantizer.configure(perchannel=True, mse=False, **quantizer)
    solver.add_batch(torch.from_numpy(p.x)[None], None)
    with contextlib.redirect_stdout(io.StringIO()):
        solver.fasterquant(percdamp=0.01, **call)
    return output_error(p, layer.weight.data.numpy().T)


def awq_error(p: Problem, bits: int, group: int) -> float:
    """The released search of scales, reached through a decoder layer: its other searches are thrown away."""
    from awq.quantize.auto_scale import auto_scale_block
    from awq.quantize.quantizer import pseudo_quantize_tensor
    from transformers.models.opt.modeling_opt import OPTDecoderLayer

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(INPUTS, INPUTS) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x))

    class Layer(OPTDecoderLayer):  # type: ignore[misc]
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.self_attn, self.fc1 = Attention(), nn.Linear(INPUTS, INPUTS)
            self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(INPUTS), nn.LayerNorm(INPUTS)
            self.fc2 = nn.Linear(INPUTS, OUTPUTS, bias=False)

    layer, few = Layer().requires_grad_(False), torch.randn(4, INPUTS)
    layer.fc2.weight.data = torch.from_numpy(p.w.T.copy())
    settings = {"zero_point": True, "q_group_size": group}
    seen = {"self_attn.q_proj": few, "self_attn.out_proj": few, "fc1": few, "fc2": torch.from_numpy(p.x)}
    scale = auto_scale_block(layer, {}, bits, settings, seen)[-1][2]
    q = pseudo_quantize_tensor(layer.fc2.weight.data * scale, n_bit=bits, **settings) / scale
    return output_error(p, q.numpy().T)


def compressed(bits: int, group: int | None, symmetric: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """compressed-tensors' arrays of one weight, and the weight that it decodes from them."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    kind = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **kind)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    w = torch.from_numpy(rng.standard_normal((32, 96)).astype(np.float32))
    parts = w.reshape(32, -1, group or 96)
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), weights)
    state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    made = PackedQuantizationCompressor.compress(state, scheme)
    out = PackedQuantizationCompressor.decompress(dict(made), scheme)["weight"]
    return {name: x.numpy() for name, x in {**made, "out": out, "in": w}.items()}


def blocks(shape: tuple[int, int], double: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """bitsandbytes' arrays of one weight, and the weight that it decodes from them."""
    from bitsandbytes import functional

    w = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    packed, state = functional.quantize_4bit(w, blocksize=64, compress_statistics=double, quant_type="nf4")
    out = functional.dequantize_4bit(packed, state)
    return {
        name: x.numpy() for name, x in {"weight": packed, **state.as_dict(packed=True), "out": out, "in": w}.items()
    }


def main() -> None:
    """All of it, in a few seconds."""
    repositories, path = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path[:0] = [str(repositories / "gptq"), str(repositories / "llm-awq")]
    sys.modules["awq_inference_engine"] = types.ModuleType("awq_inference_engine")  # CUDA kernels, not called here
    errors = {}
    for kind in range(3):
        p = problem(kind)
        for name, (quantizer, call) in GPTQ.items():
            errors[f"gptq/{name}/{kind}"] = gptq_error(p, quantizer, call)
        for bits, group in ((4, 128), (3, 64)):
            errors[f"awq/int{bits} group {group}/{kind}"] = awq_error(p, bits, group)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"errors": np.array(json.dumps(errors))}
    for bits, group, symmetric in ((4, 32, True), (4, 32, False), (8, None, True), (8, None, False)):
        case = f"compressed/{bits} {group} {symmetric}"
        arrays |= {f"{case}/{name}": x for name, x in compressed(bits, group, symmetric, rng).items()}
    # an odd number of inputs, since the CPU kernel of 0.50.2 takes blocks that run over the ends of even rows for rows
    for shape, double in (((24, 128), False), ((48, 512), True), ((5, 49), False)):
        arrays |= {f"nf4/{shape[0]} {double}/{name}": x for name, x in blocks(shape, double, rng).items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)
    for name, error in errors.items():
        print(f"{name:50} {error:.6f}")


if __name__ == "__main__":
    main()
