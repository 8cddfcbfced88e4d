// The race detector: clocks of warps and barriers over a shadow of shared memory; see races.h.
//
// Two threads that touch a word of shared memory, at least one of them writing, must be separated by __syncthreads or
// an mbarrier if they are of different warps, by either or __syncwarp within a warp; ldmatrix, mma and shuffles order
// nothing, as compute-sanitizer's racecheck sees it too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

inline uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }

inline bool is_barrier_actor(uint16_t actor) { return actor >= kBarriers && !(actor & kSeveralLanes); }

// Not of kSeveralWarps or a barrier's copies.
unsigned warp_of(uint16_t actor) {
    if (actor & kSeveralLanes) return actor & 31u;
    return actor >= kUnits ? actor - kUnits : actor / 32u;
}

bool same_warp(uint16_t actor) {
    return actor != kSeveralWarps && !is_barrier_actor(actor) && warp_of(actor) == threadIdx.x / 32;
}

// Whether an earlier access comes before one by `actor`, of the current warp, now.
__forceinline__ bool ordered(uint16_t other, uint32_t stamp, uint16_t actor) {
    if (stamp < state.epoch && !is_barrier_actor(other)) return true;
    if (other == actor) return true;
    const Clock& clock = current_clock();
    if (other & kSeveralLanes) return other != kSeveralWarps && stamp < clock.all[other & 31u];
    return stamp < clock.until[other];
}

const char* actor_text(uint16_t actor, char (&out)[64]) {
    if (actor == kSeveralWarps)
        snprintf(out, sizeof(out), "threads of several warps");
    else if (is_barrier_actor(actor))
        snprintf(out, sizeof(out), "%s", (actor - kBarriers) % 3 == 0 ? "a bulk copy" : "a cp_async_16");
    else if (actor & kSeveralLanes)
        snprintf(out, sizeof(out), "warp %u", warp_of(actor));
    else if (actor >= kUnits)
        snprintf(out, sizeof(out), "a wgmma of warp %u", warp_of(actor));
    else
        snprintf(out, sizeof(out), "thread %u", actor);
    return out;
}

const void* address_of(const Word& word) { return state.shared + 4 * (&word - state.shadow.words); }

[[noreturn]] void fail_race(const Word& word, const Access& access, bool write, const Reader& other, bool other_wrote) {
    char who[64], where[160];
    const char* also = state.barrier_count ? " or an mbarrier" : "";
    const bool within = same_warp(other.actor), copied = is_barrier_actor(other.actor);
    char advice[96];
    if (copied)
        snprintf(advice, sizeof(advice), "wait for the phase of the mbarrier that counts the copy");
    else
        snprintf(advice, sizeof(advice), "put a %s%s between the two", within ? "__syncwarp" : "__syncthreads",
                 within ? "" : also);
    fail(
        "race on shared memory: accesses by different %s must be separated by %s%s, but in kernel %s, block %u, "
        "thread %u, %s at %s %s %s after %s %s it at %s; %s",
        within ? "lanes" : "warps", within ? "__syncwarp" : "__syncthreads", within ? "" : also, state.launch->symbol,
        blockIdx.x, threadIdx.x, access.what, text(access.site), write ? "writes" : "reads",
        place(address_of(word), where), actor_text(other.actor, who), other_wrote ? "wrote" : "read",
        text(site_of(other.site)), advice);
}

[[noreturn]] void fail_in_flight(const Word& word, const Access& access, bool write) {
    char where[160];
    const void* p = address_of(word);
    const char* verb = write ? "writes" : "reads";
    if (word.in_flight & kBarrier)
        fail(
            "an initialised mbarrier must be touched by mbarrier functions only, but in kernel %s, block %u, thread "
            "%u, %s at %s %s %s, where an mbarrier is; keep the barriers apart from the data",
            state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), verb, place(p, where));
    const bool bulk = word.in_flight & kBulk;
    fail(
        "shared memory must not be touched while an asynchronous copy to it is in flight, but in kernel %s, block %u, "
        "thread %u, %s at %s %s %s, which thread %u copies to at %s and has not waited for; %s first, or deepen the "
        "ring",
        state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), verb, place(p, where),
        (word.in_flight & ~kBulk) - 1u, text(site_of(word.write_site)),
        bulk                  ? "call mbarrier_wait"
        : state.barrier_count ? "call cp_async_wait or mbarrier_wait"
                              : "call cp_async_wait (and __syncthreads)");
}

[[noreturn]] void fail_multiplying(const Word& word, const Access& access) {
    char where[160];
    fail(
        "shared memory must not be written while a wgmma reads it, but in kernel %s, block %u, thread %u, %s at %s "
        "writes %s, which a wgmma reads that is not waited for; call wgmma_wait (and order it before the write) first",
        state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), place(address_of(word), where));
}

Reader* row_of(const Word& word) {
    return state.shadow.readers + static_cast<size_t>(&word - state.shadow.words) * (state.launch->threads / 32);
}

void check_readers(const Word& word, const Access& access) {
    const Reader latest = {word.read_stamp, word.reader, word.read_site};
    if (word.reader != kSeveralWarps || !state.shadow.rows || word.read_stamp < state.epoch) {
        if (!ordered(latest.actor, latest.stamp, access.actor)) fail_race(word, access, true, latest, false);
        return;
    }
    const Reader* row = row_of(word);
    for (unsigned w = 0; w < state.launch->threads / 32; ++w)
        if (!ordered(row[w].actor, row[w].stamp, access.actor)) fail_race(word, access, true, row[w], false);
}

// The reader that stands for an earlier one of this warp and now this access.
uint16_t merge(uint16_t earlier, uint32_t stamp, uint16_t actor) {
    return ordered(earlier, stamp, actor) ? actor : static_cast<uint16_t>(kSeveralLanes | threadIdx.x / 32);
}

// wgmma sees a plain or cp.async write only if its thread has executed fence_proxy_async after it.
void check_proxy(const Word& word, const Access& access) {
    const uint16_t writer = word.writer;
    if (word.write_stamp < state.shadow.begin) return;
    if (is_barrier_actor(writer)
            ? writer != copy_actor((writer - kBarriers) / 3u)
            : word.write_stamp < later(state.shadow.epoch_proxied[writer], current_clock().proxied[writer]))
        return;
    char who[64], where[160];
    fail(
        "a thread must call fence_proxy_async after it has written what wgmma reads, and before the barrier between "
        "the two, but in kernel %s, block %u, thread %u, wgmma at %s reads %s, which %s wrote at %s without; add the "
        "fence (for cp.async, after cp_async_wait)",
        state.launch->symbol, blockIdx.x, threadIdx.x, text(access.site), place(address_of(word), where),
        actor_text(writer, who), text(site_of(word.write_site)));
}

__forceinline__ void write_word(Word& word, const Access& access) {
    if (word.in_flight) fail_in_flight(word, access, true);
    if (word.multiplying) fail_multiplying(word, access);
    if (!ordered(word.writer, word.write_stamp, access.actor))
        fail_race(word, access, true, {word.write_stamp, word.writer, word.write_site}, true);
    check_readers(word, access);
    word.write_stamp = access.stamp;
    word.writer = access.actor;
    word.write_site = access.site_number;
    word.read_stamp = 0;  // who comes after this write comes after those reads
}

__forceinline__ void read_word(Word& word, const Access& access) {
    if (word.in_flight) fail_in_flight(word, access, false);
    if (!ordered(word.writer, word.write_stamp, access.actor))
        fail_race(word, access, false, {word.write_stamp, word.writer, word.write_site}, true);
    const Reader mine = {access.stamp, access.actor, access.site_number};
    const unsigned warp = threadIdx.x / 32;
    if (ordered(word.reader, word.read_stamp, access.actor)) {
        word.reader = access.actor;
    } else if (word.reader == kSeveralWarps) {
        if (state.shadow.rows) {
            Reader& before = row_of(word)[warp];
            before = {mine.stamp, merge(before.actor, before.stamp, mine.actor), mine.site};
        }
    } else if (same_warp(word.reader)) {
        word.reader = static_cast<uint16_t>(kSeveralLanes | warp);
    } else {
        if (state.shadow.rows) {
            Reader* row = row_of(word);
            memset(row, 0, state.launch->threads / 32 * sizeof(Reader));
            row[warp_of(word.reader)] = {word.read_stamp, word.reader, word.read_site};
            row[warp] = mine;
        }
        word.reader = kSeveralWarps;
    }
    word.read_stamp = access.stamp;
    word.read_site = access.site_number;
}

}  // namespace

void note_write(uint64_t offset, unsigned bytes, const Access& access) {
    Word* word = state.shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) write_word(*word, access);
}

void note_read(uint64_t offset, unsigned bytes, const Access& access) {
    Word* word = state.shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) read_word(*word, access);
}

void note_multiply(uint64_t offset, unsigned bytes, bool begins, Site site) {
    const uint16_t unit = static_cast<uint16_t>(kUnits + threadIdx.x / 32);
    const Access access = {"wgmma", unit, current_warp().stamp, site, intern(site)};
    Word* word = state.shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) {
        read_word(*word, access);
        if (begins) check_proxy(*word, access);
        word->multiplying = static_cast<uint16_t>(word->multiplying + (begins ? 1 : -1));
    }
}

bool allocate_shadow() {
    Shadow& shadow = state.shadow;
    const uint64_t words = state.launch->shared_bytes / 4 + 1;
    const unsigned warps = state.launch->threads / 32;
    shadow.words = static_cast<Word*>(calloc(words, sizeof(Word)));
    shadow.readers = static_cast<Reader*>(calloc(words * warps, sizeof(Reader)));  // the host gives what is touched
    shadow.clocks = static_cast<Clock*>(calloc(warps, sizeof(Clock)));
    state.stamp = state.epoch = 0;
    return shadow.words && shadow.readers && shadow.clocks;
}

void free_shadow() {
    free(state.shadow.words);
    free(state.shadow.readers);
    free(state.shadow.clocks);
}

void begin_cta_clocks() {
    Shadow& shadow = state.shadow;
    shadow.begin = state.epoch = ++state.stamp;
    shadow.rows = false;
    for (uint32_t& stamp : shadow.proxied) stamp = state.epoch;
    memcpy(shadow.epoch_proxied, shadow.proxied, sizeof(shadow.proxied));
    for (unsigned w = 0; w < state.launch->threads / 32; ++w) {
        Clock& clock = shadow.clocks[w];
        for (unsigned actor = 0; actor < kActors; ++actor)
            clock.until[actor] = actor >= kBarriers && (actor - kBarriers) % 3 == 2 ? 0 : state.epoch;
        for (uint32_t& stamp : clock.all) stamp = state.epoch;
        memcpy(clock.proxied, shadow.proxied, sizeof(clock.proxied));
    }
}

void synchronise_cta() {
    Shadow& shadow = state.shadow;
    const unsigned warps = state.launch->threads / 32;
    state.epoch = ++state.stamp;
    memcpy(shadow.epoch_proxied, shadow.proxied, sizeof(shadow.proxied));
    shadow.rows = state.barrier_count;
    for (unsigned actor = kBarriers; actor < kBarriers + 3 * state.barrier_count; ++actor) {
        uint32_t latest = 0;
        for (unsigned w = 0; w < warps; ++w) latest = later(latest, shadow.clocks[w].until[actor]);
        for (unsigned w = 0; w < warps; ++w) shadow.clocks[w].until[actor] = latest;
    }
}

void synchronise_warp() {
    const unsigned warp = threadIdx.x / 32;
    Clock& clock = current_clock();
    for (unsigned t = warp * 32; t < warp * 32 + 32; ++t) {
        clock.until[t] = current_warp().stamp;
        clock.proxied[t] = later(clock.proxied[t], state.shadow.proxied[t]);
    }
    clock.all[warp] = current_warp().stamp;
}

void release_clock(Clock& to) {
    const unsigned self = threadIdx.x, threads = state.launch->threads;
    const Clock& mine = current_clock();
    for (unsigned t = 0; t < threads; ++t) {
        to.until[t] = later(to.until[t], later(mine.until[t], state.epoch));
        to.proxied[t] = later(to.proxied[t], later(mine.proxied[t], state.shadow.epoch_proxied[t]));
    }
    for (unsigned actor = kUnits; actor < kActors; ++actor) to.until[actor] = later(to.until[actor], mine.until[actor]);
    to.proxied[self] = state.shadow.proxied[self];
    to.until[self] = tick();
}

void acquire_clock(unsigned warp, const Clock& from) {
    const unsigned threads = state.launch->threads;
    Clock& mine = state.shadow.clocks[warp];
    for (unsigned t = 0; t < threads; ++t) {
        mine.until[t] = later(mine.until[t], from.until[t]);
        mine.proxied[t] = later(mine.proxied[t], from.proxied[t]);
    }
    for (unsigned actor = kUnits; actor < kActors; ++actor)
        mine.until[actor] = later(mine.until[actor], from.until[actor]);
    for (unsigned t = 0; t < threads; t += 32) {
        uint32_t least = ~0u;
        for (unsigned lane = 0; lane < 32; ++lane) least = mine.until[t + lane] < least ? mine.until[t + lane] : least;
        mine.all[t / 32] = least;
    }
}

}  // namespace emulator
