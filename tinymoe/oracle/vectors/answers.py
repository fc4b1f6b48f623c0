"""What a function, right or wrong, answers to a vector: the definition, a mutant, a foreign one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinymoe.cards import ExpertCard, ModelConfig, RouterCard
from tinymoe.core import Array, QuantTensor
from tinymoe.kernels.checks import Case
from tinymoe.model.ops import DEFINITION
from tinymoe.model.params import MoeParams, SharedParams
from tinymoe.model.rope import rope_tables
from tinymoe.model.transformer import moe_block
from tinymoe.oracle.conform.looks_like import POSITIONAL, call, setup_of
from tinymoe.oracle.mutants import Row, Setup, Stored, Values, decode
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import CONFIGS
from tinymoe.oracle.trace import trace
from tinymoe.oracle.vectors.vector import Vector

Answer = dict[str, Any]
Read = Callable[[Stored], Values]


def case_of(vector: Vector) -> Case:
    """The arguments of an op of the table; rope's tables are the vector's own, in float32."""
    case = dict(vector.given)
    if vector.op == "rope":
        del case["positions"]
        dtype = case["numerics"].dtype
        case["tables"] = tuple(vector.expected[name].astype(dtype) for name in ("cos", "sin"))
    for name in ("block_tables", "lengths"):  # lists, as the op takes them
        if name in case:
            case[name] = list(case[name])
    return case


def fields(op: str, result: Any) -> Answer:
    """An op's result by the vector's names."""
    if op == "sample":
        probabilities = getattr(result, "probabilities", result)
        return {"probabilities": probabilities}
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    return {"out": result}


def setup_for(vector: Vector) -> Setup | None:
    """The model that the vector is about, which a mutant then changes; None where there is none."""
    if vector.op in POSITIONAL:
        setup = setup_of(vector.op, case_of(vector))
        if vector.op == "rope":
            width = vector.given["x"].shape[-1]
            setup = setup._replace(config=replace(setup.config, head_dim=width))
        return setup
    if vector.op == "model":
        return Setup(vector.given["config"], vector.given["params"])
    return moe_setup(vector, read_all) if vector.op == "moe" else None


def answer(vector: Vector, setup: Setup) -> Answer:
    """What the model of a setup gives."""
    if vector.op == "model":
        given = vector.given
        ids = given["ids"].tolist()
        return trace(setup.params, setup.config, ids, given["numerics"], ops=setup.ops)
    if vector.op == "moe":
        return _moe(vector, setup)
    case, more = case_of(vector), {}
    if vector.op == "rope":
        card: Any = setup.config.attention[0]
        case["tables"] = rope_tables(vector.given["positions"], card.rope, case["numerics"])
        more = dict(zip(("cos", "sin"), case["tables"], strict=True))
    return {**fields(vector.op, call(vector.op, setup, case)), **more}


# ------------------------------------------------------------------------------------ layers


def _as_is(x: Array, *_: Any, **__: Any) -> Array:
    return x


def read_all(stored: Stored) -> Values:
    """Each tensor read rightly."""
    return tuple(decode(tensor) for tensor in stored)


def moe_setup(vector: Vector, read: Read) -> Setup:
    """A model of one MoE layer without its norm; four-bit weights as `read` has them."""
    given = vector.given
    gate_up, down = _experts(given, read)
    shared = None
    if given.get("shared") is not None:
        shared = SharedParams(**given["shared"])
    moe = MoeParams(
        norm=np.ones(given["x"].shape[1], np.float32),
        router=given["router"],
        selection_bias=None,
        gate_up=gate_up,
        down=down,
        shared=shared,
    )
    _, base, _ = specimen("ties")
    layer = replace(base.layers[1], ffn=moe)
    ops = replace(DEFINITION, rmsnorm=_as_is)
    config = one_layer(given["router_card"], given["expert_card"], given["x"].shape[1], down)
    return Setup(config, replace(base, layers=(layer,)), ops)


def one_layer(router: RouterCard, experts: ExpertCard, hidden: int, down: Array) -> ModelConfig:
    """The config of a model of that MoE layer alone."""
    base = CONFIGS["ties"]
    return replace(
        base,
        hidden_size=hidden,
        moe_intermediate=down.shape[2],
        layers=("moe",),
        attention=base.attention[:1],
        router=router,
        experts=experts,
    )


def _experts(given: Mapping[str, Any], read: Read) -> tuple[Array, Array]:
    """gate_up (E, 2I, H) and down (E, H, I)."""
    if "stored" not in given:
        return given["gate_up"], given["down"]
    held = given["stored"]
    pairs = [read(pair) for pair in zip(held["gate"], held["up"], strict=True)]
    gate_up = np.stack([np.concatenate(pair) for pair in pairs])
    return gate_up, np.stack([read((q,))[0] for q in held["down"]])


def _moe(vector: Vector, setup: Setup) -> Answer:
    """The layer's taps by the vector's names. What each rank adds is not the model's to say."""
    seen: Answer = {}

    def tap(name: str, value: Array) -> None:
        seen[name.rpartition(".")[2]] = np.array(value)

    x, numerics = vector.given["x"], vector.given["numerics"]
    # all that an MoE layer asks of a `Pass`: it has no positions and no cache
    this: Any = SimpleNamespace(config=setup.config, numerics=numerics, ops=setup.ops, tap=tap)
    fed = setup.params.layers[0].ffn
    assert isinstance(fed, MoeParams)
    seen["out"] = moe_block(x, fed, this, "layer")
    return seen


# ------------------------------------------------------------------------------ formats, rows


def read_answer(vector: Vector, read: Read, whole: Read | None = None) -> Answer:
    """Stored tensors as `read` has them: their values, a product, a layer."""
    given = vector.given
    if vector.op == "moe":
        return _moe(vector, moe_setup(vector, read))
    if vector.op == "dequantize":
        return {f"values.{i}": v for i, v in enumerate(read(given["stored"]))}
    x: QuantTensor = given["x"]
    a = (whole or read_all)((x,))[0].astype(np.float64)
    if vector.op == "gemm":
        weights = np.concatenate(read(given["weights"])).astype(np.float64)
        with np.errstate(all="ignore"):
            return {"y": a @ weights.T}
    parts = []
    for w, (start, stop) in zip(given["weights"], pairwise(given["offsets"].tolist()), strict=True):
        with np.errstate(all="ignore"):
            parts.append(a[start:stop] @ read((w,))[0].astype(np.float64).T)
    return {"y": np.concatenate(parts)}


def row_of(vector: Vector) -> Row:
    """The sampler's row."""
    return Row(**vector.given)
