/* A walk with totals of the type COUNT; scoring.c includes it once for each width. */

/* Write AP and AR (T, L) of one block of resamples; the totals go down to zero.
 *
 * A run that raises the precision envelope does so for all recall thresholds reached at its end,
 * so AP is the sum of raises times thresholds reached. `lanes` has room for (1 + T) * L numbers.
 */
FOR_EACH_PROCESSOR
static void WALK(const Walk *walk, const uint8_t *restrict blocks, int64_t num_thresholds,
                 int64_t num_lanes, COUNT *restrict detections, COUNT *restrict all_counted,
                 COUNT *restrict all_true_positives, const double *restrict num_objects,
                 double *restrict lanes, double *restrict all_ap, double *restrict all_ar) {
    double *restrict share = lanes; /* of one object, in the steps of the recall thresholds */
    double *restrict envelopes = lanes + num_lanes; /* highest precision from here down */
    for (int64_t i = 0; i < num_lanes; i++)
        share[i] = num_objects[i] > 0 ? (NUM_RECALLS - 1) / num_objects[i] : 0;
    for (int64_t t = 0; t < num_thresholds; t++) {
        for (int64_t i = 0; i < num_lanes; i++) {
            int64_t cell = t * num_lanes + i;
            all_ar[cell] = all_true_positives[cell] / most(num_objects[i], 1.0);
            all_ap[cell] = envelopes[cell] = 0;
        }
    }
    for (int64_t s = 0; s < walk->num; s++) {
        const uint8_t *restrict counts = blocks + walk->images[s] * num_lanes;
        int64_t cell = walk->thresholds[s] * num_lanes;
        COUNT *restrict counted = all_counted + cell;
        COUNT *restrict true_positives = all_true_positives + cell;
        switch (walk->actions[s]) {
        case DETECTION:
            for (int64_t i = 0; i < num_lanes; i++) detections[i] -= counts[i];
            break;
        case COUNTS:
            for (int64_t i = 0; i < num_lanes; i++) counted[i] -= counts[i];
            break;
        case LEFT_OUT:
            for (int64_t i = 0; i < num_lanes; i++) counted[i] += counts[i];
            break;
        case LAST_TRUE: {
            double *restrict ap = all_ap + cell, *restrict envelope = envelopes + cell;
            for (int64_t i = 0; i < num_lanes; i++) {
                /* How many of COCO's thresholds r * 0.01 are <= recall: those below this one, and
                 * this one unless it is one ulp above an equal recall. The margin is far below
                 * 1 / num_objects, far above rounding. */
                double floored = (int32_t)(true_positives[i] * share[i] + 1e-7);
                double recall = true_positives[i] / num_objects[i];
                double reached = floored + (floored * 0.01 <= recall ? 1.0 : 0.0);
                double precision = true_positives[i] / ((double)(detections[i] + counted[i]) + EPSILON);
                double raised = most(envelope[i], precision);
                ap[i] += reached * (raised - envelope[i]);
                envelope[i] = raised;
            }
        } /* fall through */
        case TRUE:
            for (int64_t i = 0; i < num_lanes; i++) true_positives[i] -= counts[i];
        }
    }
    for (int64_t t = 0; t < num_thresholds; t++) {
        double *ap = all_ap + t * num_lanes;
        for (int64_t i = 0; i < num_lanes; i++)
            ap[i] = num_objects[i] > 0 ? ap[i] / NUM_RECALLS : 0.0;
    }
}
