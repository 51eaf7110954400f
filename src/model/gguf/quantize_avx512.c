#if defined(__x86_64__)
#define QUANTIZE_WIDTH 16
#define QUANTIZE_NAME ag__quantize_16
#include "model/gguf/quantize_blocks.inc"
#else
typedef int ag__no_quantize_16; /* a translation unit holds at least one declaration */
#endif
