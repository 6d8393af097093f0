"""Folders of quantized models as other tools lay them out: compressed-tensors, GPTQ, AWQ and bitsandbytes' 4 bits.

    params = read_quantized("a-GPTQ-folder")                          # {"model...q_proj.weight": QTensor, ...}
    write_quantized("out", params, "compressed-tensors", like="the folder of the model in full precision")

What a folder is stands in its config.json, under `quantization_config`; how a module's arrays lie is the matter of
`wspace.quant.layouts`. `wspace.io.load` reads such folders by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wspace.core.errors import FormatError, listed, nearest, printable
from wspace.io.checkpoint import open_checkpoint
from wspace.io.companions import copy_companions
from wspace.io.dtypes import spec_of
from wspace.io.header import parse_json
from wspace.io.names import flatten_names
from wspace.io.nodes import NODES
from wspace.io.source import Checkpoint
from wspace.io.writer import write_folder

if TYPE_CHECKING:
    from wspace.core.implicit import Implicit

Numbers = np.ndarray[Any, Any]
Parts = dict[str, Numbers]
Config = dict[str, Any]
CONFIGS = ("config.json", "quantize_config.json")  # the second: older GPTQ folders have their settings there
PACKED = ("pack-quantized", "mixed-precision")


def quantization_of(folder: str | Path) -> Config | None:
    """The `quantization_config` of a folder's config.json, or an older GPTQ folder's quantize_config.json."""
    for name in CONFIGS:
        file = Path(folder) / name
        if not file.is_file():
            continue
        fields = parse_json(file.read_bytes(), printable(file))
        found = fields.get("quantization_config") if name == CONFIGS[0] else {"quant_method": "gptq"} | fields
        if isinstance(found, dict):
            return found
    return None


def quantized_by(checkpoint: Checkpoint) -> str | None:
    """Which tool's layout a folder has, of those that are read; None: plain arrays, or nodes of our own."""
    method = (quantization_of(checkpoint.path) or {}).get("quant_method")
    return str(method) if method in READERS and NODES not in checkpoint.metadata else None


def read_quantized(path: str | Path) -> dict[str, Any]:
    """The leaves of a quantized folder by name; a quantized module's `weight` is a QTensor.

    Raises:
      FormatError: not such a folder; a method, a format or a number of bits that is not read; damaged modules.
    """
    shown, config = printable(path), quantization_of(path)
    method = None if config is None else str(config.get("quant_method", ""))
    if config is None or method not in READERS:
        raise FormatError(
            f"{shown}: its quantization_config has quant_method {method!r}.{nearest(str(method), READERS)}"
        )
    key, reader = READERS[method]
    source = open_checkpoint(path)
    modules = [name.removesuffix(f".{key}") for name in source if name.endswith(f".{key}")]
    if not modules:
        raise FormatError(f"{shown}: a {method} folder has arrays called ....{key}, but none is here")
    leaves: dict[str, Any] = {}
    taken: set[str] = set()
    for module in modules:
        found = {part: f"{module}.{at}" for part, at in _parts(method).items() if f"{module}.{at}" in source}
        leaves[f"{module}.weight"] = reader({part: source[name] for part, name in found.items()}, config, module)
        taken |= {*found.values()}
    return {name: source[name] for name in source if name not in taken} | leaves


def _parts(method: str) -> dict[str, str]:
    """A module's arrays: what the layout calls them, and their names behind the module's."""
    from wspace.quant import layouts

    if method == "bitsandbytes":
        return {"weight": "weight", **{part: f"weight.{part}" for part in layouts.bitsandbytes.PARTS}}
    room = {"gptq": layouts.gptq, "awq": layouts.awq, "compressed-tensors": layouts.compressed_tensors}[method]
    return {part: part for part in room.PARTS}


def _read_gptq(parts: Parts, config: Config, module: str) -> Implicit:
    from wspace.quant import layouts

    version = 2 if config.get("checkpoint_format", config.get("format")) == "gptq_v2" else 1
    return layouts.gptq.read(parts, _bits(config, "bits", module), version, module)


def _read_awq(parts: Parts, config: Config, module: str) -> Implicit:
    from wspace.quant import layouts

    if (version := str(config.get("version", "gemm")).lower()) != "gemm" or _bits(config, "bits", module) != 4:
        raise FormatError(f"AWQ of version {version!r} and {config.get('bits')} bits is not read; only gemm, 4 bits")
    return layouts.awq.read(parts, module)


def _read_compressed(parts: Parts, config: Config, module: str) -> Implicit:
    from wspace.quant import layouts

    for group in config.get("config_groups", {}).values():
        if any(_aims(target, module) for target in group.get("targets", [])):
            weights, form = group.get("weights") or {}, group.get("format") or config.get("format", PACKED[0])
            if form not in PACKED or weights.get("type", "int") != "int":
                raise FormatError(
                    f"{module}: compressed-tensors' {form} of {weights.get('type')} is not read; {PACKED[0]} is"
                )
            bits = _bits(weights, "num_bits", module)
            return layouts.compressed_tensors.read(parts, bits, bool(weights.get("symmetric", True)), module)
    raise FormatError(f"{module}: no config group of its quantization_config aims at it")


def _read_bitsandbytes(parts: Parts, config: Config, module: str) -> Any:
    from wspace.quant import layouts

    return layouts.bitsandbytes.read(parts, module)


def _aims(target: str, module: str) -> bool:
    """Whether a target means a module: its name, "re:" and a regex, or a class, which no file tells: all are Linear."""
    if target.startswith("re:"):
        return re.match(target[3:], module) is not None
    return target in (module, "Linear")


def _bits(config: Config, key: str, module: str) -> int:
    bits = config.get(key)
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise FormatError(f"{module}: {key} is {bits!r} in its quantization_config; 2 to 8 are read")
    return bits


READERS: dict[str, tuple[str, Callable[[Parts, Config, str], Any]]] = {  # method -> what only its modules have, how
    "gptq": ("qweight", _read_gptq),
    "awq": ("qweight", _read_awq),
    "compressed-tensors": ("weight_packed", _read_compressed),
    "bitsandbytes": ("weight.absmax", _read_bitsandbytes),
}


def write_quantized(
    path: str | Path, params: Any, layout: str, *, like: str | Path | None = None, **options: Any
) -> None:
    """Write quantized params as a safetensors folder in another tool's layout.

    Scales become the dtype of the layout: float16 in GPTQ and AWQ, the weight's own in compressed-tensors.

    Args:
      params: flat or nested dict of arrays, and QTensors of torch weights `[out, in]` called `MODULE.weight`.
      layout: "compressed-tensors", "gptq", "gptq_v2", "awq" or "bitsandbytes".
      like: folder whose config and tokenizer go through; its config.json gets the `quantization_config`.
      options: as for `write_folder` (overwrite, shard_size, ...).
    Raises:
      FormatError: no such layout, no quantized leaf, a leaf that the layout can't hold.
    """
    from wspace.core.implicit import Implicit

    if layout not in WRITERS:
        raise FormatError(f"there is no layout {layout!r}.{nearest(layout, WRITERS)}")
    flat = flatten_names(params).leaves
    nodes = {name: leaf for name, leaf in flat.items() if isinstance(leaf, Implicit)}
    if wrong := [name for name in nodes if not name.endswith(".weight")]:
        raise FormatError(
            f"{layout} keeps weights called MODULE.weight, not {listed(wrong)}; materialize or rename them"
        )
    if not nodes:
        raise FormatError(f"no leaf of the {len(flat)} is quantized, so there is nothing for {layout} to keep")
    arrays: dict[str, Any] = {name: leaf for name, leaf in flat.items() if name not in nodes}
    write, describe = WRITERS[layout]
    for name, node in nodes.items():
        arrays |= {f"{name.removesuffix('weight')}{part}": value for part, value in write(node).items()}
    inputs = [] if like is None else [like]
    with write_folder(path, {n: spec_of(n, x) for n, x in arrays.items()}, inputs=inputs, **options) as sink:
        for name, value in arrays.items():
            sink[name] = value
        config = {} if like is None else _config_of(Path(like))
        config |= {"quantization_config": describe({name.removesuffix(".weight"): x for name, x in nodes.items()})}
        (sink.directory / CONFIGS[0]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if like is not None:
            copy_companions(like, sink.directory)


def _config_of(folder: Path) -> Config:
    file = folder / CONFIGS[0]
    return parse_json(file.read_bytes(), printable(file)) if file.is_file() else {}


class _Scheme(dict[str, Any]):
    """What a config says of one module: bits, sym, group (inputs that share a scale, -1: all), desc_act."""


def _scheme(node: Any) -> _Scheme:
    q = getattr(node, "inner", node)
    inputs = q.codes.shape[-2]
    group = -1 if q.group == inputs else q.group
    return _Scheme(bits=q.bits, sym=q.zero is None, group_size=group, desc_act=q is not node)


def _one(nodes: Mapping[str, Any], layout: str) -> _Scheme:
    schemes = [_scheme(node) for node in nodes.values()]
    for key in ("bits", "group_size"):
        if len(found := {scheme[key] for scheme in schemes}) > 1:
            raise FormatError(f"{layout} has one {key} for all modules, not {sorted(found)}; use compressed-tensors")
    return _Scheme(schemes[0], sym=all(s["sym"] for s in schemes), desc_act=any(s["desc_act"] for s in schemes))


def _describe_gptq(nodes: Mapping[str, Any], form: str) -> Config:
    return {"quant_method": "gptq", **_one(nodes, "GPTQ"), "checkpoint_format": form}


def _describe_awq(nodes: Mapping[str, Any]) -> Config:
    one = _one(nodes, "AWQ")
    return {"quant_method": "awq", "bits": 4, "group_size": one["group_size"], "zero_point": True, "version": "gemm"}


def _describe_compressed(nodes: Mapping[str, Any]) -> Config:
    groups: dict[str, Config] = {}
    for module, node in nodes.items():
        s = _scheme(node)
        weights = {
            "num_bits": s["bits"], "type": "int", "symmetric": s["sym"], "dynamic": False,
            "strategy": "channel" if s["group_size"] == -1 else "group",
            "group_size": None if s["group_size"] == -1 else s["group_size"],
            "actorder": "group" if s["desc_act"] else None,
        }  # fmt: skip
        groups.setdefault(json.dumps(weights), {"targets": [], "weights": weights})["targets"].append(module)
    return {
        "quant_method": "compressed-tensors", "format": PACKED[0], "quantization_status": "compressed", "ignore": [],
        "config_groups": {f"group_{k}": group for k, group in enumerate(groups.values())},
    }  # fmt: skip


def _describe_bitsandbytes(nodes: Mapping[str, Any]) -> Config:
    kinds = {"nf4" if node.format == "nf4" else "fp4" for node in nodes.values()}
    if len(kinds) > 1:
        raise FormatError("bitsandbytes has one kind of 4-bit codes for all modules, not nf4 and fp4")
    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kinds.pop(),
            "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "uint8"}  # fmt: skip


def _layout(name: str, **settings: Any) -> Callable[[Any], Parts]:
    def write(node: Any) -> Parts:
        from wspace.quant import layouts

        return dict(getattr(layouts, name).write(node, **settings))

    return write


def _blocks(node: Any) -> Parts:
    parts = _layout("bitsandbytes")(node)
    return {name if name == "weight" else f"weight.{name}": part for name, part in parts.items()}


WRITERS: dict[str, tuple[Callable[[Any], Parts], Callable[[Mapping[str, Any]], Config]]] = {
    "compressed-tensors": (_layout("compressed_tensors"), _describe_compressed),
    "gptq": (_layout("gptq"), lambda nodes: _describe_gptq(nodes, "gptq")),
    "gptq_v2": (_layout("gptq", version=2), lambda nodes: _describe_gptq(nodes, "gptq_v2")),
    "awq": (_layout("awq"), _describe_awq),
    "bitsandbytes": (_blocks, _describe_bitsandbytes),
}
