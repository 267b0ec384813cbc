/* SPDX-License-Identifier: Apache-2.0
 *
 * Save: pages are sent from the guest's memory as it is mapped here, without its help. Live: every
 * page while the guest runs, then what the kernel saw written meanwhile, until the rule of
 * precopy.h says stop; then the last dirty pages of the stopped guest and the end of the stream.
 *
 *   live rounds ── lock, SIGSTOP, proof ── last round ── SUSPENDED ── end of stream ── unlock
 *   failure here: it never stopped         here: left PAUSED        here: PAUSED again
 *
 * A live save waits at the end of each round, and before it says that it is done, until the stream
 * tells that the other end has everything (takenproto.h): until then it may give up, and the guest
 * goes on. A pipe or a reader that tells nothing is asked how much is still in it.
 *
 * The lock keeps `run` away from the first stop to the last byte: nothing changes under the last
 * round. A page read while the guest writes it is torn in the stream; but then the write came after
 * the page was protected, so it is dirty and sent once more.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/native.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"
#include "hamgr/hv/precopy.h"
#include "hamgr/ipc/takenproto.h"

#define PROGRESS_EVERY_NS 100000000u
/* Stream bytes of a page: its content and its entry. */
#define PAGE_STREAM_BYTES (EMB_PAGE + 8u)
/* Stop, proof and end of stream besides the last scan: measured below 2 ms on two busy cores. */
#define STOP_COST_US 2000u
/* A pipe that tells nothing and does not run empty within this is looked at no longer. */
#define SETTLE_TRIES_US UINT64_C(5000000)
#define SETTLE_STEP_NS  300000
/* What is told wakes us; a stop's contract is looked at so often besides: a tenth of the least
 * pause that anybody would ask for. */
#define STEP_MS    5
#define TOLD_BYTES (64u * TAKEN_SIZE)
/* How often a guest that was slowed down is looked at, for its turn to run. */
#define TURN_NS 300000
/* A stalled stream may not hold a stopped guest for long: after four times what was predicted, and
 * at least 3 s (a TLS peer that swaps, a Wi-Fi roam), the save fails and the guest can go on. */
#define STOPPED_FACTOR 4u
#define STOPPED_MIN_US UINT64_C(3000000)
/* The kernel takes at most 1024 pieces a call. */
#define PIECES_MAX 1024

struct save {
    struct hv_embedded *e;
    struct emb_domain d;
    const struct hv_save_params *params;
    bool is_socket;
    bool is_deaf; /* the stream tells nothing any more: it is gone, or this save was aborted */
    struct taken_reader taken;
    int busy_fd;
    uint8_t *memory;
    uint64_t page_count;
    uint64_t *bitmap;         /* pages to be sent */
    uint64_t pfns[EMB_BATCH]; /* the batch under way */
    uint8_t head[EMB_RECORD_HEAD + EMB_PAGE_DATA_HEAD + 8u * EMB_BATCH];
    struct iovec iov[EMB_BATCH + 1];
    struct emb_tracker tracker;
    struct precopy precopy;
    struct precopy_rate rate;
    uint64_t begin_us;
    uint64_t collected_us; /* when the dirty set was collected last */
    uint64_t collect_cost_us;
    uint64_t limit_us; /* stopped: give up then; 0 none */
    uint64_t predicted_us;
    uint64_t stopped_us;    /* when the guest was stopped; 0 not yet */
    uint64_t left_bytes;    /* of the last round, not written yet */
    uint64_t used_ns;       /* processor time of the guest when the save began */
    uint32_t used_permille; /* what it used of a processor when it was slowed down first */
    bool is_capped;
    hv_progress_fn progress;
    void *user;
    struct hv_progress now;
    uint64_t told_ns;
    struct ha_err *err;
};

static uint64_t now_us(void)
{
    return emb_now_ns() / 1000;
}

static void tell(struct save *s, enum hv_progress_phase phase, bool is_due)
{
    uint64_t now_ns = emb_now_ns();

    if (!s->progress || (!is_due && now_ns - s->told_ns < PROGRESS_EVERY_NS))
        return;
    s->told_ns = now_ns;
    s->now.phase = (uint8_t)phase;
    s->progress(s->user, &s->now);
}

/* ---- what is under way ---- */

/* Hears what the stream has told. */
static void hear(struct save *s)
{
    uint8_t bytes[TOLD_BYTES];
    ssize_t n = 1;

    while (s->is_socket && !s->is_deaf && n > 0) {
        n = recv(s->params->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0)
            taken_read(&s->taken, bytes, (size_t)n, s->now.bytes);
        else
            s->is_deaf = n == 0 || (errno != EAGAIN && errno != EINTR);
    }
}

static bool is_telling(const struct save *s)
{
    return s->taken.is_known && !s->is_deaf;
}

/* What was written and is not taken over yet; of a stream that does not tell, what is in its pipe:
 * sockets and pipes both know. */
static uint64_t backlog(struct save *s)
{
    int bytes = 0;

    hear(s);
    if (s->taken.is_known)
        return s->now.bytes - s->taken.taken;
    if (ioctl(s->params->fd, s->is_socket ? SIOCOUTQ : FIONREAD, &bytes) != 0 || bytes < 0)
        return s->now.bytes;
    return (uint64_t)bytes;
}

static struct precopy_round round_now(struct save *s, uint64_t dirty_pages)
{
    return (struct precopy_round){
        .elapsed_us = now_us() - s->begin_us,
        .dirty_pages = dirty_pages,
        .page_bytes = PAGE_STREAM_BYTES,
        .round_pages = s->now.pages_sent,
        .backlog_bytes = backlog(s),
        .rate_bytes_s = s->rate.rate_bytes_s,
        .spread_bytes_s = s->rate.spread_bytes_s,
        .dirty_bytes_s = (uint64_t)s->now.dirty_kib_s * 1024,
        .fixed_us = STOP_COST_US + s->collect_cost_us + s->params->switch_us,
    };
}

/* Behind the stop: more pages than predicted, or a stream that became slow, end the save while the
 * guest can still go on in time. */
static int keep_contract(struct save *s)
{
    if (s->stopped_us == 0 || !s->params->is_live)
        return 0;
    struct precopy_round round = round_now(s, 0);
    uint64_t left = s->left_bytes + round.backlog_bytes;
    uint64_t since_us = now_us() - s->stopped_us;
    round.fixed_us = s->params->switch_us;
    if (precopy_may_finish(&s->precopy, since_us, left, &round))
        return 0;
    return ha_err_set(s->err, HA_E_TIMEOUT,
                      "stopped for %llu ms, %llu KiB are left: longer than the %u ms allowed",
                      (unsigned long long)(since_us / 1000), (unsigned long long)(left >> 10),
                      s->params->max_downtime_ms);
}

/* Waits for an event of the stream. A guest that stands still does so no longer than it may. */
static int await_stream(struct save *s, short events)
{
    struct pollfd p = {.fd = s->params->fd, .events = events};
    bool is_limited = s->limit_us != 0;

    if (is_limited && now_us() >= s->limit_us)
        return ha_err_set(s->err, HA_E_TIMEOUT, "the stream stalled while the guest was stopped");
    int rc = keep_contract(s);
    if (rc != 0)
        return rc;
    if (poll(&p, 1, is_limited ? STEP_MS : -1) < 0 && errno != EINTR)
        return ha_err_set(s->err, errno, "wait for the stream: %s", strerror(errno));
    return 0;
}

/* ---- writing ---- */

static ssize_t write_some(const struct save *s, struct iovec *iov, int count)
{
    struct msghdr message = {.msg_iov = iov,
                             .msg_iovlen = (size_t)(count < PIECES_MAX ? count : PIECES_MAX)};

    if (s->is_socket)
        return sendmsg(s->params->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return writev(s->params->fd, iov, count < PIECES_MAX ? count : PIECES_MAX);
}

static int write_vector(struct save *s, struct iovec *iov, int count)
{
    while (count > 0) {
        ssize_t n = write_some(s, iov, count);
        if (n < 0 && errno == EAGAIN) {
            int rc = await_stream(s, POLLOUT);
            if (rc != 0)
                return rc;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ha_err_set(s->err, errno, "write the stream: %s", strerror(errno));
        s->now.bytes += (uint64_t)n;
        s->left_bytes -= s->left_bytes < (uint64_t)n ? s->left_bytes : (uint64_t)n;
        while (count > 0 && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

static int write_bytes(struct save *s, void *bytes, size_t size)
{
    struct iovec iov = {.iov_base = bytes, .iov_len = size};

    return write_vector(s, &iov, 1);
}

/* One PAGE_DATA record: header and pfns from here, pages from the guest; pages that are neighbours
 * in memory go as one piece. */
static int send_batch(struct save *s, uint32_t count)
{
    int pieces = 1;

    if (count == 0)
        return 0;
    s->iov[0] =
        (struct iovec){.iov_base = s->head, .iov_len = emb_native_batch(s->head, s->pfns, count)};
    for (uint32_t n = 0; n < count; n++) {
        uint8_t *page = s->memory + s->pfns[n] * EMB_PAGE;
        struct iovec *last = &s->iov[pieces - 1];
        if (pieces > 1 && (uint8_t *)last->iov_base + last->iov_len == page)
            last->iov_len += EMB_PAGE;
        else
            s->iov[pieces++] = (struct iovec){.iov_base = page, .iov_len = EMB_PAGE};
    }
    int rc = keep_contract(s);
    if (rc == 0)
        rc = write_vector(s, s->iov, pieces);
    s->now.pages_sent += count;
    hear(s); /* so that what it tells finds room */
    return rc;
}

static int send_round(struct save *s, enum hv_progress_phase phase)
{
    uint32_t count = 0;
    int rc = 0;

    s->now.pages_sent = 0;
    for (uint64_t word = 0; word < emb_bitmap_words(s->page_count) && rc == 0; word++) {
        uint64_t bits = s->bitmap[word];
        s->bitmap[word] = 0;
        for (; bits != 0 && rc == 0; bits &= bits - 1) {
            s->pfns[count++] = word * 64 + (uint64_t)__builtin_ctzll(bits);
            if (count < EMB_BATCH)
                continue;
            rc = send_batch(s, count);
            count = 0;
            tell(s, phase, false);
        }
    }
    return rc != 0 ? rc : send_batch(s, count);
}

/* ---- live rounds ---- */

static int collect(struct save *s, bool is_last, uint64_t *ret_count)
{
    uint64_t begin_us = now_us();
    int rc = emb_track_collect(&s->tracker, is_last, s->bitmap, ret_count, s->err);
    uint64_t end_us = now_us();
    uint64_t since_us = end_us - s->collected_us;

    s->collect_cost_us = end_us - begin_us;
    s->collected_us = end_us;
    s->now.pages_dirty = *ret_count;
    if (since_us != 0)
        s->now.dirty_kib_s = (uint32_t)(*ret_count * 4 * 1000000 / since_us);
    return rc;
}

/* In parts of what the guest used when it was not slowed down: a guest that sleeps most of the time
 * would not notice half a processor. */
static int throttle(struct save *s, uint32_t percent)
{
    uint64_t us = now_us() - s->begin_us;

    if (s->used_permille == 0) {
        uint64_t used_ns = emb_cap_used_ns(&s->d) - s->used_ns;
        uint64_t permille = us != 0 ? used_ns / us : EMB_CAP_PERMILLES;
        bool is_known = permille != 0 && permille <= EMB_CAP_PERMILLES;
        s->used_permille = is_known ? (uint32_t)permille : EMB_CAP_PERMILLES;
    }
    s->is_capped = true;
    s->now.throttle_percent = (uint8_t)percent;
    return emb_cap_set(&s->d, s->used_permille * percent / 100, s->err);
}

/* Something may have been told, or a little time has passed. */
static void await_word(struct save *s)
{
    struct pollfd p = {.fd = s->params->fd, .events = POLLIN};

    (void)poll(&p, 1, STEP_MS);
}

/* How long what was written may take: a stream that tells may be slow, one that stalls ends itself;
 * only the deadline is ours. */
static uint64_t settled_by_us(const struct save *s)
{
    uint64_t deadline_us = (uint64_t)s->params->deadline_ms * 1000;

    if (!is_telling(s))
        return now_us() + SETTLE_TRIES_US;
    return deadline_us != 0 ? s->begin_us + deadline_us : UINT64_MAX;
}

/* Lets the stream take what was written: what is under way when the guest stops is sent in its
 * pause. What the guest writes meanwhile is less. Returns when it was taken, as far as is known. */
static uint64_t settle(struct save *s, uint64_t round_bytes)
{
    const struct timespec nap = {.tv_nsec = SETTLE_STEP_NS};
    uint64_t left = backlog(s), end_us = settled_by_us(s);
    bool is_told = is_telling(s);

    while (left > 0 && now_us() < end_us && is_told == is_telling(s)) {
        if (is_told)
            await_word(s);
        else
            nanosleep(&nap, NULL);
        tell(s, HV_LIVE, false);
        left = backlog(s);
    }
    uint64_t taken_us = now_us();
    if (s->taken.is_known)
        return taken_us;
    uint64_t us = precopy_settle_us(s->rate.rate_bytes_s, round_bytes);
    struct timespec rest = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&rest, NULL);
    return taken_us;
}

static void set_all(struct save *s)
{
    memset(s->bitmap, 0xff, emb_bitmap_words(s->page_count) * 8);
    if (s->page_count % 64 != 0)
        s->bitmap[s->page_count / 64] = (UINT64_C(1) << (s->page_count % 64)) - 1;
}

static int give_up(struct save *s, uint64_t dirty)
{
    struct precopy_round round = round_now(s, dirty);
    char text[HA_TEXT_MAX];

    precopy_explain(&s->precopy, &round, text, sizeof(text));
    return ha_err_set(s->err, HA_E_TIMEOUT, "%s", text);
}

/* One round and what follows from it. Returns 1 to go on, 0 to stop the guest, or an error. */
static int live_round(struct save *s)
{
    uint64_t dirty = 0, before = s->now.bytes, begin_us = now_us();
    int rc = send_round(s, HV_LIVE);

    if (rc == 0) {
        uint64_t sent = s->now.bytes - before;
        uint64_t taken_us = settle(s, sent), left = backlog(s);
        precopy_rate_round(&s->rate, sent > left ? sent - left : 0, taken_us - begin_us);
        rc = collect(s, false, &dirty);
    }
    if (rc != 0)
        return rc;
    struct precopy_round round = round_now(s, dirty);
    struct precopy_decision d = precopy_decide(&s->precopy, &round);
    s->predicted_us = d.predicted_us;
    s->now.predicted_us = d.predicted_us < UINT32_MAX ? (uint32_t)d.predicted_us : UINT32_MAX;
    tell(s, HV_LIVE, true);
    if (d.action == PRECOPY_ABORT)
        return give_up(s, dirty);
    if (d.action == PRECOPY_THROTTLE)
        rc = throttle(s, d.throttle_percent);
    return rc != 0 ? rc : d.action != PRECOPY_STOP;
}

/* Until it is time to stop; what is still to be sent is in the bitmap. */
static int send_live(struct save *s)
{
    if (!precopy_admits(&s->precopy, STOP_COST_US + s->params->switch_us))
        return give_up(s, 0);
    int rc = emb_track_start(&s->tracker, s->err);

    s->collected_us = now_us();
    if (rc != 0)
        return rc;
    for (s->now.round = 0; (rc = live_round(s)) > 0; s->now.round++)
        ;
    return rc;
}

/* ---- the stopped part ---- */

static int set_phase(struct save *s, enum emb_phase phase, struct ha_err *err)
{
    int rc = emb_record_set_phase(s->d.dir_fd, phase, err);

    if (rc == 0)
        s->d.record.phase = phase;
    return rc;
}

/* Until the other end has all of it, the save may still be given up: who was told that it is done
 * has the guest run there. */
static int await_taken(struct save *s)
{
    int rc = 0;

    while (rc == 0 && backlog(s) > 0 && is_telling(s))
        rc = await_stream(s, POLLIN);
    if (rc == 0 && s->taken.is_known && backlog(s) > 0)
        rc = ha_err_set(s->err, HA_E_PEER, "the stream ended before the other end had all of it");
    return rc;
}

static int finish_stream(struct save *s)
{
    uint8_t tail[EMB_NATIVE_TAIL];
    int rc = set_phase(s, EMB_SUSPENDED, s->err);

    emb_native_tail(tail, s->page_count);
    if (rc == 0)
        rc = write_bytes(s, tail, sizeof(tail));
    if (rc == 0 && s->params->is_live)
        rc = await_taken(s);
    /* Without its last bytes the stream is nobody's guest. */
    if (rc != 0)
        set_phase(s, EMB_COMPLETE, NULL);
    return rc;
}

/* A guest that is slowed down stands still most of the time, and its pause begins where it ran
 * last: it is stopped right behind a turn. Letting it run freely before would have it catch up with
 * what it did not write, all of which the pause would have to carry. */
static void await_turn(const struct save *s)
{
    const struct timespec nap = {.tv_nsec = TURN_NS};
    uint64_t used_ns = emb_cap_used_ns(&s->d), end_us = now_us() + EMB_CAP_PERIOD_US;

    while (emb_cap_used_ns(&s->d) == used_ns && now_us() < end_us)
        nanosleep(&nap, NULL);
}

static int stop(struct save *s)
{
    if (s->is_capped)
        await_turn(s);
    s->stopped_us = now_us();
    return emb_domain_stop(&s->d, EMB_STOP_MS, s->err);
}

/* Pages of the last round: what the live ones left and what came since. */
static uint64_t bits_of(const struct save *s)
{
    uint64_t count = 0;

    for (uint64_t word = 0; word < emb_bitmap_words(s->page_count); word++)
        count += (uint64_t)__builtin_popcountll(s->bitmap[word]);
    return count;
}

static int send_stopped(struct save *s)
{
    uint64_t dirty = 0;
    int rc = emb_domain_reread(&s->d, s->err);

    if (rc == 0 && s->d.record.phase != EMB_COMPLETE && s->d.record.phase != EMB_SUSPENDED)
        rc = ha_err_set(s->err, HA_E_STALE, "the domain is being destroyed");
    if (rc == 0)
        rc = stop(s);
    if (rc != 0)
        return rc;
    if (s->params->is_live) {
        uint64_t allowed_us = s->predicted_us * STOPPED_FACTOR;
        s->limit_us = now_us() + (allowed_us > STOPPED_MIN_US ? allowed_us : STOPPED_MIN_US);
        rc = collect(s, true, &dirty);
        s->left_bytes = bits_of(s) * PAGE_STREAM_BYTES;
    }
    tell(s, HV_STOPPED, true);
    if (rc == 0)
        rc = send_round(s, HV_STOPPED);
    return rc == 0 ? finish_stream(s) : rc;
}

static int send_all(struct save *s)
{
    uint8_t head[EMB_NATIVE_HEAD];
    int rc;

    emb_native_head(head);
    set_all(s);
    rc = write_bytes(s, head, sizeof(head));
    if (rc == 0 && s->params->is_live)
        rc = send_live(s);
    if (rc != 0)
        return rc;
    int lock = emb_domain_lock(&s->d, EMB_FILE_LOCK, EMB_WORK_LOCK_MS, s->err);
    if (lock < 0)
        return lock;
    rc = send_stopped(s);
    close(lock);
    return rc;
}

/* ---- around it ---- */

static int prepare(struct save *s)
{
    void *memory = NULL;
    struct stat st;

    if (fstat(s->params->fd, &st) != 0)
        return ha_err_set(s->err, errno, "stream: %s", strerror(errno));
    s->is_socket = S_ISSOCK(st.st_mode);
    s->page_count = s->d.record.memory_size / EMB_PAGE;
    s->now.pages_total = s->page_count;
    s->begin_us = now_us();
    s->used_ns = emb_cap_used_ns(&s->d);
    s->now.throttle_percent = 100;
    precopy_init(&s->precopy, s->params, s->page_count);
    int rc = s->params->is_live
                 ? emb_track_open(&s->tracker, s->d.pidfd, &s->d.record, s->busy_fd, s->err)
                 : 0;
    if (rc == 0)
        rc = emb_domain_map(&s->d, false, &memory, s->err);
    if (rc != 0)
        return rc;
    s->memory = memory;
    s->bitmap = calloc(emb_bitmap_words(s->page_count), 8);
    return s->bitmap ? 0 : ha_err_set(s->err, HA_E_NO_MEMORY, "dirty bitmap");
}

/* A reader that goes away must be an error here, not the end of the worker; for pipes there is no
 * MSG_NOSIGNAL. The signal is blocked meanwhile, and taken away if it came. */
static int run_shielded(struct save *s)
{
    const struct timespec none = {0};
    sigset_t pipe_set, old, pending;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
    int rc = prepare(s);
    if (rc == 0)
        rc = send_all(s);
    sigpending(&pending);
    if (rc == -EPIPE && sigismember(&pending, SIGPIPE) && !sigismember(&old, SIGPIPE))
        sigtimedwait(&pipe_set, NULL, &none);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

/* After success nothing is lifted or unmapped yet, that would only make the guest's pause longer.
 * After a failure dirty tracking is off before the answer. */
static void let_go(struct save *s, bool is_ok)
{
    s->e->kept_memory = s->memory;
    s->e->kept_size = s->page_count * EMB_PAGE;
    if (is_ok)
        s->e->kept_child = emb_track_leave(&s->tracker);
    else
        emb_track_close(&s->tracker);
    if (!is_ok)
        emb_release_kept(s->e);
    /* Moving between control groups may take the kernel 20 ms: not within the pause. The guest is
     * stopped at full speed, and destroy or resume_prepare has it moved. */
    if (!is_ok && s->is_capped)
        emb_cap_off(&s->d, NULL);
    free(s->bitmap);
}

static int save_locked(struct save *s)
{
    s->busy_fd = emb_domain_lock(&s->d, EMB_FILE_BUSY, EMB_BUSY_MS, s->err);
    if (s->busy_fd < 0)
        return s->busy_fd;
    int rc = run_shielded(s);
    let_go(s, rc == 0);
    if (rc == 0) {
        s->now.pages_dirty = 0;
        tell(s, HV_COMPLETE, true);
    }
    close(s->busy_fd);
    return rc;
}

enum hv_outcome emb_save(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                         hv_progress_fn progress, void *user, struct ha_err *err)
{
    struct ha_err own = {0};
    struct save *s = calloc(1, sizeof(*s));

    emb_release_kept(emb_of(hv));
    if (!s)
        return hv_failed(err, HA_E_NO_MEMORY, "save");
    s->e = emb_of(hv);
    s->params = params;
    s->progress = progress;
    s->user = user;
    s->err = err ? err : &own;
    int rc = emb_domain_open_alive(s->e, domid, &s->d, s->err);
    if (rc == 0) {
        rc = save_locked(s);
        emb_domain_close(&s->d);
    }
    if (rc != 0)
        ha_err_prefix(s->err, "save domain %u", domid);
    free(s);
    return rc == 0 ? HV_OK : HV_FAILED;
}
