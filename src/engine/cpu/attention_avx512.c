#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/attention_vec.inc"
