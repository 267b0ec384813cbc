/* SPDX-License-Identifier: Apache-2.0
 *
 * Migrations that are over, until their numbers are in the log (MOVED). The end that knows most
 * proposes it: the destination of one that arrived, once the guest's own number and the source's
 * are known or a second has passed; the source of one that did not. A record that gets lost with
 * its hamgrd is lost: nothing rests on it.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#define WAIT_MS 1000u /* the guest's first step comes within one step's length, at most 1 s */

struct move_note {
    struct move_note *next;
    struct ha_uuid guest;
    uint64_t ticket;
    uint64_t epoch;  /* of the copy whose own number is waited for */
    uint64_t due_ms; /* proposed then at the latest; 0: at once */
    struct ha_moved moved;
};

void moverecord_add(struct hamgrd *d, struct ha_uuid guest, uint64_t ticket, uint64_t epoch,
                    const struct ha_moved *moved)
{
    struct move_note *note = calloc(1, sizeof(*note));

    if (!note)
        return;
    note->guest = guest;
    note->ticket = ticket;
    note->epoch = epoch;
    note->moved = *moved;
    note->moved.ended_wall_ms = shell_wall_ms();
    note->due_ms = moved->outcome == HA_MOVED_ARRIVED ? shell_now_ms() + WAIT_MS : 0;
    note->next = d->move_notes;
    d->move_notes = note;
    shell_tick_soon(d);
}

static void propose(struct hamgrd *d, const struct move_note *note)
{
    struct ha_cmd cmd = {.type = HA_CMD_MOVED,
                         .reason = HA_REASON_OBSERVED,
                         .cause = note->ticket,
                         .node = d->identity.node,
                         .guest = note->guest,
                         .ticket = note->ticket};

    cmd.u.moved = note->moved;
    snprintf(cmd.actor, sizeof(cmd.actor), "%.31s", shell_node_name(d, d->identity.node));
    propose_cmd(d, &cmd, NULL, NULL);
}

void moverecord_source(struct hamgrd *d, uint64_t ticket, uint32_t from, uint32_t pause_us)
{
    for (struct move_note *note = d->move_notes; note; note = note->next)
        if (note->ticket == ticket && note->moved.src == from && note->moved.source_us == 0)
            note->moved.source_us = pause_us;
}

void moverecord_tick(struct hamgrd *d)
{
    struct move_note **place = &d->move_notes;
    uint64_t now_ms = shell_now_ms();

    while (*place) {
        struct move_note *note = *place;
        const struct hv_domain *domain = hvlink_domain(d, note->guest, note->epoch);
        if (domain && domain->pause_us != 0)
            note->moved.guest_us = domain->pause_us;
        bool is_complete = note->moved.guest_us != 0 && note->moved.source_us != 0;
        if (!is_complete && now_ms < note->due_ms) {
            if (note->moved.guest_us == 0)
                hvlink_list(d); /* its first step may have come meanwhile */
            place = &note->next;
            continue;
        }
        *place = note->next;
        propose(d, note);
        free(note);
    }
}
