// Runs a launch: clusters of CTAs one after another, their threads as fibres, warps in a seeded random order.
//
// Fibres switch only at collectives. Within a warp, each lane runs until it reaches one, then hands over to the next
// lane; the last to arrive completes the collective. Warps take turns of random length between barriers.
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "runtime.h"

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

State state;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 64 << 10;  // at least one page everywhere
constexpr size_t kStaggerBytes = 1088;    // keeps the lanes' frames out of each other's cache sets

unsigned char* stacks;

const char* const kKindNames[] = {"__syncthreads",
                                  "named_barrier_sync",
                                  "__syncwarp",
                                  "a shuffle",
                                  "ldmatrix_x4",
                                  "stmatrix_x4",
                                  "mma_m16n8k16",
                                  "the end of the kernel",
                                  "mbarrier_wait",
                                  "wgmma",
                                  "wgmma_fence",
                                  "wgmma_commit",
                                  "wgmma_wait",
                                  "lower_registers or raise_registers",
                                  "cluster_arrive",
                                  "cluster_wait"};
const char* name(Kind kind) { return kKindNames[static_cast<int>(kind)]; }

double now_s() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void record_list(const char* format, va_list arguments) {
    vsnprintf(state.message, state.message_bytes, format, arguments);
    state.failed = true;
}

void record(const char* format, ...) __attribute__((format(printf, 1, 2)));
void record(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_list(format, arguments);
    va_end(arguments);
}

size_t stack_count() { return static_cast<size_t>(state.launch->cluster) * state.launch->threads; }

bool allocate_stacks() {
    void* region = mmap(nullptr, stack_count() * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    stacks = region == MAP_FAILED ? nullptr : static_cast<unsigned char*>(region);
    for (size_t t = 0; stacks && t < stack_count(); ++t) mprotect(stacks + t * kStackBytes, kGuardBytes, PROT_NONE);
    return stacks;
}

void free_stacks() {
    if (stacks) munmap(stacks, stack_count() * kStackBytes);
}

void resume(Fibre& from, unsigned thread) {
    threadIdx.x = thread;
    from.switch_to(state.cta->threads[thread].fibre);
}

void fibre_main() {
    const Launch& launch = *state.launch;
    using Kernel = void (*)(const void*, const void*, void*, void*, int);
    reinterpret_cast<Kernel>(launch.kernel)(launch.buffers[0].base, launch.buffers[1].base, launch.buffers[2].base,
                                            launch.buffers[3].base, launch.batch);
    if (gather(Kind::exit, nullptr, {nullptr, 0})) {
        check_wgmma_done();
        current_warp().progress = Progress::exited;
        check_cta_may_end();
        to_scheduler(current_warp());
    }
    abort();  // an exited warp is never resumed
}

void begin_cta(Cta& cta, unsigned block) {
    cta.block = block;
    enter(cta);
    begin_cta_memory();
    const size_t first = static_cast<size_t>(cta.rank) * state.launch->threads;
    for (unsigned t = 0; t < state.launch->threads; ++t) {
        unsigned char* bottom = stacks + (first + t) * kStackBytes;
        unsigned char* top = bottom + kStackBytes - t % 32 * kStaggerBytes;
        cta.threads[t].fibre.start(bottom + kGuardBytes, top, fibre_main);
    }
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        cta.warps[w] = Warp{};
        cta.warps[w].stamp = cta.epoch;
        cta.warps[w].resume_lane = next_random() % 32;
    }
}

void open_barrier() {
    synchronise_cta();
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        state.cta->warps[w].progress = Progress::runnable;
        state.cta->warps[w].stamp = state.cta->epoch;
    }
}

// The next warp to run, of the CTA that is entered: a random runnable one. Opens the barrier of a CTA if all its warps
// wait there; when none can run, finishes asynchronous work that one waits for. Null: finished or failed.
Warp* next_warp() {
    const unsigned count = warps_per_cta();
    Cta* const end = state.ctas + state.launch->cluster;
    land_at_random();
    while (!state.failed) {
        static uint16_t runnable[kMaxCluster * kMaxWarps];
        unsigned runnables = 0, exited = 0;
        bool opened = false;
        for (Cta* cta = state.ctas; cta < end; ++cta) {
            const unsigned first = cta->rank * count;
            unsigned waiting = 0;
            for (unsigned w = 0; w < count; ++w) {
                if (cta->warps[w].progress == Progress::runnable) runnable[runnables++] = first + w;
                waiting += cta->warps[w].progress == Progress::at_barrier;
                exited += cta->warps[w].progress == Progress::exited;
            }
            if (waiting < count) continue;
            enter(*cta);
            open_barrier();
            opened = true;
        }
        if (opened) continue;
        if (runnables) {
            const unsigned chosen = runnable[next_random() % runnables];
            enter(state.ctas[chosen / count]);
            return &state.cta->warps[chosen % count];
        }
        if (exited == count * state.launch->cluster) return nullptr;
        if (!land_needed()) record_deadlock();
    }
    return nullptr;
}

void run_cluster(unsigned first_block, double deadline_s) {
    begin_cluster();
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank) begin_cta(state.ctas[rank], first_block + rank);
    for (unsigned turns = 1; Warp* warp = next_warp(); ++turns) {
        warp->step = next_random() | 1;
        warp->budget = 1u << next_random() % 12;
        state.scheduling = false;
        resume(state.scheduler, static_cast<unsigned>(warp - state.cta->warps) * 32 + warp->resume_lane);
        state.scheduling = true;
        if (state.failed) return;
        if (turns % 256 == 0 && now_s() > deadline_s) {
            record(
                "an emulated launch must end within its time limit, but kernel %s is still in block %u of %u after "
                "%g s; look for a loop that never ends, or raise time_limit_s",
                state.launch->symbol, blockIdx.x, state.launch->grid, state.launch->time_limit_s);
            return;
        }
    }
    for (unsigned rank = 0; rank < state.launch->cluster && !state.failed; ++rank) {
        enter(state.ctas[rank]);
        end_cta_memory();
    }
}

}  // namespace

void to_scheduler(Warp& warp) {
    warp.resume_lane = threadIdx.x % 32;
    current_thread().fibre.switch_to(state.scheduler);
}

const char* text(Site site) {
    static char buffers[4][256];
    static unsigned turn;
    char* buffer = buffers[turn++ % 4];
    if (!site.file) return "the end of the kernel";
    const char* file = strncmp(site.file, "headers/", 8) ? site.file : site.file + 8;
    snprintf(buffer, sizeof(buffers[0]), "%s:%d", file, site.line);
    return buffer;
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_list(format, arguments);
    va_end(arguments);
    current_thread().fibre.switch_to(state.scheduler);
    abort();  // a failed launch is never resumed
}

void complain(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_list(format, arguments);
    va_end(arguments);
    if (!state.scheduling) current_thread().fibre.switch_to(state.scheduler);
}

bool gather(Kind kind, void* argument, Site site) {
    Warp& warp = current_warp();
    const unsigned lane = threadIdx.x % 32;
    if (!warp.arrived) {
        warp.kind = kind;
        warp.site = site;
        warp.first_lane = lane;
    } else if (warp.kind != kind || warp.site.line != site.line) {
        fail(
            "all 32 lanes of a warp must reach the same collective together, but in kernel %s, block %u, thread %u "
            "reaches %s at %s while thread %u waits in %s at %s; make the branch between them uniform over the warp",
            state.launch->symbol, blockIdx.x, threadIdx.x, name(kind), text(site), threadIdx.x - lane + warp.first_lane,
            name(warp.kind), text(warp.site));
    }
    warp.arguments[lane] = argument;
    warp.arrived |= 1u << lane;
    if (warp.arrived == ~0u) {
        warp.arrived = 0;
        warp.stamp = ++state.stamp;
        if (kind != Kind::exit) land_wgmma_at_random();  // then the registers are gone
        return true;
    }
    resume(current_thread().fibre, threadIdx.x - lane + (lane + warp.step) % 32);
    return false;
}

void release() {
    Warp& warp = current_warp();
    warp.stamp = ++state.stamp;
    if (--warp.budget == 0) to_scheduler(warp);
}

void barrier(Site site) {
    if (!gather(Kind::barrier, nullptr, site)) return;
    current_warp().progress = Progress::at_barrier;
    to_scheduler(current_warp());
}

}  // namespace emulator

// Runs one launch. Returns 0, or 1 with a sentence in `message`.
extern "C" __attribute__((visibility("default"))) int kgen_emulator_launch(const emulator::Launch* launch,
                                                                           char* message, uint64_t message_bytes) {
    using namespace emulator;
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    state.launch = launch;
    state.random = launch->seed;
    state.failed = false;
    state.scheduling = true;
    state.message = message;
    state.message_bytes = message_bytes;
    blockDim = {launch->threads, 1, 1};
    blockIdx = {0, 0, 0};
    gridDim = {launch->grid, 1, 1};
    // Both run even if the first fails, since both are freed.
    if (allocate_stacks() & allocate_memory()) {
        const double deadline_s = now_s() + launch->time_limit_s;
        // Clusters may run in any order: from a random one on, forwards or backwards.
        const unsigned clusters = launch->grid / launch->cluster;
        const unsigned start = next_random() % clusters, step = next_random() % 2 ? 1 : clusters - 1;
        for (unsigned i = 0, next = start; i < clusters && !state.failed; ++i, next = (next + step) % clusters)
            run_cluster(next * launch->cluster, deadline_s);
    } else {
        record(
            "the emulator must hold %u CTAs of %u threads and %llu bytes of shared memory, but the host has no memory "
            "left; launch fewer threads",
            launch->cluster, launch->threads, static_cast<unsigned long long>(launch->shared_bytes));
    }
    free_memory();
    free_stacks();
    const bool failed = state.failed;
    pthread_mutex_unlock(&mutex);
    return failed;
}
