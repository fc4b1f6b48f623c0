"""What Numba is told of the vectors of `simd.py`: their types, and what `a + b` means.

The only file here that needs Numba when it is imported; `lazily.py` imports it when Numba first
meets a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from numba import types
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

from tinymoe.kernels.cpu.simd import OPERATORS


class VectorType(types.Type):
    """A Numba type whose values are LLVM vectors."""

    def __init__(self, name: str, llvm: Any) -> None:
        self.llvm = llvm
        super().__init__(name=name)


@register_model(VectorType)
class _Model(models.PrimitiveModel):
    """Held as LLVM holds it."""

    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _operator(vector: VectorType, sign: Any, build: Callable[..., Any]) -> None:
    """`a + b` and so on for two vectors of a kind, lane by lane."""

    class Both(ConcreteTemplate):
        key = sign
        cases: ClassVar = [vector(vector, vector)]

    infer_global(sign)(Both)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return build(builder, *values)

    lower_builtin(sign, vector, vector)(codegen)


TYPES: dict[str, VectorType] = {}
for described, table in OPERATORS.items():
    TYPES[described.name] = made = VectorType(described.name, described.llvm)
    for sign, build in table.items():
        _operator(made, sign, build)
