/* SPDX-License-Identifier: Apache-2.0
 *
 * What the seeds reached: moves of the state machines (seen from outside, before and after each
 * call that may move them), kinds of faults, which came close together, operators' acts.
 */
#include <string.h>

#include "migrate/move_fsm.h"
#include "tests/sim/sim.h"

#define CLOSE_NS (20 * NS_S)
#define STATES   8u

static uint64_t moves[SIM_SMS][STATES][STATES];
static uint64_t faults[SIM_F_COUNT], pairs[SIM_F_COUNT][SIM_F_COUNT], acts[32];
static uint64_t last_at[SIM_F_COUNT]; /* true time + 1; 0: not in this world */

void sim_transition(enum sim_sm machine, uint8_t from, uint8_t to)
{
    moves[machine][from % STATES][to % STATES]++;
}

void sim_cover_begin(void)
{
    memset(last_at, 0, sizeof(last_at));
}

void sim_cover_fault(enum sim_fault fault)
{
    for (uint32_t other = 0; other < SIM_F_COUNT; other++) {
        if (last_at[other] && sim.now + 1 - last_at[other] < CLOSE_NS)
            pairs[other][fault]++;
    }
    faults[fault]++;
    last_at[fault] = sim.now + 1;
}

void sim_cover_act(uint8_t act)
{
    acts[act % 32]++;
}

/* For tests/sim/run, which adds up several processes and knows what has to be there. */
void sim_cover_print(void)
{
    static const char *const machines[SIM_SMS] = {"keeper",      "gate",  "fence", "source",
                                                  "destination", "guest", "node"};
    static const char *const versions[SIM_COVERS] = {"entry", "report", "dropped", "refused"};

    for (uint32_t m = 0; m < SIM_SMS; m++) {
        for (uint32_t i = 0; i < STATES * STATES; i++) {
            if (moves[m][i / STATES][i % STATES])
                printf("cover move %s %u %u %llu\n", machines[m], i / STATES, i % STATES,
                       (unsigned long long)moves[m][i / STATES][i % STATES]);
        }
    }
    for (uint32_t a = 0; a < SIM_F_COUNT; a++) {
        printf("cover fault %s %llu\n", sim_fault_name((uint8_t)a), (unsigned long long)faults[a]);
        for (uint32_t b = 0; b < SIM_F_COUNT; b++) {
            if (pairs[a][b])
                printf("cover pair %s %s %llu\n", sim_fault_name((uint8_t)a),
                       sim_fault_name((uint8_t)b), (unsigned long long)pairs[a][b]);
        }
    }
    for (uint32_t act = 0; act < 32; act++) {
        if (acts[act])
            printf("cover act %u %llu\n", act, (unsigned long long)acts[act]);
    }
    for (uint32_t what = 0; what < SIM_COVERS; what++)
        printf("cover version %s %llu\n", versions[what],
               (unsigned long long)sim_version_covered((enum sim_cover_version)what));
}

/* ---- calls that may move a machine -------------------------------------------------------------
 */

void __real_gate_fsm_tick(struct gate_fsm *fsm, const struct gate_view *view,
                          struct gate_order *ret_order);
bool __real_gate_fsm_round(struct gate_fsm *fsm, const struct gate_round *round, uint64_t now_ns,
                           struct gate_order *ret_order);
void __real_fence_fsm_step(struct fence_fsm *fsm, const struct fence_input *in,
                           struct fence_actions *ret_actions);
void __real_move_fsm_connected(struct move_fsm *fsm, uint64_t now_ms);
void __real_move_fsm_hv(struct move_fsm *fsm, uint64_t now_ms, const struct hv_progress *progress);
void __real_move_fsm_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t raw_bytes);
void __wrap_move_fsm_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t raw_bytes);
void __real_move_fsm_stream_done(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_move_fsm_stream_done(struct move_fsm *fsm, uint64_t now_ms);
void __real_move_fsm_saved(struct move_fsm *fsm, uint64_t now_ms);
void __real_move_fsm_restored(struct move_fsm *fsm, uint64_t now_ms);
void __real_move_fsm_handover(struct move_fsm *fsm, uint64_t now_ms);
void __real_move_fsm_switched(struct move_fsm *fsm, uint64_t now_ms);
bool __real_move_fsm_fail(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_gate_fsm_tick(struct gate_fsm *fsm, const struct gate_view *view,
                          struct gate_order *ret_order);
bool __wrap_gate_fsm_round(struct gate_fsm *fsm, const struct gate_round *round, uint64_t now_ns,
                           struct gate_order *ret_order);
void __wrap_fence_fsm_step(struct fence_fsm *fsm, const struct fence_input *in,
                           struct fence_actions *ret_actions);
void __wrap_move_fsm_connected(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_move_fsm_hv(struct move_fsm *fsm, uint64_t now_ms, const struct hv_progress *progress);
void __wrap_move_fsm_saved(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_move_fsm_restored(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_move_fsm_handover(struct move_fsm *fsm, uint64_t now_ms);
void __wrap_move_fsm_switched(struct move_fsm *fsm, uint64_t now_ms);
bool __wrap_move_fsm_fail(struct move_fsm *fsm, uint64_t now_ms);

static void note(enum sim_sm machine, uint8_t from, uint8_t to)
{
    if (from != to)
        sim_transition(machine, from, to);
}

static void note_move(const struct move_fsm *fsm, uint8_t from)
{
    note(fsm->is_source ? SIM_SM_SOURCE : SIM_SM_DESTINATION, from, fsm->step);
}

void __wrap_gate_fsm_tick(struct gate_fsm *fsm, const struct gate_view *view,
                          struct gate_order *ret_order)
{
    uint8_t from = fsm->state;

    __real_gate_fsm_tick(fsm, view, ret_order);
    note(SIM_SM_GATE, from, fsm->state);
}

bool __wrap_gate_fsm_round(struct gate_fsm *fsm, const struct gate_round *round, uint64_t now_ns,
                           struct gate_order *ret_order)
{
    uint8_t from = fsm->state;
    bool is_proven = __real_gate_fsm_round(fsm, round, now_ns, ret_order);

    note(SIM_SM_GATE, from, fsm->state);
    return is_proven;
}

/* A slot of a node: what it was before, IDLE if it had none. */
void __wrap_fence_fsm_step(struct fence_fsm *fsm, const struct fence_input *in,
                           struct fence_actions *ret_actions)
{
    struct {
        uint32_t node;
        uint8_t step;
    } before[HA_NODES_MAX] = {0};

    for (uint32_t i = 0; i < HA_NODES_MAX && !fsm->is_empty; i++) {
        before[i].node = fsm->targets[i].node;
        before[i].step = fsm->targets[i].step;
    }
    bool was_empty = fsm->is_empty;
    __real_fence_fsm_step(fsm, in, ret_actions);
    if (ret_actions->count > 0)
        sim_check_fence_actions(in->state, ret_actions);
    for (uint32_t i = 0; i < HA_NODES_MAX && !(was_empty && fsm->is_empty); i++) {
        const struct fence_target *t = &fsm->targets[i];
        uint8_t from = before[i].node ? before[i].step : FENCE_IDLE;
        note(SIM_SM_FENCE, from, t->node ? t->step : FENCE_IDLE);
    }
}

void __wrap_move_fsm_connected(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_connected(fsm, now_ms);
    note_move(fsm, from);
}

void __wrap_move_fsm_hv(struct move_fsm *fsm, uint64_t now_ms, const struct hv_progress *progress)
{
    uint8_t from = fsm->step;

    __real_move_fsm_hv(fsm, now_ms, progress);
    note_move(fsm, from);
}

void __wrap_move_fsm_saved(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_saved(fsm, now_ms);
    note_move(fsm, from);
}

void __wrap_move_fsm_restored(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_restored(fsm, now_ms);
    note_move(fsm, from);
}

void __wrap_move_fsm_handover(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_handover(fsm, now_ms);
    note_move(fsm, from);
}

void __wrap_move_fsm_switched(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_switched(fsm, now_ms);
    note_move(fsm, from);
}

void __wrap_move_fsm_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t raw_bytes)
{
    uint8_t from = fsm->step;

    __real_move_fsm_bytes(fsm, now_ms, raw_bytes);
    note_move(fsm, from);
}

void __wrap_move_fsm_stream_done(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;

    __real_move_fsm_stream_done(fsm, now_ms);
    note_move(fsm, from);
}

bool __wrap_move_fsm_fail(struct move_fsm *fsm, uint64_t now_ms)
{
    uint8_t from = fsm->step;
    bool is_failed = __real_move_fsm_fail(fsm, now_ms);

    note_move(fsm, from);
    return is_failed;
}
