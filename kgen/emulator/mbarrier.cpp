// mbarriers: phases that end when all their arrivals are in and all bytes they expect have been copied.
//
// An arrival releases its thread's clock to the current phase, a wait acquires what was released to a complete one.
// These clocks also tell which waits come before the end of a phase in every order of the warps, not in this one alone.
#include <stdio.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

constexpr unsigned kMostArrivals = (1u << 20) - 1, kMostBytes = (1u << 20) - 1;  // the GPU's fields

struct Wait {
    const void* barrier;
    unsigned parity;
};

// The barrier can be used by other threads only after a fence of the thread that initialised it, and __syncthreads.
void check_visible(const Mbarrier& barrier, bool warp_wide, const char* what, Site site) {
    if (!warp_wide && barrier.initialiser == threadIdx.x) return;
    if (barrier.fence_stamp &&
        (barrier.fence_stamp <= state.cta->epoch || barrier.fence_stamp < current_clock().until[barrier.initialiser]))
        return;
    fail(
        "an mbarrier's initialisation must be followed by mbarrier_init_fence of the same thread and by __syncthreads "
        "before other threads use it, but kernel %s, block %u, thread %u, calls %s at %s without %s since %s; add it",
        state.launch->symbol, blockIdx.x, threadIdx.x, what, text(site),
        barrier.fence_stamp ? "__syncthreads" : "mbarrier_init_fence", text(barrier.site));
}

uint64_t check_address(const void* p, const char* what, Site site) {
    return check_shared_span(p, 8, 8, true, what, threadIdx.x, site);
}

void count_expected(Mbarrier& barrier, unsigned bytes, Site site) {
    barrier.missing += bytes;
    if (barrier.missing <= kMostBytes) return;
    fail(
        "a phase of an mbarrier must expect at most %u bytes at a time, but kernel %s, block %u, thread %u, at %s "
        "makes that %lld for the barrier at byte %u of shared memory; use several barriers",
        kMostBytes, state.launch->symbol, blockIdx.x, threadIdx.x, text(site), static_cast<long long>(barrier.missing),
        barrier.offset);
}

// The phase that a wait for this parity means: the one that has just ended, or the current one. Phase -1 is that of
// parity 1 before a fresh barrier's first.
int64_t phase_of(const Mbarrier& barrier, unsigned parity) {
    return static_cast<int64_t>(barrier.phase) - (barrier.phase % 2 != parity);
}

void take_over(unsigned warp, unsigned index) {
    acquire_clock(state.cta->shadow.clocks[warp], state.cta->barriers[index].complete);
}

// A warp that has waited for a phase must have done so before the next one ends, in any order in which warps may run:
// later it would take the parity for that of the phase after, for which it may wait for ever. So what that next phase
// ends by must come after the wait. True, or complains.
bool check_seen(const Mbarrier& barrier) {
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        const Look& look = barrier.looks[w][(barrier.phase + 1) % 2];
        if (!look.stamp || look.phases != barrier.phase) continue;
        const uint32_t* const known = barrier.current.until + w * 32;
        bool seen = false;
        for (unsigned lane = 0; lane < 32; ++lane) seen |= known[lane] > look.stamp;
        if (seen) continue;
        complain(
            "a phase of an mbarrier must not end before all who wait for the one before it have seen that end, for "
            "parity alone tells them apart, but in kernel %s, block %u, phase %u of the barrier at byte %u of shared "
            "memory may end, in another order of the warps, before warp %u is done with its wait at %s; let that warp "
            "arrive, after its wait, where whoever ends the phase waits",
            state.launch->symbol, blockIdx.x, barrier.phase, barrier.offset, w, text(look.site));
        return false;
    }
    return true;
}

// The last arrival or bytes for it came by a thread of CTA `from`.
void end_phase_if_complete(unsigned index, const Cta& from, unsigned thread, Site site) {
    Mbarrier& barrier = state.cta->barriers[index];
    if (barrier.arrived < barrier.arrivals || barrier.missing > 0) return;
    if (barrier.missing < 0 || barrier.issued) {
        complain(
            "every byte of a bulk copy must be expected by the mbarrier that counts it, but in kernel %s, block %u, "
            "thread %u, at %s, all %u arrivals of phase %u of the barrier at byte %u of shared memory of block %u are "
            "in and %llu bytes were copied or are on their way that none expected; correct the bytes of "
            "mbarrier_arrive_expect",
            state.launch->symbol, from.block, thread, text(site), barrier.arrivals, barrier.phase, barrier.offset,
            blockIdx.x,
            static_cast<unsigned long long>(barrier.issued) - static_cast<unsigned long long>(barrier.missing));
        return;
    }
    if (!check_seen(barrier)) return;
    barrier.arrived = 0;
    barrier.current.until[phase_actor(index)] = ++barrier.phase;
    copy_clock(barrier.complete, barrier.current);
    for (unsigned w = 0; w < state.launch->threads / 32; ++w) {
        Warp& warp = state.cta->warps[w];
        if (warp.progress != Progress::at_mbarrier || warp.barrier != index) continue;
        take_over(w, index);
        warp.progress = Progress::runnable;
    }
}

void note_visit(Mbarrier& barrier, Site site) {
    const uint32_t next = current_warp().cluster_arrivals + 1, told = barrier.visit.told;
    barrier.visit = {state.cta, static_cast<uint16_t>(threadIdx.x), site, barrier.phase, next > told ? next : told};
}

// By the current thread, in its own CTA or another.
void arrive(Cta& owner, unsigned index, unsigned bytes, Site site) {
    Cta& self = *state.cta;
    Mbarrier& barrier = owner.barriers[index];
    char whose[32];
    if (barrier.arrived == barrier.arrivals)
        fail(
            "a phase of an mbarrier must see no more arrivals than its count, but in kernel %s, block %u, thread %u "
            "arrives at %s on the barrier at byte %u of shared memory%s, whose phase %u has its %u already and waits "
            "for %lld bytes; correct the count or who arrives",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), barrier.offset, of_block(owner, whose),
            barrier.phase, barrier.arrivals, static_cast<long long>(barrier.missing));
    count_expected(barrier, bytes, site);
    if (&owner == &self) {
        release_clock(barrier.current, threadIdx.x, threadIdx.x + 1);
    } else {
        release_clock_away(owner, barrier.current);
        note_visit(barrier, site);
    }
    ++barrier.arrived;
    enter(owner);
    end_phase_if_complete(index, self, threadIdx.x, site);
    enter(self);
}

}  // namespace

unsigned find_barrier(const void* p, const char* what, Site site) {
    const uint64_t offset = check_address(p, what, site);
    const uint16_t mark = state.cta->shadow.words[offset / 4].in_flight;
    if (!(mark & kBarrier) || state.cta->barriers[mark & ~kBarrier].offset != offset) {
        char where[160];
        fail(
            "an mbarrier must be initialised before its use, but kernel %s, block %u, thread %u, at %s calls %s on %s, "
            "where none is; call mbarrier_init first",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), what, place(p, where));
    }
    check_visible(state.cta->barriers[mark & ~kBarrier], false, what, site);
    return mark & ~kBarrier;
}

unsigned find_barrier_away(const Cta& owner, const void* p, const char* what, Site site) {
    const uint64_t offset = check_address(p, what, site);
    const uint16_t mark = owner.shadow.words[offset / 4].in_flight;
    const Mbarrier* const barrier = mark & kBarrier ? &owner.barriers[mark & ~kBarrier] : nullptr;
    if (barrier && barrier->offset == offset && barrier->shown && barrier->shown <= current_clock().phases)
        return mark & ~kBarrier;
    fail(
        "a copy to another CTA or an arrival there must be counted by an mbarrier of that CTA, of whose initialisation "
        "a phase of the cluster's barrier tells, but in kernel %s, block %u, thread %u, %s at %s names byte %llu of "
        "the shared memory of block %u, %s; call mbarrier_init, mbarrier_init_fence and then cluster_arrive there, and "
        "cluster_wait here",
        state.launch->symbol, blockIdx.x, threadIdx.x, what, text(site), static_cast<unsigned long long>(offset),
        owner.block,
        !barrier || barrier->offset != offset ? "where none is"
        : barrier->fence_stamp                ? "whose fence no phase comes after"
                                              : "which lacks its mbarrier_init_fence");
}

void count_bytes(unsigned index, unsigned bytes, const Cta& from, unsigned thread, Site site) {
    state.cta->barriers[index].issued -= bytes;
    state.cta->barriers[index].missing -= bytes;
    end_phase_if_complete(index, from, thread, site);
}

void mbarrier_init(void* p, unsigned arrivals, Site site) {
    const uint64_t offset = check_address(p, "mbarrier_init", site);
    Word* word = state.cta->shadow.words + offset / 4;
    char where[160];
    if (word->in_flight & kBarrier)
        fail(
            "an mbarrier must be initialised once, but kernel %s, block %u, thread %u, at %s initialises the one at %s "
            "again, which was initialised at %s%s; initialise it before the loop",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), place(p, where),
            text(state.cta->barriers[word->in_flight & ~kBarrier].site),
            state.cta->barriers[word->in_flight & ~kBarrier].phase ? " and has seen phases end" : "");
    if (!arrivals || arrivals > kMostArrivals)
        fail(
            "an mbarrier must count from 1 to %u arrivals, but kernel %s, block %u, thread %u, at %s asks for %u; "
            "correct the count",
            kMostArrivals, state.launch->symbol, blockIdx.x, threadIdx.x, text(site), arrivals);
    if (state.cta->barrier_count == kMaxBarriers)
        fail("the emulator holds at most %u mbarriers, but kernel %s initialises more at %s; use fewer stages",
             kMaxBarriers, state.launch->symbol, text(site));
    const Access access = {"mbarrier_init", static_cast<uint16_t>(threadIdx.x), current_warp().stamp, site,
                           intern(site)};
    const unsigned index = state.cta->barrier_count++;
    note_write(offset, 8, access);
    for (unsigned i = 0; i < 2; ++i) word[i].in_flight = static_cast<uint16_t>(kBarrier | index);
    Mbarrier& barrier = state.cta->barriers[index];
    memset(&barrier, 0, sizeof(barrier));
    barrier.offset = static_cast<uint32_t>(offset);
    barrier.arrivals = arrivals;
    barrier.initialiser = static_cast<uint16_t>(threadIdx.x);
    barrier.site = site;
    begin_barrier_clocks(index);
}

void mbarrier_init_fence() {
    const uint32_t stamp = tick();
    for (unsigned i = 0; i < state.cta->barrier_count; ++i)
        if (state.cta->barriers[i].initialiser == threadIdx.x && !state.cta->barriers[i].fence_stamp)
            state.cta->barriers[i].fence_stamp = stamp;
}

void mbarrier_arrive(const void* p, const char* what, unsigned bytes, Site site) {
    arrive(*state.cta, find_barrier(p, what, site), bytes, site);
}

void mbarrier_arrive_at(const void* p, unsigned rank, Site site) {
    const char* const what = "mbarrier_arrive_at";
    if (rank == state.cta->rank) {
        mbarrier_arrive(p, what, 0, site);
        return;
    }
    Cta& owner = find_receiver(rank, what, site);
    arrive(owner, find_barrier_away(owner, p, what, site), 0, site);
}

void mbarrier_wait(void* p, unsigned parity, Site site) {
    Wait argument = {p, parity};
    if (!gather(Kind::mbarrier_wait, &argument, site)) return;
    Warp& warp = current_warp();
    for (void* other : warp.arguments)
        if (static_cast<Wait*>(other)->barrier != p || static_cast<Wait*>(other)->parity != parity)
            fail(
                "all lanes of a warp must wait for the same phase of the same mbarrier, but in kernel %s, block %u, "
                "those of warp %u differ at %s; make the barrier and the parity uniform over the warp",
                state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site));
    if (parity > 1)
        fail(
            "mbarrier_wait must get parity 0 or 1, but kernel %s, block %u, thread %u, at %s passes %u; use the lowest "
            "bit of the phase's number",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), parity);
    const unsigned index = find_barrier(p, "mbarrier_wait", site);
    Mbarrier& barrier = state.cta->barriers[index];
    check_visible(barrier, true, "mbarrier_wait", site);
    const int64_t phase = phase_of(barrier, parity);
    const uint32_t known = current_clock().until[phase_actor(index)];
    if (phase > static_cast<int64_t>(known))
        fail(
            "a warp must wait for every phase of an mbarrier in turn, for parity alone tells them apart, but in kernel "
            "%s, block %u, warp %u waits at %s for parity %u of the barrier at byte %u of shared memory, which may "
            "mean phase %lld, two after the last that it knows to have ended; wait for phase %u before, or correct the "
            "parity",
            state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site), parity, barrier.offset,
            static_cast<long long>(phase), known);
    barrier.looks[threadIdx.x / 32][parity] = {warp.stamp, static_cast<uint32_t>(phase + 1), site};
    if (phase < static_cast<int64_t>(barrier.phase)) {
        take_over(threadIdx.x / 32, index);
        release();
        return;
    }
    warp.progress = Progress::at_mbarrier;
    warp.barrier = index;
    to_scheduler(warp);
}

// What remains in flight would be written into the next CTA's shared memory.
void end_cta_barriers() {
    for (unsigned i = 0; i < state.cta->barrier_count; ++i) {
        const Mbarrier& barrier = state.cta->barriers[i];
        Word* word = state.cta->shadow.words + barrier.offset / 4;
        word[0].in_flight = word[1].in_flight = 0;
        if (!state.failed && (barrier.issued || barrier.missing))
            complain(
                "a kernel must wait for all its bulk copies, but kernel %s, block %u, ends while the barrier at byte "
                "%u of shared memory, initialised at %s, has %llu bytes on their way and expects %lld that it has not "
                "seen; wait for phase %u of it, or copy less",
                state.launch->symbol, blockIdx.x, barrier.offset, text(barrier.site),
                static_cast<unsigned long long>(barrier.issued), static_cast<long long>(barrier.missing),
                barrier.phase);
    }
    state.cta->barrier_count = 0;
}

}  // namespace emulator
