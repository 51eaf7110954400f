#if defined(__x86_64__)
#define QUANTIZE_WIDTH 8
#define QUANTIZE_NAME ag__quantize_8
#include "model/gguf/quantize_blocks.inc"
#else
typedef int ag__no_quantize_8; /* a translation unit holds at least one declaration */
#endif
