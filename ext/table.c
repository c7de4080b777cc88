/* SPDX-License-Identifier: MIT
 *
 * The kernels of one tier, in the order of formats.def. Compiled once per tier.
 */
#include "tier.h"

encode_fn *const FN(encoders)[N_ENCODERS] = {
#define FORMAT(name, ...) [AT_##name] = FN(name##_encode),
#define ENCODER(name, format) [AT_##name] = FN(name##_encode),
#include "formats.def"
#undef FORMAT
#undef ENCODER
};

decode_fn *const FN(decoders)[N_FORMATS] = {
#define FORMAT(name, ...) [AT_##name] = FN(name##_decode),
#define ENCODER(name, format)
#include "formats.def"
#undef FORMAT
#undef ENCODER
};
