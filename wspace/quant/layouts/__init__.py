"""How other tools lay quantized matrices out in a file: each as a pair of functions between a QTensor and named arrays.

    parts = gptq.write(q)                  # {"qweight": int32, "qzeros": int32, "scales": float16, "g_idx": int32}
    q = gptq.read(parts, bits=4)           # the QTensor again, of a torch weight [out, in]

They run on the host, on NumPy arrays. `wspace.io` joins them to folders.
"""

from wspace.quant.layouts import awq as awq
from wspace.quant.layouts import bitsandbytes as bitsandbytes
from wspace.quant.layouts import compressed_tensors as compressed_tensors
from wspace.quant.layouts import gptq as gptq
from wspace.quant.layouts import qwix as qwix
from wspace.quant.layouts.reordered import Reordered as Reordered
