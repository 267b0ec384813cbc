/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to the keeper: passes lease ends on, asks it to arm when this node may run guests,
 * and to disarm only after the state says that nobody counts on it any more (I6).
 */
#include "hamgr/shell/shell.h"

#define ARM_RETRY_MS 1000u

/* Asks; the answer tells how the keeper was at a time not before the state applied now. */
static void ask(struct hamgrd *d, uint16_t type, const void *body, size_t size)
{
    d->keeper_request = ++d->keeper_request_high;
    d->keeper_asked_applied = d->state.applied;
    link_send(d->keeper, type, d->keeper_request, body, size, NULL, 0);
}

static void on_up(void *user)
{
    struct hamgrd *d = user;

    d->keeper_lease_ms = 0;
    ask(d, KEEPER_QUERY, NULL, 0);
    if (d->log)
        keeperlink_lease(d, log_lease_end_ms(d->log));
}

static void on_packet(void *user, const struct ha_packet *packet)
{
    struct hamgrd *d = user;
    struct keeper_status status;

    if (packet->type != KEEPER_STATUS ||
        keeper_status_decode(packet->body, packet->body_size, &status) < 0)
        return;
    if (status.is_armed != d->keeper_status.is_armed || !d->is_keeper_known)
        qb_log(LOG_NOTICE, "keeper: %s | watchdog_ms=%u %s",
               status.is_armed ? "armed" : "not armed", status.watchdog_ms, status.text);
    d->keeper_status = status;
    d->is_keeper_known = true;
    if (packet->id != 0 && packet->id == d->keeper_request) {
        d->keeper_request = 0;
        d->keeper_seen_applied = d->keeper_asked_applied;
    }
    shell_wake(d);
}

static void on_down(void *user, const char *why)
{
    struct hamgrd *d = user;

    qb_log(LOG_WARNING, "keeper: connection lost: %s", why);
    d->is_keeper_known = false;
    d->keeper_request = 0;
    d->keeper_seen_applied = 0;
    shell_wake(d);
}

void keeperlink_open(struct hamgrd *d)
{
    static const struct link_callbacks callbacks = {
        .up = on_up, .packet = on_packet, .down = on_down};

    d->keeper = link_open(d->loop, KEEPER_SOCKET, &callbacks, d);
}

/* The log may have us in its views while the state refuses our identity (another store, another
 * machine). Then the old incarnation stays UNCLEAN, and T_wait for it counts what its own process
 * was told: a lease of ours would let its guests run on behind that. */
static bool is_taken_in(const struct hamgrd *d)
{
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);

    return self && self->status == HA_NODE_MEMBER && self->nonce == d->nonce;
}

void keeperlink_lease(struct hamgrd *d, uint64_t end_ms)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!link_is_up(d->keeper) || end_ms == 0 || !is_taken_in(d))
        return;
    keeper_lease_encode(
        &w, &(struct keeper_lease){.nonce = d->nonce, .end_ns = end_ms * QB_TIME_NS_IN_MSEC});
    link_send(d->keeper, KEEPER_LEASE, 0, body, w.position, NULL, 0);
}

/* The node is one that others may count on to reset itself. */
static bool is_arming_due(const struct hamgrd *d, const struct ha_node *self)
{
    return self && !self->is_witness && !self->is_frozen && !d->state.is_disarmed &&
           self->status == HA_NODE_MEMBER;
}

/* I6: by the present state only. One from before a restart may still say "disarmed" of a node that
 * others count on by now. */
static bool may_disarm(const struct hamgrd *d, const struct ha_node *self)
{
    return shell_is_current(d) && self && !self->is_armed &&
           (self->is_witness || self->is_frozen || d->state.is_disarmed ||
            self->status == HA_NODE_LEFT);
}

static void arm(struct hamgrd *d)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    keeper_arm_encode(&w, &(struct keeper_arm){.lease_ms = d->rt.timing.lease_ms,
                                               .watchdog_ms = d->config.watchdog_ms});
    d->keeper_lease_ms = d->rt.timing.lease_ms;
    ask(d, KEEPER_ARM, body, w.position);
    keeperlink_lease(d, log_lease_end_ms(d->log));
}

/* A keeper armed under a shorter L refuses our leases. It hears of ours only when ARMED with it is
 * applied: from then on T_wait covers it. */
static bool is_longer_lease_due(const struct hamgrd *d, const struct ha_node *self)
{
    return d->keeper_status.is_armed && self && self->is_armed && shell_is_current(d) &&
           self->lease_ms >= d->rt.timing.lease_ms && d->keeper_lease_ms < d->rt.timing.lease_ms;
}

void keeperlink_check(struct hamgrd *d)
{
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);
    uint64_t now_ms = shell_now_ms();

    if (!link_is_up(d->keeper) || !d->is_keeper_known || !d->log)
        return;
    bool is_armed = d->keeper_status.is_armed;
    if (!is_armed && is_arming_due(d, self) && log_is_open(d->log) &&
        log_lease_end_ms(d->log) > now_ms && now_ms >= d->arm_asked_ms + ARM_RETRY_MS) {
        d->arm_asked_ms = now_ms;
        arm(d);
    } else if (is_longer_lease_due(d, self)) {
        arm(d);
    } else if (is_armed && may_disarm(d, self)) {
        ask(d, KEEPER_DISARM, NULL, 0);
        d->keeper_asked_applied = 0; /* what it says now is about before the order */
    } else if (is_armed && self && !self->is_armed && !d->keeper_request &&
               d->keeper_seen_applied < self->unarmed_index) {
        ask(d, KEEPER_QUERY, NULL, 0); /* an answer from before would not count (STALE_KEEPER) */
    }
}
