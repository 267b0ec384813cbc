/* SPDX-License-Identifier: Apache-2.0
 *
 * Was this write allowed to happen? Judged only by what reached the storage, never by what a daemon
 * believes.
 */
#include "hamgr/base/assert.h"
#include "hamgr/hv/embedded/storage.h"

bool storage_is_violation(enum storage_verdict verdict)
{
    return verdict > STORAGE_REPEATED;
}

const char *storage_verdict_name(enum storage_verdict verdict)
{
    static const char *const names[STORAGE_VERDICT_COUNT] = {
        "fine",      "repeated", "stale epoch",  "second node",
        "rewritten", "gap",      "broken chain", "torn",
    };

    return (unsigned)verdict < STORAGE_VERDICT_COUNT ? names[verdict] : "?";
}

/* Whose disk is it? A higher epoch takes it over, by reading already: a guest that looks at its
 * disk is running. */
static enum storage_verdict judge_writer(struct storage_disk *disk, uint32_t node, uint64_t epoch)
{
    if (disk->is_used && epoch < disk->epoch)
        return STORAGE_STALE_EPOCH;
    if (disk->is_used && epoch == disk->epoch && node != disk->node)
        return STORAGE_SECOND_NODE;
    disk->is_used = true;
    disk->epoch = epoch;
    disk->node = node;
    return STORAGE_FINE;
}

static enum storage_verdict judge_old(const struct storage_disk *disk,
                                      const struct emb_disk_request *request)
{
    const struct storage_write *known = &disk->history[request->sequence % STORAGE_HISTORY];

    if (known->request.sequence == request->sequence &&
        ha_digest_equal(known->request.digest, request->digest))
        return STORAGE_REPEATED;
    return STORAGE_REWRITTEN;
}

static void put(struct storage_disk *disk, uint32_t node, uint64_t epoch,
                const struct emb_disk_request *request)
{
    disk->sequence = request->sequence;
    disk->digest = request->digest;
    disk->write_count++;
    disk->history[request->sequence % STORAGE_HISTORY] =
        (struct storage_write){.node = node, .epoch = epoch, .request = *request};
}

static enum storage_verdict judge(struct storage_disk *disk, uint32_t node, uint64_t epoch,
                                  const struct emb_disk_request *request)
{
    enum storage_verdict verdict = judge_writer(disk, node, epoch);

    if (verdict != STORAGE_FINE || request->op == EMB_DISK_HEAD)
        return verdict;
    struct ha_digest digest =
        ha_digest_bytes(request->previous, request->payload, request->payload_size);
    if (!ha_digest_equal(digest, request->digest))
        return STORAGE_TORN;
    if (request->sequence <= disk->sequence)
        return judge_old(disk, request);
    /* Reported once and then built upon: one lost write is one violation, not one per write. */
    if (request->sequence != disk->sequence + 1)
        verdict = STORAGE_GAP;
    else if (!ha_digest_equal(request->previous, disk->digest))
        verdict = STORAGE_BROKEN_CHAIN;
    put(disk, node, epoch, request);
    return verdict;
}

enum storage_verdict storage_apply(struct storage_disk *disk, uint32_t node, uint64_t epoch,
                                   const struct emb_disk_request *request)
{
    ha_assert(request->payload_size <= EMB_DISK_PAYLOAD);
    enum storage_verdict verdict = judge(disk, node, epoch, request);

    disk->repeated_count += verdict == STORAGE_REPEATED;
    disk->violation_count += storage_is_violation(verdict);
    return verdict;
}
