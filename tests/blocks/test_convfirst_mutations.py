"""Every step of synchronisation and every bounds mask of the convfirst kernels is needed, and the emulator notices.

Each mutant lacks exactly one of them; at least one of the tiny programs must then fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from cluster_programs import CLUSTER_EXAMPLES
from convfirst_programs import EXAMPLES, Example
from mutation_sites import Site, remove, sites
from wgmma_programs import HOPPER_EXAMPLES

from kgen.emulator import HostLibrary, build
from kgen.render import Source

TIME_LIMIT_S = 5.0
"""Of one launch: a mutant may loop for ever."""
PROGRAMS = EXAMPLES | HOPPER_EXAMPLES | CLUSTER_EXAMPLES
MOST_DEMANDING = ("resident, two warps across", "everything split", "unused pixels", "smallest layers")
LEAST_SITES = {
    "barrier": 12,
    "wait": 16,
    "arrival": 8,
    "fence": 5,
    "commit": 4,
    "start": 10,
    "mask": 12,
    "expectation": 4,
    "wrapper": 10,
    "guard": 3,
    "hint": 10,
    "order": 4,
}

DO_NOTHING = ("hint", "order")
"""Kinds of sites whose calls the emulator leaves out: one program says of them what all would."""
EXCUSED = (
    ("hint wgmma_pin", "", "it holds back a compiler that moves accesses of registers; the emulator has none"),
    ("hint raise_registers", "", "a CPU has no registers to share"),
    ("hint lower_registers", "", "a CPU has no registers to share"),
    ("order wait_for_kernel_before", "", "the emulator runs kernels one after the other"),
    ("order let_kernel_after_begin", "", "the emulator runs kernels one after the other"),
    ("wait wgmma_wait<0>", "Nothing is under way here", "it only tells ptxas that the accumulators are free"),
    (
        "barrier __syncwarp",
        "mbarrier_arrive_expect(full, Shape::SLOT); __syncwarp();",
        "bytes may land before they are expected: a phase lasts until its arrival, and its count may be below zero",
    ),
    (
        "barrier __syncwarp",
        "load_weights(shared, barriers, weights, mine); __syncwarp();",
        "it brings lanes together again after a branch, which the emulator's do by themselves",
    ),
    (
        "barrier __syncwarp",
        "load_project(shared, &barriers.late, weights, mine, EARLY, CLUSTER - EARLY); __syncwarp();",
        "it brings lanes together again after a branch, which the emulator's do by themselves",
    ),
    (
        "barrier __syncwarp",
        "(mine.rank + other) % CLUSTER, landed + other - 1); __syncwarp();",
        "it brings lanes together again after a branch, which the emulator's do by themselves",
    ),
    (
        "mask tap < 9 in tile/grouped_conv.cuh",
        "",
        "its tap has the weight zero: only a NaN there shows, as in test_a_nan_pixel_reaches_its_neighbours_only",
    ),
    (
        "mask inside(pixel, pixels) in tile/flat_conv.cuh",
        "",
        "it keeps pixels that do not exist from reading what a slot still holds; nobody stores what is made of it",
    ),
    ("guard (item >= items)", "", "it saves copies of an item that does not exist, whose masks make them zeros"),
)
"""Sites whose removal the programs cannot notice, by how they begin and by words of theirs, and why."""

SAMPLE = """\
// An inside(comment) and a __syncthreads() in words do not count.
__device__ inline bool inside(int index, int limit) { return index < limit; }
__device__ inline void sync() {
    if (WIDE) __syncthreads();
}
__global__ void kernel() {
    cp_async_wait<f(1) - 2>();
    sync();
    auto release = [&] {
        mbarrier_arrive(&a[next(b, c)]);
    };
    if (inside(g(a, (b)), c) && !inside(d, e)) x = inside;
    if (leader) mbarrier_arrive_expect(&full[g(a, b)], bytes);
    if (x < 3) return;
    const bool real = tap < f(9, 8) && (WIDE || inside(d, f)) && x % 8 < 4;
    slots.release();
}
"""


def test_sites_are_calls_that_a_variable_removes() -> None:
    headers = {"ptx/a.cuh": "void f() { __syncthreads(); }\n", "tile/b.cuh": "int g() { return inside(1, 2); }\n"}
    found, mutants = sites(Source(SAMPLE, headers, ""))
    assert Counter(site.kind for site in found) == {
        "barrier": 1,
        "wait": 1,
        "arrival": 2,
        "expectation": 1,
        "mask": 6,
        "guard": 1,
        "wrapper": 2,
    }
    assert "slots.release()" in {site.call for site in found}
    numbers = {(site.kind, site.call): number for number, site in enumerate(found)}
    gone = {key: f"(kgen_removed_site == {number})" for key, number in numbers.items()}
    expect = "mbarrier_arrive_expect(&full[g(a, b)], bytes)"
    for line in (
        f"    ({gone['wait', 'cp_async_wait<f(1) - 2>()']} ? (void)0 : cp_async_wait<f(1) - 2>());",
        f"    if (({gone['mask', 'inside(g(a, (b)), c)']} || inside(g(a, (b)), c)) && "
        f"!({gone['mask', 'inside(d, e)']} || inside(d, e))) x = inside;",
        f"    if (leader) ({gone['arrival', expect]} ? (void)0 : mbarrier_arrive_expect(&full[g(a, b)], "
        f"{gone['expectation', expect]} ? 0u : bytes));",
        f"    if (!{gone['guard', '(x < 3)']} && (x < 3)) return;",
        f"    const bool real = ({gone['mask', 'tap < f(9, 8)']} || tap < f(9, 8)) && "
        f"(WIDE || ({gone['mask', 'inside(d, f)']} || inside(d, f))) && ({gone['mask', 'x % 8 < 4']} || x % 8 < 4);",
    ):
        assert line in mutants.text.splitlines()
    assert mutants.headers["ptx/a.cuh"] == headers["ptx/a.cuh"]
    assert f"({gone['mask', 'inside(1, 2)']} || inside(1, 2))" in mutants.headers["tile/b.cuh"]


def test_programs_share_their_sites() -> None:
    fused, split = (set(sites(EXAMPLES[name].source)[0]) for name in ("smallest fused", "smallest split"))
    assert len(fused) > 10
    assert fused <= split


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kernel_without_any_one_step_or_mask_fails() -> None:
    rest = sorted(PROGRAMS.keys() - set(MOST_DEMANDING), key=lambda name: (PROGRAMS[name].problem.flops, name))
    order = [*MOST_DEMANDING, *rest]  # few survivors are left to the large ones
    found = {name: sites(PROGRAMS[name].source) for name in order}
    every_site = {site for of_program, _ in found.values() for site in of_program}
    survivors, settled = set(every_site), set[Site]()
    kinds = Counter(site.kind for site in every_site)
    assert all(kinds[kind] >= least for kind, least in LEAST_SITES.items()), f"too few sites were found: {kinds}"

    def try_on(name: str) -> None:
        of_program, mutants = found[name]
        take_out_noticed(survivors, settled, PROGRAMS[name], build(mutants), of_program)

    with ThreadPoolExecutor(2) as pool:  # a build is a compiler process, and the emulator runs without the GIL
        list(pool.map(try_on, order))
    missed = sorted(str(site) for site in survivors if not excused(site))
    assert not missed, "no program notices when this is removed:\n" + "\n".join(missed)
    needless = [excuse for excuse in EXCUSED if not any(excuses(excuse, site) for site in survivors)]
    assert not needless, f"a program notices, or there is nothing to notice: {needless}"


def excused(site: Site) -> bool:
    return any(excuses(excuse, site) for excuse in EXCUSED)


def excuses(excuse: tuple[str, str, str], site: Site) -> bool:
    start, words, _ = excuse
    return str(site).startswith(start) and words in str(site)


def take_out_noticed(
    survivors: set[Site], settled: set[Site], one: Example, library: HostLibrary, its_sites: Sequence[Site]
) -> None:
    """Take out of ``survivors`` those sites without which the program is wrong; what is ``settled`` is not tried."""
    library.run = partial(library.run, time_limit_s=TIME_LIMIT_S)  # type: ignore[method-assign]
    assert one.failure(library) is None, f"{one} itself is wrong"
    for number, site in enumerate(its_sites):
        if site in survivors and site not in settled:
            remove(library, number)
            if one.failure(library) is not None:
                survivors.discard(site)
            elif site.kind in DO_NOTHING:
                settled.add(site)
