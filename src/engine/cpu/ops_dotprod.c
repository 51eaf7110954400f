#include "engine/cpu/vec_dotprod.h"

#include "engine/cpu/ops_vec.inc"

const ag_cpu_ops ag__ops_i8mm = OPS(ag__matmul_i8mm, ag__attention_dotprod);
