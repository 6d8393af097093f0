"""Measuring models: along paths, against each other, and by size."""

from wspace.measure.barrier import Barrier as Barrier
from wspace.measure.barrier import along as along
from wspace.measure.barrier import barrier as barrier
from wspace.measure.ledger import Entry as Entry
from wspace.measure.ledger import Ledger as Ledger
from wspace.measure.ledger import compare as compare
from wspace.measure.ledger import ledger as ledger
from wspace.measure.plane import Plane as Plane
from wspace.measure.plane import Surface as Surface
from wspace.measure.plane import plane as plane
from wspace.measure.plane import surface as surface
from wspace.measure.summary import Summary as Summary
from wspace.measure.summary import summary as summary
from wspace.measure.vectors import cosines as cosines
from wspace.measure.vectors import interference as interference
from wspace.measure.volume import Volume as Volume
from wspace.measure.volume import local_volume as local_volume
