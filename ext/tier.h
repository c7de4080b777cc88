/* SPDX-License-Identifier: MIT
 *
 * The tables of one tier, for its driver.
 */
#ifndef GGUFMIX_TIER_H
#define GGUFMIX_TIER_H

#include "kernel.h"

extern encode_fn *const FN(encoders)[N_ENCODERS];
extern decode_fn *const FN(decoders)[N_FORMATS];

#endif
