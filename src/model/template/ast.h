/* ast.h - tokens, the tree of a parsed template and the plan of its variables; inside of this folder only.
 * Owns    : everything lives in the template's arena, and points into its normalized source.
 * Threads : built by one, then read-only.
 * Limits  : AG_T_* below. Nesting is bounded by the bytes of stack that the recursion uses (AG_T_STACK_BYTES), so that
 *           it is safe whatever the compiler makes of the frames.
 * Errors  : parser functions return NULL or false after setting parser->err. */
#ifndef AG_TEMPLATE_AST_H
#define AG_TEMPLATE_AST_H

#include "base/arena.h"
#include "model/template/template.h"

#define AG_T_SOURCE_MAX (1u << 20)
#define AG_T_TREE_BYTES_MAX (256u << 20)  /* a megabyte of source makes at most half a million nodes */
#define AG_T_STACK_BYTES (320u * 1024)    /* leaves a 512 KiB thread room for its caller */

typedef enum ag_tok_type {
    AG_TOK_EOF, AG_TOK_DATA, AG_TOK_VAR_BEGIN, AG_TOK_VAR_END, AG_TOK_BLOCK_BEGIN, AG_TOK_BLOCK_END, AG_TOK_NAME,
    AG_TOK_STRING, AG_TOK_INTEGER, AG_TOK_FLOAT, AG_TOK_ADD, AG_TOK_SUB, AG_TOK_DIV, AG_TOK_FLOORDIV, AG_TOK_MUL,
    AG_TOK_MOD, AG_TOK_POW, AG_TOK_TILDE, AG_TOK_LBRACKET, AG_TOK_RBRACKET, AG_TOK_LPAREN, AG_TOK_RPAREN,
    AG_TOK_LBRACE, AG_TOK_RBRACE, AG_TOK_EQ, AG_TOK_NE, AG_TOK_GT, AG_TOK_GE, AG_TOK_LT, AG_TOK_LE, AG_TOK_ASSIGN,
    AG_TOK_DOT, AG_TOK_COLON, AG_TOK_PIPE, AG_TOK_COMMA, AG_TOK_SEMICOLON, AG_TOK_IN, AG_TOK_NOTIN
} ag_tok_type;

typedef struct ag_tok {
    ag_tok_type type;
    uint32_t pos; /* offset in the normalized source */
    union {
        ag_str s;
        int64_t i;
        double f;
    };
} ag_tok;

typedef enum ag_tn_kind {
    /* expressions */
    AG_TN_NONE, AG_TN_BOOL, AG_TN_INT, AG_TN_FLOAT, AG_TN_STR, AG_TN_NAME, AG_TN_NSREF, AG_TN_TUPLE, AG_TN_LIST,
    AG_TN_DICT, AG_TN_NEG, AG_TN_POS, AG_TN_NOT, AG_TN_BINARY, AG_TN_AND, AG_TN_OR, AG_TN_CONCAT, AG_TN_COMPARE,
    AG_TN_GETATTR, AG_TN_GETITEM, AG_TN_SLICE, AG_TN_FILTER, AG_TN_TEST, AG_TN_CALL, AG_TN_COND,
    /* statements */
    AG_TN_DATA, AG_TN_PRINT, AG_TN_IF, AG_TN_FOR, AG_TN_SET, AG_TN_SETBLOCK, AG_TN_MACRO, AG_TN_CALLBLOCK,
    AG_TN_FILTERBLOCK, AG_TN_WITH, AG_TN_AUTOESCAPE, AG_TN_BREAK, AG_TN_CONTINUE, AG_TN_BLOCK, AG_TN_LOADER
} ag_tn_kind;

typedef struct ag_tn ag_tn;

typedef struct ag_tnlist {
    ag_tn **p;
    uint32_t n, cap;
} ag_tnlist;

/* Arguments of a call, filter or test. */
typedef struct ag_tnargs {
    ag_tnlist pos, kwvalue;
    ag_str *kwname;
    uint32_t kwcap;
    ag_tn *star, *dstar;
} ag_tnargs;

/* Where a variable lives: `hops` functions out, place `slot`. */
typedef struct ag_tref {
    uint32_t hops, slot;
} ag_tref;

typedef enum ag_tload_kind { AG_TLOAD_PARAM, AG_TLOAD_RESOLVE, AG_TLOAD_ALIAS, AG_TLOAD_UNDEF } ag_tload_kind;

/* What happens to one variable when its scope is entered. */
typedef struct ag_tload {
    ag_tload_kind kind;
    uint32_t slot, name;
    ag_tref from; /* AG_TLOAD_ALIAS */
} ag_tload;

typedef struct ag_tscope {
    ag_tload *loads;
    uint32_t n_loads;
} ag_tscope;

typedef struct ag_tmacro {
    ag_str name; /* empty: a call block's body */
    ag_tnlist args, defaults;
    bool uses_caller, uses_kwargs, uses_varargs, explicit_caller;
    uint32_t *arg_slot, caller_slot, kwargs_slot, varargs_slot;
    uint32_t n_slots;
    ag_tscope scope;
} ag_tmacro;

typedef struct ag_tfor {
    ag_tn *test;
    ag_tnlist other; /* the else part */
    bool recursive, uses_loop;
    uint32_t loop_slot, n_slots; /* n_slots: of a recursive loop, which is a function of its own */
    ag_tscope scope, test_scope, else_scope;
    ag_tn *test_target; /* the target once more, for the test's own scope */
} ag_tfor;

/* One `if` or `elif` with its body; test NULL: `else`. */
typedef struct ag_tbranch {
    ag_tn *test;
    ag_tnlist body;
} ag_tbranch;

typedef struct ag_twith {
    ag_tnlist targets, values;
    ag_tscope scope;
} ag_twith;

typedef struct ag_tblock {
    ag_tscope scope;
    uint32_t n_slots; /* it is a function of its own */
} ag_tblock;

struct ag_tn {
    ag_tn_kind kind;
    uint8_t level;   /* BINARY: how tight its operators bind */
    bool toplevel;   /* SET, SETBLOCK, MACRO: also seen by macros and blocks through the context */
    bool negated;    /* TEST */
    uint32_t pos;
    uint32_t name;   /* NAME, NSREF, MACRO: interned */
    ag_tref ref;     /* NAME, NSREF, MACRO */
    ag_tn *a, *b, *c;
    ag_tnlist items; /* operands; items; a body */
    union {
        bool flag;
        int64_t i;
        double f;
        ag_str s;           /* STR, DATA, GETATTR, NSREF (attribute), FILTER and TEST (name), BLOCK, LOADER */
        struct {
            uint8_t *ops;   /* BINARY, COMPARE: ag_tok_type, one for each of items */
            uint32_t ops_cap;
        };
        struct {
            ag_tbranch *branches; /* IF */
            uint32_t n_branches, branches_cap;
        };
    };
    const void *def;        /* FILTER, TEST: the table's row, NULL when there is none */
    union {
        ag_tnargs *args;    /* FILTER, TEST, CALL */
        ag_tfor *loop;
        ag_tmacro *macro;   /* MACRO, CALLBLOCK */
        ag_tscope *scope;   /* SETBLOCK, FILTERBLOCK, AUTOESCAPE */
        ag_twith *with;
        ag_tblock *block;
    };
};

struct ag_template {
    uint32_t magic;
    ag_arena mem;
    const char *src;
    uint32_t src_len;
    ag_tnlist body;
    ag_tscope scope;
    uint32_t n_slots;
    ag_str *names;
    uint32_t n_names;
};
#define AG_TEMPLATE_MAGIC 0x4167546dU

typedef struct ag_tparser {
    ag_template *t;
    ag_arena *mem;
    ag_tok *tok;
    uint32_t n_tok, at;
    ag_template_error *err;
    int rc;
    const char *stack; /* frame at which parsing began */
    uint32_t *name_index, name_cap, names_cap;
    /* how often these names were read or assigned so far: a loop or macro compares before and after its body */
    uint32_t n_loop, n_loop_set, n_caller, n_kwargs, n_varargs;
    ag_tnlist blocks;
} ag_tparser;

/* Sets the error with line and column of `pos`; false, so that it can be returned. The first error wins. */
bool ag__tp_fail(ag_tparser *p, ag_template_kind kind, uint32_t pos, const char *fmt, ...) AG_PRINTF(4, 5);
bool ag__tp_nomem(ag_tparser *p);
bool ag__tp_stack_ok(ag_tparser *p, uint32_t pos);
bool ag__tp_push(ag_tparser *p, ag_tnlist *l, ag_tn *n); /* n may be NULL: false */
ag_tn *ag__tn_new(ag_tparser *p, ag_tn_kind kind, uint32_t pos);
bool ag__tp_intern(ag_tparser *p, ag_str name, uint32_t *id);

bool ag__t_lex(ag_tparser *p);

/* parse_expr.c */
const ag_tok *ag__tp_cur(const ag_tparser *p);
const ag_tok *ag__tp_next(ag_tparser *p); /* returns the current one and moves on */
bool ag__tp_is_name(const ag_tparser *p, const char *name);
bool ag__tp_skip_name(ag_tparser *p, const char *name);
bool ag__tp_skip(ag_tparser *p, ag_tok_type type);
const ag_tok *ag__tp_expect(ag_tparser *p, ag_tok_type type);
typedef enum ag_tp_mode {
    AG_TP_NO_COND = 1,   /* no `x if y` */
    AG_TP_SIMPLE = 2,    /* names and literals only: assignment targets */
    AG_TP_NAMESPACE = 4, /* with AG_TP_SIMPLE: `ns.attr` too */
    AG_TP_PARENS = 8     /* an empty tuple is fine */
} ag_tp_mode;
ag_tn *ag__tp_tuple(ag_tparser *p, unsigned mode, const char *end_name);
ag_tn *ag__tp_expr(ag_tparser *p);
ag_tn *ag__tp_target(ag_tparser *p, unsigned mode, const char *end_name);
ag_tn *ag__tp_target_name(ag_tparser *p);
ag_tn *ag__tp_filters(ag_tparser *p, ag_tn *node, bool inline_first);

bool ag__t_parse(ag_tparser *p);  /* parse_stmt.c */
bool ag__t_scopes(ag_tparser *p); /* scope.c */

void ag__t_line_col(const ag_template *t, uint32_t pos, uint32_t *line, uint32_t *col);
const void *ag__t_filter_find(ag_str name);
const void *ag__t_test_find(ag_str name);

#endif
