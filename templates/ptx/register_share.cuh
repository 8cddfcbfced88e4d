// setmaxnreg: a warpgroup gives up registers or takes more; every warp of it calls.
//
// The kernel needs a register cap at its entry (__launch_bounds__), and the shares of all warpgroups together must fit
// into an SM's 64K registers, or the kernel hangs.
#pragma once

template <int Registers>
__device__ inline void lower_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ inline void raise_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
