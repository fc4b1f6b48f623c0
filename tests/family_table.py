"""The page `tutorials/families.rst`: which family is tested in which format, and how.

Made from the families, the recorded cases and the tests' own parameters, so that it cannot say
more than they do; `tests/definition/test_family_table.py` holds the page to it. To write it again:

    python -m tests.family_table
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from tests.definition import test_quantised, test_quantised_families
from tests.definition.test_quantised_stacks import ROWS, TAKEN_APART, TRANSPOSED
from tests.low_precision import LAYOUTS
from tests.quantising import READ
from tests.stored import ROOT, config_of
from tinymoe.core import TinymoeError
from tinymoe.families import FAMILIES, read_config
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4
from tinymoe.quantize.layouts import by_name

PAGE = Path(__file__).parents[1] / "tutorials" / "families.rst"
WHOLE, VALUES, PART, NO = "whole model", "values", "values, not experts", "refused"
KIN = {
    "kimi_k2": "deepseek_v3",
    "llama4": "llama4_text",
    "minimax_text_01": "minimax",
}  # without a case: whose code reads them
# columns, each of several layouts: the kinds of scales, and with or without quantised inputs
COLUMNS = {
    "FP8 (DeepSeek)": ("DeepSeek FP8",),
    "FP8 (ct)": ("ct FP8 tensor", "ct FP8 channel", "ct FP8 block"),
    "FP8 (ModelOpt)": ("modelopt FP8", "modelopt FP8 channel", "modelopt FP8 block"),
    "MXFP4 (gpt-oss)": (),
    "MXFP4 (ct)": ("ct MXFP4", "ct MXFP4A16"),
    "NVFP4 (ct)": ("ct NVFP4", "ct NVFP4A16"),
    "NVFP4 (ModelOpt)": ("modelopt NVFP4", "modelopt W4A16_NVFP4"),
}
STACKS = (TRANSPOSED, TAKEN_APART, ROWS)

HEAD = """\
.. Written by `python -m tests.family_table`: change that, or the tests, and not this page.

Families and formats
====================

What is tested for each family, in each format its weights may be stored in. A family is the
``model_type`` of a ``config.json``; ct is compressed-tensors. This page is made from the tests, and
a test holds it to them.

whole model
   A checkpoint in this format gives what Hugging Face transformers gives: the logits of every
   position, every layer's output, and every router's logits, experts and weights, for prompts of
   several lengths. The tolerance is measured on transformers itself: how far its own
   implementations lie apart. Experts and greedy tokens are equal
   (``tests/definition/test_parity.py``).
values
   The loaded weights are the decoder's values, bit for bit, in every matrix whose rows divide into
   blocks, attention's and the experts', and the model runs in the numerics "checkpoint": with its
   inputs quantised as this format's engines do, where it says that they are
   (``tests/definition/test_quantised_families.py``). What follows from the weights is the whole
   model's test, and how a quantised input is multiplied is tested for each format
   (``test_numerics_checkpoint.py``, ``test_engine_arithmetic.py``).
values; experts: ...
   The same, but this family stores its experts in stacks, which are tested in the layouts that are
   named (``test_quantised_stacks.py``).
values, not experts
   The same without them: the family stores its experts in stacks, and the tests have those only
   as they are.
refused
   An error that says so.

"""
MIDDLE = """
A family without a case of its own is read by the code of the one named; what differs in its config
is tested in ``tests/definition/test_families.py``. There, every number of every config is changed,
too, and must be refused or must move the logits.

The whole-model cases also run in pieces and token by token, with the same bits
(``test_a_prompt_may_be_cut_anywhere``), and in float64, within the same tolerance.

The cases
---------

"""
WRITTEN = """
The layouts that ``quantize`` writes
------------------------------------

For the families of each row, a random model that is quantised loads as the formats' encoders say,
bit for bit; every matrix that was quantised has its input quantised, and no other; each token's
logits stay nearest to its own without rounding; weights that are read on demand give the same bits;
and ``lint`` finds nothing in the files (``tests/definition/test_quantize_layouts.py``,
``test_quantize_runs.py``).

"""
FORMATS = """
The formats by themselves
-------------------------

Each convention is one library's way to make the bytes.

"""
FORMAT_TESTS = """
All 16 codes and 256 bytes, every midpoint between two values in every rule of ties, and its
neighbours on both sides are compared with exact rational arithmetic; every midpoint goes through
each FP4 convention's whole encoder, against a table; blocks that are zero or too small for a scale
have known bytes for each convention; random tensors are compared with a slow twin in rational
arithmetic (``tests/definition/test_formats_*.py``,
``tests/properties/test_formats_properties.py``).
"""


def page() -> str:
    """The whole page."""
    families = [["family", "cases", "BF16", *COLUMNS]]
    families += [_family(name) for name in sorted(FAMILIES)]
    cases = [["case", "layers", "hidden", "experts", "chosen", "prompts"]]
    cases += [_case(folder.name) for folder in _folders()]
    written = [["layout", "families"]]
    for layout in by_name():
        written.append([layout, ", ".join(case for name, case in READ if name == layout)])
    formats = [["format", "conventions"]]
    for name, table in (("NVFP4", NVFP4), ("MXFP4", MXFP4), ("FP8", FP8)):
        formats.append([name, ", ".join(table)])
    tables = (_table(families), _table(cases), _table(written), _table(formats))
    texts = (HEAD, MIDDLE, WRITTEN, FORMATS)
    return "".join(f"{text}{table}" for text, table in zip(texts, tables, strict=True)) + (
        FORMAT_TESTS
    )


def _folders() -> list[Path]:
    return sorted(folder for folder in ROOT.iterdir() if folder.is_dir())


def cases_of(family: str) -> list[str]:
    """The recorded cases of a family."""
    return [f.name for f in _folders() if config_of(f.name)["model_type"] == family]


def _family(family: str) -> list[str]:
    cases = cases_of(family)
    if not cases:
        kin = KIN[family]
        assert FAMILIES[kin] is FAMILIES[family]
        return [family, "none", *[f"as {kin}"] * (1 + len(COLUMNS))]
    methods = {(config_of(c).get("quantization_config") or {}).get("quant_method") for c in cases}
    plain = [case for case in cases if "quantization_config" not in config_of(case)]
    found = [
        _gpt_oss(plain, methods) if not layouts else _column(layouts, plain)
        for layouts in COLUMNS.values()
    ]
    return [family, ", ".join(cases), WHOLE if None in methods else NO, *found]


def _gpt_oss(cases: list[str], methods: set[str | None]) -> str:
    """The layout of gpt-oss's own release."""
    if "mxfp4" in methods:
        return WHOLE
    for case in cases:
        with pytest.raises(TinymoeError, match="mxfp4"):
            read_config(config_of(case) | {"quantization_config": {"quant_method": "mxfp4"}})
    return NO


def _column(layouts: tuple[str, ...], cases: list[str]) -> str:
    """What `test_quantised_families.py` and `test_quantised_stacks.py` do in these layouts."""
    tested = [case for case in cases if case in test_quantised.CASES]
    names = {layout: [n for case in tested for n in _modules(layout, case)] for layout in layouts}
    assert all(layout in LAYOUTS and names[layout] for layout in layouts)
    if all(any(".experts." in name for name in each) for each in names.values()):
        return VALUES
    stacked = [
        layout
        for layout in layouts
        if any(case in where.get(layout, ()) for where in STACKS for case in tested)
    ]
    return f"{VALUES}; experts: {', '.join(stacked)}" if stacked else PART


@cache
def _modules(layout: str, case: str) -> tuple[str, ...]:
    """Names of the matrices that the test has in this layout."""
    return tuple(test_quantised_families.family(layout, case).modules)


def _case(case: str) -> list[str]:
    config = read_config(config_of(case))
    meta = json.loads((ROOT / case / "reference.json").read_text(encoding="utf-8"))
    numbers = (config.num_layers, config.hidden_size, config.router.experts, config.router.top_k)
    prompts = ", ".join(map(str, meta["prompt_lengths"]))
    return [case, *map(str, numbers), f"{prompts} tokens{', text' if 'text' in meta else ''}"]


def _table(rows: list[list[str]]) -> str:
    """Rows, the first of them the heads; no cell holds a quotation mark."""
    lines = [".. csv-table::", "   :header-rows: 1", ""]
    for row in rows:
        first = row[0] if row is rows[0] else f"``{row[0]}``"
        lines.append("   " + ", ".join(f'"{cell}"' for cell in (first, *row[1:])))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
