/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr/shell/peers.c of the next version. Behind each PEER_REPORT it says a number more, and in
 * each view a member tunes a guest: both only where all speak its protocol. The highest that any
 * view used is that of the open one, for no later view may have a lower.
 */
#include "hamgr/shell/shell.h"
#include "tests/sim/sim.h"

#define SURPLUS_SIZE sizeof(uint64_t)

static int next_report_decode(struct ha_reader *r, struct ha_report *ret);
static void next_multicast(struct hamgrd *d, const uint8_t *data, size_t size, bool is_heartbeat);
static void built_report(struct hamgrd *d);

#define peer_report_decode next_report_decode
#define shell_multicast    next_multicast
#define peers_report       built_report
#include "hamgr/shell/peers.c"
#undef peer_report_decode
#undef shell_multicast
#undef peers_report

static bool all_speak(const struct hamgrd *d)
{
    return d->rt.is_open && d->state.proto >= LOG_PROTO_MAX;
}

/* What the field says follows from what is in front of it: a receiver can tell whether it is whole.
 */
static uint64_t surplus_of(const struct ha_report *report)
{
    return report->applied ^ UINT64_C(0x6e657874);
}

static void next_multicast(struct hamgrd *d, const uint8_t *data, size_t size, bool is_heartbeat)
{
    static uint8_t buffer[SEND_MAX + SURPLUS_SIZE];
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct ha_reader r = ha_reader_of(data, size);
    struct peer_header header;

    int rc = peer_header_decode(&r, &header);
    ha_put_raw(&w, data, size);
    if (rc == 0 && header.type == PEER_REPORT &&
        (all_speak(d) || sim_has_plant("next-report-anywhere"))) {
        ha_put_u64(&w, surplus_of(&d->report_sent));
        sim_version_cover(SIM_COVER_REPORT);
    }
    shell_multicast(d, buffer, w.position, is_heartbeat);
}

static int next_report_decode(struct ha_reader *r, struct ha_report *ret)
{
    struct ha_reader less = *r;

    if (peer_report_decode(r, ret) == 0)
        return 0; /* of the version before, or of a view that it is in */
    if (less.size - less.position <= SURPLUS_SIZE)
        return -HA_E_CORRUPT;
    less.size -= SURPLUS_SIZE;
    struct ha_reader tail = ha_reader_of(less.data + less.size, SURPLUS_SIZE);
    if (peer_report_decode(&less, ret) == 0 && ha_get_u64(&tail) == surplus_of(ret))
        return 0;
    sim_version_unreadable("PEER_REPORT", SIM_VERSION_NEXT);
    return -HA_E_CORRUPT;
}

/* One guest a view by one member, so that it comes up anew with each: 3600 s, and a little more. */
static void tune(struct hamgrd *d)
{
    const struct ha_state *state = &d->state;
    uint64_t turn = state->view.counter;
    struct ha_cmd cmd = {.type = NEXT_CMD_TUNE, .actor = "planner"};
    uint32_t window_s = 3600 + (uint32_t)(turn % 1000);

    if (d->proposals || state->guest_count == 0 ||
        state->nodes[turn % state->node_count].id != d->identity.node)
        return;
    const struct ha_guest *guest = &state->guests[turn % state->guest_count];
    if (guest->policy.restart_window_s == window_s)
        return;
    cmd.guest = guest->id;
    cmd.u.guest_set.policy.restart_window_s = window_s;
    propose_cmd(d, &cmd, NULL, NULL);
}

void peers_report(struct hamgrd *d)
{
    built_report(d);
    if (all_speak(d) || (d->rt.is_open && sim_has_plant("next-entry-anywhere")))
        tune(d);
}
