"""The PTX machine: compiled kernels, run on the CPU with NumPy alone.

`parse` reads the text that NVRTC writes; `launch` runs one kernel over a grid and raises
`DefectError` where a kernel reads outside its buffers, races, or waits for a
thread that never comes.
"""

from tinymoe.kernels.ptx.kernel import DefectError, Kernel, PtxError
from tinymoe.kernels.ptx.launch import launch
from tinymoe.kernels.ptx.parser import parse
from tinymoe.kernels.ptx.report import Report

__all__ = ["DefectError", "Kernel", "PtxError", "Report", "launch", "parse"]
