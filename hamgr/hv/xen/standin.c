/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/native.h"

#define RECORD_HEAD  8u
#define RECORD_END   0u
#define RECORD_LIBXC 1u

static const uint8_t HEAD[STAND_IN_HEAD] = {'L', 'i', 'b', 'x', 'l', 'F', 'm', 't', 0, 0, 0, 2,
                                            0,   0,   0,   0,   1,   0,   0,   0,   0, 0, 0, 0};
static const uint8_t END[RECORD_HEAD] = {0};
/* libxl knows no such record, and fails. */
static const uint8_t REFUSAL[RECORD_HEAD] = {0xff, 0xff, 0xff, 0xff};

int stand_in_open(struct stand_in *s, int stream, bool is_save, struct ha_err *err)
{
    int ends[2], flags = fcntl(stream, F_GETFL);

    *s = (struct stand_in){.stream = stream, .is_save = is_save, .libxl_fd = -1, .ours = -1};
    s->capacity = STAND_IN_HEAD;
    s->record = malloc(s->capacity);
    if (!s->record)
        return ha_err_set(err, HA_E_NO_MEMORY, "a stream's record");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        int code = errno;
        stand_in_close(s);
        return ha_err_set(err, code, "socketpair: %s", strerror(code));
    }
    s->libxl_fd = ends[0];
    s->ours = ends[1];
    /* As libxl has it: its helper waits in read and write. */
    (void)fcntl(stream, F_SETFL, flags & ~O_NONBLOCK);
    return 0;
}

void stand_in_close(struct stand_in *s)
{
    if (s->libxl_fd >= 0)
        close(s->libxl_fd);
    if (s->ours >= 0)
        close(s->ours);
    free(s->record);
    s->record = NULL;
    s->libxl_fd = s->ours = -1;
}

void stand_in_begun(const struct stand_in *s)
{
    int flags = fcntl(s->libxl_fd, F_GETFL);

    (void)fcntl(s->libxl_fd, F_SETFL, flags | O_NONBLOCK);
}

void stand_in_refuse(struct stand_in *s, const char *why)
{
    if (!s->why)
        s->why = why;
}

/* ---- save: what libxl wrote goes to the stream ---- */

static void put(struct stand_in *s, const uint8_t *bytes, size_t size)
{
    while (size > 0 && !s->why) {
        ssize_t n = write(s->stream, bytes, size);
        if (n < 0 && errno != EINTR)
            stand_in_refuse(s, "the stream's other end is gone");
        bytes += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

static void pour(struct stand_in *s)
{
    uint8_t bytes[4096];
    ssize_t n;

    /* Taken also when nobody wants it: libxl does not end before it got rid of it. */
    while ((n = recv(s->ours, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        put(s, bytes, (size_t)n);
}

/* ---- restore: libxl is given records ---- */

static bool has_unread(const struct stand_in *s)
{
    int count = 0;

    return ioctl(s->libxl_fd, FIONREAD, &count) == 0 && count > 0;
}

static void give(struct stand_in *s)
{
    s->is_giving = true;
    ssize_t n = send(s->ours, s->record + s->given, s->have - s->given, MSG_NOSIGNAL);

    s->given += n > 0 ? (size_t)n : 0;
}

static void give_last(struct stand_in *s, const uint8_t *record)
{
    s->is_ended = s->is_headed;
    s->have = s->is_headed ? RECORD_HEAD : sizeof(HEAD);
    memcpy(s->record, s->is_headed ? record : HEAD, s->have);
    s->is_headed = true;
    s->given = 0;
    give(s);
}

static uint32_t le32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

/* Of what is being read, with what is known of it so far. 0: it can't be. */
static size_t size_of(struct stand_in *s)
{
    if (!s->is_headed)
        return STAND_IN_HEAD;
    if (s->have < RECORD_HEAD)
        return RECORD_HEAD;
    uint32_t length = le32(s->record + 4);
    if (length > NATIVE_RECORD_MAX)
        return 0;
    size_t size = RECORD_HEAD + (length + 7u) / 8u * 8u;
    uint8_t *larger = size > s->capacity ? realloc(s->record, size) : NULL;
    if (larger) {
        s->record = larger;
        s->capacity = size;
    }
    return size <= s->capacity ? size : 0;
}

static bool is_readable(const struct stand_in *s)
{
    struct pollfd p = {.fd = s->stream, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/* False: nothing more for now. */
static bool read_on(struct stand_in *s, size_t size)
{
    if (!is_readable(s))
        return false;
    ssize_t n = read(s->stream, s->record + s->have, size - s->have);
    if (n > 0) {
        s->have += (size_t)n;
        return true;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    stand_in_refuse(s, s->is_headed ? "the stream ended before its last record"
                                    : "the stream ended before the guest's memory");
    return false;
}

static void take(struct stand_in *s)
{
    size_t size;

    do
        size = size_of(s);
    while (s->have < size && read_on(s, size));
    if (size > 0 && s->have < size)
        return;
    if (!s->is_headed && memcmp(s->record, HEAD, size) != 0)
        stand_in_refuse(s, "the stream does not begin as one of libxl's");
    else if (size == 0 || (s->is_headed && le32(s->record) == RECORD_LIBXC))
        stand_in_refuse(s, "the stream has a wrong record behind the guest's memory");
    if (s->why)
        return;
    s->is_ended = s->is_headed && le32(s->record) == RECORD_END;
    s->is_headed = true;
    give(s);
}

static void feed(struct stand_in *s)
{
    /* libxl asks again when it has taken all: then the helper is done with the stream. */
    if (has_unread(s))
        return;
    if (s->is_giving && s->given < s->have) {
        give(s);
        return;
    }
    if (s->is_giving)
        s->given = s->have = 0;
    s->is_giving = false;
    if (!s->is_ended && !s->why && !s->is_detached)
        take(s);
    if (!s->is_ended && !s->is_giving && (s->why || s->is_detached))
        give_last(s, s->why ? REFUSAL : END);
}

void stand_in_detach(struct stand_in *s)
{
    s->is_detached = true;
}

/* A PV guest's stream has nothing behind its memory, and no other is detached. */
bool stand_in_rest(struct stand_in *s)
{
    if (s->is_giving) /* libxl's END, which it has taken */
        s->have = 0;
    s->is_giving = false;
    while (!s->is_over && !s->why && read_on(s, RECORD_HEAD))
        if (s->have == RECORD_HEAD && memcmp(s->record, END, RECORD_HEAD) == 0)
            s->is_over = true;
        else if (s->have == RECORD_HEAD)
            stand_in_refuse(s, "the stream has a wrong record behind the guest's memory");
    return s->is_over;
}

/* ---- both ---- */

struct pollfd stand_in_watch(const struct stand_in *s, bool is_wanted)
{
    bool is_for_stream = !s->is_save && is_wanted && !s->is_ended && !s->is_giving;

    return (struct pollfd){.fd = s->is_save      ? s->ours
                                 : is_for_stream ? s->stream
                                                 : -1,
                           .events = POLLIN};
}

void stand_in_move(struct stand_in *s, bool is_wanted)
{
    if (s->is_save)
        pour(s);
    else if (is_wanted)
        feed(s);
}

void stand_in_before_fork(struct stand_in *s)
{
    if (s->is_save)
        pour(s);
}

bool stand_in_child(const struct stand_in *s)
{
    int fd = s->why ? open("/dev/null", O_RDONLY | O_CLOEXEC) : s->stream;

    return fd >= 0 && dup3(fd, s->libxl_fd, O_CLOEXEC) >= 0;
}
