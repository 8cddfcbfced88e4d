"""A peer's recorded times, such as Inductor's in the results of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.errors import ProblemError
from kgen.tuned_file import TunedProblem


@dataclass(frozen=True)
class Peer:
    """A peer's latency for one problem."""

    name: str
    problem: Mapping[str, Any]
    latency_us: float


@dataclass(frozen=True)
class Peers:
    """Recorded peers on one GPU."""

    gpu: str
    peers: tuple[Peer, ...]

    def find(self, problem: TunedProblem, gpu: str) -> Peer | None:
        """The peer of the very problem on the very GPU."""
        wanted = problem.to_json()
        return next((peer for peer in self.peers if self.gpu == gpu and peer.problem == wanted), None)


def read_peers(path: Path) -> Peers:
    """The rows of a results file of ``benchmarks/``.

    Raises:
        ProblemError: it cannot be read, or is not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
        rows = tuple(Peer(str(row["peer"]), dict(row["problem"]), float(row["peer_us"])) for row in content["rows"])
        return Peers(str(content["environment"]["gpu"]), rows)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProblemError(
            f"--against must be a results file of benchmarks/ whose rows have problem, peer and peer_us, but {path} "
            f"is not ({type(error).__name__}: {error}); pass another file"
        ) from error
