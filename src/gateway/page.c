#include "gateway/page.h"

#include <sodium.h>

#include "gateway/req.h"

/* The page needs its own two files and this server's API, and nothing else; what would make markup or code of a text is
 * off altogether. */
#define POLICY                                                                                                         \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "    \
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

/* The assembler takes the files in as they are. AG_WEB_DIR comes from cmake, which also knows to build this again when
 * one of them changes. */
#define FILE_ROW(name, path, file, type)                                                                               \
    extern const char ag__page_##name[], ag__page_##name##_end[];                                                      \
    __asm__(".pushsection .rodata\n"                                                                                   \
            ".global ag__page_" #name ", ag__page_" #name "_end\n"                                                     \
            "ag__page_" #name ": .incbin \"" AG_WEB_DIR "/" file "\"\n"                                                \
            "ag__page_" #name "_end: .byte 0\n"                                                                        \
            ".popsection");
AG_PAGES(FILE_ROW)
#undef FILE_ROW

void ag_pages_init(ag_pages *p)
{
    *p = (ag_pages){{
#define PAGE_ROW(name, at, file, mime)                                                                                 \
    {.path = {at, sizeof(at) - 1}, .type = mime,                                                                       \
     .body = {ag__page_##name, (size_t)(ag__page_##name##_end - ag__page_##name)}},
        AG_PAGES(PAGE_ROW)
#undef PAGE_ROW
    }};
    for (uint32_t i = 0; i < AG_PAGE_COUNT; i++) {
        ag_page *page = &p->page[i];
        uint8_t hash[16];
        crypto_generichash(hash, sizeof hash, (const unsigned char *)page->body.p, page->body.n, NULL, 0);
        page->tag[0] = '"';
        sodium_bin2hex(page->tag + 1, 2 * sizeof hash + 1, hash, sizeof hash);
        memcpy(page->tag + 1 + 2 * sizeof hash, "\"", 2);
    }
}

const ag_page *ag_pages_find(const ag_pages *p, ag_str path)
{
    for (uint32_t i = 0; i < AG_PAGE_COUNT; i++)
        if (ag_str_eq(p->page[i].path, path)) return &p->page[i];
    return NULL;
}

/* A list of tags, or "*"; weak ones count as what they are the weak form of. Tags are long enough to be looked for. */
bool ag_page_is_known(const ag_page *page, ag_str if_none_match)
{
    return ag_str_eqz(if_none_match, "*") ||
           (if_none_match.n && memmem(if_none_match.p, if_none_match.n, page->tag, strlen(page->tag)));
}

void ag__page_look(ag_req *r)
{
    r->page = ag_pages_find(&r->gw->pages, r->head->path);
    r->page_known = ag_page_is_known(r->page, ag_http_head_get(r->head, "if-none-match"));
}

ag_next ag__answer_page(ag_req *r)
{
    const ag_page *page = r->page;
    const ag_http_header more[] = {
        {AG_STR("etag"), ag_str_of(page->tag)},
        {AG_STR("cache-control"), AG_STR("no-cache")}, /* kept, and asked for again by its tag */
        {AG_STR("content-security-policy"), AG_STR(POLICY)},
        {AG_STR("x-content-type-options"), AG_STR("nosniff")},
        {AG_STR("referrer-policy"), AG_STR("no-referrer")},
    };
    return r->page_known ? ag__req_answer(r, 304, NULL, (ag_str){0}, more, AG_ARRAY_LEN(more))
                         : ag__req_answer(r, 200, page->type, page->body, more, AG_ARRAY_LEN(more));
}
