/* What stands behind `is`. */
#include "model/template/value.h"

#define TEST(name) static bool name(ag_tr *r AG_UNUSED, ag_tv self, const ag_tv *a AG_UNUSED, \
                                    const ag_targs *all AG_UNUSED, ag_tv *out)
#define TEST_TYPE(name, expr) \
    TEST(name) \
    { \
        *out = ag__tv_bool(expr); \
        return true; \
    }

TEST_TYPE(t_defined, self.type != AG_TV_UNDEF)
TEST_TYPE(t_undefined, self.type == AG_TV_UNDEF)
TEST_TYPE(t_none, self.type == AG_TV_NONE)
TEST_TYPE(t_boolean, self.type == AG_TV_BOOL)
TEST_TYPE(t_true, self.type == AG_TV_BOOL && self.b)
TEST_TYPE(t_false, self.type == AG_TV_BOOL && !self.b)
TEST_TYPE(t_integer, self.type == AG_TV_INT)
TEST_TYPE(t_float, self.type == AG_TV_FLOAT)
TEST_TYPE(t_number, ag__tv_is_num(self))
TEST_TYPE(t_string, self.type == AG_TV_STR)
TEST_TYPE(t_mapping, self.type == AG_TV_DICT)
TEST_TYPE(t_iterable, ag__tv_iterable(self))
TEST_TYPE(t_escaped, self.type == AG_TV_STR && (self.flags & AG_TV_MARKUP))
TEST_TYPE(t_callable, self.type == AG_TV_FUNC || self.type == AG_TV_METHOD || self.type == AG_TV_MACRO ||
                          self.type == AG_TV_JOINER || self.type == AG_TV_LOOP || self.type == AG_TV_UNDEF)
TEST_TYPE(t_filter, self.type == AG_TV_STR && ag__t_filter_find(ag__tv_text(self)) != NULL)
TEST_TYPE(t_test, self.type == AG_TV_STR && ag__t_test_find(ag__tv_text(self)) != NULL)

/* An undefined value has a length, but asking it for __getitem__ succeeds too: jinja2 calls it a sequence. */
TEST_TYPE(t_sequence, self.type == AG_TV_STR || ag__tv_is_seq(self) || self.type == AG_TV_DICT ||
                          self.type == AG_TV_RANGE || self.type == AG_TV_UNDEF)

TEST(t_sameas)
{
    if (self.type != a[0].type) *out = ag__tv_bool(false);
    else if (self.type == AG_TV_FLOAT) *out = ag__tv_bool(self.f == a[0].f);
    else if (self.type == AG_TV_STR || self.type == AG_TV_BOOL || self.type == AG_TV_INT || self.type == AG_TV_NONE) {
        bool same;
        if (!ag__tv_eq(r, self, a[0], &same)) return false;
        *out = ag__tv_bool(same);
    } else {
        *out = ag__tv_bool(self.s == a[0].s);
    }
    return true;
}

static bool remainder_is(ag_tr *r, ag_tv self, ag_tv by, int64_t want, ag_tv *out)
{
    ag_tv rest;
    bool same;
    if (!ag__op_binary(r, AG_TOK_MOD, self, by, &rest) || !ag__tv_eq(r, rest, ag__tv_int(want), &same)) return false;
    *out = ag__tv_bool(same);
    return true;
}

TEST(t_odd) { return remainder_is(r, self, ag__tv_int(2), 1, out); }
TEST(t_even) { return remainder_is(r, self, ag__tv_int(2), 0, out); }
TEST(t_divisibleby) { return remainder_is(r, self, a[0], 0, out); }

static bool ask_method(ag_tr *r, ag_tv self, const char *method, ag_tv *out)
{
    ag_tv s;
    return ag__tv_str(r, self, &s) && ag__str_method(r, s, method, NULL, 0, out);
}

TEST(t_lower) { return ask_method(r, self, "islower", out); }
TEST(t_upper) { return ask_method(r, self, "isupper", out); }

TEST(t_in)
{
    bool yes;
    if (!ag__tv_in(r, self, a[0], &yes)) return false;
    *out = ag__tv_bool(yes);
    return true;
}

TEST(t_eq)
{
    bool yes;
    if (!ag__tv_eq(r, self, a[0], &yes)) return false;
    *out = ag__tv_bool(yes);
    return true;
}

TEST(t_ne)
{
    if (!t_eq(r, self, a, all, out)) return false;
    out->b = !out->b;
    return true;
}

#define TEST_ORDER(name, op) \
    TEST(name) \
    { \
        bool yes; \
        if (!ag__tv_order(r, self, a[0], op, &yes)) return false; \
        *out = ag__tv_bool(yes); \
        return true; \
    }
TEST_ORDER(t_lt, AG_TOK_LT)
TEST_ORDER(t_le, AG_TOK_LE)
TEST_ORDER(t_gt, AG_TOK_GT)
TEST_ORDER(t_ge, AG_TOK_GE)

const ag_tfunc ag__tests[] = {
    {"defined", "", 0, t_defined},
    {"undefined", "", 0, t_undefined},
    {"none", "", 0, t_none},
    {"boolean", "", 0, t_boolean},
    {"true", "", 0, t_true},
    {"false", "", 0, t_false},
    {"integer", "", 0, t_integer},
    {"float", "", 0, t_float},
    {"number", "", 0, t_number},
    {"string", "", 0, t_string},
    {"mapping", "", 0, t_mapping},
    {"sequence", "", 0, t_sequence},
    {"iterable", "", 0, t_iterable},
    {"callable", "", 0, t_callable},
    {"escaped", "", 0, t_escaped},
    {"filter", "", 0, t_filter},
    {"test", "", 0, t_test},
    {"sameas", "other", 1, t_sameas},
    {"odd", "", 0, t_odd},
    {"even", "", 0, t_even},
    {"divisibleby", "num", 1, t_divisibleby},
    {"lower", "", 0, t_lower},
    {"upper", "", 0, t_upper},
    {"in", "seq", 1, t_in},
    {"eq", "/other", 1, t_eq},
    {"equalto", "/other", 1, t_eq},
    {"==", "/other", 1, t_eq},
    {"ne", "/other", 1, t_ne},
    {"!=", "/other", 1, t_ne},
    {"lt", "/other", 1, t_lt},
    {"lessthan", "/other", 1, t_lt},
    {"<", "/other", 1, t_lt},
    {"le", "/other", 1, t_le},
    {"<=", "/other", 1, t_le},
    {"gt", "/other", 1, t_gt},
    {"greaterthan", "/other", 1, t_gt},
    {">", "/other", 1, t_gt},
    {"ge", "/other", 1, t_ge},
    {">=", "/other", 1, t_ge},
    {NULL, NULL, 0, NULL},
};

const void *ag__t_test_find(ag_str name) { return ag__table_find(ag__tests, name); }
