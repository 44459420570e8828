/* What all kernels share. Arrays are contiguous; their lengths stand beside them. */

#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define KERNEL __declspec(dllexport)
#else
#define KERNEL __attribute__((visibility("default")))
#endif

/* Compiled once for each width of vectors, and chosen when the library is loaded. */
#if defined(FOR_EACH_PROCESSOR)
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Whether a detection took an object, as matching.py numbers it. */
enum { UNMATCHED, TRUE_POSITIVE, IGNORED };

static inline double least(double a, double b) { return a < b ? a : b; }
static inline double most(double a, double b) { return a > b ? a : b; }

#endif
