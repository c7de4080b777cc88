/* SPDX-License-Identifier: MIT
 *
 * 32 four-bit codes in 16 bytes: value j in the low nibble of byte j, value j + 16 in its high nibble.
 */
#ifndef GGUFMIX_NIBBLES_H
#define GGUFMIX_NIBBLES_H

#include "kernel.h"

/* q = min(15, trunc(x * id + 8.5)), for |x * id| <= 8 but for rounding. */
static inline void encode_nibbles(const float *x, float id, uint8_t *q) {
    for (int j = 0; j < 16; j++) {
        int low = (int)(x[j] * id + 8.5f), high = (int)(x[j + 16] * id + 8.5f);
        q[j] = (uint8_t)((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
    }
}

#endif
