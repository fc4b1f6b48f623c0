"""The page `tutorials/families.rst`: which family is tested in which format, and how.

Made from the families, the recorded cases and the tests' own parameters, so that it cannot say
more than they do; `tests/definition/test_family_table.py` holds the page to it. To write it again:

    python -m tests.family_table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from tests.definition import test_quantised, test_quantised_nvfp4
from tests.stored import ROOT, config_of, stored
from tinymoe.core import TinymoeError
from tinymoe.families import FAMILIES, read_config
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4

PAGE = Path(__file__).parents[1] / "tutorials" / "families.rst"
WHOLE, VALUES, PART, NO = "whole model", "values", "values, not experts", "refused"
KIN = {"kimi_k2": "deepseek_v3", "llama4": "llama4_text"}  # without a case: whose code reads them

HEAD = """\
.. Written by `python -m tests.family_table`: change that, or the tests, and not this page.

Families and formats
====================

What is tested for each family, in each format its weights may be stored in. A family is the
``model_type`` of a ``config.json``. This page is made from the tests, and a test holds it to them.

whole model
   A checkpoint in this format gives what Hugging Face transformers gives: the logits of every
   position, every layer's output, and every router's logits, experts and weights, for prompts of
   several lengths. The tolerance is measured on transformers itself: how far its own
   implementations lie apart. Experts and greedy tokens are equal
   (``tests/definition/test_parity.py``).
values
   The loaded weights are the decoder's values, bit for bit, in every tensor that can be stored so
   (``tests/definition/test_quantised.py``, ``test_quantised_nvfp4.py``). What follows from the
   weights is the whole model's test.
values, not experts
   The same, for all but the experts: this family stores them in stacks, which in this format are
   refused.
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
    families = [["family", "cases", "BF16", "FP8", "MXFP4", "NVFP4 (ct)", "NVFP4 (ModelOpt)"]]
    families += [_family(name) for name in sorted(FAMILIES)]
    cases = [["case", "layers", "hidden", "experts", "chosen", "prompts"]]
    cases += [_case(folder.name) for folder in _folders()]
    formats = [["format", "conventions"]]
    for name, table in (("NVFP4", NVFP4), ("MXFP4", MXFP4), ("FP8", FP8)):
        formats.append([name, ", ".join(table)])
    return (
        HEAD + _table(families) + MIDDLE + _table(cases) + FORMATS + _table(formats) + FORMAT_TESTS
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
        return [family, "none", *[f"as {kin}"] * 5]
    methods = {(config_of(c).get("quantization_config") or {}).get("quant_method") for c in cases}
    plain = [case for case in cases if "quantization_config" not in config_of(case)]
    return [
        family,
        ", ".join(cases),
        WHOLE if None in methods else NO,
        _fp8(plain),
        _mxfp4(plain, methods),
        _nvfp4("ct", plain),
        _nvfp4("modelopt", plain),
    ]


def _mxfp4(cases: list[str], methods: set[str | None]) -> str:
    if "mxfp4" in methods:
        return WHOLE
    for case in cases:
        with pytest.raises(TinymoeError, match="mxfp4"):
            read_config(config_of(case) | {"quantization_config": {"quant_method": "mxfp4"}})
    return NO


def _fp8(cases: list[str]) -> str:
    tested = [case for case in cases if case in test_quantised.CASES]
    names = {case: set(test_quantised.quantised(stored(case))[0]) for case in tested}
    return _how({c: {n for n in found if n.endswith("_scale_inv")} for c, found in names.items()})


def _nvfp4(by: Literal["ct", "modelopt"], cases: list[str]) -> str:
    tested = [case for case in cases if case in test_quantised_nvfp4.CASES]
    return _how({case: set(test_quantised_nvfp4.made(by, case)[3]) for case in tested})


def _how(quantised: dict[str, set[str]]) -> str:
    """Whether experts are among what was quantised, in any of the cases."""
    if not any(quantised.values()):
        return NO
    experts = any(".experts." in name for names in quantised.values() for name in names)
    return VALUES if experts else PART


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
