/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/cluster_setup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* knet pings at token/4 and times out at token/2: below this token its links drop under load. */
#define KNET_TOKEN_MS 1000u

static const char knet_times[] = "    interface {\n"
                                 "        linknumber: 0\n"
                                 "        knet_ping_interval: 200\n"
                                 "        knet_ping_timeout: 600\n"
                                 "        knet_pong_count: 2\n"
                                 "    }\n";

int cluster_setup_conf_text(const char *cluster, uint32_t id, const char *node, const char *addr,
                            uint32_t token_ms, char *buffer, size_t size, struct ha_err *err)
{
    int r = snprintf(buffer, size,
                     "totem {\n    version: 2\n    cluster_name: %s\n    transport: knet\n"
                     "    crypto_cipher: aes256\n    crypto_hash: sha256\n"
                     "    token: %u\n    token_coefficient: 0\n%s}\n\n"
                     "nodelist {\n    node {\n        name: %s\n        nodeid: %u\n"
                     "        ring0_addr: %s\n    }\n}\n\n"
                     "quorum {\n    provider: corosync_votequorum\n}\n\n"
                     "logging {\n    to_logfile: yes\n"
                     "    logfile: /var/log/corosync/corosync.log\n"
                     "    to_syslog: yes\n    timestamp: hires\n}\n",
                     cluster, token_ms, token_ms < KNET_TOKEN_MS ? knet_times : "", node, id, addr);

    return r > 0 && (size_t)r < size
               ? r
               : ha_err_set(err, HA_E_LIMIT, "corosync.conf would be too long");
}

/* Writes a file that does not exist; one that does is kept. */
static int write_new(const char *path, mode_t mode, const void *data, size_t size,
                     struct ha_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);

    if (fd < 0)
        return errno == EEXIST ? 0 : ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    ssize_t r = write(fd, data, size);
    int rc = r == (ssize_t)size && fsync(fd) == 0
                 ? 0
                 : ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    close(fd);
    if (rc < 0)
        unlink(path); /* a half-written key or configuration must not stay */
    return rc;
}

int cluster_setup_corosync(const char *cluster, uint32_t id, const char *node, const char *addr,
                           uint32_t token_ms, struct ha_err *err)
{
    static const char uidgid[] = "uidgid {\n    uid: hamgr\n    gid: hamgr\n}\n";
    uint8_t key[COROSYNC_KEY_BYTES];
    char text[2048];

    int size = cluster_setup_conf_text(cluster, id, node, addr, token_ms, text, sizeof(text), err);
    if (size < 0)
        return size;
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        return ha_err_set(err, EIO, "no random bytes for corosync's key");
    int rc = write_new(COROSYNC_KEY, 0400, key, sizeof(key), err);
    explicit_bzero(key, sizeof(key));
    if (rc == 0)
        rc = write_new(COROSYNC_CONF, 0644, text, (size_t)size, err);
    if (rc == 0 && mkdir("/etc/corosync/uidgid.d", 0755) < 0 && errno != EEXIST)
        rc = ha_err_set(err, errno, "/etc/corosync/uidgid.d: %s", strerror(errno));
    return rc == 0 ? write_new(COROSYNC_UIDGID, 0644, uidgid, sizeof(uidgid) - 1, err) : rc;
}

int cluster_setup_first_store(const char *dir, const struct store_identity *identity,
                              const uint8_t *body, size_t body_size, struct ha_err *err)
{
    const struct log_voter_change voter = {
        .is_added = true, .node = identity->node, .store_id = identity->store_id};
    uint8_t voter_body[256];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    struct ha_writer writer = ha_writer_of(voter_body, sizeof(voter_body));
    log_voter_change_encode(&writer, &voter);
    /* The log never reads INIT's body: its first voter is entry 2. */
    struct log_entry entries[2] = {
        {.index = 1, .kind = LOG_KIND_INIT, .body = body, .body_size = (uint32_t)body_size},
        {.index = 2,
         .kind = LOG_KIND_VOTER,
         .body = voter_body,
         .body_size = (uint32_t)writer.position}};
    struct ha_digest digest = {0};
    for (unsigned i = 0; i < 2; i++) {
        entries[i].origin = identity->node;
        entries[i].wall_ms = (uint64_t)now.tv_sec * 1000;
        digest = entries[i].digest = log_entry_digest(digest, &entries[i]);
    }
    return store_create_log(dir, identity, entries, 2, err);
}
