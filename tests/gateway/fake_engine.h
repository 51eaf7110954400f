/* fake_engine.h - a test double for gen.h, engine.h, and what the gateway uses of model and tokenizer: tokens are
 * bytes, and the prompt says what happens. "say:TEXT" answers TEXT and stops; "long:N" N times 'x', ending by length;
 * "hold" answers "h" and waits to be cancelled, "mute" without an answer; "fail:N" fails after N tokens, "burn:N"
 * after a reader has taken N; "full" is refused by the queue, "late" by its estimate; "displace" is taken and then put
 * out, "give up" too because its turn comes too late; "wait" in front of any of these waits for fake_engine_release,
 * with a position by band and arrival; "cut:N" says that all but the first N + 1 bytes of the answer are a stop
 * string; "reuse:N" says that N tokens were found, and one more for each further
 * choice. An embedding counts the prompt's bytes by their remainder of 4.
 * Faults of the machine are therefore at hand that a real engine shows only by luck.
 * Owns    : its thread and generations. Threads: as the real ones. Limits, errors: none of its own. */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include "engine/engine.h"

ag_engine *fake_engine_open(void);
void fake_engine_template(const char *source); /* the model's; before the gateway has the engine */
void fake_engine_close(void);
uint32_t fake_engine_live(void);      /* generations not yet freed */
void fake_engine_release(void);       /* those that wait run */
void fake_engine_identify(uint64_t as); /* ag_engine_identity; before the gateway has the engine */
void fake_engine_damage(void);        /* its weights are found damaged, and mended */
uint32_t fake_engine_made(void);      /* generations created so far, in this process; followers and replays are none */
typedef struct fake_spec {
    char tenant[80];
    float weight;
    uint8_t band;
    bool share_all;
    char share_group[65];
    uint64_t deadline_us;
} fake_spec;
fake_spec fake_engine_seen(void);     /* of the generation created last */
uint64_t fake_engine_cancelled(void); /* so many ended by ag_gen_cancel */

#endif
