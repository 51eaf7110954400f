/* sim_report.h - what a simulated run is printed as: a table, JSON, plots.
 * Owns    : nothing.
 * Threads : one.
 * Limits  : a plot shows at most AG_SVG_COLOURS classes and tenants; the rest are in the table.
 * Errors  : false: no memory. */
#ifndef AG_SIM_REPORT_H
#define AG_SIM_REPORT_H

#include "base/buf.h"
#include "sim/fleet.h"

#define AG_SIM_TEXT_MAX (8u << 20)

bool ag_sim_table(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out);
bool ag_sim_json(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out);
bool ag_sim_svg(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out);

#endif
