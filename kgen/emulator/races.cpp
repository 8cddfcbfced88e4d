// The race detector: checks accesses by their actors' clocks over a shadow of shared memory; see races.h.
//
// Two threads that touch a word of shared memory, at least one of them writing, must be separated by __syncthreads, a
// named barrier or an mbarrier if they are of different warps, by either or __syncwarp within a warp; ldmatrix, mma and
// shuffles order nothing, as compute-sanitizer's racecheck sees it too. CTAs of a cluster meet in copies to each other:
// these must come after the receiver's accesses, of which the sender learns by a copy or an arrival from there.
#include <stdio.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

inline uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }

inline bool is_away(uint16_t actor) { return (actor & kAway) && !(actor & kSeveralLanes); }
inline bool is_barrier_actor(uint16_t actor) { return actor >= kBarriers && !(actor & kSeveralLanes); }
unsigned rank_of(uint16_t actor) { return (actor & ~kAway) / kMaxThreads; }

// Not of kSeveralWarps or a barrier's copies.
unsigned warp_of(uint16_t actor) {
    if (actor & kSeveralLanes) return actor & 31u;
    return actor >= kUnits ? actor - kUnits : actor / 32u;
}

bool same_warp(uint16_t actor) {
    return actor != kSeveralWarps && !is_barrier_actor(actor) && warp_of(actor) == threadIdx.x / 32;
}

// Whether an earlier access comes before one by `actor`, of the current warp, now. The CTA is the current one; it is
// passed to keep it in a register.
__forceinline__ bool ordered(const Cta& cta, uint16_t other, uint32_t stamp, uint16_t actor) {
    if (stamp < cta.epoch && !is_barrier_actor(other)) return true;
    if (other == actor) return true;
    const Clock& clock = cta.shadow.clocks[threadIdx.x / 32];
    if (other & kSeveralLanes) return other != kSeveralWarps && stamp < clock.all[other & 31u];
    return stamp < clock.until[other];
}

// The same in the memory of another CTA, for an access there by the current thread.
bool ordered_away(const Cta& owner, uint16_t other, uint32_t stamp) {
    if (stamp < owner.shadow.begin) return true;
    if (other == kSeveralWarps) return false;
    const uint32_t* const until = current_clock().cluster[owner.rank].until;
    if (!(other & kSeveralLanes)) return stamp < until[other];
    const uint32_t* const lanes = until + (other & 31u) * 32;
    unsigned lane = 0;
    while (lane < 32 && stamp < lanes[lane]) ++lane;
    return lane == 32;
}

const Cta& owner_of(const Word& word) {
    const Cta* cta = state.ctas;
    while (&word < cta->shadow.words || &word > cta->shadow.words + state.launch->shared_bytes / 4) ++cta;
    return *cta;
}

const char* actor_text(const Cta& owner, uint16_t actor, char (&out)[96]) {
    char whose[32];
    of_block(is_away(actor) ? state.ctas[rank_of(actor)] : owner, whose);
    if (actor == kSeveralWarps)
        snprintf(out, sizeof(out), "threads of several warps%s", whose);
    else if (is_away(actor))
        snprintf(out, sizeof(out), "thread %u%s", actor % kMaxThreads, whose);
    else if (is_barrier_actor(actor))
        snprintf(out, sizeof(out), "a bulk copy%s", whose);
    else if (actor & kSeveralLanes)
        snprintf(out, sizeof(out), "warp %u%s", warp_of(actor), whose);
    else if (actor >= kUnits)
        snprintf(out, sizeof(out), "a wgmma of warp %u%s", warp_of(actor), whose);
    else
        snprintf(out, sizeof(out), "thread %u%s", actor, whose);
    return out;
}

const char* place(const Word& word, char (&out)[160]) {
    const Cta& owner = owner_of(word);
    char whose[32];
    snprintf(out, sizeof(out), "byte %lld of shared memory%s, which has %llu bytes",
             static_cast<long long>(4 * (&word - owner.shadow.words)), of_block(owner, whose),
             static_cast<unsigned long long>(state.launch->shared_bytes));
    return out;
}

[[noreturn]] void fail_race(const Word& word, const Access& access, bool write, const Reader& other, bool other_wrote) {
    char who[96], where[160];
    const Cta& owner = owner_of(word);
    actor_text(owner, other.actor, who);
    if (&owner != state.cta)
        fail(
            "race on shared memory: a copy to another CTA must come after what that has done there, but in kernel %s, "
            "block %u, thread %u, %s at %s writes %s after %s %s it at %s; wait first for what the other "
            "CTA sends after that: an mbarrier_arrive_at, or a copy of its own behind a __syncthreads",
            state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), place(word, where), who,
            other_wrote ? "wrote" : "read", text(site_of(other.site)));
    const char* also = state.cta->barrier_count ? " or an mbarrier" : "";
    const bool within = same_warp(other.actor);
    char advice[96];
    if (is_barrier_actor(other.actor))
        snprintf(advice, sizeof(advice), "wait for the phase of the mbarrier that counts the copy");
    else
        snprintf(advice, sizeof(advice), "put a %s%s between the two", within ? "__syncwarp" : "__syncthreads",
                 within ? "" : also);
    fail(
        "race on shared memory: accesses by different %s must be separated by %s%s, but in kernel %s, block %u, "
        "thread %u, %s at %s %s %s after %s %s it at %s; %s",
        within ? "lanes" : "warps", within ? "__syncwarp" : "__syncthreads", within ? "" : also, state.launch->symbol,
        blockIdx.x, threadIdx.x, access.what, text(access.site), write ? "writes" : "reads", place(word, where), who,
        other_wrote ? "wrote" : "read", text(site_of(other.site)), advice);
}

[[noreturn]] void fail_in_flight(const Word& word, const Access& access, bool write) {
    char who[96], where[160];
    place(word, where);
    actor_text(owner_of(word), word.writer, who);
    const char* verb = write ? "writes" : "reads";
    if (word.in_flight & kBarrier)
        fail(
            "an initialised mbarrier must be touched by mbarrier functions only, but in kernel %s, block %u, thread "
            "%u, %s at %s %s %s, where an mbarrier is; keep the barriers apart from the data",
            state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), verb, where);
    const bool bulk = word.in_flight & kBulk;
    fail(
        "shared memory must not be touched while an asynchronous copy to it is in flight, but in kernel %s, block %u, "
        "thread %u, %s at %s %s %s, which %s copies to at %s and has not waited for; %s first, or deepen the ring",
        state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), verb, where, who,
        text(site_of(word.write_site)),
        bulk                       ? "call mbarrier_wait"
        : state.cta->barrier_count ? "call cp_async_wait (and __syncthreads or mbarrier_arrive)"
                                   : "call cp_async_wait (and __syncthreads)");
}

[[noreturn]] void fail_multiplying(const Word& word, const Access& access) {
    char where[160];
    fail(
        "shared memory must not be written while a wgmma reads it, but in kernel %s, block %u, thread %u, %s at %s "
        "writes %s, which a wgmma reads that is not waited for; call wgmma_wait (and order it before the write) first",
        state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), place(word, where));
}

// What wgmma or copies to other CTAs may still read.
void check_held(const Cta& owner, Word& word, const Access& access) {
    if (word.held & ~kSent) fail_multiplying(word, access);
    const uint64_t offset = static_cast<uint64_t>(&word - owner.shadow.words) * 4;
    for (uint32_t i = 0; i < owner.sent_count; ++i) {
        const Sent& copy = owner.sent[i];
        if (offset < copy.offset || offset >= copy.offset + copy.bytes || knows_done(current_clock(), copy)) continue;
        char where[160];
        fail(
            "shared memory must not be written while a copy to another CTA may read it, but in kernel %s, block %u, "
            "thread %u, %s at %s writes %s, which thread %u of block %u copies to block %u at %s; wait first for that "
            "CTA to tell that it has the copy, by one of its own or by the cluster's barrier",
            state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), place(word, where),
            copy.thread, owner.block, state.ctas[copy.to].block, text(copy.site));
    }
    word.held = 0;
}

Reader* row_of(const Cta& owner, const Word& word) {
    return owner.shadow.readers + static_cast<size_t>(&word - owner.shadow.words) * warps_per_cta();
}

// `before(actor, stamp)`: whether an earlier access comes before this one.
template <class Before>
__forceinline__ void check_readers(const Cta& owner, const Word& word, const Access& access, const Before& before) {
    const Reader latest = {word.read_stamp, word.reader, word.read_site};
    if (before(latest.actor, latest.stamp)) return;
    if (word.reader != kSeveralWarps) fail_race(word, access, true, latest, false);
    const Reader* row = row_of(owner, word);
    for (unsigned w = 0; w < warps_per_cta(); ++w)
        if (!before(row[w].actor, row[w].stamp)) fail_race(word, access, true, row[w], false);
}

// The reader that stands for an earlier one of this warp and now this access.
uint16_t merge(const Cta& cta, uint16_t earlier, uint32_t stamp, uint16_t actor) {
    return ordered(cta, earlier, stamp, actor) ? actor : static_cast<uint16_t>(kSeveralLanes | threadIdx.x / 32);
}

// wgmma and bulk copies see a plain or cp.async write only if its thread has executed fence_proxy_async after it.
void check_proxy(const Word& word, const Access& access) {
    const uint16_t writer = word.writer;
    const Shadow& shadow = state.cta->shadow;
    if (word.write_stamp < shadow.begin) return;
    if (is_barrier_actor(writer)) return;
    if (word.write_stamp < (writer == access.actor
                                ? shadow.proxied[writer]
                                : later(shadow.epoch_proxied[writer], current_clock().proxied[writer])))
        return;
    char who[96], where[160];
    fail(
        "a thread must call fence_proxy_async after it has written what %s reads, and before the barrier between the "
        "two, but in kernel %s, block %u, thread %u, %s at %s reads %s, which %s wrote at %s without; add the fence "
        "(for cp.async, after cp_async_wait)",
        access.what, state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), place(word, where),
        actor_text(*state.cta, writer, who), text(site_of(word.write_site)));
}

template <class Before>
__forceinline__ void write_word(const Cta& owner, Word& word, const Access& access, const Before& before) {
    if (word.in_flight) fail_in_flight(word, access, true);
    if (word.held) check_held(owner, word, access);
    if (!before(word.writer, word.write_stamp))
        fail_race(word, access, true, {word.write_stamp, word.writer, word.write_site}, true);
    check_readers(owner, word, access, before);
    word.write_stamp = access.stamp;
    word.writer = access.actor;
    word.write_site = access.site_number;
    word.read_stamp = 0;  // who comes after this write comes after those reads
}

__forceinline__ void read_word(const Cta& cta, Word& word, const Access& access) {
    if (word.in_flight) fail_in_flight(word, access, false);
    if (!ordered(cta, word.writer, word.write_stamp, access.actor))
        fail_race(word, access, false, {word.write_stamp, word.writer, word.write_site}, true);
    const Reader mine = {access.stamp, access.actor, access.site_number};
    const unsigned warp = threadIdx.x / 32;
    if (ordered(cta, word.reader, word.read_stamp, access.actor)) {
        word.reader = access.actor;
    } else if (word.reader == kSeveralWarps) {
        Reader& before = row_of(cta, word)[warp];
        before = {mine.stamp, merge(cta, before.actor, before.stamp, mine.actor), mine.site};
    } else if (same_warp(word.reader)) {
        word.reader = static_cast<uint16_t>(kSeveralLanes | warp);
    } else {
        Reader* row = row_of(cta, word);
        memset(row, 0, warps_per_cta() * sizeof(Reader));
        row[warp_of(word.reader)] = {word.read_stamp, word.reader, word.read_site};
        row[warp] = mine;
        word.reader = kSeveralWarps;
    }
    word.read_stamp = access.stamp;
    word.read_site = access.site_number;
}

}  // namespace

void note_write(uint64_t offset, unsigned bytes, const Access& access) {
    Word* word = state.cta->shadow.words + offset / 4;
    const Cta& cta = *state.cta;
    const auto before = [&](uint16_t other, uint32_t stamp) { return ordered(cta, other, stamp, access.actor); };
    for (Word* end = word + bytes / 4; word < end; ++word) write_word(cta, *word, access, before);
}

void note_write_away(Cta& owner, uint64_t offset, unsigned bytes, const Access& access) {
    Word* word = owner.shadow.words + offset / 4;
    const auto before = [&](uint16_t other, uint32_t stamp) { return ordered_away(owner, other, stamp); };
    for (Word* end = word + bytes / 4; word < end; ++word) write_word(owner, *word, access, before);
}

void note_read(uint64_t offset, unsigned bytes, const Access& access) {
    const Cta& cta = *state.cta;
    Word* word = state.cta->shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) read_word(cta, *word, access);
}

void note_sent(uint64_t offset, unsigned bytes, const Access& access) {
    const Cta& cta = *state.cta;
    Word* word = cta.shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) {
        if (word->in_flight) fail_in_flight(*word, access, false);
        if (!ordered(cta, word->writer, word->write_stamp, access.actor))
            fail_race(*word, access, false, {word->write_stamp, word->writer, word->write_site}, true);
        check_proxy(*word, access);
        word->held |= kSent;
    }
}

void note_multiply(uint64_t offset, unsigned bytes, bool begins, Site site) {
    const uint16_t unit = static_cast<uint16_t>(kUnits + threadIdx.x / 32);
    const Access access = {"wgmma", unit, current_warp().stamp, site, intern(site)};
    const Cta& cta = *state.cta;
    Word* word = state.cta->shadow.words + offset / 4;
    for (Word* end = word + bytes / 4; word < end; ++word) {
        read_word(cta, *word, access);
        if (begins) check_proxy(*word, access);
        word->held = static_cast<uint16_t>(word->held + (begins ? 1 : -1));
    }
}

}  // namespace emulator
