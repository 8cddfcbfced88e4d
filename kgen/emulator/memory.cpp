// Checked memory: bounds, alignment, races on shared memory, and asynchronous copies.
//
// The race rule: two threads that touch a word of shared memory, at least one of them writing, must be separated by
// __syncthreads if they are of different warps, by it or __syncwarp within a warp; ldmatrix, mma and shuffles order
// nothing, as compute-sanitizer's racecheck sees it too. An asynchronous copy holds its 16 bytes from its issue until
// the issuing thread's wait, and counts as that thread's write at the moment of the wait.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

constexpr unsigned kSites = 4096;
Site sites[kSites];

const char* const kAcross = "race on shared memory: accesses by different warps must be separated by __syncthreads";
const char* const kWithin = "race on shared memory: accesses by different lanes must be separated by __syncwarp";

// A small number for a site, so that a word of shared memory can remember it.
uint16_t intern(Site site) {
    unsigned slot = (static_cast<unsigned>(site.line) * 31 + (reinterpret_cast<uintptr_t>(site.file) >> 3)) % kSites;
    for (unsigned probes = 0; probes < 8; ++probes, slot = (slot + 1) % kSites) {
        if (!sites[slot].file) sites[slot] = site;
        if (sites[slot].file == site.file && sites[slot].line == site.line) break;
    }
    return static_cast<uint16_t>(slot);
}

// "byte 32 of x, which has 16 bytes" for the buffer or shared memory nearest to the address.
const char* place(const void* p, char (&out)[160]) {
    const auto address = reinterpret_cast<uintptr_t>(p);
    const char* nearest = "shared memory";
    auto base = reinterpret_cast<uintptr_t>(state.shared);
    uint64_t bytes = state.launch->shared_bytes, best = ~uint64_t{0};
    auto consider = [&](const char* name, uintptr_t start, uint64_t size) {
        uint64_t distance = address < start ? start - address : address >= start + size ? address - start - size : 0;
        if (distance >= best) return;
        best = distance, nearest = name, base = start, bytes = size;
    };
    consider(nearest, base, bytes);
    for (const Buffer& buffer : state.launch->buffers)
        if (buffer.base) consider(buffer.name, reinterpret_cast<uintptr_t>(buffer.base), buffer.bytes);
    if (address < 65536)
        snprintf(out, sizeof(out), "a null pointer plus %llu", static_cast<unsigned long long>(address));
    else
        snprintf(out, sizeof(out), "byte %lld of %s, which has %llu bytes", static_cast<long long>(address - base),
                 nearest, static_cast<unsigned long long>(bytes));
    return out;
}

[[noreturn]] void fail_access(const char* what, const char* rule, const void* p, unsigned bytes, bool write,
                              const char* advice, unsigned thread, Site site) {
    char where[160];
    fail("%s must %s, but kernel %s, block %u, thread %u, at %s %s %u bytes at %s; %s", what, rule,
         state.launch->symbol, blockIdx.x, thread, text(site), write ? "writes" : "reads", bytes, place(p, where),
         advice);
}

void check_alignment(const void* p, unsigned bytes, bool write, const char* what, unsigned thread, Site site) {
    if (reinterpret_cast<uintptr_t>(p) % bytes == 0) return;
    char rule[64];
    snprintf(rule, sizeof(rule), "use an address that is a multiple of %u", bytes);
    fail_access(what, rule, p, bytes, write, "align the offset", thread, site);
}

const char* actor_text(uint16_t actor, char (&out)[64]) {
    if (actor == kSeveralWarps)
        snprintf(out, sizeof(out), "threads of several warps");
    else if (actor & kSeveralLanes)
        snprintf(out, sizeof(out), "warp %u", actor & 31u);
    else
        snprintf(out, sizeof(out), "thread %u", actor);
    return out;
}

struct Access {
    const char* what;
    const void* address;
    uint16_t actor;
    uint32_t stamp, fence;  // the warp's, now
    Site site;
};

[[noreturn]] void fail_race(const Access& access, bool write, uint16_t other, bool other_wrote, uint16_t other_site) {
    char who[64], where[160];
    const unsigned warp = threadIdx.x / 32;
    const bool within = other != kSeveralWarps && (other & kSeveralLanes ? other & 31u : other / 32u) == warp;
    fail("%s, but in kernel %s, block %u, thread %u, %s at %s %s %s after %s %s it at %s; put a %s between the two",
         within ? kWithin : kAcross, state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site),
         write ? "writes" : "reads", place(access.address, where), actor_text(other, who),
         other_wrote ? "wrote" : "read", text(sites[other_site]), within ? "__syncwarp" : "__syncthreads");
}

[[noreturn]] void fail_in_flight(const Access& access, bool write, const Word& word) {
    char where[160];
    fail(
        "shared memory must not be touched while an asynchronous copy to it is in flight, but in kernel %s, block %u, "
        "thread %u, %s at %s %s %s, which thread %u copies to at %s and has not waited for; call cp_async_wait (and "
        "__syncthreads) first, or deepen the ring",
        state.launch->symbol, blockIdx.x, threadIdx.x, access.what, text(access.site), write ? "writes" : "reads",
        place(access.address, where), word.in_flight - 1u, text(sites[word.write_site]));
}

// Whether an earlier access of this barrier interval is unordered with one now; `since` is when the latest thing
// happened that would order it within the warp.
bool unordered(uint16_t other, uint32_t other_stamp, uint32_t since, const Access& access) {
    if (other_stamp < state.epoch || other == access.actor) return false;
    if (other == kSeveralWarps) return true;
    const unsigned other_warp = other & kSeveralLanes ? other & 31u : other / 32u;
    return other_warp != threadIdx.x / 32 || other_stamp >= since;
}

void note_write(Word& word, const Access& access, uint16_t site) {
    if (word.in_flight) fail_in_flight(access, true, word);
    if (unordered(word.writer, word.write_stamp, access.fence, access))
        fail_race(access, true, word.writer, true, word.write_site);
    if (unordered(word.reader, word.read_stamp, access.fence, access))
        fail_race(access, true, word.reader, false, word.read_site);
    word.write_stamp = access.stamp;
    word.writer = access.actor;
    word.write_site = site;
}

void note_read(Word& word, const Access& access, uint16_t site) {
    if (word.in_flight) fail_in_flight(access, false, word);
    if (unordered(word.writer, word.write_stamp, access.fence, access))
        fail_race(access, false, word.writer, true, word.write_site);
    if (word.read_stamp < state.epoch || word.reader == access.actor) {
        word.reader = access.actor;
    } else if (word.reader != kSeveralWarps) {
        const uint16_t lanes = static_cast<uint16_t>(kSeveralLanes | threadIdx.x / 32);
        const unsigned reader_warp = word.reader & kSeveralLanes ? word.reader & 31u : word.reader / 32u;
        if (reader_warp != threadIdx.x / 32)
            word.reader = kSeveralWarps;
        else
            word.reader = word.read_stamp >= access.fence ? lanes : access.actor;
    }
    word.read_stamp = access.stamp;
    word.read_site = site;
}

void touch_shared(const void* p, unsigned bytes, bool write, const char* what, uint16_t actor, unsigned thread,
                  Site site) {
    check_alignment(p, bytes, write, what, thread, site);
    const uint64_t offset = static_cast<uint64_t>(static_cast<const unsigned char*>(p) - state.shared);
    if (offset >= state.launch->shared_bytes || state.launch->shared_bytes - offset < bytes)
        fail_access(what, "stay inside the CTA's shared memory", p, bytes, write, "check the index and shared_bytes",
                    thread, site);
    const Access access = {what, p, actor, current_warp().stamp, current_warp().fence, site};
    const uint16_t site_number = intern(site);
    Word* word = state.words + offset / 4;
    for (unsigned i = 0; i < bytes; i += 4, ++word) {
        if (write)
            note_write(*word, access, site_number);
        else
            note_read(*word, access, site_number);
    }
}

void land(AsyncCopy& copy) {
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

AsyncCopy& append_copy(Thread& thread) {
    if (thread.first == thread.last) thread.first = thread.last = 0;
    if (thread.last == thread.capacity) {
        thread.capacity = thread.capacity ? 2 * thread.capacity : 64;
        void* grown = realloc(thread.copies, thread.capacity * sizeof(AsyncCopy));
        if (!grown) abort();
        thread.copies = static_cast<AsyncCopy*>(grown);
    }
    return thread.copies[thread.last++];
}

}  // namespace

unsigned char* shared_memory() { return state.shared; }

void check_global(const void* p, unsigned bytes, bool write, const char* what, Site site) {
    check_alignment(p, bytes, write, what, threadIdx.x, site);
    const auto* address = static_cast<const unsigned char*>(p);
    for (const Buffer& buffer : state.launch->buffers) {
        const uint64_t offset = static_cast<uint64_t>(address - buffer.base);
        if (!buffer.base || offset >= buffer.bytes || buffer.bytes - offset < bytes) continue;
        if (write && !buffer.writable)
            fail_access(what, "not write to an input", p, bytes, write, "store to y or hidden", threadIdx.x, site);
        return;
    }
    fail_access(what, "stay inside one of the kernel's arrays", p, bytes, write, "check the index and its mask",
                threadIdx.x, site);
}

void check_shared(const void* p, unsigned bytes, bool write, const char* what, Site site) {
    touch_shared(p, bytes, write, what, static_cast<uint16_t>(threadIdx.x), threadIdx.x, site);
}

void check_row(const void* row, unsigned lane, Site site) {
    const unsigned warp = threadIdx.x / 32;
    touch_shared(row, 16, false, "ldmatrix_x4", static_cast<uint16_t>(kSeveralLanes | warp), warp * 32 + lane, site);
}

void copy_async(void* shared, const void* global, bool valid, Site site) {
    if (valid) check_global(global, 16, false, "cp_async_16", site);
    check_shared(shared, 16, true, "cp_async_16", site);
    Word* word = state.words + (static_cast<unsigned char*>(shared) - state.shared) / 4;
    for (unsigned i = 0; i < 4; ++i) word[i].in_flight = static_cast<uint16_t>(threadIdx.x + 1);
    memset(shared, kPoison, 16);
    Thread& thread = current_thread();
    append_copy(thread) = {static_cast<unsigned char*>(shared),
                           valid ? static_cast<const unsigned char*>(global) : nullptr, thread.open_group, false};
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
        if (!copy.landed) land(copy);
        Word* word = state.words + (copy.shared - state.shared) / 4;
        for (unsigned i = 0; i < 4; ++i) {
            word[i].in_flight = 0;
            word[i].writer = static_cast<uint16_t>(threadIdx.x);
            word[i].write_stamp = current_warp().stamp;
        }
    }
}

bool allocate_memory() {
    const uint64_t bytes = (state.launch->shared_bytes + 1024) / 1024 * 1024;
    void* region = nullptr;
    state.shared = posix_memalign(&region, 1024, bytes) ? nullptr : static_cast<unsigned char*>(region);
    state.words = static_cast<Word*>(calloc(bytes / 4, sizeof(Word)));
    state.threads = static_cast<Thread*>(calloc(state.launch->threads, sizeof(Thread)));
    state.stamp = state.epoch = 0;
    return state.shared && state.words && state.threads;
}

void free_memory() {
    for (unsigned t = 0; state.threads && t < state.launch->threads; ++t) free(state.threads[t].copies);
    free(state.threads);
    free(state.words);
    free(state.shared);
}

void begin_cta_memory() {
    memset(state.shared, kPoison, state.launch->shared_bytes);
    state.epoch = ++state.stamp;
}

// Copies that nobody waited for are dropped.
void end_cta_memory() {
    for (unsigned t = 0; t < state.launch->threads; ++t) {
        Thread& thread = state.threads[t];
        for (uint32_t i = thread.first; i < thread.last; ++i) {
            Word* word = state.words + (thread.copies[i].shared - state.shared) / 4;
            for (unsigned j = 0; j < 4; ++j) word[j].in_flight = 0;
        }
        thread.first = thread.last = 0;
    }
}

}  // namespace emulator
