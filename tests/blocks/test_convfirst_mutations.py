"""Every barrier, asynchronous wait and bounds mask of the convfirst kernels is needed, and the emulator notices.

Each mutant lacks exactly one of them; at least one of the tiny programs must then fail.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from convfirst_programs import EXAMPLES
from mutation_sites import Site, sites

from kgen.emulator import build
from kgen.render import Source

MOST_DEMANDING = ("resident, two warps across", "everything split", "unused pixels", "smallest layers")
LEAST_SITES = {"barrier": 6, "wait": 2, "mask": 8}

SAMPLE = """\
// An inside(comment) and a __syncthreads() in words do not count.
__device__ inline bool inside(int index, int limit) { return index < limit; }
__device__ inline void sync() {
    if (WIDE) __syncthreads();
}
__global__ void kernel() {
    cp_async_wait<f(1) - 2>();
    sync();
    if (inside(g(a, (b)), c) && !inside(d, e)) x = inside;
    sync();
}
"""


def test_sites_are_calls_and_each_mutant_lacks_one() -> None:
    headers = {"ptx/a.cuh": "void f() { __syncthreads(); }\n", "tile/b.cuh": "int g() { return inside(1, 2); }\n"}
    found = sites(Source(SAMPLE, headers, ""))
    calls = ["__syncthreads()", "sync()", "sync()", "cp_async_wait<f(1) - 2>()", "inside(g(a, (b)), c)", "inside(d, e)"]
    calls.append("inside(1, 2)")
    assert sorted(site.call for site in found) == sorted(calls)
    assert Counter(site.kind for site in found) == {"barrier": 3, "wait": 1, "mask": 3}
    texts = {mutant.text for mutant in found.values()}
    assert len(texts) == len(calls), "one of them changes a header and leaves the text alone"
    assert SAMPLE.replace("!inside(d, e)", "!true") in texts
    assert SAMPLE.replace("cp_async_wait<f(1) - 2>()", "((void)0)") in texts


def test_programs_share_their_sites() -> None:
    fused, split = (set(sites(EXAMPLES[name].source)) for name in ("smallest fused", "smallest split"))
    assert len(fused) > 10
    assert fused <= split


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kernel_without_any_one_barrier_wait_or_mask_fails() -> None:
    order = [*MOST_DEMANDING, *(name for name in EXAMPLES if name not in MOST_DEMANDING)]
    mutants = {name: sites(EXAMPLES[name].source) for name in order}
    every_site = {site for of_program in mutants.values() for site in of_program}
    kinds = Counter(site.kind for site in every_site)
    assert all(kinds[kind] >= least for kind, least in LEAST_SITES.items()), f"too few sites were found: {kinds}"

    def survives(site: Site) -> bool:
        having = (name for name in order if site in mutants[name])
        return not any(EXAMPLES[name].failure(build(mutants[name][site])) for name in having)

    for name in MOST_DEMANDING:
        assert EXAMPLES[name].failure(build(EXAMPLES[name].source)) is None, "the kernel itself is wrong"
    ordered = sorted(every_site, key=str)
    with ThreadPoolExecutor(2) as pool:  # a build is a compiler process, and a run does without the interpreter's lock
        survivors = [str(site) for site, alive in zip(ordered, pool.map(survives, ordered), strict=True) if alive]
    assert not survivors, "no program notices when this is removed:\n" + "\n".join(survivors)
