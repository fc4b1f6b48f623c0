"""A whole model through its kernels on the PTX machine, judged by the oracle."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.kernels.model_kernels import machine
from tests.tiny import tiny_config, tiny_params
from tinymoe.cache import PagedCache
from tinymoe.core import NUMERICS, Array, Batch, Run, TinymoeError
from tinymoe.kernels import ops, ops_where
from tinymoe.kernels.cuda.backend import ops_on
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.on_device import DeviceStep
from tinymoe.kernels.cuda.packed_experts import pack
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.oracle.diff import diff, diff_local
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.kernels
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]
IDS = [5, 6, 7, 11, 2, 6]
EVERYTHING = ("*",)


@pytest.mark.parametrize("arch", ["80", "120a"])
@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_tiny_model_gives_the_trace_of_the_definition(arch: str, numerics: Any) -> None:
    config = tiny_config()
    params = tiny_params(config, numerics)
    mine = trace(params, config, IDS, numerics, ops=ops_on(machine(arch)), patterns=EVERYTHING)
    report = diff(params, config, mine, numerics)
    assert report.first is None, report.first
    assert diff_local(params, config, mine, numerics).first is None


def test_a_layer_of_the_shipped_model_gives_the_trace_of_the_definition() -> None:
    # sixteen trained experts and a router with opinions: the whole MoE layer, attention included
    model = tinymoe.load()
    mine = trace(
        model.params,
        model.config,
        model.encode("Once upon a time, there was a"),
        FP32,
        ops=ops("ptx"),
        patterns=EVERYTHING,
        layers=(0, 1),
    )
    assert {"layers.0.moe.expert_out", "layers.0.router.ids", "layers.0.out"} <= set(mine)
    report = diff(model.params, model.config, mine, FP32)
    assert report.first is None, report.first


@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_shipped_layer_with_four_bit_experts_runs_in_the_grouped_gemm(numerics: Any) -> None:
    # W4A16: what the oracle knows are the decoded values, what the kernel reads are codes
    model = tinymoe.load(numerics=numerics)
    layer, *rest = model.params.layers
    (gate_up, gate_up_values), (down, down_values) = (
        pack(stack, "modelopt") for stack in (layer.ffn.gate_up, layer.ffn.down)
    )

    def params_with(**stacks: Any) -> Any:
        first = replace(layer, ffn=replace(layer.ffn, **stacks))
        return replace(model.params, layers=(first, *rest))

    ids, device = model.encode("Once upon a time"), machine("80")
    mine = trace(
        params_with(gate_up=gate_up, down=down),
        model.config,
        ids,
        numerics,
        ops=ops_on(device),
        patterns=EVERYTHING,
        layers=(0, 1),
    )
    assert any("grouped_gemm_nvfp4" in name for name in device.reports)
    values = params_with(gate_up=gate_up_values, down=down_values)
    report = diff(values, model.config, mine, numerics)
    assert report.first is None, report.first
    assert diff(model.params, model.config, mine, numerics).first is not None  # it was quantised


def test_decoding_gives_the_tokens_of_the_definition() -> None:
    # prompt, then token by token over the paged cache, and two prompts in one batch
    settings = {"max_tokens": 2, "temperature": 0}
    mine = tinymoe.load(backend="ptx")
    mine.params = replace(mine.params, layers=mine.params.layers[:1])
    mine.config = mine.generating = replace(
        mine.config, layers=mine.config.layers[:1], attention=mine.config.attention[:1]
    )
    plain = tinymoe.Model(mine.checkpoint, mine.numerics)
    plain.params, plain.config, plain.generating = mine.params, mine.config, mine.config
    prompts = ["Once upon", "Tom"]
    samplings = [mine.default_sampling(**settings) for _ in prompts]
    got, want = (
        [(number, token.id) for number, token in model.generate_many(prompts, samplings)]
        for model in (mine, plain)
    )
    assert got == want


def test_which_op_runs_where_is_said() -> None:
    where = ops_where("ptx")
    assert set(where) == {f.name for f in fields(Ops) if f.name != "step"}
    assert where["linear"] == "ptx: linear.cu"
    assert where["lightning"] == "ptx: recurrent.cu"
    for name, place in where.items():
        own = getattr(ops("ptx"), name) is getattr(DEFINITION, name)
        assert own == (place == "the definition")


def test_cuda_without_a_gpu_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as where it is not installed
    with pytest.raises(TinymoeError, match="no GPU backend: the package cupy is missing"):
        ops("cuda")
    with pytest.raises(TinymoeError, match="no GPU backend"):
        tinymoe.load(backend="cuda")


def test_weights_that_are_not_in_memory_are_refused() -> None:
    config = tiny_config()
    params = tiny_params(config)
    lazy = replace(params, head=OnDemand(params.head.shape, lambda at: params.head[at]))
    step = DeviceStep(machine("80"), ops_on(machine("80")))
    with pytest.raises(TinymoeError, match="give the model more --memory"):
        trace(lazy, config, IDS, FP32, ops=replace(DEFINITION, step=step))


# ------------------------------------------------------- a device whose arrays are not the host's


class Host(np.ndarray[Any, np.dtype[Any]]):
    """An array that computes nothing: as one of the host is to CuPy, in the middle of a pass."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        raise TypeError(f"{ufunc.__name__} of an array {self.shape} that is not on the device")

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        if function is np.may_share_memory:
            return super().__array_function__(function, types, args, named)
        raise TypeError(f"{function.__name__} of an array {self.shape} that is not on the device")

    def __getitem__(self, key: Any) -> Any:
        raise TypeError(f"an index into an array {self.shape} that is not on the device")


class FarDevice(PtxDevice):
    """The PTX machine behind a bus: arrays must be carried there, and are counted."""

    carried = 0

    def asarray(self, array: Any) -> Array:
        if isinstance(array, Host):
            self.carried += 1
            return np.array(array.view(np.ndarray))
        return super().asarray(array)

    def is_array(self, value: Any) -> bool:
        return super().is_array(value) and not isinstance(value, Host)


class HostCache:
    """Pages that a pass may carry to the device, and not touch."""

    def __init__(self, cache: PagedCache) -> None:
        self.cache, self.page_size = cache, cache.page_size

    def layer(self, index: int) -> tuple[Array, Array]:
        keys, values = self.cache.layer(index)
        return keys.view(Host), values.view(Host)


def on_host(value: Any) -> Any:
    """Parameters, a batch or their parts with every array made a `Host`."""
    if isinstance(value, np.ndarray):
        return value.view(Host)
    if isinstance(value, tuple):
        parts = [on_host(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value):
        return replace(value, **{f.name: on_host(getattr(value, f.name)) for f in fields(value)})
    return value


def test_a_pass_stays_on_the_device() -> None:
    # an array of the host in the middle of a pass is what CuPy refuses, and only a GPU would show
    config, device = tiny_config(), FarDevice()
    params, cache = tiny_params(config), PagedCache.for_model(tiny_config(), FP32, 64)
    step, plain = DeviceStep(device, ops_on(device)), tiny_params(config)
    (table,), far, host = cache.take(8), on_host(params), HostCache(cache)
    carried, whole = [], trace(plain, config, IDS, FP32, patterns=EVERYTHING)
    for start, stop in ((0, 5), (5, 6)):  # a prompt, and a token that finds its keys there
        rows = np.arange(stop - start)
        batch = Batch(
            np.array(IDS[start:stop]),
            np.arange(start, stop),
            (Run(slice(0, stop - start), start, (table,)),),
            rows,
        )
        seen: dict[str, Array] = {}
        logits = step(far, config, on_host(batch), host, FP32, seen.__setitem__)
        carried.append(device.carried)
        assert type(logits) is np.ndarray
        assert set(seen) == set(whole)
        for name in ("layers.1.router.ids", "tokens"):
            assert np.array_equal(seen[name], whole[name][start:stop])
        if not start:
            assert diff(params, config, seen, FP32).first is None
    assert not step.covers(config, FP32)  # else `load` would leave the weights on the disk
    # the second time, ids, positions, table and rows alone
    assert carried[1] - carried[0] == 4
    assert not np.any(cache.layer(0)[0])  # the pages in use are the device's
