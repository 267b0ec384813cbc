/* SPDX-License-Identifier: Apache-2.0
 *
 * Each node checks the digest of each message, decodes each heartbeat and writes the same line of
 * history of each entry. All of that follows from the arguments alone, so the others take the first
 * one's result (for a digest that is its sender's): that is a good part of a seed's time.
 */
#include <string.h>

#include "hamgr/core/history.h"
#include "quorum/msg.h"
#include "tests/sim/sim.h"

#define LINES_MAX 65536u

static struct sim_memo *open_memo;
static struct sim_memo newest; /* of what no memo is open for */
static bool is_written[LINES_MAX];
/* Nearly always all take a heartbeat before the next one is sent. */
static struct {
    const struct sim_memo *memo; /* whose it is, while that says so, too */
    bool is_by_next;             /* by which build it was read */
    struct log_msg_header header;
    struct log_heartbeat heartbeat;
} decoded;

struct ha_digest __real_ha_digest_bytes(struct ha_digest previous, const void *data, size_t size);
struct ha_digest __wrap_ha_digest_bytes(struct ha_digest previous, const void *data, size_t size);
int __real_log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg);
int next_log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg);
int __wrap_log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg);
int __real_ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                           const struct log_entry *entry, const struct ha_applied *applied,
                           char *buffer, size_t size);
int next_ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                         const struct log_entry *entry, const struct ha_applied *applied,
                         char *buffer, size_t size);
int __wrap_ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                           const struct log_entry *entry, const struct ha_applied *applied,
                           char *buffer, size_t size);

void sim_memo_reset(void)
{
    open_memo = NULL;
    newest = (struct sim_memo){0};
    decoded.memo = NULL;
    memset(is_written, 0, sizeof(is_written));
}

void sim_memo_sent(struct sim_memo *memo, const uint8_t *from, size_t size)
{
    if (!newest.is_known || newest.data != from || newest.size != size)
        return;
    memo->size = size;
    memo->previous = newest.previous;
    memo->digest = newest.digest;
    memo->is_known = true;
}

void sim_memo_open(struct sim_memo *memo)
{
    open_memo = memo;
}

struct ha_digest __wrap_ha_digest_bytes(struct ha_digest previous, const void *data, size_t size)
{
    struct sim_memo *memo = open_memo;

    if (!memo || memo->data != data) {
        newest = (struct sim_memo){.data = data};
        memo = &newest;
    }
    if (!memo->is_known || memo->size != size || !ha_digest_equal(memo->previous, previous)) {
        memo->digest = __real_ha_digest_bytes(previous, data, size);
        memo->previous = previous;
        memo->size = size;
        memo->is_known = true;
    }
    return memo->digest;
}

/* Of the acknowledgements those that are there: there is room for many more. */
static void copy_heartbeat(struct log_heartbeat *to, const struct log_heartbeat *from)
{
    memcpy(to, from,
           offsetof(struct log_heartbeat, acks) + from->ack_count * sizeof(from->acks[0]));
}

int __wrap_log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg)
{
    struct sim_memo *memo = open_memo;
    bool is_whole = memo && memo->data == data && memo->is_known && memo->size == size;
    bool is_next = sim.running->node->runs_next;

    if (is_whole && memo->is_decoded && decoded.memo == memo && decoded.is_by_next == is_next) {
        ret_msg->header = decoded.header;
        copy_heartbeat(&ret_msg->u.heartbeat, &decoded.heartbeat);
        return 0;
    }
    int rc = (is_next ? next_log_msg_decode : __real_log_msg_decode)(data, size, ret_msg);
    if (rc < 0) /* nothing is damaged here */
        sim_violation("I12", sim.running->node->id,
                      "a message of the log comes that it can't read");
    if (rc == 0 && is_whole && ret_msg->header.type == LOG_MSG_HEARTBEAT) {
        decoded.memo = memo;
        decoded.is_by_next = is_next;
        decoded.header = ret_msg->header;
        copy_heartbeat(&decoded.heartbeat, &ret_msg->u.heartbeat);
        memo->is_decoded = true;
    }
    return rc;
}

/* Nobody reads the lines here; that one could be written is remembered. */
int __wrap_ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                           const struct log_entry *entry, const struct ha_applied *applied,
                           char *buffer, size_t size)
{
    if (entry->index < LINES_MAX && is_written[entry->index])
        return 1;
    int length = (sim.running->node->runs_next ? next_ha_history_line : __real_ha_history_line)(
        before, after, entry, applied, buffer, size);
    if (length > 0 && entry->index < LINES_MAX)
        is_written[entry->index] = true;
    return length;
}
