#include "engine/cpu/vec_dotprod.h"

#include "engine/cpu/matmul_vec.inc"

#include "engine/cpu/burn_vec.inc"
