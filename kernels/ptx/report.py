"""What a run saw: which instructions ran, how often, and what they asked of memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tinymoe.kernels.ptx.counters import Traffic
from tinymoe.kernels.ptx.kernel import Instruction, Kernel, PtxError
from tinymoe.kernels.ptx.machine import Machine


@dataclass(frozen=True)
class Report:
    """Counts of one launch, or of several of one kernel added with `+`."""

    code: tuple[Instruction, ...] = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)  # thread-instructions of each instruction
    shared: dict[int, Traffic] = field(default_factory=dict)  # by PTX line: passes
    memory: dict[int, Traffic] = field(default_factory=dict)  # by PTX line: global sectors
    steps: int = 0  # instructions the machine took up, each for all threads that were there

    @classmethod
    def empty(cls, kernel: Kernel) -> Report:
        """Of no launch at all."""
        return cls(tuple(kernel.code), (0,) * len(kernel.code))

    @classmethod
    def of(cls, machine: Machine, counts: list[int], steps: int) -> Report:
        """Of one batch of blocks."""
        code, traffic = tuple(machine.kernel.code), machine.traffic
        return cls(code, tuple(counts), traffic["shared"], traffic["global"], steps)

    def __add__(self, other: Report) -> Report:
        if self.code != other.code:
            raise PtxError("reports of different kernels: their lines have nothing in common")
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Report(
            self.code,
            counts,
            _added(self.shared, other.shared),
            _added(self.memory, other.memory),
            self.steps + other.steps,
        )

    @property
    def executed(self) -> int:
        """Instructions that some thread ran."""
        return sum(n > 0 for n in self.counts)

    @property
    def instructions(self) -> int:
        """Instructions there are."""
        return len(self.counts)

    @property
    def thread_instructions(self) -> int:
        """Instructions run, counted once for each thread."""
        return sum(self.counts)

    @property
    def missed(self) -> list[Instruction]:
        """The instructions that no thread ran."""
        return [i for i, n in zip(self.code, self.counts, strict=True) if n == 0]

    @property
    def kinds(self) -> dict[str, int]:
        """Thread-instructions by opcode, the most frequent first."""
        found: Counter[str] = Counter()
        for i, n in zip(self.code, self.counts, strict=True):
            found[".".join(i.opcode)] += n
        return {kind: n for kind, n in found.most_common() if n}

    @property
    def bank_conflicts(self) -> Traffic:
        """Shared-memory passes, needed and used."""
        return sum(self.shared.values(), Traffic())

    @property
    def coalescing(self) -> Traffic:
        """Global sectors of 32 bytes, needed and used."""
        return sum(self.memory.values(), Traffic())


def _added(one: dict[int, Traffic], two: dict[int, Traffic]) -> dict[int, Traffic]:
    keys = one.keys() | two.keys()
    return {k: one.get(k, Traffic()) + two.get(k, Traffic()) for k in sorted(keys)}
