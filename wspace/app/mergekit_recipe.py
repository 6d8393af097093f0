"""A validated mergekit document as a value: which models, which layers, and each parameter for each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wspace.app.mergekit_methods import METHODS
from wspace.app.mergekit_tokens import Vocabulary
from wspace.app.settings import Number, Setting, evaluate
from wspace.core.errors import RecipeError, printable

ALMOST_ZERO = 1e-8  # weights that sum to less can't be divided by their sum


@dataclass(frozen=True)
class Input:
    """A model of a merge, its own parameters, and in a slice the layers [start, end) that are taken."""

    model: str
    parameters: Mapping[str, Setting]
    place: str
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Models whose layers are merged with each other; slices are stacked in order."""

    sources: tuple[Input, ...]
    base: str | None
    parameters: Mapping[str, Setting]
    place: str


@dataclass(frozen=True)
class Values:
    """The parameters for one tensor: of the whole merge, and of each model that is merged, in order."""

    whole: Mapping[str, Number | None]
    each: Mapping[str, Mapping[str, Number | None]]


@dataclass(frozen=True)
class MergeRecipe:
    """One validated mergekit document.

    Attributes:
      method: its name, a key of `METHODS`.
      base: the base model, or None.
      models: the models as listed, the base among them if it was; empty in a recipe of slices.
      slices: empty in a recipe of models.
      parameters: for the whole merge.
      dtype: what to compute in and, without `out_dtype`, to write; None keeps each leaf's own.
      out_dtype: what to write.
      tokenizer: the vocabulary of the result; None keeps rows as they are, and the base's or first model's tokenizer.
      chat_template: "auto", a Jinja text, or None.
      name: how later stages call this result; None for the last.
      referenced: every model that is named, with the place where it first was.
      place: where the document's method stands.
    """

    method: str
    base: str | None
    models: tuple[Input, ...]
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Setting]
    dtype: str | None
    out_dtype: str | None
    tokenizer: Vocabulary | None
    chat_template: str | None
    name: str | None
    referenced: Mapping[str, str]
    place: str

    @property
    def groups(self) -> tuple[Slice, ...]:
        """The slices; a recipe of models is one slice with all layers."""
        return self.slices or (Slice(self.models, self.base, {}, self.place),)

    def merged(self, group: Slice) -> tuple[Input, ...]:
        """The models that have parameters of their own: all but the base, or all if the method has no base."""
        if METHODS[self.method].base == "none":
            return group.sources
        return tuple(source for source in group.sources if source.model != group.base)

    def value(
        self, name: str, tensor: str, layer: int | None, layers: int, *, group: Slice, source: Input | None = None
    ) -> Number | None:
        """A parameter for one tensor: the source's, else the slice's, else the whole merge's, else the default."""
        for level in (source.parameters if source else {}, group.parameters, self.parameters):
            if name in level and (found := evaluate(level[name], tensor, layer, layers)) is not None:
                return found
        method = METHODS[self.method]
        return (method.each if source else method.whole)[name].default

    def values(
        self,
        tensor: str,
        layer: int | None,
        layers: int,
        group: Slice | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Values:
        """All parameters for one tensor, checked.

        Args:
          tensor: its name in the result.
          layer: its layer within the slice, from 0; None outside the layers.
          layers: how many layers the slice has.
          group: the slice; None for a recipe of models.
          inputs: its name in each model, where that is another one: filters of a model's parameters look at that.
        Raises:
          RecipeError: no filter matches for a required parameter, weights that sum to zero under normalization, or a
            DELLA window that leaves (0, 1); names the tensor.
        """
        found = self.unchecked(tensor, layer, layers, group or self.groups[0], inputs)
        method = METHODS[self.method]
        for model, own in found.each.items():
            for name, value in own.items():
                if value is None and method.each[name].required:
                    raise self._error(f"no {name!r} for model {model} at tensor {tensor}: no filter matches its name")
        for name, value in found.whole.items():
            if value is None and method.whole[name].required:
                raise self._error(f"no {name!r} at tensor {tensor}: no filter matches its name")
        if problem := self.problem(found):
            raise self._error(f"{problem} at tensor {tensor}")
        return found

    def unchecked(
        self, tensor: str, layer: int | None, layers: int, group: Slice, inputs: Mapping[str, str] | None = None
    ) -> Values:
        """The parameters for one tensor; None where a required one has no value."""
        method = METHODS[self.method]
        whole = {name: self.value(name, tensor, layer, layers, group=group) for name in method.whole}
        own = inputs or {}
        each = {
            source.model: {
                name: self.value(name, own.get(source.model, tensor), layer, layers, group=group, source=source)
                for name in method.each
            }
            for source in self.merged(group)
        }
        return Values(whole, each)

    def problem(self, values: Values) -> str | None:
        """What is wrong with parameters that are each in range; None if they go together."""
        divides = METHODS[self.method].divides
        weights = [own["weight"] for own in values.each.values()] if divides else []
        if divides and (divides == "always" or values.whole[divides]):
            known = [weight for weight in weights if weight is not None]
            if len(known) == len(weights) and abs(sum(known)) < ALMOST_ZERO:
                switch = "" if divides == "always" else f" under '{divides}: true'"
                return f"the weights {', '.join(f'{weight:g}' for weight in known)} sum to zero{switch}"
        for own in values.each.values():
            density, epsilon = own.get("density"), own.get("epsilon")
            if density is None or epsilon is None or density >= 1:
                continue
            if not (density - epsilon > 0 and density + epsilon < 1):
                return f"density {density:g} +- epsilon {epsilon:g} leaves the open interval (0, 1)"
        return None

    def _error(self, message: str) -> RecipeError:
        return RecipeError(printable(f"{self.place}: {self.method}: {message}"))
