// Says which threads of the cluster wait for what, and which have exited, when none can go on.
#include <stdarg.h>
#include <stdio.h>

#include "runtime.h"

namespace emulator {
namespace {

struct List {
    char text[1400];
    size_t used;

    void add(const char* format, ...) __attribute__((format(printf, 2, 3))) {
        if (used >= sizeof(text)) return;
        va_list arguments;
        va_start(arguments, format);
        used += vsnprintf(text + used, sizeof(text) - used, format, arguments);
        va_end(arguments);
    }
};

bool alike(const Warp& a, const Warp& b) {
    return a.progress == b.progress && a.site.line == b.site.line &&
           ((a.progress != Progress::at_mbarrier && a.progress != Progress::at_named_barrier) ||
            a.barrier == b.barrier);
}

// Of one CTA, warps in the same state together.
void list_cta(List& list, const Cta& cta) {
    const unsigned count = warps_per_cta();
    for (unsigned first = 0, last; first < count; first = last) {
        const Warp& warp = cta.warps[first];
        for (last = first + 1; last < count && alike(cta.warps[last], warp);) ++last;
        list.add("%s", list.used ? ", " : "");
        if (state.launch->cluster > 1) list.add("block %u's ", cta.block);
        list.add("threads %u-%u ", first * 32, last * 32 - 1);
        if (warp.progress == Progress::exited)
            list.add("have exited");
        else
            list.add("wait at %s", text(warp.site));
        if (warp.progress == Progress::at_cluster)
            list.add(" for phase %u of the cluster's barrier", state.cluster.phase);
        if (warp.progress == Progress::at_named_barrier) {
            const NamedBarrier& barrier = cta.named_barriers[warp.barrier];
            list.add(" for named barrier %u, which lacks %u of %u threads", warp.barrier,
                     barrier.threads - barrier.arrived, barrier.threads);
        }
        if (warp.progress != Progress::at_mbarrier) continue;
        const Mbarrier& barrier = cta.barriers[warp.barrier];
        const long long missing = barrier.missing;
        list.add(
            " for phase %u (parity %u) of the mbarrier at byte %u of shared memory, which lacks %u of %u arrivals and "
            "%s%lld bytes",
            barrier.phase, barrier.phase % 2, barrier.offset, barrier.arrivals - barrier.arrived, barrier.arrivals,
            missing < 0 ? "expects too few by " : "", missing < 0 ? -missing : missing);
    }
}

bool any_at(Progress progress) {
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank)
        for (unsigned w = 0; w < warps_per_cta(); ++w)
            if (state.ctas[rank].warps[w].progress == progress) return true;
    return false;
}

}  // namespace

void record_deadlock() {
    List list = {};
    const char* rule = "thread of a CTA must reach __syncthreads";
    const char* advice = "move the __syncthreads out of the divergent branch";
    if (any_at(Progress::at_mbarrier)) {
        rule = "wait must be met by all the arrivals and bytes that its phase counts";
        advice = "correct who arrives, the count, the expected bytes or the parity";
    } else if (any_at(Progress::at_named_barrier)) {
        rule = "named barrier must be reached by as many threads as it counts";
        advice = "correct the count or who calls it";
    } else if (any_at(Progress::at_cluster)) {
        rule = "thread of a cluster must arrive at every phase of its barrier that one waits for";
        advice = "let all threads of all CTAs call cluster_arrive and cluster_wait equally often";
    }
    for (unsigned rank = 0; rank < state.launch->cluster; ++rank) list_cta(list, state.ctas[rank]);
    enter(state.ctas[0]);
    complain("every %s, but kernel %s deadlocks in %s %u: %s; %s", rule, state.launch->symbol,
             state.launch->cluster > 1 ? "the cluster of block" : "block", blockIdx.x, list.text, advice);
}

}  // namespace emulator
