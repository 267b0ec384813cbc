/* SPDX-License-Identifier: Apache-2.0
 *
 * Save and restore of the xen driver: streams whole and cut, taken away, of another kind.
 */
#include "tests/unit/hv/libxl_world.h"

#include <errno.h>
#include <fcntl.h>
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

/* ---- restore ---- */

static void assert_whole(size_t step)
{
    struct ha_err err = {0};

    if (restore(SIZE, step, &err) != HV_OK)
        fail_msg("%s", err.text);
    assert_true(dom.is_there);
    xen_remove(&x, dom.domid, NULL);
}

static void a_whole_stream(void **state)
{
    (void)state;
    assert_whole(SIZE);
    assert_whole(7);
}

/* libxc says so, and ends as if all were well. It is listened for where it was asked for. */
static void pages_that_arrive_otherwise(void **state)
{
    struct ha_err err = {0};

    (void)state;
    receiver_says = "verify pfn 0x5000 failed (type 0)";
    assert_whole(SIZE);
    xen_lx_close(x.lx);
    x.lx = NULL;
    x.is_verifying = true;
    assert_int_equal(restore(SIZE, SIZE, &err), HV_FAILED);
    assert_non_null(strstr(err.text, "did not arrive as it left: verify pfn 0x5000"));
    assert_false(dom.is_there);
    receiver_says = "another word";
    assert_whole(SIZE);
}

static void a_stream_that_ends(void **state)
{
    static const size_t before[] = {0, 1, 15, 16, 17, HEAD_SIZE - 1};
    static const size_t behind[] = {TAIL_AT,     TAIL_AT + 1,     TAIL_AT + 8, TAIL_AT + 9,
                                    END_AT - 1,  END_AT,          END_AT + 1,  END_AT + 7,
                                    TAIL_AT + 7, TAIL_AT + 400000};

    (void)state;
    for (size_t n = 0; n < sizeof(before) / sizeof(before[0]); n++)
        assert_refused(before[n], "ended before the guest's memory");
    assert_refused(HEAD_SIZE, "libxl does not say why"); /* the helper would have said it */
    assert_refused(HEAD_SIZE + IMAGE_SIZE / 2, "libxl does not say why");
    for (size_t n = 0; n < sizeof(behind) / sizeof(behind[0]); n++)
        assert_refused(behind[n], "ended before its last record");
}

static void a_stream_of_another_kind(void **state)
{
    (void)state;
    for (size_t n = 0; n < HEAD_SIZE; n++) {
        struct ha_err err = {0};
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        stream[n] ^= 0x21;
        write_all(pair[0], stream, TAIL_AT, SIZE);
        stream[n] ^= 0x21;
        /* Its writer stays: nothing may wait for it. */
        assert_int_equal(restore_from(pair[1], NULL, NULL, &err), HV_FAILED);
        assert_non_null(strstr(err.text, "does not begin"));
        assert_false(dom.is_there);
        close(pair[0]);
        close(pair[1]);
    }
}

/* A second image, and a record without an end. */
static void a_wrong_record_behind_the_image(void **state)
{
    static const uint32_t records[][2] = {{1, 0}, {EMU_TYPE, UINT32_MAX}};

    (void)state;
    for (size_t n = 0; n < 2; n++) {
        memcpy(stream + TAIL_AT, records[n], sizeof(records[n]));
        assert_refused(SIZE, "a wrong record behind");
    }
}

static void a_stream_that_is_taken_away(void **state)
{
    static const size_t there[] = {0, 5, HEAD_SIZE, HEAD_SIZE + 100};

    (void)state;
    for (size_t n = 0; n < sizeof(there) / sizeof(there[0]); n++) {
        struct ha_err err = {0};
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        write_all(pair[0], stream, there[n], SIZE);
        assert_int_equal(restore_from(pair[1], take_away, &pair[1], &err), HV_FAILED);
        assert_string_equal(err.text, "aborted");
        assert_false(dom.is_there);
        close(pair[0]);
        close(pair[1]);
    }
}

/* ---- save ---- */

static void begin_guest(void)
{
    struct xen_record record = {.phase = XEN_COMPLETE,
                                .kind = XEN_KIND_PVH,
                                .ends = {HV_POWEROFF, HV_REBOOT},
                                .mem_kib = 4096,
                                .label = LABEL,
                                .name = "web1"};

    assert_int_equal(xen_record_add(x.dir_fd, &record, NULL), 0);
    dom.domid = record.domid;
    memcpy(dom.handle, record.label.guest.b, sizeof(dom.handle));
    dom.is_there = true;
    x.has_hap = x.has_shadow = true;
}

/* A process that compares what it reads with the stream. */
static pid_t begin_compare(int fd, int other)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    close(other);
    static uint8_t seen[SIZE + 1];
    size_t size = 0;
    ssize_t n;
    while (size < sizeof(seen) && (n = read(fd, seen + size, sizeof(seen) - size)) > 0)
        size += (size_t)n;
    _exit(size == SIZE && memcmp(seen, stream, SIZE) == 0 ? 0 : 1);
}

static void a_save(void **state)
{
    struct ha_err err = {0};
    int pair[2], status;

    (void)state;
    begin_guest();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = begin_compare(pair[0], pair[1]);
    close(pair[0]);
    struct hv_save_params params = {.fd = pair[1], .is_live = true};
    if (xen_save(&x.hv, dom.domid, &params, NULL, NULL, &err) != HV_OK)
        fail_msg("%s", err.text);
    close(pair[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(save_flags, LIBXL_SUSPEND_LIVE | (x.is_verifying ? LIBXL_SUSPEND_DEBUG : 0));
}

static void a_save_with_every_page_twice(void **state)
{
    x.is_verifying = true;
    a_save(state);
}

static void a_save_that_nobody_reads(void **state)
{
    struct ha_err err = {0};
    int pair[2];

    (void)state;
    begin_guest();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    close(pair[0]);
    struct hv_save_params params = {.fd = pair[1], .is_live = true};
    assert_int_equal(xen_save(&x.hv, dom.domid, &params, NULL, NULL, &err), HV_FAILED);
    assert_non_null(strstr(err.text, "the stream's other end is gone"));
    assert_false(dom.is_suspended);
    close(pair[1]);
}

/* The reader is slow: the guest, which stands still meanwhile, goes on when its contract is used
 * up. */
static void a_save_that_stands_still_for_too_long(void **state)
{
    struct hv_save_params params = {.max_downtime_ms = 300, .on_slow = HV_SLOW_THROTTLE};
    struct ha_err err = {0};
    int pair[2], room = 1; /* as little as the kernel gives, less than the image */

    (void)state;
    begin_guest();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    params.fd = pair[1];
    assert_int_equal(xen_save(&x.hv, dom.domid, &params, NULL, NULL, &err), HV_FAILED);
    assert_non_null(strstr(err.text, "longer than --max-downtime allows"));
    assert_false(dom.is_suspended);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_whole_stream, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pages_that_arrive_otherwise, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_of_another_kind, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_record_behind_the_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_is_taken_away, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_save, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_save_with_every_page_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_save_that_nobody_reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_save_that_stands_still_for_too_long, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
