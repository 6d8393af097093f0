"""PEFT's LoRA folders in: adapter_config.json and adapter_model.safetensors as LoRA nodes on the leaves of a base.

Of a weight [out, in] a file keeps lora_A [r, in] and lora_B [out, r], a node their transposes, [in, r] and [r, out].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wspace.core.errors import FormatError, ShapeError, TreeMismatch, listed, nearest, printable
from wspace.io.checkpoint import open_checkpoint
from wspace.io.dtypes import Spec
from wspace.io.header import ADVICE, parse_json, stamp
from wspace.io.nodes import Whole
from wspace.io.safetensors import SafetensorsFile
from wspace.io.source import Named, unchanged

CONFIG, FACTORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?:\.weight)?")
_SEVERAL = "it is more than a low-rank update of each weight"
REFUSED = {
    "use_dora": "DoRA also scales the columns of the weight: merge it into its model with peft first",
    "lora_bias": f"{_SEVERAL}: lora_B has a bias",
    "use_qalora": f"{_SEVERAL}: the input is pooled",
    "target_parameters": f"{_SEVERAL}: it targets parameters, not modules",
    "layer_replication": "it repeats layers of its base: stack them with a recipe's slices first",
    "trainable_token_indices": f"{_SEVERAL}: it changes rows of the embedding",
    "alora_invocation_tokens": "it acts after some tokens only, so it has no merged weight",
    "use_bdlora": _SEVERAL,
    "monteclora_config": _SEVERAL,
    "kasa_config": _SEVERAL,
    "arrow_config": "it mixes several adapters by input, so it has no merged weight",
}
MOVED_BASE = ("pissa", "olora", "corda", "lora_ga", "mica")  # starts that take the factors out of the base


class Part(NamedTuple):
    """The adapter of one module: the names of its factors in the file, the base's leaf, what it is, and the scale."""

    leaf: str
    a: str
    b: str
    embedding: bool
    scale: float


class AdapterFolder:
    """A PEFT folder, checked when it is opened; factors are read when they are used.

    Attributes:
      path: the folder. config: adapter_config.json.
      parts: name of the base's leaf -> Part.
      trained: name of the base's leaf -> name of a whole leaf that was trained beside the factors (modules_to_save).

    Raises:
      FormatError: no such folder, not a LoRA, one that is no low-rank update alone, or a damaged file; names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = _config(self.path)
        if not (self.path / FACTORS).is_file():
            pickled = ": its weights are pickled; " + ADVICE if (self.path / "adapter_model.bin").exists() else ""
            raise FormatError(f"{printable(self.path)}: no {FACTORS}{pickled}")
        self.file = SafetensorsFile(self.path / FACTORS)
        self._stamp = stamp(self.path / CONFIG)
        self.parts, self.trained = _parts(self.file, self.config)

    def identity(self) -> list[tuple[str, int, int]]:
        """Every file, its size and time of change."""
        return [*self.file.identity(), (str(self.path.absolute() / CONFIG), *self._stamp)]

    def check_unchanged(self) -> None:
        """IntegrityError if a file changed since it was opened."""
        unchanged(self.path / CONFIG, self._stamp)
        self.file.check_unchanged()

    def stored_at(self, name: str) -> Path:
        """The file that holds a leaf."""
        return self.path / FACTORS


def is_adapter(path: str | Path) -> bool:
    """Whether a folder is PEFT's."""
    return (Path(path) / CONFIG).is_file()


def _config(folder: Path) -> dict[str, Any]:
    shown = printable(folder / CONFIG)
    if not (folder / CONFIG).is_file():
        raise FormatError(f"{printable(folder)}: no PEFT adapter: it has no {CONFIG}")
    config = parse_json((folder / CONFIG).read_bytes(), shown)
    if (kind := config.get("peft_type")) != "LORA":
        raise FormatError(f"{shown}: peft_type is {printable(kind)}; only LORA is read")
    for key, why in REFUSED.items():
        if config.get(key):
            raise FormatError(f"{shown}: {key} is not supported: {why}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(MOVED_BASE):
        advice = "save it with peft's path_initial_model_for_weight_conversion"
        raise FormatError(f"{shown}: init_lora_weights {printable(start)} took its start out of the base; {advice}")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise FormatError(f"{shown}: {key} must be a number above 0, not {printable(config.get(key))}")
    for key in ("rank_pattern", "alpha_pattern"):
        _check_patterns(config.get(key) or {}, f"{shown}: {key}")
    return config


def _check_patterns(patterns: Any, shown: str) -> None:
    if not isinstance(patterns, dict) or not all(isinstance(v, int | float) and v > 0 for v in patterns.values()):
        raise FormatError(f"{shown} must map module names to numbers above 0")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as problem:
            raise FormatError(f"{shown}: {printable(pattern)!r} is no regular expression: {problem}") from None


def _parts(file: SafetensorsFile, config: Mapping[str, Any]) -> tuple[dict[str, Part], dict[str, str]]:
    shown = printable(file.path)
    factors: dict[str, dict[str, tuple[str, bool]]] = {}
    trained: dict[str, str] = {}
    for name in file.specs:
        bare = name.removeprefix(PREFIX)
        if found := _FACTOR.fullmatch(bare):
            factors.setdefault(found["module"], {})[found["side"]] = (name, found["kind"] is not None)
        elif "lora_" in bare or "token_adapter" in bare:
            raise FormatError(f"{shown}: leaf '{printable(name)}' belongs to a kind of adapter that is not read")
        else:
            trained[bare.replace(".base_layer.", ".")] = name
    parts: dict[str, Part] = {}
    for module, sides in factors.items():
        if sides.keys() != {"A", "B"}:
            lost = "AB".replace(next(iter(sides)), "")
            raise FormatError(f"{shown}: {printable(module)} has no lora_{lost}")
        (a, embedding), (b, _) = sides["A"], sides["B"]
        rank = int(_of_module(config.get("rank_pattern"), module, config["r"]))
        sizes = file.specs[a].shape[0], file.specs[b].shape[1] if len(file.specs[b].shape) > 1 else None
        if sizes != (rank, rank):
            shapes = f"lora_A is {file.specs[a].shape} and lora_B {file.specs[b].shape}"
            raise FormatError(f"{shown}: {printable(module)} should have rank {rank} by {CONFIG}, but {shapes}")
        alpha = float(_of_module(config.get("alpha_pattern"), module, config["lora_alpha"]))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        parts[f"{module}.weight"] = Part(f"{module}.weight", a, b, embedding, scale)
    if not parts:
        raise FormatError(f"{shown}: holds no lora_A and lora_B")
    return parts, trained


def _of_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """A number for a module: of the first pattern that matches the end of its name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


class Adapted(Named[Any]):
    """A base with an adapter: its leaves by name, those that the adapter changes as LoRA nodes, or merged.

    Attributes:
      base: the base's leaves, a mapping with specs. adapter: the folder.
      specs: as of `Whole`. structure: of the base.

    Args:
      merged: give out arrays, base + scale B A in the base's dtype, instead of nodes.
    Raises:
      TreeMismatch: a leaf that the base does not have. ShapeError: factors that do not fit it. Both name leaf and file.
    """

    def __init__(self, base: Any, adapter: AdapterFolder, *, merged: bool = False) -> None:
        self.base, self.adapter, self.merged = base, adapter, merged
        specs: Mapping[str, Any] = base.specs
        self.structure = getattr(base, "structure", None)
        missing = [name for name in (*adapter.parts, *adapter.trained) if name not in specs]
        if missing:
            raise TreeMismatch(
                f"{printable(adapter.path)} adapts leaves that the base does not have ({len(missing)}): "
                f"{listed(missing, 3)}.{nearest(missing[0], specs)}"
            )
        self.specs = dict(specs)
        for name, own in adapter.trained.items():
            if tuple(adapter.file.specs[own].shape) != tuple(specs[name].shape):
                raise ShapeError(self._unfit(name, f"the trained leaf is {adapter.file.specs[own].shape}"))
        for name in adapter.parts:
            node = self._node(name, _struct(specs[name]), lambda own: _struct(adapter.file.specs[own]))
            self.specs[name] = Spec(tuple(node.shape), np.dtype(node.dtype)) if merged else node

    def __getitem__(self, name: str) -> Any:
        own = self.adapter.trained.get(name)
        leaf = self.base[name] if own is None else self.adapter.file[own].astype(self.base.specs[name].dtype)
        if name not in self.adapter.parts:
            return leaf
        node = self._node(name, leaf, self.adapter.file.__getitem__)
        return node.materialize() if self.merged else node

    def check_unchanged(self) -> None:
        """IntegrityError if a file changed since it was opened."""
        getattr(self.base, "check_unchanged", bool)()
        self.adapter.check_unchanged()

    def _node(self, name: str, base: Any, read: Any) -> Any:
        """The LoRA of a leaf, or its shapes."""
        import jax
        import jax.numpy as jnp

        from wspace.core.axes import Axis, matrix_view, space
        from wspace.reparam.lora import LoRA

        part, shape = self.adapter.parts[name], tuple(base.shape)
        a, b = read(part.a), read(part.b)
        straight = part.embedding or bool(self.adapter.config.get("fan_in_fan_out"))
        taps = len(shape) - 2
        wanted = ((shape[1], shape[0]) if straight else shape[:2]) + shape[2:]
        if taps < 0 or (b.shape[0], *a.shape[1:]) != wanted or any(n != 1 for n in b.shape[2:]):
            turned = ", and fan_in_fan_out the other way round would fit" if wanted[1::-1] == _ends(a, b) else ""
            raise ShapeError(self._unfit(name, f"lora_A is {tuple(a.shape)} and lora_B {tuple(b.shape)}{turned}"))
        roles = ("in", "out") if straight else ("out", "in", *space(taps))
        view = matrix_view(tuple(Axis(role) for role in roles), shape, name)

        def laid(a: Any, b: Any) -> tuple[Any, Any]:
            rank = a.shape[0]
            return jnp.transpose(a, (*range(2, a.ndim), 1, 0)).reshape(-1, rank), b.reshape(b.shape[0], rank).T

        abstract = isinstance(a, jax.ShapeDtypeStruct)
        a, b = jax.eval_shape(laid, a, b) if abstract else laid(jnp.asarray(a), jnp.asarray(b))
        scale: Any = jax.ShapeDtypeStruct((), jnp.float32) if abstract else jnp.asarray(part.scale, jnp.float32)
        return LoRA(base, a, b, scale, view)

    def _unfit(self, name: str, what: str) -> str:
        where = f"{printable(self.adapter.path / FACTORS)}: leaf '{printable(name)}'"
        return f"{where} does not fit its base of shape {tuple(self.base.specs[name].shape)}: {what}"


def _ends(a: Any, b: Any) -> tuple[int, int]:
    return (b.shape[0], a.shape[1]) if len(a.shape) > 1 else (-1, -1)


def _struct(spec: Any) -> Any:
    import jax

    from wspace.core.implicit import Implicit

    return spec if isinstance(spec, Implicit) else jax.ShapeDtypeStruct(tuple(spec.shape), spec.dtype)


def load_adapter(path: str | Path, base: str | Path) -> Any:
    """A base's tree with a PEFT adapter on it: LoRA nodes where the adapter has factors.

    `ws.materialize` merges it, `reparam.combine_adapters` takes several, `ws.split` separates what trains.

    Args:
      path: a folder with adapter_config.json and adapter_model.safetensors. Scale lora_alpha / r, or / sqrt(r) under
        use_rslora, by rank_pattern and alpha_pattern where they match.
      base: the checkpoint it was trained on.
    Raises:
      FormatError, TreeMismatch, ShapeError: a folder that is not read, or does not fit its base.

    Reference: Mangrulkar et al., 2022, "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods".
    """
    return Adapted(Whole(open_checkpoint(base)), AdapterFolder(path)).tree()
