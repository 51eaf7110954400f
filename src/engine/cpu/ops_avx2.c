#include "engine/cpu/vec_avx2.h"

#include "engine/cpu/ops_vec.inc"
