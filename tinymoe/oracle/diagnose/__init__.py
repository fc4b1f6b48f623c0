"""Which bug is it? The known wrong variants of the model, tried on an engine's tensors.

    found = diagnose(model.params, model.config, mine, NUMERICS["bf16"])
    found.named         # what reproduces them: a mutant, two of them, or what a tensor looks like
    found.candidates    # all, nearest first

`search.py` tries, `judging.py` judges, `replay.py` runs the part of the model that is wrong first,
from the engine's own input to it; `signatures.py` needs no model; `told.py` puts it in words.
"""

from __future__ import annotations

from tinymoe.oracle.diagnose.search import Candidate, Diagnosis, diagnose, diagnose_traces

__all__ = ["Candidate", "Diagnosis", "diagnose", "diagnose_traces"]
