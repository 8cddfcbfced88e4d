// Who touched which word of shared memory when, and what every warp knows of the others' doings; internal.
//
// Time is a counter of stamps. A clock says up to which stamp each actor's accesses come before its owner's next one:
// a warp's clock grows by __syncwarp, __syncthreads, named barriers and mbarrier_wait; an arrival leaves the arriving
// thread's clock in the barrier, for those who wait for the phase to take over. Two accesses to a word, at least one a
// write, race unless the earlier one's stamp is below the clock of the later one's warp.
//
// What a CTA knows of the others of its cluster it knows from their arrivals at its barriers and from their copies of
// their shared memory to its own: each carries what its thread knew and had done, for those who wait for it. Copies of
// global memory carry nothing, whoever starts them. The cluster's barrier, which is relaxed, orders no accesses; it
// only tells that CTAs have got so far, and which copies are complete.
#pragma once

#include <stdint.h>

namespace emulator {

struct Cta;

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / 32;
constexpr unsigned kMaxBarriers = 128;
constexpr unsigned kNamedBarriers = 16;  // number 0 is that of __syncthreads
constexpr unsigned kMaxCluster = 16;

// Actors: threads; the wgmma unit of each warp; then, for each barrier, its bulk copies and its phases, whose "stamp"
// is the number known to be complete. As writers of words in flight only, threads of the cluster's other CTAs, too:
// kAway + rank * kMaxThreads + thread.
constexpr uint16_t kUnits = kMaxThreads;
constexpr uint16_t kBarriers = kUnits + kMaxWarps;
constexpr unsigned kActors = kBarriers + 2 * kMaxBarriers;
constexpr uint16_t kAway = 0x4000;
constexpr uint16_t kSeveralLanes = 0x8000, kSeveralWarps = 0xffff;  // readers only: several_lanes | warp
inline uint16_t bulk_actor(unsigned barrier) { return static_cast<uint16_t>(kBarriers + 2 * barrier); }
inline uint16_t phase_actor(unsigned barrier) { return static_cast<uint16_t>(kBarriers + 2 * barrier + 1); }

// What is known of a CTA of the cluster: its actors as in a clock, and up to which stamp the copies to it from other
// CTAs are known to be complete, by the barrier that counts them. The latter alone shows nobody what was copied.
struct Known {
    uint32_t until[kActors];
    uint32_t done[kMaxBarriers];
};

struct Clock {
    uint32_t until[kActors];
    uint32_t all[kMaxWarps];        // the least of a warp's lanes
    uint32_t proxied[kMaxThreads];  // up to which stamp a thread's writes are ordered for wgmma and copies, too
    uint32_t phases;                // of the cluster barrier, known to be complete
    Known* cluster;                 // by rank; of the clock's own CTA only `done` counts; null without a cluster
};

// A word's `in_flight`: 1 + the thread whose asynchronous copy is unfinished; plus kBulk for a bulk copy; kBarrier +
// its number for an mbarrier; else 0.
constexpr uint16_t kBulk = 0x4000, kBarrier = 0x8000;
// A word's `held`: how many wgmma under way have read it; plus kSent if a copy to another CTA may still read it.
constexpr uint16_t kSent = 0x8000;

struct Word {
    uint32_t write_stamp, read_stamp;
    uint16_t writer, reader;
    uint16_t write_site, read_site;
    uint16_t in_flight;
    uint16_t held;
};

// The latest read of a word by one warp.
struct Reader {
    uint32_t stamp;
    uint16_t actor, site;
};

struct Shadow {
    Word* words;
    Reader* readers;                      // a row of one per warp for each word with reader kSeveralWarps
    Clock* clocks;                        // of each warp
    Known* known;                         // what these and the barriers' clocks know of the cluster
    uint32_t begin;                       // stamp at which the CTA began
    uint32_t proxied[kMaxThreads];        // stamp of each thread's last fence_proxy_async
    uint32_t epoch_proxied[kMaxThreads];  // the same at the last __syncthreads
};

struct Access {
    const char* what;
    uint16_t actor;
    uint32_t stamp;
    Site site;
    uint16_t site_number;
};

// Check an access by the current warp against the earlier ones, and remember it.
void note_write(uint64_t offset, unsigned bytes, const Access& access);
void note_read(uint64_t offset, unsigned bytes, const Access& access);
// A copy to another CTA of the cluster, by the thread that starts it: the reads here, and the writes there.
void note_sent(uint64_t offset, unsigned bytes, const Access& access);
void note_write_away(Cta& owner, uint64_t offset, unsigned bytes, const Access& access);
// A wgmma's read, when it begins and when the warp has waited for it.
void note_multiply(uint64_t offset, unsigned bytes, bool begins, Site site);

bool allocate_shadow();
void free_shadow();
void begin_cta_clocks();
void begin_barrier_clocks(unsigned barrier);
void synchronise_cta();   // __syncthreads
void synchronise_warp();  // __syncwarp
// By threads [first, end) of the current warp; ends what they did so far.
void release_clock(Clock& to, unsigned first, unsigned end);
void acquire_clock(Clock& mine, const Clock& from);
void copy_clock(Clock& to, const Clock& from);
// What the current thread knows of the cluster and has done so far, to be freed; and what a barrier of the current CTA,
// once it has been told.
Known* snapshot_clock();
void receive_clock(Clock& to, const Known* from);
// By the current thread, to a barrier of another CTA.
void release_clock_away(Cta& owner, Clock& to);

}  // namespace emulator
