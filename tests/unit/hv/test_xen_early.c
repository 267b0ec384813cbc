/* SPDX-License-Identifier: Apache-2.0
 *
 * Restore of the xen driver when libxl makes the devices before memory is there.
 */
#include "tests/unit/hv/libxl_world.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/early.h"

#define EARLY_SIZE (TAIL_AT + 8)
#define HALF       (HEAD_SIZE + IMAGE_SIZE / 2)

/* A PV guest's stream: END and no more behind its memory. */
static int set_up_early(void **state)
{
    int rc = set_up(state);

    x.has_helper = true;
    memset(stream + TAIL_AT, 0, 8);
    mover = EARLY;
    return rc;
}

static int tear_down_early(void **state)
{
    mover = NOT_EARLY;
    return tear_down(state);
}

struct feeder {
    int fd;
    size_t end;  /* of what is still to be written; 0: nothing, and the stream ends */
    int taken;   /* take this away then, -1: no */
    bool is_fed; /* when libxl was done */
};

/* libxl has a domain while half of its memory is missing. */
static void feed_rest(void *user, const struct hv_progress *progress)
{
    struct feeder *f = user;

    (void)progress;
    if (!libxl_is_done() || f->is_fed)
        return;
    f->is_fed = true;
    if (f->taken >= 0)
        take_away(&f->taken, progress);
    if (f->end > 0)
        write_all(f->fd, stream + HALF, f->end - HALF, SIZE);
    if (f->taken < 0)
        shutdown(f->fd, SHUT_WR);
}

static enum hv_outcome restore_early(size_t end, bool is_taken_away, struct ha_err *err)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct feeder f = {.fd = pair[0], .end = end, .taken = is_taken_away ? pair[1] : -1};
    write_all(pair[0], stream, HALF, SIZE);
    enum hv_outcome outcome = restore_from(pair[1], feed_rest, &f, err);
    assert_true(f.is_fed);
    /* No mover is left, which would have the stream. */
    close(pair[1]);
    struct pollfd p = {.fd = pair[0]};
    assert_int_equal(poll(&p, 1, 10000), 1);
    close(pair[0]);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    return outcome;
}

static void devices_before_memory(void **state)
{
    struct ha_err err = {0};

    (void)state;
    if (restore_early(EARLY_SIZE, false, &err) != HV_OK)
        fail_msg("%s", err.text);
    assert_true(dom.is_there);
    xen_remove(&x, dom.domid, NULL);
}

static void assert_early_refused(size_t end, const char *word)
{
    struct ha_err err = {0};

    if (restore_early(end, false, &err) != HV_FAILED || !strstr(err.text, word))
        fail_msg("%zu bytes: %s, wanted %s", end, err.text, word);
    assert_false(dom.is_there);
}

/* A domain that libxl has made is none when its stream was not whole: its end is held back until it
 * was checked. */
static void an_early_stream_that_ends(void **state)
{
    (void)state;
    assert_early_refused(0, "bad mfn");
    assert_early_refused(TAIL_AT - 1, "bad mfn");
    assert_early_refused(TAIL_AT, "ended before its last record");
    assert_early_refused(TAIL_AT + 7, "ended before its last record");
    stream[TAIL_AT] = EMU_TYPE;
    assert_early_refused(EARLY_SIZE, "a wrong record behind");
}

static void a_mover_that_fails(void **state)
{
    (void)state;
    mover = EARLY_FAILS;
    assert_early_refused(EARLY_SIZE, "bad mfn");
    mover = EARLY_DIES;
    assert_early_refused(EARLY_SIZE, "is gone");
}

static void an_early_stream_that_is_taken_away(void **state)
{
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(restore_early(0, true, &err), HV_FAILED);
    assert_string_equal(err.text, "aborted");
    assert_int_equal(err.code, HA_E_CANCELLED);
    assert_false(dom.is_there);
}

/* One whose mover never says that libxl may go on, and one of before there was such a thing. */
static void a_stream_that_is_not_early(void **state)
{
    (void)state;
    mover = NOT_EARLY;
    struct ha_err err = {0};
    if (restore(EARLY_SIZE, 100, &err) != HV_OK)
        fail_msg("%s", err.text);
    xen_remove(&x, dom.domid, NULL);
    assert_refused(TAIL_AT + 7, "ended before its last record");
}

/* Its worker is killed: nobody is left who has the stream. */
static void a_mover_dies_with_its_worker(void **state)
{
    int pair[2], over[2];
    char word;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pipe(over), 0);
    write_all(pair[0], stream, HALF, SIZE);
    pid_t worker = fork();
    if (worker == 0) {
        struct feeder f = {.fd = over[1], .end = HALF + 1, .taken = pair[0]};
        close(over[0]);
        (void)restore_from(pair[1], feed_rest, &f, NULL);
        _exit(0);
    }
    close(pair[1]);
    assert_int_equal(read(over[0], &word, 1), 1); /* libxl is done */
    assert_int_equal(kill(worker, SIGKILL), 0);
    assert_int_equal(waitpid(worker, NULL, 0), worker);
    struct pollfd p = {.fd = pair[0]};
    assert_int_equal(poll(&p, 1, 10000), 1);
    for (uint32_t n = XEN_DOMID_FIRST; n <= XEN_DOMID_LAST; n++) /* the worker gave one */
        xen_record_remove(x.dir_fd, n);
    close(pair[0]);
    close(over[0]);
    close(over[1]);
}

static void which_guests_are_early(void **state)
{
    libxl_device_disk disk = {.format = LIBXL_DISK_FORMAT_RAW, .pdev_path = dir};
    libxl_device_nic nic = {.script = NULL};
    libxl_domain_config c = {.disks = &disk, .nics = &nic};
    char bridge[] = "/etc/xen/scripts/vif-bridge", route[] = "/etc/xen/scripts/vif-route";

    (void)state;
    assert_true(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_NONE));
    assert_false(early_is_safe(&c, XEN_KIND_PVH, XEN_DISKS_NONE));
    assert_false(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_OTHER));
    c.num_nics = 1;
    assert_true(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_NONE));
    nic.script = bridge;
    assert_true(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_NONE));
    nic.script = route;
    assert_false(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_NONE));
    c.num_nics = 0;
    c.num_disks = 1; /* of no block device */
    assert_false(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_BLOCK));
    c.num_disks = 0;
    c.num_vfbs = 1; /* QEMU's */
    assert_false(early_is_safe(&c, XEN_KIND_PV, XEN_DISKS_NONE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(devices_before_memory, set_up_early, tear_down_early),
        cmocka_unit_test_setup_teardown(an_early_stream_that_ends, set_up_early, tear_down_early),
        cmocka_unit_test_setup_teardown(a_mover_that_fails, set_up_early, tear_down_early),
        cmocka_unit_test_setup_teardown(an_early_stream_that_is_taken_away, set_up_early,
                                        tear_down_early),
        cmocka_unit_test_setup_teardown(a_stream_that_is_not_early, set_up_early, tear_down_early),
        cmocka_unit_test_setup_teardown(a_mover_dies_with_its_worker, set_up_early,
                                        tear_down_early),
        cmocka_unit_test_setup_teardown(which_guests_are_early, set_up_early, tear_down_early),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
