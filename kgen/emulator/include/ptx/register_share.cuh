// The emulator's setmaxnreg: same contract as the GPU's header of this name, but nothing to share out.
#pragma once

namespace emulator {

template <int Registers>
inline void check_registers(Site site) {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256,
                  "registers must be a multiple of 8 from 24 to 256, but a share is not; round it");
    share_registers(Registers, site);
}

}  // namespace emulator

template <int Registers>
inline void lower_registers(emulator::Site site = emulator::Site::here()) {
    emulator::check_registers<Registers>(site);
}

template <int Registers>
inline void raise_registers(emulator::Site site = emulator::Site::here()) {
    emulator::check_registers<Registers>(site);
}
