/* SPDX-License-Identifier: MIT
 *
 * A block of Q4_0, whichever encoder writes it: f16 d; u8 q[16], value j in the low nibble of byte j, value j + 16 in its high nibble.
 */
#ifndef GGUFMIX_BLOCK_Q4_0_H
#define GGUFMIX_BLOCK_Q4_0_H
#include "symmetric.h"

typedef struct {
    uint16_t d;
    uint8_t q[16];
} block;
SIZE_IS(block, 18);

static inline void store(float d, const uint8_t codes[32], uint8_t *y) {
    block *b = (block *)y;
    b->d = f16_of_scale(d);
    store_nibbles(codes, b->q);
}

#endif
