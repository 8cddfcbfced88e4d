"""A search on fakes, run as a process that the test kills: python kill_target.py STORAGE TRIALS DELAY_S SEED."""

from __future__ import annotations

import sys

from kgen.search import shared
from kgen.search.progress import Snapshot
from kgen.search.storage import open_study
from search_fakes import DEFAULT, FakeBench, make_search


def report(snapshot: Snapshot) -> None:
    print(snapshot.done, flush=True)


storage, trials, delay_s, seed = sys.argv[1:]
shared.HEARTBEAT_S, shared.GRACE_S = 1, 2
with open_study(storage, "killed") as study:
    search = make_search(study, FakeBench(delay_s=float(delay_s)), int(trials), seed=int(seed), report=report)
    search.seed([DEFAULT])
    search.run()
