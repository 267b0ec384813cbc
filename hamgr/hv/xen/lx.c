/* SPDX-License-Identifier: Apache-2.0
 *
 * libxl, asynchronous: every operation is started with a callback and waited for in a loop of our
 * own, which also looks at the domain, the time and whether the stream was taken away. A worker
 * that is killed takes libxl's direct children (save and restore helpers, scripts) with it; QEMU, a
 * grandchild, stays with its guest.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "hamgr/hv/xen/xen_priv.h"

/* How often the loop looks around. A helper's death or a claim that is due waits this long. */
#define TICK_MS 20
/* ... and how often when what it waits for wakes it: each turn of libxl's loop is a score of system
 * calls, 40 us each in a PV dom0. */
#define CALM_MS 100
#define OWN_FDS 2 /* of ours behind libxl's */
/* After an abort libxl ends its helper and takes back what it did; the gate kills us soon after. */
#define ABORT_MS 60000u
#define TELL_MS  100u

struct lx {
    xentoollog_logger logger; /* first: libxl gives it back as this */
    libxl_ctx *ctx;
    struct pollfd *fds;
    int capacity;
    char words[HA_TEXT_MAX];
    char unlike[HA_TEXT_MAX]; /* lx_unlike */
    bool is_comparing; /* hv_xen_options.is_verifying: what libxc says of it is listened for */
    struct lx_op *op;
    pid_t owner;  /* whose children are told to die with it */
    int child_fd; /* pidfd of the newest, or -1 */
};

/* ---- libxl's words -----------------------------------------------------------------------------
 */

/* libxc's receiver says which pages differ, and ends well all the same. */
static void hear_of_pages(struct lx *lx, const char *format, va_list args)
{
    char text[HA_TEXT_MAX];
    va_list again;

    va_copy(again, args);
    vsnprintf(text, sizeof(text), format, again);
    va_end(again);
    if (strstr(text, "verify pfn") && lx->unlike[0] == '\0')
        snprintf(lx->unlike, sizeof(lx->unlike), "%s", text);
}

static void take_words(struct xentoollog_logger *logger, xentoollog_level level, int errnoval,
                       const char *context, const char *format, va_list args)
{
    struct lx *lx = (struct lx *)logger;

    (void)context;
    if (lx->is_comparing)
        hear_of_pages(lx, format, args);
    if (level < XTL_ERROR || lx->words[0] != '\0')
        return;
    vsnprintf(lx->words, sizeof(lx->words), format, args);
    size_t used = strlen(lx->words);
    if (errnoval > 0 && used + 4 < sizeof(lx->words))
        snprintf(lx->words + used, sizeof(lx->words) - used, ": %s", strerror(errnoval));
}

/* "Frames iteration 2 of 5": rounds as libxc counts them. */
static void take_progress(struct xentoollog_logger *logger, const char *context, const char *what,
                          int percent, unsigned long done, unsigned long total)
{
    static const char prefix[] = "Frames iteration ";
    struct lx_op *op = ((struct lx *)logger)->op;
    unsigned long round;

    (void)context;
    (void)percent;
    if (!op || op->is_told_otherwise || strncmp(what, "Frames", 6) != 0)
        return;
    round = strncmp(what, prefix, sizeof(prefix) - 1) == 0
                ? strtoul(what + sizeof(prefix) - 1, NULL, 10)
                : op->now.round + (done == 0 && op->now.pages_sent > 0);
    if (round != op->now.round) {
        op->pages_before += op->now.pages_sent;
        op->now.round = (uint32_t)round;
        op->now.pages_dirty = total;
    }
    /* libxc counts numbers of pages, and those of a guest with a device model or PVH reach to 4 GiB
     * whatever it has: most of them stand for nothing. */
    if (total > op->now.pages_total && op->now.pages_total > 0)
        done = done * op->now.pages_total / total;
    op->now.pages_sent = done;
    /* libxl counts pages; what else is in the stream is little. */
    op->now.bytes = (op->pages_before + done) * PAGE_KIB * 1024;
}

static void keep(struct xentoollog_logger *logger)
{
    (void)logger;
}

const char *lx_unlike(const struct lx *lx)
{
    return lx->unlike[0] != '\0' ? lx->unlike : NULL;
}

const char *lx_words(const struct lx *lx)
{
    return lx->words[0] != '\0' ? lx->words : "libxl does not say why";
}

/* ---- children ----------------------------------------------------------------------------------
 */

static void drop_child(struct lx *lx)
{
    if (lx->child_fd >= 0)
        close(lx->child_fd);
    lx->child_fd = -1;
}

static pid_t fork_dependent(void *user)
{
    struct lx *lx = user;
    bool is_direct = getpid() == lx->owner;
    struct stand_in *stand_in = is_direct && lx->op ? lx->op->stand_in : NULL;

    if (stand_in)
        stand_in_before_fork(stand_in);
    pid_t pid = fork();

    /* SIGTERM: a save helper then cleans up (dirty tracking off) before it goes. */
    if (pid == 0 && is_direct) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != lx->owner || (stand_in && !stand_in_child(stand_in)))
            _exit(EXIT_FAILURE);
    }
    if (pid > 0 && is_direct) {
        drop_child(lx);
        lx->child_fd = pidfd_open(pid, 0);
    }
    return pid;
}

static const libxl_childproc_hooks CHILDREN = {
    .chldowner = libxl_sigchld_owner_libxl_always_selective_reap,
    .fork_replacement = fork_dependent,
};

struct lx *xen_lx(struct hv_xen *x, struct ha_err *err)
{
    if (x->lx)
        return x->lx;
    struct lx *lx = calloc(1, sizeof(*lx));
    if (!lx) {
        ha_err_set(err, HA_E_NO_MEMORY, "libxl");
        return NULL;
    }
    lx->logger =
        (xentoollog_logger){.vmessage = take_words, .progress = take_progress, .destroy = keep};
    lx->owner = getpid();
    lx->child_fd = -1;
    lx->is_comparing = x->is_verifying;
    if (libxl_ctx_alloc(&lx->ctx, LIBXL_VERSION, 0, &lx->logger) != 0) {
        ha_err_set(err, HA_E_UNREACHABLE, "libxl: %.200s (does xenstored run?)", lx_words(lx));
        free(lx);
        return NULL;
    }
    libxl_childproc_setmode(lx->ctx, &CHILDREN, lx);
    x->lx = lx;
    return lx;
}

void xen_lx_close(struct lx *lx)
{
    if (!lx)
        return;
    libxl_ctx_free(lx->ctx);
    drop_child(lx);
    free(lx->fds);
    free(lx);
}

libxl_ctx *lx_ctx(struct lx *lx)
{
    return lx->ctx;
}

/* ---- operations --------------------------------------------------------------------------------
 */

static void on_done(libxl_ctx *ctx, int rc, void *for_callback)
{
    struct lx_op *op = for_callback;

    (void)ctx;
    op->rc = rc;
    op->is_done = true;
}

void lx_begin(struct lx *lx, struct lx_op *op)
{
    op->lx = lx;
    op->is_done = false;
    op->how = (libxl_asyncop_how){.callback = on_done, .u.for_callback = op};
    lx->words[0] = lx->unlike[0] = '\0';
    lx->op = op;
    drop_child(lx);
}

void lx_stop(struct lx_op *op, const char *why)
{
    if (op->stand_in)
        stand_in_refuse(op->stand_in, why);
    if (op->lx->child_fd >= 0)
        (void)pidfd_send_signal(op->lx->child_fd, SIGTERM, NULL, 0);
}

static struct timeval time_now(void)
{
    struct timeval now;

    gettimeofday(&now, NULL);
    return now;
}

static bool grow(struct lx *lx, int wanted)
{
    int capacity = wanted > lx->capacity ? wanted : lx->capacity * 2 + 16;
    struct pollfd *fds = realloc(lx->fds, (size_t)capacity * sizeof(*fds));

    if (!fds)
        return false;
    lx->fds = fds;
    lx->capacity = capacity;
    return true;
}

static bool is_wanted(const struct lx *lx, int count, int fd)
{
    for (int n = 0; n < count; n++)
        if (lx->fds[n].fd == fd && (lx->fds[n].events & POLLIN) != 0)
            return true;
    return false;
}

/* What the stream's stand-in waits for and who else wakes us, behind libxl's own. */
static int watch(struct lx *lx, int count)
{
    struct lx_op *op = lx->op;
    struct stand_in *s = op ? op->stand_in : NULL;
    bool is_asked = s && is_wanted(lx, count, s->libxl_fd);

    if (op && op->is_told_otherwise)
        lx->fds[count++] = (struct pollfd){.fd = op->wake_fd, .events = POLLIN};
    if (!s)
        return count;
    stand_in_move(s, is_asked);
    lx->fds[count] = stand_in_watch(s, is_asked);
    return count + 1;
}

/* One turn of libxl's loop. False: it can't go on. */
static bool turn(struct lx *lx)
{
    int count = lx->capacity - OWN_FDS, timeout_ms = lx->op && lx->op->is_calm ? CALM_MS : TICK_MS;
    int rc = 0;

    while (lx->capacity == 0 ||
           (rc = libxl_osevent_beforepoll(lx->ctx, &count, lx->fds, &timeout_ms, time_now())) ==
               ERROR_BUFFERFULL) {
        if (!grow(lx, count + OWN_FDS))
            return false;
        count = lx->capacity - OWN_FDS;
    }
    if (rc != 0)
        return false;
    int ready = poll(lx->fds, (nfds_t)watch(lx, count), timeout_ms);
    if (ready < 0 && errno != EINTR)
        return false;
    if (ready >= 0)
        libxl_osevent_afterpoll(lx->ctx, count, lx->fds, time_now());
    return true;
}

void lx_tell(struct lx_op *op)
{
    uint64_t now_ms = xen_now_ms();

    if (!op->progress || (op->now.phase == op->told_phase && now_ms < op->told_ms + TELL_MS))
        return;
    op->told_ms = now_ms;
    op->told_phase = op->now.phase;
    op->progress(op->user, &op->now);
}

int lx_wait(struct lx_op *op, int call_rc, uint32_t timeout_ms,
            void (*tick)(void *user, struct lx_op *op), void *tick_user)
{
    uint64_t end_ms = timeout_ms > 0 ? xen_now_ms() + timeout_ms : UINT64_MAX;
    bool is_aborted = false;

    /* A call that fails at once has not begun anything, and calls nobody back. */
    while (call_rc == 0 && !op->is_done) {
        uint64_t now_ms = xen_now_ms();
        if (!turn(op->lx))
            _exit(
                EXIT_FAILURE); /* libxl would call back into what is gone: the outcome is unknown */
        if (tick)
            tick(tick_user, op);
        lx_tell(op);
        if (now_ms < end_ms)
            continue;
        if (is_aborted)
            _exit(EXIT_FAILURE);
        is_aborted = true;
        end_ms = now_ms + ABORT_MS;
        (void)libxl_ao_abort(op->lx->ctx, &op->how);
    }
    op->lx->op = NULL;
    return call_rc != 0 ? call_rc : op->rc;
}
