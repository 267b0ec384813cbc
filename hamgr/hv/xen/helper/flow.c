/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/flow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "hamgr/base/bytes.h"

#define PIECES_MAX  1024 /* the kernel takes no more in one call */
#define STEP_MS     5    /* so often a stopped guest's contract is looked at while writing waits */
#define TOLD_BYTES  (64u * TAKEN_SIZE)
#define MARKER_TYPE 0x80486d67u
#define MARKER_BODY 16u
#define RING_MS     100 /* the ring's own wait; an abort is seen between two */

void flow_init(struct flow *f, int fd, int abort_fd, bool is_translated)
{
    struct stat st;

    *f = (struct flow){.fd = fd,
                       .abort_fd = abort_fd,
                       .is_socket = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode),
                       .is_translated = is_translated,
                       .bytes = FLOW_BEFORE};
}

bool flow_is_aborted(const struct flow *f)
{
    struct pollfd p = {.fd = f->abort_fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static int fail(struct flow *f, int code, const char *what)
{
    if (f->err.code == 0)
        ha_err_set(&f->err, code, "%s", what);
    return -code;
}

/* ---- what is taken ---- */

static void hear(struct flow *f)
{
    uint8_t bytes[TOLD_BYTES];
    ssize_t n = 1;

    while (f->is_socket && !f->is_deaf && n > 0) {
        n = recv(f->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0)
            taken_read(&f->taken, bytes, (size_t)n, f->bytes);
        else
            f->is_deaf = n == 0 || (errno != EAGAIN && errno != EINTR);
    }
}

uint64_t flow_backlog(struct flow *f, bool *ret_is_told)
{
    int bytes = 0;

    hear(f);
    *ret_is_told = f->taken.is_known && !f->is_deaf;
    if (f->taken.is_known)
        return f->bytes - f->taken.taken;
    if (ioctl(f->fd, f->is_socket ? SIOCOUTQ : FIONREAD, &bytes) != 0 || bytes < 0)
        return 0;
    return (uint64_t)bytes;
}

bool flow_rest(struct flow *f, uint64_t us)
{
    bool is_hearing = f->is_socket && !f->is_deaf;
    struct pollfd fds[2] = {{.fd = f->abort_fd, .events = POLLIN},
                            {.fd = is_hearing ? f->fd : -1, .events = POLLIN}};
    struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};

    return ppoll(fds, 2, &time, NULL) < 0 || fds[0].revents == 0;
}

/* ---- writing ---- */

static int await_room(struct flow *f)
{
    struct pollfd fds[2] = {{.fd = f->abort_fd, .events = POLLIN},
                            {.fd = f->fd, .events = POLLOUT}};
    int ready = poll(fds, 2, f->check ? STEP_MS : -1);

    if (ready < 0 && errno != EINTR)
        return fail(f, errno, "waiting for the stream");
    if (ready > 0 && fds[0].revents != 0)
        return fail(f, HA_E_CANCELLED, "aborted");
    int rc = f->check ? f->check(f->user) : 0;
    if (rc != 0)
        return fail(f, -rc, "the contract can't be kept");
    if (f->moved)
        f->moved(f->user);
    return 0;
}

static ssize_t write_some(const struct flow *f, struct iovec *vector, int count)
{
    int pieces = count < PIECES_MAX ? count : PIECES_MAX;
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)pieces};

    /* A pipe blocks; a signal ends that, and whoever handles it takes the pipe away (save.c). */
    return f->is_socket ? sendmsg(f->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : writev(f->fd, vector, pieces);
}

static void skip(struct iovec **vector, int *count, size_t done)
{
    while (*count > 0 && done >= (*vector)->iov_len) {
        done -= (*vector)->iov_len;
        (*vector)++;
        (*count)--;
    }
    if (*count > 0) {
        (*vector)->iov_base = (uint8_t *)(*vector)->iov_base + done;
        (*vector)->iov_len -= done;
    }
}

/* Uses the vector up. */
static int write_all(struct flow *f, struct iovec *vector, int count, bool is_counted)
{
    while (count > 0) {
        if (flow_is_aborted(f))
            return fail(f, HA_E_CANCELLED, "aborted");
        ssize_t n = write_some(f, vector, count);
        if (n < 0 && errno == EAGAIN) {
            int rc = await_room(f);
            if (rc != 0)
                return rc;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(f, errno, "writing the stream");
        f->bytes += is_counted ? (uint64_t)n : 0;
        skip(&vector, &count, (size_t)n);
    }
    return 0;
}

/* ---- batches ---- */

static int acquire(struct flow *f, uint8_t **ret_entries, uint8_t **ret_pages, uint64_t *ret_batch,
                   uint32_t *ret_slot)
{
    while (ring_acquire(f->ring, RING_MS, ret_entries, ret_pages, ret_batch, ret_slot) != 0) {
        struct pollfd fds[2] = {{.fd = f->abort_fd, .events = POLLIN}, {.fd = f->fd}};
        if (poll(fds, 2, 0) > 0 && fds[0].revents != 0)
            return fail(f, HA_E_CANCELLED, "aborted");
        if (fds[1].revents & (POLLERR | POLLHUP))
            return fail(f, EPIPE, "the stream's reader is gone");
        int rc = f->check ? f->check(f->user) : 0;
        if (rc != 0)
            return fail(f, -rc, "the contract can't be kept");
        hear(f);
    }
    return 0;
}

static int write_to_ring(struct flow *f)
{
    struct batch *b = &f->batch;
    uint8_t *entries, *pages, marker[FLOW_MARKER];
    uint64_t number;
    uint32_t slot;
    int rc = acquire(f, &entries, &pages, &number, &slot);

    if (rc != 0)
        return rc;
    memcpy(entries, b->head + BATCH_HEAD, 8 * (size_t)b->count);
    for (int n = 1; n < b->piece_count; n++) {
        memcpy(pages, b->pieces[n].iov_base, b->pieces[n].iov_len);
        pages += b->pieces[n].iov_len;
    }
    ring_publish(f->ring, b->count, b->data_count);
    f->bytes += batch_bytes(b);
    struct ha_writer w = ha_writer_of(marker, sizeof(marker));
    ha_put_u32(&w, MARKER_TYPE);
    ha_put_u32(&w, MARKER_BODY);
    ha_put_u64(&w, number);
    ha_put_u32(&w, slot);
    ha_put_u32(&w, 0);
    struct iovec piece = {marker, sizeof(marker)};
    return write_all(f, &piece, 1, false);
}

static int write_before(struct flow *f)
{
    struct iovec piece = {f->before_pages, f->before_size};

    if (f->before_size == 0)
        return 0;
    f->before_size = 0;
    return write_all(f, &piece, 1, true);
}

static int write_batch(struct flow *f)
{
    int rc = f->check ? f->check(f->user) : 0;

    if (rc != 0)
        return fail(f, -rc, "the contract can't be kept");
    rc = write_before(f);
    if (rc != 0)
        return rc;
    if (f->is_translated)
        batch_drop_holes(&f->batch);
    if (f->batch.count == 0)
        return 0;
    f->pages += f->batch.data_count;
    rc = f->ring ? write_to_ring(f) : write_all(f, f->batch.pieces, f->batch.piece_count, true);
    hear(f); /* so that what it tells finds room */
    if (f->moved)
        f->moved(f->user);
    return rc;
}

int flow_write(struct flow *f, const struct iovec *vector, int count)
{
    struct iovec own[8];
    int rc = 0;

    if (batch_take(vector, count, &f->batch))
        return write_batch(f);
    for (int n = 0, pieces; n < count && rc == 0; n += pieces) {
        pieces = count - n < 8 ? count - n : 8;
        memcpy(own, vector + n, (size_t)pieces * sizeof(*own));
        rc = write_all(f, own, pieces, true);
    }
    return rc;
}
