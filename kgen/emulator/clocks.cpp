// What every warp knows of the others' doings: how clocks begin, grow and are handed on; see races.h.
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

inline uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }

unsigned known_count() { return state.launch->cluster > 1 ? state.launch->cluster : 0; }

void merge(Known& to, const Known& from) {
    for (unsigned i = 0; i < kActors; ++i) to.until[i] = later(to.until[i], from.until[i]);
    for (unsigned i = 0; i < kMaxBarriers; ++i) to.done[i] = later(to.done[i], from.done[i]);
}

void merge_known(Clock& to, const Clock& from) {
    for (unsigned rank = 0; rank < known_count(); ++rank) merge(to.cluster[rank], from.cluster[rank]);
}

void find_least(Clock& clock) {  // sets `all`
    for (unsigned t = 0; t < state.launch->threads; t += 32) {
        uint32_t least = ~0u;
        for (unsigned lane = 0; lane < 32; ++lane)
            least = clock.until[t + lane] < least ? clock.until[t + lane] : least;
        clock.all[t / 32] = least;
    }
}

}  // namespace

bool allocate_shadow() {
    Shadow& shadow = state.cta->shadow;
    const uint64_t words = state.launch->shared_bytes / 4 + 1;
    const unsigned warps = warps_per_cta();
    shadow.words = static_cast<Word*>(calloc(words, sizeof(Word)));
    shadow.readers = static_cast<Reader*>(calloc(words * warps, sizeof(Reader)));  // the host gives what is touched
    shadow.clocks = static_cast<Clock*>(calloc(warps, sizeof(Clock)));
    if (!shadow.words || !shadow.readers || !shadow.clocks) return false;
    if (!known_count()) return true;
    shadow.known = static_cast<Known*>(calloc((warps + 2 * kMaxBarriers) * known_count(), sizeof(Known)));
    for (unsigned w = 0; w < warps; ++w) shadow.clocks[w].cluster = shadow.known + w * known_count();
    return shadow.known;
}

void free_shadow() {
    free(state.cta->shadow.words);
    free(state.cta->shadow.readers);
    free(state.cta->shadow.clocks);
    free(state.cta->shadow.known);
}

void begin_cta_clocks() {
    Shadow& shadow = state.cta->shadow;
    shadow.begin = state.cta->epoch = ++state.stamp;
    for (uint32_t& stamp : shadow.proxied) stamp = state.cta->epoch;
    memcpy(shadow.epoch_proxied, shadow.proxied, sizeof(shadow.proxied));
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        Clock& clock = shadow.clocks[w];
        for (unsigned actor = 0; actor < kActors; ++actor)
            clock.until[actor] = actor >= kBarriers && (actor - kBarriers) % 2 ? 0 : state.cta->epoch;
        for (uint32_t& stamp : clock.all) stamp = state.cta->epoch;
        memcpy(clock.proxied, shadow.proxied, sizeof(clock.proxied));
        clock.phases = 0;
        memset(clock.cluster, 0, known_count() * sizeof(Known));
    }
}

void begin_barrier_clocks(unsigned barrier) {
    Mbarrier& of = state.cta->barriers[barrier];
    if (!known_count()) return;
    of.current.cluster = state.cta->shadow.known + (warps_per_cta() + 2 * barrier) * known_count();
    of.complete.cluster = of.current.cluster + known_count();
    memset(of.current.cluster, 0, 2 * known_count() * sizeof(Known));
}

void synchronise_cta() {
    Shadow& shadow = state.cta->shadow;
    const unsigned warps = warps_per_cta();
    state.cta->epoch = ++state.stamp;
    memcpy(shadow.epoch_proxied, shadow.proxied, sizeof(shadow.proxied));
    uint32_t phases = 0;
    for (unsigned w = 0; w < warps; ++w) phases = later(phases, shadow.clocks[w].phases);
    for (unsigned w = 0; w < warps; ++w) shadow.clocks[w].phases = phases;
    for (unsigned actor = kBarriers; actor < kBarriers + 2 * state.cta->barrier_count; ++actor) {
        uint32_t latest = 0;
        for (unsigned w = 0; w < warps; ++w) latest = later(latest, shadow.clocks[w].until[actor]);
        for (unsigned w = 0; w < warps; ++w) shadow.clocks[w].until[actor] = latest;
    }
    for (unsigned w = 1; w < warps; ++w) merge_known(shadow.clocks[0], shadow.clocks[w]);
    for (unsigned w = 1; w < warps; ++w)
        memcpy(shadow.clocks[w].cluster, shadow.clocks[0].cluster, known_count() * sizeof(Known));
}

void synchronise_warp() {
    const unsigned warp = threadIdx.x / 32;
    Clock& clock = current_clock();
    for (unsigned t = warp * 32; t < warp * 32 + 32; ++t) {
        clock.until[t] = current_warp().stamp;
        clock.proxied[t] = later(clock.proxied[t], state.cta->shadow.proxied[t]);
    }
    clock.all[warp] = current_warp().stamp;
}

void release_clock(Clock& to, unsigned first, unsigned end) {
    const unsigned threads = state.launch->threads;
    const Clock& mine = current_clock();
    for (unsigned t = 0; t < threads; ++t) {
        to.until[t] = later(to.until[t], later(mine.until[t], state.cta->epoch));
        to.proxied[t] = later(to.proxied[t], later(mine.proxied[t], state.cta->shadow.epoch_proxied[t]));
    }
    for (unsigned actor = kUnits; actor < kActors; ++actor) to.until[actor] = later(to.until[actor], mine.until[actor]);
    to.phases = later(to.phases, mine.phases);
    merge_known(to, mine);
    const uint32_t stamp = tick();
    for (unsigned t = first; t < end; ++t) {
        to.proxied[t] = state.cta->shadow.proxied[t];
        to.until[t] = stamp;
    }
}

void acquire_clock(Clock& mine, const Clock& from) {
    const unsigned threads = state.launch->threads;
    for (unsigned t = 0; t < threads; ++t) {
        mine.until[t] = later(mine.until[t], from.until[t]);
        mine.proxied[t] = later(mine.proxied[t], from.proxied[t]);
    }
    for (unsigned actor = kUnits; actor < kActors; ++actor)
        mine.until[actor] = later(mine.until[actor], from.until[actor]);
    mine.phases = later(mine.phases, from.phases);
    merge_known(mine, from);
    find_least(mine);
}

void copy_clock(Clock& to, const Clock& from) {
    Known* const cluster = to.cluster;
    to = from;
    to.cluster = cluster;
    memcpy(cluster, from.cluster, known_count() * sizeof(Known));
}

Known* snapshot_clock() {
    auto* const known = static_cast<Known*>(malloc(known_count() * sizeof(Known)));
    if (!known) abort();
    const Clock& mine = current_clock();
    memcpy(known, mine.cluster, known_count() * sizeof(Known));
    Known& own = known[state.cta->rank];
    for (unsigned actor = 0; actor < kActors; ++actor)
        own.until[actor] = actor < kBarriers ? later(mine.until[actor], state.cta->epoch) : mine.until[actor];
    own.until[threadIdx.x] = tick();
    return known;
}

void receive_clock(Clock& to, const Known* from) {
    const unsigned self = state.cta->rank;
    for (unsigned rank = 0; rank < known_count(); ++rank)
        if (rank != self) merge(to.cluster[rank], from[rank]);
    for (unsigned actor = 0; actor < kActors; ++actor)
        to.until[actor] = later(to.until[actor], from[self].until[actor]);
    for (unsigned i = 0; i < kMaxBarriers; ++i)
        to.cluster[self].done[i] = later(to.cluster[self].done[i], from[self].done[i]);
}

void release_clock_away(Cta& owner, Clock& to) {
    Cta& self = *state.cta;
    Known* const known = snapshot_clock();
    enter(owner);
    receive_clock(to, known);
    enter(self);
    free(known);
}

}  // namespace emulator
