/* mbox.h - a bounded mailbox of pointers: many threads post, one takes.
 * Owns    : its ring. What travels belongs to the sender until post returns true, then to the receiver.
 * Threads : ag_mbox_post from any; ag_mbox_take from the one owner. `wake` is called by posters, from their thread,
 *           after a post (ag_mbox_post) or when they choose (ag_mbox_post_quiet, then ag_mbox_wake once for many).
 * Limits  : `cap` messages, rounded up to a power of two.
 * Errors  : post returns false when full: the sender keeps the message. AG_E_NOMEM from open only.
 * Source  : the bounded queue of D. Vyukov (a sequence number per cell). */
#ifndef AG_MBOX_H
#define AG_MBOX_H

#include "base/base.h"

typedef struct ag_mbox ag_mbox;
typedef void ag_mbox_wake_fn(void *arg);

int ag_mbox_open(ag_mbox **out, uint32_t cap, ag_mbox_wake_fn *wake, void *wake_arg);
void ag_mbox_close(ag_mbox *m); /* asserts that it is empty; NULL is fine */
bool ag_mbox_post(ag_mbox *m, void *msg);
bool ag_mbox_post_quiet(ag_mbox *m, void *msg);
void ag_mbox_wake(ag_mbox *m);
void *ag_mbox_take(ag_mbox *m); /* NULL: empty */

#endif
