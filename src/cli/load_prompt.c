#include <math.h>

#include "cli/load.h"

/* Common words are one token each, with the space before them, in the vocabularies of most models: a prompt of n words
 * has close to n tokens. The answer's usage tells how many it were. */
static const char *const words[] = {
    "the", "of", "and", "to", "in", "is", "for", "that", "on", "with", "as", "was", "by", "at", "from", "are",
    "this", "be", "or", "an", "have", "not", "it", "but", "one", "all", "they", "were", "their", "has", "more",
    "about", "when", "can", "will", "time", "there", "who", "some", "other", "new", "two", "first", "year",
    "people", "way", "day", "man", "world", "life", "hand", "part", "place", "case", "week", "work", "home",
    "water", "room", "mother", "area", "money", "story", "fact", "month", "right", "study", "book", "eye",
    "job", "word", "business", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour",
    "game", "line", "end", "member", "law", "car", "city", "community", "name", "president", "team", "minute",
    "idea", "body", "information", "back", "parent", "face", "others", "level", "office", "door", "health",
    "person", "art", "war", "history", "party", "result", "change", "night", "reason", "research", "girl",
    "boy", "moment", "air", "teacher", "force", "education", "good", "long", "great", "little", "own", "old",
    "big",
};

double ag_load_random_open(uint64_t *state) { return (double)((ag_random64(state) >> 11) + 1) * 0x1p-53; }

static double zipf_area(double x, double s) { return s == 1 ? log(x) : (pow(x, 1 - s) - 1) / (1 - s); }
static double zipf_edge(double area, double s) { return s == 1 ? exp(area) : pow(1 + area * (1 - s), 1 / (1 - s)); }

uint32_t ag_load_zipf(uint64_t *state, uint32_t n, double s)
{
    double from = zipf_area(1.5, s) - 1, to = zipf_area(n + 0.5, s);
    double near = 2 - zipf_edge(zipf_area(2.5, s) - pow(2, -s), s);
    for (;;) {
        double at = to + ag_load_random_open(state) * (from - to), x = zipf_edge(at, s);
        double k = AG_MIN(AG_MAX(floor(x + 0.5), 1.0), (double)n);
        if (k - x <= near || at >= zipf_area(k + 0.5, s) - pow(k, -s)) return (uint32_t)k;
    }
}

static uint64_t start_random(const ag_load_spec *spec, uint64_t number)
{
    uint64_t r = spec->seed;
    r = ag_random64(&r) ^ number * 0xD1342543DE82EF95u;
    ag_random64(&r);
    return r;
}

void ag_load_plan_make(const ag_load_spec *spec, uint64_t number, ag_load_plan *out)
{
    uint64_t r = start_random(spec, number), own = r;
    if (spec->pool) {
        number = ag_load_zipf(&r, spec->pool, spec->zipf);
        own = start_random(spec, ~number);
    }
    uint64_t range = (uint64_t)spec->max_tokens_high - spec->max_tokens_low + 1;
    *out = (ag_load_plan){.max_tokens = spec->max_tokens_low + (uint32_t)(ag_random64(&own) % range)};
    out->shared = ~spec->seed - number % AG_MAX(spec->prefixes, 1u);
    out->words = ag_random64(&own);
    double sum = 0, at;
    for (uint32_t i = 0; i < spec->n_tenants; i++) sum += spec->tenants[i].weight;
    at = ag_load_random_open(spec->pool ? &r : &own) * sum;
    while (out->tenant + 1 < spec->n_tenants && at > spec->tenants[out->tenant].weight)
        at -= spec->tenants[out->tenant++].weight;
}

static void add_words(ag_buf *out, uint64_t random, uint32_t n, bool first)
{
    for (uint32_t i = 0; i < n && !out->failed; i++) {
        if (i || !first) ag_buf_addc(out, ' ');
        ag_buf_addz(out, words[ag_random64(&random) % AG_ARRAY_LEN(words)]);
    }
}

bool ag_load_body(const ag_load_spec *spec, const ag_load_plan *plan, ag_buf *out)
{
    ag_buf_addc(out, '{');
    if (spec->model) {
        ag_buf_addz(out, "\"model\":");
        ag_buf_add_json(out, spec->model, strlen(spec->model));
        ag_buf_addc(out, ',');
    }
    bool system = spec->chat && spec->shared_words; /* where conversations have what they share */
    ag_buf_addz(out, spec->chat ? "\"messages\":[" : "\"prompt\":\"");
    if (system) ag_buf_addz(out, "{\"role\":\"system\",\"content\":\"");
    add_words(out, plan->shared, spec->shared_words, true);
    if (system) ag_buf_addz(out, "\"},");
    if (spec->chat) ag_buf_addz(out, "{\"role\":\"user\",\"content\":\"");
    add_words(out, plan->words, spec->prompt_words - spec->shared_words, system || spec->shared_words == 0);
    ag_buf_addz(out, spec->chat ? "\"}]" : "\"");
    ag_buf_addf(out, ",\"max_tokens\":%u,\"temperature\":%.6g", plan->max_tokens, (double)spec->temperature);
    ag_buf_addz(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (spec->ignore_eos) ag_buf_addf(out, ",\"ignore_eos\":true,\"min_tokens\":%u", plan->max_tokens);
    ag_buf_addz(out, spec->extra);
    return ag_buf_addc(out, '}');
}
