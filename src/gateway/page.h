/* page.h - the playground: the files of web/, which are part of the program.
 * Owns    : nothing; the files lie in the program's read-only data. ag_pages is the caller's.
 * Threads : any; an ag_pages is read-only after ag_pages_init.
 * Limits  : as many files as AG_PAGES has rows.
 * Errors  : none. */
#ifndef AG_PAGE_H
#define AG_PAGE_H

#include "base/base.h"

/*    name   path                file in web/       content type */
#define AG_PAGES(X)                                                                                                    \
    X(html, "/",               "index.html",     "text/html; charset=utf-8")                                           \
    X(css,  "/playground.css", "playground.css", "text/css; charset=utf-8")                                            \
    X(js,   "/playground.js",  "playground.js",  "text/javascript; charset=utf-8")

typedef struct ag_page {
    ag_str path, body;
    const char *type;
    char tag[36]; /* a strong entity tag, quotes included: other bytes, other tag */
} ag_page;

typedef enum ag_page_id {
#define AG_PAGE_ROW(name, path, file, type) AG_PAGE_##name,
    AG_PAGES(AG_PAGE_ROW)
#undef AG_PAGE_ROW
    AG_PAGE_COUNT
} ag_page_id;

typedef struct ag_pages {
    ag_page page[AG_PAGE_COUNT];
} ag_pages;

void ag_pages_init(ag_pages *p); /* after sodium_init */
const ag_page *ag_pages_find(const ag_pages *p, ag_str path); /* NULL: none */
bool ag_page_is_known(const ag_page *page, ag_str if_none_match); /* the client has these bytes already */

#endif
