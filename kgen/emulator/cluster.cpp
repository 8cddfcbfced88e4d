// Clusters: the relaxed barrier of all threads of neighbouring CTAs, and who may copy to whose shared memory and arrive
// at whose mbarriers when.
//
// A phase ends when all warps of the cluster have arrived. It tells those who wait for it of mbarriers whose
// initialisation was fenced before, which copies between the CTAs were known to be complete, and that what arrived
// before at other CTAs' mbarriers is in; it orders no accesses.
// A warp that has arrived cannot arrive again before it has waited, so nobody waits for any phase but the last complete
// one and the current.
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

inline uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }

// Up to which stamp this clock of a CTA knows that another's copies to CTA `to` are complete.
uint32_t done_until(const Cta& cta, const Clock& clock, unsigned to, unsigned barrier) {
    const Known& of = clock.cluster[to];
    return later(of.done[barrier], (to == cta.rank ? clock.until : of.until)[bulk_actor(barrier)]);
}

void tell(const Cta& cta, unsigned warp) {
    for (unsigned to = 0; state.launch->cluster > 1 && to < state.launch->cluster; ++to)
        for (unsigned i = 0; i < state.ctas[to].barrier_count; ++i) {
            uint32_t& told = state.cluster.current[to][i];
            told = later(told, done_until(cta, cta.shadow.clocks[warp], to, i));
        }
    for (unsigned i = 0; i < cta.barrier_count; ++i) {
        Mbarrier& barrier = cta.barriers[i];
        if (barrier.fence_stamp && barrier.initialiser / 32u == warp && !barrier.shown)
            barrier.shown = state.cluster.phase + 1;
    }
}

void take_over(Cta& cta, unsigned warp) {
    Clock& clock = cta.shadow.clocks[warp];
    clock.phases = state.cluster.phase;
    for (unsigned to = 0; state.launch->cluster > 1 && to < state.launch->cluster; ++to)
        for (unsigned i = 0; i < state.ctas[to].barrier_count; ++i) {
            uint32_t& done = clock.cluster[to].done[i];
            done = later(done, state.cluster.complete[to][i]);
        }
}

void end_phase() {
    ClusterBarrier& barrier = state.cluster;
    barrier.arrived = 0;
    ++barrier.phase;
    memcpy(barrier.complete, barrier.current, sizeof(barrier.complete));
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank)
        for (unsigned w = 0; w < warps_per_cta(); ++w) {
            Warp& warp = state.ctas[rank].warps[w];
            if (warp.progress != Progress::at_cluster) continue;
            take_over(state.ctas[rank], w);
            warp.progress = Progress::runnable;
        }
}

bool has_ended(const Cta& cta) {
    for (unsigned w = 0; w < warps_per_cta(); ++w)
        if (cta.warps[w].progress != Progress::exited) return false;
    return true;
}

// Whether any warp of the current CTA knows it.
bool is_known_done(const Sent& copy) {
    for (unsigned w = 0; w < warps_per_cta(); ++w)
        if (knows_done(state.cta->shadow.clocks[w], copy)) return true;
    return false;
}

bool is_known_in(unsigned barrier, const Visit& visit) {
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        const Clock& clock = state.cta->shadow.clocks[w];
        if (clock.until[phase_actor(barrier)] > visit.phase || clock.phases >= visit.told) return true;
    }
    return false;
}

void check_visits_known() {
    const Cta& cta = *state.cta;
    for (unsigned i = 0; i < cta.barrier_count; ++i) {
        const Visit& visit = cta.barriers[i].visit;
        if (visit.from && !is_known_in(i, visit))
            fail(
                "a CTA must not end before all arrivals at its mbarriers are known to be in, but kernel %s, block %u "
                "ends without knowing so of that of thread %u of block %u at %s on the barrier at byte %u of shared "
                "memory; call mbarrier_wait for its phase, or cluster_arrive after it there and cluster_wait here",
                state.launch->symbol, cta.block, visit.thread, visit.from->block, text(visit.site),
                cta.barriers[i].offset);
    }
}

}  // namespace

void begin_cluster() { state.cluster.phase = state.cluster.arrived = 0; }

bool knows_done(const Clock& clock, const Sent& copy) {
    return copy.stamp && copy.stamp < done_until(*state.cta, clock, copy.to, copy.barrier);
}

unsigned cluster_rank() { return state.cta->rank; }

void cluster_arrive(Site site) {
    if (!gather(Kind::cluster_arrive, nullptr, site)) return;
    Warp& warp = current_warp();
    if (warp.cluster_arrivals > warp.cluster_waits)
        fail(
            "a thread must wait for the cluster's barrier before it arrives again, but kernel %s, block %u, warp %u, "
            "arrives at %s after %u arrivals and %u waits; call cluster_wait between two cluster_arrive",
            state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), warp.cluster_arrivals, warp.cluster_waits);
    ++warp.cluster_arrivals;
    tell(*state.cta, threadIdx.x / 32);
    if (++state.cluster.arrived == warps_per_cta() * state.launch->cluster) end_phase();
    release();
}

void cluster_wait(Site site) {
    if (!gather(Kind::cluster_wait, nullptr, site)) return;
    Warp& warp = current_warp();
    if (warp.cluster_waits == warp.cluster_arrivals)
        fail(
            "a thread must arrive at the cluster's barrier before it waits for it, but kernel %s, block %u, warp %u, "
            "waits at %s after %u arrivals and as many waits; call cluster_arrive before",
            state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), warp.cluster_arrivals);
    if (++warp.cluster_waits <= state.cluster.phase) {
        take_over(*state.cta, threadIdx.x / 32);
        release();
        return;
    }
    warp.progress = Progress::at_cluster;
    to_scheduler(warp);
}

Cta& find_receiver(unsigned rank, const char* what, Site site) {
    if (rank >= state.launch->cluster || rank == state.cta->rank)
        fail(
            "%s must get the rank of %s CTA of the cluster, which has %u, but kernel %s, block %u, thread %u, at %s "
            "passes %u%s; correct the rank",
            what, rank == state.cta->rank ? "another" : "a", state.launch->cluster, state.launch->symbol, blockIdx.x,
            threadIdx.x, text(site), rank, rank == state.cta->rank ? ", its own" : "");
    Cta& owner = state.ctas[rank];
    if (!current_clock().phases)
        fail(
            "a CTA must pass a barrier of its cluster before it copies to another or arrives there, for that may not "
            "have begun, but kernel %s, block %u, thread %u, calls %s for block %u at %s before any; call "
            "cluster_arrive and cluster_wait at the kernel's begin",
            state.launch->symbol, blockIdx.x, threadIdx.x, what, owner.block, text(site));
    if (has_ended(owner))
        fail(
            "a CTA must not end before all copies to its shared memory have landed and all arrivals there are in, but "
            "kernel %s, block %u, thread %u, calls %s at %s for block %u, which has ended; let that wait for the "
            "mbarrier that counts this, or for the cluster's barrier",
            state.launch->symbol, blockIdx.x, threadIdx.x, what, text(site), owner.block);
    return owner;
}

void check_cta_may_end() {
    const Cta& cta = *state.cta;
    if (!has_ended(cta)) return;
    check_visits_known();
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank) {
        const Cta& from = state.ctas[rank];
        for (uint32_t i = 0; i < from.sent_count; ++i) {
            const Sent& copy = from.sent[i];
            const bool reads_here = &from == &cta && copy.bytes;
            if ((!reads_here && copy.to != cta.rank) || is_known_done(copy)) continue;
            if (reads_here)
                fail(
                    "a CTA must not end before all copies from its shared memory are known to be complete, but kernel "
                    "%s, block %u ends without knowing so of the one to block %u that thread %u started at %s; call "
                    "cluster_arrive after the mbarrier_wait for it there, and cluster_wait here",
                    state.launch->symbol, cta.block, state.ctas[copy.to].block, copy.thread, text(copy.site));
            fail(
                "a CTA must not end before all copies to its shared memory have landed, but kernel %s, block %u ends "
                "without waiting for the one that thread %u of block %u started at %s; call mbarrier_wait on the "
                "barrier that counts it",
                state.launch->symbol, cta.block, copy.thread, from.block, text(copy.site));
        }
    }
}

}  // namespace emulator
