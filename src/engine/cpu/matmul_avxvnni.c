#include "engine/cpu/layout.h"

#include "engine/cpu/vec_avxvnni.h"

#include "engine/cpu/matmul_vec.inc"

#include "engine/cpu/burn_vec.inc"
