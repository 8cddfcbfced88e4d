"""Every step of synchronisation and every bounds mask of the families that are one layer is needed, and is noticed.

Each mutant lacks exactly one of them; at least one of the tiny programs must then fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from classifier_programs import CLASSIFIER_EXAMPLES
from layer_programs import LayerExample
from mutation_sites import TEXT, Site, sites
from patchconv_programs import PATCHCONV_EXAMPLES, PATCHCONV_WGMMA_EXAMPLES
from test_convfirst_mutations import excuses, take_out_noticed

from kgen.emulator import build
from kgen.render import Source

PATCHCONV_MASKS = ("k < Patch * Patch * Channels",)
CLASSIFIER_MASKS = ("first < last", "cls < FILLED", "cls + n * 8 < FILLED", "row < IMAGES", "i < UNITS")
LEAST_SITES = {"barrier": 3, "wait": 1, "commit": 1, "mask": 3}
LEAST_ON_WGMMA = {"barrier": 3, "wait": 3, "arrival": 3, "fence": 2, "commit": 1, "start": 4, "mask": 1, "wrapper": 1}

EXCUSED = (
    ("hint raise_registers", "", "a CPU has no registers to share"),
    ("hint lower_registers", "", "a CPU has no registers to share"),
    ("order wait_for_kernel_before", "", "the emulator runs kernels one after the other"),
    ("order let_kernel_after_begin", "", "the emulator runs kernels one after the other"),
    ("guard (item >= items)", "", "it saves copies of an item that does not exist, whose masks make them zeros"),
    ("mask first < last", "", "it saves copies of the classes behind a slice, which nobody reads"),
    (
        "mask cls < FILLED",
        "",
        "either one keeps copies of classes that do not exist within the weights; nobody stores what is made of them",
    ),
)
"""Sites whose removal the programs cannot notice, by how they begin and by words of theirs, and why."""


def test_masks_are_found_by_their_words() -> None:
    text = "void f() {\n    if (row < ROWS && narrow < ROWS) g(row < ROWS ? row : 0);  // row < ROWS\n}\n"
    found, mutants = sites(Source(text, {}, ""), ("row < ROWS",))
    assert [(site.kind, site.call) for site in found] == [("mask", "row < ROWS")] * 2
    line = mutants.text.splitlines()[2]
    one, other = (f"((kgen_removed_site == {number}) || row < ROWS)" for number in (0, 1))
    assert line == f"    if ({one} && narrow < ROWS) g({other} ? row : 0);  // row < ROWS"
    assert not sites(Source(text, {}, ""))[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("programs", "masks", "headers"),
    [
        (PATCHCONV_EXAMPLES, PATCHCONV_MASKS, True),
        # Its headers are those of a convfirst kernel, whose programs use all of them.
        (PATCHCONV_WGMMA_EXAMPLES, (), False),
        (CLASSIFIER_EXAMPLES, CLASSIFIER_MASKS, True),
    ],
    ids=["patchconv", "patchconv on wgmma", "classifier"],
)
def test_a_kernel_without_any_one_step_or_mask_fails(
    programs: Mapping[str, LayerExample], masks: tuple[str, ...], headers: bool
) -> None:
    found = {name: sites(one.source, masks) for name, one in programs.items()}
    survivors = {site for of_program, _ in found.values() for site in of_program if headers or site.file == TEXT}
    settled = set[Site]()
    kinds, wanted = Counter(site.kind for site in survivors), LEAST_SITES if headers else LEAST_ON_WGMMA
    assert all(kinds[kind] >= least for kind, least in wanted.items()), f"too few sites were found: {kinds}"
    assert {site.call for site in survivors} >= set(masks)
    with ThreadPoolExecutor(2) as pool:  # a build is a compiler process
        for name, library in zip(found, pool.map(build, (mutants for _, mutants in found.values())), strict=True):
            take_out_noticed(survivors, settled, programs[name], library, found[name][0])
    missed = sorted(str(site) for site in survivors if not any(excuses(excuse, site) for excuse in EXCUSED))
    assert not missed, "no program notices when this is removed:\n" + "\n".join(missed)
    every_site = {str(site) for of_program, _ in found.values() for site in of_program if headers or site.file == TEXT}
    of_these = [excuse for excuse in EXCUSED if any(site.startswith(excuse[0]) for site in every_site)]
    needless = [excuse for excuse in of_these if not any(excuses(excuse, site) for site in survivors)]
    assert of_these and not needless, f"a program notices: {needless}"
