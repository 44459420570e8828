/* A JSON list of flat objects straight into columns (ablations/evaluation/scan.py). */

#include <string.h>

#include "json.h"
#include "kernels.h"

typedef struct {
    int64_t num;
    const uint8_t *text;
    const int64_t *ends;
} Keys;

/* Where this key ends if it stands here, else 0. */
static inline int64_t end_of_key(const uint8_t *text, int64_t at, const Keys *keys, int64_t key) {
    for (int64_t k = key > 0 ? keys->ends[key - 1] : 0; k < keys->ends[key]; k++, at++)
        if (text[at] != keys->text[k]) return 0;
    return text[at] == '"' ? at : 0;
}

/* Which key stands between start and end; -1 for none of them. */
static int64_t find_key(const uint8_t *text, int64_t start, int64_t end, const Keys *keys) {
    for (int64_t key = 0; key < keys->num; key++)
        if (end_of_key(text, start, keys, key) == end) return key;
    return -1;
}

/* The place behind a value of any type. */
static int64_t skip(const uint8_t *text, int64_t at) {
    int64_t depth = 0;
    while (text[at] != 0) {
        uint8_t c = text[at];
        if (c == '"') {
            at++;
            while (text[at] != '"' && text[at] != 0) at += text[at] == '\\' ? 2 : 1;
            if (text[at] == 0) return at;
        } else if (c == '[' || c == '{') {
            depth++;
        } else if (c == ']' || c == '}') {
            if (depth == 0) return at; /* behind a bare number */
            depth--;
        } else if (c == ',' && depth == 0) {
            return at;
        }
        at++;
        if (depth == 0 && (c == '"' || c == ']' || c == '}')) return at;
    }
    return at;
}

/* Where the columns lie. Those of a kind stand one behind the other, `capacity` entries each; the
 * last two keys are bbox and segmentation. */
typedef struct {
    int64_t num_integers, num_numbers, capacity, room_for_spans;
    int64_t *integers;      /* (num_integers, capacity) */
    double *numbers;        /* (num_numbers, capacity) */
    double *boxes;          /* (capacity, 4) */
    int64_t *spans;         /* (room_for_spans, 2): all entries or none */
    uint8_t *written_whole; /* (capacity, num_numbers + 4) */
    uint8_t *given;         /* (num_keys, capacity) */
    int64_t *hard;          /* rows of: entry, column of numbers and then of boxes, start, end */
    int64_t num_hard, skipped;
} Columns;

static inline void note(Columns *to, int64_t row, int64_t column, const Number *number,
                        int64_t start, int64_t end) {
    to->written_whole[row * (to->num_numbers + 4) + column] = number->found == INTEGER;
    if (number->found == HARD) {
        int64_t *hard = to->hard + 4 * to->num_hard++;
        hard[0] = row, hard[1] = column, hard[2] = start, hard[3] = end;
    }
}

/* Read a box; returns the place behind it, or 0 where there is none. */
static inline int64_t read_box(const uint8_t *text, int64_t at, int64_t row, Columns *to) {
    Number number;
    if (text[at] != '[') return 0;
    for (int side = 0; side < 4; side++) {
        int64_t start = blank(text, at + 1);
        at = read_number(text, start, &number);
        if (number.found == NONE) return 0;
        to->boxes[4 * row + side] = number.value;
        note(to, row, to->num_numbers + side, &number, start, at);
        at = blank(text, at);
        if (text[at] != (side == 3 ? ']' : ',')) return 0;
    }
    return at + 1;
}

/* Read the value of a key; returns the place behind it, or 0 where it is not what it should be. */
static inline int64_t read_value(const uint8_t *text, int64_t at, int64_t key, int64_t row,
                                 Columns *to) {
    int64_t start = at, num_scalars = to->num_integers + to->num_numbers;
    uint8_t *given = to->given + key * to->capacity + row;
    if (*given) return 0; /* twice in one entry */
    if (key == num_scalars) {
        *given = 1;
        return read_box(text, at, row, to);
    }
    if (key > num_scalars || text[at] == 'n') {
        at = skip(text, at);
        to->skipped = 1;
        if (text[start] != 'n') {
            *given = 1;
            if (to->room_for_spans) to->spans[2 * row] = start, to->spans[2 * row + 1] = at;
        }
        return at;
    }
    Number number;
    at = read_number(text, at, &number);
    if (number.found == NONE) return 0;
    *given = 1;
    if (key < to->num_integers) {
        if (number.found != INTEGER) return 0;
        to->integers[key * to->capacity + row] = number.integer;
    } else {
        int64_t column = key - to->num_integers;
        to->numbers[column * to->capacity + row] = number.value;
        note(to, row, column, &number, start, at);
    }
    return at;
}

/* Read an object; returns the place behind it, or 0 where it cannot be read. `follows` has the last
 * key seen after each, and at the start: entries mostly are alike. */
static inline int64_t read_entry(const uint8_t *text, int64_t at, int64_t row, const Keys *keys,
                                 int64_t *follows, Columns *to) {
    if (text[at] != '{') return 0;
    at = blank(text, at + 1);
    if (text[at] == '}') return at + 1;
    for (int64_t place = 0;;) {
        if (text[at++] != '"') return 0;
        int64_t key = follows[place], end = end_of_key(text, at, keys, key);
        if (end == 0) {
            for (end = at; text[end] != '"'; end++)
                if (text[end] == '\\' || text[end] < 32) return 0;
            key = find_key(text, at, end, keys);
        }
        at = blank(text, end + 1);
        if (text[at] != ':') return 0;
        at = blank(text, at + 1);
        if (key < 0) {
            at = skip(text, at);
            to->skipped = 1;
        } else {
            follows[place] = key;
            place = key + 1;
            if ((at = read_value(text, at, key, row, to)) == 0) return 0;
        }
        at = blank(text, at);
        if (text[at] == '}') return at + 1;
        if (text[at] != ',') return 0;
        at = blank(text, at + 1);
    }
}

/* Fill the columns from `row` on with the list that starts at `at`.
 *
 * `result` receives the number of rows, the number of numbers left to Python, where the list ends
 * or the first entry that cannot be read starts, which of the two it is, and whether values were
 * skipped. `follows` is (num_keys + 1,) of zeros.
 */
KERNEL void scan(const uint8_t *text, int64_t at, int64_t row, const uint8_t *keys,
                 const int64_t *key_ends, int64_t num_integers, int64_t num_numbers,
                 int64_t capacity, int64_t room_for_spans, int64_t *integers, double *numbers,
                 double *boxes, int64_t *spans, uint8_t *written_whole, uint8_t *given,
                 int64_t *hard, int64_t *follows, int64_t *result) {
    Keys all = {num_integers + num_numbers + 2, keys, key_ends};
    Columns to = {num_integers, num_numbers, capacity, room_for_spans, integers, numbers, boxes,
                  spans, written_whole, given, hard, 0, 0};
    int is_whole = 0;
    at = blank(text, at);
    int64_t first_bad = at, num_hard = 0, skipped = 0; /* before the entry that cannot be read */
    if (text[at] == '[') {
        first_bad = at = blank(text, at + 1);
        is_whole = text[at] == ']';
        while (!is_whole) {
            first_bad = at;
            if (row == capacity || (at = read_entry(text, at, row, &all, follows, &to)) == 0) break;
            at = blank(text, at);
            if (text[at] != ',' && text[at] != ']') break;
            is_whole = text[at] == ']';
            row++;
            num_hard = to.num_hard, skipped = to.skipped;
            if (!is_whole) at = blank(text, at + 1);
        }
    }
    result[0] = row;
    result[1] = num_hard;
    result[2] = is_whole ? blank(text, at + 1) : first_bad;
    result[3] = is_whole;
    result[4] = skipped;
}

/* How often a character stands in a text. */
KERNEL int64_t count(const uint8_t *text, int64_t length, int wanted) {
    int64_t num = 0;
    for (int64_t at = 0; at < length; at++) num += text[at] == wanted;
    return num;
}

/* Copy the values of spans into a text of zeros, `num_ends` zeros behind each. */
KERNEL void copy_values(const uint8_t *text, const int64_t *spans, int64_t num_spans,
                        int64_t num_ends, uint8_t *copy, int64_t *new_spans) {
    int64_t num = 0;
    for (int64_t i = 0; i < num_spans; i++) {
        int64_t start = spans[2 * i], length = spans[2 * i + 1] - start;
        if (length > 0) {
            new_spans[2 * i] = num, new_spans[2 * i + 1] = num + length;
            memcpy(copy + num, text + start, length);
            num += length;
        }
        num += num_ends;
    }
}
