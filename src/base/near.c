#include "base/near.h"

/* Letters that must be added, taken away, changed or swapped with their neighbour to make b of a. */
static unsigned distance(ag_str a, ag_str b)
{
    unsigned row[3][AG_NEAR_MAX + 1];
    unsigned *before = row[0], *last = row[1], *now = row[2];
    for (size_t j = 0; j <= b.n; j++) last[j] = (unsigned)j;
    for (size_t i = 1; i <= a.n; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned d = last[j - 1] + (a.p[i - 1] != b.p[j - 1]);
            d = AG_MIN(d, AG_MIN(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1])
                d = AG_MIN(d, before[j - 2] + 1);
            now[j] = d;
        }
        unsigned *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[b.n];
}

void ag_near_begin(ag_near *n, ag_str word)
{
    *n = (ag_near){.word = word, .distance = (unsigned)AG_MIN(word.n / 3 + 1, (size_t)4)};
}

void ag_near_try(ag_near *n, const char *name)
{
    ag_str s = ag_str_of(name);
    if (n->word.n > AG_NEAR_MAX || s.n > AG_NEAR_MAX) return;
    unsigned d = distance(n->word, s);
    if (d < n->distance || (d == n->distance && n->best == NULL)) {
        n->best = name;
        n->distance = d;
    }
}
