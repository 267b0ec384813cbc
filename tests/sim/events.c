/* SPDX-License-Identifier: Apache-2.0
 *
 * With --events: what changed with each event of the world, for machines. tests/model/check_trace
 * reads it and asks whether each step is one that the models allow. Looked at from outside after
 * each event, so nothing here can change what happens.
 *
 *     ev MS begin NODE STORE PROMISED LOGVIEW LAST DIGEST   a process has loaded its log
 *     ev MS entry INDEX DIGEST PREVIOUS VIEW KIND +N|-N|-   content, when it is first seen
 *     ev MS promise NODE VIEW LOGVIEW LAST                  durable, and what it had then
 *     ev MS choose NODE VIEW INDEX DIGEST N,N,N             a leader adopts: OPEN, whom it names
 *     ev MS store NODE LOGVIEW LAST DIGEST                  durable
 *     ev MS ack NODE VIEW INDEX
 *     ev MS commit NODE VIEW INDEX DIGEST                   VIEW 0.0: outside of one
 *     ev MS opened NODE VIEW
 *     ev MS cmd INDEX NAME NODE INCARNATION GUEST EPOCH EVIDENCE   took effect
 *     ev MS node NODE STATUS INCARNATION ARMED SAMEBOOT     as committed, after that
 *     ev MS rec GUEST PHASE NODE INCARNATION EPOCH HIGH SRC SRCINC SRCEPOCH DST DSTINC DSTEPOCH
 *     ev MS power NODE on|off
 *     ev MS keeper NODE STATE LEASE_MS IO RUNNING           what is outstanding and runs there then
 *     ev MS dom NODE GUEST EPOCH STATE LEASE_MS EXEMPT APPLIED SAVED
 */
#include <string.h>

#include "quorum/log_internal.h"
#include "tests/sim/sim.h"

#define KNOWN_MAX  (1u << 16)
#define VIEW_FMT   "%llu.%u"
#define VIEW(view) (unsigned long long)(view).counter, (view).leader
#define U(value)   (unsigned long long)(value)

struct seen_domain {
    bool is_used, is_saved;
    uint32_t domid;
    uint8_t state;
};

static struct {
    struct {
        const struct log *log;
        uint64_t nonce;
        struct log_view promised, log_view, ack_view, chosen;
        uint64_t last, acked, commit;
        struct ha_digest digest;
        uint8_t phase, keeper;
        bool has_power;
        uint64_t boots;
        struct seen_domain domains[SIM_DOMAINS];
    } nodes[SIM_NODES + 1];
    uint64_t known[KNOWN_MAX]; /* entries told: digests, an open table; 0 free */
} seen;

#define tell(...)                                                                                  \
    do {                                                                                           \
        printf("ev %llu ", U(sim.now / NS_MS));                                                    \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
    } while (0)

void sim_events_reset(void)
{
    memset(&seen, 0, sizeof(seen));
}

/* ---- the log -----------------------------------------------------------------------------------
 */

/* False if it was known. */
static bool learn(struct ha_digest digest)
{
    uint64_t key = digest.low ? digest.low : 1;
    uint32_t at = (uint32_t)(key % KNOWN_MAX);

    while (seen.known[at] && seen.known[at] != key)
        at = (at + 1) % KNOWN_MAX;
    if (seen.known[at] == key)
        return false;
    seen.known[at] = key;
    return true;
}

static void tell_entry(const struct log *log, const struct log_entry *entry)
{
    struct log_voter_change change;
    struct ha_digest before = {0, 0};

    log_ring_digest(&log->ring, entry->index - 1, &before);
    bool is_voter = entry->kind == LOG_KIND_VOTER &&
                    log_voter_change_decode(entry->body, entry->body_size, &change) == 0;
    printf("ev %llu entry %llu %016llx %016llx " VIEW_FMT " %u ", U(sim.now / NS_MS),
           U(entry->index), U(entry->digest.low), U(before.low), VIEW(entry->view), entry->kind);
    if (is_voter)
        printf("%c%u:%02x%02x\n", change.is_added ? '+' : '-', change.node, change.store_id.b[14],
               change.store_id.b[15]);
    else
        printf("-\n");
}

/* What this log holds up to index and nobody was told of. */
static void tell_entries(const struct log *log, uint64_t last)
{
    uint64_t from = last + 1;

    while (from > log->ring.first) {
        const struct log_entry *entry = log_ring_at(&log->ring, from - 1);
        if (!entry || !learn(entry->digest))
            break;
        from--;
    }
    for (uint64_t i = from; i <= last; i++)
        tell_entry(log, log_ring_at(&log->ring, i));
}

static uint64_t digest_at(const struct log *log, uint64_t index)
{
    struct ha_digest digest = {0, 0};

    log_ring_digest(&log->ring, index, &digest);
    return digest.low;
}

static void tell_choice(uint32_t id, const struct log *log)
{
    tell_entries(log, log->current.open_index);
    printf("ev %llu choose %u " VIEW_FMT " %llu %016llx ", U(sim.now / NS_MS), id,
           VIEW(log->current.view), U(log->current.open_index),
           U(digest_at(log, log->current.open_index)));
    for (uint32_t i = 0; i < log->current.names.count; i++)
        printf("%s%u", i ? "," : "", log->current.names.list[i].node);
    printf("\n");
}

static void look_at_promise(uint32_t id, const struct log *log)
{
    if (log_view_cmp(seen.nodes[id].promised, log->durable_promised) == 0)
        return;
    seen.nodes[id].promised = log->durable_promised;
    tell("promise %u " VIEW_FMT " " VIEW_FMT " %llu", id, VIEW(log->durable_promised),
         VIEW(seen.nodes[id].log_view), U(seen.nodes[id].last));
}

/* One write may hold both: entries of the view before the promise, or the log of the very view that
 * is promised, when the store was slow. */
static void look_at_store(uint32_t id, const struct log *log)
{
    uint64_t digest = digest_at(log, log->stored_last);

    if (log_view_cmp(log->durable_promised, log->durable_log_view) <= 0)
        look_at_promise(id, log);
    if (log->durable_last == log->stored_last &&
        (seen.nodes[id].digest.low != digest || seen.nodes[id].last != log->stored_last ||
         log_view_cmp(seen.nodes[id].log_view, log->durable_log_view) != 0)) {
        tell_entries(log, log->stored_last);
        tell("store %u " VIEW_FMT " %llu %016llx", id, VIEW(log->durable_log_view),
             U(log->stored_last), U(digest));
        seen.nodes[id].log_view = log->durable_log_view;
        seen.nodes[id].last = log->stored_last;
        seen.nodes[id].digest.low = digest;
    }
    look_at_promise(id, log);
}

static void look_at_view(uint32_t id, const struct log *log)
{
    bool is_chosen = log->lead.state >= LOG_LEAD_ADOPTING;

    if (is_chosen && log_view_cmp(seen.nodes[id].chosen, log->current.view) != 0) {
        seen.nodes[id].chosen = log->current.view;
        tell_choice(id, log);
    }
    if (log->self->log_index != seen.nodes[id].acked ||
        log_view_cmp(log->self->log_view, seen.nodes[id].ack_view) != 0) {
        seen.nodes[id].acked = log->self->log_index;
        seen.nodes[id].ack_view = log->self->log_view;
        tell("ack %u " VIEW_FMT " %llu", id, VIEW(log->self->log_view), U(log->self->log_index));
    }
    if (log->commit != seen.nodes[id].commit) {
        struct log_view none = {0, 0};
        struct log_view view = log->phase >= LOG_PHASE_ADOPTED ? log->current.view : none;
        seen.nodes[id].commit = log->commit;
        tell("commit %u " VIEW_FMT " %llu %016llx", id, VIEW(view), U(log->commit),
             U(digest_at(log, log->commit)));
    }
    if (log->phase != seen.nodes[id].phase && log->phase == LOG_PHASE_OPEN)
        tell("opened %u " VIEW_FMT, id, VIEW(log->current.view));
    seen.nodes[id].phase = log->phase;
}

static void look_at_log(uint32_t id, const struct log *log)
{
    if (log != seen.nodes[id].log || log->config.self.nonce != seen.nodes[id].nonce) {
        seen.nodes[id].log = log;
        seen.nodes[id].nonce = log->config.self.nonce;
        seen.nodes[id].promised = log->durable_promised;
        seen.nodes[id].log_view = log->durable_log_view;
        seen.nodes[id].last = log->stored_last;
        seen.nodes[id].digest.low = digest_at(log, log->stored_last);
        seen.nodes[id].ack_view = seen.nodes[id].chosen = (struct log_view){0, 0};
        seen.nodes[id].acked = 0;
        seen.nodes[id].commit = log->commit;
        seen.nodes[id].phase = log->phase;
        tell_entries(log, log->stored_last);
        tell("begin %u %02x%02x " VIEW_FMT " " VIEW_FMT " %llu %016llx", id,
             log->config.self.store_id.b[14], log->config.self.store_id.b[15],
             VIEW(log->durable_promised), VIEW(log->durable_log_view), U(log->stored_last),
             U(digest_at(log, log->stored_last)));
    }
    if (log->phase >= LOG_PHASE_ADOPTED)
        tell_entries(log, log->ring.last); /* numbered, which is before stored */
    look_at_store(id, log);
    look_at_view(id, log);
}

/* ---- hosts and guests --------------------------------------------------------------------------
 */

static long long lease_ms(const struct sim_node *node)
{
    return ((long long)node->page.lease_end_ns - (long long)sim_raw_ns(node)) / (long long)NS_MS;
}

/* A gate that is new, or hung since, learns late that its host slept, and trusts no heartbeat from
 * before that moment. */
static bool is_void_for_gate(const struct sim_node *node)
{
    const struct gate_fsm *fsm = node->gate ? &node->gate->fsm : NULL;
    uint64_t end_ns = node->page.lease_end_ns;

    return fsm && fsm->woke_ns > 0 &&
           (end_ns <= fsm->void_end_ns || end_ns <= fsm->woke_ns + node->keeper_lease_ms * NS_MS);
}

/* For guests a lease from before its host slept is over: the gate may know it before the keeper. */
static long long guests_lease_ms(const struct sim_node *node)
{
    return sim_is_slept_through(node) || is_void_for_gate(node) ? 0 : lease_ms(node);
}

static void look_at_keeper(struct sim_node *node)
{
    uint32_t io = 0, running = 0;

    if (node->keeper.state == seen.nodes[node->id].keeper)
        return;
    seen.nodes[node->id].keeper = node->keeper.state;
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        const struct sim_domain *d = &node->domains[i];
        io += d->is_used && d->io_until > sim.now + 1000 * NS_MS;
        running += sim_is_runnable(d);
    }
    tell("keeper %u %s %lld %u %u", node->id, keeper_state_name(node->keeper.state), lease_ms(node),
         io, running);
}

static const char *state_of(const struct sim_domain *d)
{
    static const char *const names[] = {
        [HV_BUILDING] = "building",   [HV_RUNNING] = "running", [HV_PAUSED] = "paused",
        [HV_SUSPENDED] = "suspended", [HV_POWEROFF] = "ended",  [HV_REBOOT] = "ended",
        [HV_CRASHED] = "ended"};

    return names[d->d.state];
}

static void tell_domain(const struct sim_node *node, const struct sim_domain *d, const char *state)
{
    bool is_exempt = sim_may_run_unleased(node, d);

    tell("dom %u %d %llu %s %lld %d %llu %d", node->id, sim_guest_index(d->d.label.guest),
         U(d->d.label.epoch), state, guests_lease_ms(node), is_exempt,
         node->d ? U(node->d->state.applied) : 0, sim_is_handed_over(d));
}

static void look_at_domains(const struct sim_node *node)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        const struct sim_domain *d = &node->domains[i];
        struct seen_domain *s = &seen.nodes[node->id].domains[i];
        if (s->is_used && (!d->is_used || d->d.domid != s->domid))
            tell_domain(node, d, "gone");
        bool is_same = s->is_used && d->d.domid == s->domid && d->d.state == s->state;
        if (d->is_used && (!is_same || sim_is_handed_over(d) != s->is_saved))
            tell_domain(node, d, state_of(d));
        *s = (struct seen_domain){.is_used = d->is_used,
                                  .is_saved = d->is_used && sim_is_handed_over(d),
                                  .domid = d->d.domid,
                                  .state = (uint8_t)d->d.state};
    }
}

static void look_at_power(const struct sim_node *node)
{
    if (seen.nodes[node->id].boots == node->boots &&
        seen.nodes[node->id].has_power == node->has_power)
        return;
    seen.nodes[node->id].boots = node->boots;
    seen.nodes[node->id].has_power = node->has_power;
    tell("power %u %s", node->id, node->has_power ? "on" : "off");
    if (!node->has_power)
        memset(seen.nodes[node->id].domains, 0, sizeof(seen.nodes[node->id].domains));
}

void sim_events_look(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = sim_node(id);
        look_at_power(node);
        if (node->d && node->d->log)
            look_at_log(id, node->d->log);
        look_at_keeper(node);
        look_at_domains(node);
    }
}

/* ---- what is committed -------------------------------------------------------------------------
 */

static void tell_guest(const struct ha_guest *guest)
{
    const struct ha_ticket *t = &guest->ticket;

    tell("rec %d %s %u %llu %llu %llu %u %llu %llu %u %llu %llu", sim_guest_index(guest->id),
         ha_phase_name(guest->phase), guest->node, U(guest->incarnation), U(guest->epoch),
         U(guest->epoch_high), t->src, U(t->src_incarnation), U(t->src_epoch), t->dst,
         U(t->dst_incarnation), U(t->dst_epoch));
}

static void tell_changes(const struct ha_state *before, const struct ha_state *now)
{
    for (uint32_t i = 0; i < now->node_count; i++) {
        const struct ha_node *n = &now->nodes[i], *old = ha_state_node(before, n->id);
        if (old && old->status == n->status && old->incarnation == n->incarnation &&
            old->is_armed == n->is_armed)
            continue;
        tell("node %u %s %llu %d %d", n->id, ha_node_status_name(n->status), U(n->incarnation),
             n->is_armed, old && ha_uuid_equal(old->boot_id, n->boot_id));
    }
    for (uint32_t i = 0; i < now->guest_count; i++) {
        const struct ha_guest *g = &now->guests[i], *old = ha_state_guest(before, g->id);
        if (!old || old->phase != g->phase || old->node != g->node ||
            old->incarnation != g->incarnation || old->epoch != g->epoch ||
            old->epoch_high != g->epoch_high || memcmp(&old->ticket, &g->ticket, sizeof(g->ticket)))
            tell_guest(g);
    }
}

void sim_events_applied(const struct ha_state *before, const struct log_entry *entry,
                        const struct ha_applied *applied)
{
    const struct ha_cmd *cmd = &applied->cmd;

    if (!sim.options.is_told || applied->is_noop)
        return;
    if (applied->kind == LOG_KIND_OPEN)
        tell("cmd %llu OPEN 0 0 -1 0 0", U(entry->index));
    else if (applied->kind != LOG_KIND_VOTER)
        tell("cmd %llu %s %u %llu %d %llu %u", U(entry->index), ha_cmd_name(cmd->type), cmd->node,
             U(cmd->incarnation), sim_guest_index(cmd->guest), U(cmd->epoch),
             cmd->type == HA_CMD_FENCED ? cmd->u.fenced.evidence : 0);
    tell_changes(before, sim_truth());
}
