/* SPDX-License-Identifier: Apache-2.0
 *
 * Committed entries into the state, definitions into their table, decisions into the history, and
 * now and then the state into a snapshot.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"
#include "hamgr/core/history.h"

static void stop_loudly(struct hamgrd *d, const char *why)
{
    d->is_stopped = true;
    snprintf(d->alarm, sizeof(d->alarm), "%s", why);
    qb_log(LOG_CRIT, "hamgrd stops deciding: %s. Its guests will be paused when the lease ends",
           why);
}

static void keep_definition(struct hamgrd *d, const struct ha_applied *applied)
{
    const struct ha_cmd *cmd = &applied->cmd;

    if (applied->kind == LOG_KIND_STATE && cmd->type == HA_CMD_GUEST_ADD && !applied->is_noop)
        store_put_definition(d->store, cmd->u.guest_add.definition,
                             cmd->u.guest_add.definition_bytes, cmd->u.guest_add.definition_size);
}

static void write_history(struct hamgrd *d, const struct ha_history_before *before,
                          const struct log_entry *entry, const struct ha_applied *applied)
{
    static char line[HA_HISTORY_LINE_MAX];

    if (ha_history_line(before, &d->state, entry, applied, line, sizeof(line)) > 0)
        store_history(d->store, entry->index, entry->wall_ms, line);
}

static void log_applied(struct hamgrd *d, const struct log_entry *entry,
                        const struct ha_applied *applied)
{
    if (applied->kind != LOG_KIND_STATE)
        return;
    const struct ha_cmd *cmd = &applied->cmd;
    const struct ha_guest *guest = ha_state_guest(&d->state, cmd->guest);
    const char *subject = guest ? guest->name : cmd->node ? shell_node_name(d, cmd->node) : "";
    const char *outcome = applied->is_noop ? "no-op, " : "";
    const char *why = ha_reason_text(applied->is_noop ? applied->refusal : cmd->reason);

    qb_log(LOG_INFO, "%s %s: %s%s | index=%" PRIu64 " node=%s epoch=%" PRIu64 " actor=%s",
           ha_cmd_name(cmd->type), subject, outcome, why, entry->index,
           cmd->node ? shell_node_name(d, cmd->node) : "-", cmd->epoch, cmd->actor);
}

/* A node whose hamgrd is older than the log is in no view, but it holds or is fed what was
 * committed: up to the OPEN of the first view that it could not have been in all can be read, and
 * behind it nobody knows. */
static bool is_too_old(struct hamgrd *d)
{
    char why[HA_TEXT_MAX];

    if (d->state.proto <= LOG_PROTO_MAX)
        return false;
    snprintf(why, sizeof(why),
             "the log needs protocol %u, this hamgrd speaks up to %u: upgrade hamgr on this node",
             d->state.proto, LOG_PROTO_MAX);
    stop_loudly(d, why);
    return true;
}

/* Applies one entry; false when this node must stop. */
static bool apply_one(struct hamgrd *d, const struct log_entry *entry)
{
    struct ha_history_before before;
    struct ha_applied applied;
    bool is_told = entry->index <= store_history_newest(d->store); /* by an earlier process */

    if (!is_told)
        ha_history_before(&d->state, entry, &before);
    int rc = ha_state_apply(&d->state, entry, &applied);
    if (rc < 0) {
        char why[HA_TEXT_MAX];
        snprintf(why, sizeof(why), "entry %" PRIu64 " can't be applied: %s", entry->index,
                 ha_err_text(rc));
        stop_loudly(d, why);
        return false;
    }
    const char *violation = ha_state_violation(&d->state);
    if (violation) {
        stop_loudly(d, violation);
        return false;
    }
    keep_definition(d, &applied);
    if (!is_told)
        write_history(d, &before, entry, &applied);
    log_applied(d, entry, &applied);
    propose_applied(d, entry, &applied);
    moves_applied(d, &applied);
    forecast_applied(d, &applied);
    return true;
}

static int64_t encode_state(struct hamgrd *d, uint8_t **ret_data)
{
    size_t size = ha_state_encoded_max(&d->state);

    *ret_data = malloc(size);
    if (!*ret_data)
        return -HA_E_NO_MEMORY;
    int64_t used = ha_state_encode(&d->state, *ret_data, size);
    if (used < 0) {
        free(*ret_data);
        *ret_data = NULL;
    }
    return used;
}

void apply_voters(const struct ha_state *state, struct log_loaded *ret_voters)
{
    memset(ret_voters, 0, sizeof(*ret_voters));
    ret_voters->proto = state->proto;
    for (uint32_t i = 0; i < state->node_count; i++) {
        if (!state->nodes[i].is_voter)
            continue;
        ret_voters->voters[ret_voters->voter_count].node = state->nodes[i].id;
        ret_voters->voters[ret_voters->voter_count].store_id = state->nodes[i].store_id;
        ret_voters->voter_count++;
    }
}

/* The snapshot is queued in front of this, so the disk never lacks what the newest one names;
 * entries behind it carry theirs. */
static void drop_definitions(struct hamgrd *d)
{
    struct ha_digest *digests = calloc(d->state.guest_count + 1, sizeof(*digests));

    if (!digests)
        return; /* the next snapshot does it */
    for (uint32_t i = 0; i < d->state.guest_count; i++)
        digests[i] = d->state.guests[i].definition;
    store_keep_definitions(d->store, digests, d->state.guest_count);
    free(digests);
}

static void maybe_snapshot(struct hamgrd *d)
{
    uint8_t *data = NULL;
    struct log_loaded voters;
    uint32_t every = d->snapshot_every > 0 ? d->snapshot_every : SHELL_SNAPSHOT_EVERY;

    if (d->snapshot_token || transfer_is_storing(d) || d->state.applied == d->snapshot_index ||
        (d->state.applied < d->snapshot_index + every && !log_snapshot_is_due(d->log)))
        return;
    int64_t size = encode_state(d, &data);
    if (size < 0)
        return; /* tried again at the next entry; the log keeps everything meanwhile */
    apply_voters(&d->state, &voters);
    const struct log_entry *last = log_entry_at(d->log, d->state.applied);
    struct log_view view = last ? last->view : d->state.view;
    /* Entries a little behind stay, so that a member that lags needs no snapshot. */
    uint64_t keep_from = d->state.applied > every / 2 ? d->state.applied - every / 2 : 0;
    d->snapshot_token = --d->token_high;
    d->snapshot_wait_index = keep_from;
    if (store_put_snapshot(d->store, d->snapshot_token, d->state.applied, d->state.digest, view,
                           data, (size_t)size, &voters, keep_from) < 0) {
        d->snapshot_token = 0;
    } else {
        d->snapshot_index = d->state.applied;
        drop_definitions(d);
    }
    free(data);
}

void apply_committed(struct hamgrd *d, uint64_t index)
{
    while (d->state.applied < index && !d->is_stopped) {
        const struct log_entry *entry = log_entry_at(d->log, d->state.applied + 1);
        if (!entry) {
            stop_loudly(d, "a committed entry is not in memory");
            return;
        }
        if (is_too_old(d) || !apply_one(d, entry))
            return;
    }
    maybe_snapshot(d);
    shell_wake(d);
}

void apply_snapshot_done(struct hamgrd *d, const struct store_done *done)
{
    d->snapshot_token = 0;
    if (done->is_ok && d->log)
        shell_log_trim(d, d->snapshot_wait_index);
}

int apply_load(struct hamgrd *d, struct ha_err *err)
{
    uint8_t *data = NULL;
    size_t size = 0;

    int rc = store_snapshot(d->store, &data, &size, err);
    if (rc < 0)
        return rc;
    if (data) {
        rc = ha_state_decode(&d->state, data, size);
        free(data);
        if (rc < 0)
            return ha_err_set(err, rc, "the stored snapshot: %s", ha_err_text(rc));
    }
    d->snapshot_index = d->state.applied;
    return 0;
}
