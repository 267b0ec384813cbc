/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/track.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/uffd.h"

#define PIECE (EMB_PIECE_PAGES * EMB_PAGE)
/* The keeper answers in the time of one pass over the protected pieces: 64 GiB in 1 M calls of 1 us
 * is 1 s; beyond ten times that it is gone. */
#define KEEPER_TIMEOUT_MS 10000

enum keeper_order { ORDER_COLLECT = 'c', ORDER_LAST = 'l', ORDER_LEAVE = 'x' };

/* ---- the keeper of the faults: a process of its own, only system calls and shared memory ---- */

struct keeper {
    int uffd;
    int socket;
    uint64_t address;
    uint64_t size;
    uint64_t *noted;  /* a bit per page; only the keeper touches it */
    uint64_t *handed; /* the worker reads it between answer and next order */
    uint64_t words;
};

static void note_piece(struct keeper *k, uint64_t offset)
{
    uint64_t first = offset / EMB_PAGE;

    /* 16 pages from a multiple of 16: always inside one word. */
    k->noted[first / 64] |= UINT64_C(0xffff) << (first % 64);
}

static void serve_faults(struct keeper *k)
{
    struct uffd_msg messages[32];
    ssize_t n = read(k->uffd, messages, sizeof(messages));

    for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(messages[0]); i++) {
        uint64_t address = messages[i].arg.pagefault.address;
        if (messages[i].event != UFFD_EVENT_PAGEFAULT || address < k->address ||
            address - k->address >= k->size)
            continue;
        uint64_t offset = (address - k->address) & ~(uint64_t)(PIECE - 1);
        note_piece(k, offset);
        emb_uffd_protect(k->uffd, k->address + offset, PIECE, false);
    }
}

/* Protects what was noted again, neighbours in one call, before the worker reads those pages. */
static int protect_noted(const struct keeper *k)
{
    uint64_t pieces = k->size / PIECE;
    int rc = 0;

    for (uint64_t n = 0; n < pieces && rc == 0;) {
        uint64_t first = n;
        while (n < pieces && (k->noted[n * 16 / 64] >> (n * 16 % 64) & 1) != 0)
            n++;
        if (n > first)
            rc = emb_uffd_protect(k->uffd, k->address + first * PIECE, (n - first) * PIECE, true);
        else
            n++;
    }
    return rc;
}

static bool serve_order(struct keeper *k)
{
    char order = 0;
    char answer = 'y';
    ssize_t n = recv(k->socket, &order, 1, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n != 1)
        return false;
    if (order == ORDER_LEAVE)
        _exit(0);
    if (order == ORDER_COLLECT && protect_noted(k) != 0)
        answer = 'n';
    memcpy(k->handed, k->noted, k->words * 8);
    memset(k->noted, 0, k->words * 8);
    return send(k->socket, &answer, 1, MSG_NOSIGNAL) == 1;
}

static _Noreturn void keep_faults(struct keeper *k)
{
    bool is_wanted = true;

    while (is_wanted) {
        struct pollfd fds[2] = {{.fd = k->uffd, .events = POLLIN},
                                {.fd = k->socket, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].revents & POLLIN)
            serve_faults(k);
        if (fds[0].revents & (POLLERR | POLLHUP | POLLNVAL))
            break; /* the guest is gone */
        if (fds[1].revents != 0)
            is_wanted = serve_order(k);
    }
    emb_uffd_protect(k->uffd, k->address, k->size, false);
    _exit(0);
}

/* In the child: away from the worker's group and terminal, and without its other descriptors (the
 * migration stream must end when the worker does, not when the keeper does). */
static _Noreturn void become_keeper(struct emb_tracker *t, int socket)
{
    struct keeper k = {.address = t->address, .size = t->size};
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "hamgr-dirty");
    k.uffd = fcntl(t->uffd, F_DUPFD, 200);
    k.socket = fcntl(socket, F_DUPFD, k.uffd + 1);
    int busy = fcntl(t->busy_fd, F_DUPFD, k.socket + 1);
    if (k.uffd < 0 || k.socket < 0 || busy < 0)
        _exit(1);
    close_range(0, (unsigned)k.uffd - 1, 0);
    close_range((unsigned)k.uffd + 1, (unsigned)k.socket - 1, 0);
    close_range((unsigned)k.socket + 1, (unsigned)busy - 1, 0);
    close_range((unsigned)busy + 1, ~0u, 0);
    k.words = emb_bitmap_words(t->size / EMB_PAGE);
    k.noted = t->shared;
    k.handed = t->shared + k.words;
    keep_faults(&k);
}

static int start_keeper(struct emb_tracker *t, struct ha_err *err)
{
    int pair[2];

    t->shared_size = emb_bitmap_words(t->size / EMB_PAGE) * 16;
    void *shared =
        mmap(NULL, t->shared_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return ha_err_set(err, errno, "map dirty bitmap: %s", strerror(errno));
    t->shared = shared;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return ha_err_set(err, errno, "socketpair: %s", strerror(errno));
    t->keeper = fork();
    if (t->keeper == 0)
        become_keeper(t, pair[1]);
    close(pair[1]);
    t->socket = pair[0];
    if (t->keeper < 0)
        return ha_err_set(err, errno, "fork: %s", strerror(errno));
    return 0;
}

/* ---- the worker's side ---- */

int emb_track_open(struct emb_tracker *t, int pidfd, const struct emb_record *record, int busy_fd,
                   struct ha_err *err)
{
    char path[64];

    *t = (struct emb_tracker){
        .kind = record->tracking,
        .uffd = -1,
        .pagemap_fd = -1,
        .socket = -1,
        .keeper = -1,
        .busy_fd = busy_fd,
        .address = record->memory_address,
        .size = record->memory_size,
    };
    if (t->kind != EMB_TRACK_ASYNC && t->kind != EMB_TRACK_SYNC)
        return ha_err_set(err, ENOTSUP, "no dirty tracking on this node");
    t->uffd = emb_proc_get_fd(pidfd, EMB_FD_UFFD);
    if (t->uffd < 0)
        return ha_err_set(err, -t->uffd, "get dirty tracking: %s", strerror(-t->uffd));
    if (t->kind == EMB_TRACK_SYNC)
        return 0;
    snprintf(path, sizeof(path), "/proc/%u/pagemap", record->pid);
    t->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (t->pagemap_fd < 0)
        return ha_err_set(err, errno, "open %s: %s", path, strerror(errno));
    return 0;
}

int emb_track_start(struct emb_tracker *t, struct ha_err *err)
{
    int rc = 0;

    if (t->kind == EMB_TRACK_SYNC)
        rc = start_keeper(t, err);
    if (rc != 0)
        return rc;
    rc = emb_uffd_protect(t->uffd, t->address, t->size, true);
    return rc == 0 ? 0 : ha_err_set(err, -rc, "write-protect the guest: %s", strerror(-rc));
}

static void mark(uint64_t *bitmap, uint64_t first, uint64_t end)
{
    for (; first < end && first % 64 != 0; first++)
        bitmap[first / 64] |= UINT64_C(1) << (first % 64);
    for (; first + 64 <= end; first += 64)
        bitmap[first / 64] = UINT64_MAX;
    for (; first < end; first++)
        bitmap[first / 64] |= UINT64_C(1) << (first % 64);
}

static int collect_async(struct emb_tracker *t, bool is_last, uint64_t *bitmap, uint64_t *ret_count,
                         struct ha_err *err)
{
    struct emb_page_region regions[512];
    struct emb_scan_arg arg = {
        .size = sizeof(arg),
        .flags = is_last ? 0 : EMB_SCAN_WP_MATCHING | EMB_SCAN_WP_ASYNC,
        .start = t->address,
        .end = t->address + t->size,
        .vec = (uintptr_t)regions,
        .vec_len = sizeof(regions) / sizeof(regions[0]),
        .category_mask = EMB_PAGE_IS_WRITTEN,
        .return_mask = EMB_PAGE_IS_WRITTEN,
    };

    while (arg.start < arg.end) {
        int n = ioctl(t->pagemap_fd, EMB_PAGEMAP_SCAN, &arg);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ha_err_set(err, errno, "scan dirty pages: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            mark(bitmap, (regions[i].start - t->address) / EMB_PAGE,
                 (regions[i].end - t->address) / EMB_PAGE);
            *ret_count += (regions[i].end - regions[i].start) / EMB_PAGE;
        }
        if (arg.walk_end <= arg.start)
            return ha_err_set(err, EPROTO, "scan dirty pages: no progress");
        arg.start = arg.walk_end;
    }
    return 0;
}

static int collect_sync(struct emb_tracker *t, bool is_last, uint64_t *bitmap, uint64_t *ret_count,
                        struct ha_err *err)
{
    char order = is_last ? ORDER_LAST : ORDER_COLLECT;
    char answer = 0;
    struct pollfd p = {.fd = t->socket, .events = POLLIN};
    uint64_t words = emb_bitmap_words(t->size / EMB_PAGE);

    if (send(t->socket, &order, 1, MSG_NOSIGNAL) != 1 || poll(&p, 1, KEEPER_TIMEOUT_MS) != 1 ||
        recv(t->socket, &answer, 1, 0) != 1 || answer != 'y')
        return ha_err_set(err, EPIPE, "the keeper of the page faults does not answer");
    for (uint64_t n = 0; n < words; n++) {
        bitmap[n] |= t->shared[words + n];
        *ret_count += (uint64_t)__builtin_popcountll(t->shared[words + n]);
    }
    return 0;
}

int emb_track_collect(struct emb_tracker *t, bool is_last, uint64_t *bitmap, uint64_t *ret_count,
                      struct ha_err *err)
{
    *ret_count = 0;
    if (t->kind == EMB_TRACK_SYNC)
        return collect_sync(t, is_last, bitmap, ret_count, err);
    return collect_async(t, is_last, bitmap, ret_count, err);
}

static pid_t let_go(struct emb_tracker *t)
{
    pid_t keeper = t->keeper;

    if (t->socket >= 0)
        close(t->socket);
    if (t->shared)
        munmap(t->shared, t->shared_size);
    if (t->pagemap_fd >= 0)
        close(t->pagemap_fd);
    if (t->uffd >= 0)
        close(t->uffd);
    *t = (struct emb_tracker){
        .kind = EMB_TRACK_NONE, .uffd = -1, .pagemap_fd = -1, .socket = -1, .keeper = -1};
    return keeper;
}

void emb_track_close(struct emb_tracker *t)
{
    if (t->kind == EMB_TRACK_NONE)
        return;
    if (t->uffd >= 0)
        emb_uffd_protect(t->uffd, t->address, t->size, false);
    pid_t keeper = let_go(t);
    if (keeper > 0)
        waitpid(keeper, NULL, 0);
}

pid_t emb_track_leave(struct emb_tracker *t)
{
    char order = ORDER_LEAVE;

    if (t->kind == EMB_TRACK_NONE)
        return -1;
    if (t->socket >= 0)
        (void)send(t->socket, &order, 1, MSG_NOSIGNAL);
    return let_go(t);
}

int emb_track_off(int pidfd, const struct emb_record *record, struct ha_err *err)
{
    if (record->tracking == EMB_TRACK_NONE)
        return 0;
    int uffd = emb_proc_get_fd(pidfd, EMB_FD_UFFD);
    if (uffd < 0)
        return ha_err_set(err, -uffd, "get dirty tracking: %s", strerror(-uffd));
    int rc = emb_uffd_protect(uffd, record->memory_address, record->memory_size, false);
    close(uffd);
    return rc == 0 ? 0 : ha_err_set(err, -rc, "lift write-protection: %s", strerror(-rc));
}
