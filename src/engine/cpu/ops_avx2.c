#include "engine/cpu/vec_avx2.h"

#include "engine/cpu/ops_vec.inc"

const ag_cpu_ops ag__ops_avxvnni = OPS(ag__matmul_avxvnni, ag__attention_avx2);
