/* SPDX-License-Identifier: MIT
 *
 * libFuzzer's entry: any bytes as weights, importance or blocks, through every tier, which have to agree.
 *
 * Input: encoder; input type; rows; blocks per row; whether there is importance; then the data, repeated as often as needed.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

enum { HEAD = 5, MOST_ROWS = 9, MOST_BLOCKS = 4 };

static const float MOST_IMPORTANT = 1e24f; /* as in codecs.py */

static void *filled(size_t n, const uint8_t *data, size_t size, size_t at) {
    uint8_t *made = malloc(n ? n : 1);
    if (!made) abort();
    for (size_t i = 0; i < n; i++) made[i] = size ? data[(at + i) % size] : 0;
    return made;
}

static int same(const struct report *a, const struct report *b) {
    return a->status == b->status && a->row == b->row && a->col == b->col && a->flushed == b->flushed && a->wiped == b->wiped;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t n) {
    static const int types[] = {X_F32, X_F16, X_BF16};
    if (n < HEAD) return -1;
    int encoder = input[0] % N_ENCODERS, type = types[input[1] % 3];
    const struct row *r = &rows[encoders[encoder].format];
    int64_t n_rows = 1 + input[2] % MOST_ROWS, cols = (1 + input[3] % MOST_BLOCKS) * (int64_t)r->values;
    int64_t n_values = n_rows * cols, n_bytes = n_values / r->values * r->bytes;
    int asks = encoder < N_FORMATS ? r->importance : NONE;
    const uint8_t *data = input + HEAD;
    n -= HEAD;

    void *x = filled((size_t)n_values * (type == X_F32 ? 4 : 2), data, n, 0);
    float *importance = NULL;
    if (asks == REQUIRED || (asks == OPTIONAL && input[4] & 1)) {
        importance = filled((size_t)cols * 4, data, n, 7);
        for (int64_t i = 0; i < cols; i++)
            if (!(importance[i] >= 0 && importance[i] <= MOST_IMPORTANT)) importance[i] = 1;
    }
    uint8_t *first = NULL, *blocks = filled((size_t)n_bytes, data, n, 3);
    float *values = NULL;
    struct report wanted = {0};
    for (int t = 0; t < n_tiers && tiers[t].supported(); t++) {
        void *scratch = malloc(scratch_bytes(encoder, cols, n_rows, importance != NULL));
        uint8_t *y = calloc((size_t)n_bytes, 1);
        float *decoded = calloc((size_t)n_values, 4);
        if (!scratch || !y || !decoded) abort();
        struct report done = tiers[t].encode_rows(encoder, type, x, importance, y, cols, n_rows, scratch);
        tiers[t].decode_rows(encoders[encoder].format, blocks, decoded, cols, n_rows);
        free(scratch);
        if (!first) {
            first = y, values = decoded, wanted = done;
            continue;
        }
        if (!same(&wanted, &done)) abort();
        if (done.status == OK && memcmp(first, y, (size_t)n_bytes)) abort();
        for (int64_t i = 0; i < n_values; i++)
            if (memcmp(&values[i], &decoded[i], 4) && !(isnan(values[i]) && isnan(decoded[i]))) abort();
        free(y);
        free(decoded);
    }
    free(first);
    free(values);
    free(blocks);
    free(importance);
    free(x);
    return 0;
}
