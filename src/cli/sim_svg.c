#include <math.h>

#include "cli/sim_report.h"
#include "cli/svg.h"

#define WIDTH 960
#define HEIGHT 640
#define PLOT_W 380
#define PLOT_H 180

typedef struct plot {
    ag_buf *out;
    int left, top;
    double low, high;  /* of the vertical axis; logarithms to ten where log is set */
    bool log;
    double seconds;    /* of the horizontal one */
} plot;

static double x_of(const plot *p, double bin) { (void)p; return p->left + PLOT_W * bin / AG_FLEET_BINS; }

static double y_of(const plot *p, double v)
{
    double at = p->log ? log10(fmax(v, 1e-9)) : v;
    return p->top + PLOT_H * (1 - fmin(fmax((at - p->low) / (p->high - p->low), 0), 1));
}

/* The next of 1, 2, 5, 10, ... */
static double round_up(double v)
{
    double power = pow(10, floor(log10(fmax(v, 1e-6))));
    double of = v / power;
    return power * (of <= 1 ? 1 : of <= 2 ? 2 : of <= 5 ? 5 : 10);
}

/* Milliseconds (unit " ms"), shares, and numbers with their thousands. */
static void add_level(const plot *p, double v, const char *unit)
{
    double y = y_of(p, v), part = v >= 1e6 ? 1e6 : v >= 1e3 ? 1e3 : 1;
    const char *thousands = part == 1 ? "" : part == 1e3 ? "k" : "M";
    bool seconds = strcmp(unit, " ms") == 0 && v >= 1e3;
    ag_buf_addf(p->out, "<path class=\"g\" d=\"M%d %.1fh%d\"/>", p->left, y, PLOT_W);
    ag_buf_addf(p->out, "<text class=\"s\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g%s%s</text>", p->left - 6,
                y + 4, seconds ? v / 1e3 : v / part, seconds ? "" : thousands, seconds ? " s" : unit);
}

static void add_axes(const plot *p, const char *title, const char *unit)
{
    ag_buf_addf(p->out, "<text x=\"%d\" y=\"%d\">%s</text>", p->left, p->top - 10, title);
    if (p->log)
        for (int i = (int)ceil(p->low - 1e-9); i <= (int)floor(p->high + 1e-9); i++) add_level(p, pow(10, i), unit);
    else
        for (int i = 0; i <= 4; i++) add_level(p, p->low + (p->high - p->low) * i / 4, unit);
    for (int i = 0; i <= 4; i++)
        ag_buf_addf(p->out, "<text class=\"s\" x=\"%d\" y=\"%d\" text-anchor=\"%s\">%.4g s</text>",
                    p->left + PLOT_W * i / 4, p->top + PLOT_H + 18, i == 0 ? "start" : i == 4 ? "end" : "middle",
                    p->seconds * i / 4);
}

/* Points where `v` is not negative; a gap in what is known is a gap in the line. */
static void add_line(const plot *p, const double *v, uint32_t colour, bool thin)
{
    bool pen = false;
    ag_buf_addf(p->out, "<path class=\"l k%u\"%s d=\"", colour,
                thin ? " style=\"stroke-width:1;stroke-dasharray:4 3\"" : "");
    for (uint32_t i = 0; i < AG_FLEET_BINS; i++) {
        bool known = v[i] >= 0;
        if (known) ag_buf_addf(p->out, "%c%.1f %.1f", pen ? 'L' : 'M', x_of(p, i + 0.5), y_of(p, v[i]));
        bool alone = !pen && (i + 1 == AG_FLEET_BINS || v[i + 1] < 0);
        if (known && alone) ag_buf_addz(p->out, "h3"); /* so that it shows */
        pen = known;
    }
    ag_buf_addz(p->out, "\"/>");
}

static void add_legend(const plot *p, uint32_t i, const char *name)
{
    int x = p->left + (int)(i % 4) * (PLOT_W / 4), y = p->top + PLOT_H + 40 + (int)(i / 4) * 16;
    ag_buf_addf(p->out, "<path class=\"l k%u\" d=\"M%d %dh14\"/><text x=\"%d\" y=\"%d\">", i % AG_SVG_COLOURS, x, y - 4,
                x + 18, y);
    ag_svg_text(p->out, name);
    ag_buf_addz(p->out, "</text>");
}

static double largest(const double *v)
{
    double most = 0;
    for (uint32_t i = 0; i < AG_FLEET_BINS; i++) most = fmax(most, v[i]);
    return most;
}

static void add_ttft(plot p, const ag_scenario *s, const ag_fleet_result *r)
{
    uint32_t n = AG_MIN(s->n_classes, (uint32_t)AG_SVG_COLOURS);
    double least = 1e18, most = 0, v[2][AG_FLEET_BINS];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < AG_FLEET_BINS; b++) {
            if (r->ttft_us[i][0][b] == 0) continue;
            least = fmin(least, (double)r->ttft_us[i][0][b] / 1e3);
            most = fmax(most, (double)r->ttft_us[i][1][b] / 1e3);
        }
    p.log = true;
    p.low = most > 0 ? floor(log10(fmax(least, 1e-3))) : 0;
    p.high = most > 0 ? fmax(ceil(log10(most)), p.low + 1) : 1;
    add_axes(&p, "Time to first token of those who came then: p50, p95 dashed", " ms");
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < 2; k++)
            for (uint32_t b = 0; b < AG_FLEET_BINS; b++)
                v[k][b] = r->ttft_us[i][k][b] ? (double)r->ttft_us[i][k][b] / 1e3 : -1;
        add_line(&p, v[1], i, true);
        add_line(&p, v[0], i, false);
        add_legend(&p, i, s->classes[i].name);
    }
}

static void add_queue(plot p, const ag_fleet_result *r)
{
    p.high = round_up(fmax(fmax(largest(r->waiting), largest(r->running)), 1));
    add_axes(&p, "Requests waiting and running", "");
    add_line(&p, r->running, 2, false);
    add_line(&p, r->waiting, 1, false);
    plot legend = p; /* the colours are those of the lines */
    add_legend(&legend, 1, "waiting");
    add_legend(&legend, 2, "running");
}

static void add_tokens(plot p, const ag_scenario *s, const ag_fleet_result *r)
{
    uint32_t n = AG_MIN(s->n_groups, (uint32_t)AG_SVG_COLOURS);
    double v[AG_SVG_COLOURS][AG_FLEET_BINS], most = 1;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t b = 0; b < AG_FLEET_BINS; b++) v[i][b] = (double)r->tokens[i][b] * 1e6 / (double)r->bin_us;
        most = fmax(most, largest(v[i]));
    }
    p.high = round_up(most);
    add_axes(&p, "Tokens of answers a second, by tenants", "");
    for (uint32_t i = 0; i < n; i++) {
        add_line(&p, v[i], i, false);
        add_legend(&p, i, s->groups[i].name);
    }
}

static void add_busy(plot p, const ag_fleet_result *r)
{
    double v[AG_FLEET_BINS];
    for (uint32_t b = 0; b < AG_FLEET_BINS; b++) v[b] = 100 * r->busy[b];
    p.high = 100;
    add_axes(&p, "Machines busy", " %");
    add_line(&p, v, 0, false);
}

bool ag_sim_svg(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out)
{
    ag_buf_addf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, HEIGHT);
    ag_buf_addf(out, "<title>autoglm sim</title>%s<rect width=\"%d\" height=\"%d\" class=\"b\"/>", ag_svg_style, WIDTH,
                HEIGHT);
    ag_buf_addz(out, "<text class=\"t\" x=\"70\" y=\"28\">");
    ag_svg_text(out, s->name[0] ? s->name : "autoglm sim");
    ag_buf_addf(out, "</text><text class=\"s\" x=\"70\" y=\"48\">%u machine%s, %llu requests, %llu answered in full, "
                "seed %llu</text>", s->machines, s->machines == 1 ? "" : "s", (unsigned long long)r->all.asked,
                (unsigned long long)r->all.done, (unsigned long long)s->seed);
    plot p = {.out = out, .left = 70, .top = 90, .seconds = (double)s->seconds_us * 1e-6, .high = 1};
    add_ttft(p, s, r);
    p.left = 550;
    add_queue(p, r);
    p.top = 370;
    add_busy(p, r);
    p.left = 70;
    add_tokens(p, s, r);
    return ag_buf_addz(out, "</svg>\n");
}
