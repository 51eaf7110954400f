#include "cli/svg.h"

/* Colours follow the reader's setting, and are far enough apart for most kinds of colour blindness. */
const char ag_svg_style[] =
    "<style>"
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}.s{fill:#656d76}"
    ".b{fill:#fff}.g{stroke:#d8dee4}.l{fill:none;stroke-width:2}"
    ".k0{stroke:#0969da}.k1{stroke:#bc4c00}.k2{stroke:#1a7f37}.k3{stroke:#8250df}.k4{stroke:#bf3989}.k5{stroke:#7d4e00}"
    ".k6{stroke:#1b7c83}.k7{stroke:#6e7781}"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.b{fill:#0d1117}.g{stroke:#30363d}"
    ".k0{stroke:#58a6ff}.k1{stroke:#f0883e}.k2{stroke:#3fb950}.k3{stroke:#bc8cff}.k4{stroke:#f778ba}.k5{stroke:#d29922}"
    ".k6{stroke:#39c5cf}.k7{stroke:#8b949e}}"
    "</style>";

void ag_svg_text(ag_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '<') ag_buf_addz(out, "&lt;");
        else if (*s == '&') ag_buf_addz(out, "&amp;");
        else ag_buf_addc(out, *s >= 0x20 && *s < 0x7F ? *s : '?');
    }
}
