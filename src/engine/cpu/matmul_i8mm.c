#include "engine/cpu/vec_i8mm.h"

#include "engine/cpu/matmul_vec.inc"

#include "engine/cpu/burn_vec.inc"
