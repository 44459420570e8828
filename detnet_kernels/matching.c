/* COCO's greedy matching (ablations/evaluation/matching.py). */

#include "kernels.h"

/* Stable argsort of keys below `num_keys`; `starts` is (num_keys + 1,) of zeros. */
KERNEL void stable_order(const int32_t *keys, int64_t length, int64_t num_keys, int64_t *starts,
                         int64_t *order) {
    for (int64_t i = 0; i < length; i++) starts[keys[i] + 1]++;
    for (int64_t key = 0; key < num_keys; key++) starts[key + 1] += starts[key];
    for (int64_t i = 0; i < length; i++) order[starts[keys[i]]++] = i;
}

/* The place of each detection among those of its image and category, which `groups` puts together;
 * `rank` holds zeros. */
KERNEL void rank_in_group(const int64_t *groups, const int32_t *image, const int32_t *category,
                          int64_t length, int32_t *rank) {
    for (int64_t j = 1; j < length; j++) {
        int64_t here = groups[j], before = groups[j - 1];
        if (image[here] == image[before] && category[here] == category[before])
            rank[here] = rank[before] + 1;
    }
}

/* The same operations in the same order as pycocotools' bbIou, so equal to the bit. */
static inline double box_iou(const double *box, const double *other, int crowd) {
    double w = least(box[2] + box[0], other[2] + other[0]) - most(box[0], other[0]);
    if (!(w > 0)) return 0;
    double h = least(box[3] + box[1], other[3] + other[1]) - most(box[1], other[1]);
    if (!(h > 0)) return 0;
    double area = box[2] * box[3], intersection = w * h;
    return intersection / (crowd ? area : area + other[2] * other[3] - intersection);
}

/* The number of pairs of a detection and an object of equal key. */
KERNEL int64_t count_pairs(const int64_t *groups, int64_t num_detections, const int64_t *key,
                           const int64_t *object_key, int64_t num_objects) {
    int64_t num_pairs = 0, first = 0, last = 0;
    for (int64_t j = 0; j < num_detections; j++) {
        int64_t wanted = key[groups[j]];
        while (first < num_objects && object_key[first] < wanted) first++;
        if (last < first) last = first;
        while (last < num_objects && object_key[last] == wanted) last++;
        num_pairs += last - first;
    }
    return num_pairs;
}

/* Write those pairs that overlap by `least_iou` or more; returns their number. */
KERNEL int64_t find_box_pairs(const int64_t *groups, int64_t num_detections, const int64_t *key,
                              const double *boxes, const int64_t *rows, const int64_t *object_key,
                              const double *object_boxes, const uint8_t *crowd, int64_t num_objects,
                              double least_iou, int32_t *detection, int32_t *target, double *iou) {
    int64_t num_pairs = 0, first = 0;
    for (int64_t i = 0; i < num_detections; i++) {
        int64_t j = groups[i];
        while (first < num_objects && object_key[first] < key[j]) first++;
        const double *box = boxes + 4 * rows[j];
        for (int64_t n = first; n < num_objects && object_key[n] == key[j]; n++) {
            double overlap = box_iou(box, object_boxes + 4 * n, crowd[n]);
            if (!(overlap >= least_iou)) continue;
            detection[num_pairs] = (int32_t)j;
            target[num_pairs] = (int32_t)n;
            iou[num_pairs++] = overlap;
        }
    }
    return num_pairs;
}

/* The object a detection takes, whose pairs are `first` to `last`; -1 for none. An object that
 * counts is preferred. On equal IoU the later object wins, as in COCOeval. */
static inline int32_t choose(const int32_t *target, const double *iou, int64_t first, int64_t last,
                             const uint8_t *ignored, int64_t num_areas, const uint8_t *crowd,
                             const uint8_t *taken, double threshold, int *is_ignored) {
    double best_iou = threshold, best_ignored_iou = threshold;
    int32_t best = -1, best_ignored = -1;
    for (int64_t p = first; p < last; p++) {
        int32_t n = target[p];
        if (ignored[n * num_areas]) {
            if (iou[p] >= best_ignored_iou && (crowd[n] || !taken[n]))
                best_ignored = n, best_ignored_iou = iou[p];
        } else if (iou[p] >= best_iou && !taken[n]) {
            best = n, best_iou = iou[p];
        }
    }
    *is_ignored = best < 0;
    return best >= 0 ? best : best_ignored;
}

/* COCO's greedy matching over the pairs: the detections that take an object, and how.
 *
 * Pairs stand by group and detection. `outcome` and `object_taken` are (candidates, A, T) with room
 * for each detection that has a pair; `taken` is (num_objects,) of zeros. Returns how many of the
 * candidates take an object at some scale and threshold; they are moved to the front.
 */
KERNEL int64_t assign(const int32_t *detection, const int32_t *target, const double *iou,
                      int64_t num_pairs, const int64_t *key, const uint8_t *ignored,
                      const uint8_t *crowd, int64_t num_areas, const double *thresholds,
                      int64_t num_thresholds, uint8_t *taken, int32_t *matched, int8_t *outcome,
                      int32_t *object_taken) {
    int64_t num_cells = num_areas * num_thresholds, num_kept = 0;
    for (int64_t first = 0, last; first < num_pairs; first = last) {
        int64_t num_here = 0; /* candidates of this group */
        for (last = first; last < num_pairs && key[detection[last]] == key[detection[first]];) {
            int32_t row = detection[last];
            matched[num_kept + num_here++] = row;
            while (last < num_pairs && detection[last] == row) last++;
        }
        int8_t *outcomes = outcome + num_kept * num_cells;
        int32_t *objects = object_taken + num_kept * num_cells;
        for (int64_t a = 0; a < num_areas; a++) {
            for (int64_t t = 0; t < num_thresholds; t++) {
                double threshold = least(thresholds[t], 1 - 1e-10);
                int64_t p = first;
                for (int64_t e = 0; e < num_here; e++) {
                    int64_t start = p, cell = (e * num_areas + a) * num_thresholds + t;
                    while (p < last && detection[p] == detection[start]) p++;
                    int is_ignored;
                    int32_t object = choose(target, iou, start, p, ignored + a, num_areas, crowd,
                                            taken, threshold, &is_ignored);
                    objects[cell] = object;
                    outcomes[cell] = UNMATCHED;
                    if (object >= 0) {
                        outcomes[cell] = is_ignored ? IGNORED : TRUE_POSITIVE;
                        taken[object] = 1;
                    }
                }
                for (p = first; p < last; p++) taken[target[p]] = 0;
            }
        }
        int64_t num_used = 0;
        for (int64_t e = 0; e < num_here; e++) {
            int used = 0;
            for (int64_t c = 0; c < num_cells; c++) used |= outcomes[e * num_cells + c];
            if (!used) continue;
            matched[num_kept + num_used] = matched[num_kept + e];
            for (int64_t c = 0; c < num_cells; c++) {
                outcomes[num_used * num_cells + c] = outcomes[e * num_cells + c];
                objects[num_used * num_cells + c] = objects[e * num_cells + c];
            }
            num_used++;
        }
        num_kept += num_used;
    }
    return num_kept;
}
