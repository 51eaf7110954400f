#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/ops_vec.inc"

const ag_cpu_ops ag__ops_avx512bf16 = OPS(ag__matmul_avx512bf16, ag__attention_avx512bf16);
const ag_cpu_ops ag__ops_amx = OPS(ag__matmul_amx, ag__attention_avx512);
