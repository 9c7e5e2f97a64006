"""What a proof has to say at its end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """How many cases were claimed and executed, and what was found.

    Attributes:
        name: of the proof.
        seed: the run with the same seed executes the same cases.
        claimed: how many cases have to be executed.
        executed: how many were.
        problems: one text each, with what reproduces it.
        seconds: how long it took.
    """

    name: str
    seed: int
    claimed: int
    executed: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """The last line of a proof."""
        rate = self.executed / self.seconds if self.seconds else 0.0
        return (
            f"{self.name}: seed {self.seed}, {self.executed:,} cases of {self.claimed:,} executed, {rate:,.0f}/s, "
            f"{len(self.problems)} problems"
        )

    def check(self) -> None:
        """Fail on any problem, and if fewer cases were executed than claimed."""
        assert not self.problems, "\n".join([self.line(), *self.problems[:20]])
        assert self.executed >= self.claimed, self.line()
