/* SPDX-License-Identifier: Apache-2.0
 *
 * What hactl says in words of an answer's numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/hactl.h"

/* Waiting for guests asks; nothing here waits. */
int ask_data(const char *cmd, json_t *request, json_t **ret_envelope, json_t **ret_data)
{
    (void)cmd;
    (void)ret_envelope;
    (void)ret_data;
    json_decref(request);
    return EXIT_NOT_REACHABLE;
}

int fail_locally(int code, const char *name, const char *message, const char *fix)
{
    (void)name;
    (void)message;
    (void)fix;
    return code;
}

static void packing_is(const char *members, const char *text)
{
    char buffer[PACKING_TEXT] = "left over";
    json_t *move = json_loads(members, 0, NULL);

    assert_non_null(move);
    assert_string_equal(packing_text(move, buffer), text);
    json_decref(move);
}

static void the_level_and_why_are_said(void **state)
{
    (void)state;
    packing_is("{\"level\":null,\"link_mbit\":0,\"codec_mbit\":0}", "");
    packing_is("{}", ""); /* an older hamgrd's */
    packing_is("{\"level\":0,\"link_mbit\":9400,\"codec_mbit\":3200}",
               ", stored (link 9400, codec 3200 Mbit/s)");
    packing_is("{\"level\":-3,\"link_mbit\":940,\"codec_mbit\":0}", ", zstd -3 (link 940 Mbit/s)");
    packing_is("{\"level\":3,\"link_mbit\":0,\"codec_mbit\":77}", ", zstd 3 (codec 77 Mbit/s)");
    packing_is("{\"level\":19,\"link_mbit\":0,\"codec_mbit\":0}", ", zstd 19");
    packing_is("{\"level\":-128,\"link_mbit\":4294967295,\"codec_mbit\":4294967295}",
               ", zstd -128 (link 4294967295, codec 4294967295 Mbit/s)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_level_and_why_are_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
