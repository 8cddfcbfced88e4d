// griddepcontrol: a kernel launched with programmatic serialization may begin before the one before it in its stream
// has ended. Older GPUs than sm_90 have neither the instruction nor such launches.
#pragma once

// Returns when the kernel before has ended and its writes can be seen by this thread; at once in an ordinary launch.
__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel after may begin once every CTA has said so, or ended.
__device__ inline void let_kernel_after_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
