/* A match table and image counts to AP and AR of one category (ablations/evaluation/kernel.py).
 *
 * How it is fast. The resamples of a block are scored side by side. Detections are walked through
 * from the lowest score up, so the highest precision so far is COCO's precision envelope; what
 * stands at or above a detection is the total less what was passed. A detection without any match
 * is one subtraction for all IoU thresholds together. And precision is taken only where it can be
 * highest: at the last of a run of true positives, before the next false positive.
 */

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define NUM_RECALLS 101
#define EPSILON 2.220446049250313e-16 /* as COCOeval adds it to the number of detections */

/* Steps of a walk over detections from the low scores up. Those with a threshold concern it alone. */
enum {
    DETECTION, /* inside the scale: a false positive, unless a later step corrects that */
    TRUE,      /* a true positive amid a run of them */
    LAST_TRUE, /* the last true positive of a run: the next lower detection is a false positive */
    COUNTS,    /* a true positive outside the scale: a detection that counts all the same */
    LEFT_OUT,  /* a detection inside the scale that took an ignored object */
};

typedef struct {
    int64_t num;
    int8_t *actions, *thresholds;
    int32_t *images, *ranks;
} Walk;

/* One category. (D) detections from the highest score down, (E) of them take an object. */
typedef struct {
    const int32_t *image, *rank; /* (D) */
    const uint8_t *in_area;      /* (D, A) */
    int64_t num_detections;
    const int32_t *matched; /* (E) the detections that `outcome` is about, rising */
    const int8_t *outcome;  /* (E, A, T) */
    int64_t num_matched, num_areas, num_thresholds;
} Table;

#define COUNT int32_t
#define WALK walk_32
#include "walk.h"
#undef COUNT
#undef WALK
#define COUNT int16_t
#define WALK walk_16
#include "walk.h"

static inline void step(Walk *walk, int action, int64_t threshold, int32_t image, int32_t rank) {
    walk->actions[walk->num] = (int8_t)action;
    walk->thresholds[walk->num] = (int8_t)threshold;
    walk->images[walk->num] = image;
    walk->ranks[walk->num++] = rank;
}

/* Write the steps of the walk for one scale and limit on detections.
 *
 * The steps are the same for all resamples. A run ends where the next lower detection that is not
 * ignored is a false positive, or there is none. `last_true` is (T).
 */
static void plan(const Table *table, int64_t area, int64_t max_det, int64_t *last_true,
                 Walk *walk) {
    int64_t num_thresholds = table->num_thresholds, e = table->num_matched - 1;
    /* Detection at which each threshold's run was seen last; false positive at all seen last */
    int64_t false_positive = table->num_detections;
    for (int64_t t = 0; t < num_thresholds; t++) last_true[t] = -1;
    walk->num = 0;
    for (int64_t j = table->num_detections - 1; j >= 0; j--) {
        int has_match = e >= 0 && table->matched[e] == j;
        e -= has_match;
        int32_t image = table->image[j], rank = table->rank[j];
        if (rank >= max_det) continue;
        int in_area = table->in_area[j * table->num_areas + area];
        if (!has_match) {
            if (in_area) {
                false_positive = j;
                step(walk, DETECTION, 0, image, rank);
            }
            continue;
        }
        const int8_t *outcome =
            table->outcome + ((e + 1) * table->num_areas + area) * num_thresholds;
        for (int64_t t = 0; t < num_thresholds; t++) {
            if (outcome[t] == TRUE_POSITIVE) {
                int in_run = 0 <= last_true[t] && last_true[t] < false_positive;
                last_true[t] = j;
                step(walk, in_run ? TRUE : LAST_TRUE, t, image, rank);
                if (!in_area) step(walk, COUNTS, t, image, rank);
            } else if (outcome[t] == IGNORED) {
                if (in_area) step(walk, LEFT_OUT, t, image, rank);
            } else if (in_area) {
                last_true[t] = -1;
            }
        }
        if (in_area) step(walk, DETECTION, 0, image, rank);
    }
}

/* Detections (M, L), corrections to them and true positives (M, T, L), of limits one above the
 * other. */
typedef struct {
    int64_t num_limits, num_thresholds, num_lanes;
    int32_t *detections, *counted, *true_positives;
} Totals;

static inline void add(int32_t *to, const uint8_t *counts, int32_t times, int64_t num) {
    for (int64_t i = 0; i < num; i++) to[i] += times * counts[i];
}

/* Add up all steps of the walk with the largest limit; the other limits let in lower ranks.
 *
 * Detections are most of them: those of an image are added together, counted in `num_here`
 * (num_images, M), which is zero before and after.
 */
FOR_EACH_PROCESSOR
static void add_up(const Walk *walk, const int64_t *max_dets, const uint8_t *counts,
                   int32_t *num_here, Totals *totals) {
    int64_t num_limits = totals->num_limits, num_lanes = totals->num_lanes;
    int64_t size = totals->num_thresholds * num_lanes;
    memset(totals->detections, 0, num_limits * num_lanes * sizeof(int32_t));
    memset(totals->counted, 0, num_limits * size * sizeof(int32_t));
    memset(totals->true_positives, 0, num_limits * size * sizeof(int32_t));
    for (int64_t s = 0; s < walk->num; s++) {
        if (walk->actions[s] != DETECTION) continue;
        int64_t m = 0;
        while (walk->ranks[s] >= max_dets[m]) m++;
        num_here[walk->images[s] * num_limits + m]++;
    }
    for (int64_t s = 0; s < walk->num; s++) {
        int64_t m = 0;
        while (walk->ranks[s] >= max_dets[m]) m++;
        const uint8_t *here = counts + walk->images[s] * num_lanes;
        int64_t cell = m * size + walk->thresholds[s] * num_lanes;
        if (walk->actions[s] == DETECTION) {
            int32_t *num = num_here + walk->images[s] * num_limits + m;
            if (*num) add(totals->detections + m * num_lanes, here, *num, num_lanes);
            *num = 0;
        } else if (walk->actions[s] == COUNTS) {
            add(totals->counted + cell, here, 1, num_lanes);
        } else if (walk->actions[s] == LEFT_OUT) {
            add(totals->counted + cell, here, -1, num_lanes);
        } else {
            add(totals->true_positives + cell, here, 1, num_lanes);
        }
    }
    for (int64_t i = num_lanes; i < num_limits * num_lanes; i++)
        totals->detections[i] += totals->detections[i - num_lanes];
    for (int64_t i = size; i < num_limits * size; i++) {
        totals->counted[i] += totals->counted[i - size];
        totals->true_positives[i] += totals->true_positives[i - size];
    }
}

/* Whether all totals stay below 2 ** 15: numbers of half the width are subtracted in half the
 * time. */
static int are_small(const Totals *totals) {
    int64_t num_detections = totals->num_limits * totals->num_lanes;
    int32_t largest = 0;
    for (int64_t i = 0; i < num_detections; i++)
        if (totals->detections[i] > largest) largest = totals->detections[i];
    for (int64_t i = 0; i < num_detections * totals->num_thresholds; i++)
        if (totals->true_positives[i] > largest) largest = totals->true_positives[i];
    return largest < 1 << 15;
}

/* Write AP and AR (M, T, L) of a block: a walk for each limit. `small` has room for (1 + 2 * T) * L
 * numbers, `lanes` for what a walk needs. */
static void walk_block(const Walk *walks, const uint8_t *counts, const Totals *totals,
                       const double *num_objects, int16_t *small, double *lanes, double *ap,
                       double *ar) {
    int64_t num_thresholds = totals->num_thresholds, num_lanes = totals->num_lanes;
    int64_t size = num_thresholds * num_lanes;
    int is_small = are_small(totals);
    for (int64_t m = 0; m < totals->num_limits; m++, ap += size, ar += size) {
        int32_t *detections = totals->detections + m * num_lanes;
        int32_t *counted = totals->counted + m * size;
        int32_t *true_positives = totals->true_positives + m * size;
        if (!is_small) {
            walk_32(&walks[m], counts, num_thresholds, num_lanes, detections, counted,
                    true_positives, num_objects, lanes, ap, ar);
            continue;
        }
        int16_t *small_counted = small + num_lanes, *small_true = small_counted + size;
        for (int64_t i = 0; i < num_lanes; i++) small[i] = (int16_t)detections[i];
        for (int64_t i = 0; i < size; i++) {
            small_counted[i] = (int16_t)counted[i];
            small_true[i] = (int16_t)true_positives[i];
        }
        walk_16(&walks[m], counts, num_thresholds, num_lanes, small, small_counted, small_true,
                num_objects, lanes, ap, ar);
    }
}

/* Number of objects (A, B, L) that count. */
FOR_EACH_PROCESSOR
static void count_objects(const int32_t *truth_image, const uint8_t *truth_counted,
                          int64_t num_truth, int64_t num_areas, const uint8_t *blocks,
                          int64_t num_blocks, int64_t num_images, int64_t num_lanes,
                          double *num_objects) {
    memset(num_objects, 0, num_areas * num_blocks * num_lanes * sizeof(double));
    for (int64_t a = 0; a < num_areas; a++) {
        for (int64_t b = 0; b < num_blocks; b++) {
            double *total = num_objects + (a * num_blocks + b) * num_lanes;
            for (int64_t n = 0; n < num_truth; n++) {
                if (!truth_counted[n * num_areas + a]) continue;
                const uint8_t *here = blocks + (b * num_images + truth_image[n]) * num_lanes;
                for (int64_t i = 0; i < num_lanes; i++) total[i] += here[i];
            }
        }
    }
}

/* Room that is asked for piece by piece and given back as a whole. */
typedef struct {
    void *pieces[16];
    int num, is_short;
} Room;

static void *take(Room *room, int64_t num, size_t size) {
    void *piece = calloc(num > 0 ? num : 1, size);
    room->pieces[room->num++] = piece;
    room->is_short |= piece == NULL;
    return piece;
}

/* AP and AR (A, B, M, T, L) and number of objects (A, B, L) of one category.
 *
 * `blocks` (B, num_images, L) are the image counts. AP and AR are zero where no object counts.
 * Returns 0, or 1 where memory is short.
 */
KERNEL int score_category(const int32_t *image, const int32_t *rank, const uint8_t *in_area,
                          const int32_t *matched, const int8_t *outcome,
                          const int32_t *truth_image, const uint8_t *truth_counted,
                          const int64_t *max_dets, const uint8_t *blocks, int64_t num_detections,
                          int64_t num_matched, int64_t num_truth, int64_t num_areas,
                          int64_t num_thresholds, int64_t num_limits, int64_t num_blocks,
                          int64_t num_images, int64_t num_lanes, double *ap, double *ar,
                          double *num_objects) {
    Table table = {image, rank, in_area, num_detections, matched, outcome, num_matched, num_areas,
                   num_thresholds};
    count_objects(truth_image, truth_counted, num_truth, num_areas, blocks, num_blocks, num_images,
                  num_lanes, num_objects);
    int64_t most_rank = 0;
    for (int64_t j = 0; j < num_detections; j++)
        if (rank[j] > most_rank) most_rank = rank[j];
    int64_t num_walks = 1; /* the limits after these let no more in */
    while (num_walks < num_limits && max_dets[num_walks - 1] <= most_rank) num_walks++;

    /* At most one step per detection, and two per match and threshold. */
    int64_t most_steps = num_detections + 2 * num_matched * num_thresholds;
    int64_t size = num_thresholds * num_lanes;
    Room room = {0};
    int8_t *actions = take(&room, num_walks * most_steps, sizeof(int8_t));
    int8_t *thresholds = take(&room, num_walks * most_steps, sizeof(int8_t));
    int32_t *images = take(&room, num_walks * most_steps, sizeof(int32_t));
    int32_t *ranks = take(&room, num_walks * most_steps, sizeof(int32_t));
    Walk *walks = take(&room, num_walks, sizeof(Walk));
    int64_t *last_true = take(&room, num_thresholds, sizeof(int64_t));
    int32_t *num_here = take(&room, num_images * num_walks, sizeof(int32_t));
    Totals totals = {num_walks, num_thresholds, num_lanes,
                     take(&room, num_walks * num_lanes, sizeof(int32_t)),
                     take(&room, num_walks * size, sizeof(int32_t)),
                     take(&room, num_walks * size, sizeof(int32_t))};
    int16_t *small = take(&room, num_lanes + 2 * size, sizeof(int16_t));
    double *lanes = take(&room, num_lanes + size, sizeof(double));

    for (int64_t a = 0; a < num_areas && !room.is_short; a++) {
        for (int64_t m = 0; m < num_walks; m++) {
            int64_t at = m * most_steps;
            walks[m] = (Walk){0, actions + at, thresholds + at, images + at, ranks + at};
            plan(&table, a, max_dets[m], last_true, &walks[m]);
        }
        /* All walks over a block while its counts are in the processor's cache. */
        for (int64_t b = 0; b < num_blocks; b++) {
            const uint8_t *counts = blocks + b * num_images * num_lanes;
            const double *objects = num_objects + (a * num_blocks + b) * num_lanes;
            add_up(&walks[num_walks - 1], max_dets, counts, num_here, &totals);
            int64_t cell = (a * num_blocks + b) * num_limits * size;
            walk_block(walks, counts, &totals, objects, small, lanes, ap + cell, ar + cell);
            for (int64_t m = num_walks; m < num_limits; m++) {
                memcpy(ap + cell + m * size, ap + cell + (m - 1) * size, size * sizeof(double));
                memcpy(ar + cell + m * size, ar + cell + (m - 1) * size, size * sizeof(double));
            }
        }
    }
    for (int i = 0; i < room.num; i++) free(room.pieces[i]);
    return room.is_short;
}
