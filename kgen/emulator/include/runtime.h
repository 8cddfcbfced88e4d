// The emulator's state while one kernel runs; internal to its own sources.
//
// One library runs one launch at a time, on one host thread; its state is one global.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "builtins.h"
#include "fibre.h"

namespace emulator {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / 32;
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
    uint32_t grid, threads;
    uint64_t shared_bytes;
    int32_t batch;
    int32_t late;  // asynchronous copies land at their wait; else at a random moment before it
    uint64_t seed;
    double time_limit_s;
};

// Who last touched a 4-byte word of shared memory, and when. A stamp is the warp's synchronisation count.
// A reader or writer is a thread's index, or several_lanes(warp), or kSeveralWarps.
struct Word {
    uint32_t write_stamp, read_stamp;
    uint16_t writer, reader;
    uint16_t write_site, read_site;
    uint16_t in_flight;  // 1 + the thread whose asynchronous copy is unfinished, else 0
};
constexpr uint16_t kSeveralLanes = 0x8000, kSeveralWarps = 0xffff;

struct AsyncCopy {
    unsigned char* shared;
    const unsigned char* global;  // null: writes zeros
    uint32_t group;
    bool landed;
};

struct Thread {
    Fibre fibre;
    AsyncCopy* copies;  // the unfinished ones are [first, last), oldest first
    uint32_t first, last, capacity;
    uint32_t open_group;  // groups before this one are committed
};

enum class Kind : uint8_t { barrier, warp_barrier, exchange, ldmatrix, mma, exit };
enum class Progress : uint8_t { runnable, at_barrier, exited };

struct Warp {
    Progress progress;
    Kind kind;  // of the collective that the arrived lanes wait in
    Site site;
    uint32_t arrived;
    uint32_t first_lane;  // to arrive
    uint32_t resume_lane;
    uint32_t step;    // odd; lane l is followed by lane (l + step) % 32
    uint32_t budget;  // collectives before another warp gets its turn
    uint32_t stamp;   // of the latest collective
    uint32_t fence;   // of the latest __syncwarp or __syncthreads
    void* arguments[32];
};

struct State {
    const Launch* launch;
    Fibre scheduler;
    Thread* threads;
    Warp warps[kMaxWarps];
    unsigned char* shared;
    Word* words;
    uint32_t stamp, epoch;  // newest stamp; stamp of the last __syncthreads
    uint64_t random;
    bool failed;
    char* message;
    size_t message_bytes;
};
extern State state;

inline Thread& current_thread() { return state.threads[threadIdx.x]; }
inline Warp& current_warp() { return state.warps[threadIdx.x / 32]; }

inline uint32_t next_random() {  // splitmix64
    uint64_t z = state.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 16);
}

// A position as text, "kernel.cu:12"; good until the fourth next call.
const char* text(Site site);

// Records the message (printf rules) and abandons the launch; only a fibre may call it.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits for the warp's other lanes. True in the last lane to arrive: it does the work of all, then calls release().
bool gather(Kind kind, void* argument, Site site);
void release();

// Shared-memory reads of a warp-wide instruction, on behalf of one lane's address.
void check_row(const void* row, unsigned lane, Site site);

bool allocate_memory();
void free_memory();
void begin_cta_memory();
void end_cta_memory();

}  // namespace emulator
