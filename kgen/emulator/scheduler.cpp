// Runs a launch: CTAs one after another, the threads of a CTA as fibres, warps in a seeded random order.
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

#if !defined(KGEN_EMULATOR_UCONTEXT)
#if defined(__APPLE__)
#define SYMBOL "_kgen_emulator_switch"
#define HIDDEN ".private_extern " SYMBOL "\n"
#else
#define SYMBOL "kgen_emulator_switch"
#define HIDDEN ".hidden " SYMBOL "\n"
#endif
#if defined(__x86_64__)
asm(".text\n.globl " SYMBOL "\n" HIDDEN SYMBOL
    ":\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
    "ret\n");
#elif defined(__aarch64__)
asm(".text\n.globl " SYMBOL "\n" HIDDEN ".p2align 2\n" SYMBOL
    ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp, #0]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n"
    "ret\n");
#endif
#endif

namespace emulator {

State state;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 64 << 10;  // at least one page everywhere
constexpr size_t kStaggerBytes = 1088;    // keeps the lanes' frames out of each other's cache sets

unsigned char* stacks;

const char* const kKindNames[] = {
    "__syncthreads", "__syncwarp", "a shuffle",   "ldmatrix_x4",  "mma_m16n8k16", "the end of the kernel",
    "mbarrier_wait", "wgmma",      "wgmma_fence", "wgmma_commit", "wgmma_wait",   "lower_registers or raise_registers"};
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

bool allocate_stacks() {
    void* region = mmap(nullptr, state.launch->threads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    stacks = region == MAP_FAILED ? nullptr : static_cast<unsigned char*>(region);
    for (unsigned t = 0; stacks && t < state.launch->threads; ++t)
        mprotect(stacks + t * kStackBytes, kGuardBytes, PROT_NONE);
    return stacks;
}

void free_stacks() {
    if (stacks) munmap(stacks, state.launch->threads * kStackBytes);
}

void resume(Fibre& from, unsigned thread) {
    threadIdx.x = thread;
    from.switch_to(state.threads[thread].fibre);
}

void fibre_main() {
    const Launch& launch = *state.launch;
    using Kernel = void (*)(const void*, const void*, void*, void*, int);
    reinterpret_cast<Kernel>(launch.kernel)(launch.buffers[0].base, launch.buffers[1].base, launch.buffers[2].base,
                                            launch.buffers[3].base, launch.batch);
    if (gather(Kind::exit, nullptr, {nullptr, 0})) {
        check_wgmma_done();
        current_warp().progress = Progress::exited;
        to_scheduler(current_warp());
    }
    abort();  // an exited warp is never resumed
}

void begin_cta(unsigned block) {
    blockIdx = {block, 0, 0};
    begin_cta_memory();
    for (unsigned t = 0; t < state.launch->threads; ++t) {
        unsigned char* bottom = stacks + t * kStackBytes;
        unsigned char* top = bottom + kStackBytes - t % 32 * kStaggerBytes;
        state.threads[t].fibre.start(bottom + kGuardBytes, top, fibre_main);
    }
    for (unsigned w = 0; w < state.launch->threads / 32; ++w) {
        state.warps[w] = Warp{};
        state.warps[w].stamp = state.epoch;
        state.warps[w].resume_lane = next_random() % 32;
    }
}

// The next warp to run: a random runnable one. When there is none, opens the barrier if all wait there, else finishes
// asynchronous work that a warp waits for. Null: finished or failed.
Warp* next_warp() {
    const unsigned count = state.launch->threads / 32;
    land_at_random();
    while (!state.failed) {
        unsigned runnable[kMaxWarps], runnables = 0, waiting = 0, exited = 0;
        for (unsigned w = 0; w < count; ++w) {
            if (state.warps[w].progress == Progress::runnable) runnable[runnables++] = w;
            waiting += state.warps[w].progress == Progress::at_barrier;
            exited += state.warps[w].progress == Progress::exited;
        }
        if (runnables) return &state.warps[runnable[next_random() % runnables]];
        if (exited == count) return nullptr;
        if (waiting < count) {
            if (!land_needed()) record_deadlock();
            continue;
        }
        synchronise_cta();
        for (unsigned w = 0; w < count; ++w) {
            state.warps[w].progress = Progress::runnable;
            state.warps[w].stamp = state.epoch;
        }
    }
    return nullptr;
}

void run_cta(unsigned block, double deadline_s) {
    begin_cta(block);
    for (unsigned turns = 1; Warp* warp = next_warp(); ++turns) {
        warp->step = next_random() | 1;
        warp->budget = 1u << next_random() % 12;
        state.scheduling = false;
        resume(state.scheduler, static_cast<unsigned>(warp - state.warps) * 32 + warp->resume_lane);
        state.scheduling = true;
        if (state.failed) return;
        if (turns % 256 == 0 && now_s() > deadline_s) {
            record(
                "an emulated launch must end within its time limit, but kernel %s is still in block %u of %u after "
                "%g s; look for a loop that never ends, or raise time_limit_s",
                state.launch->symbol, block, state.launch->grid, state.launch->time_limit_s);
            return;
        }
    }
    if (!state.failed) end_cta_memory();
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
    gridDim = {launch->grid, 1, 1};
    // Both run even if the first fails, since both are freed.
    if (allocate_stacks() & allocate_memory()) {
        const double deadline_s = now_s() + launch->time_limit_s;
        // CTAs may run in any order: from a random one on, forwards or backwards.
        const unsigned grid = launch->grid, start = next_random() % grid, step = next_random() % 2 ? 1 : grid - 1;
        for (unsigned i = 0, block = start; i < grid && !state.failed; ++i, block = (block + step) % grid)
            run_cta(block, deadline_s);
    } else {
        record(
            "the emulator must hold %u threads and %llu bytes of shared memory, but the host has no memory left; "
            "launch fewer threads",
            launch->threads, static_cast<unsigned long long>(launch->shared_bytes));
    }
    free_memory();
    free_stacks();
    const bool failed = state.failed;
    pthread_mutex_unlock(&mutex);
    return failed;
}
