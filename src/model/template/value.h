/* value.h - what a template computes with: Python's values as far as templates meet them; inside of this folder only.
 * Owns    : everything lives in the rendering's arena (strings of the input are borrowed from its JSON) and is never
 *           changed once made, namespaces and iterators apart: the sandbox lets no template change a list or dict.
 * Threads : a rendering belongs to one thread.
 * Limits  : integers have 64 bits, more is an error; a rendering counts steps, bytes, and stack.
 * Errors  : functions return false (or NULL) after ag__tr_fail; the first error wins. */
#ifndef AG_TEMPLATE_VALUE_H
#define AG_TEMPLATE_VALUE_H

#include "model/template/ast.h"

typedef enum ag_tv_type {
    AG_TV_MISSING, AG_TV_UNDEF, AG_TV_NONE, AG_TV_BOOL, AG_TV_INT, AG_TV_FLOAT, AG_TV_STR, AG_TV_LIST, AG_TV_TUPLE,
    AG_TV_DICT, AG_TV_RANGE, AG_TV_VIEW, AG_TV_ITER, AG_TV_NAMESPACE, AG_TV_MACRO, AG_TV_METHOD, AG_TV_FUNC,
    AG_TV_LOOP, AG_TV_CYCLER, AG_TV_JOINER
} ag_tv_type;

#define AG_TV_MARKUP 1u /* of a string: markupsafe's Markup, from `safe` and `escape` */
#define AG_TV_GROUP 2u  /* of a tuple: from `groupby`, with .grouper and .list */

typedef struct ag_tr ag_tr;
typedef struct ag_tdict ag_tdict;
typedef struct ag_titer ag_titer;
typedef struct ag_tmacro_value ag_tmacro_value;
typedef struct ag_tloop ag_tloop;

/* Bytes that several values share; who ends where it is filled may add to it without copying. */
typedef struct ag_tgrow {
    char *p;
    size_t n, cap; /* in items of the user's size */
} ag_tgrow;

typedef struct ag_tstr {
    const char *p;
    size_t n;
    int64_t chars;  /* -1: not counted yet */
    ag_tgrow *grow; /* NULL: borrowed or part of another */
} ag_tstr;

typedef struct ag_tv ag_tv;

typedef struct ag_tlist {
    ag_tv *p;
    size_t n;
    ag_tgrow *grow;
} ag_tlist;

typedef struct ag_trange {
    int64_t start, stop, step, n;
} ag_trange;

typedef enum ag_tview_kind { AG_TVIEW_KEYS, AG_TVIEW_VALUES, AG_TVIEW_ITEMS } ag_tview_kind;
typedef struct ag_tview {
    ag_tdict *dict;
    ag_tview_kind kind;
} ag_tview;

typedef enum ag_tundef_kind { AG_TUNDEF_NAME, AG_TUNDEF_ATTR, AG_TUNDEF_HINT, AG_TUNDEF_UNSAFE } ag_tundef_kind;
typedef struct ag_tundef {
    ag_tundef_kind kind;
    const char *type; /* of the object asked */
    ag_str name;      /* or the hint */
    bool quoted;      /* the name is a string */
} ag_tundef;

struct ag_tv {
    ag_tv_type type : 8;
    unsigned flags : 8;
    union {
        bool b;
        int64_t i;
        double f;
        ag_tundef *u;
        ag_tstr *s;
        ag_tlist *l; /* LIST, TUPLE */
        ag_tdict *d; /* DICT, NAMESPACE */
        ag_trange *r;
        ag_tview *v;
        ag_titer *it;
        ag_tmacro_value *m;
        struct ag_tmethod *method;
        const struct ag_tfunc *fn;
        ag_tloop *loop;
        struct ag_tcycler *cycler;
    };
};

typedef struct ag_tpair {
    ag_tv k, v;
} ag_tpair;

struct ag_tdict {
    ag_tpair *p;
    uint32_t n, cap;
    uint32_t *index, index_cap; /* only from 9 pairs on */
};

typedef struct ag_tcycler { /* JOINER too: items[0] is the separator, pos tells whether it was used */
    ag_tlist *items;
    size_t pos;
} ag_tcycler;

/* Arguments of a call, bound to nothing yet. */
typedef struct ag_targs {
    ag_tv *pos;
    uint32_t n;
    ag_tpair *kw; /* keys are strings */
    uint32_t n_kw;
} ag_targs;

typedef bool ag_tfunc_fn(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all, ag_tv *out);

/* A row of the tables of filters, tests, methods and globals. `params`: names in order, "" none, "*" takes what comes
 * (in `all`); the first `need` must be given; a leading "/" means that names cannot be used. Absent ones come as
 * AG_TV_MISSING. */
typedef struct ag_tfunc {
    const char *name, *params;
    uint32_t need;
    ag_tfunc_fn *fn;
} ag_tfunc;

typedef struct ag_tmethod {
    ag_tv self;
    const ag_tfunc *fn;
} ag_tmethod;

typedef struct ag_tenv {
    struct ag_tenv *outer;
    ag_tv slot[];
} ag_tenv;

struct ag_tmacro_value {
    const ag_tmacro *def;
    const ag_tn *node;
    ag_tenv *env; /* where it was made */
};

struct ag_tr {
    const ag_template *t;
    const json_t *vars;
    ag_arena mem;
    ag_template_limits limits;
    uint64_t steps, bytes, seed; /* bytes: worked on, not yet counted as steps */
    uint32_t depth;
    const char *stack;
    uint32_t pos; /* of the node at work */
    int64_t now;
    ag_template_error *err;
    int rc;
    ag_tv *context, *base; /* by name: set at the top level; given by the caller or built in (looked up once) */
    ag_buf *out;
    size_t out_start;
    struct ag_tsink *sink; /* NULL: output goes to `out` */
};

/* Text in the making: of a macro, a set block, a filter. */
typedef struct ag_tsink {
    ag_tr *r;
    ag_tgrow *grow;
    size_t start;
    bool failed;
} ag_tsink;

/* render.c: errors and limits */
bool ag__tr_fail(ag_tr *r, ag_template_kind kind, const char *fmt, ...) AG_PRINTF(3, 4);
bool ag__tr_type_error(ag_tr *r, const char *fmt, ...) AG_PRINTF(2, 3);
bool ag__tr_work(ag_tr *r, size_t bytes);  /* counts bulk work as steps */
bool ag__tr_enter(ag_tr *r);               /* one level deeper; pair with ag__tr_leave when true */
void ag__tr_leave(ag_tr *r);
void *ag__tr_alloc(ag_tr *r, size_t bytes);
void *ag__tr_array(ag_tr *r, size_t count, size_t size);
bool ag__tr_write(ag_tr *r, const char *p, size_t n);
bool ag__tr_print(ag_tr *r, ag_tv v);
bool ag__tr_resolve(ag_tr *r, uint32_t name, ag_tv *out);

/* value.c: making */
#define AG_TV(t, ...) ((ag_tv){.type = (t), __VA_ARGS__})
static inline ag_tv ag__tv_none(void) { return AG_TV(AG_TV_NONE); }
static inline ag_tv ag__tv_bool(bool b) { return AG_TV(AG_TV_BOOL, .b = b); }
static inline ag_tv ag__tv_int(int64_t i) { return AG_TV(AG_TV_INT, .i = i); }
static inline ag_tv ag__tv_float(double f) { return AG_TV(AG_TV_FLOAT, .f = f); }
static inline bool ag__tv_is_seq(ag_tv v) { return v.type == AG_TV_LIST || v.type == AG_TV_TUPLE; }
static inline bool ag__tv_is_int(ag_tv v) { return v.type == AG_TV_INT || v.type == AG_TV_BOOL; }
static inline bool ag__tv_is_num(ag_tv v) { return ag__tv_is_int(v) || v.type == AG_TV_FLOAT; }
static inline int64_t ag__tv_as_int(ag_tv v) { return v.type == AG_TV_BOOL ? v.b : v.i; }
static inline double ag__tv_as_float(ag_tv v) { return v.type == AG_TV_FLOAT ? v.f : (double)ag__tv_as_int(v); }
static inline ag_str ag__tv_text(ag_tv v) { return (ag_str){v.s->p, v.s->n}; }
bool ag__tv_borrow(ag_tr *r, const char *p, size_t n, ag_tv *out);       /* bytes that live as long as the rendering */
bool ag__tv_copy(ag_tr *r, const char *p, size_t n, ag_tv *out);
bool ag__tv_strz(ag_tr *r, const char *z, ag_tv *out);                   /* a literal */
bool ag__tv_concat(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out);              /* two strings */
bool ag__tv_list(ag_tr *r, ag_tv_type type, size_t n, ag_tv *out);       /* n items to be filled in by the caller */
bool ag__tv_list_add(ag_tr *r, ag_tlist *l, ag_tv item);                 /* for lists in the making, and l + [x] */
bool ag__tv_pair(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out);                /* a tuple of two */
bool ag__tv_dict(ag_tr *r, uint32_t cap, ag_tv *out);
bool ag__tv_dict_set(ag_tr *r, ag_tdict *d, ag_tv k, ag_tv v);
bool ag__tv_dict_get(ag_tr *r, const ag_tdict *d, ag_tv k, ag_tv *out);  /* *out missing when absent; false: error */
bool ag__tv_undef(ag_tr *r, ag_tundef_kind kind, const char *type, ag_str name, ag_tv *out);
bool ag__tv_undef_fail(ag_tr *r, ag_tv u);                               /* always false */
bool ag__tv_json(ag_tr *r, const json_t *j, ag_tv *out);
int64_t ag__tv_chars(ag_tr *r, ag_tv s);
const char *ag__tv_type_name(ag_tv v);

/* compare.c */
bool ag__tv_true(ag_tv v);
bool ag__tv_eq(ag_tr *r, ag_tv a, ag_tv b, bool *out);
bool ag__tv_order(ag_tr *r, ag_tv a, ag_tv b, ag_tok_type op, bool *out); /* LT LE GT GE */
bool ag__tv_in(ag_tr *r, ag_tv item, ag_tv in, bool *out);
bool ag__tv_hash(ag_tr *r, ag_tv v, uint64_t *out);
bool ag__tv_sort(ag_tr *r, ag_tpair *p, size_t n, bool reverse);          /* stable, by .k */

/* text.c */
void ag__sink_begin(ag_tr *r, ag_tsink *s);
bool ag__sink_add(ag_tsink *s, const char *p, size_t n);
bool ag__sink_addz(ag_tsink *s, const char *z);
bool ag__sink_addc(ag_tsink *s, char c);
bool ag__sink_cp(ag_tsink *s, uint32_t cp);
bool ag__sink_fill(ag_tsink *s, ag_str what, uint64_t times);
bool ag__sink_str(ag_tsink *s, ag_tv v);  /* as str(v) */
bool ag__sink_repr(ag_tsink *s, ag_tv v); /* as repr(v) */
bool ag__sink_end(ag_tsink *s, ag_tv *out);
bool ag__tv_str(ag_tr *r, ag_tv v, ag_tv *out);      /* str(v): a plain string */
bool ag__tv_soft_str(ag_tr *r, ag_tv v, ag_tv *out); /* Markup stays Markup */
bool ag__tv_repr(ag_tr *r, ag_tv v, ag_tv *out);
bool ag__tv_escape(ag_tr *r, ag_tv v, ag_tv *out);
size_t ag__float_repr(double f, char out[32]);

/* ops.c */
bool ag__op_binary(ag_tr *r, ag_tok_type op, ag_tv a, ag_tv b, ag_tv *out);
bool ag__op_neg(ag_tr *r, ag_tv a, bool negate, ag_tv *out);
bool ag__op_item(ag_tr *r, ag_tv obj, ag_tv key, ag_tv *out);  /* obj[key] as a template means it */
bool ag__op_attr(ag_tr *r, ag_tv obj, ag_str name, ag_tv *out); /* obj.name */
bool ag__op_slice(ag_tr *r, ag_tv obj, ag_tv start, ag_tv stop, ag_tv step, ag_tv *out);
bool ag__op_len(ag_tr *r, ag_tv v, int64_t *out);
bool ag__op_int(ag_tr *r, ag_tv v, int64_t *out); /* an integer argument (bool too), else TypeError */

/* iter.c */
typedef bool ag_titer_map(ag_tr *r, ag_titer *it, ag_tv item, ag_tv *out, bool *keep);
typedef bool ag_titer_make(ag_tr *r, ag_titer *it, ag_tv *out); /* the whole list, at the first step */
struct ag_titer {
    ag_tv src;
    size_t at;
    bool reverse, done, opened;
    const char *what;    /* as repr says it */
    ag_titer *inner;     /* of `map` */
    ag_titer_map *map;
    ag_titer_make *make;
    const void *data;
};
ag_titer *ag__iter_open(ag_tr *r, ag_tv v);               /* NULL: not iterable */
int ag__iter_next(ag_tr *r, ag_titer *it, ag_tv *out);    /* 1, 0 at the end, -1 error */
bool ag__iter_lazy(ag_tr *r, const char *what, ag_tv src, ag_titer_map *map, ag_titer_make *make, const void *data,
                   ag_tv *out);
bool ag__iter_reversed(ag_tr *r, ag_tv v, ag_tv *out);
bool ag__iter_list(ag_tr *r, ag_tv v, ag_tv *out);        /* list(v) */
bool ag__tv_iterable(ag_tv v);

/* call.c */
bool ag__call(ag_tr *r, ag_tv fn, const ag_targs *args, ag_tv *out);
bool ag__call_func(ag_tr *r, const ag_tfunc *fn, ag_tv self, const ag_targs *args, ag_tv *out);
const ag_tfunc *ag__func_find(const ag_tfunc *table, size_t n, ag_str name);
bool ag__method_get(ag_tr *r, ag_tv self, ag_str name, ag_tv *out, bool *unsafe); /* *out missing: there is none */

/* eval.c, exec.c */
bool ag__eval(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out);
bool ag__eval_args(ag_tr *r, ag_tenv *env, const ag_tnargs *a, ag_targs *out);
typedef enum ag_texec { AG_TEXEC_FAIL, AG_TEXEC_NEXT, AG_TEXEC_BREAK, AG_TEXEC_CONTINUE } ag_texec;
ag_texec ag__exec(ag_tr *r, ag_tenv *env, const ag_tnlist *body);
bool ag__assign(ag_tr *r, ag_tenv *env, const ag_tn *target, ag_tv v, bool toplevel);
ag_tenv *ag__env_new(ag_tr *r, ag_tenv *outer, uint32_t n_slots);
bool ag__scope_enter(ag_tr *r, ag_tenv *env, const ag_tscope *s);
void ag__scope_leave(ag_tenv *env, const ag_tscope *s);
bool ag__macro_call(ag_tr *r, const ag_tmacro_value *m, const ag_targs *args, ag_tv *out);
struct ag_tloop {
    ag_titer *it;
    ag_tv src, after, current, before, changed;
    int64_t index0, length; /* length -1: not known yet */
    uint32_t depth0;
    const ag_tn *node;
    ag_tenv *env;    /* where a recursive loop was begun */
};
bool ag__loop_call(ag_tr *r, const ag_tloop *loop, ag_tv items, ag_tv *out);
bool ag__loop_attr(ag_tr *r, ag_tloop *loop, ag_str name, ag_tv *out);

/* the tables */
extern const ag_tfunc ag__filters_text[], ag__filters_seq[], ag__filters_misc[];
extern const ag_tfunc ag__tests[], ag__globals[], ag__str_methods[], ag__str_methods_more[];
extern const ag_tfunc ag__dict_methods[], ag__list_methods[], ag__num_methods[], ag__loop_methods[];
extern const ag_tfunc ag__cycler_methods[];
const ag_tfunc *ag__table_find(const ag_tfunc *table, ag_str name); /* tables end with a NULL name */

/* methods.c */
bool ag__str_method(ag_tr *r, ag_tv self, const char *name, const ag_tv *a, uint32_t n, ag_tv *out);
bool ag__arg_int(ag_tr *r, ag_tv v, int64_t dflt, int64_t *out); /* missing: dflt */
bool ag__arg_str(ag_tr *r, ag_tv v, const char *what, ag_str *out);

/* format.c, json.c */
bool ag__format_percent(ag_tr *r, ag_tv fmt, ag_tv args, ag_tv *out);
bool ag__format_braces(ag_tr *r, ag_tv fmt, const ag_targs *args, ag_tv *out);
ag_tfunc_fn ag__json_dump;
bool ag__attr_path(ag_tr *r, ag_tv obj, ag_tv path, const ag_tv *dflt, ag_tv *out);
bool ag__strftime(ag_tr *r, ag_str fmt, ag_tv *out);

#endif
