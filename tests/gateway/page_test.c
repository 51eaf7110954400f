#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <sodium.h>

#include "gateway/page.h"

static void files_are_whole(void **state)
{
    ag_pages p;
    (void)state;
    ag_pages_init(&p);
    const ag_page *html = ag_pages_find(&p, AG_STR("/")), *css = ag_pages_find(&p, AG_STR("/playground.css"));
    const ag_page *js = ag_pages_find(&p, AG_STR("/playground.js"));
    assert_true(html && css && js);
    assert_true(ag_str_starts(html->body, AG_STR("<!doctype html>")));
    assert_memory_equal(html->body.p + html->body.n - 8, "</html>\n", 8);
    assert_memory_equal(js->body.p + js->body.n - 9, "begin();\n", 9);
    assert_int_equal(css->body.p[css->body.n - 1], '\n');
    assert_null(ag_pages_find(&p, AG_STR("")));
    assert_null(ag_pages_find(&p, AG_STR("/playground")));
    assert_string_equal(css->type, "text/css; charset=utf-8");
}

static void tags_name_bytes(void **state)
{
    ag_pages a, b;
    (void)state;
    ag_pages_init(&a);
    ag_pages_init(&b);
    for (uint32_t i = 0; i < AG_PAGE_COUNT; i++) {
        const ag_page *page = &a.page[i];
        ag_str tag = ag_str_of(page->tag);
        assert_int_equal(tag.n, 34);
        assert_true(tag.p[0] == '"' && tag.p[33] == '"');
        assert_string_equal(page->tag, b.page[i].tag);
        assert_string_not_equal(page->tag, a.page[(i + 1) % AG_PAGE_COUNT].tag);
        assert_true(ag_page_is_known(page, tag));
        assert_true(ag_page_is_known(page, AG_STR("*")));
        assert_false(ag_page_is_known(page, (ag_str){0}));
        assert_false(ag_page_is_known(page, (ag_str){tag.p, tag.n - 1}));
        assert_false(ag_page_is_known(page, (ag_str){tag.p + 1, tag.n - 1}));
        assert_false(ag_page_is_known(page, AG_STR("**")));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(files_are_whole), cmocka_unit_test(tags_name_bytes)};
    if (sodium_init() < 0) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
