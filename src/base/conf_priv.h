/* conf_priv.h - what conf.c, conf_value.c, conf_yaml.c and conf_print.c share; for them alone. */
#ifndef AG_CONF_PRIV_H
#define AG_CONF_PRIV_H

#include "base/conf.h"

/* Value texts to numbers and back, by the row's type; conf_value.c. */
int ag__conf_number(const ag_conf_row *r, const char *source, ag_str value, uint64_t *out, ag_err *err);
bool ag__conf_number_text(ag_conf_type type, uint64_t v, ag_buf *out);
bool ag__conf_form(const ag_conf_row *r, ag_buf *out); /* "a duration from 100ms to 1h, as 30s or 500ms" */

/* Reads a file's settings into c; conf_yaml.c. */
int ag__conf_file(ag_conf *c, const char *path, ag_err *err);

bool ag__conf_in_groups(const ag_conf_row *r, const char *groups);
bool ag__conf_env_name(const ag_conf_row *r, ag_buf *out); /* NUL-terminated */

#endif
