/* SPDX-License-Identifier: Apache-2.0
 *
 * A stranger in the hamgrds' group: listens to real messages for a while, then sends things that
 * hamgrd must survive. What it sends is told by its arguments; it prints one JSON line and ends.
 *
 *     rogue_cpg SEED noise|replay|cut|flip|resign|foreign|flood
 *
 * noise: random bytes. replay: real messages again, as they were. cut, flip: with some bytes less,
 * with a bit changed. resign: changed in its body or cut, with a digest that fits (hamgrds' own
 * messages, not the log's: those it believes are bounded by its votes, not by this). foreign: of
 * another cluster, another generation or another protocol version, with a digest that fits.
 * flood: 500 KiB messages as fast as corosync takes them.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <corosync/cpg.h>

#include "hamgr/base/bytes.h"
#include "hamgr/shell/message.h"
#include "quorum/msg.h"

#define KEPT_MAX   512u
#define SIZE_MAX_  (500u * 1024u)
#define LISTEN_MS  1500 /* three heartbeats and a report of each */
#define SENDS      400u
#define FLOODS     60u
#define DIGEST     sizeof(struct ha_digest)
#define LOG_HEADER 51u /* magic, version, type, cluster, generation, view, nonce */
#define PEER_HEAD  42u /* magic, version, type, cluster, generation, nonce, to */

struct kept {
    size_t size;
    uint8_t *data;
};

static struct kept kept[KEPT_MAX];
static size_t kept_count;
static bool is_listening = true;
static uint64_t seed;
static unsigned self;
static uint8_t buffer[SIZE_MAX_];

static uint32_t dice(uint32_t sides)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % sides;
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void on_message(cpg_handle_t handle, const struct cpg_name *group, uint32_t node,
                       uint32_t pid, void *message, size_t size)
{
    (void)handle, (void)group, (void)node;
    if (!is_listening || kept_count == KEPT_MAX || pid == (uint32_t)getpid() || size > SIZE_MAX_)
        return;
    kept[kept_count].data = malloc(size);
    if (!kept[kept_count].data)
        return;
    memcpy(kept[kept_count].data, message, size);
    kept[kept_count++].size = size;
}

static void on_members(cpg_handle_t handle, const struct cpg_name *group,
                       const struct cpg_address *members, size_t count,
                       const struct cpg_address *left, size_t left_count,
                       const struct cpg_address *joined, size_t joined_count)
{
    (void)handle, (void)group, (void)members, (void)count;
    (void)left, (void)left_count, (void)joined, (void)joined_count;
}

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_nsec = ms * 1000000};

    nanosleep(&pause, NULL);
}

static bool join(cpg_handle_t *ret_handle)
{
    static cpg_model_v1_data_t model = {
        .model = CPG_MODEL_V1, .cpg_deliver_fn = on_message, .cpg_confchg_fn = on_members};
    struct cpg_name group = {.length = sizeof("hamgr") - 1, .value = "hamgr"};

    if (cpg_model_initialize(ret_handle, CPG_MODEL_V1, (cpg_model_data_t *)&model, NULL) != CS_OK)
        return false;
    for (int attempt = 0; attempt < 500; attempt++) {
        cs_error_t error = cpg_join(*ret_handle, &group);
        if (error != CS_ERR_TRY_AGAIN)
            return error == CS_OK && cpg_local_get(*ret_handle, &self) == CS_OK;
        pause_ms(10);
    }
    return false;
}

static bool hear(cpg_handle_t handle, uint64_t until_ms)
{
    struct pollfd ready = {.events = POLLIN};

    if (cpg_fd_get(handle, &ready.fd) != CS_OK)
        return false;
    for (uint64_t now = now_ms(); now < until_ms; now = now_ms()) {
        if (poll(&ready, 1, (int)(until_ms - now)) > 0 &&
            cpg_dispatch(handle, CS_DISPATCH_ALL) != CS_OK)
            return false;
    }
    return true;
}

/* Sends what is in buffer; waits while corosync is busy. */
static bool give(cpg_handle_t handle, size_t size)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = size};

    for (int attempt = 0; attempt < 2000; attempt++) {
        cs_error_t error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &iov, 1);
        if (error != CS_ERR_TRY_AGAIN)
            return error == CS_OK;
        if (!hear(handle, now_ms() + 2))
            return false;
    }
    return false;
}

static size_t any_kept(bool is_peers)
{
    for (unsigned attempt = 0; attempt < 1000 && kept_count > 0; attempt++) {
        const struct kept *one = &kept[dice((uint32_t)kept_count)];
        if (is_peers && !peer_is_message(one->data, one->size))
            continue;
        memcpy(buffer, one->data, one->size);
        return one->size;
    }
    return 0;
}

/* Puts a digest that fits behind the first `size` bytes. */
static size_t sign(size_t size)
{
    struct ha_writer w = ha_writer_of(buffer + size, DIGEST);

    ha_put_digest(&w, peer_digest(self, buffer, size));
    return size + DIGEST;
}

static size_t make_noise(void)
{
    size_t size = 1 + dice(4000);

    for (size_t i = 0; i < size; i++)
        buffer[i] = (uint8_t)dice(256);
    if (dice(2) && size > 8) { /* looks like one of ours at first */
        struct ha_writer w = ha_writer_of(buffer, size);
        ha_put_u32(&w, dice(2) ? PEER_MAGIC : LOG_MSG_MAGIC);
    }
    return dice(2) ? sign(size) : size;
}

static size_t make_resigned(void)
{
    size_t size = any_kept(true);

    if (size < PEER_HEAD + DIGEST)
        return 0;
    size -= DIGEST;
    if (dice(3) == 0)
        size = 4 + dice((uint32_t)(size - 4));
    for (uint32_t flips = dice(4); flips > 0 && size > PEER_HEAD; flips--) {
        size_t at = PEER_HEAD + dice((uint32_t)(size - PEER_HEAD));
        buffer[at] ^= (uint8_t)(1u << dice(8));
    }
    if (size > 5 && dice(4) == 0)
        buffer[5] = (uint8_t)(1 + dice(PEER_SNAPSHOT_ACK + 2)); /* another type's body */
    return sign(size);
}

/* Cluster id, generation, version: at fixed places in both kinds of messages. */
static size_t make_foreign(void)
{
    size_t size = any_kept(false);

    if (size < LOG_HEADER + DIGEST)
        return 0;
    size -= DIGEST;
    size_t id_at = peer_is_message(buffer, size) ? 6 : 7;
    switch (dice(3)) {
    case 0:
        buffer[id_at + dice(16)] ^= (uint8_t)(1u << dice(8));
        break;
    case 1:
        buffer[id_at + 16 + dice(8)] ^= (uint8_t)(1u << dice(8));
        break;
    default:
        buffer[4] = (uint8_t)(buffer[4] + 1 + dice(200));
        break;
    }
    return sign(size);
}

static size_t make(const char *what)
{
    size_t size = 0;

    if (strcmp(what, "noise") == 0)
        return make_noise();
    if (strcmp(what, "resign") == 0)
        return make_resigned();
    if (strcmp(what, "foreign") == 0)
        return make_foreign();
    if (strcmp(what, "flood") == 0) {
        for (size_t i = 0; i < SIZE_MAX_; i += 64)
            buffer[i] = (uint8_t)dice(256);
        return SIZE_MAX_;
    }
    size = any_kept(false);
    if (strcmp(what, "cut") == 0 && size > 1)
        size = 1 + dice((uint32_t)size - 1);
    if (strcmp(what, "flip") == 0 && size > 0)
        buffer[dice((uint32_t)size)] ^= (uint8_t)(1u << dice(8));
    return size;
}

int main(int argc, char **argv)
{
    cpg_handle_t handle;
    unsigned sent = 0;

    if (argc != 3 || !join(&handle) || !hear(handle, now_ms() + LISTEN_MS)) {
        fprintf(stderr, "rogue_cpg: usage, or can't join\n");
        return 1;
    }
    seed = strtoull(argv[1], NULL, 10);
    is_listening = false;
    unsigned wanted = strcmp(argv[2], "flood") == 0 ? FLOODS : SENDS;
    for (unsigned i = 0; i < wanted; i++) {
        size_t size = make(argv[2]);
        if (size > 0 && !give(handle, size))
            break;
        sent += size > 0;
        if (i % 16 == 15 && !hear(handle, now_ms() + 5))
            break;
    }
    hear(handle, now_ms() + 300);
    printf("{\"heard\":%zu,\"sent\":%u}\n", kept_count, sent);
    cpg_finalize(handle);
    return 0;
}
