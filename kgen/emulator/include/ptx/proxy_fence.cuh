// The emulator's fence.proxy.async: same contract as the GPU's header of this name.
#pragma once

inline void fence_proxy_async() { emulator::fence_proxy_async(); }
