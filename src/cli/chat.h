/* chat.h - a model loaded for one person at a terminal or one script: ask, and the answer is written as it comes.
 * Owns    : model, engine and the conversation so far.
 * Threads : one. ag_chat_ask handles SIGINT while it runs, so one chat at a time asks.
 * Limits  : a conversation that fits the context; the answer AG_CHAT_ANSWER_MAX bytes.
 * Errors  : those of model.h and gen.h; AG_E_CANCELLED from ask: Ctrl-C, what had come stays in the conversation. */
#ifndef AG_CHAT_H
#define AG_CHAT_H

#include <stdio.h>

#include "base/conf.h"
#include "engine/engine.h"

#define AG_CHAT_ANSWER_MAX (16u << 20)

typedef struct ag_chat ag_chat;

typedef struct ag_chat_conf {
    const char *model, *chat_template; /* chat_template NULL: the model's own */
    const ag_conf *settings;           /* of the group engine */
    const char *system;                /* NULL: none */
    bool raw;                          /* the prompt is continued as it is, without a template */
    uint32_t max_tokens;               /* 0: what the context holds */
    ag_sampling sampling;
} ag_chat_conf;

typedef struct ag_chat_answer {
    ag_buf text;
    const char *finish; /* "stop", "length" or "cancelled" */
    uint32_t prompt_tokens, tokens;
    uint64_t first_us, all_us; /* from asking to the first token and to the end */
} ag_chat_answer;

int ag_chat_open(ag_chat **out, const ag_chat_conf *conf, ag_err *err);
void ag_chat_close(ag_chat *c);
bool ag_chat_raw(const ag_chat *c); /* asked for, or the model has no template */
void ag_chat_clear(ag_chat *c);     /* a new conversation */

/* `to`: where the text is written as it comes, whole characters only, control characters taken out when `clean`; NULL:
 * nowhere. answer->text is initialised by the caller and filled. */
int ag_chat_ask(ag_chat *c, const char *text, size_t n, FILE *to, bool clean, ag_chat_answer *answer, ag_err *err);

#endif
