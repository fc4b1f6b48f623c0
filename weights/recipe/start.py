"""From command line options to a run that is ready to step: new, resumed, or from weights."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from weights.recipe.checkpoint import Progress, read_run, restore_slots
from weights.recipe.evaluate import shape_of_config
from weights.recipe.export import load_hub_weights
from weights.recipe.network import MoeNetwork
from weights.recipe.optimiser import make_slots, shared
from weights.recipe.schedule import Schedule, clock_time
from weights.recipe.shape import Shape
from weights.recipe.worker import Plan, Shared


def new_schedule(options: argparse.Namespace, former: Schedule | None) -> Schedule:
    """The schedule of the options; a resumed run keeps its beginning, and its end by default."""
    now = time.time()
    started = former.started if former else now
    until = None
    if options.until:
        until = clock_time(options.until)
    elif options.minutes is not None:
        until = now + 60 * options.minutes
    elif options.tokens is None:
        if former is None:
            raise SystemExit("one of --until, --minutes and --tokens is needed")
        return former
    return Schedule(started, until, options.tokens, options.warmup_steps)


def prepare_run(options: argparse.Namespace, barrier: Any) -> tuple[Plan, Shared, Progress]:
    """Weights and optimiser in shared memory, and the plan for all processes."""
    checkpoint = options.out / "checkpoint.pt"
    content, progress, former = None, Progress(), None
    shape = shape_of_config(json.loads(options.shape.read_text())) if options.shape else Shape()
    if checkpoint.exists():
        if not options.resume:
            raise SystemExit(f"{checkpoint} exists: --resume, or another --out")
        content, progress, shape, former = read_run(checkpoint)
    network = MoeNetwork(shape)
    if options.weights and content is None:
        network.load_stacks(load_hub_weights(options.weights, shape))
    else:
        network.initialise(options.seed)
    slots = make_slots(network, options.processes)
    if content is not None:
        restore_slots(slots, content)
    common = Shared(
        slots,
        control=shared(torch.zeros(3, dtype=torch.float64)),
        squares=shared(torch.zeros(options.processes, dtype=torch.float64)),
        stats=shared(torch.zeros(options.processes, 4, dtype=torch.float64)),
        barrier=barrier,
    )
    plan = Plan(
        data=options.data,
        out=options.out,
        shape=shape,
        schedule=new_schedule(options, former),
        rows=options.rows,
        context=options.context,
        seed=options.seed,
        compile=not options.no_compile,
        checkpoint_seconds=60 * options.checkpoint_minutes,
        evaluate_seconds=60 * options.evaluate_minutes,
    )
    return plan, common, progress
