/* SPDX-License-Identifier: Apache-2.0
 *
 * Who an operator is: names from a file, groups from the kernel's word about a process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/server/people.h"

static void groups_are_read_from_a_status(void **state)
{
    static const char status[] = "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nGid:\t50\t51\t50\t50\n"
                                 "FDSize:\t64\nGroups:\t4 24 1234 \nNStgid:\t7\n";

    (void)state;
    assert_true(people_status_has_group(status, 1001, 4));
    assert_true(people_status_has_group(status, 1001, 1234));
    assert_true(people_status_has_group(status, 1001, 51));   /* the effective one */
    assert_false(people_status_has_group(status, 1001, 50));  /* not the real one */
    assert_false(people_status_has_group(status, 1001, 123)); /* no part of a number */
    assert_false(people_status_has_group(status, 1001, 7));
    assert_false(people_status_has_group(status, 1000, 4)); /* another user's process */
}

/* The name of a process is its own to choose. */
static void strange_statuses_give_no_group(void **state)
{
    (void)state;
    assert_false(people_status_has_group("", 0, 0));
    assert_false(people_status_has_group("Groups:\t4\n", 0, 4));
    assert_false(people_status_has_group("Uid:\t0\t0\n", 0, 4));
    assert_false(people_status_has_group("Uid:\t0\nGroups:\t4\n", 0, 4));
    assert_false(people_status_has_group("Name:\tUid:\t0\t0\nGroups: 4", 0, 4));
    assert_false(people_status_has_group("Uid:\t0\t0\nGroups:\t-4 4\n", 0, 4));
    assert_true(people_status_has_group("Uid:\t0\t0\nGroups:\t4", 0, 4));
}

static void a_process_is_asked_about_itself(void **state)
{
    int ready[2];
    char byte;

    (void)state;
    assert_false(people_has_group(0, geteuid(), getegid()));
    assert_false(people_has_group(-1, geteuid(), getegid()));
    assert_true(people_has_group(getpid(), geteuid(), getegid()));
    assert_false(people_has_group(getpid(), geteuid() + 1, getegid()));
    if (geteuid() != 0)
        return; /* only root may take groups */
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        const gid_t groups[] = {4242, 4243};
        int ok = setgroups(2, groups) == 0 && setgid(4000) == 0 && setuid(4000) == 0;
        (void)!write(ready[1], ok ? "y" : "n", 1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_true(people_has_group(child, 4000, 4243));
    assert_true(people_has_group(child, 4000, 4000));
    assert_false(people_has_group(child, 4000, 4244));
    assert_false(people_has_group(child, 0, 4243));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_false(people_has_group(child, 4000, 4243));
    close(ready[0]);
    close(ready[1]);
}

static void names_come_from_the_file(void **state)
{
    char path[] = "/tmp/people-test-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    struct people people;

    (void)state;
    assert_non_null(file);
    fprintf(file, "root:x:0:0:root:/root:/bin/sh\nbroken line\n::\n:x:5:5:::\nada:x:1815:1815:::\n"
                  "a-name-that-is-longer-than-a-log-line-likes:x:9:9:::\n");
    fclose(file);
    people_load(&people, path);
    assert_string_equal(people_name(&people, 0), "root");
    assert_string_equal(people_name(&people, 1815), "ada");
    assert_int_equal(strlen(people_name(&people, 9)), PEOPLE_NAME_MAX - 1);
    assert_null(people_name(&people, 1));
    people_free(&people);
    unlink(path);
    people_load(&people, path);
    assert_int_equal(people.count, 0);
    people_free(&people);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_are_read_from_a_status),
        cmocka_unit_test(strange_statuses_give_no_group),
        cmocka_unit_test(a_process_is_asked_about_itself),
        cmocka_unit_test(names_come_from_the_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
