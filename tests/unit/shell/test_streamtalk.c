/* SPDX-License-Identifier: Apache-2.0
 *
 * A hamgr-stream that was taken over says what it likes, as often as it likes: how much of it gets
 * through to the log, to the dialling and to the other nodes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "hamgr/shell/streamtalk.h"

static char line[HA_TEXT_MAX];

static bool say(struct streamtalk *talk, const char *text)
{
    uint8_t body[HA_TEXT_MAX + 2];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_put_text(&w, text);
    return streamtalk_note(talk, body, w.position, line);
}

static void all_an_honest_one_says_is_logged(void **state)
{
    struct streamtalk talk = {0};

    (void)state;
    for (unsigned i = 0; i < STREAMP_NOTES_MAX; i++) {
        assert_true(say(&talk, "10.0.0.7 was refused"));
        assert_string_equal(line, "10.0.0.7 was refused");
    }
}

static void a_flood_of_lines_ends_with_one_about_it(void **state)
{
    struct streamtalk talk = {0};
    unsigned logged = 0, about = 0;

    (void)state;
    for (unsigned i = 0; i < 100 * STREAMP_NOTES_MAX; i++) {
        if (!say(&talk, "flood"))
            continue;
        logged++;
        about += strcmp(line, "flood") != 0;
    }
    assert_int_equal(logged, STREAMP_NOTES_MAX + 1);
    assert_int_equal(about, 1);
    assert_non_null(strstr(line, "nothing more of it is logged"));
}

static void a_line_stays_one_line(void **state)
{
    static const uint8_t cut[] = {9, 0, 'x'}, longer[] = {1, 0, 'x', 'y'};
    struct streamtalk talk = {0};

    (void)state;
    assert_true(say(&talk, "a\nhamgrd: all is well\r\x1b[2J\x7fz"));
    assert_string_equal(line, "a hamgrd: all is well  [2J z");
    assert_false(streamtalk_note(&talk, cut, sizeof(cut), line));
    assert_false(streamtalk_note(&talk, longer, sizeof(longer), line));
    assert_false(streamtalk_note(&talk, cut, 0, line));
}

static void what_is_said_once_is_heard_once(void **state)
{
    struct streamtalk talk = {0};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        assert_true(streamtalk_is_news(&talk, STREAMP_PROGRESS));
        assert_true(streamtalk_is_news(&talk, STREAMP_NOTE));
        assert_int_equal(streamtalk_is_news(&talk, STREAMP_CONNECTED), i == 0);
    }
    assert_true(streamtalk_is_news(&talk, STREAMP_END));
    assert_false(streamtalk_is_news(&talk, STREAMP_END));
}

static void sockets_are_rationed(void **state)
{
    struct streamtalk talk = {0};
    unsigned given = 0;

    (void)state;
    for (uint64_t ms = 5000; ms < 6000; ms++)
        given += streamtalk_may_dial(&talk, "10.0.0.2", 7790, ms);
    assert_int_equal(given, STREAMTALK_DIALS);
    assert_true(streamtalk_may_dial(&talk, "10.0.0.2", 7790, 6000));
}

static void a_decision_is_passed_on(void **state)
{
    struct streamp_progress said = {.level = -3, .codec_mbit = 3200, .link_mbit = 940};
    struct ha_packing packing = streamtalk_packing(&said);

    (void)state;
    assert_true(packing.is_known);
    assert_int_equal(packing.level, -3);
    assert_int_equal(packing.codec_mbit, 3200);
    assert_int_equal(packing.link_mbit, 940);
}

static void who_was_not_reached_is_named(void **state)
{
    static const char late[] = "the other end was not reached within 15 s";
    struct streamtalk talk = {0};

    (void)state;
    assert_null(streamtalk_late(&talk, NULL));
    assert_string_equal(streamtalk_late(&talk, late), late); /* nobody was dialled */
    assert_true(streamtalk_may_dial(&talk, "10.0.0.2", 7790, 1));
    assert_string_equal(streamtalk_late(&talk, late),
                        "the other end was not reached within 15 s (10.0.0.2 port 7790)");
    assert_true(say(&talk, "lane 0: Connection refused"));
    assert_string_equal(streamtalk_late(&talk, late),
                        "the other end was not reached within 15 s (10.0.0.2 port 7790; lane 0: "
                        "Connection refused)");
    assert_true(streamtalk_is_news(&talk, STREAMP_CONNECTED));
    assert_string_equal(streamtalk_late(&talk, late), late);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_an_honest_one_says_is_logged),
        cmocka_unit_test(a_flood_of_lines_ends_with_one_about_it),
        cmocka_unit_test(a_line_stays_one_line),
        cmocka_unit_test(what_is_said_once_is_heard_once),
        cmocka_unit_test(sockets_are_rationed),
        cmocka_unit_test(a_decision_is_passed_on),
        cmocka_unit_test(who_was_not_reached_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
