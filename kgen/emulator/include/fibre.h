// Stackful fibres: a context switch saves the callee-saved registers and swaps stack pointers.
#pragma once

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(KGEN_EMULATOR_UCONTEXT)

extern "C" void kgen_emulator_switch(void** save, void* load);

struct Fibre {
    void* stack_pointer;

    // Makes the next switch to this fibre call `entry`, which must never return. `top` is 16-byte aligned.
    void start(unsigned char*, unsigned char* top, void (*entry)()) {
        void** frame = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
        *--frame = nullptr;  // as if called: the stack is 8 bytes off its alignment on entry
        *--frame = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; ++i) *--frame = nullptr;
#else
        frame -= 20;
        for (int i = 0; i < 20; ++i) frame[i] = nullptr;
        frame[11] = reinterpret_cast<void*>(entry);  // the link register
#endif
        stack_pointer = frame;
    }
    void switch_to(Fibre& next) { kgen_emulator_switch(&stack_pointer, next.stack_pointer); }
};

#else  // any other processor

#include <ucontext.h>

struct Fibre {
    ucontext_t context;

    void start(unsigned char* bottom, unsigned char* top, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = bottom;
        context.uc_stack.ss_size = static_cast<unsigned long>(top - bottom);
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void switch_to(Fibre& next) { swapcontext(&context, &next.context); }
};

#endif
