"""The kernels as an `Ops` value: a whole model on the PTX machine, or on a GPU.

    tinymoe.load(backend="ptx")     every op's PTX, run on the CPU with bounds and races checked
    tinymoe.load(backend="cuda")    the same sources on a GPU, which nobody has done yet

What has no kernel is the definition's own function; `tinymoe.kernels.ops_where` lists which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from typing import Any

import numpy as np

from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.launch import Device
from tinymoe.kernels.cuda.on_device import DeviceStep
from tinymoe.kernels.cuda.ops_attention import AttentionOps
from tinymoe.kernels.cuda.ops_recurrent import RecurrentOps
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.kernels.cuda.packed_experts import PackedOps
from tinymoe.model.ops import DEFINITION, Ops


def ops_on(device: Device) -> Ops:
    """All ops that have a kernel, on one device."""
    model, attention, routing = PackedOps(device), AttentionOps(device), RoutingOps(device)
    recurrent = RecurrentOps(device)
    return replace(
        DEFINITION,
        linear=model.linear,
        rmsnorm=model.rmsnorm,
        rope=model.rope,
        attention_prefill=attention.attention_prefill,
        attention_decode=attention.attention_decode,
        route=routing.route,
        permute=routing.permute,
        expert_ffn=model.expert_ffn,
        combine=routing.combine,
        causal_conv=recurrent.causal_conv,
        gated_delta=recurrent.gated_delta,
        lightning=recurrent.lightning,
        outside=model.linear,
    )


def ptx_ops(arch: str = "80") -> Ops:
    """On the PTX machine: NumPy arrays in and out."""
    return ops_on(PtxDevice(arch))


def cuda_ops() -> Ops:
    """On the current GPU: CuPy arrays in and out, a whole pass in one piece (`on_device.py`).

    An op that is called by itself with NumPy arrays takes them there and the result back. Raises
    TinymoeError where there is no GPU, CuPy or driver, and says which of them it is.
    """
    device = CupyDevice()
    on_device = ops_on(device)
    return replace(
        on_device,
        step=DeviceStep(device, on_device),
        **{
            field.name: _as_given(getattr(on_device, field.name), device)
            for field in fields(Ops)
            if getattr(on_device, field.name) is not getattr(DEFINITION, field.name)  # a kernel
        },
    )


def _as_given(op: Callable[..., Any], device: Device) -> Callable[..., Any]:
    """An op whose result comes as NumPy arrays if its first argument did."""

    @wraps(op)
    def called(first: Any, *args: Any, **named: Any) -> Any:
        result = op(first, *args, **named)
        if not isinstance(first, np.ndarray):
            return result
        if isinstance(result, tuple):  # Routing, Permutation
            return type(result)(*map(device.to_numpy, result))
        return device.to_numpy(result)

    return called
