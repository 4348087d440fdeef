// How functions and lambdas are marked that must dissolve into the kernel that calls them.
#pragma once

// Sanitizers' builds define it as nothing: unrolled and instrumented, a kernel takes them minutes to compile.
#ifndef FASTVISION_INLINE
#define FASTVISION_INLINE __attribute__((always_inline))
#endif
