/* The error of each detection that is not a true positive (analysis/detection_errors.py). */

#include "kernels.h"

/* As detection_errors.py numbers them. */
enum { CLS, LOC, BOTH, DUPE, BKG, NO_ERROR = -1 };

/* The error of each detection and the object a Loc or Cls error is about, both (D, A).
 *
 * Pairs stand by detection. Of objects of equal IoU, one that is not ignored at the scale is
 * preferred.
 */
KERNEL void classify(const int32_t *detection, const int32_t *target, const double *iou,
                     const int32_t *category, const int32_t *object_category, const uint8_t *crowd,
                     const uint8_t *unmatched, const uint8_t *in_area, const uint8_t *ignored,
                     const uint8_t *taken, double foreground, double background, int64_t num_pairs,
                     int64_t num_detections, int64_t num_areas, int8_t *errors, int32_t *about) {
    for (int64_t cell = 0; cell < num_detections * num_areas; cell++) {
        errors[cell] = unmatched[cell] && in_area[cell] ? BKG : NO_ERROR;
        about[cell] = -1;
    }
    for (int64_t first = 0, last; first < num_pairs; first = last) {
        int64_t d = detection[first];
        for (last = first; last < num_pairs && detection[last] == d;) last++;
        for (int64_t a = 0; a < num_areas; a++) {
            int64_t cell = d * num_areas + a;
            if (!unmatched[cell]) continue;
            int32_t own = -1, other = -1;
            double own_iou = 0, other_iou = 0;
            int is_duplicate = 0;
            for (int64_t p = first; p < last; p++) {
                int32_t n = target[p];
                if (object_category[n] == category[d]) {
                    if (iou[p] > own_iou ||
                        (own >= 0 && iou[p] == own_iou && ignored[own * num_areas + a]))
                        own = n, own_iou = iou[p];
                    is_duplicate |= iou[p] >= foreground && taken[n * num_areas + a];
                } else if (!crowd[n] &&
                           (iou[p] > other_iou ||
                            (other >= 0 && iou[p] == other_iou && ignored[other * num_areas + a]))) {
                    other = n, other_iou = iou[p];
                }
            }
            int is_loc = own >= 0 && background <= own_iou && own_iou <= foreground;
            int is_cls = !is_loc && other >= 0 && other_iou >= foreground;
            if (is_loc || is_cls) {
                int64_t n = is_loc ? own : other;
                int is_free = !ignored[n * num_areas + a] && !taken[n * num_areas + a];
                if (in_area[cell] || is_free) {
                    errors[cell] = is_loc ? LOC : CLS;
                    about[cell] = (int32_t)n;
                }
            } else if (in_area[cell]) {
                if (is_duplicate) errors[cell] = DUPE;
                else if (other_iou > background) errors[cell] = BOTH;
            }
        }
    }
}
