/* The HTTP/1 parser on anything: the first byte says how the rest is cut into pieces. Whole and in pieces it must say
 * the same, in a legal order, and our checks must agree with llhttp (asserted in h1.c in builds with sanitizers). */
#include "../net/h1_drive.h"

static size_t cut(void *arg, size_t left)
{
    uint32_t *seed = arg;
    *seed = *seed * 1103515245u + 12345u;
    size_t most = (*seed >> 28) + 1;
    return 1 + (*seed >> 8) % AG_MIN(left, most * most);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0 || n > 1 << 16) return 0;
    const char *p = (const char *)data + 1;
    uint32_t seed = data[0];
    drive whole, pieces;
    drive_run(&whole, p, n - 1, drive_whole, NULL);
    if (data[0] == 0) drive_run(&pieces, p, n - 1, drive_bytes, NULL);
    else drive_run(&pieces, p, n - 1, cut, &seed);
    AG_ASSERT(ag_str_eq(ag_buf_str(&whole.log), ag_buf_str(&pieces.log)));
    AG_ASSERT(whole.requests == pieces.requests && whole.bads == pieces.bads && whole.bads <= 1);
    ag_buf_fini(&whole.log);
    ag_buf_fini(&pieces.log);
    return 0;
}
