/* Greedy suppression (detnet/detection/nms_cpu.py). */

#include "kernels.h"

static inline float lower(float a, float b) { return a < b ? a : b; }
static inline float upper(float a, float b) { return a > b ? a : b; }

static int overlaps(const float *box, const float *other, double threshold) {
    float width = upper(0, lower(box[2], other[2]) - upper(box[0], other[0]));
    float height = upper(0, lower(box[3], other[3]) - upper(box[1], other[1]));
    float common = width * height, area = (box[2] - box[0]) * (box[3] - box[1]);
    return common / ((other[2] - other[0]) * (other[3] - other[1]) + area - common) > threshold;
}

/* Set `kept` (B, K), which is all 0, for the `num` best boxes of each image that are left.
 *
 * `order` (B, K) has the boxes from the best on, of which the `num_boxes` (B) first are any. The
 * kept boxes of a group are a chain: `last` (num_groups) has the latest one, `previous` (K) the one
 * before.
 */
KERNEL void mark_kept(const float *boxes, const int64_t *groups, const int64_t *order,
                      const int64_t *num_boxes, int64_t num_images, int64_t num_each,
                      int64_t num_groups, double threshold, int64_t num, int64_t *last,
                      int64_t *previous, uint8_t *kept) {
    for (int64_t image = 0; image < num_images; image++) {
        int64_t num_kept = 0;
        for (int64_t group = 0; group < num_groups; group++) last[group] = -1;
        for (int64_t k = 0; k < num_boxes[image] && num_kept < num; k++) {
            int64_t index = order[k], group = groups[index], better = last[group];
            while (better >= 0 && !overlaps(boxes + 4 * index, boxes + 4 * better, threshold))
                better = previous[better];
            if (better >= 0) continue;
            previous[index] = last[group];
            last[group] = index;
            kept[index] = 1;
            num_kept++;
        }
        boxes += 4 * num_each, groups += num_each, order += num_each, kept += num_each;
    }
}
