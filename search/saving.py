"""Saving what a search found: its best config whenever there is a better one, but never over a better measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from kgen.search.evaluate import plan_of
from kgen.search.final import Final
from kgen.search.history import Known
from kgen.search.loop import Search
from kgen.search.objectives import BY_EFFICIENCY, Objective, Objectives, shown

from kgen import env, tuned
from kgen.devices import Device
from kgen.errors import TunedConfigError
from kgen.machine import attainable_efficiency, intensity
from kgen.render import family_digest, template_digest
from kgen.tuned import TunedEntry
from kgen.tuned_file import ParetoPoint, TunedProblem


@dataclass(frozen=True)
class Found:
    """The best entry of a search and the file it went to; ``kept`` is a better one that was there and stayed.

    ``space`` says how many configs were in it, of how many legal ones; ``ended`` why the search ended.
    """

    entry: TunedEntry
    path: Path
    kept: TunedEntry | None
    space: str
    ended: str


class Saver:
    """Saves the entries of a search for a problem in a folder, by default the user's."""

    def __init__(self, problem: TunedProblem, device: Device, folder: Path | None, objectives: Objectives) -> None:
        self.problem = problem
        self.device = device
        self.objectives = objectives
        self.digest = family_digest(problem.family)
        self._folder = env.user_tuned_dir() if folder is None else folder
        self._check_replaceable()

    def save(self, search: Search, final: Final | None = None) -> Found | None:
        """Save the search's best verified config, if it has one, or the winner of its final."""
        best = final.winner if final else search.history.best
        if best is None:
            return None
        entry = replace(self._entry(best, search), tied=final.tied if final else None)
        beaten = final.took_part if final else ()
        path, kept = tuned.save_unless(
            entry,
            self.device,
            self._folder,
            keep=lambda saved: saved.config not in beaten and _is_better(saved, entry, self.objectives[0]),
        )
        return Found(entry, path, kept, str(search.space), search.ended)

    def _check_replaceable(self) -> None:
        """Refuse a modelled search where the folder that is saved to has a fresh measured entry of the problem."""
        found = tuned.lookup(self.problem, self.device, self._folder)
        if found is None or not found.exact or found.stale or self._folder not in found.path.parents:
            return
        if found.entry.measured is not None and self.device.ordinal is None:
            raise TunedConfigError(
                f"a modelled search must not replace a measured entry, but {found.path} has one for {self.problem}; "
                "pass another --out"
            )

    def _entry(self, best: Known, search: Search) -> TunedEntry:
        program = plan_of(self.problem, self.device, best.config)
        return TunedEntry(
            problem=self.problem,
            config=best.config,
            measured=best.evaluation.measured,
            modelled_us=best.evaluation.predicted_us,
            intensity=intensity(program),
            attainable_efficiency=attainable_efficiency(program),
            error=best.evaluation.error,
            trials=search.history.evaluated,
            seconds=search.seconds,
            when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            template_digest=template_digest(best.config.template),
            objective=None if self.objectives == BY_EFFICIENCY else shown(self.objectives),
            pareto=tuple(map(_point, search.front)) if len(self.objectives) > 1 else None,
        )


def _point(known: Known) -> ParetoPoint:
    of = known.evaluation
    energy_j = of.measured.energy_j if of.measured else None
    return ParetoPoint(known.config, of.latency_us or 0.0, of.error or 0.0, energy_j)


def _is_better(saved: TunedEntry, entry: TunedEntry, objective: Objective) -> bool:
    """Whether a saved entry stays: it is fresh, and measured to be better than ``entry``, which has another config.

    Of one config the later measurement counts, unless the earlier was made beside others, and the later was not.
    """
    if saved.failed or saved.measured is None or saved.template_digest != template_digest(saved.config.template):
        return False
    if entry.measured is None:
        return True
    if saved.config == entry.config:
        return saved.tied is not None and entry.tied is None
    old, new = objective.of(saved.measured), objective.of(entry.measured)
    return old is not None and new is not None and objective.sign * (old - new) > 0
