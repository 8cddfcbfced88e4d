// Checked memory: bounds and alignment of every access, and the positions that messages name.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace emulator {
namespace {

constexpr unsigned kSites = 4096;
Site sites[kSites];

[[noreturn]] void fail_access(const char* what, const char* rule, const void* p, unsigned bytes, bool write,
                              const char* advice, unsigned thread, Site site) {
    char where[160];
    fail("%s must %s, but kernel %s, block %u, thread %u, at %s %s %u bytes at %s; %s", what, rule,
         state.launch->symbol, blockIdx.x, thread, text(site), write ? "writes" : "reads", bytes, place(p, where),
         advice);
}

void check_alignment(const void* p, unsigned alignment, unsigned bytes, bool write, const char* what, unsigned thread,
                     Site site) {
    if (reinterpret_cast<uintptr_t>(p) % alignment == 0) return;
    char rule[64];
    snprintf(rule, sizeof(rule), "use an address that is a multiple of %u", alignment);
    fail_access(what, rule, p, bytes, write, "align the offset", thread, site);
}

void touch_shared(const void* p, unsigned bytes, bool write, const char* what, uint16_t actor, unsigned thread,
                  Site site) {
    const uint64_t offset = check_shared_span(p, bytes, bytes, write, what, thread, site);
    const Access access = {what, actor, current_warp().stamp, site, intern(site)};
    if (write)
        note_write(offset, bytes, access);
    else
        note_read(offset, bytes, access);
}

bool allocate_cta(Cta& cta) {
    const uint64_t bytes = (state.launch->shared_bytes + 1024) / 1024 * 1024;
    void* region = nullptr;
    cta.shared = posix_memalign(&region, 1024, bytes) ? nullptr : static_cast<unsigned char*>(region);
    cta.threads = static_cast<Thread*>(calloc(state.launch->threads, sizeof(Thread)));
    cta.barriers = static_cast<Mbarrier*>(calloc(kMaxBarriers, sizeof(Mbarrier)));
    return allocate_shadow() && cta.shared && cta.threads && cta.barriers;
}

}  // namespace

uint16_t intern(Site site) {
    unsigned slot = (static_cast<unsigned>(site.line) * 31 + (reinterpret_cast<uintptr_t>(site.file) >> 3)) % kSites;
    for (unsigned probes = 0; probes < 8; ++probes, slot = (slot + 1) % kSites) {
        if (!sites[slot].file) sites[slot] = site;
        if (sites[slot].file == site.file && sites[slot].line == site.line) break;
    }
    return static_cast<uint16_t>(slot);
}

const char* place(const void* p, char (&out)[160]) {
    const auto address = reinterpret_cast<uintptr_t>(p);
    const char* nearest = "shared memory";
    auto base = reinterpret_cast<uintptr_t>(state.cta->shared);
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

const char* of_block(const Cta& cta, char (&out)[32]) {
    out[0] = 0;
    if (&cta != state.cta) snprintf(out, sizeof(out), " of block %u", cta.block);
    return out;
}

Site site_of(uint16_t number) { return sites[number]; }

unsigned char* shared_memory() { return state.cta->shared; }

uint64_t check_shared_span(const void* p, unsigned bytes, unsigned alignment, bool write, const char* what,
                           unsigned thread, Site site) {
    check_alignment(p, alignment, bytes, write, what, thread, site);
    const uint64_t offset = static_cast<uint64_t>(static_cast<const unsigned char*>(p) - state.cta->shared);
    if (offset >= state.launch->shared_bytes || state.launch->shared_bytes - offset < bytes)
        fail_access(what, "stay inside the CTA's shared memory", p, bytes, write, "check the index and shared_bytes",
                    thread, site);
    return offset;
}

void check_global_span(const void* p, unsigned bytes, unsigned alignment, bool write, const char* what, Site site) {
    check_alignment(p, alignment, bytes, write, what, threadIdx.x, site);
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

void check_global(const void* p, unsigned bytes, bool write, const char* what, Site site) {
    check_global_span(p, bytes, bytes, write, what, site);
}

void check_shared(const void* p, unsigned bytes, bool write, const char* what, Site site) {
    touch_shared(p, bytes, write, what, static_cast<uint16_t>(threadIdx.x), threadIdx.x, site);
}

void check_row(const void* row, unsigned lane, bool write, Site site) {
    const unsigned warp = threadIdx.x / 32, thread = warp * 32 + lane;
    const auto actor = static_cast<uint16_t>(write ? thread : kSeveralLanes | warp);
    touch_shared(row, 16, write, write ? "stmatrix_x4" : "ldmatrix_x4", actor, thread, site);
}

bool allocate_memory() {
    state.stamp = 0;
    state.ctas = static_cast<Cta*>(calloc(state.launch->cluster, sizeof(Cta)));
    state.cluster = ClusterBarrier{};
    bool done = state.ctas;
    for (unsigned rank = 0; done && rank < state.launch->cluster; ++rank) {
        state.ctas[rank].rank = rank;
        enter(state.ctas[rank]);
        done = allocate_cta(state.ctas[rank]);
    }
    return done;
}

void free_memory() {
    for (unsigned rank = 0; state.ctas && rank < state.launch->cluster; ++rank) {
        Cta& cta = state.ctas[rank];
        enter(cta);
        free_cta_copies();
        free_shadow();
        free(cta.barriers);
        free(cta.threads);
        free(cta.shared);
    }
    free_copies();
    free_wgmma();
    free(state.ctas);
}

void begin_cta_memory() {
    memset(state.cta->shared, kPoison, state.launch->shared_bytes);
    begin_cta_clocks();
    begin_cta_wgmma();
}

void end_cta_memory() {
    end_cta_wgmma();
    end_cta_barriers();
    end_cta_copies();
}

}  // namespace emulator
