/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-storage: the disks of all embedded guests, one process outside every node. It knows no
 * daemon and asks none: what reaches it is what happened, and the witness (storagewitness.c) judges
 * that. Tests can make it slow, hold writes back, cut a node off, and send an old write again.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/base/assert.h"
#include "hamgr/hv/embedded/storage_parts.h"
#include "hamgr/ipc/sock.h"

/* D of the lease arithmetic: a dead host's writes end within 2 s. */
#define END_MS_DEFAULT 2000u
#define WAITS_MAX      65536u
#define NS_PER_MS      UINT64_C(1000000)

uint64_t storage_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- disks -------------------------------------------------------------------------------------
 */

/* Where the guest's disk is, or would be. */
static uint32_t lower_bound(const struct storage *s, struct ha_uuid guest)
{
    uint32_t low = 0, high = s->disk_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ha_uuid_cmp(s->disks[middle]->guest, guest) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct storage_disk *storage_disk_of(struct storage *s, struct ha_uuid guest, bool is_new)
{
    uint32_t i = lower_bound(s, guest);

    if (i < s->disk_count && ha_uuid_equal(s->disks[i]->guest, guest))
        return s->disks[i];
    if (!is_new || s->disk_count == STORAGE_DISKS_MAX)
        return NULL;
    struct storage_disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return NULL;
    disk->guest = guest;
    memmove(&s->disks[i + 1], &s->disks[i], (s->disk_count - i) * sizeof(s->disks[0]));
    s->disks[i] = disk;
    s->disk_count++;
    return disk;
}

static void forget_violations(struct storage *s, struct ha_uuid guest)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < s->violation_count; i++)
        if (!ha_uuid_equal(s->violations[i].guest, guest))
            s->violations[kept++] = s->violations[i];
    s->violation_count = kept;
}

void storage_forget(struct storage *s, struct ha_uuid guest)
{
    uint32_t i = lower_bound(s, guest);

    if (i == s->disk_count || !ha_uuid_equal(s->disks[i]->guest, guest))
        return;
    s->violation_total -= s->disks[i]->violation_count;
    forget_violations(s, guest);
    free(s->disks[i]);
    s->disk_count--;
    memmove(&s->disks[i], &s->disks[i + 1], (s->disk_count - i) * sizeof(s->disks[0]));
}

static void note_violation(struct storage *s, const struct storage_disk *disk, uint32_t node,
                           const struct storagep_request *m, enum storage_verdict verdict)
{
    struct storage_violation v = {.wall_ms = wall_ms(),
                                  .guest = m->guest,
                                  .node = node,
                                  .owner_node = disk->node,
                                  .epoch = m->epoch,
                                  .owner_epoch = disk->epoch,
                                  .sequence = m->request.sequence,
                                  .verdict = (uint8_t)verdict};
    char text[HA_UUID_TEXT];

    s->violation_total++;
    if (s->violation_count < STORAGE_VIOLATIONS)
        s->violations[s->violation_count++] = v;
    ha_uuid_format(m->guest, text);
    qb_log(LOG_ERR,
           "violation: %s: guest %s node %u epoch %llu sequence %llu, owner node %u epoch %llu",
           storage_verdict_name(verdict), text, node, (unsigned long long)m->epoch,
           (unsigned long long)m->request.sequence, disk->node, (unsigned long long)disk->epoch);
}

void storage_do(struct storage *s, uint32_t node, const struct storagep_request *m,
                struct storagep_ack *ret_ack)
{
    struct storage_disk *disk = storage_disk_of(s, m->guest, true);

    *ret_ack = (struct storagep_ack){.sequence = m->request.sequence, .digest = m->request.digest};
    if (!disk) {
        qb_log(LOG_CRIT, "no room for one more disk");
        return;
    }
    enum storage_verdict verdict = storage_apply(disk, node, m->epoch, &m->request);
    if (storage_is_violation(verdict))
        note_violation(s, disk, node, m, verdict);
    if (m->request.op == EMB_DISK_HEAD) {
        s->head_count++;
        *ret_ack = (struct storagep_ack){.sequence = disk->sequence, .digest = disk->digest};
    } else {
        s->write_count++;
    }
}

/* ---- waiting requests --------------------------------------------------------------------------
 */

static bool is_matching(const struct storage_rule *rule, uint32_t node, struct ha_uuid guest)
{
    return (rule->node == 0 || rule->node == node) &&
           (ha_uuid_is_zero(rule->guest) || ha_uuid_equal(rule->guest, guest));
}

static bool is_held(const struct storage *s, const struct storage_wait *wait)
{
    for (uint32_t i = 0; i < s->rule_count; i++)
        if (s->rules[i].is_hold && is_matching(&s->rules[i], wait->node, wait->m.guest))
            return true;
    return false;
}

static uint32_t delay_of(const struct storage *s, uint32_t node, struct ha_uuid guest)
{
    uint32_t most_ms = 0;

    for (uint32_t i = 0; i < s->rule_count; i++)
        if (!s->rules[i].is_hold && is_matching(&s->rules[i], node, guest) &&
            s->rules[i].delay_ms > most_ms)
            most_ms = s->rules[i].delay_ms;
    return most_ms;
}

static void send_ack(struct storage_path *path, uint64_t id, const struct storagep_ack *ack)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    storagep_ack_encode(&w, ack);
    /* Unsent, the node asks again when it reconnects: a path that is full is a path that is lost.
     */
    if (ha_sock_send(path->fd, STORAGEP_ACK, id, body, w.position, NULL, 0) < 0 &&
        !path->is_ending) {
        path->is_ending = true;
        shutdown(path->fd, SHUT_RDWR);
    }
}

static void remove_wait(struct storage *s, struct storage_wait **link)
{
    struct storage_wait *wait = *link;

    *link = wait->next;
    if (!wait->next)
        s->end = link;
    s->wait_count--;
    free(wait);
}

/* Requests of one guest keep their order, even when only an earlier one is held. */
static bool is_behind(const struct storage *s, const struct storage_wait *wait)
{
    for (const struct storage_wait *other = s->first; other != wait; other = other->next)
        if (other->node == wait->node && ha_uuid_equal(other->m.guest, wait->m.guest))
            return true;
    return false;
}

static bool may_pass(const struct storage *s, const struct storage_wait *wait, uint64_t now_ns)
{
    return !is_held(s, wait) && wait->due_ns <= now_ns && !is_behind(s, wait);
}

static void pass(struct storage *s, const struct storage_wait *wait)
{
    struct storagep_ack ack;

    storage_do(s, wait->node, &wait->m, &ack);
    if (wait->path)
        send_ack(wait->path, wait->id, &ack);
}

static void on_timer(void *data)
{
    struct storage *s = data;

    s->timer = 0;
    storage_pump(s);
}

static void set_timer(struct storage *s, uint64_t wake_ns, uint64_t now_ns)
{
    if (s->timer)
        qb_loop_timer_del(s->loop, s->timer);
    s->timer = 0;
    if (wake_ns != UINT64_MAX)
        qb_loop_timer_add(s->loop, QB_LOOP_HIGH, wake_ns > now_ns ? wake_ns - now_ns : 1, s,
                          on_timer, &s->timer);
}

void storage_pump(struct storage *s)
{
    uint64_t now_ns = storage_now_ns(), wake_ns = UINT64_MAX;
    struct storage_wait **link = &s->first;

    while (*link) {
        struct storage_wait *wait = *link;
        if (may_pass(s, wait, now_ns)) {
            pass(s, wait);
            remove_wait(s, link);
        } else if (wait->end_ns != 0 && wait->end_ns <= now_ns) {
            s->vanished_count++;
            remove_wait(s, link);
        } else {
            if (wait->due_ns > now_ns && wait->due_ns < wake_ns)
                wake_ns = wait->due_ns;
            if (wait->end_ns != 0 && wait->end_ns < wake_ns)
                wake_ns = wait->end_ns;
            link = &wait->next;
        }
    }
    set_timer(s, wake_ns, now_ns);
}

static void arrive(struct storage_path *path, uint64_t id, const struct storagep_request *m)
{
    struct storage *s = path->storage;
    uint32_t delay_ms = delay_of(s, path->node, m->guest);
    struct storage_wait *wait = s->wait_count < WAITS_MAX ? calloc(1, sizeof(*wait)) : NULL;

    if (!wait) {
        path->is_ending = true;
        shutdown(path->fd, SHUT_RDWR); /* the node keeps the request and comes back with it */
        return;
    }
    *wait = (struct storage_wait){.path = path, .node = path->node, .id = id, .m = *m};
    if (delay_ms > 0)
        wait->due_ns = storage_now_ns() + delay_ms * NS_PER_MS;
    *s->end = wait;
    s->end = &wait->next;
    s->wait_count++;
}

/* ---- paths -------------------------------------------------------------------------------------
 */

bool storage_is_cut(const struct storage *s, uint32_t node)
{
    for (uint32_t i = 0; i < s->cut_count; i++)
        if (s->cut_nodes[i] == node)
            return true;
    return false;
}

/* Its node died, as far as a storage can tell: what is under way ends within D. */
static void orphan_waits(struct storage_path *path)
{
    struct storage *s = path->storage;
    uint64_t end_ns = storage_now_ns() + s->end_ms * NS_PER_MS;

    for (struct storage_wait *wait = s->first; wait; wait = wait->next)
        if (wait->path == path) {
            wait->path = NULL;
            wait->end_ns = end_ns;
        }
}

static void free_path(struct storage_path *path)
{
    struct storage *s = path->storage;
    struct storage_path **link = &s->paths;

    while (*link != path)
        link = &(*link)->next;
    *link = path->next;
    orphan_waits(path);
    qb_loop_poll_del(s->loop, path->fd);
    close(path->fd);
    free(path);
    storage_pump(s);
}

void storage_cut(struct storage *s, uint32_t node)
{
    struct storage_wait **link = &s->first;

    while (*link)
        if ((*link)->path && (*link)->node == node)
            remove_wait(s, link);
        else
            link = &(*link)->next;
    for (struct storage_path *path = s->paths; path; path = path->next)
        if (path->node == node) {
            path->is_ending = true;
            shutdown(path->fd, SHUT_RDWR);
        }
}

/* False: the peer is no node, or must not be here. */
static bool take_packet(struct storage_path *path, const struct ha_packet *packet)
{
    struct storagep_hello hello;
    struct storagep_request m;

    for (unsigned i = 0; i < HA_SOCK_FDS_MAX; i++)
        if (packet->fds[i] >= 0)
            close(packet->fds[i]);
    if (path->node == 0) {
        if (packet->type != STORAGEP_HELLO ||
            storagep_hello_decode(packet->body, packet->body_size, &hello) < 0 || hello.node == 0)
            return false;
        path->node = hello.node;
        return !storage_is_cut(path->storage, hello.node);
    }
    if (packet->type != STORAGEP_REQUEST ||
        storagep_request_decode(packet->body, packet->body_size, &m) < 0)
        return false;
    arrive(path, packet->id, &m);
    return true;
}

static int32_t on_path(int32_t fd, int32_t events, void *data)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct storage_path *path = data;
    struct ha_packet packet;
    int rc = -EAGAIN;

    (void)events;
    for (unsigned i = 0; i < 256; i++) {
        rc = ha_sock_receive(fd, buffer, &packet);
        if (rc != 1)
            break;
        if (path->is_ending)
            continue;
        if (!take_packet(path, &packet)) {
            free_path(path);
            return 0;
        }
    }
    struct storage *s = path->storage;
    if (rc != 1 && rc != -EAGAIN)
        free_path(path);
    storage_pump(s);
    return 0;
}

static int32_t on_listener(int32_t listener, int32_t events, void *data)
{
    struct storage *s = data;
    struct ha_err err = {0};
    int fd = ha_sock_accept(listener, (uid_t)-1, &err);

    (void)events;
    if (fd < 0)
        return 0;
    struct storage_path *path = calloc(1, sizeof(*path));
    if (!path || qb_loop_poll_add(s->loop, QB_LOOP_MED, fd, POLLIN, path, on_path) < 0) {
        free(path);
        close(fd);
        return 0;
    }
    *path = (struct storage_path){.next = s->paths, .storage = s, .fd = fd};
    s->paths = path;
    return 0;
}

/* ---- main --------------------------------------------------------------------------------------
 */

static int32_t on_term(int32_t number, void *data)
{
    (void)number;
    qb_loop_stop(data);
    return 0;
}

static int open_nodes(struct storage *s, struct ha_err *err)
{
    char path[256];

    if (mkdir(s->dir, 0755) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", s->dir, strerror(errno));
    if (snprintf(path, sizeof(path), "%s/storage.sock", s->dir) >= (int)sizeof(path))
        return ha_err_set(err, ENAMETOOLONG, "%s is too long", s->dir);
    s->listen_fd = ha_sock_listen(path, (gid_t)-1, err);
    if (s->listen_fd < 0)
        return s->listen_fd;
    return qb_loop_poll_add(s->loop, QB_LOOP_MED, s->listen_fd, POLLIN, s, on_listener);
}

static int run(struct storage *s)
{
    qb_loop_signal_handle term, interrupt;
    struct ha_err err = {0};

    s->loop = qb_loop_create();
    s->end = &s->first;
    s->disks = calloc(STORAGE_DISKS_MAX, sizeof(s->disks[0]));
    signal(SIGPIPE, SIG_IGN);
    if (!s->disks || open_nodes(s, &err) < 0 || storage_control_open(s, &err) < 0) {
        qb_log(LOG_CRIT, "can't start: %s", err.text);
        return EXIT_FAILURE;
    }
    qb_loop_signal_add(s->loop, QB_LOOP_HIGH, SIGTERM, s->loop, on_term, &term);
    qb_loop_signal_add(s->loop, QB_LOOP_HIGH, SIGINT, s->loop, on_term, &interrupt);
    qb_log(LOG_NOTICE, "ready | dir=%s end_ms=%u", s->dir, s->end_ms);
    qb_loop_run(s->loop);
    return EXIT_SUCCESS;
}

static void open_log(void)
{
    qb_log_init("hamgr-storage", LOG_DAEMON, LOG_INFO);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_INFO);
    qb_log_format_set(QB_LOG_STDERR, "%t %p: %b");
    qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
}

static void print_help(void)
{
    printf("Usage: hamgr-storage [OPTION...]\n"
           "The disks of embedded guests, outside all nodes, and the witness of their writes.\n\n"
           "  --dir DIR     storage.sock for nodes, control.sock for tests (default " STORAGE_DIR
           ")\n"
           "  --end-ms MS   a dead node's waiting writes vanish after this (default 2000)\n"
           "  --version, --help\n");
}

/* Returns -1 to go on, else the exit code. */
static int parse_options(int argc, char **argv, struct storage *s)
{
    static const struct option options[] = {
        {"dir", required_argument, NULL, 'd'},
        {"end-ms", required_argument, NULL, 'e'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (option == 'd') {
            s->dir = optarg;
        } else if (option == 'e') {
            char *end;
            unsigned long value = strtoul(optarg, &end, 10);
            if (*end != '\0' || end == optarg || value > 3600000) {
                fprintf(stderr, "hamgr-storage: --end-ms: 0 to 3600000\n");
                return 2;
            }
            s->end_ms = (uint32_t)value;
        } else if (option == 'V') {
            printf("hamgr-storage %s\n", HA_VERSION);
            return 0;
        } else if (option == 'h') {
            print_help();
            return 0;
        } else {
            return 2;
        }
    }
    return optind == argc ? -1 : 2;
}

int main(int argc, char **argv)
{
    static struct storage storage = {.dir = STORAGE_DIR, .end_ms = END_MS_DEFAULT};
    int code = parse_options(argc, argv, &storage);

    if (code >= 0)
        return code;
    open_log();
    code = run(&storage);
    qb_log_fini();
    return code;
}
