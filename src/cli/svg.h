/* svg.h - what our plots share: colours for light and dark pages, and text that cannot end an element.
 * Classes: `t` a title, `s` small grey text, `b` the page, `g` a line of the grid, `l` a line of data in one of the
 * colours `k0` to `k7`.
 * Owns, limits, errors: none of its own; any thread. */
#ifndef AG_SVG_H
#define AG_SVG_H

#include "base/buf.h"

#define AG_SVG_COLOURS 8

extern const char ag_svg_style[];
void ag_svg_text(ag_buf *out, const char *s); /* ASCII as it is, all else as '?' */

#endif
