/* amx_emulator.h - AMX for machines without it: the kernels' machine code runs, and each tile instruction, illegal
 * here, is carried out by a signal handler. A program that includes this defines ag__amx_ready, so that the instruction
 * set `amx` runs in it wherever AVX-512 does; where AMX is, the hardware is taken. Each test that asks which
 * instruction sets run thereby installs the handler.
 * Owns    : the handler of SIGILL. Tile state is the thread's.
 * Threads : any; nothing is allocated in the handler.
 * Limits  : palette 1; LDTILECFG, STTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1, TILESTORED, TDPBF16PS,
 *           TDPB{SS,SU,US,UU}D, all with VEX. No segments, no 32-bit addresses, no restart in the middle of a tile.
 * Errors  : what the hardware answers with an exception ends the program with a sentence; with amx_catch set, it jumps
 *           there instead, the sentence in amx_refusal. */
#ifndef AG_TESTS_AMX_EMULATOR_H
#define AG_TESTS_AMX_EMULATOR_H

#if defined(__x86_64__)

#define ag__amx_ready amx_hardware /* the real one, under another name */
#include "engine/cpu/amx_detect.c"
#undef ag__amx_ready
bool ag__amx_ready(void);

#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

typedef struct amx_tiles {
    bool configured;
    uint8_t palette;
    uint8_t rows[8];
    uint16_t row_bytes[8];
    unsigned char data[8][16][64];
} amx_tiles;

static __thread amx_tiles amx;
static __thread uint64_t amx_done;          /* instructions of this thread */
static __thread sigjmp_buf *amx_catch;
static __thread const char *volatile amx_refusal;

static _Noreturn void amx_refuse(const char *sentence)
{
    amx_refusal = sentence;
    if (amx_catch != NULL) siglongjmp(*amx_catch, 1);
    ssize_t ignored = write(2, sentence, strlen(sentence));
    ignored = write(2, "\n", 1);
    (void)ignored;
    abort();
}

#define AMX_WANT(condition, sentence) do { if (!(condition)) amx_refuse("AMX: " sentence); } while (0)

/* --- the instructions --------------------------------------------------------------------------------------------- */

static void amx_configure(const unsigned char *p)
{
    amx_tiles t = {.palette = p[0], .configured = p[0] != 0};
    AMX_WANT(p[0] <= 1, "#GP: LDTILECFG of a palette that is not 0 or 1");
    AMX_WANT(p[0] == 0 || p[1] == 0, "a start row other than 0 is not emulated");
    for (int i = 0; i < 64 && p[0] != 0; i++) {
        bool used = i < 2 || (i >= 16 && i < 32) || (i >= 48 && i < 56);
        AMX_WANT(used || p[i] == 0, "#GP: LDTILECFG with a reserved byte, or a tile beyond 7, that is not 0");
    }
    for (int i = 0; i < 8 && p[0] != 0; i++) {
        memcpy(&t.row_bytes[i], p + 16 + 2 * i, 2);
        t.rows[i] = p[48 + i];
        AMX_WANT(t.row_bytes[i] <= 64, "#GP: LDTILECFG of rows of more than 64 bytes");
        AMX_WANT(t.rows[i] <= 16, "#GP: LDTILECFG of more than 16 rows");
        AMX_WANT((t.rows[i] == 0) == (t.row_bytes[i] == 0), "#GP: LDTILECFG of rows without bytes, or of no rows");
    }
    amx = t;
}

static void amx_tell(unsigned char *p)
{
    unsigned char c[64] = {amx.palette};
    for (int i = 0; i < 8; i++) {
        memcpy(c + 16 + 2 * i, &amx.row_bytes[i], 2);
        c[48 + i] = amx.rows[i];
    }
    memcpy(p, c, 64);
}

static void amx_want_tile(unsigned t)
{
    AMX_WANT(amx.configured, "#UD: a tile instruction without a configuration");
    AMX_WANT(amx.rows[t] != 0, "#UD: a tile that is not configured");
}

static void amx_load(unsigned t, const unsigned char *p, int64_t stride)
{
    amx_want_tile(t);
    memset(amx.data[t], 0, sizeof amx.data[t]);
    for (int r = 0; r < amx.rows[t]; r++) memcpy(amx.data[t][r], p + r * stride, amx.row_bytes[t]);
}

static void amx_store(unsigned t, unsigned char *p, int64_t stride)
{
    amx_want_tile(t);
    for (int r = 0; r < amx.rows[t]; r++) memcpy(p + r * stride, amx.data[t][r], amx.row_bytes[t]);
}

static void amx_want_product(unsigned c, unsigned a, unsigned b)
{
    AMX_WANT(c != a && c != b && a != b, "#UD: a product that names a tile twice");
    amx_want_tile(c);
    amx_want_tile(a);
    amx_want_tile(b);
    AMX_WANT(amx.row_bytes[c] % 4 == 0 && amx.row_bytes[a] % 4 == 0 && amx.row_bytes[b] % 4 == 0,
             "#UD: a product of rows that are not whole quads of bytes");
    AMX_WANT(amx.rows[c] == amx.rows[a], "#UD: a product whose sums and first operand have different rows");
    AMX_WANT(amx.row_bytes[c] == amx.row_bytes[b], "#UD: a product whose sums and second operand differ in width");
    AMX_WANT(amx.row_bytes[a] / 4 == amx.rows[b], "#UD: a product whose operands do not fit each other");
}

static void amx_dot_bytes(unsigned c, unsigned a, unsigned b, bool a_signed, bool b_signed)
{
    amx_want_product(c, a, b);
    for (int m = 0; m < amx.rows[c]; m++) {
        for (int n = 0; n < amx.row_bytes[c] / 4; n++) {
            uint32_t sum; /* wraps */
            memcpy(&sum, amx.data[c][m] + 4 * n, 4);
            for (int k = 0; k < amx.row_bytes[a]; k++) {
                unsigned char x = amx.data[a][m][k], y = amx.data[b][k / 4][4 * n + k % 4];
                sum += (uint32_t)((a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y));
            }
            memcpy(amx.data[c][m] + 4 * n, &sum, 4);
        }
    }
}

static float amx_bf16(const unsigned char *p)
{
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Two chains, even and odd k, joined and then added to the sum; denormals are zero on both sides. */
__attribute__((target("fma"))) static void amx_dot_bf16(unsigned c, unsigned a, unsigned b)
{
    amx_want_product(c, a, b);
    unsigned mode = _mm_getcsr();
    _mm_setcsr(0x9FC0); /* all exceptions masked, flush to zero, denormals are zero */
    for (int m = 0; m < amx.rows[c]; m++) {
        for (int n = 0; n < amx.row_bytes[c] / 4; n++) {
            __m128 chain[2] = {_mm_setzero_ps(), _mm_setzero_ps()};
            for (int k = 0; k < amx.row_bytes[a] / 2; k++) {
                __m128 x = _mm_set_ss(amx_bf16(amx.data[a][m] + 2 * k));
                __m128 y = _mm_set_ss(amx_bf16(amx.data[b][k / 2] + 4 * n + 2 * (k % 2)));
                chain[k % 2] = _mm_fmadd_ss(x, y, chain[k % 2]);
            }
            float sum;
            memcpy(&sum, amx.data[c][m] + 4 * n, 4);
            sum = _mm_cvtss_f32(_mm_add_ss(_mm_set_ss(sum), _mm_add_ss(chain[0], chain[1])));
            memcpy(amx.data[c][m] + 4 * n, &sum, 4);
        }
    }
    _mm_setcsr(mode);
}

/* --- from bytes to instructions ----------------------------------------------------------------------------------- */

typedef struct amx_insn {
    uint8_t op, prefix;         /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    bool memory;
    uint8_t reg, rm, vvvv;
    unsigned char *address;
    bool has_stride;            /* a SIB byte: what an instruction on rows must have */
    int64_t stride;
    int length;
} amx_insn;

static uint64_t amx_gpr(const greg_t *g, unsigned i)
{
    static const int at[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)g[at[i]];
}

static int64_t amx_displacement(const unsigned char **p, int bytes)
{
    int32_t d = 0;
    if (bytes == 1) d = (int8_t)**p;
    if (bytes == 4) memcpy(&d, *p, 4);
    *p += bytes;
    return d;
}

static void amx_address(amx_insn *i, const greg_t *g, const unsigned char **p, unsigned mod, unsigned rm, bool x,
                        bool b)
{
    uint64_t at = 0;
    int bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (rm == 4) {
        unsigned sib = *(*p)++, index = (sib >> 3 & 7) | x << 3, base = (sib & 7) | b << 3;
        i->has_stride = true;
        i->stride = index == 4 ? 0 : (int64_t)(amx_gpr(g, index) << (sib >> 6));
        if ((sib & 7) == 5 && mod == 0) bytes = 4;
        else at = amx_gpr(g, base);
    } else if (rm == 5 && mod == 0) {
        int64_t d = amx_displacement(p, 4); /* from the next instruction; nothing follows the displacement */
        i->address = (unsigned char *)((uint64_t)*p + (uint64_t)d);
        return;
    } else {
        at = amx_gpr(g, rm | b << 3);
    }
    i->address = (unsigned char *)(at + (uint64_t)amx_displacement(p, bytes));
}

/* False: no instruction of ours. */
static bool amx_decode(amx_insn *i, const unsigned char *rip, const greg_t *g)
{
    const unsigned char *p = rip;
    *i = (amx_insn){0};
    if (p[0] != 0xC4 || (p[1] & 31) != 2) return false;
    bool r = !(p[1] & 0x80), x = !(p[1] & 0x40), b = !(p[1] & 0x20);
    i->op = p[3];
    if (i->op != 0x49 && i->op != 0x4B && i->op != 0x5C && i->op != 0x5E) return false;
    AMX_WANT(!(p[2] & 0x84), "#UD: VEX.W or VEX.L is set");
    i->prefix = p[2] & 3;
    i->vvvv = ~(p[2] >> 3) & 15;
    unsigned modrm = p[4], mod = modrm >> 6, rm = modrm & 7;
    p += 5;
    i->reg = (uint8_t)((modrm >> 3 & 7) | r << 3);
    i->memory = mod != 3;
    if (i->memory) amx_address(i, g, &p, mod, rm, x, b);
    else i->rm = (uint8_t)(rm | b << 3);
    AMX_WANT(i->reg < 8 && (i->memory || i->rm < 8), "#UD: a tile beyond 7");
    i->length = (int)(p - rip);
    return true;
}

static bool amx_run(const amx_insn *i)
{
    if (i->op == 0x5E || i->op == 0x5C) {
        if (i->memory) return false;
        AMX_WANT(i->vvvv < 8, "#UD: a tile beyond 7");
        if (i->op == 0x5E) amx_dot_bytes(i->reg, i->rm, i->vvvv, i->prefix >= 2, i->prefix == 3 || i->prefix == 1);
        else if (i->prefix == 2) amx_dot_bf16(i->reg, i->rm, i->vvvv);
        else return false;
        return true;
    }
    AMX_WANT(i->vvvv == 0, "#UD: VEX.vvvv is not 1111b");
    if (i->op == 0x4B) {
        AMX_WANT(i->memory && i->has_stride, "#UD: rows in memory without base and stride");
        if (i->prefix == 3 || i->prefix == 1) amx_load(i->reg, i->address, i->stride);
        else if (i->prefix == 2) amx_store(i->reg, i->address, i->stride);
        else return false;
        return true;
    }
    if (i->memory && i->reg == 0 && i->prefix == 0) amx_configure(i->address);
    else if (i->memory && i->reg == 0 && i->prefix == 1) amx_tell(i->address);
    else if (!i->memory && i->reg == 0 && i->rm == 0 && i->prefix == 0) amx = (amx_tiles){0};
    else if (!i->memory && i->rm == 0 && i->prefix == 3) {
        amx_want_tile(i->reg);
        memset(amx.data[i->reg], 0, sizeof amx.data[i->reg]);
    } else return false;
    return true;
}

static struct sigaction amx_before; /* what handled SIGILL until then */

static void amx_on_illegal(int signal_number, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    amx_insn i;
    if (amx_decode(&i, (const unsigned char *)g[REG_RIP], g) && amx_run(&i)) {
        g[REG_RIP] += i.length;
        amx_done++;
        return;
    }
    sigaction(signal_number, &amx_before, NULL); /* not ours: it happens again, and is handled as it would have been */
}

static bool amx_emulated; /* false: the hardware's */

/* Every call takes the signal, since cmocka takes it for each test anew. */
bool ag__amx_ready(void)
{
    amx_emulated = !amx_hardware();
    struct sigaction act = {.sa_sigaction = amx_on_illegal, .sa_flags = SA_SIGINFO}, old;
    if (!amx_emulated) return true;
    if (sigaction(SIGILL, &act, &old) != 0) abort();
    if (old.sa_sigaction != amx_on_illegal) amx_before = old;
    return true;
}

#else
#include "base/base.h"
static AG_UNUSED uint64_t amx_done;
static AG_UNUSED bool amx_emulated;
#endif
#endif
