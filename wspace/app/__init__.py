"""Recipes, the command line and the report: the only room that prints, plots or parses flags."""

from wspace.app.load import load
from wspace.app.output import Output
from wspace.app.recipe import Blocks, Recipe, Step
from wspace.app.sources import Adapter, Folder, Package, Perturbed

__all__ = ["Adapter", "Blocks", "Folder", "Output", "Package", "Perturbed", "Recipe", "Step", "load"]
