/* SPDX-License-Identifier: Apache-2.0
 *
 * Which boot of which machine: ids with and without dashes, the first file that has one wins, and
 * what is no id is passed over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hamgr/shell/gap.h"
#include "hamgr/shell/identity.h"

static char dir[] = "/tmp/hamgr-identity-XXXXXX";
static char path_a[64], path_b[64];
static const char *const paths[] = {path_a, path_b, NULL};

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path_a, sizeof(path_a), "%s/a", dir);
    snprintf(path_b, sizeof(path_b), "%s/b", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path_a);
    unlink(path_b);
    return rmdir(dir);
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void check_first(const char *wanted)
{
    struct ha_uuid id;
    char text[HA_UUID_TEXT];

    assert_true(identity_first(paths, &id));
    ha_uuid_format(id, text);
    assert_string_equal(text, wanted);
}

#define A "01234567-89ab-cdef-0123-456789abcdef"
#define B "fedcba98-7654-3210-fedc-ba9876543210"

static void test_first(void **state)
{
    struct ha_uuid id;

    (void)state;
    assert_false(identity_first(paths, &id)); /* no file at all */
    put(path_b, B "\n");
    check_first(B);
    put(path_a, A "\n");
    check_first(A);
    put(path_a, A); /* no newline */
    check_first(A);
    put(path_a, "0123456789abcdef0123456789abcdef\n"); /* as in machine-id */
    check_first(A);
}

static void test_passed_over(void **state)
{
    static const char *const bad[] = {
        "",
        "\n",
        "uninitialized\n",
        "00000000-0000-0000-0000-000000000000\n",
        "00000000000000000000000000000000\n",
        "0123456789abcdef0123456789abcde\n",
        "0123456789abcdef0123456789abcdeg\n",
        A "0\n",
        "Not Settable, and a line that is far longer than any id could ever be, by a good deal\n"};

    (void)state;
    put(path_b, B "\n");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(path_a, bad[i]);
        check_first(B);
    }
}

static void test_this_machine(void **state)
{
    struct ha_uuid boot = {0}, again = {0}, hw = {0};
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(identity_read(&boot, &hw, &err), 0);
    assert_int_equal(identity_read(&again, &hw, &err), 0);
    assert_true(ha_uuid_equal(boot, again));
    assert_false(ha_uuid_is_zero(hw));
}

/* The loop's gaps: the longest ever, and the longest of the last one or two windows. */
static void test_gap(void **state)
{
    struct loop_gap gap = {0};
    uint64_t t = 1234567 * (uint64_t)GAP_WINDOW_MS;

    (void)state;
    gap_note(&gap, t + 1, 70);
    gap_note(&gap, t + 2, 30);
    assert_int_equal(gap_recent_ms(&gap, t + GAP_WINDOW_MS - 1), 70);
    gap_note(&gap, t + GAP_WINDOW_MS, 40);
    assert_int_equal(gap_recent_ms(&gap, t + 2 * GAP_WINDOW_MS - 1), 70);
    assert_int_equal(gap_recent_ms(&gap, t + 2 * GAP_WINDOW_MS), 40);
    assert_int_equal(gap_recent_ms(&gap, t + 3 * GAP_WINDOW_MS), 0);
    gap_note(&gap, t + 3 * GAP_WINDOW_MS, 5);
    assert_int_equal(gap_recent_ms(&gap, t + 7 * GAP_WINDOW_MS), 0); /* nothing for long */
    assert_int_equal(gap.max_ms, 70);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first), cmocka_unit_test(test_passed_over),
        cmocka_unit_test(test_this_machine), cmocka_unit_test(test_gap)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
