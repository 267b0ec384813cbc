/* SPDX-License-Identifier: Apache-2.0
 *
 * The sender against a hostile or broken receiver: only the right confirmation, at the right time,
 * is a success.
 */
#include <setjmp.h>
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

#include "migrate/send.h"
#include "nativegen.h"

#define NATIVE_MAX 65536u

static uint8_t native[NATIVE_MAX];
static size_t native_size;

/* What the receiver does when it has seen END (or at once). */
struct answer {
    int is_early;
    uint16_t type; /* 0: just close */
    int raw_off, digest_off;
    const char *words; /* of the error; NULL: success */
};

static size_t make_answer(const struct answer *a, const struct frame_end *end, uint8_t *bytes)
{
    struct ha_writer w = ha_writer_of(bytes + FRAME_HEADER_SIZE, 256);
    struct frame_end_ack ack = {
        .raw_bytes = end->raw_bytes + (uint64_t)a->raw_off,
        .digest = {.low = end->digest.low + (uint64_t)a->digest_off, .high = end->digest.high}};
    struct frame_abort stop = {.code = FRAME_ABORT_ENDPOINT, .text = "disk full"};

    if (a->type == FRAME_END_ACK)
        frame_end_ack_encode(&w, &ack);
    else if (a->type == FRAME_ABORT)
        frame_abort_encode(&w, &stop);
    else
        for (unsigned i = 0; i < 96 && a->type != FRAME_PING; i++)
            ha_put_u8(&w, 1);
    struct frame_header h = {.type = a->type, .size = (uint32_t)w.position};
    frame_header_encode(bytes, &h);
    return FRAME_HEADER_SIZE + w.position;
}

/* The peer's process: reads frames until END, then answers and closes. */
static void be_receiver(int fd, const struct answer *a)
{
    static uint8_t frame[FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX];
    uint8_t bytes[512];
    struct frame_header h = {0};
    struct frame_end end = {.raw_bytes = native_size};

    if (a->is_early)
        (void)!write(fd, bytes, make_answer(a, &end, bytes));
    while (h.type != FRAME_END) {
        if (recv(fd, frame, FRAME_HEADER_SIZE, MSG_WAITALL) != FRAME_HEADER_SIZE ||
            frame_header_decode(frame, &h, NULL) < 0 ||
            (h.size > 0 && recv(fd, frame, h.size, MSG_WAITALL) != (ssize_t)h.size))
            _exit(0);
    }
    if (frame_end_decode(frame, h.size, &end, NULL) < 0)
        _exit(0);
    if (a->type != 0 && !a->is_early)
        (void)!write(fd, bytes, make_answer(a, &end, bytes));
    close(fd);
    _exit(0);
}

static void try_answer(const struct answer *a)
{
    struct ha_err err = {0};
    struct session s;
    int net[2], in[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, net), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, in), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(net[0]);
        be_receiver(net[1], a);
    }
    close(net[1]);
    struct pollfd early = {.fd = net[0], .events = POLLIN};
    if (a->is_early)
        assert_int_equal(poll(&early, 1, 5000), 1);
    assert_int_equal(write(in[1], native, native_size), native_size);
    assert_int_equal(session_init(&s, -1, 3000, 0, &err), 0);
    const struct streamp_start start = {.level = 1, .workers = 2, .cache_mib = 1};
    struct sender *sender = sender_new(&start, &err);
    s.chan = chan_fd_new(net[0]);
    struct page_source *source = page_source_fd_new(in[0], NULL);
    assert_true(sender && s.chan && source);
    int rc = send_stream(sender, &s, source, &err);
    if (a->words == NULL ? rc != 0 : rc >= 0 || !strstr(err.text, a->words))
        fail_msg("wanted \"%s\", got %d \"%s\"", a->words ? a->words : "success", rc, err.text);
    source->ops->close(source);
    session_fini(&s);
    sender_free(sender);
    close(in[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void answers(void **state)
{
    static const struct answer all[] = {
        {.type = FRAME_END_ACK},
        {.type = FRAME_END_ACK, .raw_off = -1, .words = "confirmed something else"},
        {.type = FRAME_END_ACK, .digest_off = 1, .words = "confirmed something else"},
        {.type = FRAME_END_ACK, .is_early = 1, .words = "unexpected frame END_ACK"},
        {.type = FRAME_ABORT, .words = "the peer says: disk full"},
        {.type = FRAME_ABORT, .is_early = 1, .words = "the peer says: disk full"},
        {.type = FRAME_PING, .words = "closed the connection"},
        {.type = FRAME_RAW, .words = "unexpected frame RAW"},
        {.type = FRAME_WELCOME, .is_early = 1, .words = "unexpected frame WELCOME"},
        {.type = 77, .words = "unknown type 77"},
        {.type = 0, .words = "closed the connection"},
    };

    (void)state;
    native_size = gen_hvm_stream(native, sizeof(native));
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        try_answer(&all[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
