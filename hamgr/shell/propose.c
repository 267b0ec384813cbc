/* SPDX-License-Identifier: Apache-2.0
 *
 * Local proposals from their making to their fate. The fate is told when the entry is applied here
 * (took effect, or a no-op with its reason) or when the log gives it up. A proposal that was under
 * way when the view closed has an unknown outcome: its entry may still be adopted. It stays unknown
 * when a snapshot comes in place of the entries that would tell.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <time.h>

#include "hamgr/base/assert.h"

#define TRIES_MAX 8u /* view changes one proposal is carried over */

struct proposal {
    struct proposal *next;
    uint64_t seq;
    uint8_t kind;
    bool is_sent;
    uint8_t tries;
    uint64_t made_us;
    propose_fn done;
    void *user;
    size_t body_size;
    uint8_t body[];
};

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t enqueue(struct hamgrd *d, uint8_t kind, const uint8_t *body, size_t body_size,
                        propose_fn done, void *user)
{
    struct proposal *p = malloc(sizeof(*p) + body_size);
    struct proposal **tail = &d->proposals;

    ha_assert(p);
    *p = (struct proposal){.seq = ++d->proposal_seq,
                           .kind = kind,
                           .done = done,
                           .user = user,
                           .body_size = body_size,
                           .made_us = now_us()};
    memcpy(p->body, body, body_size);
    while (*tail)
        tail = &(*tail)->next;
    *tail = p;
    shell_wake(d);
    return p->seq;
}

uint64_t propose_cmd(struct hamgrd *d, const struct ha_cmd *cmd, propose_fn done, void *user)
{
    static uint8_t buffer[HA_ENTRY_MAX];
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));

    ha_cmd_encode(&w, cmd);
    ha_assert(!w.failed); /* definitions and texts are bounded where they come in */
    return enqueue(d, LOG_KIND_STATE, buffer, w.position, done, user);
}

uint64_t propose_voter(struct hamgrd *d, const struct log_voter_change *change, propose_fn done,
                       void *user)
{
    uint8_t buffer[64];
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));

    log_voter_change_encode(&w, change);
    ha_assert(!w.failed);
    return enqueue(d, LOG_KIND_VOTER, buffer, w.position, done, user);
}

/* Takes a proposal out of the list and tells its fate. */
static void resolve(struct hamgrd *d, struct proposal **place, int outcome, uint16_t reason,
                    uint64_t index)
{
    struct proposal *p = *place;

    *place = p->next;
    for (uint32_t i = 0; i < d->verb_count; i++) {
        if (d->verbs[i].proposal == p->seq) {
            d->verbs[i].proposal = 0;
            d->verbs[i].v.is_proposed = false;
        }
    }
    if (p->done)
        p->done(p->user, outcome, reason, index);
    free(p);
    shell_wake(d);
}

void propose_pump(struct hamgrd *d)
{
    struct proposal **place = &d->proposals;

    while (*place) {
        struct proposal *p = *place;
        if (!d->log || !log_is_open(d->log) || d->is_stopped) {
            if (p->is_sent)
                place = &p->next;
            else
                resolve(d, place, HA_E_NO_QUORUM, HA_REASON_NO_QUORUM, 0);
            continue;
        }
        if (!p->is_sent) {
            p->is_sent = true;
            struct log_event event = {.type = LOG_EV_PROPOSE};
            event.u.propose.seq = p->seq;
            event.u.propose.kind = p->kind;
            event.u.propose.body = p->body;
            event.u.propose.body_size = p->body_size;
            shell_log_event(d, &event); /* may resolve proposals: start over */
            place = &d->proposals;
            continue;
        }
        place = &p->next;
    }
}

static struct proposal **find(struct hamgrd *d, uint64_t seq)
{
    struct proposal **place = &d->proposals;

    while (*place && (*place)->seq != seq)
        place = &(*place)->next;
    return place;
}

static int compare_us(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

static void note_commit_time(struct hamgrd *d, uint32_t us)
{
    uint32_t sorted[SHELL_COMMITS];

    d->commit_us[d->commit_count++ % SHELL_COMMITS] = us;
    uint32_t count = d->commit_count < SHELL_COMMITS ? d->commit_count : SHELL_COMMITS;
    memcpy(sorted, d->commit_us, count * sizeof(sorted[0]));
    qsort(sorted, count, sizeof(sorted[0]), compare_us);
    d->commit_median_us = sorted[count / 2];
}

void propose_applied(struct hamgrd *d, const struct log_entry *entry,
                     const struct ha_applied *applied)
{
    if (entry->origin != d->identity.node || entry->nonce != d->nonce)
        return;
    struct proposal **place = find(d, entry->seq);
    if (!*place)
        return;
    note_commit_time(d, (uint32_t)(now_us() - (*place)->made_us));
    resolve(d, place, applied->is_noop ? HA_E_REFUSED : 0, applied->refusal, entry->index);
}

/* The log says so only when a later view is open here: it can't be adopted any more, so it is
 * proposed again, under a new number and behind the others, as if it had just been made. */
void propose_lost(struct hamgrd *d, uint64_t seq)
{
    struct proposal **place = find(d, seq);
    struct proposal *p = *place;

    if (!p)
        return;
    /* A voter is refused so until it has caught up: whoever proposes it waits and asks again. */
    if (p->kind == LOG_KIND_VOTER || ++p->tries >= TRIES_MAX) {
        resolve(d, place, HA_E_UNKNOWN, HA_REASON_NO_QUORUM, 0);
        return;
    }
    *place = p->next;
    p->next = NULL;
    p->seq = ++d->proposal_seq;
    p->is_sent = false;
    for (uint32_t i = 0; i < d->verb_count; i++) {
        if (d->verbs[i].proposal == seq)
            d->verbs[i].proposal = p->seq;
    }
    struct proposal **tail = &d->proposals;
    while (*tail)
        tail = &(*tail)->next;
    *tail = p;
    shell_wake(d);
}

/* Again would perhaps be twice, and may undo what another operator has ordered since. What this
 * node does by itself follows from the state, and comes up anew if it was not done. */
void propose_unknown(struct hamgrd *d, uint64_t seq)
{
    struct proposal **place = find(d, seq);

    if (*place)
        resolve(d, place, HA_E_UNKNOWN, HA_REASON_NONE, 0);
}

/* Behind the COMMIT that applies it, so that what is still open then was in a snapshot: done, and
 * nobody here knows with what effect. Left open, its owner would wait for ever. */
void propose_committed(struct hamgrd *d, uint64_t seq, uint64_t index)
{
    struct proposal **place = find(d, seq);

    if (*place && d->state.applied >= index)
        resolve(d, place, HA_E_UNKNOWN, HA_REASON_NONE, index);
}

uint32_t propose_median_us(const struct hamgrd *d)
{
    return d->commit_median_us;
}
