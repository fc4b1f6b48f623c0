"""Peak memory of one benchmark run, in a process of its own: `python -m tinymoe.measure.child`.

Reads `Settings` as JSON from stdin, prints three high-water marks of its resident memory as JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from tinymoe.core import TinymoeError
from tinymoe.measure.runs import engine_run, make_engine, make_prompts
from tinymoe.measure.setup import Settings, make_subject


def high_water() -> int | None:
    """Most bytes of memory that this process has held at once; None where nobody says.

    Linux: VmHWM, not getrusage: `ru_maxrss` survives exec, so that a small child of a large
    process reports the parent's size.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes there
    return None


def measure(settings: Settings) -> dict[str, int | None]:
    """Bytes after imports, after the model is there, and after one run of each batch size."""
    imported = high_water()
    subject = make_subject(settings)
    loaded = high_water()
    for case in settings.cases:
        prompts = make_prompts(case, subject.config.vocab_size, settings.seed)
        engine_run(make_engine(subject, case), case, prompts, time.perf_counter)
    return {
        "after_imports_bytes": imported,
        "after_loading_bytes": loaded,
        "peak_bytes": high_water(),
    }


def main() -> int:
    """0, or 2 with the reason on stderr."""
    given: dict[str, Any] = json.load(sys.stdin)
    given["batches"] = tuple(given["batches"])
    try:
        print(json.dumps(measure(Settings(**given))))
    except (TinymoeError, OSError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
