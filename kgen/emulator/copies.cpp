// Asynchronous copies to shared memory. Each holds its bytes from its issue until it is waited for, and counts as a
// write at that moment: cp.async by its thread's wait, bulk copies by a barrier. Those between CTAs also read the
// sender's shared memory until then.
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

// A bulk copy, which a barrier will count once it happens.
struct Deferred {
    unsigned char* shared;
    const unsigned char* source;
    uint32_t bytes;
    Cta* cta;
    uint16_t thread, barrier;
    Site site;
    Cta* from = nullptr;  // of a copy to another CTA: where it was started, and its number there
    uint32_t number = 0;
    Known* known = nullptr;  // of a copy between CTAs: what its thread knew
};

Deferred* deferred;
uint32_t deferred_count, deferred_capacity;

template <class T>
T* grow(T* array, uint32_t& capacity) {
    capacity = capacity ? 2 * capacity : 64;
    void* grown = realloc(array, capacity * sizeof(T));
    if (!grown) abort();
    return static_cast<T*>(grown);
}

Word* words_at(const unsigned char* shared) { return state.cta->shadow.words + (shared - state.cta->shared) / 4; }

void land(AsyncCopy& copy) {
    if (copy.landed) return;
    copy.landed = true;
    if (copy.global)
        memcpy(copy.shared, copy.global, copy.bytes);
    else
        memset(copy.shared, 0, copy.bytes);
}

void land_at_random(Thread& thread) {
    if (state.launch->late) return;
    for (uint32_t i = thread.first; i < thread.last; ++i)
        if (!thread.copies[i].landed && next_random() % 2) land(thread.copies[i]);
}

// The bytes are no longer in flight, but written by this actor now.
void settle(unsigned char* shared, unsigned bytes, uint16_t writer, uint32_t stamp) {
    Word* word = words_at(shared);
    for (Word* end = word + bytes / 4; word < end; ++word) {
        word->in_flight = 0;
        word->writer = writer;
        word->write_stamp = stamp;
    }
}

Deferred& append(const Deferred& work) {
    if (deferred_count == deferred_capacity) deferred = grow(deferred, deferred_capacity);
    return deferred[deferred_count++] = work;
}

void complete(uint32_t index) {
    const Deferred work = deferred[index];
    deferred[index] = deferred[--deferred_count];
    enter(*work.cta);
    const uint32_t stamp = ++state.stamp;
    Clock& clock = state.cta->barriers[work.barrier].current;
    memcpy(work.shared, work.source, work.bytes);
    settle(work.shared, work.bytes, bulk_actor(work.barrier), stamp);
    clock.until[bulk_actor(work.barrier)] = stamp + 1;
    if (work.from) work.from->sent[work.number].stamp = stamp;
    if (work.known) {
        receive_clock(clock, work.known);
        free(work.known);
    }
    count_bytes(work.barrier, work.bytes, *(work.from ? work.from : work.cta), work.thread, work.site);
}

bool is_waited_for(const Deferred& work) {
    for (unsigned w = 0; w < warps_per_cta(); ++w)
        if (work.cta->warps[w].progress == Progress::at_mbarrier && work.cta->warps[w].barrier == work.barrier)
            return true;
    return false;
}

void check_bytes(unsigned bytes, const char* what, Site site) {
    if (bytes % 16 || !bytes)
        fail(
            "%s must copy a positive multiple of 16 bytes, but kernel %s, block %u, thread %u, at %s copies %u; pad "
            "the tile",
            what, state.launch->symbol, blockIdx.x, threadIdx.x, text(site), bytes);
}

// Between its start and its end, a copy's destination holds poison.
void begin_flight(Cta& owner, uint64_t offset, unsigned bytes, unsigned barrier) {
    Word* word = owner.shadow.words + offset / 4;
    for (unsigned i = 0; i < bytes / 4; ++i) word[i].in_flight = static_cast<uint16_t>(kBulk | (threadIdx.x + 1));
    memset(owner.shared + offset, kPoison, bytes);
    owner.barriers[barrier].issued += bytes;
}

// The copy's place in shared memory.
uint64_t check_global_copy(const char* what, const void* shared, const void* global, unsigned bytes, Site site) {
    check_bytes(bytes, what, site);
    check_global_span(global, bytes, 16, false, what, site);
    return check_shared_span(shared, bytes, 16, true, what, threadIdx.x, site);
}

// Copies by the current thread, to its own CTA and to another; the latter is told later what it reads of shared memory.
void start_here(const char* what, uint64_t offset, const void* from, unsigned bytes, const void* barrier, Site site) {
    const auto index = static_cast<uint16_t>(find_barrier(barrier, what, site));
    const auto thread = static_cast<uint16_t>(threadIdx.x);
    note_write(offset, bytes, {what, thread, current_warp().stamp, site, intern(site)});
    begin_flight(*state.cta, offset, bytes, index);
    append(
        {state.cta->shared + offset, static_cast<const unsigned char*>(from), bytes, state.cta, thread, index, site});
}

Deferred& start_away(const char* what, Cta& owner, uint64_t offset, const void* from, unsigned bytes,
                     const void* barrier, Site site) {
    Cta& self = *state.cta;
    const auto index = static_cast<uint16_t>(find_barrier_away(owner, barrier, what, site));
    const auto thread = static_cast<uint16_t>(threadIdx.x);
    const auto actor = static_cast<uint16_t>(kAway | (self.rank * kMaxThreads + thread));
    note_write_away(owner, offset, bytes, {what, actor, current_warp().stamp, site, intern(site)});
    begin_flight(owner, offset, bytes, index);
    if (self.sent_count == self.sent_capacity) self.sent = grow(self.sent, self.sent_capacity);
    self.sent[self.sent_count] = {static_cast<uint32_t>(offset),     0,     0,   thread,
                                  static_cast<uint16_t>(owner.rank), index, site};
    return append({owner.shared + offset, static_cast<const unsigned char*>(from), bytes, &owner, thread, index, site,
                   &self, self.sent_count++});
}

}  // namespace

void land_at_random() {
    while (!state.launch->late && deferred_count && !state.failed && next_random() % 4 == 0)
        complete(next_random() % deferred_count);
}

bool land_needed() {
    uint32_t eligible = 0, chosen = 0;
    for (uint32_t i = 0; i < deferred_count; ++i)
        if (is_waited_for(deferred[i]) && next_random() % ++eligible == 0) chosen = i;
    if (eligible) complete(chosen);
    return eligible;
}

void copy_async(void* shared, const void* global, unsigned bytes, bool valid, Site site) {
    const char* const what = bytes == 16 ? "cp_async_16" : "cp_async_8";
    if (valid) check_global(global, bytes, false, what, site);
    check_shared(shared, bytes, true, what, site);
    Word* word = words_at(static_cast<unsigned char*>(shared));
    for (unsigned i = 0; i < bytes / 4; ++i) word[i].in_flight = static_cast<uint16_t>(threadIdx.x + 1);
    memset(shared, kPoison, bytes);
    Thread& thread = current_thread();
    if (thread.first == thread.last) thread.first = thread.last = 0;
    if (thread.last == thread.capacity) thread.copies = grow(thread.copies, thread.capacity);
    thread.copies[thread.last++] = {static_cast<unsigned char*>(shared),
                                    valid ? static_cast<const unsigned char*>(global) : nullptr, bytes,
                                    thread.open_group, false};
    land_at_random(thread);
}

void commit_async() {
    land_at_random(current_thread());
    ++current_thread().open_group;
}

void wait_async(unsigned pending) {
    Thread& thread = current_thread();
    land_at_random(thread);
    for (; thread.first < thread.last; ++thread.first) {
        AsyncCopy& copy = thread.copies[thread.first];
        if (thread.open_group - copy.group <= pending) break;
        land(copy);
        settle(copy.shared, copy.bytes, static_cast<uint16_t>(threadIdx.x), current_warp().stamp);
    }
}

void bulk_copy(void* shared, const void* global, unsigned bytes, void* barrier, Site site) {
    const uint64_t offset = check_global_copy("bulk_copy", shared, global, bytes, site);
    start_here("bulk_copy", offset, global, bytes, barrier, site);
}

void bulk_copy_multicast(void* shared, const void* global, unsigned bytes, void* barrier, unsigned ctas, Site site) {
    const char* const what = "bulk_copy_multicast";
    if (!ctas || ctas >> state.launch->cluster)
        fail(
            "%s must get a mask of CTAs of the cluster, which has %u, but kernel %s, block %u, thread %u, at %s passes "
            "%#x; set bit r for each rank r that is to get the bytes",
            what, state.launch->cluster, state.launch->symbol, blockIdx.x, threadIdx.x, text(site), ctas);
    const uint64_t offset = check_global_copy(what, shared, global, bytes, site);
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank)
        if (ctas >> rank & 1 && rank == state.cta->rank)
            start_here(what, offset, global, bytes, barrier, site);
        else if (ctas >> rank & 1)
            start_away(what, find_receiver(rank, what, site), offset, global, bytes, barrier, site);
}

void bulk_copy_to_cta(const void* p, unsigned bytes, unsigned rank, const void* barrier, Site site) {
    const char* const what = "bulk_copy_to_cta";
    Cta& owner = find_receiver(rank, what, site);
    check_bytes(bytes, what, site);
    const uint64_t offset = check_shared_span(p, bytes, 16, false, what, threadIdx.x, site);
    note_sent(offset, bytes, {what, static_cast<uint16_t>(threadIdx.x), current_warp().stamp, site, intern(site)});
    Deferred& copy = start_away(what, owner, offset, p, bytes, barrier, site);
    copy.from->sent[copy.number].bytes = bytes;
    copy.known = snapshot_clock();
}

// Copies that nobody waited for are dropped; of bulk copies, end_cta_barriers has complained.
void end_cta_copies() {
    for (unsigned t = 0; t < state.launch->threads; ++t) {
        Thread& thread = state.cta->threads[t];
        for (uint32_t i = thread.first; i < thread.last; ++i)
            for (unsigned j = 0; j < thread.copies[i].bytes / 4; ++j) words_at(thread.copies[i].shared)[j].in_flight = 0;
        thread.first = thread.last = 0;
    }
    for (uint32_t i = deferred_count; i--;)
        if (deferred[i].cta == state.cta) deferred[i] = deferred[--deferred_count];
    for (uint32_t i = 0; i < state.cta->sent_count; ++i) {
        const Sent& copy = state.cta->sent[i];
        Word* word = state.cta->shadow.words + copy.offset / 4;
        for (Word* end = word + copy.bytes / 4; word < end; ++word) word->held &= ~kSent;
    }
    state.cta->sent_count = 0;
}

void free_cta_copies() {
    for (unsigned t = 0; state.cta->threads && t < state.launch->threads; ++t) free(state.cta->threads[t].copies);
    free(state.cta->sent);
}

void free_copies() {
    for (uint32_t i = 0; i < deferred_count; ++i) free(deferred[i].known);
    free(deferred);
    deferred = nullptr;
    deferred_count = deferred_capacity = 0;
}

}  // namespace emulator
