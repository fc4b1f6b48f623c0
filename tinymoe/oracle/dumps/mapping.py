r"""From an engine's names to the names of a trace: a TOML file of rules.

    [[tensor]]
    match = 'model\.layers\.(\d+)\.self_attn\.qkv_proj'  # a regular expression for the whole name
    tap = 'layers.{1}.attn.q'     # {1}: what the first group matched
    columns = '0:256'             # of the last axis, as a Python slice
    heads = 8                     # the last axis becomes (8, rest)

    [[tensor]]
    match = 'model\.layers\.(\d+)\[0\]'
    tap = 'layers.{1}.out'
    plus = 'model.layers.{1}[1]'  # another tensor to add: hidden state and residual kept apart

    [[tensor]]
    match = 'model\.layers\.(\d+)\.input_norm\[1\]'
    tap = 'layers.{1-1}.out'      # less one: of the layer before

    [[tensor]]
    match = 'rotary.*'            # no `tap`: left out on purpose

The steps, in the order in which they are taken: `view` (the bits are numbers of that type:
"bfloat16", "float16", "float32", "int32", ...), `plus`, `squeeze` (true: axes of length 1 at the
front are taken off), `transpose` (a permutation of the axes), `join` (so many axes at the end
become one), `rows` (of the first axis), `columns` (of the last), `heads`. The first rule that
matches a name counts; where several cut their columns out of one tensor, `also = true` in all but
the last lets the search go on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16

_SHOWN = 6  # names in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `[[tensor]]` of a mapping file; see the module's text."""

    match: str
    tap: str | None = None
    view: str | None = None
    plus: str | None = None
    squeeze: bool = False
    transpose: tuple[int, ...] | None = None
    join: int = 1
    rows: str | None = None
    columns: str | None = None
    heads: int | None = None
    also: bool = False


class Mapped(dict[str, Array]):
    """Tap name -> array, and the engine's names that no rule spoke of."""

    unknown: tuple[str, ...] = ()


def read_mapping(path: Path) -> tuple[Rule, ...]:
    """The rules of a mapping file. Raises `TinymoeError` for what is not one."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TinymoeError(f"{path}: expected a mapping file in TOML: {error}") from error
    tables = data.pop("tensor", None)
    if data or not isinstance(tables, list) or not tables:
        extra = f", found {', '.join(data)}" if data else ""
        raise TinymoeError(f"{path}: expected nothing but tables [[tensor]]{extra}")
    return tuple(
        _rule(table, f"{path}: [[tensor]] number {n}") for n, table in enumerate(tables, 1)
    )


_KINDS: Mapping[str, type] = {
    "match": str, "tap": str, "view": str, "plus": str, "squeeze": bool, "transpose": list,
    "join": int, "rows": str, "columns": str, "heads": int, "also": bool,
}  # fmt: skip


def _rule(table: Any, where: str) -> Rule:
    if not isinstance(table, dict) or "match" not in table:
        raise TinymoeError(f"{where}: expected a table with `match`, found {table!r}")
    for name, value in table.items():
        if name not in _KINDS:
            known = ", ".join(field.name for field in fields(Rule))
            raise TinymoeError(f"{where}: unknown key {name!r}; known: {known}")
        if type(value) is not _KINDS[name]:
            kind = _KINDS[name].__name__
            raise TinymoeError(f"{where}: {name} must be a {kind}, found {value!r}")
    try:
        re.compile(table["match"])
    except re.error as error:
        raise TinymoeError(f"{where}: match is no regular expression: {error}") from error
    for name in ("rows", "columns"):
        if name in table:
            _slice(table[name], where)
    order = table.get("transpose")
    if order is not None and sorted(order) != list(range(len(order))):
        raise TinymoeError(f"{where}: transpose must be an order of axes, as [1, 0]: {order!r}")
    return Rule(**(table | ({"transpose": tuple(order)} if order is not None else {})))


def _slice(text: str, where: str) -> slice:
    found = re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?", text)
    if not found:
        raise TinymoeError(f"{where}: expected a slice as '0:256', found {text!r}")
    return slice(*(None if part is None else int(part) for part in found.groups()))


def apply_mapping(tensors: Mapping[str, Array], rules: Sequence[Rule]) -> Mapped:
    """Rename and reshape. Two tensors for one tap, or none for any, are errors.

    Values keep their type, but for bits that a `view` names. `router.ids` become int64.
    """
    result, origin, unknown = Mapped(), dict[str, str](), []
    compiled = [(re.compile(rule.match), rule) for rule in rules]
    for name, value in tensors.items():
        known = False
        for pattern, rule in compiled:
            found = pattern.fullmatch(name)
            if found is None:
                continue
            known = True
            if rule.tap is not None:
                tap = _fill(rule.tap, found)
                if tap in result:
                    raise TinymoeError(
                        f"both {origin[tap]!r} and {name!r} were mapped to {tap!r}: make the "
                        "regular expressions tell them apart"
                    )
                result[tap], origin[tap] = _shape(value, rule, found, tensors, name), name
            if not rule.also:
                break
        if not known:
            unknown.append(name)
    if not result:
        shown = ", ".join(list(tensors)[:_SHOWN])
        raise TinymoeError(f"no rule matches any of the {len(tensors)} tensors: {shown}, ...")
    result.unknown = tuple(unknown)
    return result


def _fill(template: str, found: re.Match[str]) -> str:
    """{n} by what group n matched, {n-1} by the number before it."""

    def filled(place: re.Match[str]) -> str:
        text = found[int(place[1])] or ""
        return str(int(text) - 1) if place[2] else text

    try:
        return re.sub(r"\{(\d+)(-1)?\}", filled, template)
    except ValueError:
        raise TinymoeError(
            f"{template!r} takes one from a group of {found.re.pattern!r} that is no number in "
            f"{found[0]!r}"
        ) from None
    except IndexError:
        raise TinymoeError(
            f"{template!r} asks for a group that {found.re.pattern!r} does not have"
        ) from None


def _shape(
    value: Array, rule: Rule, found: re.Match[str], tensors: Mapping[str, Array], name: str
) -> Array:
    """Take a rule's steps."""
    if rule.view is not None:
        value = view_bits(value, rule.view, name)
    if rule.plus is not None:
        other = _fill(rule.plus, found)
        if other not in tensors:
            raise TinymoeError(f"{name!r}: the rule adds {other!r}, which is not in the dump")
        if tensors[other].shape != value.shape:
            raise TinymoeError(
                f"{name!r} has shape {value.shape}, {other!r}, to be added, {tensors[other].shape}"
            )
        # The engine adds in float32 and rounds after, in whatever kernel comes next: take the sum.
        value = value.astype(np.float32) + tensors[other].astype(np.float32)
    while rule.squeeze and value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    if rule.transpose is not None:
        if len(rule.transpose) != value.ndim:
            raise TinymoeError(f"{name!r} has shape {value.shape}: no order {rule.transpose}")
        value = value.transpose(rule.transpose)
    if rule.join > 1:
        if rule.join > value.ndim:
            raise TinymoeError(f"{name!r} has shape {value.shape}: no {rule.join} axes to join")
        value = value.reshape(*value.shape[: -rule.join], -1)
    if rule.rows is not None:
        value = value[_slice(rule.rows, name)]
    if rule.columns is not None:
        value = value[..., _slice(rule.columns, name)]
    if rule.heads is not None:
        if rule.heads < 1 or value.shape[-1] % rule.heads:
            raise TinymoeError(f"{name!r} has shape {value.shape}: no {rule.heads} equal heads")
        value = value.reshape(*value.shape[:-1], rule.heads, -1)
    return value


def view_bits(value: Array, dtype: str, name: str) -> Array:
    """The same bits as numbers of another type; bfloat16 comes as float32."""
    if dtype == "bfloat16":
        if value.dtype.itemsize != 2:
            raise TinymoeError(f"{name!r} is {value.dtype}: bfloat16 has 2 bytes")
        return bf16.decode(np.ascontiguousarray(value).view(np.uint16))
    try:
        return np.ascontiguousarray(value).view(np.dtype(dtype))
    except (TypeError, ValueError) as error:
        raise TinymoeError(f"{name!r} of {value.dtype} cannot be seen as {dtype!r}") from error
