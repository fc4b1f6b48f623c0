"""Write the torch files that `tests/definition/test_dumps_torch.py` reads.

    python tests/vectors/dumps/make_dumps.py

Made with torch 2.13.0. The numbers are counted up, so that a wrong stride, offset or type shows.
"""

from __future__ import annotations

from pathlib import Path

import torch

HERE = Path(__file__).parent


def counted(*shape: int, dtype: torch.dtype = torch.float32, first: int = 0) -> torch.Tensor:
    """first, first + 1, ... divided by 8: exact in every type used here."""
    size = int(torch.tensor(shape).prod())
    values = torch.arange(first, first + size)
    return (values / 8 if dtype.is_floating_point else values).to(dtype).reshape(shape)


def main() -> None:
    """All of them."""
    whole = counted(4, 6)
    torch.save(
        {
            "transposed": whole.T,
            "slice": whole[1:3, 2:5],
            "expanded": counted(1, 3).expand(2, 3),
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(0.5),
            "half": counted(2, 2, dtype=torch.float16),
            "double": counted(2, 2, dtype=torch.float64),
            "bool": torch.tensor([True, False]),
            "u16": counted(3, dtype=torch.int32).to(torch.uint16),
            "fp8": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
            "parameter": torch.nn.Parameter(counted(2, 2)),
            "nested": {"list": [counted(2), None, 3, "text", (counted(1), counted(1, first=1))]},
        },
        HERE / "many_kinds.pt",
    )
    torch.save({"fine": counted(2), "module": torch.nn.Linear(1, 1)}, HERE / "a_module.pt")


if __name__ == "__main__":
    main()
