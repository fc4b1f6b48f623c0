"""The comparison that explains: the first wrong tensor of an engine's trace, and by how much.

    report = diff(model.params, model.config, mine, NUMERICS["bf16"])
    report.first        # the first wrong tensor; what came in was right
    report.flips        # every token on other experts, with the gap of its scores

Runs in float64 and in the stated numerics judge the engine's: `tensors.py` says how. `diff_local`
judges each layer from the engine's own input, so that one early fault does not hide the others;
`diff_traces` compares two traces without a model. `page.py` draws a report.
"""

from __future__ import annotations

from tinymoe.oracle.diff.local import diff_local
from tinymoe.oracle.diff.routing import Flip
from tinymoe.oracle.diff.tensors import TensorDiff
from tinymoe.oracle.diff.two_way import diff_traces
from tinymoe.oracle.diff.walk import Report, diff

__all__ = ["Flip", "Report", "TensorDiff", "diff", "diff_local", "diff_traces"]
