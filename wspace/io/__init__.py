"""Checkpoints on disk: lazy mappings in, sinks that appear whole or not at all out. Imports no jax."""

from wspace.io.adapter import Adapted, AdapterFolder, is_adapter, load_adapter
from wspace.io.adapter_writer import fill_adapter, save_adapter
from wspace.io.checkpoint import open_checkpoint
from wspace.io.companions import (
    Difference,
    companions,
    config_differences,
    copy_companions,
    model_card,
    write_card,
)
from wspace.io.dtypes import Spec
from wspace.io.load import load, save
from wspace.io.names import Flat, Structure, flatten_names, nest_names
from wspace.io.nodes import NODES, Whole
from wspace.io.orbax import OrbaxCheckpoint, open_orbax
from wspace.io.orbax_writer import write_orbax
from wspace.io.processes import Together
from wspace.io.quantized import quantization_of, quantized_by, read_quantized, write_quantized
from wspace.io.restore import read_like
from wspace.io.safetensors import SafetensorsFile, SafetensorsFolder
from wspace.io.source import Checkpoint
from wspace.io.stage import is_unfinished, staged_folder
from wspace.io.verify import Report, digest, verify
from wspace.io.writer import FolderSink, write_folder, write_tree

__all__ = [
    "save_adapter",
    "fill_adapter",
    "load_adapter",
    "is_adapter",
    "is_unfinished",
    "AdapterFolder",
    "Adapted",
    "Checkpoint",
    "Difference",
    "NODES",
    "Flat",
    "FolderSink",
    "OrbaxCheckpoint",
    "Report",
    "SafetensorsFile",
    "SafetensorsFolder",
    "Spec",
    "Structure",
    "Together",
    "Whole",
    "companions",
    "config_differences",
    "copy_companions",
    "digest",
    "flatten_names",
    "load",
    "model_card",
    "nest_names",
    "open_checkpoint",
    "open_orbax",
    "quantization_of",
    "quantized_by",
    "read_like",
    "read_quantized",
    "save",
    "staged_folder",
    "verify",
    "write_card",
    "write_folder",
    "write_orbax",
    "write_quantized",
    "write_tree",
]
