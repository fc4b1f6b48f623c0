"""Golden vectors: inputs and right answers as plain files, for a test in any language.

    from tinymoe.oracle.vectors import all_vectors, write_vectors
    write_vectors(Path("golden"), all_vectors())

A vector is a safetensors file and a JSON card: what is given, what is expected and how closely,
where that comes from, what decides ties, and the mutants that it kills: the wrong functions, each
with the public bug it stands for, whose answers are outside its tolerance. What is expected follows
in float64 or whole numbers from the definition of each step and format, from no engine.

The schema is `tinymoe-vectors/1`. A file that changes gets another schema, or a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tinymoe.oracle.vectors.attention import attention_vectors
from tinymoe.oracle.vectors.carried import carried_vectors
from tinymoe.oracle.vectors.check import problems
from tinymoe.oracle.vectors.encoders import encoder_vectors
from tinymoe.oracle.vectors.experts import expert_vectors
from tinymoe.oracle.vectors.files import read_index, read_vector, read_vectors, write_vectors
from tinymoe.oracle.vectors.formats import format_vectors
from tinymoe.oracle.vectors.kills import COUNTED, killed_by, survivors
from tinymoe.oracle.vectors.layers import layer_vectors
from tinymoe.oracle.vectors.models import model_vectors
from tinymoe.oracle.vectors.ops import of_op
from tinymoe.oracle.vectors.router import router_vectors
from tinymoe.oracle.vectors.sampler import sampler_vectors
from tinymoe.oracle.vectors.vector import SCHEMA, Vector, wrong

__all__ = [
    "COUNTED",
    "SCHEMA",
    "Vector",
    "all_vectors",
    "killed_by",
    "made",
    "of_op",
    "problems",
    "read_index",
    "read_vector",
    "read_vectors",
    "survivors",
    "write_vectors",
    "wrong",
]


def made(models: bool = True) -> Iterator[Vector]:
    """Every vector, or all but the whole models, before the mutants are tried on it."""
    yield from router_vectors()
    yield from expert_vectors()
    yield from layer_vectors()
    yield from attention_vectors()
    yield from carried_vectors()
    yield from format_vectors()
    yield from encoder_vectors()
    yield from sampler_vectors()
    if models:
        yield from model_vectors()


def all_vectors() -> Iterator[Vector]:
    """Every vector, with the mutants that it kills."""
    for vector in made():
        yield replace(vector, kills=killed_by(vector))
