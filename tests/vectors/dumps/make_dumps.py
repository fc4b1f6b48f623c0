"""Write the samples of other programs' dumps that `tests/definition/test_dumps.py` reads.

    python tests/vectors/dumps/make_dumps.py

Made with torch 2.13.0. The files have the layout of SGLang's two dumpers (see
`tinymoe/oracle/dumps/sglang.py`); their numbers are counted up, so that a wrong stride, offset or
type shows.
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
    dumper = HERE / "sglang_dumper"
    dumper.mkdir(exist_ok=True)
    for step in (0, 1):
        for layer in (0, 1):
            for rank in (0, 1):
                value = counted(3, 4, dtype=torch.bfloat16, first=100 * step + 10 * layer + rank)
                name = (
                    f"step={step}___rank={rank}___dump_index={layer + 1}"
                    f"___name=moe_out___layer_id={layer}.pt"
                )
                torch.save({"value": value, "meta": {"world": 2, "note": "x"}}, dumper / name)
    older = "forward_pass_id=0___rank=0___name=ids.pt"
    torch.save(counted(3, 2, dtype=torch.int64), dumper / older)

    hooks = HERE / "sglang_hooks"
    hooks.mkdir(exist_ok=True)
    residual = counted(3, 4, first=50)
    torch.save(
        {
            "model.embed_tokens": counted(3, 4, dtype=torch.bfloat16),
            "model.layers.0.input_layernorm": counted(3, 4, first=4),
            "model.layers.0.self_attn.attn": counted(3, 6),
            "model.layers.0.post_attention_layernorm": [counted(3, 4, first=20), residual],
            "model.layers.0.mlp.gate": counted(3, 8),
            "model.rotary_emb": counted(3, 2),
            "model.forward_batch_info.input_ids": counted(3, dtype=torch.int64, first=7),
        },
        hooks / "Pass00000.pt",
    )

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
