/* Any bytes: what the automaton takes to the end is an object to jansson too, and what it has taken can be closed at
 * the cost that it says; what jansson takes it takes as well, but for what json.h rules out. */
#include <jansson.h>
#include <stdlib.h>

#include "base/buf.h"
#include "engine/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool is_object(const char *p, size_t n)
{
    json_t *j = json_loadb(p, n, 0, NULL);
    bool object = json_is_object(j);
    json_decref(j);
    return object;
}

static void close_it(ag_json j, ag_buf *text)
{
    static const char closers[] = "}]\":01nrualse{\x80\xA0\x90";
    for (uint32_t cost = ag_json_cost(&j); cost > 0; cost--) {
        ag_json next = j;
        size_t i = 0;
        for (; i < sizeof closers - 1; i++, next = j)
            if (ag_json_take(&next, (unsigned char)closers[i]) && ag_json_cost(&next) == cost - 1) break;
        AG_ASSERT(i < sizeof closers - 1);
        ag_buf_addc(text, closers[i]);
        j = next;
    }
    AG_ASSERT(ag_json_done(&j));
}

/* Half a pair or NUL in an escape, deep nests, long blanks, long numbers; and a NUL byte, which jansson lets pass. */
static bool ruled_out(const char *p, size_t n)
{
    uint32_t depth = 0, blanks = 0, digits = 0;
    char ahead = 0; /* of the digits */
    for (size_t i = 0; i < n; i++) {
        depth += p[i] == '{' || p[i] == '[';
        blanks = strchr(" \t\r\n", p[i]) ? blanks + 1 : 0;
        bool digit = p[i] >= '0' && p[i] <= '9';
        if (digit && digits == 0) ahead = i ? p[i - 1] : 0;
        digits = digit ? digits + 1 : 0;
        if (p[i] == 0 || digits > AG_JSON_DIGITS_MAX || (digits > 2 && ahead && strchr("eE+-", ahead))) return true;
        if (i + 4 < n && memcmp(p + i, "u0000", 5) == 0) return true;
        if (depth > AG_JSON_NEST_MAX || blanks > AG_JSON_BLANKS_MAX) return true;
        if (i + 2 < n && p[i] == 'u' && (p[i + 1] | 32) == 'd' && p[i + 2] >= '8') return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *p = (const char *)data;
    ag_json j, before;
    size_t i = 0;
    ag_json_init(&j);
    for (before = j; i < n && ag_json_take(&j, data[i]); i++) before = j;
    ag_buf text;
    ag_buf_init(&text, 1 << 24);
    ag_buf_add(&text, p, i);
    close_it(before, &text);
    AG_ASSERT(is_object(text.p, text.n));
    ag_buf_fini(&text);
    size_t end = n;
    while (end && strchr(" \t\r\n", p[end - 1]) && p[end - 1]) end--; /* an answer ends with its last bracket */
    if (is_object(p, n) && !ruled_out(p, n)) AG_ASSERT(i == end && ag_json_done(&before));
    return 0;
}
