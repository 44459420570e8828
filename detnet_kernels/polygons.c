/* Polygons in the text of a JSON file (ablations/evaluation/polygons.py), and measured. */

#include "json.h"
#include "kernels.h"

/* A decimal of so many digits comes back unchanged from a double, as the shortest one that does. */
#define NUM_EXACT_DIGITS 15

/* Read one polygon of three points or more; returns the place of its closing bracket, or 0. */
static int64_t read_polygon(const uint8_t *text, int64_t at, double *values, int64_t *length) {
    if (text[at] != '[') return 0;
    *length = 0;
    do {
        Number number;
        at = read_number(text, blank(text, at + 1), &number);
        if (number.found == NONE || number.found == HARD) return 0;
        values[(*length)++] = number.value;
        at = blank(text, at);
    } while (text[at] == ',');
    return text[at] == ']' && *length >= 6 && *length % 2 == 0 ? at : 0;
}

/* Fill the numbers of masks, where each polygon ends in them and each mask in the polygons; `plain`
 * says which spans are lists of polygons. Returns the number of polygons. */
KERNEL int64_t read_polygons(const uint8_t *text, const int64_t *spans, int64_t num_spans,
                             double *values, int64_t *polygon_ends, int64_t *mask_ends,
                             uint8_t *plain) {
    int64_t num_numbers = 0, num_polygons = 0;
    for (int64_t i = 0; i < num_spans; i++) {
        int64_t at = spans[2 * i], end = spans[2 * i + 1];
        int64_t first_number = num_numbers, first_polygon = num_polygons;
        plain[i] = 0;
        int more = end > at && text[at] == '[';
        while (more) {
            int64_t length;
            at = read_polygon(text, blank(text, at + 1), values + num_numbers, &length);
            if (at == 0) break;
            num_numbers += length;
            polygon_ends[num_polygons++] = num_numbers;
            at = blank(text, at + 1);
            more = text[at] == ',';
            plain[i] = text[at] == ']';
        }
        if (!plain[i]) num_numbers = first_number, num_polygons = first_polygon;
        mask_ends[i] = num_polygons;
    }
    return num_polygons;
}

/* The place behind a number that is sure to be written as Python writes it; else `at`. */
static int64_t python_number(const uint8_t *text, int64_t at) {
    int64_t start = at;
    at += text[at] == '-';
    int64_t first = at;
    while (is_digit(text[at])) at++;
    int64_t num_whole = at - first;
    if (text[at] != '.') {
        int has_exponent = text[at] == 'e' || text[at] == 'E';
        int is_minus_zero = first > start && text[first] == '0';
        return has_exponent || num_whole > NUM_EXACT_DIGITS || is_minus_zero ? start : at;
    }
    int64_t point = at++;
    while (is_digit(text[at])) at++;
    if (num_whole + at - point - 1 > NUM_EXACT_DIGITS) return start;
    if (text[at] == 'e' || text[at] == 'E') return start;
    if (text[at - 1] == '0' && at - point > 2) return start; /* 1.50 */
    if (text[first] == '0' && text[point + 1] == '0' && text[point + 2] == '0')
        return start; /* 0.00001 is 1e-05 */
    return at;
}

/* Copy one list of numbers that stands there as Python writes it, a space behind each comma;
 * returns the number of characters written, or -1 where it does not. */
static int64_t copy_list(const uint8_t *text, int64_t at, int64_t end, uint8_t *copy) {
    if (end <= at || text[at] != '[') return -1;
    int64_t num = 0;
    while (at < end) {
        uint8_t c = text[at];
        if (c == '-' || is_digit(c)) {
            int64_t behind = python_number(text, at);
            if (behind == at) return -1;
            while (at < behind) copy[num++] = text[at++];
            continue;
        }
        if (c == ',' || c == '[' || c == ']') {
            copy[num++] = c;
            if (c == ',') copy[num++] = ' ';
        } else if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            return -1;
        }
        at++;
    }
    return num;
}

/* Copy spans one behind the other into `copy`; `ends` is (num_spans + 1,), from 0 on. */
KERNEL void copy_as_python_writes(const uint8_t *text, const int64_t *spans, int64_t num_spans,
                                  uint8_t *copy, int64_t *ends, uint8_t *copied) {
    ends[0] = 0;
    for (int64_t i = 0; i < num_spans; i++) {
        int64_t num = copy_list(text, spans[2 * i], spans[2 * i + 1], copy + ends[i]);
        copied[i] = num >= 0;
        ends[i + 1] = ends[i] + (num >= 0 ? num : 0);
    }
}

/* Least and largest x and y (4 a mask), outline in pixels as the rasterizer counts them, and area
 * of masks of polygons that stand in `values` one behind the other. */
KERNEL void survey(const double *values, const int64_t *polygon_ends, const int64_t *mask_ends,
                   int64_t num_masks, double *corners, double *outline, double *area) {
    int64_t start = 0, polygon = 0;
    for (int64_t i = 0; i < num_masks; i++) {
        double x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY;
        double length = 0, sum = 0;
        for (; polygon < mask_ends[i]; polygon++) {
            int64_t end = polygon_ends[polygon];
            double before_x = values[end - 2], before_y = values[end - 1], doubled = 0;
            for (int64_t k = start; k < end; k += 2) {
                double x = values[k], y = values[k + 1];
                x1 = least(x1, x), y1 = least(y1, y), x2 = most(x2, x), y2 = most(y2, y);
                length += most(fabs(x - before_x), fabs(y - before_y));
                doubled += before_x * y - x * before_y;
                before_x = x, before_y = y;
            }
            sum += fabs(doubled) / 2;
            start = end;
        }
        corners[4 * i] = x1, corners[4 * i + 1] = y1, corners[4 * i + 2] = x2;
        corners[4 * i + 3] = y2;
        outline[i] = length;
        area[i] = sum;
    }
}
