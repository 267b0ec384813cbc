/* SPDX-License-Identifier: Apache-2.0
 *
 * Running agents: small scripts stand in for fence agents. What they are given, how their end is
 * told, that none outlives its time, and that their output can't hurt.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <qb/qblog.h>

#include "fence/agent.h"

#define LONG_MS 20000u /* no test waits so long unless it fails */

static char directory[64];
static qb_loop_t *loop;
static struct agent_result result;
static unsigned done_count;

static int32_t on_child(int32_t number, void *data)
{
    (void)number;
    (void)data;
    agent_reap();
    return 0;
}

static void on_done(void *user, const struct agent_result *r)
{
    (void)user;
    result = *r;
    done_count++;
    qb_loop_stop(loop);
}

static void on_long(void *data)
{
    (void)data;
    qb_loop_stop(loop);
}

static void path_of(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", directory, name);
}

static void write_agent(const char *name, const char *script)
{
    char path[256];

    path_of(name, path, sizeof(path));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s", script);
    assert_int_equal(fchmod(fileno(file), 0755), 0);
    fclose(file);
}

/* The text a script left in a file, or "". */
static char *left(const char *name)
{
    static char text[8192];
    char path[256];

    path_of(name, path, sizeof(path));
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        fclose(file);
    text[size] = '\0';
    return text;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Runs the loop until the agent is done. */
static void wait_done(void)
{
    qb_loop_timer_handle timer;

    qb_loop_timer_add(loop, QB_LOOP_MED, LONG_MS * QB_TIME_NS_IN_MSEC, NULL, on_long, &timer);
    qb_loop_run(loop);
    qb_loop_timer_del(loop, timer);
    assert_int_equal(done_count, 1);
}

static void run_agent(const char *script, const char *input, uint32_t timeout_ms)
{
    struct ha_err err = {0};
    struct agent *agent;

    write_agent("fence_test", script);
    done_count = 0;
    memset(&result, 0xff, sizeof(result));
    assert_int_equal(agent_start(loop, directory, "fence_test", input, strlen(input), timeout_ms,
                                 on_done, NULL, &agent, &err),
                     0);
    wait_done();
}

static bool is_alive(const char *pid_file)
{
    long pid = strtol(left(pid_file), NULL, 10);

    assert_true(pid > 1);
    return kill((pid_t)pid, 0) == 0;
}

/* A killed process whose parent is gone is reaped by PID 1, some time. */
static void assert_dies(const char *pid_file)
{
    char path[64], line[256] = "";
    uint64_t end_ms = now_ms() + LONG_MS;

    snprintf(path, sizeof(path), "/proc/%ld/stat", strtol(left(pid_file), NULL, 10));
    while (is_alive(pid_file) && now_ms() < end_ms) {
        FILE *file = fopen(path, "r");
        if (file && fgets(line, sizeof(line), file) && strstr(line, ") Z ")) {
            fclose(file);
            return;
        }
        if (file)
            fclose(file);
        usleep(1000);
    }
    assert_false(is_alive(pid_file));
}

/* --- Ends --- */

static void success_and_exit_codes_are_told(void **state)
{
    static const int codes[] = {0, 1, 2, 3, 127, 255};
    char script[64];

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        snprintf(script, sizeof(script), "echo out; echo err >&2; exit %d\n", codes[i]);
        run_agent(script, "", LONG_MS);
        assert_false(result.is_timeout);
        assert_false(result.is_signalled);
        assert_int_equal(result.code, codes[i]);
        assert_string_equal(result.output, "out\nerr\n");
    }
}

static void a_signal_is_no_exit_code(void **state)
{
    (void)state;
    run_agent("kill -KILL $$\n", "", LONG_MS);
    assert_true(result.is_signalled);
    assert_int_equal(result.code, SIGKILL);
    assert_false(result.is_timeout);
}

static void what_is_no_agent_is_refused(void **state)
{
    static const char *const names[] = {"test", "fence_/../sh", "../fence_x", "fence_missing", ""};
    struct agent *agent;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct ha_err err = {0};
        assert_true(
            agent_start(loop, directory, names[i], "", 0, 1000, on_done, NULL, &agent, &err) < 0);
        assert_true(err.text[0] != '\0');
    }
    char *huge = calloc(1, 20000);
    struct ha_err err = {0};
    write_agent("fence_test", "exit 0\n");
    assert_true(agent_start(loop, directory, "fence_test", huge, 20000, 1000, on_done, NULL, &agent,
                            &err) < 0);
    free(huge);
}

/* What can be started but not executed is a failure, not a success. */
static void a_broken_interpreter_is_a_failure(void **state)
{
    char path[256];

    (void)state;
    write_agent("fence_test", "exit 0\n");
    path_of("fence_test", path, sizeof(path));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("#!/nonexistent/interpreter\n", file);
    fclose(file);
    struct ha_err err = {0};
    struct agent *agent;
    done_count = 0;
    assert_int_equal(
        agent_start(loop, directory, "fence_test", "", 0, 1000, on_done, NULL, &agent, &err), 0);
    wait_done();
    assert_false(result.is_signalled);
    assert_int_equal(result.code, 127);
}

/* --- What it is given --- */

static void options_come_on_standard_input_only(void **state)
{
    char script[512], wanted[] = "action=off\npassword=hunter2\nplug=n1\n";

    (void)state;
    snprintf(script, sizeof(script),
             "cat > %s/stdin; tr '\\0' '\\n' < /proc/$$/environ > %s/environ\n"
             "tr '\\0' '\\n' < /proc/$$/cmdline > %s/cmdline; ls /proc/$$/fd > %s/fds\n",
             directory, directory, directory, directory);
    setenv("HAMGR_SECRET", "of-the-daemon", 1);
    run_agent(script, wanted, LONG_MS);
    unsetenv("HAMGR_SECRET");
    assert_int_equal(result.code, 0);
    assert_string_equal(left("stdin"), wanted);
    assert_null(strstr(left("cmdline"), "hunter2"));
    assert_null(strstr(left("environ"), "hunter2"));
    assert_null(strstr(left("environ"), "of-the-daemon"));
    assert_non_null(strstr(left("environ"), "PATH="));
    /* 0 to 2 and the shell's own, for its script and the redirection: nothing was inherited. */
    assert_string_equal(left("fds"), "0\n1\n10\n11\n2\n");
}

/* --- Time --- */

static void time_over_kills_the_whole_group(void **state)
{
    char script[256];

    (void)state;
    snprintf(script, sizeof(script),
             "echo $$ > %s/parent\nsleep 1000 &\necho $! > %s/child\necho begun\nwait\n", directory,
             directory);
    uint64_t began_ms = now_ms();
    run_agent(script, "", 500);
    assert_true(result.is_timeout);
    assert_true(now_ms() - began_ms < 3000); /* SIGTERM was enough */
    assert_string_equal(result.output, "begun\n");
    assert_dies("parent");
    assert_dies("child");
}

/* Deaf to SIGTERM: SIGKILL 3 s later. */
static void a_deaf_agent_is_killed(void **state)
{
    char script[256];

    (void)state;
    snprintf(script, sizeof(script),
             "trap '' TERM\necho $$ > %s/parent\nwhile :; do sleep 1; done\n", directory);
    run_agent(script, "", 300);
    assert_true(result.is_timeout);
    assert_true(result.is_signalled);
    assert_int_equal(result.code, SIGKILL);
    assert_dies("parent");
}

/* Its children hold the pipe open after it ended: its end counts, and they go too. */
static void what_it_leaves_behind_is_killed(void **state)
{
    char script[256];

    (void)state;
    snprintf(script, sizeof(script), "sleep 1000 &\necho $! > %s/child\necho done\nexit 0\n",
             directory);
    uint64_t began_ms = now_ms();
    run_agent(script, "", LONG_MS);
    assert_true(now_ms() - began_ms < 5000);
    assert_int_equal(result.code, 0);
    assert_string_equal(result.output, "done\n");
    assert_dies("child");
}

static void a_killed_agent_says_nothing_more(void **state)
{
    struct ha_err err = {0};
    struct agent *agent;
    char script[1024], path[256];
    uint64_t end_ms = now_ms() + LONG_MS;

    (void)state;
    path_of("killed", path, sizeof(path));
    snprintf(script, sizeof(script), "echo $$ > %s.new; mv %s.new %s; sleep 1000\n", path, path,
             path);
    write_agent("fence_test", script);
    done_count = 0;
    assert_int_equal(
        agent_start(loop, directory, "fence_test", "", 0, LONG_MS, on_done, NULL, &agent, &err), 0);
    while (access(path, F_OK) < 0 && now_ms() < end_ms)
        usleep(1000);
    agent_kill(agent);
    assert_false(is_alive("killed"));
    assert_int_equal(done_count, 0);
}

/* --- Output --- */

static void a_flood_is_cut_and_does_not_block(void **state)
{
    (void)state;
    run_agent("dd if=/dev/zero bs=65536 count=160 2>/dev/null | tr '\\0' x\nexit 3\n", "", LONG_MS);
    assert_int_equal(result.code, 3);
    assert_int_equal(strlen(result.output), AGENT_OUTPUT_MAX - 1);
}

/* One that writes for ever, as fast as it is read: its time still ends. */
static void an_endless_flood_ends_with_its_time(void **state)
{
    (void)state;
    uint64_t began_ms = now_ms();
    run_agent("exec yes\n", "", 300);
    assert_true(result.is_timeout);
    assert_true(now_ms() - began_ms < 5000);
}

static int begin(void **state)
{
    qb_loop_signal_handle handle;

    (void)state;
    snprintf(directory, sizeof(directory), "/tmp/hamgr-agent-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    loop = qb_loop_create();
    return qb_loop_signal_add(loop, QB_LOOP_MED, SIGCHLD, NULL, on_child, &handle);
}

static int end(void **state)
{
    static const char *const names[] = {"fence_test", "stdin",  "environ", "cmdline",
                                        "fds",        "parent", "child",   "killed"};
    char path[256];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        path_of(names[i], path, sizeof(path));
        unlink(path);
    }
    qb_loop_destroy(loop);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success_and_exit_codes_are_told),
        cmocka_unit_test(a_signal_is_no_exit_code),
        cmocka_unit_test(what_is_no_agent_is_refused),
        cmocka_unit_test(a_broken_interpreter_is_a_failure),
        cmocka_unit_test(options_come_on_standard_input_only),
        cmocka_unit_test(time_over_kills_the_whole_group),
        cmocka_unit_test(a_deaf_agent_is_killed),
        cmocka_unit_test(what_it_leaves_behind_is_killed),
        cmocka_unit_test(a_killed_agent_says_nothing_more),
        cmocka_unit_test(a_flood_is_cut_and_does_not_block),
        cmocka_unit_test(an_endless_flood_ends_with_its_time),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
