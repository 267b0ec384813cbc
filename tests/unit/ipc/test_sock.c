/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/ipc/sock.h"

enum { WORD = 7, ANSWER = 8 };

static void send_word(int fd, uint16_t type)
{
    assert_int_equal(ha_sock_send(fd, type, 1, "word", 4, NULL, 0), 0);
}

/* One end says a word and goes, whether it was told something it did not read or not. */
static void expect_last_word(bool is_told)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(ha_sock_receive(pair[1], buffer, &packet), -EAGAIN);
    if (is_told)
        send_word(pair[1], ANSWER);
    send_word(pair[0], WORD);
    close(pair[0]);
    assert_int_equal(ha_sock_receive(pair[1], buffer, &packet), 1);
    assert_int_equal(packet.type, WORD);
    assert_int_equal(ha_sock_receive(pair[1], buffer, &packet), 0);
    close(pair[1]);
}

static void in_order_then_the_end(void **state)
{
    (void)state;
    expect_last_word(false);
}

/* Who goes without having read everything resets the connection; its last word is heard first. */
static void last_word_of_who_did_not_listen(void **state)
{
    (void)state;
    expect_last_word(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order_then_the_end),
        cmocka_unit_test(last_word_of_who_did_not_listen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
