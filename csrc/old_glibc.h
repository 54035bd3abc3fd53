// Included before everything else on Linux (setup.py), so that a library that was built beside a newer C
// library loads with glibc 2.28 too, the oldest that a manylinux_2_28 wheel may meet.
#pragma once

#include <features.h>

#ifdef __GLIBC__
// Of 2.29 are the names of the same arithmetic without errno, which nothing here reads.
#if defined(__x86_64__)
#define MCLNF_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define MCLNF_FIRST_GLIBC "GLIBC_2.17"
#endif
#ifdef MCLNF_FIRST_GLIBC
__asm__(".symver exp,exp@" MCLNF_FIRST_GLIBC);
__asm__(".symver log,log@" MCLNF_FIRST_GLIBC);
__asm__(".symver pow,pow@" MCLNF_FIRST_GLIBC);
#endif

// Of 2.32. libstdc++ asks it whether a shared pointer may count without atomic instructions: never, in a
// library of threads.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
