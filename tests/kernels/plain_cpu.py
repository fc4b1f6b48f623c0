"""The same code in a process that compiles for a CPU without AVX or FMA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import runpy, sys
from numba.core.registry import cpu_target
assert "+avx" not in str(cpu_target.target_context.codegen().magic_tuple())
sys.stdout.buffer.write(eval(sys.argv[2], runpy.run_path(sys.argv[1])))
"""


def on_a_plain_cpu(file: str, expression: str) -> bytes:
    """What an expression of bytes gives there, in a test file's names."""
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    return output_of([sys.executable, "-c", SCRIPT, file, expression], plain)


def output_of(command: list[str], variables: dict[str, str]) -> bytes:
    """What a process writes, which has these variables besides this one's."""
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=-1, cwd=ROOT, check=True)
    return done.stdout
