// wgmma under way: each warp of a warpgroup for itself, in groups that take effect at their wait or at random before.
//
// The products are computed at once and kept aside: nothing they depend on may change until the wait, which is checked.
#include <stdlib.h>
#include <string.h>

#include "wgmma.h"

namespace emulator {
namespace {

struct Argument {
    float (*d)[4];
    const unsigned* a_registers;
    unsigned long long a, b;
};

// A warp's; arrays grow, oldest first.
struct Unit {
    Multiplication* under_way;
    uint32_t count, capacity;
    Accumulators* accumulators;
    uint32_t accumulators_count, accumulators_capacity;
    uint32_t open_group;  // groups before this one are committed
    bool fenced;          // since the last commit
    bool open;            // the open group has a wgmma
    uint32_t history;     // hash of the warpgroup-wide instructions so far
};
Unit units[kMaxCluster][kMaxWarps];

Unit& current_unit() { return units[state.cta->rank][threadIdx.x / 32]; }

template <class T>
T& append(T*& array, uint32_t& count, uint32_t& capacity) {
    if (count == capacity) {
        capacity = capacity ? 2 * capacity : 8;
        void* grown = realloc(array, capacity * sizeof(T));
        if (!grown) abort();
        array = static_cast<T*>(grown);
    }
    return array[count++];
}

void note_history(Kind kind, unsigned operand, Site site) {
    if ((threadIdx.x / 128 + 1) * 128 > state.launch->threads)
        fail(
            "wgmma and register shares need whole warpgroups of 4 warps, but kernel %s, block %u, thread %u, at %s is "
            "in one of fewer; launch a multiple of 128 threads",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site));
    uint32_t& history = current_unit().history;
    const unsigned parts[] = {static_cast<unsigned>(kind), operand, static_cast<unsigned>(site.line)};
    for (unsigned part : parts) history = (history ^ part) * 16777619u + 1;
}

// Calls use(value, lane's accumulator) for the part of the 16 x 8 tiles that each lane holds.
template <class Use>
void for_accumulators(Accumulators& of, Use&& use) {
    for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned tile = 0; tile < of.tiles; ++tile)
            for (unsigned i = 0; i < 4; ++i)
                use(of.values[lane / 4 + i / 2 * 8][tile * 8 + lane % 4 * 2 + i % 2], of.at[lane][tile][i], lane);
}

// Until they land, accumulators hold poison; from then until the wait, the result.
void check_untouched(Accumulators& of) {
    for_accumulators(of, [&](float value, float& seen, unsigned lane) {
        const uint32_t expected = of.landed ? bit_cast<uint32_t>(value) : ~0u;
        if (bit_cast<uint32_t>(seen) == expected) return;
        fail(
            "a wgmma's accumulators must not be written before wgmma_wait, but kernel %s, block %u, thread %u, has "
            "written some of those of the wgmma at %s; wait first",
            state.launch->symbol, blockIdx.x, threadIdx.x / 32 * 32 + lane, text(of.site));
    });
}

void land(Accumulators& of) {
    check_untouched(of);
    for_accumulators(of, [](float value, float& seen, unsigned) { seen = value; });
    of.landed = true;
}

void check_registers_unchanged(const Multiplication& of) {
    for (unsigned lane = 0; of.registers && lane < 32; ++lane)
        if (memcmp(of.a_at[lane], of.a_registers[lane], 16))
            fail(
                "a wgmma's A registers must stay as they are until wgmma_wait, but in kernel %s, block %u, thread %u, "
                "an A register of the wgmma at %s was modified in flight; wait first, and keep the array in scope",
                state.launch->symbol, blockIdx.x, threadIdx.x / 32 * 32 + lane, text(of.site));
}

// The accumulators that these lanes' arrays are under way as, or new ones; poisons what the kernel sees of them.
Accumulators& find_accumulators(Unit& unit, const Multiplication& of) {
    void* const* arguments = current_warp().arguments;
    float (*const mine)[4] = static_cast<const Argument*>(arguments[0])->d;
    Accumulators* found = nullptr;
    for (uint32_t i = 0; i < unit.accumulators_count; ++i) {
        Accumulators& one = unit.accumulators[i];
        if (one.at[0] + one.tiles <= mine || mine + of.tiles <= one.at[0]) continue;
        if (one.at[0] != mine || one.tiles != of.tiles)
            fail(
                "wgmma in flight together must have the same accumulators or separate ones, but in kernel %s, block "
                "%u, thread %u, those at %s and %s overlap in part; wait between the two",
                state.launch->symbol, blockIdx.x, threadIdx.x, text(one.site), text(of.site));
        check_untouched(one);
        found = &one;
    }
    if (!found) {
        found = &append(unit.accumulators, unit.accumulators_count, unit.accumulators_capacity);
        found->tiles = of.tiles;
        for (unsigned lane = 0; lane < 32; ++lane) found->at[lane] = static_cast<const Argument*>(arguments[lane])->d;
        for_accumulators(*found, [](float& value, float seen, unsigned) { value = seen; });
    }
    found->group = of.group;
    found->site = of.site;
    found->landed = false;
    for (unsigned lane = 0; lane < 32; ++lane) memset(found->at[lane], kPoison, of.tiles * 16);
    return *found;
}

}  // namespace

void wgmma_fence(Site site) {
    if (!gather(Kind::wgmma_fence, nullptr, site)) return;
    note_history(Kind::wgmma_fence, 0, site);
    current_unit().fenced = true;
    release();
}

void multiply_wgmma(Element element, float (*d)[4], unsigned tiles, bool accumulate, const unsigned* a_registers,
                    unsigned long long a, unsigned long long b, Site site) {
    Argument argument = {d, a_registers, a, b};
    if (!gather(Kind::wgmma, &argument, site)) return;
    Unit& unit = current_unit();
    note_history(Kind::wgmma, static_cast<unsigned>(a * 31 + b), site);
    if (!unit.open && !unit.fenced)
        fail(
            "the first wgmma of a group must follow a wgmma_fence, but kernel %s, block %u, warp %u, at %s has none "
            "since the last wgmma_commit; add it",
            state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site));
    Multiplication& of = append(unit.under_way, unit.count, unit.capacity);
    of.group = unit.open_group;
    of.site = site;
    of.element = element, of.accumulate = accumulate, of.registers = a_registers;
    of.tiles = tiles;
    of.a = a, of.b = b;
    for (unsigned lane = 0; lane < 32; ++lane) {
        const auto& other = *static_cast<const Argument*>(current_warp().arguments[lane]);
        if (other.a != a || other.b != b)
            fail(
                "all lanes of a warpgroup must pass the same descriptors to wgmma, but in kernel %s, block %u, those "
                "of warp %u differ at %s; compute them from values that are uniform over the warpgroup",
                state.launch->symbol, blockIdx.x, threadIdx.x / 32, text(site));
        of.a_at[lane] = other.a_registers;
        if (a_registers) memcpy(of.a_registers[lane], other.a_registers, 16);
    }
    unit.open = true;
    hold_matrices(of, true);
    multiply(of, find_accumulators(unit, of));
    release();
}

void wgmma_commit(Site site) {
    if (!gather(Kind::wgmma_commit, nullptr, site)) return;
    note_history(Kind::wgmma_commit, 0, site);
    Unit& unit = current_unit();
    ++unit.open_group;
    unit.open = unit.fenced = false;
    release();
}

void wgmma_wait(unsigned pending, Site site) {
    if (!gather(Kind::wgmma_wait, nullptr, site)) return;
    note_history(Kind::wgmma_wait, pending, site);
    Unit& unit = current_unit();
    uint32_t done = 0;
    for (; done < unit.count && unit.open_group - unit.under_way[done].group > pending; ++done) {
        check_registers_unchanged(unit.under_way[done]);
        hold_matrices(unit.under_way[done], false);
    }
    unit.count -= done;
    if (done) memmove(unit.under_way, unit.under_way + done, unit.count * sizeof(Multiplication));
    for (uint32_t i = 0; i < unit.accumulators_count;) {
        Accumulators& one = unit.accumulators[i];
        if (unit.open_group - one.group > pending) {
            land(one);
            const Accumulators& last = unit.accumulators[--unit.accumulators_count];
            if (&one != &last) memcpy(&one, &last, sizeof(one));
        } else {
            ++i;
        }
    }
    // The reads come before whatever any lane does next.
    current_clock().until[kUnits + threadIdx.x / 32] = tick();
    release();
}

void share_registers(unsigned registers, Site site) {
    if (!gather(Kind::registers, nullptr, site)) return;
    note_history(Kind::registers, registers, site);
    release();
}

void land_wgmma_at_random() {
    Unit& unit = current_unit();
    if (state.launch->late || !unit.accumulators_count || next_random() % 2) return;
    for (uint32_t i = 0; i < unit.accumulators_count; ++i)
        if (!unit.accumulators[i].landed && unit.accumulators[i].group < unit.open_group) land(unit.accumulators[i]);
}

void check_wgmma_done() {
    const Unit& unit = current_unit();
    if (!unit.count) return;
    const Multiplication& first = unit.under_way[0];
    const bool committed = first.group < unit.open_group;
    fail("a kernel must %s, but kernel %s, block %u, warp %u ends without doing so for that at %s; call %s",
         committed ? "wait for every wgmma" : "commit every wgmma and wait for it", state.launch->symbol, blockIdx.x,
         threadIdx.x / 32, text(first.site), committed ? "wgmma_wait<0>" : "wgmma_commit and wgmma_wait<0>");
}

void begin_cta_wgmma() {
    for (unsigned w = 0; w < warps_per_cta(); ++w) {
        Unit& unit = units[state.cta->rank][w];
        unit.count = unit.accumulators_count = unit.open_group = unit.history = 0;
        unit.fenced = unit.open = false;
    }
}

void end_cta_wgmma() {
    const Unit* const mine = units[state.cta->rank];
    for (unsigned w = 0; w < warps_per_cta() && !state.failed; ++w)
        if (mine[w].history != mine[w / 4 * 4].history)
            complain(
                "the 4 warps of a warpgroup must execute the same wgmma functions and register shares, but in kernel "
                "%s, block %u, warp %u and warp %u differ; make the branches around them uniform over the warpgroup",
                state.launch->symbol, blockIdx.x, w / 4 * 4, w);
}

void free_wgmma() {
    for (auto& of_cta : units)
        for (Unit& unit : of_cta) {
            free(unit.under_way);
            free(unit.accumulators);
            unit = Unit{};
        }
}

}  // namespace emulator
