/* fake_engine.h - a test double for gen.h, engine.h, and what the gateway uses of model and tokenizer: tokens are
 * bytes, and the prompt says what happens. "say:TEXT" answers TEXT and stops; "long:N" N times 'x', ending by length;
 * "hold" answers "h" and waits to be cancelled; "fail:N" fails after N tokens, "burn:N" after a reader has taken N;
 * "full" is refused by the queue.
 * Faults of the machine are therefore at hand that a real engine shows only by luck.
 * Owns    : its thread and generations. Threads: as the real ones. Limits, errors: none of its own. */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include "engine/engine.h"

ag_engine *fake_engine_open(void);
void fake_engine_close(void);
uint32_t fake_engine_live(void);      /* generations not yet freed */
uint64_t fake_engine_cancelled(void); /* so many ended by ag_gen_cancel */

#endif
