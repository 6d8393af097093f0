"""`wspace run --mesh data=2,model=4`: a recipe in memory, its leaves spread over devices, by one process or many.

Every process reads its own bytes of the sources, every operation of the transforms runs on the whole mesh (one after
the other, as without a mesh: what is element-wise gives the same bits), every process writes its own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from wspace.app.recipe import Recipe
from wspace.app.records import write_records
from wspace.app.tee import cast
from wspace.app.weights import Weights
from wspace.core.containers import is_weight
from wspace.core.errors import NonFinite, RecipeError, WspaceError, printable
from wspace.core.implicit import Implicit
from wspace.core.placement import Place, described, fitted, moved, placed, placement
from wspace.core.run import prepare, transfer
from wspace.core.sizes import size
from wspace.core.stored import parts_of
from wspace.core.typing import Leaf, Path, Progress
from wspace.io import Together, Whole, flatten_names, nest_names, write_folder, write_orbax
from wspace.io.placed import placed_leaves, put
from wspace.io.processes import ALONE

if TYPE_CHECKING:
    from wspace.app.execute import Opened, Result


@dataclass(frozen=True)
class Spread:
    """What `--mesh` and `--shard` say: sizes of the mesh's axes by name, and the rules."""

    axes: Mapping[str, int]
    rules: Mapping[str, PartitionSpec]

    def devices(self) -> jax.sharding.Mesh:
        """The mesh of all devices.

        Raises:
          WspaceError: there are more or fewer.
        """
        wanted, found = math.prod(self.axes.values()), jax.device_count()
        if wanted != found:
            raise WspaceError(
                f"--mesh {described(self.abstract())} takes {wanted} devices, jax has {found}; on a CPU set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
            )
        return jax.make_mesh((*self.axes.values(),), (*self.axes,), axis_types=(AxisType.Auto,) * len(self.axes))

    def abstract(self) -> AbstractMesh:
        """The same mesh, of no devices: for a plan."""
        return AbstractMesh((*self.axes.values(),), (*self.axes,))


def spread(mesh: str, rules: Sequence[str]) -> Spread:
    """From the words of the command line.

    >>> spread("data=2,model=4", ["embed=model,-", "norm=", "expert=data+model"]).rules
    {'embed': P('model', None), 'norm': P(), 'expert': P(('data', 'model'),)}

    Raises:
      WspaceError: not of this form, or an axis that the mesh does not have.
    """
    axes: dict[str, int] = {}
    for word in mesh.split(","):
        name, _, number = word.partition("=")
        if not name.isidentifier() or not number.isdecimal() or int(number) < 1 or name in axes:
            raise WspaceError(f"--mesh {printable(mesh)}: write NAME=SIZE,NAME=SIZE, as data=2,model=4")
        axes[name] = int(number)
    table = {}
    for rule in rules:
        pattern, equals, words = rule.rpartition("=")
        if not equals or not pattern:
            raise WspaceError(f"--shard {printable(rule)}: write PATTERN=AXIS,AXIS, as 'embed=model,-'")
        table[pattern] = PartitionSpec(*(_entry(word) for word in words.split(",") if words))
    made = Spread(axes, table)
    placement(made.abstract(), table)
    return made


def _entry(word: str) -> Any:
    names = tuple(word.split("+"))
    return None if word == "-" else names[0] if len(names) == 1 else names


def join(text: str) -> None:
    """Meet the other processes: "auto", or K/N@HOST:PORT for process K of N and the address of the first one.

    Raises:
      WspaceError: not of this form, or nobody there.
    """
    who, _, address = text.partition("@")
    index, _, count = who.partition("/")
    if text != "auto" and not (address and index.isdecimal() and count.isdecimal()):
        raise WspaceError(f"--distributed {printable(text)}: write auto, or K/N@HOST:PORT")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if text == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(address, int(count), int(index))
    except (ValueError, RuntimeError) as problem:
        raise WspaceError(f"--distributed {printable(text)}: {printable(str(problem).splitlines()[0])}") from problem


def shardings(source: Weights, place: Place) -> dict[str, Any]:
    """Where the leaves of a source lie; what no transform touches lies everywhere."""
    mesh = place("", ()).mesh  # type: ignore[attr-defined]
    every = NamedSharding(mesh, PartitionSpec())
    specs: dict[Path, Any] = {(name,): spec for name, spec in source.specs.items()}
    where = placed(lambda path, shape: place(path, shape) if is_weight(source.specs[path]) else every, specs)
    return {name: where[(name,)] for name in source.specs}


def on_mesh(source: Weights, place: Place) -> dict[str, Leaf]:
    """A source in memory, each process with its own parts; refused where it is not finite."""
    where = shardings(source, place)
    if isinstance(source.source, Whole):
        found = placed_leaves(source.source, where)
    else:
        found = {name: put(source[name], where[name]) for name in where}
    if not source.allow_nonfinite:
        for name, leaf in found.items():
            check_finite(leaf, name, source.label)
    return found


def check_finite(leaf: Leaf, name: str, label: str) -> None:
    """Raises NonFinite; counts where the leaf lies."""
    for x in jax.tree.leaves(leaf):
        bad = int(jnp.sum(~jnp.isfinite(x), dtype=jnp.uint32)) if jnp.issubdtype(x.dtype, jnp.inexact) else 0
        if bad:
            raise NonFinite(
                f"{printable(label)}: {printable(name)} has {bad} of {x.size} values that are NaN or infinite; mend "
                "the checkpoint, or add --allow-nonfinite to let them through"
            )


def check_spread(recipe: Recipe) -> None:
    """Refuse what needs whole models on one device, before anything is opened.

    Raises:
      RecipeError: the recipe evaluates, calibrates block by block, or writes an adapter.
    """
    for asks, what in (
        (recipe.evaluate is not None, "evaluates whole models"),
        (recipe.blocks is not None, "calibrates block by block"),
        ("peft" in recipe.output.formats, "writes an adapter"),
    ):
        if asks:
            raise RecipeError(printable(f"{recipe.file}: it {what}, which is not done on a mesh: leave --mesh out"))


def run_spread(
    job: Opened, out: File, made: Any, options: Mapping[str, Any], result: Result, how: Spread, tell: Progress
) -> None:
    """Load, transform and write on a mesh. There is no ledger and no report: they would gather every leaf.

    Raises:
      WspaceError: another number of devices. ShapeError: a rule does not fit a leaf.
    """
    recipe = job.recipe
    place = placement(how.devices(), how.rules)
    crew = Together() if jax.process_count() > 1 else ALONE
    t = job.work.transform
    sources = [w for w in (*job.models, *job.sides().values()) if isinstance(w, Weights)]
    on = {id(w): on_mesh(w, place) for w in {id(w): w for w in sources}.values()}
    sides = {name: on.get(id(side), side) for name, side in job.sides().items()}
    ready = prepare(t, [on[id(w)] for w in job.models], key=job.key(t), sides=sides)
    found: dict[Any, Leaf] = {}
    transfer(ready, found, tell)
    where, dtype = shardings(job.models[0], place), recipe.output.dtype or job.dtype
    parts: dict[str, Any] = {}
    for name, leaf in found.items():
        leaf = moved(cast(leaf, dtype), where[name])
        if not recipe.allow_nonfinite:
            check_finite(leaf, name, "the result")
        parts |= flatten_names({name: parts_of(leaf)}).leaves
    kept = replace(recipe.output, formats=tuple(f for f in recipe.output.formats if f != "orbax"))
    with write_folder(out, made.specs, structure=made.structure, processes=crew, **options) as sink:
        for name, x in parts.items():
            sink[name] = x
        if "orbax" in recipe.output.formats:
            tree = nest_names(parts, made.structure) if made.structure else parts
            write_orbax(sink.directory / "orbax", tree, metadata=options["metadata"])
        if crew.index == 0:
            write_records(replace(job, recipe=replace(recipe, output=kept)), sink, result, bare=True)


def per_device(job: Opened, how: Spread) -> str:
    """One line: what every device holds.

    Raises:
      ShapeError: a rule does not fit a leaf.
    """
    place = placement(how.abstract(), how.rules)
    where = shardings(job.models[0], place)
    sources = [*job.models, *(side for side in job.sides().values() if isinstance(side, Weights))]
    given = sum(_bytes(spec, where[name]) for w in sources for name, spec in w.specs.items())
    made = {name: spec for name, spec in job.models[0].specs.items()}
    made |= {path[0]: leaf for path, leaf in (job.ready.made or {}).items()}  # type: ignore[misc]
    gives = sum(_bytes(leaf, where[name]) for name, leaf in made.items())
    return (
        f"on {described(how.abstract())}, {math.prod(how.axes.values())} devices: each holds {size(given)} of inputs "
        f"and {size(gives)} of the result"
    )


def _bytes(leaf: Any, where: Any) -> int:
    """Of a leaf, on one device."""
    parts = jax.tree.leaves(leaf) if isinstance(leaf, Implicit) else [leaf]
    shapes = [(fitted(where, leaf.ndim, tuple(x.shape)) if isinstance(leaf, Implicit) else where, x) for x in parts]
    return sum(math.prod(to.shard_shape(tuple(x.shape))) * jnp.dtype(x.dtype).itemsize for to, x in shapes)
