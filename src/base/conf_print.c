#include "base/conf_priv.h"

/* "50ms to 1h", "0 to 64 threads", "text|json" */
static void range(const ag_conf_row *r, ag_buf *out)
{
    if (r->type == AG_CONF_TYPE_choice) ag_buf_addz(out, r->unit);
    if (r->type == AG_CONF_TYPE_flag) ag_buf_addz(out, "yes or no");
    if (r->type >= AG_CONF_TYPE_flag) return;
    ag__conf_number_text(r->type, r->min, out);
    ag_buf_addz(out, " to ");
    ag__conf_number_text(r->type, r->max, out);
    if (*r->unit) ag_buf_addf(out, " %s", r->unit);
}

static const char *placeholder(const ag_conf_row *r)
{
    static const char *const words[] = {
        [AG_CONF_TYPE_u32] = " N",         [AG_CONF_TYPE_u64] = " N",   [AG_CONF_TYPE_size] = " SIZE",
        [AG_CONF_TYPE_duration] = " TIME", [AG_CONF_TYPE_flag] = "",    [AG_CONF_TYPE_text] = " TEXT",
        [AG_CONF_TYPE_choice] = " WORD",   [AG_CONF_TYPE_list] = " A,B"};
    return r->type == AG_CONF_TYPE_text && strcmp(r->unit, "path") == 0 ? " FILE" : words[r->type];
}

bool ag_conf_help(const char *groups, ag_buf *out)
{
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        if (!ag__conf_in_groups(r, groups)) continue;
        size_t from = out->n;
        if (r->from == AG_CONF_ENV) {
            ag_buf_addz(out, "  ");
            ag__conf_env_name(r, out);
        } else {
            ag_buf_addf(out, "  %s--%s%s", strcmp(r->flag, "model") == 0 ? "-m, " : "", r->flag, placeholder(r));
        }
        do ag_buf_addc(out, ' ');
        while (!out->failed && out->n - from < 32);
        ag_buf_addz(out, r->help);
        size_t open = out->n;
        ag_buf_addz(out, " [");
        size_t inside = out->n;
        if (*r->def) ag_buf_addf(out, "%s", r->def);
        if (*r->def && r->type <= AG_CONF_TYPE_duration) ag_buf_addz(out, "; ");
        if (r->type != AG_CONF_TYPE_flag && r->type != AG_CONF_TYPE_choice) range(r, out);
        if (r->type == AG_CONF_TYPE_choice) ag_buf_addf(out, "; %s", r->unit);
        if (!out->failed && out->n == inside) out->n = open;
        else ag_buf_addc(out, ']');
        ag_buf_addc(out, '\n');
    }
    return !out->failed;
}

static void markdown_row(const ag_conf_row *r, ag_buf *out)
{
    ag_buf_addz(out, "| ");
    if (r->from == AG_CONF_ENV) ag_buf_addz(out, "(none)");
    else ag_buf_addf(out, "`--%s`", r->flag);
    ag_buf_addz(out, " | `");
    ag__conf_env_name(r, out);
    ag_buf_addz(out, "` | ");
    if (r->from == AG_CONF_ANY) ag_buf_addf(out, "`%s`", r->flag);
    else ag_buf_addz(out, "(none)");
    ag_buf_addf(out, " | %s | ", *r->def ? r->def : "(empty)");
    size_t from = out->n;
    range(r, out);
    if (r->type == AG_CONF_TYPE_choice && !out->failed) { /* a bar would end the cell */
        out->n = from;
        for (const char *p = r->unit; *p; p++) *p == '|' ? (void)ag_buf_addz(out, ", ") : (void)ag_buf_addc(out, *p);
    }
    ag_buf_addf(out, " | %s | %s |\n", r->reload == AG_CONF_LIVE ? "yes" : "no", r->help);
}

bool ag_conf_markdown(ag_buf *out)
{
    ag_buf_addz(
        out,
        "# Settings\n\n"
        "Printed by `autoglm serve --settings-markdown` from the table in `src/base/conf.def`; a test keeps this page current.\n\n"
        "A setting is looked for in four places, and the later one wins: its default, the YAML file named by `--config`,\n"
        "the environment, the command line. In the file it stands under its group:\n\n"
        "```yaml\nserver:\n  port: 9000\n  cors-origin: [https://chat.example, http://localhost:3000]\nlimits:\n  body-bytes: 4MiB\n```\n\n"
        "Durations carry `ms`, `s`, `m` or `h`; sizes `B`, `KiB`, `MiB`, `GiB` or `TiB`. On SIGHUP the server reads file and\n"
        "environment again and takes over the settings marked `yes` under reload; if any other one differs, it says which and\n"
        "changes nothing.\n");
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        if (i == 0 || strcmp(r->group, ag_conf_row_at(i - 1)->group) != 0)
            ag_buf_addf(
                out,
                "\n## %s\n\n| flag | environment | key | default | range | reload | what it does |\n| --- | --- | --- | --- | --- | --- | --- |\n",
                r->group);
        markdown_row(r, out);
    }
    return !out->failed;
}
