#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/ops_vec.inc"
