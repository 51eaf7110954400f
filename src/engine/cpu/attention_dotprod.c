#include "engine/cpu/vec_dotprod.h"

#include "engine/cpu/attention_vec.inc"
