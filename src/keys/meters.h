/* meters.h - what keys, tenants, models and addresses have used of their limits: buckets, requests in flight, the
 * month's tokens. A request has a ticket: one place in the meter of each of its subjects that has limits.
 * Owns    : its meters. A ticket is its holder's; between enter and leave it keeps its meters in place.
 * Threads : any; one lock, held for less than a microsecond.
 * Limits  : AG_METERS_MAX meters of a kind. Past it the one that was quiet longest goes if it is as good as new: none
 *           in flight, buckets full, nothing of a budget used. Addresses alone go without that.
 * Errors  : AG_E_RATE_LIMIT and AG_E_BUDGET, with *why; then nothing was taken. AG_E_NOMEM. */
#ifndef AG_METERS_H
#define AG_METERS_H

#include "keys/bucket.h"
#include "keys/key.h"

#define AG_METERS_MAX 131072
#define AG_METER_NAME_MAX 127

typedef enum ag_meter_kind {
    AG_METER_KEY,
    AG_METER_TENANT,
    AG_METER_MODEL,
    AG_METER_ADDRESS,
    AG_METER_KIND_COUNT
} ag_meter_kind;

typedef struct ag_meters ag_meters;
typedef struct ag_meter ag_meter;

typedef struct ag_ticket {
    ag_meter *meter[AG_METER_KIND_COUNT]; /* NULL: not of this kind */
    ag_limits limits[AG_METER_KIND_COUNT];
    bool elsewhere; /* who lets it in is not this: buckets are drawn to empty, and no further */
} ag_ticket;

typedef struct ag_meter_time {
    uint64_t now_us; /* monotonic */
    uint32_t month;  /* any number that changes with the month */
} ag_meter_time;

typedef struct ag_refusal {
    ag_meter_kind kind;
    ag_limit_id limit;
    uint64_t wait_us; /* until it may be tried again; 0: when one in flight has ended, or the month */
    bool never;       /* it is more than fits at once */
} ag_refusal;

int ag_meters_open(ag_meters **out);
void ag_meters_close(ag_meters *m); /* asserts that no ticket is out; NULL is fine */

/* The tightest of the limits of requests, and of tokens, as they are afterwards; limit 0: there is none. */
typedef struct ag_meter_view {
    uint64_t limit, left, reset_us;
} ag_meter_view;
typedef struct ag_meter_views {
    ag_meter_view requests, tokens;
} ag_meter_views;

/* name NULL: no such subject. One request is counted in each of the others, or in none. */
int ag_meters_enter(ag_meters *m, ag_ticket *t, const char *const names[AG_METER_KIND_COUNT],
                    const ag_limits limits[AG_METER_KIND_COUNT], ag_meter_time when, ag_refusal *why,
                    ag_meter_views *views);
int ag_meters_prompt(ag_meters *m, ag_ticket *t, uint64_t tokens, ag_meter_time when, ag_refusal *why,
                     ag_meter_views *views);
void ag_meters_prompt_undo(ag_meters *m, ag_ticket *t, uint64_t tokens); /* nothing was computed of it after all */
void ag_meters_output(ag_meters *m, ag_ticket *t, uint64_t tokens,
                      ag_meter_time when); /* made already: never refused */
void ag_meters_leave(ag_meters *m, ag_ticket *t); /* fine when it did not enter */

/* Requests that somebody else judges, for all servers together; these meters follow, to judge when that one is away.
 * hold: a place in flight, nothing drawn and nothing refused but AG_E_NOMEM. took: it was let in; months: tokens used
 * of this month in all, as that one says (0: it does not). */
int ag_meters_hold(ag_meters *m, ag_ticket *t, const char *const names[AG_METER_KIND_COUNT],
                   const ag_limits limits[AG_METER_KIND_COUNT], ag_meter_time when);
void ag_meters_took(ag_meters *m, ag_ticket *t, const uint64_t months[AG_METER_KIND_COUNT], ag_meter_time when);
/* 0 of what is not known. month_told: of the month's tokens, those that took, or seed, said last. */
typedef struct ag_meter_known {
    uint32_t in_flight;
    uint64_t month_tokens, month_told;
} ag_meter_known;
void ag_meters_known(ag_meters *m, ag_meter_kind kind, const char *name, uint32_t month, ag_meter_known *out);
const char *ag_meter_name(const ag_meter *at); /* while a ticket keeps it */

/* What was used of a month before this process began. false: no memory. */
bool ag_meters_seed(ag_meters *m, ag_meter_kind kind, const char *name, uint32_t month, uint64_t tokens);

#endif
