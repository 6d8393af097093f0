"""The published torch codes as a worker for benchmarks/quant.py: a job's name a line in, its seconds and error out.

.peers/bin/python benchmarks/quant_torch.py FOLDER problem.npz       # FOLDER: see benchmarks/quant_numbers.py
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

GROUP, SMALL = 128, 128


class Jobs:
    """Each job gives a quantized weight [out, in], or None."""

    def __init__(self, folder: str, path: str) -> None:
        sys.path[:0] = [f"{folder}/gptq", f"{folder}/llm-awq"]
        sys.modules["awq_inference_engine"] = types.ModuleType("awq_inference_engine")  # CUDA kernels, not called here
        torch.cuda.synchronize = lambda *a, **k: None
        with np.load(path, allow_pickle=False) as held:
            self.w, self.x = torch.from_numpy(held["w"].T.copy()), torch.from_numpy(held["x"])
        self.hessian = self.solver().H

    def solver(self) -> Any:
        import gptq
        import quant

        layer = nn.Linear(*reversed(self.w.shape), bias=False)
        layer.weight.data = self.w.clone()
        solver = gptq.GPTQ(layer)
        solver.quantizer = quant.Quantizer()
        solver.quantizer.configure(4, perchannel=True, sym=False, mse=False)
        if hasattr(self, "hessian"):
            solver.H = self.hessian.clone()
        else:
            solver.add_batch(self.x[None], None)
        return solver

    def gram(self) -> None:
        solver = self.solver()
        solver.H.zero_()
        solver.nsamples = 0
        solver.add_batch(self.x[None], None)

    def factor(self) -> None:
        """As in fasterquant."""
        h = self.hessian.clone()
        h.diagonal().add_(0.01 * h.diagonal().mean())
        torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)

    def rtn(self) -> torch.Tensor:
        from awq.quantize.quantizer import pseudo_quantize_tensor

        return pseudo_quantize_tensor(self.w.clone(), n_bit=4, zero_point=True, q_group_size=GROUP)

    def gptq(self, **how: Any) -> torch.Tensor:
        solver = self.solver()
        with contextlib.redirect_stdout(io.StringIO()):
            solver.fasterquant(percdamp=0.01, groupsize=GROUP, **how)
        return solver.layer.weight.data

    def gptq_act_order(self) -> torch.Tensor:
        return self.gptq(actorder=True, static_groups=True)

    def awq(self) -> torch.Tensor:
        """The search of scales, reached through a decoder layer whose other parts are small."""
        from awq.quantize.auto_scale import auto_scale_block
        from awq.quantize.quantizer import pseudo_quantize_tensor
        from transformers.models.opt.modeling_opt import OPTDecoderLayer

        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(SMALL, SMALL) for _ in range(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.out_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x))

        class Layer(OPTDecoderLayer):  # type: ignore[misc]
            def __init__(self, w: torch.Tensor) -> None:
                nn.Module.__init__(self)
                self.self_attn, self.fc1 = Attention(), nn.Linear(SMALL, SMALL)
                self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(SMALL), nn.LayerNorm(SMALL)
                self.fc2 = nn.Linear(*reversed(w.shape), bias=False)
                self.fc2.weight.data = w.clone()

        few = torch.randn(4, SMALL)
        seen = {"self_attn.q_proj": few, "self_attn.out_proj": few, "fc1": few, "fc2": self.x}
        settings = {"zero_point": True, "q_group_size": GROUP}
        layer = Layer(self.w).requires_grad_(False)
        scale = auto_scale_block(layer, {}, 4, settings, seen)[-1][2]
        return pseudo_quantize_tensor(self.w * scale, n_bit=4, **settings) / scale

    def error(self, w: torch.Tensor) -> float:
        e = (w - self.w).double()
        return float(
            torch.sum(e @ self.hessian.double() * e) / torch.sum(self.w.double() @ self.hessian.double() * self.w)
        )


def main() -> None:
    """Jobs until the input ends."""
    with contextlib.redirect_stdout(sys.stderr):  # the codes print, and the answers go to stdout
        jobs = Jobs(sys.argv[1], sys.argv[2])
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        job: Callable[[], Any] = getattr(jobs, line.strip())
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            made = job()
        told: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(told | {"error": None if made is None else jobs.error(made)}), flush=True)


if __name__ == "__main__":
    main()
