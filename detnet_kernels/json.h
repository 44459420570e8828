/* Numbers and white space of a JSON text that ends in a zero byte, which no loop runs past. */

#ifndef JSON_H
#define JSON_H

#include <math.h>
#include <stdint.h>

enum { NONE, INTEGER, FLOAT, HARD };

#define NUM_POWERS 23
#define MOST_DIGITS 18

typedef struct {
    int found;       /* NONE, INTEGER, FLOAT, or HARD: left to Python */
    int64_t integer; /* where it is one */
    double value;
} Number; /* zeros where it is NONE or HARD */

static inline int is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }

/* The next place that is no white space. */
static inline int64_t blank(const uint8_t *text, int64_t at) {
    while (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t') at++;
    return at;
}

/* digits / power rounded once, for digits that a double does not hold; -1 where in doubt.
 *
 * The quotient of the rounded digits, and what it lacks, found with exact products (Dekker 1971).
 */
static inline double divide(int64_t digits, double power) {
    double high = (double)digits, low = (double)(digits - (int64_t)high);
    double quotient = high / power, product = quotient * power;
    double quotient_1 = quotient * 134217729.0;
    quotient_1 = quotient_1 - (quotient_1 - quotient);
    double quotient_2 = quotient - quotient_1;
    double power_1 = power * 134217729.0;
    power_1 = power_1 - (power_1 - power);
    double power_2 = power - power_1;
    double error = ((quotient_1 * power_1 - product) + quotient_1 * power_2 + quotient_2 * power_1)
                   + quotient_2 * power_2;
    double lacking = ((high - product) - error + low) / power;
    double value = quotient + lacking;
    double rounded_off = (quotient - value) + lacking;
    double half = (nextafter(value, INFINITY) - value) / 2;
    return fabs(fabs(rounded_off) - half) <= 1e-9 * half ? -1.0 : value;
}

/* Read a number; returns the place behind it. */
static inline int64_t read_number(const uint8_t *text, int64_t at, Number *number) {
    static const double powers[NUM_POWERS] = { /* exact, all of them */
        1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    };
    int negative = text[at] == '-';
    at += negative;
    int64_t start = at, exponent = 0;
    uint64_t digits = 0; /* wraps round where there are too many, which are HARD */
    *number = (Number){NONE, 0, 0.0};
    for (; is_digit(text[at]); at++) digits = 10 * digits + (text[at] - '0');
    if (at == start || (text[start] == '0' && at > start + 1)) return at;
    int64_t num_digits = at - start;
    int found = INTEGER;
    if (text[at] == '.') {
        found = FLOAT;
        int64_t point = ++at;
        for (; is_digit(text[at]); at++) digits = 10 * digits + (text[at] - '0');
        if (at == point) return at;
        exponent = point - at;
        num_digits -= exponent;
    }
    while (num_digits > MOST_DIGITS && (text[start] == '0' || text[start] == '.')) {
        num_digits -= text[start] == '0'; /* leading zeros are no digits */
        start++;
    }
    if (text[at] == 'e' || text[at] == 'E') {
        found = FLOAT;
        at++;
        int sign = text[at] == '-' ? -1 : 1;
        at += text[at] == '-' || text[at] == '+';
        int64_t written = 0, first = at;
        for (; is_digit(text[at]); at++) {
            written = 10 * written + (text[at] - '0');
            if (written > 9999) written = 9999;
        }
        if (at == first) return at;
        exponent += sign * written;
    }
    number->found = HARD;
    if (num_digits > MOST_DIGITS || exponent <= -NUM_POWERS || exponent > 0) return at;
    double power = powers[-exponent];
    /* A quotient of two exact numbers is rounded once. */
    int is_exact = digits < (uint64_t)1 << 53 || found == INTEGER;
    double value = is_exact ? (double)(int64_t)digits / power : divide((int64_t)digits, power);
    if (value < 0) return at;
    number->found = found;
    number->integer = negative ? -(int64_t)digits : (int64_t)digits;
    number->value = negative ? -value : value;
    return at;
}

#endif
