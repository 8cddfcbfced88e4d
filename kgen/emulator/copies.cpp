// Asynchronous copies to shared memory. Each holds its bytes from its issue until it is waited for, and counts as a
// write at that moment: cp.async by its thread's wait or by a barrier that arrives after it, bulk copies by a barrier.
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

// What a barrier will count, once it happens: a bulk copy, or an arrival after cp.async (then `shared` is null).
struct Deferred {
    unsigned char* shared;
    const unsigned char* global;
    uint32_t bytes;
    uint32_t arrival;
    uint16_t thread, barrier;
    Site site;
};

Deferred* deferred;
uint32_t deferred_count, deferred_capacity, arrivals;

template <class T>
T* grow(T* array, uint32_t& capacity) {
    capacity = capacity ? 2 * capacity : 64;
    void* grown = realloc(array, capacity * sizeof(T));
    if (!grown) abort();
    return static_cast<T*>(grown);
}

Word* words_at(const unsigned char* shared) { return state.shadow.words + (shared - state.shared) / 4; }

void land(AsyncCopy& copy) {
    if (copy.landed) return;
    copy.landed = true;
    if (copy.global)
        memcpy(copy.shared, copy.global, 16);
    else
        memset(copy.shared, 0, 16);
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

void finish(AsyncCopy& copy, uint16_t writer, uint32_t stamp) {
    land(copy);
    if (!copy.finished) settle(copy.shared, 16, writer, stamp);
    copy.finished = true;
}

void append(const Deferred& work) {
    if (deferred_count == deferred_capacity) deferred = grow(deferred, deferred_capacity);
    deferred[deferred_count++] = work;
}

void complete(uint32_t index) {
    const Deferred work = deferred[index];
    deferred[index] = deferred[--deferred_count];
    const uint32_t stamp = ++state.stamp;
    Clock& clock = state.barriers[work.barrier].current;
    if (work.shared) {
        memcpy(work.shared, work.global, work.bytes);
        settle(work.shared, work.bytes, bulk_actor(work.barrier), stamp);
        clock.until[bulk_actor(work.barrier)] = stamp + 1;
        count_bytes(work.barrier, work.bytes, work.thread, work.site);
        return;
    }
    Thread& thread = state.threads[work.thread];
    for (uint32_t i = thread.first; i < thread.last; ++i)
        if (thread.copies[i].arrival == work.arrival) finish(thread.copies[i], copy_actor(work.barrier), stamp);
    while (thread.first < thread.last && thread.copies[thread.first].finished) ++thread.first;
    clock.until[copy_actor(work.barrier)] = stamp + 1;
    count_arrival(work.barrier, work.thread, work.site);
}

bool is_waited_for(unsigned barrier) {
    for (unsigned w = 0; w < state.launch->threads / 32; ++w)
        if (state.warps[w].progress == Progress::at_mbarrier && state.warps[w].barrier == barrier) return true;
    return false;
}

}  // namespace

void land_at_random() {
    while (!state.launch->late && deferred_count && !state.failed && next_random() % 4 == 0)
        complete(next_random() % deferred_count);
}

bool land_needed() {
    uint32_t eligible = 0, chosen = 0;
    for (uint32_t i = 0; i < deferred_count; ++i)
        if (is_waited_for(deferred[i].barrier) && next_random() % ++eligible == 0) chosen = i;
    if (eligible) complete(chosen);
    return eligible;
}

void copy_async(void* shared, const void* global, bool valid, Site site) {
    if (valid) check_global(global, 16, false, "cp_async_16", site);
    check_shared(shared, 16, true, "cp_async_16", site);
    Word* word = words_at(static_cast<unsigned char*>(shared));
    for (unsigned i = 0; i < 4; ++i) word[i].in_flight = static_cast<uint16_t>(threadIdx.x + 1);
    memset(shared, kPoison, 16);
    Thread& thread = current_thread();
    if (thread.first == thread.last) thread.first = thread.last = 0;
    if (thread.last == thread.capacity) thread.copies = grow(thread.copies, thread.capacity);
    thread.copies[thread.last++] = {static_cast<unsigned char*>(shared),
                                    valid ? static_cast<const unsigned char*>(global) : nullptr,
                                    thread.open_group,
                                    0,
                                    0,
                                    false,
                                    false};
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
        if (copy.arrival) {
            finish(copy, copy_actor(copy.barrier), ++state.stamp);
            state.barriers[copy.barrier].current.until[copy_actor(copy.barrier)] = state.stamp + 1;
        } else {
            finish(copy, static_cast<uint16_t>(threadIdx.x), current_warp().stamp);
        }
    }
    // Copies that a barrier has taken over are known to their own thread, too.
    for (unsigned i = 0; i < state.barrier_count; ++i)
        if (thread.arrives_on[i]) current_clock().until[copy_actor(i)] = state.barriers[i].current.until[copy_actor(i)];
}

void mbarrier_arrive_after_copies(void* barrier, Site site) {
    const auto index = static_cast<uint16_t>(find_barrier(barrier, "mbarrier_arrive_after_copies", site));
    Thread& thread = current_thread();
    append({nullptr, nullptr, 0, ++arrivals, static_cast<uint16_t>(threadIdx.x), index, site});
    thread.arrives_on[index] = true;
    for (uint32_t i = thread.first; i < thread.last; ++i) {
        AsyncCopy& copy = thread.copies[i];
        if (!copy.arrival) copy.arrival = arrivals, copy.barrier = index;
    }
}

void bulk_copy(void* shared, const void* global, unsigned bytes, void* barrier, Site site) {
    const auto index = static_cast<uint16_t>(find_barrier(barrier, "bulk_copy", site));
    if (bytes % 16 || !bytes)
        fail(
            "bulk_copy must copy a positive multiple of 16 bytes, but kernel %s, block %u, thread %u, at %s copies %u; "
            "pad the tile",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), bytes);
    check_global_span(global, bytes, 16, false, "bulk_copy", site);
    const uint64_t offset = check_shared_span(shared, bytes, 16, true, "bulk_copy", threadIdx.x, site);
    const Access access = {"bulk_copy", static_cast<uint16_t>(threadIdx.x), current_warp().stamp, site, intern(site)};
    note_write(offset, bytes, access);
    Word* word = words_at(static_cast<unsigned char*>(shared));
    for (unsigned i = 0; i < bytes / 4; ++i) word[i].in_flight = static_cast<uint16_t>(kBulk | (threadIdx.x + 1));
    memset(shared, kPoison, bytes);
    state.barriers[index].issued += bytes;
    append({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), bytes, 0,
            static_cast<uint16_t>(threadIdx.x), index, site});
}

// Copies that nobody waited for are dropped; of bulk copies, end_cta_barriers has complained.
void end_cta_copies() {
    for (unsigned t = 0; t < state.launch->threads; ++t) {
        Thread& thread = state.threads[t];
        for (uint32_t i = thread.first; i < thread.last; ++i)
            for (unsigned j = 0; j < 4; ++j) words_at(thread.copies[i].shared)[j].in_flight = 0;
        thread.first = thread.last = 0;
        memset(thread.arrives_on, 0, sizeof(thread.arrives_on));
    }
    deferred_count = 0;
}

void free_copies() {
    for (unsigned t = 0; state.threads && t < state.launch->threads; ++t) free(state.threads[t].copies);
    free(deferred);
    deferred = nullptr;
    deferred_count = deferred_capacity = 0;
}

}  // namespace emulator
