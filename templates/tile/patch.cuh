// Patches of images as a pointwise layer's inputs: see tile/pointwise.cuh.
#pragma once
#include "ptx/narrow.cuh"
#include "ptx/scalar.cuh"
#include "tile/fragment.cuh"

// Where a patch begins: the `pixel`-th of the run of all images' patches, row after row.
template <int Patch, int Height, int Width>
struct PatchPlace {
    int image, y, x;

    __device__ explicit PatchPlace(int pixel) {
        constexpr int WIDE = Width / Patch, HIGH = Height / Patch;
        const int row = pixel / WIDE;
        image = row / HIGH;
        y = row % HIGH * Patch;
        x = pixel % WIDE * Patch;
    }
};

// Patches of x [batch][height][width][channels]: a row of a patch is one run.
template <class T, int Patch, int Height, int Width, int Channels>
struct PatchInput {
    static_assert(Channels % 8 == 0, "8 inputs lie together");
    const T* x;

    __device__ void copy(unsigned char* to, int pixel, int unit, bool real) const {
        constexpr int RUN = Patch * Channels / 8;  // units
        const PatchPlace<Patch, Height, Width> at(pixel);
        const int row = at.image * Height + at.y + unit / RUN;
        const long long from = (static_cast<long long>(row) * Width + at.x) * Channels + unit % RUN * 8;
        cp_async_16(to, x + (real ? from : 0), real);
    }
};

// Pixels of an image as 16-bit elements; those of a byte are from 0 to 255.
template <class T>
__device__ inline u32 load_pixel(const T* p) {
    return load_global_u16(p);
}
template <class T>
__device__ inline u32 load_pixel(const unsigned char* p) {
    return pack<T>(static_cast<float>(load_global_u8(p)), 0.0f);
}

// Patches of an image of few channels, [batch][height][width][channels] or with Planes
// [batch][channels][height][width], whose inputs are filled up with zeros. Elements of x are of type Pixel, the layer's
// of type T.
template <class T, class Pixel, bool Planes, int Patch, int Height, int Width, int Channels>
struct ImageInput {
    // Inputs that lie one after another, of them all those of a row. Where both come in fours, so are inputs brought.
    static constexpr int RUN = Planes ? Patch : Patch * Channels, PITCH = Planes ? Width : Width * Channels;
    static constexpr bool FOURS = RUN % 4 == 0 && PITCH % 4 == 0;
    const Pixel* x;

    __device__ void copy(unsigned char* to, int pixel, int unit, bool real) const {
        const PatchPlace<Patch, Height, Width> at(pixel);
        if constexpr (FOURS)
            copy_fours(to, at, unit, real);
        else
            copy_single(to, at, unit, real);
    }

    __device__ void copy_fours(unsigned char* to, const PatchPlace<Patch, Height, Width>& at, int unit,
                               bool real) const {
        u32 bytes[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int k = unit * 8 + half * 4;
            const bool present = real && k < Patch * Patch * Channels;
            const Pixel* const from = x + (present ? offset(at, k) : 0);
            if constexpr (sizeof(Pixel) == 2)
                cp_async_8(to + half * 8, from, present);
            else
                bytes[half] = present ? load_global_u32(from) : 0;
        }
        if constexpr (sizeof(Pixel) == 1) {
            Vec16 value;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const u32 two = bytes[i / 2] >> (i % 2 * 16);
                value.word[i] = pack<T>(static_cast<float>(two & 0xff), static_cast<float>(two >> 8 & 0xff));
            }
            store_shared_16(to, value);
        }
    }

    __device__ void copy_single(unsigned char* to, const PatchPlace<Patch, Height, Width>& at, int unit,
                                bool real) const {
        u32 element[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int k = unit * 8 + i;
            element[i] = real && k < Patch * Patch * Channels ? load_pixel<T>(x + offset(at, k)) : 0;
        }
        Vec16 value;
#pragma unroll
        for (int i = 0; i < 4; ++i) value.word[i] = element[2 * i] | element[2 * i + 1] << 16;
        store_shared_16(to, value);
    }
    // Of a patch's k-th input.
    static __device__ long long offset(const PatchPlace<Patch, Height, Width>& at, int k) {
        const int down = Planes ? k / Patch % Patch : k / (Patch * Channels);
        const int right = Planes ? k % Patch : k / Channels % Patch;
        const int channel = Planes ? k / (Patch * Patch) : k % Channels;
        const long long plane = Planes ? static_cast<long long>(at.image) * Channels + channel : at.image;
        const long long place = (plane * Height + at.y + down) * Width + at.x + right;
        return Planes ? place : place * Channels + channel;
    }
};
