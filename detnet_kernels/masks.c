/* Compressed run-length masks, counted (ablations/evaluation/masks.py).
 *
 * A run is written in groups of five bits, low ones first; bit 5 says that more follow, bit 4 of
 * the last group is the sign; from the third run on it is the difference to the run two before (the
 * format of pycocotools' maskApi.c).
 */

#include "kernels.h"

#define MOST_SHIFT 40

/* Read a run; returns the place behind it, or -1 where it is damaged. */
static inline int64_t read_run(const uint8_t *coded, int64_t at, int64_t end, int64_t *run) {
    uint64_t bits = 0;
    for (int shift = 0;; shift += 5) {
        if (at == end || coded[at] < 48 || coded[at] > 111 || shift > MOST_SHIFT) return -1;
        uint64_t group = coded[at++] - 48;
        bits |= (group & 31) << shift;
        if (group & 32) continue;
        if (group & 16) bits |= ~UINT64_C(0) << (shift + 5);
        *run = (int64_t)bits;
        return at;
    }
}

/* Pixels under all runs and pixels of each mask; -1 for damaged runs. */
KERNEL void measure(const uint8_t *coded, const int64_t *ends, int64_t num_masks, int64_t *pixels,
                    int64_t *areas) {
    int64_t at = 0;
    for (int64_t i = 0; i < num_masks; i++) {
        int64_t before_last = 0, last = 0;
        pixels[i] = areas[i] = 0;
        for (int64_t num_runs = 0; at < ends[i]; num_runs++) {
            int64_t run;
            at = read_run(coded, at, ends[i], &run);
            if (at >= 0 && num_runs > 2) run += before_last;
            if (at < 0 || run < 0) {
                pixels[i] = areas[i] = -1;
                break;
            }
            before_last = last, last = run;
            pixels[i] += run;
            if (num_runs % 2 == 1) areas[i] += run;
        }
        at = ends[i];
    }
}
