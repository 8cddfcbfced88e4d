// The emulator's state while one kernel runs; internal to its own sources.
//
// One library runs one launch at a time, on one host thread; its state is one global.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "builtins.h"
#include "fibre.h"
#include "races.h"

namespace emulator {

constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point format

// A global array that a kernel may touch; x, weights, hidden, y in this order. A null base: not passed.
struct Buffer {
    const char* name;
    unsigned char* base;
    uint64_t bytes;
    int32_t writable;
};

// Mirrored by the ctypes structure in library.py.
struct Launch {
    const char* symbol;
    void* kernel;
    Buffer buffers[4];
    uint32_t grid, threads, cluster;
    uint64_t shared_bytes;
    int32_t batch;
    int32_t late;  // asynchronous work takes effect at its wait; else at a random moment before it
    uint64_t seed;
    double time_limit_s;
};

struct AsyncCopy {
    unsigned char* shared;
    const unsigned char* global;  // null: writes zeros
    uint32_t bytes;
    uint32_t group;
    bool landed;
};

struct Thread {
    Fibre fibre;
    AsyncCopy* copies;  // the unfinished ones are [first, last), oldest first
    uint32_t first, last, capacity;
    uint32_t open_group;  // groups before this one are committed
};

enum class Kind : uint8_t {
    barrier,
    named_barrier,
    warp_barrier,
    exchange,
    ldmatrix,
    stmatrix,
    mma,
    exit,
    mbarrier_wait,
    wgmma,
    wgmma_fence,
    wgmma_commit,
    wgmma_wait,
    registers,
    cluster_arrive,
    cluster_wait
};
enum class Progress : uint8_t { runnable, at_barrier, at_named_barrier, at_mbarrier, at_cluster, exited };

struct Warp {
    Progress progress;
    Kind kind;  // of the collective that the arrived lanes wait in
    Site site;
    uint32_t arrived;
    uint32_t first_lane;  // to arrive
    uint32_t resume_lane;
    uint32_t step;     // odd; lane l is followed by lane (l + step) % 32
    uint32_t budget;   // collectives before another warp gets its turn
    uint32_t stamp;    // of the latest collective or release
    unsigned barrier;  // the mbarrier, or the number of the named barrier, that the warp waits for
    uint32_t cluster_arrivals, cluster_waits;
    void* arguments[32];
};

// Arrivals at a barrier from other CTAs: the latest, its phase, and that of the cluster's barrier which tells of all.
struct Visit {
    const Cta* from;  // null before any
    uint16_t thread;
    Site site;
    uint32_t phase, told;
};

// A warp's latest wait for a phase of one parity.
struct Look {
    uint32_t stamp;   // 0 before any
    uint32_t phases;  // complete once it is over
    Site site;
};

struct Mbarrier {
    uint32_t offset;  // in shared memory
    uint32_t arrivals, arrived;
    uint32_t phase;   // how many are complete
    int64_t missing;  // bytes that the phase still expects
    uint64_t issued;  // bytes of bulk copies under way
    uint16_t initialiser;
    Site site;             // of the initialisation
    uint32_t fence_stamp;  // of the initialiser's fence, 0 before it
    uint32_t shown;        // the phase of the cluster barrier that shows it to other CTAs, counted from 1, 0 if none
    Visit visit;
    Look looks[kMaxWarps][2];  // by parity
    Clock current, complete;  // what has been released to the current phase, and to the last complete one
};

struct NamedBarrier {
    unsigned threads, arrived;  // of the current round
    Site site;                  // of its first arrival
};

// A copy to another CTA, of rank `to`.
struct Sent {
    uint32_t offset, bytes;  // that it reads of the shared memory here; 0 bytes if it reads global memory
    uint32_t stamp;          // when it landed, 0 before
    uint16_t thread, to, barrier;
    Site site;
};

// A CTA of the cluster that runs.
struct Cta {
    unsigned block, rank;
    Thread* threads;
    Warp warps[kMaxWarps];
    unsigned char* shared;
    Shadow shadow;
    Mbarrier* barriers;
    unsigned barrier_count;
    NamedBarrier named_barriers[kNamedBarriers];
    uint32_t epoch;  // stamp of the last __syncthreads
    Sent* sent;      // its copies to other CTAs
    uint32_t sent_count, sent_capacity;
};

// The barrier of all threads of the cluster.
struct ClusterBarrier {
    uint32_t phase;    // how many are complete
    uint32_t arrived;  // warps
    // Known::done of each CTA: as told by arrivals at the current phase, and at the last complete one.
    uint32_t current[kMaxCluster][kMaxBarriers], complete[kMaxCluster][kMaxBarriers];
};

struct State {
    const Launch* launch;
    Fibre scheduler;
    Cta* ctas;  // by rank
    Cta* cta;   // the current thread's
    ClusterBarrier cluster;
    uint32_t stamp;  // newest
    uint64_t random;
    bool scheduling;  // no fibre runs
    bool failed;
    char* message;
    size_t message_bytes;
};
extern State state;

inline unsigned warps_per_cta() { return state.launch->threads / 32; }
inline Thread& current_thread() { return state.cta->threads[threadIdx.x]; }
inline Warp& current_warp() { return state.cta->warps[threadIdx.x / 32]; }
inline Clock& current_clock() { return state.cta->shadow.clocks[threadIdx.x / 32]; }
inline void enter(Cta& cta) {
    state.cta = &cta;
    blockIdx.x = cta.block;
}

// Separates what the current thread did so far from what it does next.
inline uint32_t tick() { return current_warp().stamp = ++state.stamp; }

inline uint32_t next_random() {  // splitmix64
    uint64_t z = state.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 16);
}

// A position as text, "kernel.cu:12"; good until the fourth next call.
const char* text(Site site);

// A small number for a site, so that a word of shared memory can remember it, and back.
uint16_t intern(Site site);
Site site_of(uint16_t number);

// "byte 32 of x, which has 16 bytes" for the buffer or shared memory nearest to the address.
const char* place(const void* p, char (&out)[160]);
// " of block 3", if that is not the current one.
const char* of_block(const Cta& cta, char (&out)[32]);

// Records the message (printf rules) and abandons the launch; only a fibre may call it.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same where the scheduler may be the caller: there it returns.
void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits for the warp's other lanes. True in the last lane to arrive: it does the work of all, then calls release().
bool gather(Kind kind, void* argument, Site site);
void release();
void to_scheduler(Warp& warp);

// Shared-memory reads of a warp-wide instruction, on behalf of one lane's address.
void check_row(const void* row, unsigned lane, bool write, Site site);
// Bounds and alignment alone.
uint64_t check_shared_span(const void* p, unsigned bytes, unsigned alignment, bool write, const char* what,
                           unsigned thread, Site site);
void check_global_span(const void* p, unsigned bytes, unsigned alignment, bool write, const char* what, Site site);

bool allocate_memory();
void free_memory();
void begin_cta_memory();
void end_cta_memory();

void begin_cluster();
// Whether this clock of the current CTA knows that a copy is complete.
bool knows_done(const Clock& clock, const Sent& copy);
// The CTA of a rank, another than the current thread's, that this may copy to or arrive in.
Cta& find_receiver(unsigned rank, const char* what, Site site);
// That all copies from and to the current CTA and all arrivals in it are known to be complete, when its last warp ends.
void check_cta_may_end();

// Asynchronous work that a barrier counts: finishes some of it at random, or one piece that a warp waits for.
void land_at_random();
bool land_needed();
void end_cta_copies();
void free_cta_copies();
void free_copies();

// Bytes copied for the barrier's current phase, by a thread of CTA `from`; ends it when nothing is missing.
void count_bytes(unsigned barrier, unsigned bytes, const Cta& from, unsigned thread, Site site);
unsigned find_barrier(const void* p, const char* what, Site site);
// The barrier at the same place in another CTA.
unsigned find_barrier_away(const Cta& owner, const void* p, const char* what, Site site);
void end_cta_barriers();

void record_deadlock();

void begin_cta_wgmma();
void land_wgmma_at_random();
void check_wgmma_done();
void end_cta_wgmma();
void free_wgmma();

}  // namespace emulator
