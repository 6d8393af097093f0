"""Statistics over data: what every parameter of a model meets, as side trees. The room is its main function:

found = ws.calibrate(apply, params, batches, ["gram", "abs_max"])
ws.quant.gptq(bits=4)(params, gram=found["gram"], axes=found.axes)
"""

from wspace.calibrate.batches import calibrate as calibrate
from wspace.calibrate.blockwise import blockwise as blockwise
from wspace.calibrate.blockwise import stream as stream
from wspace.calibrate.result import Calibration as Calibration
from wspace.calibrate.room import Room as Room
