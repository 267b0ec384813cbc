/* SPDX-License-Identifier: Apache-2.0
 *
 * The records of Xen domains, and the bounded reader of xenstore against sockets that answer,
 * answer late, wrongly or never.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/record.h"
#include "hamgr/hv/xen/xs.h"

static char dir[64];
static int dir_fd;

static int set_up(void **state)
{
    struct ha_err err = {0};

    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/hamgr-records-XXXXXX");
    assert_non_null(mkdtemp(dir));
    dir_fd = xen_records_open(dir, &err);
    return dir_fd >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    char path[96];
    DIR *names = fdopendir(dir_fd);
    struct dirent *entry;

    (void)state;
    while ((entry = readdir(names)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(dir_fd, entry->d_name, 0);
    closedir(names);
    snprintf(path, sizeof(path), "%s/domains", dir);
    (void)rmdir(path);
    return rmdir(dir);
}

static struct xen_record record_of(uint64_t epoch)
{
    struct xen_record r = {.phase = XEN_COMPLETE, .mem_kib = 4096, .name = "web1"};

    r.label.epoch = epoch;
    r.builder = (uint32_t)getpid();
    return r;
}

static void test_round_trip(void **state)
{
    struct xen_record a = record_of(5), b = record_of(6), read;

    (void)state;
    assert_int_equal(xen_record_add(dir_fd, &a, NULL), 0);
    assert_in_range(a.domid, XEN_DOMID_FIRST, XEN_DOMID_LAST);
    assert_int_equal(xen_record_add(dir_fd, &b, NULL), 0);
    assert_int_equal(b.domid, xen_domid_after(a.domid));
    assert_true(xen_record_read(dir_fd, a.domid, &read));
    assert_memory_equal(&read, &a, sizeof(a));
    /* A domid is not given again, also when its record is gone. */
    xen_record_remove(dir_fd, b.domid);
    assert_false(xen_record_read(dir_fd, b.domid, &read));
    assert_int_equal(xen_record_add(dir_fd, &b, NULL), 0);
    assert_int_equal(b.domid, xen_domid_after(xen_domid_after(a.domid)));
}

/* A mark lasts over a new opening of the records, and goes with the record. */
static void test_marks(void **state)
{
    struct xen_record a = record_of(5);

    (void)state;
    assert_int_equal(xen_record_add(dir_fd, &a, NULL), 0);
    assert_false(xen_record_is_let_go(dir_fd, a.domid));
    assert_false(xen_record_hold(dir_fd, a.domid));
    xen_record_let_go(dir_fd, a.domid);
    xen_record_let_go(dir_fd, a.domid);
    int again = xen_records_open(dir, NULL);
    assert_true(xen_record_is_let_go(again, a.domid));
    close(again);
    assert_false(xen_record_is_let_go(dir_fd, a.domid + 1));
    assert_true(xen_record_hold(dir_fd, a.domid));
    assert_false(xen_record_is_let_go(dir_fd, a.domid));
    xen_record_let_go(dir_fd, a.domid);
    xen_record_remove(dir_fd, a.domid);
    assert_false(xen_record_is_let_go(dir_fd, a.domid));
    /* One that outlived its record means nothing to the next of that domid. */
    xen_record_let_go(dir_fd, xen_domid_after(a.domid));
    struct xen_record b = record_of(6);
    assert_int_equal(xen_record_add(dir_fd, &b, NULL), 0);
    assert_int_equal(b.domid, xen_domid_after(a.domid));
    assert_false(xen_record_is_let_go(dir_fd, b.domid));
}

static void test_damage(void **state)
{
    struct xen_record a = record_of(5), read;
    char name[16];

    (void)state;
    assert_int_equal(xen_record_add(dir_fd, &a, NULL), 0);
    snprintf(name, sizeof(name), "%u", a.domid);
    for (size_t at = 0; at < sizeof(a); at += 7) {
        uint8_t byte;
        int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        assert_false(xen_record_read(dir_fd, a.domid, &read));
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        close(fd);
    }
    assert_true(xen_record_read(dir_fd, a.domid, &read));
    int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, sizeof(a) - 1), 0);
    close(fd);
    assert_false(xen_record_read(dir_fd, a.domid, &read));
}

static bool is_first_there(void *user, uint32_t domid)
{
    return domid == *(const uint32_t *)user;
}

static void test_sweep(void **state)
{
    struct xen_record there = record_of(1), gone = record_of(2), building = record_of(3), read;
    struct xen_record orphan = record_of(4);

    (void)state;
    building.phase = orphan.phase = XEN_BUILDING;
    orphan.builder = 0x3fffffff; /* no process has this pid */
    assert_int_equal(xen_record_add(dir_fd, &there, NULL), 0);
    assert_int_equal(xen_record_add(dir_fd, &gone, NULL), 0);
    assert_int_equal(xen_record_add(dir_fd, &building, NULL), 0);
    assert_int_equal(xen_record_add(dir_fd, &orphan, NULL), 0);
    xen_records_sweep(dir_fd, is_first_there, &there.domid);
    assert_true(xen_record_read(dir_fd, there.domid, &read));
    assert_false(xen_record_read(dir_fd, gone.domid, &read));
    assert_true(xen_record_read(dir_fd, building.domid, &read)); /* its domain is about to be */
    assert_false(xen_record_read(dir_fd, orphan.domid, &read));
}

/* ---- xenstore ---- */

struct store {
    char path[96];
    int listen_fd;
    enum { ANSWERS, IS_SILENT, ANSWERS_ANOTHER, SAYS_TOO_MUCH } habit;
    pthread_t thread;
};

static void answer(int fd, uint32_t type, uint32_t request, const char *text, uint32_t size)
{
    uint32_t head[4] = {type, request, 0, size};

    (void)send(fd, head, sizeof(head), MSG_NOSIGNAL);
    (void)send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void serve(const struct store *s, int fd)
{
    uint32_t head[4];
    char path[256];

    while (recv(fd, head, sizeof(head), MSG_WAITALL) == (ssize_t)sizeof(head)) {
        if (head[3] > sizeof(path) || recv(fd, path, head[3], MSG_WAITALL) != (ssize_t)head[3])
            break;
        if (s->habit == SAYS_TOO_MUCH)
            answer(fd, 2, head[1], "x", 1u << 30);
        else if (s->habit == ANSWERS_ANOTHER)
            answer(fd, 2, head[1] + 1, "other", 5);
        else if (s->habit == ANSWERS && strcmp(path, "/there") == 0)
            answer(fd, 2, head[1], "42", 2);
        else if (s->habit == ANSWERS)
            answer(fd, 16, head[1], "ENOENT", 7);
    }
}

static void *store_run(void *argument)
{
    struct store *s = argument;
    int fd = accept(s->listen_fd, NULL, NULL);

    if (fd >= 0) {
        serve(s, fd);
        close(fd);
    }
    return NULL;
}

static void store_begin(struct store *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(s->path, sizeof(s->path), "%s/xs", dir);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", s->path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(s->listen_fd, 1), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, store_run, s), 0);
}

static void store_end(struct store *s)
{
    (void)shutdown(s->listen_fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listen_fd);
    unlink(s->path);
}

static void test_xenstore_answers(void **state)
{
    struct store s = {.habit = ANSWERS};
    char value[8];

    (void)state;
    store_begin(&s);
    struct xs_client *c = xs_client_new(s.path);
    /* A busy machine may be late once; the client then says so for a while. */
    int rc = xs_client_read(c, "/there", value, sizeof(value));
    for (int n = 0; rc == -ETIMEDOUT && n < 300; n++) {
        usleep(100000);
        rc = xs_client_read(c, "/there", value, sizeof(value));
    }
    assert_int_equal(rc, 2);
    assert_string_equal(value, "42");
    rc = xs_client_read(c, "/nowhere", value, sizeof(value));
    assert_true(rc == -ENOENT || rc == -ETIMEDOUT);
    rc = xs_client_read(c, "/there", value, 2); /* no room for the NUL */
    assert_true(rc == -E2BIG || rc == -ETIMEDOUT);
    xs_client_close(c);
    store_end(&s);
}

static void expect_failure(struct store *s)
{
    char value[8];

    store_begin(s);
    struct xs_client *c = xs_client_new(s->path);
    int rc = xs_client_read(c, "/there", value, sizeof(value));
    assert_true(rc < 0 && rc != -ENOENT);
    /* Asked again at once: no second wait. */
    assert_int_equal(xs_client_read(c, "/there", value, sizeof(value)), -ETIMEDOUT);
    xs_client_close(c);
    store_end(s);
}

static void test_xenstore_hangs(void **state)
{
    struct store silent = {.habit = IS_SILENT}, other = {.habit = ANSWERS_ANOTHER};
    struct store loud = {.habit = SAYS_TOO_MUCH};
    char value[8];

    (void)state;
    expect_failure(&silent);
    expect_failure(&other);
    expect_failure(&loud);
    struct xs_client *c = xs_client_new("/nonexistent/socket");
    assert_true(xs_client_read(c, "/there", value, sizeof(value)) < 0);
    xs_client_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_marks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sweep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_xenstore_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_xenstore_hangs, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
