// fence.proxy.async: orders this thread's plain and cp.async writes to shared memory before later reads of them by
// wgmma and bulk copies, once a barrier has told the reader.
#pragma once

__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
