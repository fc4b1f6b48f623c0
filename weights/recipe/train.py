"""Train the model on the CPU: two processes of one thread each, in shared memory.

    python -m weights.recipe.train --data DATA --out RUN --until 09:30
    python -m weights.recipe.train --data DATA --out RUN --until 09:30 --resume
    python -m weights.recipe.train --data DATA --out RUN --tokens 20000000 --weights M.safetensors

A file `RUN/STOP`, SIGTERM or SIGINT end the run after a step, with a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# glibc returns big blocks to the system by default, and half the time would go into getting them
# back; waiting threads must not spin, for the processes outnumber idle cores now and then.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
    "GOMP_SPINCOUNT": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
STEP_TIMEOUT = 900.0  # a process that waits longer for the others takes them for dead


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_data")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--until", metavar="HH:MM", help="local time at which to be done")
    end.add_argument("--minutes", type=float, help="time from now")
    end.add_argument("--tokens", type=int, help="training tokens")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from RUN/checkpoint.pt if there is one, to its own end unless another is given",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="begin with these weights (model.safetensors) and a new optimiser",
    )
    parser.add_argument("--shape", type=Path, help="config.json of another shape")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32, help="windows a step and process")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--warmup-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0)
    parser.add_argument("--evaluate-minutes", type=float, default=4.0)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when the run reached its end, 3 when it was told to stop before."""
    options = parse(arguments)
    if arguments is None and any(os.environ.get(n) != v for n, v in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        # The allocator and the thread pool read these once, when a process begins.
        os.execv(sys.executable, [sys.executable, "-m", "weights.recipe.train", *sys.argv[1:]])
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Set up shared memory, start the other processes, train."""
    import torch.multiprocessing as multiprocessing

    from weights.recipe.start import prepare_run
    from weights.recipe.worker import Leader, follow

    options.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.processes, timeout=STEP_TIMEOUT)
    plan, shared, progress = prepare_run(options, barrier)
    others = [
        context.Process(target=follow, args=(rank, plan, shared, progress), daemon=True)
        for rank in range(1, options.processes)
    ]
    for other in others:
        other.start()
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: told.append(received))
    stop_file = options.out / "STOP"
    leader = Leader(plan, shared, progress)
    began, before = time.monotonic(), progress.tokens
    ended = leader.run(lambda: bool(told) or stop_file.exists())
    rate = (progress.tokens - before) / (time.monotonic() - began)
    print(f"{'ended' if ended else 'stopped'} at {progress.tokens} tokens, {rate:.0f} a second")
    for other in others:
        other.join()
    return 0 if ended else 3


if __name__ == "__main__":
    sys.exit(main())
