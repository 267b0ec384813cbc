/* SPDX-License-Identifier: Apache-2.0
 *
 * What only the embedded driver promises: the observer sees every double run and no other, guests
 * are locked in, processes without a record are found, disks are proven quiet or not, and its
 * stream is in Xen's format.
 */
#include "contract_embedded.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/hv/embedded/disk.h"
#include "hamgr/hv/embedded/guestabi.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"

const struct contract_driver *contract = &contract_embedded;

static const struct contract_guest GUEST = {.name = "guest", .number = 1, .epoch = 1, .step_ms = 2};

/* ---- the observer ---- */

static uint32_t create_on(struct hv *node, const struct contract_guest *guest)
{
    struct hv *own = hv;

    hv = node;
    uint32_t domid = create(guest);
    hv = own;
    return domid;
}

static void await_violation(uint32_t slot)
{
    uint64_t end_ms = now_ms() + WAIT_MS;

    while (embedded_slots[slot].violations == 0 && now_ms() < end_ms)
        sleep_ms(1);
    assert_true(embedded_slots[slot].violations > 0);
}

static void test_a_hand_over_is_no_double_run(void **state)
{
    struct contract_guest next = GUEST;
    struct hv *other = embedded_open_as(2, 0);
    uint32_t domid = start(&GUEST);

    (void)state;
    await_steps(GUEST.number, 10);
    pause_domain(domid);
    next.epoch = 2;
    uint32_t successor = create_on(other, &next);
    run(successor);
    await_checked(next.number, 2);
    await_steps(next.number, 10);
    assert_int_equal(contract->damages(next.number), 0);
    const struct hv_observer_slot *slot = &embedded_slots[GUEST.number];
    assert_int_equal(hv_observer_node(slot->word), 2);
    assert_int_equal(hv_observer_epoch(slot->word), 2);
    assert_int_equal(slot->history_count, 2);
    assert_int_equal(hv_observer_node(slot->history[0].word), 1);
    assert_true(slot->history[1].first_check_ns >= slot->history[1].first_step_ns);
    assert_true(slot->history[1].first_step_ns > slot->history[0].first_step_ns);
    /* And the old copy, woken: a double run, seen at once by both. */
    run(domid);
    await_violation(GUEST.number);
    await_steps(GUEST.number, 5);
    other->ops->close(other);
}

static void test_two_copies_of_one_epoch(void **state)
{
    struct hv *other = embedded_open_as(2, 0);
    struct contract_guest twin = GUEST;

    (void)state;
    (void)start(&GUEST);
    assert_int_equal(contract->damages(GUEST.number), 0);
    /* Another cluster id would be another guest to the driver; here a twin on the same node needs
     * another uuid, so the plant names another guest that shares the slot. */
    twin.number = GUEST.number + (1u << 16);
    char text[DEFINITION_MAX];
    struct hv_label label = label_of(&twin);
    size_t size = contract->define(&GUEST, text, sizeof(text));
    struct hv_domain list[8];
    assert_int_equal(other->ops->create(other, &label, "twin", (uint8_t *)text, size, NULL), HV_OK);
    int count = other->ops->list(other, list, 8);
    for (int n = 0; n < count; n++)
        if (list[n].state == HV_PAUSED)
            run(list[n].domid);
    await_violation(GUEST.number);
    const struct hv_observer_slot *slot = &embedded_slots[GUEST.number];
    assert_true(slot->foreign_ns > 0);
    assert_int_not_equal(slot->foreign_word, slot->foreign_own);
    other->ops->close(other);
}

/* A source that made one more step after its memory was taken: the copy is of the past. */
static void test_a_source_that_ran_on_is_seen(void **state)
{
    struct contract_guest next = GUEST;
    uint32_t domid = start(&GUEST), arrived = 0;
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    sink_end(&s);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_OK);
    run(domid);
    await_steps(GUEST.number, 5);
    destroy(domid);
    next.epoch = 2;
    assert_int_equal(restore_bytes(&next, s.data, s.size, &arrived, NULL), HV_OK);
    assert_int_equal(contract->damages(GUEST.number), 0);
    run(arrived);
    await_violation(GUEST.number);
    free(s.data);
}

static void test_gap_is_the_pause(void **state)
{
    uint32_t domid = start(&GUEST);
    struct hv_observer_slot *slot = &embedded_slots[GUEST.number];

    (void)state;
    await_steps(GUEST.number, 10);
    pause_domain(domid);
    atomic_store(&slot->max_gap_ns, 0);
    sleep_ms(50);
    run(domid);
    await_steps(GUEST.number, 2);
    assert_in_range(slot->max_gap_ns, 50000000u, 2000000000u);
}

/* ---- locked in ---- */

static uint32_t pid_of(uint32_t domid)
{
    char path[128];
    struct emb_record record;
    struct ha_err err = {0};

    snprintf(path, sizeof(path), "%s/run/domains/%u", embedded_dir(), domid);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    assert_int_equal(emb_record_read(fd, &record, &err), 0);
    close(fd);
    return record.pid;
}

static bool status_has(uint32_t pid, const char *line)
{
    char path[64], text[256];
    bool is_there = false;

    snprintf(path, sizeof(path), "/proc/%u/status", pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(text, sizeof(text), file))
        is_there |= strcmp(text, line) == 0;
    fclose(file);
    return is_there;
}

static void test_guest_is_locked_in(void **state)
{
    uint32_t kept = 0;
    char path[64];
    struct dirent *entry;

    (void)state;
    hv->ops->close(hv);
    hv = embedded_open_as(1, 65534);
    uint32_t domid = start(&GUEST);
    uint32_t pid = pid_of(domid);
    assert_true(status_has(pid, "Seccomp:\t2\n"));
    assert_true(status_has(pid, "NoNewPrivs:\t1\n"));
    assert_true(status_has(pid, "Uid:\t65534\t65534\t65534\t65534\n"));
    assert_true(status_has(pid, "Gid:\t65534\t65534\t65534\t65534\n"));
    assert_true(status_has(pid, "CapEff:\t0000000000000000\n"));
    snprintf(path, sizeof(path), "/proc/%u/fd", pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        long fd = strtol(entry->d_name, NULL, 10);
        assert_true(fd == EMB_FD_MEMORY || fd == EMB_FD_UFFD || fd == EMB_FD_DOMAINS);
        kept++;
    }
    closedir(dir);
    assert_in_range(kept, 2, 3);
    /* All verbs work on it as on any other. */
    pause_domain(domid);
    run(domid);
    assert_untouched(domid, GUEST.number);
}

static void test_console(void **state)
{
    char text[4096];
    uint32_t domid = start(&GUEST);

    (void)state;
    assert_true(hv_embedded_console(hv, domid, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "started: node 1, epoch 1, 4 MiB"));
    assert_non_null(strstr(text, "self-check passed"));
    int size = hv_embedded_console(hv, domid, text, 30);
    assert_in_range(size, 0, 29);
    assert_int_equal(strlen(text), size);
    assert_int_equal(hv_embedded_console(hv, 12345, text, sizeof(text)), -HA_E_NOT_FOUND);
}

/* ---- identity ---- */

static void at_record(uint32_t domid, const char *file, char *ret_path, size_t size)
{
    snprintf(ret_path, size, "%s/run/domains/%u/%s", embedded_dir(), domid, file);
}

static struct hv_domain only_unlabelled(void)
{
    struct hv_domain list[8];
    int count = hv->ops->list(hv, list, 8);

    for (int n = 0; n < count; n++)
        if (!list[n].is_labelled)
            return list[n];
    fail_msg("nothing unlabelled among %d", count);
    return list[0];
}

/* The record is gone or damaged: what runs is found all the same, and paused with the rest. */
static void check_unlabelled(bool is_removed)
{
    char path[128], why[HA_TEXT_MAX];
    uint32_t domid = start(&GUEST);

    at_record(domid, "record", path, sizeof(path));
    if (is_removed)
        assert_int_equal(unlink(path), 0);
    else {
        int fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, "x", 1, 40), 1);
        close(fd);
    }
    struct hv_domain d = only_unlabelled();
    assert_int_equal(d.state, HV_RUNNING);
    assert_int_equal(domain_count(), 1);
    pause_domain(d.domid);
    assert_still(GUEST.number);
    assert_int_equal(only_unlabelled().state, HV_PAUSED);
    assert_int_equal(hv->ops->run(hv, d.domid, NULL), HV_FAILED);
    assert_int_equal(hv->ops->quiet(hv, d.domid, why), HV_NEVER_QUIET);
    assert_int_equal(hv->ops->destroy(hv, d.domid, NULL), HV_OK);
    assert_int_equal(hv->ops->destroy(hv, d.domid, NULL), HV_OK);
    assert_int_equal(domain_count(), 0);
    unlink(path);
    const char *const rest[] = {"label", "status", "console", "boot", "lock", "busy", ""};
    for (size_t n = 0; n < sizeof(rest) / sizeof(rest[0]); n++) {
        at_record(domid, rest[n], path, sizeof(path));
        if (unlink(path) != 0)
            rmdir(path);
    }
}

static void test_removed_record(void **state)
{
    (void)state;
    check_unlabelled(true);
}

static void test_damaged_record(void **state)
{
    (void)state;
    check_unlabelled(false);
}

/* A record whose pid another process has got meanwhile names nobody. */
static void test_reused_pid(void **state)
{
    struct emb_record record;
    char path[128];
    uint32_t domid = create(&GUEST);

    (void)state;
    at_record(domid, "", path, sizeof(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(emb_record_read(fd, &record, NULL), 0);
    pid_t guest = (pid_t)record.pid;
    record.pid = (uint32_t)getpid();
    assert_int_equal(emb_record_write(fd, &record, NULL), 0);
    close(fd);
    assert_state(domid, HV_CRASHED);
    assert_int_equal(hv->ops->run(hv, domid, NULL), HV_FAILED);
    pause_domain(domid); /* and we are still here */
    destroy(domid);
    struct hv_domain d = only_unlabelled();
    assert_int_equal(d.domid & 0x7fffffff, guest);
    destroy(d.domid);
}

static void test_nodes_do_not_see_each_other(void **state)
{
    struct hv_embedded_options options;
    char run_dir[96];
    struct hv_domain list[8];

    (void)state;
    (void)start(&GUEST);
    hv_embedded_options_from_env(&options);
    snprintf(run_dir, sizeof(run_dir), "%s/other", embedded_dir());
    options.run_dir = run_dir;
    options.guest_binary = getenv("HAMGR_GUEST");
    struct hv *other = hv_embedded_open_with(&options, NULL);
    assert_non_null(other);
    assert_int_equal(other->ops->list(other, list, 8), 0);
    other->ops->close(other);
    snprintf(run_dir, sizeof(run_dir), "%s/other/domains", embedded_dir());
    rmdir(run_dir);
    snprintf(run_dir, sizeof(run_dir), "%s/other", embedded_dir());
    rmdir(run_dir);
}

/* ---- disks: a backend that answers when it is told to ---- */

struct backend {
    struct emb_disk_ring *ring;
    struct emb_disk_stat *stat;
    _Atomic bool is_holding;
    _Atomic bool is_ended;
    struct ha_digest head;
    uint64_t sequence;
    pthread_t thread;
};

static void answer(struct backend *b, uint32_t at)
{
    const struct emb_disk_request *request = &b->ring->requests[at % EMB_DISK_DEPTH];
    struct emb_disk_response response = {.sequence = b->sequence, .digest = b->head};

    if (request->op == EMB_DISK_WRITE) {
        /* A repeated write is known by its sequence. */
        if (request->sequence == b->sequence + 1) {
            b->sequence++;
            b->head = request->digest;
        }
        response.sequence = request->sequence;
        response.digest = request->digest;
    }
    b->ring->responses[at % EMB_DISK_DEPTH] = response;
}

static void *serve(void *argument)
{
    struct backend *b = argument;

    while (!b->is_ended) {
        atomic_fetch_add(&b->stat->in_flight, 1);
        uint32_t taken = b->stat->rsp_prod;
        while (!b->is_holding && taken != b->ring->req_prod) {
            answer(b, taken++);
            b->ring->rsp_prod = taken;
            b->stat->rsp_prod = taken;
        }
        atomic_fetch_sub(&b->stat->in_flight, 1);
        sleep_ms(1);
    }
    return NULL;
}

static void *map_disk_file(const struct contract_guest *guest, const char *suffix, size_t size)
{
    char path[192], text[HA_UUID_TEXT];
    struct hv_label label = label_of(guest);

    ha_uuid_format(label.guest, text);
    snprintf(path, sizeof(path), "%s/disks/%s.%u.%s", embedded_dir(), text, (unsigned)label.epoch,
             suffix);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory;
}

static void attach(struct backend *b, const struct contract_guest *guest)
{
    b->ring = map_disk_file(guest, "ring", EMB_DISK_RING_SIZE);
    b->stat = map_disk_file(guest, "stat", EMB_DISK_STAT_SIZE);
    b->is_ended = false;
    assert_int_equal(pthread_create(&b->thread, NULL, serve, b), 0);
}

static void detach(struct backend *b)
{
    b->is_ended = true;
    pthread_join(b->thread, NULL);
    munmap(b->ring, EMB_DISK_RING_SIZE);
    munmap(b->stat, EMB_DISK_STAT_SIZE);
}

static uint32_t create_with_disk(const struct contract_guest *guest, const char *kind)
{
    char text[DEFINITION_MAX];
    struct hv_label label = label_of(guest);
    struct hv_domain list[8];
    size_t size = contract->define(guest, text, sizeof(text));

    size +=
        (size_t)snprintf(text + size, sizeof(text) - size, "disk = %s\nwrites_per_s = 500\n", kind);
    struct ha_err err = {0};
    if (hv->ops->create(hv, &label, "disk", (uint8_t *)text, size, &err) != HV_OK)
        fail_msg("%s", err.text);
    int count = hv->ops->list(hv, list, 8);
    for (int n = 0; n < count; n++)
        if (list[n].label.epoch == guest->epoch)
            return list[n].domid;
    return 0;
}

static void drop_disks(void)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/disks/bell", embedded_dir());
    unlink(path);
    snprintf(path, sizeof(path), "%s/disks", embedded_dir());
    rmdir(path);
}

static void await_writes(uint32_t slot, uint64_t count)
{
    uint64_t end_ms = now_ms() + WAIT_MS;

    while (embedded_slots[slot].disk_writes < count && now_ms() < end_ms)
        sleep_ms(1);
    assert_true(embedded_slots[slot].disk_writes >= count);
}

static void test_disk_is_quiet_when_drained(void **state)
{
    char why[HA_TEXT_MAX];
    struct backend b = {0};
    uint32_t domid = create_with_disk(&GUEST, "direct");

    (void)state;
    attach(&b, &GUEST);
    run(domid);
    await_writes(GUEST.number, 50);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_BUSY);
    /* The backend stalls: stopped is not silent. */
    b.is_holding = true;
    await_steps(GUEST.number, 10);
    assert_int_equal(hv->ops->suspend(hv, domid, NULL), HV_OK);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_BUSY);
    assert_int_equal(hv->ops->drain(hv, domid, 30, NULL), HV_FAILED);
    b.is_holding = false;
    assert_int_equal(hv->ops->drain(hv, domid, WAIT_MS, NULL), HV_OK);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_QUIET);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_OK);
    run(domid);
    await_writes(GUEST.number, embedded_slots[GUEST.number].disk_writes + 50);
    assert_int_equal(contract->damages(GUEST.number), 0);
    detach(&b);
    /* Destroyed with requests nobody takes: they are void. */
    destroy(domid);
    drop_disks();
}

/* The disk's log goes on where it stood, with the writes made twice that nobody had answered. */
static void test_disk_goes_along(void **state)
{
    struct contract_guest next = GUEST;
    struct backend b = {0};
    uint32_t domid = create_with_disk(&GUEST, "direct"), arrived = 0;
    char text[DEFINITION_MAX];
    struct sink s;

    (void)state;
    attach(&b, &GUEST);
    run(domid);
    await_writes(GUEST.number, 50);
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    assert_int_equal(hv->ops->drain(hv, domid, WAIT_MS, NULL), HV_OK);
    sink_end(&s);
    detach(&b);
    destroy(domid);
    next.epoch = 2;
    struct hv_label label = label_of(&next);
    size_t size = contract->define(&next, text, sizeof(text));
    size +=
        (size_t)snprintf(text + size, sizeof(text) - size, "disk = direct\nwrites_per_s = 500\n");
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pid_t pid = fork();
    if (pid == 0) {
        size_t sent = 0;
        ssize_t n;
        close(pair[1]);
        while (sent < s.size && (n = write(pair[0], s.data + sent, s.size - sent)) > 0)
            sent += (size_t)n;
        _exit(0);
    }
    close(pair[0]);
    assert_int_equal(hv->ops->restore(hv, &label, "disk", (uint8_t *)text, size, pair[1], -1, NULL,
                                      NULL, &arrived, NULL),
                     HV_OK);
    close(pair[1]);
    attach(&b, &next);
    run(arrived);
    await_writes(GUEST.number, embedded_slots[GUEST.number].disk_writes + 50);
    assert_int_equal(contract->damages(GUEST.number), 0);
    detach(&b);
    destroy(arrived);
    drop_disks();
    free(s.data);
}

static void test_write_back_is_never_quiet(void **state)
{
    char why[HA_TEXT_MAX];
    struct backend b = {0};
    uint32_t domid = create_with_disk(&GUEST, "writeback");

    (void)state;
    attach(&b, &GUEST);
    run(domid);
    await_writes(GUEST.number, 10);
    pause_domain(domid);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_NEVER_QUIET);
    assert_true(strlen(why) > 0);
    detach(&b);
    destroy(domid);
    drop_disks();
}

/* ---- streams ---- */

struct stall {
    int fd;
    _Atomic bool is_stalled;
    pthread_t thread;
};

static void *read_until_told(void *argument)
{
    struct stall *s = argument;
    static uint8_t bytes[65536];
    struct timespec nap = {.tv_nsec = 5000000};

    while (!s->is_stalled && read(s->fd, bytes, sizeof(bytes)) > 0)
        nanosleep(&nap, NULL); /* 13 MB/s: slower than the guest dirties */
    while (s->is_stalled)
        nanosleep(&nap, NULL);
    close(s->fd);
    return NULL;
}

static void stall_when_stopped(void *user, const struct hv_progress *p)
{
    struct stall *s = user;

    if (p->phase == HV_STOPPED)
        s->is_stalled = true;
}

/* A stream that stalls may not hold a stopped guest for ever: the save fails, the guest goes on. */
static void test_stall_while_stopped(void **state)
{
    const struct contract_guest fast = {
        .name = "fast", .number = 1, .epoch = 1, .memory_mib = 8, .dirty_mib_s = 100, .step_ms = 2};
    uint32_t domid = start(&fast);
    struct stall s = {0};
    struct ha_err err = {0};
    int pair[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    s.fd = pair[1];
    assert_int_equal(pthread_create(&s.thread, NULL, read_until_told, &s), 0);
    struct hv_save_params params = save_to(pair[0]);
    params.deadline_ms = 1;
    params.max_downtime_ms = 20;
    uint64_t begin_ms = now_ms();
    assert_int_equal(hv->ops->save(hv, domid, &params, stall_when_stopped, &s, &err), HV_FAILED);
    assert_non_null(strstr(err.text, "stalled"));
    assert_true(now_ms() - begin_ms < 15000);
    s.is_stalled = false;
    close(pair[0]);
    pthread_join(s.thread, NULL);
    assert_state(domid, HV_PAUSED);
    run(domid);
    assert_untouched(domid, fast.number);
}

/* The keeper of the faults that worker `parent` forked. */
static pid_t keeper_of(pid_t parent)
{
    uint64_t end_ms = now_ms() + WAIT_MS;
    char path[64], line[128] = "";
    int pid = 0;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
    while (pid == 0 && now_ms() < end_ms) {
        FILE *file = fopen(path, "re");
        if (file && fgets(line, sizeof(line), file))
            pid = (int)strtol(line, NULL, 10);
        if (file)
            fclose(file);
        sleep_ms(1);
    }
    assert_true(pid > 0);
    return pid;
}

/* Synchronous tracking: the keeper that a killed worker left behind lifts all protection some time
 * later. A save that began before that would lose pages. */
static void test_an_old_keeper_keeps_a_new_save_out(void **state)
{
    struct sink s;
    int pair[2], status;

    (void)state;
    hv->ops->close(hv);
    setenv(HV_EMBEDDED_ENV_SYNC, "1", 1);
    hv = contract->open();
    uint32_t domid = start(&GUEST);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    pid_t worker = fork();
    if (worker == 0) {
        struct hv *other = contract->open();
        struct hv_save_params params = save_to(pair[0]); /* nobody reads */
        other->ops->save(other, domid, &params, NULL, NULL, NULL);
        _exit(0);
    }
    pid_t keeper = keeper_of(worker);
    await_steps(GUEST.number, 5);
    assert_int_equal(kill(keeper, SIGSTOP), 0);
    assert_int_equal(kill(worker, SIGKILL), 0);
    assert_int_equal(waitpid(worker, &status, 0), worker);
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_FAILED);
    assert_int_equal(kill(keeper, SIGCONT), 0);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, NULL), HV_OK);
    assert_untouched(domid, GUEST.number);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    sink_end(&s);
    free(s.data);
    close(pair[0]);
    close(pair[1]);
    unsetenv(HV_EMBEDDED_ENV_SYNC);
}

static uint32_t get_u32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* Walks the libxc records as Xen's specification has them, without the driver's own code. */
static void test_stream_is_in_xens_format(void **state)
{
    uint32_t domid = start(&GUEST);
    struct sink s;
    unsigned page_records = 0, contexts = 0;
    uint64_t pages = 0;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    sink_end(&s);
    size_t at = 72;
    for (;;) {
        assert_true(at + 8 <= s.size);
        uint32_t type = get_u32(s.data + at), size = get_u32(s.data + at + 4);
        const uint8_t *body = s.data + at + 8;
        at += 8 + ((size + 7u) & ~7u);
        assert_true(at <= s.size);
        if (type == 0x00) {
            assert_int_equal(size, 0);
            break;
        }
        assert_true(type == 0x01 || type == 0x09);
        contexts += type == 0x09;
        if (type == 0x09)
            continue;
        assert_int_equal(contexts, 0);
        uint32_t count = get_u32(body);
        assert_in_range(count, 1, 1024);
        assert_int_equal(get_u32(body + 4), 0);
        assert_int_equal(size, 8 + count * (8 + 4096));
        for (uint32_t n = 0; n < count; n++) {
            assert_int_equal(get_u32(body + 8 + 8 * n + 4), 0); /* type normal, pfn below 2^32 */
            assert_true(get_u32(body + 8 + 8 * n) < 1024);
        }
        pages += count;
        page_records++;
    }
    assert_int_equal(contexts, 1);
    assert_in_range(pages, 1024, 100000);
    assert_true(page_records >= 1);
    assert_int_equal(s.size - at, 8); /* libxl END */
    assert_int_equal(get_u32(s.data + at), 0);
    assert_int_equal(get_u32(s.data + at + 4), 0);
    free(s.data);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_test, tear_down_test)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_hand_over_is_no_double_run),
        TEST(test_two_copies_of_one_epoch),
        TEST(test_a_source_that_ran_on_is_seen),
        TEST(test_gap_is_the_pause),
        TEST(test_guest_is_locked_in),
        TEST(test_console),
        TEST(test_removed_record),
        TEST(test_damaged_record),
        TEST(test_reused_pid),
        TEST(test_nodes_do_not_see_each_other),
        TEST(test_disk_is_quiet_when_drained),
        TEST(test_disk_goes_along),
        TEST(test_write_back_is_never_quiet),
        TEST(test_stall_while_stopped),
        TEST(test_an_old_keeper_keeps_a_new_save_out),
        TEST(test_stream_is_in_xens_format),
        TEST(test_pages_through_the_ring),
        TEST(test_a_ring_that_lies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
