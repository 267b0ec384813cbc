/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-disk: the disk backend of a node's embedded guests, one process outside all of them. Takes
 * requests from the guests' rings (disk.h), sends them to hamgr-storage and answers when they are
 * stored. A lost path to the storage keeps requests outstanding for ever and sends them again, in
 * order, when it is back: what multipath does, and what makes "paused" different from "silent".
 *
 * A restarted hamgr-disk goes on where the stat pages say the last one stopped. Only what a
 * write-back cache held is lost with the process, as with any cache.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <qb/qblog.h>
#include <qb/qbloop.h>
#include <systemd/sd-daemon.h>

#include "hamgr/hv/embedded/storage.h"
#include "hamgr/ipc/sock.h"

/* Requests between ring and storage. A write-back cache takes writes it has answered already. */
#define QUEUE_MAX 256u
/* Bells can't be lost, but a guest stopped between request and bell rings only when it runs again:
 * nobody waits for that write. Looked for anyway, once a second. */
#define SCAN_NS (UINT64_C(1000) * QB_TIME_NS_IN_MSEC)
/* A path that is back is found within 100 ms: much less than the pause of a guest it ends. */
#define RECONNECT_NS (UINT64_C(100) * QB_TIME_NS_IN_MSEC)
#define PATH_SIZE    512u

struct op {
    struct emb_disk_request request;
    uint64_t id; /* 0 = not sent on this connection */
    bool is_answered;
};

struct disk {
    struct disk *next;
    ino_t ino; /* of the stat file: the same pair may get a new disk */
    bool is_seen;
    struct emb_disk_stat *stat;
    struct emb_disk_ring *ring;
    struct op ops[QUEUE_MAX]; /* number n in slot n % QUEUE_MAX */
    uint32_t first, end;      /* taken and not stored: [first, end) */
};

struct backend {
    qb_loop_t *loop;
    const char *dir;
    const char *storage_path;
    uint32_t node;
    int dir_fd;
    int bell_fd;
    int notify_fd;
    int storage_fd; /* -1: no path */
    uint64_t last_id;
    struct disk *disks;
};

static void connect_storage(struct backend *b);

/* ---- answering ---------------------------------------------------------------------------------
 */

static void wake_guest(struct emb_disk_ring *ring)
{
    syscall(SYS_futex, &ring->rsp_prod, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The stat page's count before the ring's: after a crash in between, the restarted backend repeats
 * the ring's. */
static void answer(struct disk *disk, struct op *op, uint64_t sequence, struct ha_digest digest)
{
    uint32_t n = atomic_load(&disk->stat->rsp_prod);

    disk->ring->responses[n % EMB_DISK_DEPTH] =
        (struct emb_disk_response){.sequence = sequence, .digest = digest};
    atomic_store(&disk->stat->rsp_prod, n + 1);
    atomic_store_explicit(&disk->ring->rsp_prod, n + 1, memory_order_release);
    op->is_answered = true;
    wake_guest(disk->ring);
}

static struct op *op_of(struct disk *disk, uint32_t n)
{
    return &disk->ops[n % QUEUE_MAX];
}

/* Answers in order only: a write waits for the head request before it. */
static void answer_early(struct disk *disk, struct op *op)
{
    bool is_first = disk->end == disk->first || op_of(disk, disk->end - 1)->is_answered;

    if (disk->stat->mode == EMB_DISK_BACK && op->request.op == EMB_DISK_WRITE && is_first)
        answer(disk, op, op->request.sequence, op->request.digest);
}

/* ---- sending -----------------------------------------------------------------------------------
 */

static void lose_storage(struct backend *b)
{
    if (b->storage_fd < 0)
        return;
    qb_loop_poll_del(b->loop, b->storage_fd);
    close(b->storage_fd);
    b->storage_fd = -1;
    for (struct disk *disk = b->disks; disk; disk = disk->next)
        for (uint32_t n = disk->first; n != disk->end; n++)
            op_of(disk, n)->id = 0;
}

/* False if the path can't take more now. */
static bool send_op(struct backend *b, struct disk *disk, struct op *op)
{
    uint8_t body[256];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct storagep_request m = {
        .guest = disk->stat->guest, .epoch = disk->stat->epoch, .request = op->request};

    storagep_request_encode(&w, &m);
    int rc =
        ha_sock_send(b->storage_fd, STORAGEP_REQUEST, b->last_id + 1, body, w.position, NULL, 0);
    if (rc == 0)
        op->id = ++b->last_id;
    else if (rc != -EAGAIN)
        lose_storage(b);
    return rc == 0;
}

static int32_t on_storage(int32_t fd, int32_t events, void *data);

static bool send_disk(struct backend *b, struct disk *disk)
{
    for (uint32_t n = disk->first; n != disk->end; n++)
        if (op_of(disk, n)->id == 0 && !send_op(b, disk, op_of(disk, n)))
            return false;
    return true;
}

static void send_all(struct backend *b)
{
    bool is_all = true;

    for (struct disk *disk = b->disks; disk && b->storage_fd >= 0 && is_all; disk = disk->next)
        is_all = send_disk(b, disk);
    if (b->storage_fd >= 0)
        qb_loop_poll_mod(b->loop, QB_LOOP_HIGH, b->storage_fd, is_all ? POLLIN : POLLIN | POLLOUT,
                         b, on_storage);
}

/* ---- taking from rings -------------------------------------------------------------------------
 */

static void break_ring(struct disk *disk, const char *why)
{
    char text[HA_UUID_TEXT];

    ha_uuid_format(disk->stat->guest, text);
    qb_log(LOG_WARNING, "disk of %s: %s; nothing more is taken from it", text, why);
    atomic_store(&disk->stat->is_broken, 1);
}

/* Copied before it is looked at: the guest may write it at any time. False if it is nonsense. */
static bool take_one(struct disk *disk)
{
    uint32_t cons = atomic_load(&disk->stat->req_cons);
    struct op op = {.request = disk->ring->requests[cons % EMB_DISK_DEPTH]};
    const struct emb_disk_request *q = &op.request;

    if ((q->op != EMB_DISK_WRITE && q->op != EMB_DISK_HEAD) || q->payload_size > EMB_DISK_PAYLOAD)
        return false;
    atomic_fetch_add(&disk->stat->in_flight, 1);
    atomic_store(&disk->stat->req_cons, cons + 1);
    answer_early(disk, &op);
    *op_of(disk, disk->end) = op;
    disk->end++;
    return true;
}

static void take_all(struct disk *disk)
{
    const struct emb_disk_stat *stat = disk->stat;
    uint32_t prod = atomic_load(&disk->ring->req_prod);

    if (prod - atomic_load(&stat->rsp_prod) > EMB_DISK_DEPTH ||
        prod - atomic_load(&stat->req_cons) > EMB_DISK_DEPTH) {
        break_ring(disk, "its ring's counters are impossible");
        return;
    }
    while (atomic_load(&stat->req_cons) != prod && disk->end - disk->first < QUEUE_MAX)
        if (!take_one(disk)) {
            break_ring(disk, "a request is malformed");
            return;
        }
}

/* in_flight is up while the ring is looked at: whoever sees it 0 knows that nobody is between
 * looking and counting (see disk.h). is_closing is read after it went up, for the same reason. */
static void scan_disk(struct disk *disk)
{
    atomic_fetch_add(&disk->stat->in_flight, 1);
    if (!atomic_load(&disk->stat->is_closing) && !atomic_load(&disk->stat->is_broken))
        take_all(disk);
    atomic_fetch_sub(&disk->stat->in_flight, 1);
}

static void scan_all(struct backend *b)
{
    for (struct disk *disk = b->disks; disk; disk = disk->next)
        scan_disk(disk);
    if (b->storage_fd >= 0)
        send_all(b);
}

/* ---- storage -----------------------------------------------------------------------------------
 */

static struct disk *find_acked(struct backend *b, uint64_t id)
{
    for (struct disk *disk = b->disks; disk; disk = disk->next)
        if (disk->first != disk->end && op_of(disk, disk->first)->id == id)
            return disk;
    return NULL;
}

/* False if storage answered what was not asked, or out of order. */
static bool take_ack(struct backend *b, const struct ha_packet *packet)
{
    struct storagep_ack ack;
    struct disk *disk = find_acked(b, packet->id);

    if (packet->type != STORAGEP_ACK || packet->id == 0 || !disk ||
        storagep_ack_decode(packet->body, packet->body_size, &ack) < 0)
        return false;
    struct op *op = op_of(disk, disk->first);
    if (op->request.op == EMB_DISK_WRITE)
        atomic_fetch_add(&disk->stat->write_count, 1);
    if (!op->is_answered)
        answer(disk, op, ack.sequence, ack.digest);
    disk->first++;
    atomic_fetch_sub(&disk->stat->in_flight, 1);
    scan_disk(disk); /* there is room in the queue again */
    return true;
}

static int32_t on_storage(int32_t fd, int32_t events, void *data)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct backend *b = data;
    struct ha_packet packet;
    int rc = -EAGAIN;

    (void)events;
    for (unsigned i = 0; i < 256; i++) {
        rc = ha_sock_receive(fd, buffer, &packet);
        if (rc != 1)
            break;
        if (!take_ack(b, &packet)) {
            rc = -HA_E_PEER;
            break;
        }
    }
    if (rc != 1 && rc != -EAGAIN) {
        qb_log(LOG_WARNING, "the path to the storage is lost; requests stay outstanding");
        lose_storage(b);
        return 0;
    }
    send_all(b);
    return 0;
}

static void connect_storage(struct backend *b)
{
    uint8_t body[16];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (b->storage_fd >= 0)
        return;
    b->storage_fd = ha_sock_connect(b->storage_path, NULL);
    if (b->storage_fd < 0)
        return;
    storagep_hello_encode(&w, &(struct storagep_hello){b->node});
    if (qb_loop_poll_add(b->loop, QB_LOOP_HIGH, b->storage_fd, POLLIN, b, on_storage) < 0 ||
        ha_sock_send(b->storage_fd, STORAGEP_HELLO, 0, body, w.position, NULL, 0) < 0) {
        lose_storage(b);
        return;
    }
    send_all(b);
}

static void on_reconnect(void *data)
{
    struct backend *b = data;
    qb_loop_timer_handle timer;

    connect_storage(b);
    qb_loop_timer_add(b->loop, QB_LOOP_MED, RECONNECT_NS, b, on_reconnect, &timer);
}

/* ---- finding disks -----------------------------------------------------------------------------
 */

static void *map_at(int dir_fd, const char *name, size_t size, ino_t *ret_ino)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat info;
    void *memory = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size >= (off_t)size)
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (ret_ino)
        *ret_ino = info.st_ino;
    return memory == MAP_FAILED ? NULL : memory;
}

static void detach(struct disk *disk)
{
    if (disk->stat)
        munmap(disk->stat, EMB_DISK_STAT_SIZE);
    if (disk->ring)
        munmap(disk->ring, EMB_DISK_RING_SIZE);
    free(disk);
}

/* Takes up what an earlier backend left: its requests that were not answered are still in the
 * ring's slots. In a write-back disk the answered ones are lost. */
static void take_over(struct disk *disk)
{
    struct emb_disk_stat *stat = disk->stat;
    uint32_t rsp = atomic_load(&stat->rsp_prod);
    uint32_t cons = atomic_load(&stat->req_cons);

    if (cons - rsp > EMB_DISK_DEPTH) {
        if (stat->mode == EMB_DISK_THROUGH)
            break_ring(disk, "its stat page is damaged");
        cons = rsp;
    }
    atomic_store(&stat->in_flight, cons - rsp + 1);
    atomic_store(&stat->req_cons, rsp);
    for (uint32_t n = rsp; n != cons; n++) {
        if (!take_one(disk)) {
            break_ring(disk, "a request is malformed");
            break;
        }
        atomic_fetch_sub(&stat->in_flight, 1); /* counted above already */
    }
    atomic_store(&disk->ring->rsp_prod, atomic_load(&stat->rsp_prod));
    atomic_store(&stat->in_flight, disk->end - disk->first);
    wake_guest(disk->ring);
}

static struct disk *attach(struct backend *b, const char *stat_name)
{
    char ring_name[128];
    size_t stem = strlen(stat_name) - strlen("stat");
    struct disk *disk = calloc(1, sizeof(*disk));

    if (!disk || stem + sizeof("ring") > sizeof(ring_name)) {
        free(disk);
        return NULL;
    }
    memcpy(ring_name, stat_name, stem);
    memcpy(ring_name + stem, "ring", sizeof("ring"));
    disk->stat = map_at(b->dir_fd, stat_name, EMB_DISK_STAT_SIZE, &disk->ino);
    disk->ring = map_at(b->dir_fd, ring_name, EMB_DISK_RING_SIZE, NULL);
    if (!disk->stat || !disk->ring || disk->stat->magic != EMB_DISK_MAGIC ||
        disk->stat->version != EMB_DISK_VERSION) {
        qb_log(LOG_WARNING, "%s is not a disk", stat_name);
        detach(disk);
        return NULL;
    }
    take_over(disk);
    return disk;
}

static void see(struct backend *b, const char *name)
{
    struct stat info;

    if (fstatat(b->dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    for (struct disk *disk = b->disks; disk; disk = disk->next)
        if (disk->ino == info.st_ino) {
            disk->is_seen = true;
            return;
        }
    struct disk *disk = attach(b, name);
    if (!disk)
        return;
    disk->is_seen = true;
    disk->next = b->disks;
    b->disks = disk;
}

/* A disk whose files are gone was closed when nothing was in flight. */
static void drop_unseen(struct backend *b)
{
    struct disk **link = &b->disks;

    while (*link) {
        struct disk *disk = *link;
        if (disk->is_seen || disk->first != disk->end) {
            link = &disk->next;
            continue;
        }
        *link = disk->next;
        detach(disk);
    }
}

static void find_disks(struct backend *b)
{
    int fd = openat(b->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct disk *disk = b->disks; disk; disk = disk->next)
        disk->is_seen = false;
    while ((entry = readdir(dir)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (length > 5 && strcmp(entry->d_name + length - 5, ".stat") == 0)
            see(b, entry->d_name);
    }
    closedir(dir);
    drop_unseen(b);
    scan_all(b);
}

static int32_t on_notify(int32_t fd, int32_t events, void *data)
{
    char bytes[4096];

    (void)events;
    while (read(fd, bytes, sizeof(bytes)) > 0)
        ;
    find_disks(data);
    return 0;
}

static int32_t on_bell(int32_t fd, int32_t events, void *data)
{
    char bytes[4096];

    (void)events;
    (void)!read(fd, bytes, sizeof(bytes));
    scan_all(data);
    return 0;
}

static void on_scan(void *data)
{
    struct backend *b = data;
    qb_loop_timer_handle timer;

    scan_all(b);
    qb_loop_timer_add(b->loop, QB_LOOP_LOW, SCAN_NS, b, on_scan, &timer);
}

/* ---- main --------------------------------------------------------------------------------------
 */

static int32_t on_term(int32_t number, void *data)
{
    (void)number;
    qb_loop_stop(data);
    return 0;
}

/* The driver makes the directory as well; whoever comes first does. */
static int open_dir(struct backend *b)
{
    char path[PATH_SIZE];
    int length = snprintf(path, sizeof(path), "%s", b->dir);

    if (length < 1 || length >= (int)sizeof(path))
        return -1;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    mkdir(path, 0700);
    b->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dir_fd < 0 || (mkfifoat(b->dir_fd, "bell", 0600) < 0 && errno != EEXIST))
        return -1;
    b->bell_fd = openat(b->dir_fd, "bell", O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    b->notify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (b->bell_fd < 0 || b->notify_fd < 0)
        return -1;
    return inotify_add_watch(b->notify_fd, path, IN_MOVED_TO | IN_DELETE) < 0 ? -1 : 0;
}

static int run(struct backend *b)
{
    qb_loop_signal_handle term, interrupt;

    b->loop = qb_loop_create();
    if (open_dir(b) < 0) {
        qb_log(LOG_CRIT, "%s: %s", b->dir, strerror(errno));
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    qb_loop_signal_add(b->loop, QB_LOOP_HIGH, SIGTERM, b->loop, on_term, &term);
    qb_loop_signal_add(b->loop, QB_LOOP_HIGH, SIGINT, b->loop, on_term, &interrupt);
    qb_loop_poll_add(b->loop, QB_LOOP_MED, b->bell_fd, POLLIN, b, on_bell);
    qb_loop_poll_add(b->loop, QB_LOOP_MED, b->notify_fd, POLLIN, b, on_notify);
    on_reconnect(b);
    find_disks(b);
    on_scan(b);
    qb_log(LOG_NOTICE, "ready | node=%u dir=%s storage=%s", b->node, b->dir, b->storage_path);
    (void)sd_notify(0, "READY=1");
    qb_loop_run(b->loop);
    return EXIT_SUCCESS;
}

static void open_log(void)
{
    qb_log_init("hamgr-disk", LOG_DAEMON, LOG_INFO);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_INFO);
    qb_log_format_set(QB_LOG_STDERR, "%t %p: %b");
    qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
}

static void print_help(void)
{
    printf("Usage: hamgr-disk --node ID [OPTION...]\n"
           "Disk backend of the embedded guests of this node.\n\n"
           "  --node ID        this node's number, 1 to 4294967295\n"
           "  --dir DIR        the guests' rings (default " EMB_DISK_DIR ")\n"
           "  --storage PATH   socket of hamgr-storage (default " STORAGE_SOCKET ")\n"
           "  --version, --help\n");
}

static bool parse_node(const char *text, uint32_t *ret)
{
    char *end;

    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || value == 0 || value > UINT32_MAX)
        return false;
    *ret = (uint32_t)value;
    return true;
}

/* Returns -1 to go on, else the exit code. */
static int parse_options(int argc, char **argv, struct backend *b)
{
    static const struct option options[] = {
        {"node", required_argument, NULL, 'n'},    {"dir", required_argument, NULL, 'd'},
        {"storage", required_argument, NULL, 's'}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (option == 'd') {
            b->dir = optarg;
        } else if (option == 's') {
            b->storage_path = optarg;
        } else if (option == 'V') {
            printf("hamgr-disk %s\n", HA_VERSION);
            return 0;
        } else if (option == 'h') {
            print_help();
            return 0;
        } else if (option != 'n' || !parse_node(optarg, &b->node)) {
            fprintf(stderr, "hamgr-disk: see --help\n");
            return 2;
        }
    }
    if (optind == argc && b->node != 0)
        return -1;
    fprintf(stderr, "hamgr-disk: --node ID is needed, and nothing else but options\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct backend backend = {
        .dir = EMB_DISK_DIR, .storage_path = STORAGE_SOCKET, .storage_fd = -1};
    int code = parse_options(argc, argv, &backend);

    if (code >= 0)
        return code;
    open_log();
    code = run(&backend);
    qb_log_fini();
    return code;
}
