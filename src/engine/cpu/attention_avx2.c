#include "engine/cpu/vec_avx2.h"

#include "engine/cpu/attention_vec.inc"
