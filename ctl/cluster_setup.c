/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/cluster_setup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAEMON_USER "hamgr"
#define KEY_SIZE    256u

/* --- corosync.conf --- */

struct text {
    char *data;
    size_t size;
    size_t used;
    bool is_full;
};

static void add(struct text *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(text->data + text->used, text->size - text->used, fmt, args);
    va_end(args);
    if (length < 0 || (size_t)length >= text->size - text->used)
        text->is_full = true;
    else
        text->used += (size_t)length;
}

/* 4, 6, or 0 for what is no numeric address. */
static int family_of(const char *addr)
{
    uint8_t bytes[16];

    if (inet_pton(AF_INET, addr, bytes) == 1)
        return 4;
    return inet_pton(AF_INET6, addr, bytes) == 1 ? 6 : 0;
}

static int check_node(const struct cluster_setup *setup, uint32_t at, struct ha_err *err)
{
    const struct cluster_setup_node *node = &setup->nodes[at];

    if (node->id == 0)
        return ha_err_set(err, HA_E_USAGE, "node ids start at 1");
    if (!ha_name_is_valid(node->name))
        return ha_err_set(err, HA_E_USAGE, "\"%.70s\" is no name of a node", node->name);
    if (family_of(node->addr) == 0)
        return ha_err_set(err, HA_E_USAGE, "\"%.70s\" is no IP address", node->addr);
    if (family_of(node->addr) != family_of(setup->nodes[0].addr))
        return ha_err_set(err, HA_E_USAGE, "IPv4 and IPv6 addresses can't be mixed in one ring");
    for (uint32_t i = 0; i < at; i++) {
        const struct cluster_setup_node *other = &setup->nodes[i];
        if (other->id == node->id || strcmp(other->name, node->name) == 0 ||
            strcmp(other->addr, node->addr) == 0)
            return ha_err_set(err, HA_E_USAGE,
                              "nodes %" PRIu32 " and %" PRIu32 " share an id, a name or an address",
                              other->id, node->id);
    }
    return 0;
}

static int check_setup(const struct cluster_setup *setup, struct ha_err *err)
{
    if (!ha_name_is_valid(setup->cluster_name))
        return ha_err_set(err, HA_E_USAGE, "\"%.70s\" is no name of a cluster",
                          setup->cluster_name);
    if (setup->token_ms < 200 || setup->token_ms > 60000)
        return ha_err_set(err, HA_E_USAGE, "token: 200 to 60000 ms are possible, not %" PRIu32,
                          setup->token_ms);
    /* Fractions rounded up as corosync's own check: consensus >= 1.2 x token. */
    if (setup->consensus_ms != 0 && setup->consensus_ms * 5ull < setup->token_ms * 6ull)
        return ha_err_set(err, HA_E_USAGE,
                          "consensus must be at least 1.2 x token, that is %" PRIu32 " ms",
                          (setup->token_ms * 6 + 4) / 5);
    if (setup->node_count == 0 || setup->node_count > HA_NODES_MAX)
        return ha_err_set(err, HA_E_USAGE, "a cluster has 1 to %u nodes", HA_NODES_MAX);
    for (uint32_t i = 0; i < setup->node_count; i++) {
        int rc = check_node(setup, i, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void add_totem(struct text *text, const struct cluster_setup *setup)
{
    add(text, "totem {\n  version: 2\n  cluster_name: %s\n  transport: knet\n",
        setup->cluster_name);
    add(text, "  token: %" PRIu32 "\n  token_coefficient: 0\n", setup->token_ms);
    if (setup->consensus_ms != 0)
        add(text, "  consensus: %" PRIu32 "\n", setup->consensus_ms);
    add(text, "  crypto_cipher: aes256\n  crypto_hash: sha256\n");
    /* A dead node is found by the token. knet's own verdict on the only link there is (by default
     * after half a token without a pong) can but split the cluster: it did so within 10 s at 10 %
     * packet loss, and never with these. */
    add(text, "  interface {\n    linknumber: 0\n    knet_ping_interval: 200\n"
              "    knet_ping_timeout: 4000\n    knet_pong_count: 1\n  }\n");
    add(text, "}\n\n");
}

int cluster_setup_conf(const struct cluster_setup *setup, char *ret_text, size_t capacity,
                       struct ha_err *err)
{
    struct text text = {.data = ret_text, .size = capacity};
    int rc = check_setup(setup, err);

    if (rc < 0)
        return rc;
    add(&text,
        "# Made by hactl cluster init. The same on every node; the times below are in effect "
        "as\n# written, because token_coefficient is 0. hamgr refuses two_node, "
        "last_man_standing\n# and auto_tie_breaker.\n");
    add_totem(&text, setup);
    add(&text, "nodelist {\n");
    for (uint32_t i = 0; i < setup->node_count; i++)
        add(&text, "  node {\n    nodeid: %" PRIu32 "\n    name: %s\n    ring0_addr: %s\n  }\n",
            setup->nodes[i].id, setup->nodes[i].name, setup->nodes[i].addr);
    add(&text, "}\n\nquorum {\n  provider: corosync_votequorum\n}\n\n"
               "logging {\n  to_syslog: yes\n  to_logfile: no\n  timestamp: on\n}\n");
    if (text.is_full)
        return ha_err_set(err, HA_E_LIMIT, "corosync.conf would be longer than %zu bytes",
                          capacity);
    return 0;
}

/* --- files --- */

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        data += written;
        size -= (size_t)written;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* Writes beside the place and links it there: link, unlike rename, never replaces. */
static int make_file(const char *dir, const char *name, mode_t mode, const void *data, size_t size,
                     struct ha_err *err)
{
    char path[PATH_MAX];
    char fresh[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path) ||
        snprintf(fresh, sizeof(fresh), "%s/.%s.new", dir, name) >= (int)sizeof(fresh))
        return ha_err_set(err, ENAMETOOLONG, "%s: the name is too long", dir);
    if (access(path, F_OK) == 0)
        return 0;
    unlink(fresh);
    int fd = open(fresh, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ha_err_set(err, errno, "create %s: %s", fresh, strerror(errno));
    int rc = write_all(fd, data, size);
    if (rc == 0 && fchmod(fd, mode) < 0)
        rc = -errno;
    close(fd);
    if (rc == 0 && link(fresh, path) < 0 && errno != EEXIST)
        rc = -errno;
    unlink(fresh);
    return rc == 0 ? 0 : ha_err_set(err, rc, "write %s: %s", path, strerror(-rc));
}

static int make_dir(const char *path, struct ha_err *err)
{
    if (mkdir(path, 0755) == 0 || errno == EEXIST)
        return 0;
    return ha_err_set(err, errno, "make %s: %s", path, strerror(errno));
}

static int make_key(const char *etc, struct ha_err *err)
{
    uint8_t key[KEY_SIZE];

    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        return ha_err_set(err, errno, "random bytes for the key: %s", strerror(errno));
    int rc = make_file(etc, "authkey", 0400, key, sizeof(key), err);
    explicit_bzero(key, sizeof(key));
    return rc;
}

int cluster_setup_right(const char *etc, struct ha_err *err)
{
    static const char right[] = "uidgid {\n  uid: " DAEMON_USER "\n}\n";
    char dir[PATH_MAX];

    if (snprintf(dir, sizeof(dir), "%s/uidgid.d", etc) >= (int)sizeof(dir))
        return ha_err_set(err, ENAMETOOLONG, "%s: the name is too long", etc);
    int rc = make_dir(etc, err);
    if (rc == 0)
        rc = make_dir(dir, err);
    return rc < 0 ? rc : make_file(dir, DAEMON_USER, 0644, right, sizeof(right) - 1, err);
}

int cluster_setup_files(const char *etc, const struct cluster_setup *setup, struct ha_err *err)
{
    char text[CLUSTER_SETUP_CONF_SIZE];
    int rc = cluster_setup_conf(setup, text, sizeof(text), err);

    if (rc == 0)
        rc = make_dir(etc, err);
    if (rc == 0)
        rc = make_key(etc, err);
    if (rc == 0)
        rc = cluster_setup_right(etc, err);
    if (rc == 0) /* last: corosync starts only when it is there, and then finds the rest */
        rc = make_file(etc, "corosync.conf", 0644, text, strlen(text), err);
    return rc;
}

int cluster_setup_corosync(const char *cluster_name, uint32_t id, const char *node_name,
                           const char *addr, uint32_t token_ms, struct ha_err *err)
{
    const struct cluster_setup_node node = {.id = id, .name = node_name, .addr = addr};
    const struct cluster_setup setup = {
        .cluster_name = cluster_name, .token_ms = token_ms, .node_count = 1, .nodes = &node};

    return cluster_setup_files(CLUSTER_SETUP_ETC, &setup, err);
}

/* --- the first store --- */

static uint64_t wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int cluster_setup_first_store(const char *dir, const struct store_identity *identity,
                              const uint8_t *body, size_t size, struct ha_err *err)
{
    const struct log_voter_change change = {
        .is_added = true, .node = identity->node, .store_id = identity->store_id};
    uint8_t vote[64];
    struct ha_writer w = ha_writer_of(vote, sizeof(vote));
    struct log_entry entries[2] = {
        {.index = 1, .kind = LOG_KIND_INIT, .origin = identity->node, .wall_ms = wall_ms()},
        {.index = 2, .kind = LOG_KIND_VOTER, .origin = identity->node, .wall_ms = wall_ms()},
    };

    if (size > HA_ENTRY_MAX)
        return ha_err_set(err, HA_E_LIMIT, "the first entry is too long");
    log_voter_change_encode(&w, &change);
    if (w.failed)
        return ha_err_set(err, HA_E_LIMIT, "the vote does not fit");
    entries[0].body = body;
    entries[0].body_size = (uint32_t)size;
    entries[1].body = vote;
    entries[1].body_size = (uint32_t)w.position;
    entries[0].digest = log_entry_digest((struct ha_digest){0}, &entries[0]);
    entries[1].digest = log_entry_digest(entries[0].digest, &entries[1]);
    return store_create_log(dir, identity, entries, 2, err);
}

int cluster_setup_give_store(const char *dir, struct ha_err *err)
{
    const struct passwd *user = geteuid() == 0 ? getpwnam(DAEMON_USER) : NULL;

    return user ? store_give(dir, user->pw_uid, user->pw_gid, err) : 0;
}
