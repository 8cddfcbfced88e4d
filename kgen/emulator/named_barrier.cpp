// Named barriers: rounds that end when so many threads, whole warps, are there; each then knows what all did before.
#include "runtime.h"

namespace emulator {
namespace {

struct Sync {
    unsigned number, threads;
};

void check_arguments(const Warp& warp, const Sync& mine, Site site) {
    for (const void* argument : warp.arguments) {
        const Sync& other = *static_cast<const Sync*>(argument);
        if (other.number != mine.number || other.threads != mine.threads)
            fail(
                "all lanes of a warp must name the same barrier and as many threads, but in kernel %s, block %u, "
                "those of warp %u differ at %s; make the number and the count uniform over the warp",
                state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site));
    }
    if (mine.number < 1 || mine.number >= kNamedBarriers)
        fail(
            "named_barrier_sync must get a number from 1 to %u, for 0 is the barrier of __syncthreads, but kernel %s, "
            "block %u, warp %u, at %s passes %u; correct the number",
            kNamedBarriers - 1, state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), mine.number);
    if (mine.threads % 32 || mine.threads < 32 || mine.threads > state.launch->threads)
        fail(
            "named_barrier_sync must get a multiple of 32 threads from 32 to the CTA's %u, for warps arrive whole, but "
            "kernel %s, block %u, warp %u, at %s passes %u; correct the count",
            state.launch->threads, state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), mine.threads);
}

void check_count(const NamedBarrier& barrier, const Sync& mine, Site site) {
    if (barrier.threads == mine.threads) return;
    fail(
        "all calls of a named barrier's round must name as many threads, but kernel %s, block %u, warp %u, at %s names "
        "%u for barrier %u and the one at %s named %u; make the counts agree, or use another barrier",
        state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), mine.threads, mine.number, text(barrier.site),
        barrier.threads);
}

void end_round(unsigned number) {
    Cta& cta = *state.cta;
    cta.named_barriers[number].arrived = 0;
    unsigned met[kMaxWarps], count = 0;
    for (unsigned w = 0; w < warps_per_cta(); ++w)
        if (cta.warps[w].progress == Progress::at_named_barrier && cta.warps[w].barrier == number) met[count++] = w;
    Clock* const clocks = cta.shadow.clocks;
    for (unsigned i = 1; i < count; ++i) acquire_clock(clocks[met[0]], clocks[met[i]]);
    for (unsigned i = 1; i < count; ++i) acquire_clock(clocks[met[i]], clocks[met[0]]);
    for (unsigned i = 0; i < count; ++i) cta.warps[met[i]].progress = Progress::runnable;
}

}  // namespace

void named_barrier(unsigned number, unsigned threads, Site site) {
    Sync mine = {number, threads};
    if (!gather(Kind::named_barrier, &mine, site)) return;
    Warp& warp = current_warp();
    check_arguments(warp, mine, site);
    NamedBarrier& barrier = state.cta->named_barriers[number];
    if (barrier.arrived == 0) {
        barrier.threads = threads;
        barrier.site = site;
    }
    check_count(barrier, mine, site);
    synchronise_warp();
    warp.barrier = number;
    warp.progress = Progress::at_named_barrier;
    barrier.arrived += 32;
    if (barrier.arrived == threads) end_round(number);
    to_scheduler(warp);
}

}  // namespace emulator
