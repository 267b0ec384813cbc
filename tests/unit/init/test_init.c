/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-init's list parser and its restart decisions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hamgr/init/list.h"
#include "hamgr/init/service.h"

static struct init_list list;

static int parse(const char *text, struct ha_err *err)
{
    memset(err, 0, sizeof(*err));
    return init_list_parse("list", text, &list, err);
}

static void test_list_good(void **state)
{
    struct ha_err err;
    (void)state;
    assert_int_equal(parse("# a comment\n\n"
                           "corosync 0:0 /usr/sbin/corosync -f\n"
                           "hamgrd 64:65 /bin/hamgrd\t--x\n"
                           "!goodbye 0:0 /bin/hactl node-shutdown",
                           &err),
                     0);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.programs[0].name, "corosync");
    assert_string_equal(list.programs[0].argv[1], "-f");
    assert_null(list.programs[0].argv[2]);
    assert_int_equal(list.programs[1].uid, 64);
    assert_int_equal(list.programs[1].gid, 65);
    assert_string_equal(list.programs[1].argv[1], "--x");
    assert_true(list.has_farewell);
    assert_string_equal(list.farewell.name, "goodbye");
}

static void test_list_bad(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } cases[] = {
        {"", "no program"},
        {"a 0:0", "list:1"},
        {"ok 0:0 /x\nb 0:0 relative", "list:2"},
        {"a 0:0 relative", "absolute"},
        {"a root:root /x", "UID:GID"},
        {"a 0:0x /x", "UID:GID"},
        {"a 99999999999:0 /x", "UID:GID"},
        {"a -1:0 /x", "UID:GID"},
        {"a/b 0:0 /x", "not a name"},
        {"a 0:0 /x\na 0:0 /y", "twice"},
        {"!a 0:0 /x\n!b 0:0 /y\nc 0:0 /z", "second"},
        {"a 0:0 /x 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24", "words"},
        {"a 0:0 /x\nb 0:0 /x\nc 0:0 /x\nd 0:0 /x\ne 0:0 /x\nf 0:0 /x\ng 0:0 /x\nh 0:0 /x\n"
         "i 0:0 /x\nj 0:0 /x\nk 0:0 /x\nl 0:0 /x\nm 0:0 /x\nn 0:0 /x\no 0:0 /x\np 0:0 /x\n"
         "q 0:0 /x",
         "more than 16"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ha_err err;
        assert_true(parse(cases[i].text, &err) < 0);
        if (!strstr(err.text, cases[i].says)) {
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].says);
        }
    }
}

static void test_list_too_long(void **state)
{
    static char text[INIT_LIST_MAX + 2];
    struct ha_err err;
    (void)state;
    memset(text, '#', sizeof(text) - 1);
    assert_true(parse(text, &err) < 0);
    assert_non_null(strstr(err.text, "longer"));
}

static void test_list_file(void **state)
{
    char path[] = "/tmp/test_init_XXXXXX";
    struct ha_err err = {0};
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "a 0:0 /x\n", 9), 9);
    if (getuid() == 0) {
        assert_int_equal(init_list_load(path, &list, &err), 0);
        assert_int_equal(list.count, 1);
    }
    assert_int_equal(fchmod(fd, 0666), 0);
    assert_true(init_list_load(path, &list, &err) < 0);
    assert_non_null(strstr(err.text, "only root"));
    close(fd);
    unlink(path);
    assert_true(init_list_load(path, &list, &err) < 0);
    assert_non_null(strstr(err.text, path));
}

static void test_service_backoff(void **state)
{
    static const uint32_t waits[] = {100, 200, 400, 800, 1600, 3200, 5000, 5000};
    struct service s;
    uint64_t now = 1000;
    (void)state;
    service_init(&s);
    assert_int_equal(service_due(&s, now), SERVICE_NOTHING);
    service_want(&s);
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        assert_int_equal(service_due(&s, now), SERVICE_START);
        service_started(&s, i % 2 == 0 ? 42 : -1, now);
        if (i % 2 == 0) {
            assert_int_equal(service_due(&s, now), SERVICE_NOTHING);
            assert_int_equal(service_timeout_ms(&s, now), -1);
            service_exited(&s, ++now);
        }
        assert_int_equal(service_timeout_ms(&s, now), waits[i]);
        assert_int_equal(service_due(&s, now + waits[i] - 1), SERVICE_NOTHING);
        now += waits[i];
    }
    /* Ten seconds up: forgotten. */
    assert_int_equal(service_due(&s, now), SERVICE_START);
    service_started(&s, 42, now);
    service_exited(&s, now + 10000);
    assert_int_equal(service_timeout_ms(&s, now + 10000), 100);
    assert_int_equal(s.starts, 9);
}

static void test_service_stop(void **state)
{
    struct service s;
    (void)state;
    service_init(&s);
    service_want(&s);
    assert_int_equal(service_due(&s, 0), SERVICE_START);
    service_started(&s, 42, 0);
    assert_int_equal(service_unwant(&s, 5), SERVICE_TERM);
    assert_int_equal(service_unwant(&s, 6), SERVICE_NOTHING);
    assert_int_equal(service_due(&s, 10004), SERVICE_NOTHING);
    assert_int_equal(service_timeout_ms(&s, 10004), 1);
    assert_int_equal(service_due(&s, 10005), SERVICE_KILL);
    assert_int_equal(service_due(&s, 10006), SERVICE_NOTHING);
    assert_int_equal(service_timeout_ms(&s, 10006), -1);
    service_exited(&s, 10010);
    assert_int_equal(s.state, SERVICE_DOWN);
    assert_int_equal(service_due(&s, 20000), SERVICE_NOTHING);
}

static void test_service_unwant_waiting(void **state)
{
    struct service s;
    (void)state;
    service_init(&s);
    service_want(&s);
    (void)service_due(&s, 0);
    service_started(&s, 42, 0);
    service_exited(&s, 1);
    assert_int_equal(s.state, SERVICE_WAIT);
    assert_int_equal(service_unwant(&s, 2), SERVICE_NOTHING);
    assert_int_equal(s.state, SERVICE_DOWN);
    service_want(&s);
    assert_int_equal(service_due(&s, 2), SERVICE_START);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_good),
        cmocka_unit_test(test_list_bad),
        cmocka_unit_test(test_list_too_long),
        cmocka_unit_test(test_list_file),
        cmocka_unit_test(test_service_backoff),
        cmocka_unit_test(test_service_stop),
        cmocka_unit_test(test_service_unwant_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
