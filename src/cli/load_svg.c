#include <math.h>
#include <stdio.h>

#include "cli/load.h"
#include "cli/svg.h"

#define WIDTH 900
#define HEIGHT 400
#define TOP 84
#define PLOT_W 360
#define PLOT_H 240
#define LINES_MAX 8 /* all, and so many tenants as can be told apart */

typedef struct scale {
    int left;
    double low, high; /* log10 of microseconds */
} scale;

static double x_of(const scale *s, double us)
{
    return s->left + PLOT_W * (log10(AG_MAX(us, 1.0)) - s->low) / (s->high - s->low);
}
static double y_of(double share) { return TOP + PLOT_H * (1 - share); }

static const ag_hist *hist_of(const ag_load_result *r, uint32_t line, bool gap)
{
    const ag_load_stats *s = line ? &r->tenants[line - 1] : &r->all;
    return gap ? &s->gap : &s->ttft;
}

static void add_axes(ag_buf *out, const scale *s, const char *title)
{
    ag_buf_addf(out, "<text x=\"%d\" y=\"%d\">%s</text>", s->left, TOP - 10, title);
    for (int i = 0; i <= 4; i++) {
        double y = y_of(i / 4.0);
        ag_buf_addf(out,
                    "<path class=\"g\" d=\"M%d %.1fh%d\"/><text class=\"s\" x=\"%d\" y=\"%.1f\" "
                    "text-anchor=\"end\">%d%%</text>",
                    s->left, y, PLOT_W, s->left - 6, y + 4, i * 25);
    }
    static const int steps[] = {1, 2, 5};
    double room = s->high - s->low;
    for (int decade = (int)floor(s->low); decade <= (int)s->high; decade++) {
        for (size_t i = 0; i < (room > 3 ? 1 : AG_ARRAY_LEN(steps)); i++) {
            double us = steps[i] * pow(10, decade), x = x_of(s, us);
            if (log10(us) < s->low - 1e-9 || log10(us) > s->high + 1e-9) continue;
            ag_buf_addf(out,
                        "<path class=\"g\" d=\"M%.1f %dv%d\"/><text class=\"s\" x=\"%.1f\" y=\"%d\" "
                        "text-anchor=\"middle\">%.4g%s</text>",
                        x, TOP, PLOT_H, x, TOP + PLOT_H + 18, us < 1e6 ? us / 1e3 : us / 1e6, us < 1e6 ? " ms" : " s");
        }
    }
}

static void add_line(ag_buf *out, const scale *s, const ag_hist *h, uint32_t line)
{
    uint64_t seen = 0;
    double y = y_of(0);
    bool first = true;
    for (uint32_t b = 0; b < AG_HIST_BUCKETS; b++) {
        if (h->count[b] == 0) continue;
        double x = x_of(s, (double)AG_MIN(ag_hist_bucket_us(b), h->max));
        if (first) ag_buf_addf(out, "<path class=\"l k%u\" d=\"M%.1f %.1f", line, x, y);
        else ag_buf_addf(out, "H%.1f", x);
        seen += h->count[b];
        y = y_of((double)seen / (double)h->n);
        ag_buf_addf(out, "V%.1f", y);
        first = false;
    }
    if (!first) ag_buf_addz(out, "\"/>");
}

static void add_plot(ag_buf *out, const ag_load_result *r, uint32_t lines, bool gap, int left)
{
    scale s = {.left = left, .low = 12, .high = 0};
    for (uint32_t i = 0; i < lines; i++) {
        const ag_hist *h = hist_of(r, i, gap);
        if (h->n == 0) continue;
        s.low = AG_MIN(s.low, log10(AG_MAX(ag_hist_quantile(h, 0), 1.0)));
        s.high = AG_MAX(s.high, log10(AG_MAX((double)h->max, 1.0)));
    }
    if (s.low > s.high) s.low = 3, s.high = 6;
    s.low = AG_MAX(s.low - 0.1, 0.0); /* a little room, and never no width */
    s.high += 0.1;
    add_axes(out, &s, gap ? "Gap between tokens: share of gaps up to" : "Time to first token: share of requests up to");
    for (uint32_t i = lines; i-- > 0;) add_line(out, &s, hist_of(r, i, gap), i);
}

bool ag_load_svg(const ag_load_spec *spec, const ag_load_result *r, ag_buf *out)
{
    uint32_t lines = spec->n_tenants ? AG_MIN(spec->n_tenants + 1, (uint32_t)LINES_MAX) : 1;
    ag_buf_addf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\"><title>autoglm bench "
                "http</title>",
                WIDTH, HEIGHT);
    ag_buf_addz(out, ag_svg_style);
    ag_buf_addf(out, "<rect width=\"%d\" height=\"%d\" class=\"b\"/><text class=\"t\" x=\"60\" y=\"28\">", WIDTH,
                HEIGHT);
    ag_svg_text(out, spec->url);
    ag_buf_addz(out, "</text><text class=\"s\" x=\"60\" y=\"48\">");
    if (spec->rate > 0) ag_buf_addf(out, "%.6g requests/s arriving", spec->rate);
    else ag_buf_addf(out, "%u client%s", spec->clients, spec->clients == 1 ? "" : "s");
    ag_buf_addf(out, ", %llu answers, %llu failed, %.1f output tokens/s</text>", (unsigned long long)r->all.ok,
                (unsigned long long)r->all.failed, (double)r->all.output_tokens * 1e6 / (double)r->elapsed_us);
    add_plot(out, r, lines, false, 60);
    add_plot(out, r, lines, true, 510);
    for (uint32_t i = 0; i < lines && lines > 1; i++) {
        int x = 60 + (int)(i % 4) * 210, y = TOP + PLOT_H + 44 + (int)(i / 4) * 20;
        ag_buf_addf(out, "<path class=\"l k%u\" d=\"M%d %dh20\"/><text x=\"%d\" y=\"%d\">", i, x, y - 4, x + 26, y);
        ag_svg_text(out, i ? spec->tenants[i - 1].name : "all");
        ag_buf_addz(out, "</text>");
    }
    return ag_buf_addz(out, "</svg>\n");
}
