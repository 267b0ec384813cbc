/* SPDX-License-Identifier: Apache-2.0
 *
 * Fencing decided: which node needs it, what an agent may do about it and when, what counts as
 * evidence. The diagram is in fence_fsm.h; who carries it out is the shell and hamgr-fence.
 */
#include "fence/fence_fsm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fence/fence_walk.h"
#include "hamgr/base/sm.h"
#include "hamgr/core/reason.h"

#define TO(step) HA_SM_TO(FENCE_##step)
static const struct ha_sm_state steps[FENCE_STEP_COUNT] = {
    [FENCE_IDLE] = {"idle", TO(HELD) | TO(WATCH) | TO(OFF) | TO(BACKOFF) | TO(PROVEN), false},
    [FENCE_HELD] = {"held", TO(WATCH) | TO(OFF) | TO(BACKOFF) | TO(PROVEN) | TO(IDLE), false},
    [FENCE_WATCH] = {"watch", TO(HELD) | TO(OFF) | TO(BACKOFF) | TO(PROVEN) | TO(IDLE), false},
    [FENCE_OFF] = {"off", TO(HELD) | TO(WATCH) | TO(BACKOFF) | TO(PROVEN) | TO(IDLE), false},
    [FENCE_BACKOFF] = {"back-off", TO(HELD) | TO(WATCH) | TO(OFF) | TO(PROVEN) | TO(IDLE), false},
    [FENCE_PROVEN] = {"proven", TO(IDLE), false},
};

const char *fence_step_name(uint8_t step)
{
    return step < FENCE_STEP_COUNT ? steps[step].name : "?";
}

/* One step's facts. */
struct step {
    struct fence_fsm *fsm;
    const struct fence_input *in;
    const struct ha_state *state;
    const struct ha_runtime *rt;
    struct fence_actions *out;
    bool is_leading;
};

void fence_fsm_init(struct fence_fsm *fsm)
{
    memset(fsm, 0, sizeof(*fsm));
}

/* --- Helpers --- */

static void again_at(struct step *s, uint64_t at_ms)
{
    if (at_ms < s->out->next_ms)
        s->out->next_ms = at_ms;
}

static struct fence_action *add_action(struct step *s, uint8_t type)
{
    if (s->out->count == FENCE_ACTIONS_MAX) {
        again_at(s, s->rt->now_ms);
        return NULL;
    }
    struct fence_action *action = &s->out->list[s->out->count++];
    memset(action, 0, sizeof(*action));
    action->type = type;
    return action;
}

static void move_to(struct fence_target *t, uint8_t step)
{
    if (t->step != step)
        ha_sm_move(steps, &t->step, step);
}

static bool is_running(const struct fence_run *run)
{
    return run->id != 0 && run->outcome == 0;
}

static bool is_run_of(const struct fence_run *run, const struct fence_target *t)
{
    return run->id != 0 && !run->is_stale && run->node == t->node &&
           run->incarnation == t->incarnation;
}

static bool is_member(const struct ha_state *state, uint32_t id)
{
    const struct ha_node *node = ha_state_node(state, id);

    return node && node->status == HA_NODE_MEMBER;
}

/* T_wait of an incarnation that fences itself; 0: not to be assumed of it. */
static uint64_t wait_ms(const struct ha_state *state, const struct ha_runtime *rt,
                        const struct ha_node *node)
{
    if (node->status != HA_NODE_UNCLEAN || !node->is_armed || node->is_frozen || state->is_disarmed)
        return 0;
    return log_wait_ms(&rt->timing, node->lease_ms, node->watchdog_ms);
}

/* --- Runs --- */

/* Its result counts for nothing any more; the device stays taken until there is one. */
static void make_stale(struct step *s, struct fence_run *run)
{
    if (run->id == 0 || run->is_stale)
        return;
    if (!is_running(run)) {
        memset(run, 0, sizeof(*run));
        return;
    }
    struct fence_action *action = add_action(s, FENCE_ACT_CANCEL);
    if (!action)
        return; /* at the next step */
    action->run = run->id;
    action->by = run->by;
    action->node = run->node;
    memcpy(action->device, run->device, sizeof(action->device));
    run->is_stale = true;
}

static void drop_runs(struct step *s, const struct fence_target *t)
{
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        if (is_run_of(&s->fsm->runs[i], t))
            make_stale(s, &s->fsm->runs[i]);
    }
}

static struct fence_target *find_target(struct fence_fsm *fsm, uint32_t node)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (fsm->targets[i].node == node)
            return &fsm->targets[i];
    }
    return NULL;
}

/* Ends what is overdue and frees what nobody asks about any more. A member that left the view takes
 * its runs with it: waiting for its agent would only delay. */
static void reap_runs(struct step *s)
{
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        struct fence_run *run = &s->fsm->runs[i];
        if (run->id == 0)
            continue;
        const struct fence_target *t = find_target(s->fsm, run->node);
        if (!t || !is_run_of(run, t) || log_view_cmp(run->view, s->fsm->view) != 0)
            make_stale(s, run);
        if (is_running(run) && s->rt->now_ms >= run->deadline_ms) {
            run->outcome = FENCEP_FAILED;
            snprintf(run->text, sizeof(run->text), "no answer in time");
        }
        if (is_running(run))
            again_at(s, run->deadline_ms);
        if (run->id != 0 && run->is_stale && (!is_running(run) || !is_member(s->state, run->by)))
            memset(run, 0, sizeof(*run));
    }
}

static const char *outcome_text(uint8_t outcome)
{
    switch ((enum fencep_outcome)outcome) {
    case FENCEP_VERIFIED_OFF:
        return "off";
    case FENCEP_IS_ON:
        return "still on";
    case FENCEP_OK:
        return "not asked for";
    case FENCEP_FAILED:
        return "failed";
    case FENCEP_CANCELLED:
        return "cancelled";
    }
    return "an unknown answer";
}

/* What the target's line for people says about a result. */
static void note_result(struct fence_target *t, const struct fence_run *run, const char *words)
{
    char device[HA_NAME_MAX];

    memcpy(device, run->device, sizeof(device));
    snprintf(t->text, sizeof(t->text), "%s: %.95s%s", device, words,
             run->is_stale ? " (of an earlier view: not evidence)" : "");
}

void fence_fsm_result(struct fence_fsm *fsm, uint64_t id, uint8_t outcome, const char *text)
{
    bool is_known = outcome >= FENCEP_VERIFIED_OFF && outcome <= FENCEP_CANCELLED;
    const char *words = text && text[0] ? text : outcome_text(outcome);

    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        struct fence_run *run = &fsm->runs[i];
        if (run->id != id || !is_running(run))
            continue;
        run->outcome = is_known ? outcome : (uint8_t)FENCEP_FAILED;
        snprintf(run->text, sizeof(run->text), "%.95s", words);
        struct fence_target *t = find_target(fsm, run->node);
        if (t)
            note_result(t, run, words);
        return;
    }
}

/* --- One level of one attempt --- */

static bool is_device_taken(const struct fence_fsm *fsm, const char *name)
{
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        if (is_running(&fsm->runs[i]) && strncmp(fsm->runs[i].device, name, HA_NAME_MAX) == 0)
            return true;
    }
    return false;
}

static struct fence_run *find_run(struct fence_fsm *fsm, const struct fence_target *t,
                                  const char *name)
{
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        if (is_run_of(&fsm->runs[i], t) && strncmp(fsm->runs[i].device, name, HA_NAME_MAX) == 0)
            return &fsm->runs[i];
    }
    return NULL;
}

static struct fence_run *free_run(struct fence_fsm *fsm)
{
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        if (fsm->runs[i].id == 0)
            return &fsm->runs[i];
    }
    return NULL;
}

/* Unique over views, and so over the processes that lead them: a late answer to a leader that has
 * been restarted since never passes for an answer to its new one (I7). */
static uint64_t new_run_id(struct step *s)
{
    uint64_t first = s->rt->view.counter << 20;

    if (s->fsm->run_high < first)
        s->fsm->run_high = first;
    return ++s->fsm->run_high;
}

static void start_run(struct step *s, const struct fence_target *t,
                      const struct fence_device *device)
{
    const struct fence_member *by = fence_walk_member(s->in, t->node, device->name, t->attempts);
    struct fence_run *run = free_run(s->fsm);
    uint32_t timeout_ms = device->timeout_ms ? device->timeout_ms : FENCE_DEVICE_MS;

    /* One run per device at a time; a result makes room, and the next step comes with it. */
    if (!by || !run || is_device_taken(s->fsm, device->name))
        return;
    struct fence_action *action = add_action(s, FENCE_ACT_START);
    if (!action)
        return;
    memset(run, 0, sizeof(*run));
    run->id = new_run_id(s);
    run->view = s->rt->view;
    run->node = t->node;
    run->incarnation = t->incarnation;
    run->by = by->node;
    run->deadline_ms = s->rt->now_ms + timeout_ms + FENCE_LATE_MS;
    memcpy(run->device, device->name, sizeof(run->device));
    run->device[HA_NAME_MAX - 1] = '\0';
    again_at(s, run->deadline_ms);
    action->run = run->id;
    action->by = run->by;
    action->node = t->node;
    action->action = FENCEP_OFF;
    action->timeout_ms = timeout_ms;
    memcpy(action->device, run->device, sizeof(action->device));
}

enum level_result { LEVEL_WAITS, LEVEL_IS_OFF, LEVEL_FAILED, LEVEL_IS_EMPTY };

static const char *name_of(const struct step *s, uint32_t id)
{
    const struct ha_node *node = ha_state_node(s->state, id);

    return node ? node->name : "?";
}

/* And the smallest fix: at who is asked for devices at all, so lacks only this one. */
static void note_out_of_reach(const struct step *s, struct fence_target *t,
                              const struct fence_walk *w)
{
    const struct fence_member *by = w->member;
    const char *knower = name_of(s, by->node);
    struct fence_walk asked = {0};

    if (by->is_mute && by->node != t->node)
        snprintf(t->text, sizeof(t->text),
                 "level %u needs %.63s, too, which only %.63s can drive: start hamgr-fence there",
                 t->level, w->device->name, knower);
    else if (fence_walk_next(s->in, &asked, t->node))
        snprintf(t->text, sizeof(t->text),
                 "level %u needs %.63s, too, says %.50s: name it in fence.conf of %.50s%s",
                 t->level, w->device->name, knower, name_of(s, asked.member->node),
                 by->node == t->node ? "" : ", or bring that node back");
}

/* Some supply of it that is known of can be switched by nobody here: the rest proves nothing, and
 * is left alone (I7). */
static bool is_out_of_reach(const struct step *s, struct fence_target *t)
{
    struct fence_walk w = {.level = t->level};

    while (fence_walk_next(s->in, &w, t->node)) {
        if (fence_walk_member(s->in, t->node, w.device->name, 1))
            continue;
        note_out_of_reach(s, t, &w);
        return true;
    }
    return false;
}

/* Starts what has not started, and looks at what has ended. */
static enum level_result try_level(struct step *s, struct fence_target *t)
{
    struct fence_walk w = {.level = t->level};
    uint32_t devices = 0, off = 0;
    bool has_failed = false;

    if (is_out_of_reach(s, t))
        return LEVEL_FAILED;
    while (fence_walk_next(s->in, &w, t->node)) {
        devices++;
        const struct fence_run *run = find_run(s->fsm, t, w.device->name);
        if (!run)
            start_run(s, t, w.device);
        else if (run->outcome == FENCEP_VERIFIED_OFF)
            off++;
        else if (run->outcome != 0)
            has_failed = true;
    }
    if (devices == 0)
        return LEVEL_IS_EMPTY;
    if (has_failed)
        return LEVEL_FAILED;
    return off == devices ? LEVEL_IS_OFF : LEVEL_WAITS;
}

static uint64_t retry_delay_ms(uint32_t attempts)
{
    uint64_t delay_ms = FENCE_RETRY_MIN_MS;

    for (uint32_t i = 1; i < attempts && delay_ms < FENCE_RETRY_MAX_MS; i++)
        delay_ms *= 2;
    return delay_ms < FENCE_RETRY_MAX_MS ? delay_ms : FENCE_RETRY_MAX_MS;
}

/* L4 over views, which members that come and go can open faster than agents answer. The first
 * attempt that is cut short is repeated at once, later ones like failed ones, from their begin. */
static uint64_t earliest_ms(const struct fence_target *t)
{
    return t->attempts < 2 ? 0 : t->begun_ms + retry_delay_ms(t->attempts - 1);
}

static void wait_until(struct step *s, struct fence_target *t, uint64_t at_ms)
{
    move_to(t, FENCE_BACKOFF);
    t->retry_ms = at_ms;
    again_at(s, at_ms);
}

static void back_off(struct step *s, struct fence_target *t, uint64_t delay_ms)
{
    drop_runs(s, t);
    wait_until(s, t, s->rt->now_ms + delay_ms);
}

/* --- Evidence --- */

static void propose(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    struct ha_cmd cmd = {.type = HA_CMD_FENCED,
                         .reason = node->is_fence_wanted ? HA_REASON_OPERATOR : HA_REASON_ABSENT,
                         .cause = node->status_index,
                         .actor = "fencing",
                         .node = t->node,
                         .incarnation = t->incarnation};

    t->retry_ms = s->rt->now_ms + FENCE_PROPOSE_MS;
    again_at(s, t->retry_ms);
    cmd.u.fenced.evidence = t->evidence;
    memcpy(cmd.u.fenced.detail, t->detail, sizeof(cmd.u.fenced.detail));
    if (ha_state_check(s->state, &cmd) != HA_REASON_NONE)
        return;
    struct fence_action *action = add_action(s, FENCE_ACT_PROPOSE);
    if (!action)
        return;
    action->node = t->node;
    action->cmd = cmd;
}

static void prove(struct step *s, struct fence_target *t, const struct ha_node *node,
                  uint8_t evidence)
{
    /* I7, I11: only against an incarnation that is gone, only while this node leads. */
    ha_assert(s->is_leading && node->status == HA_NODE_UNCLEAN);
    ha_assert(node->incarnation == t->incarnation);
    t->evidence = evidence;
    drop_runs(s, t);
    move_to(t, FENCE_PROVEN);
    propose(s, t, node);
}

static void describe_runs(const struct step *s, struct fence_target *t)
{
    size_t used = 0;

    t->detail[0] = '\0';
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        const struct fence_run *run = &s->fsm->runs[i];
        if (!is_run_of(run, t) || run->outcome != FENCEP_VERIFIED_OFF)
            continue;
        int length = snprintf(t->detail + used, sizeof(t->detail) - used, "%s%s: %s",
                              used ? "; " : "", run->device, run->text);
        if (length < 0 || (size_t)length >= sizeof(t->detail) - used)
            return;
        used += (size_t)length;
    }
}

static void level_is_off(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    describe_runs(s, t);
    snprintf(t->text, sizeof(t->text), "%s", t->detail);
    if (node->status == HA_NODE_UNCLEAN) {
        prove(s, t, node, HA_EVIDENCE_AGENT);
        return;
    }
    /* A live member, switched off for an operator: its absence opens a view, and there one more
     * look is the evidence. Should it stay, the agent lied: ask again, slowly. */
    back_off(s, t, FENCE_RETRY_MAX_MS);
}

static void go_on_off(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    for (;;) {
        switch (try_level(s, t)) {
        case LEVEL_WAITS:
            return;
        case LEVEL_IS_OFF:
            level_is_off(s, t, node);
            return;
        case LEVEL_FAILED:
        case LEVEL_IS_EMPTY:
            break;
        }
        drop_runs(s, t);
        uint8_t level = fence_walk_level(s->in, t->node, t->level);
        if (level == 0) {
            back_off(s, t, retry_delay_ms(t->attempts));
            return;
        }
        t->level = level;
    }
}

static void begin_off(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    move_to(t, FENCE_OFF);
    t->attempts++;
    t->begun_ms = s->rt->now_ms;
    t->level = fence_walk_level(s->in, t->node, 0);
    go_on_off(s, t, node);
}

/* T_wait has passed: whatever the node does, its keeper has let the watchdog bite, or its guests
 * are paused and silent. */
static bool look_at_lease(struct step *s, struct fence_target *t, const struct ha_node *node,
                          uint64_t evidence_ms)
{
    uint64_t needed_ms = wait_ms(s->state, s->rt, node);

    if (needed_ms == 0)
        return false;
    if (evidence_ms < needed_ms) {
        again_at(s, s->rt->now_ms + (needed_ms - evidence_ms));
        return false;
    }
    snprintf(t->detail, sizeof(t->detail),
             "silent for %" PRIu64 " ms, T_wait is %" PRIu64 " ms (L %" PRIu32 ", W %" PRIu32 ")",
             evidence_ms, needed_ms, node->lease_ms, node->watchdog_ms);
    snprintf(t->text, sizeof(t->text), "%s", t->detail);
    prove(s, t, node, HA_EVIDENCE_LEASE);
    return true;
}

/* --- One target --- */

/* After a reunion its neighbours may still come port by port; only an operator needs no patience.
 */
static bool is_reunion_held(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    if (node->status != HA_NODE_UNCLEAN || !ha_runtime_is_held(s->rt, node))
        return false;
    again_at(s, s->rt->now_ms + (s->rt->hold_ms - s->rt->view_age_ms));
    snprintf(t->text, sizeof(t->text), "waits %" PRIu32 " ms for it to come back after a reunion",
             s->rt->hold_ms);
    return true;
}

/* A hamgrd that restarts must not cost its host (L5): the guests run there on its lease, which ends
 * L after its last heartbeat: at the latest L after this view began without it. */
static bool is_restart_held(struct step *s, struct fence_target *t, const struct ha_node *node,
                            uint32_t slot)
{
    uint64_t lease_ms = node->is_armed && node->lease_ms ? node->lease_ms : s->rt->lease_ms;
    uint64_t silent_ms = s->in->evidence_ms[slot];

    if (silent_ms < s->rt->view_age_ms)
        silent_ms = s->rt->view_age_ms;
    if (node->status != HA_NODE_UNCLEAN || !s->in->is_host_up[slot] || silent_ms >= lease_ms)
        return false;
    again_at(s, s->rt->now_ms + (lease_ms - silent_ms));
    snprintf(t->text, sizeof(t->text), "its host is up: hamgrd may return within L, %" PRIu64 " ms",
             lease_ms);
    return true;
}

/* Switching off is for nodes that hold something back: guests, or an end of a migration. */
static bool holds_guests(const struct ha_state *state, const struct ha_node *node)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        const struct ha_guest *guest = &state->guests[i];
        if (guest->phase == HA_PHASE_FREE)
            continue;
        if (guest->node == node->id)
            return true;
        if (guest->ticket.id && (guest->ticket.src == node->id || guest->ticket.dst == node->id))
            return true;
    }
    return false;
}

/* True if agents have a task here; else says why not. */
static bool is_agents_turn(const struct step *s, struct fence_target *t, const struct ha_node *node)
{
    const char *why = NULL;

    t->has_no_device = fence_walk_level(s->in, t->node, 0) == 0;
    /* Its view is open until its lease ends; the others may have taken the target back by then. */
    if (!s->in->is_quorate)
        why = "no quorum is heard: the others may have taken it back";
    else if (s->in->is_needed[node - s->state->nodes]) /* off again and again, none recording it */
        why = "no quorum without the process that came under its id";
    else if (!node->is_fence_wanted && node->is_frozen)
        why = "frozen: only an operator's fence or confirmation frees its guests";
    else if (!node->is_fence_wanted && !holds_guests(s->state, node))
        why = "it holds no guest: nothing waits for it";
    else if (t->has_no_device)
        why = "no member has a fence device for it";
    if (why && t->attempts == 0)
        snprintf(t->text, sizeof(t->text), "%s", why);
    return !why;
}

static void use_agents(struct step *s, struct fence_target *t, const struct ha_node *node)
{
    if (!is_agents_turn(s, t, node)) {
        drop_runs(s, t);
        move_to(t, FENCE_WATCH);
        return;
    }
    if (t->step == FENCE_OFF) {
        go_on_off(s, t, node);
        return;
    }
    bool is_hastened = node->is_fence_wanted && !t->is_hastened;
    uint64_t next_ms = t->step == FENCE_BACKOFF ? t->retry_ms : earliest_ms(t);
    if (s->rt->now_ms < next_ms && !is_hastened) {
        wait_until(s, t, next_ms);
        return;
    }
    t->is_hastened = node->is_fence_wanted;
    begin_off(s, t, node);
}

static void step_target(struct step *s, struct fence_target *t, uint32_t slot)
{
    const struct ha_node *node = &s->state->nodes[slot];

    if (t->step == FENCE_PROVEN) {
        if (s->rt->now_ms >= t->retry_ms)
            propose(s, t, node);
        again_at(s, t->retry_ms);
        return;
    }
    bool is_held = is_reunion_held(s, t, node);
    if (!is_held && look_at_lease(s, t, node, s->in->evidence_ms[slot]))
        return;
    if (!node->is_fence_wanted && (is_held || is_restart_held(s, t, node, slot))) {
        drop_runs(s, t);
        move_to(t, FENCE_HELD);
        return;
    }
    use_agents(s, t, node);
}

/* --- All targets --- */

static bool is_target(const struct ha_node *node)
{
    return node->status == HA_NODE_UNCLEAN ||
           (node->status == HA_NODE_MEMBER && node->is_fence_wanted);
}

static void end_target(struct step *s, struct fence_target *t)
{
    drop_runs(s, t);
    memset(t, 0, sizeof(*t));
}

static struct fence_target *take_target(struct step *s, const struct ha_node *node)
{
    struct fence_target *t = find_target(s->fsm, node->id);

    if (t)
        return t;
    s->fsm->is_empty = false;
    t = find_target(s->fsm, 0);
    ha_assert(t); /* as many slots as there can be nodes, and those gone were dropped before */
    t->node = node->id;
    t->incarnation = node->incarnation;
    t->started_ms = s->rt->now_ms;
    return t;
}

/* A new view judges everything again: runs of the old one are cancelled, what they found is not
 * evidence. Targets stay, also while another node leads: views can't reset their attempts. */
static void enter_view(struct step *s)
{
    struct log_view none = {0};
    struct log_view view = s->is_leading ? s->rt->view : none;

    if (log_view_cmp(view, s->fsm->view) == 0)
        return;
    s->fsm->view = view;
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        struct fence_target *t = &s->fsm->targets[i];
        if (t->node != 0)
            move_to(t, FENCE_IDLE);
    }
}

/* Another life of a node is another target: its evidence begins anew. */
static void drop_targets(struct step *s)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        struct fence_target *t = &s->fsm->targets[i];
        const struct ha_node *node = t->node ? ha_state_node(s->state, t->node) : NULL;
        if (t->node != 0 && (!node || !is_target(node) || node->incarnation != t->incarnation))
            end_target(s, t);
    }
}

static bool is_empty(const struct fence_fsm *fsm)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (fsm->targets[i].node != 0)
            return false;
    }
    for (uint32_t i = 0; i < FENCE_RUNS_MAX; i++) {
        if (fsm->runs[i].id != 0)
            return false;
    }
    return true;
}

void fence_fsm_step(struct fence_fsm *fsm, const struct fence_input *in,
                    struct fence_actions *ret_actions)
{
    struct step s = {.fsm = fsm, .in = in, .state = in->state, .rt = in->rt, .out = ret_actions};

    ret_actions->count = 0;
    ret_actions->next_ms = UINT64_MAX;
    s.is_leading = s.rt->is_open && s.rt->is_leader && !s.state->is_disarmed &&
                   is_member(s.state, s.rt->self) && log_view_cmp(s.rt->view, s.state->view) == 0 &&
                   s.state->applied >= s.rt->commit_index;
    enter_view(&s);
    if (!fsm->is_empty) {
        drop_targets(&s);
        reap_runs(&s);
        fsm->is_empty = is_empty(fsm);
    }
    for (uint32_t slot = 0; s.is_leading && slot < s.state->node_count; slot++) {
        if (is_target(&s.state->nodes[slot]))
            step_target(&s, take_target(&s, &s.state->nodes[slot]), slot);
    }
}

void fence_fsm_progress(const struct fence_fsm *fsm, const struct fence_input *in,
                        struct ha_fence_progress ret_progress[HA_NODES_MAX])
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (ret_progress[i].node != 0)
            memset(&ret_progress[i], 0, sizeof(ret_progress[i]));
    }
    bool is_told = !fsm->is_empty && fsm->view.counter != 0; /* else another node leads */
    for (uint32_t slot = 0; slot < in->state->node_count && is_told; slot++) {
        const struct ha_node *node = &in->state->nodes[slot];
        struct ha_fence_progress *progress = &ret_progress[slot];
        for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
            const struct fence_target *t = &fsm->targets[i];
            if (t->node != node->id)
                continue;
            progress->node = t->node;
            progress->incarnation = t->incarnation;
            progress->attempts = t->attempts;
            progress->has_no_device = t->has_no_device;
            progress->started_ms = t->started_ms;
            progress->evidence_ms = in->evidence_ms[slot];
            progress->wait_ms = wait_ms(in->state, in->rt, node);
            if (node->status == HA_NODE_UNCLEAN && ha_runtime_is_held(in->rt, node))
                progress->hold_until_ms = in->rt->now_ms + (in->rt->hold_ms - in->rt->view_age_ms);
            memcpy(progress->text, t->text, sizeof(progress->text));
        }
    }
}
