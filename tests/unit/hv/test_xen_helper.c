/* SPDX-License-Identifier: Apache-2.0
 *
 * The save helper's parts that need no Xen: libxl's words, batches of pages, superpages, the pace
 * of a live save, and the stream with its ring.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/helper/batch.h"
#include "hamgr/hv/xen/helper/flow.h"
#include "hamgr/hv/xen/helper/link.h"
#include "hamgr/hv/xen/helper/pace.h"
#include "hamgr/hv/xen/helper/talk.h"

/* ---- arguments and messages ---- */

static int parse(const char *line, struct talk_args *ret)
{
    char text[256], *words[16], *at = NULL;
    int count = 0;
    struct ha_err err = {0};

    snprintf(text, sizeof(text), "%s", line);
    for (char *word = strtok_r(text, " ", &at); word; word = strtok_r(NULL, " ", &at))
        words[count++] = word;
    int rc = talk_args_parse(count, words, ret, &err);
    assert_int_equal(rc == 0, err.code == 0);
    return rc;
}

static void test_arguments(void **state)
{
    struct talk_args a;

    (void)state;
    assert_int_equal(parse("--save-domain 9 11 5 1 136 0", &a), 0);
    assert_false(a.is_restore);
    assert_int_equal(a.fd, 9);
    assert_int_equal(a.domid, 5);
    assert_int_equal(a.flags, 1);
    assert_int_equal(a.callbacks, 0x88);
    assert_int_equal(parse("--restore-domain 8 -1 6 1 0 2 3 768 0", &a), 0);
    assert_true(a.is_restore);
    assert_int_equal(a.domid, 6);
    assert_int_equal(a.store_evtchn, 1);
    assert_int_equal(a.console_evtchn, 2);
    assert_int_equal(a.console_domid, 3);
    assert_int_equal(a.callbacks, 768);
    assert_int_equal(a.stream_type, 0);
}

static void test_arguments_of_another_kind(void **state)
{
    static const char *const lines[] = {"--save-domain 9 11 5 1 136",
                                        "--save-domain 9 11 5 1 136 0 0",
                                        "--save-domain -9 11 5 1 136 0",
                                        "--save-domain 9 11 5x 1 136 0",
                                        "--save-domain 9 11 5 1 4294967296 0",
                                        "--restore-domain 9 11 5 1 136 0",
                                        "--other 9 11 5 1 136 0",
                                        "--help",
                                        ""};
    struct talk_args a;

    (void)state;
    for (size_t n = 0; n < sizeof(lines) / sizeof(lines[0]); n++)
        assert_int_equal(parse(lines[n], &a), -HA_E_USAGE);
}

static void test_messages(void **state)
{
    static const uint8_t log[] = {25, 0, 1,   0,   8, 0, 0, 0, 5, 0,   0,   0,   3, 0,
                                  0,  0, 'x', 'c', 0, 4, 0, 0, 0, 'b', 'a', 'd', 0};
    static const uint8_t complete[] = {10, 0, 10, 0, 255, 255, 255, 255, 4, 0, 0, 0};
    static const uint8_t suspend[] = {2, 0, 3, 0};
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    talk_log(&w, 8, 5, "xc", "bad");
    assert_int_equal(w.position, sizeof(log));
    assert_memory_equal(bytes, log, sizeof(log));
    w = ha_writer_of(bytes, sizeof(bytes));
    talk_complete(&w, -1, 4);
    assert_int_equal(w.position, sizeof(complete));
    assert_memory_equal(bytes, complete, sizeof(complete));
    w = ha_writer_of(bytes, sizeof(bytes));
    talk_plain(&w, TALK_SUSPEND);
    assert_memory_equal(bytes, suspend, sizeof(suspend));
}

static void test_long_words_are_cut(void **state)
{
    char *text = malloc(100000);
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    memset(text, 'a', 99999);
    text[99999] = '\0';
    talk_progress(&w, text, text, 1, 2);
    assert_false(w.failed);
    assert_int_equal(bytes[0] | bytes[1] << 8, w.position - 2);
    assert_int_equal(bytes[w.position - 17], 0); /* the last string's end, before two u64 */
    free(text);
}

/* ---- batches ---- */

#define RAW    UINT64_C(0)
#define BROKEN (UINT64_C(0xd) << 60)
#define ALLOC  (UINT64_C(0xe) << 60)
#define HOLE   (UINT64_C(0xf) << 60)

struct record {
    uint32_t type, length, head[2];
    uint64_t entries[BATCH_PAGES_MAX];
    struct iovec vector[BATCH_PAGES_MAX + 4];
    int pieces;
    uint8_t *memory;
};

/* As libxenguest does it: one piece a page; pages of the array lie side by side. */
static void make(struct record *r, const uint64_t *entries, uint32_t count)
{
    uint32_t pages = 0;

    r->memory = r->memory ? r->memory : malloc((size_t)BATCH_PAGES_MAX * BATCH_PAGE);
    memcpy(r->entries, entries, 8 * (size_t)count);
    for (uint32_t n = 0; n < count; n++)
        if (entries[n] >> 60 < 0xd) {
            uint8_t *page = r->memory + (size_t)pages * BATCH_PAGE;
            memset(page, (int)(entries[n] & 0xff), BATCH_PAGE);
            r->vector[4 + pages++] = (struct iovec){page, BATCH_PAGE};
        }
    r->type = 1;
    r->head[0] = count;
    r->head[1] = 0;
    r->length = 8 + 8 * count + BATCH_PAGE * pages;
    r->vector[0] = (struct iovec){&r->type, 4};
    r->vector[1] = (struct iovec){&r->length, 4};
    r->vector[2] = (struct iovec){r->head, 8};
    r->vector[3] = (struct iovec){r->entries, 8 * (size_t)count};
    r->pieces = 4 + (int)pages;
}

static struct record record; /* large */
static struct batch batch;

static void test_a_batch_is_recognised(void **state)
{
    const uint64_t entries[] = {RAW | 5, HOLE | 6, ALLOC | 7, BROKEN | 8, RAW | 9};

    (void)state;
    make(&record, entries, 5);
    assert_true(batch_take(record.vector, record.pieces, &batch));
    assert_int_equal(batch.count, 5);
    assert_int_equal(batch.data_count, 2);
    assert_int_equal(batch.piece_count, 2); /* head, and two pages side by side */
    assert_int_equal(batch.pieces[1].iov_len, 2 * BATCH_PAGE);
    assert_int_equal(batch_bytes(&batch), 8 + record.length);
    batch_drop_holes(&batch);
    assert_int_equal(batch.count, 4);
    assert_int_equal(batch.data_count, 2);
    uint64_t third;
    memcpy(&third, batch.head + BATCH_HEAD + 16, 8);
    assert_int_equal(third, BROKEN | 8);
    uint32_t length;
    memcpy(&length, batch.head + 4, 4);
    assert_int_equal(length, 8 + 8 * 4 + 2 * BATCH_PAGE);
    assert_int_equal(batch.pieces[0].iov_len, BATCH_HEAD + 8 * 4);
}

static void test_a_batch_of_holes_becomes_nothing(void **state)
{
    const uint64_t entries[] = {HOLE | 1, HOLE | 2};

    (void)state;
    make(&record, entries, 2);
    assert_true(batch_take(record.vector, record.pieces, &batch));
    batch_drop_holes(&batch);
    assert_int_equal(batch.count, 0);
}

static void test_pages_apart_stay_apart(void **state)
{
    const uint64_t entries[] = {1, 2, 3};

    (void)state;
    make(&record, entries, 3);
    record.vector[5].iov_base = record.memory + 100 * BATCH_PAGE; /* a copy of its own */
    assert_true(batch_take(record.vector, record.pieces, &batch));
    assert_int_equal(batch.piece_count, 4);
}

/* What does not add up goes out as libxenguest made it. */
static void test_what_is_no_batch(void **state)
{
    const uint64_t entries[] = {1, 2, 3};

    (void)state;
    make(&record, entries, 3);
    assert_false(batch_take(record.vector, 3, &batch));
    assert_false(batch_take(record.vector, record.pieces - 1, &batch));
    record.length -= 8;
    assert_false(batch_take(record.vector, record.pieces, &batch));
    make(&record, entries, 3);
    record.type = 2;
    assert_false(batch_take(record.vector, record.pieces, &batch));
    make(&record, entries, 3);
    record.head[0] = BATCH_PAGES_MAX + 1;
    assert_false(batch_take(record.vector, record.pieces, &batch));
    make(&record, entries, 3);
    record.vector[4].iov_len = 100;
    assert_false(batch_take(record.vector, record.pieces, &batch));
}

static void test_superpages(void **state)
{
    static uint64_t frames[1600];
    uint64_t count = 0;

    (void)state;
    for (uint64_t n = 510; n < 512 + 512 + 3; n++) /* 2 singles, a whole one, 3 singles */
        frames[count++] = n;
    struct super_run run = super_next(frames, count, 0);
    assert_false(run.is_super);
    assert_int_equal(run.count, 2);
    run = super_next(frames, count, 2);
    assert_true(run.is_super);
    assert_int_equal(run.count, 512);
    run = super_next(frames, count, 514);
    assert_false(run.is_super);
    assert_int_equal(run.count, 3);
    frames[300]++; /* one is missing: no whole one */
    run = super_next(frames, count, 0);
    assert_false(run.is_super);
    assert_int_equal(run.count, count);
}

/* ---- the pace ---- */

struct world {
    uint64_t now_us, bytes, pages, dirty, counter_before, taken;
    uint64_t rate; /* bytes/s the other end takes */
    bool is_told, is_aborted;
    int fails;
    struct hv_progress said;
    unsigned rests;
};

static uint64_t world_now(void *user)
{
    return ((struct world *)user)->now_us;
}

static int world_count(void *user, uint64_t *ret)
{
    struct world *w = user;

    *ret = w->dirty + w->counter_before;
    return w->fails;
}

static void world_sent(void *user, uint64_t *ret_bytes, uint64_t *ret_pages)
{
    struct world *w = user;

    *ret_bytes = w->bytes;
    *ret_pages = w->pages;
}

static uint64_t world_backlog(void *user, bool *ret_is_told)
{
    struct world *w = user;

    *ret_is_told = w->is_told;
    return w->bytes - w->taken;
}

static bool world_rest(void *user, uint64_t us)
{
    struct world *w = user;
    uint64_t left = w->bytes - w->taken, moved = w->rate * us / 1000000;

    w->now_us += us;
    w->taken += moved < left ? moved : left;
    w->rests++;
    return !w->is_aborted;
}

static void world_tell(void *user, const struct hv_progress *progress)
{
    ((struct world *)user)->said = *progress;
}

static const struct pace_ops WORLD = {world_now,     world_count, world_sent,
                                      world_backlog, world_rest,  world_tell};

static void send_pages(struct world *w, uint64_t pages)
{
    w->bytes += pages * 4104;
    w->pages += pages;
}

static struct pace pace;

static void begin_pace(struct world *w, uint32_t max_downtime_ms, uint8_t on_slow)
{
    const struct hv_save_params params = {.is_live = true,
                                          .max_downtime_ms = max_downtime_ms,
                                          .on_slow = on_slow,
                                          .switch_us = 10000};

    pace_init(&pace, &WORLD, w, &params, 32768);
}

static enum pace_answer run_pace(struct world *w, const uint64_t *dirty, unsigned rounds)
{
    enum pace_answer answer = pace_ask(&pace, false);
    uint64_t pages = 32768;

    for (unsigned n = 0; answer == PACE_GO_ON && n < rounds; n++) {
        send_pages(w, pages);
        w->dirty = pages = dirty[n];
        answer = pace_ask(&pace, true);
        if (answer != PACE_GO_ON)
            break;
        w->counter_before = 0; /* the bitmap is taken */
        w->now_us += 1000;
        answer = pace_ask(&pace, false);
        w->dirty = 0;
    }
    return answer;
}

static void test_stops_when_nothing_is_to_be_gained(void **state)
{
    static const uint64_t dirty[] = {500, 90, 90, 90};
    struct world w = {.rate = 200000000, .is_told = true};

    (void)state;
    begin_pace(&w, 500, HV_SLOW_ABORT);
    assert_int_equal(run_pace(&w, dirty, 4), PACE_STOP);
    assert_true(w.said.predicted_us > PACE_SWITCH_US && w.said.predicted_us < 500000);
    assert_int_equal(w.said.pages_dirty, 90);
    assert_int_equal(w.said.pages_total, 32768);
}

/* The hypervisor's counter lives on from an earlier attempt. */
static void test_what_was_counted_before_does_not_count(void **state)
{
    static const uint64_t dirty[] = {90, 90, 90, 90};
    struct world w = {.rate = 200000000, .is_told = true, .counter_before = 30000};

    (void)state;
    begin_pace(&w, 500, HV_SLOW_ABORT);
    assert_int_equal(pace_ask(&pace, false), PACE_GO_ON);
    send_pages(&w, 32768);
    w.dirty = dirty[0];
    assert_int_equal(pace_ask(&pace, true), PACE_GO_ON);
    assert_int_equal(w.said.pages_dirty, 90);
}

static void test_gives_up_what_can_not_be_kept(void **state)
{
    static uint64_t dirty[40];
    struct world w = {.rate = 20000000, .is_told = true};

    (void)state;
    for (unsigned n = 0; n < 40; n++)
        dirty[n] = 8000; /* 1.6 s of the link */
    begin_pace(&w, 300, HV_SLOW_ABORT);
    assert_int_equal(run_pace(&w, dirty, 40), PACE_ABORT);
    assert_int_equal(pace.err.code, HA_E_TIMEOUT);
    assert_non_null(strstr(pace.err.text, "--max-downtime"));
}

static void test_asks_for_less_processor(void **state)
{
    static uint64_t dirty[40];
    struct world w = {.rate = 20000000, .is_told = true};

    (void)state;
    for (unsigned n = 0; n < 40; n++)
        dirty[n] = 8000;
    begin_pace(&w, 300, HV_SLOW_THROTTLE);
    (void)run_pace(&w, dirty, 12);
    assert_true(w.said.throttle_percent < 100);
    pace_stopping(&pace); /* it needs its processors to stand still */
    assert_int_equal(w.said.throttle_percent, 100);
    assert_int_equal(w.said.phase, HV_LIVE);
    pace_stopped(&pace);
    assert_int_equal(w.said.phase, HV_STOPPED);
}

static void test_a_switch_that_is_too_long_begins_nothing(void **state)
{
    struct world w = {.rate = 200000000, .is_told = true};

    (void)state;
    begin_pace(&w, 50, HV_SLOW_ABORT);
    assert_int_equal(pace_ask(&pace, false), PACE_ABORT);
    assert_int_equal(w.bytes, 0);
}

static void test_waits_for_what_is_under_way(void **state)
{
    struct world w = {.rate = 100000000, .is_told = true};

    (void)state;
    begin_pace(&w, 500, HV_SLOW_ABORT);
    assert_int_equal(pace_ask(&pace, false), PACE_GO_ON);
    send_pages(&w, 32768);
    assert_int_equal(pace_ask(&pace, true), PACE_STOP); /* nothing is dirty */
    assert_int_equal(w.taken, w.bytes);
    /* 134 MB at 100 MB/s, and the rate is of all of it. */
    assert_true(w.now_us >= 1300000);
    assert_true(pace.rate.rate_bytes_s > 90000000 && pace.rate.rate_bytes_s < 110000000);
}

static void test_an_abort_ends_the_wait(void **state)
{
    struct world w = {.rate = 1, .is_told = true, .is_aborted = true};

    (void)state;
    begin_pace(&w, 500, HV_SLOW_ABORT);
    assert_int_equal(pace_ask(&pace, false), PACE_GO_ON);
    send_pages(&w, 32768);
    assert_int_equal(pace_ask(&pace, true), PACE_ABORT);
    assert_int_equal(w.rests, 1);
}

static void test_a_hypervisor_that_does_not_count(void **state)
{
    struct world w = {.rate = 100000000, .is_told = true};

    (void)state;
    begin_pace(&w, 500, HV_SLOW_ABORT);
    assert_int_equal(pace_ask(&pace, false), PACE_GO_ON);
    w.fails = -EOPNOTSUPP;
    assert_int_equal(pace_ask(&pace, true), PACE_ABORT);
    assert_int_equal(pace.err.code, EOPNOTSUPP);
}

/* Stopped with more left than foreseen: given up while that keeps the contract. */
static void test_a_stop_that_would_be_too_long(void **state)
{
    static const uint64_t dirty[] = {90, 90, 90, 90};
    struct world w = {.rate = 100000000, .is_told = true};

    (void)state;
    begin_pace(&w, 300, HV_SLOW_ABORT);
    assert_int_equal(run_pace(&w, dirty, 4), PACE_STOP);
    assert_int_equal(pace_check(&pace), 0);
    w.dirty = 20000;
    pace_stopping(&pace);
    w.now_us += 60000;
    pace_stopped(&pace);
    assert_int_equal(pace_check(&pace), -HA_E_TIMEOUT);
    pace.err.code = 0;
    w.dirty = 100;
    pace_stopped(&pace);
    assert_int_equal(pace_check(&pace), 0);
}

/* ---- the stream ---- */

struct ends {
    int pair[2];
    int abort_fd;
    struct flow flow;
};

static void open_ends(struct ends *e, bool is_translated)
{
    const int size = 8 << 20;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, e->pair), 0);
    for (int n = 0; n < 2; n++)
        (void)setsockopt(e->pair[n], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    e->abort_fd = eventfd(0, EFD_NONBLOCK);
    flow_init(&e->flow, e->pair[0], e->abort_fd, is_translated);
}

static void close_ends(struct ends *e)
{
    close(e->pair[0]);
    close(e->pair[1]);
    close(e->abort_fd);
}

static void read_all(int fd, uint8_t *ret, size_t size)
{
    for (size_t have = 0; have < size;) {
        ssize_t n = read(fd, ret + have, size - have);
        assert_true(n > 0);
        have += (size_t)n;
    }
}

static void test_records_arrive_as_they_are(void **state)
{
    const uint64_t entries[] = {RAW | 1, RAW | 2};
    uint8_t head[40] = "not a batch", bytes[40 + 8 + 8 + 16 + 2 * BATCH_PAGE];
    struct iovec piece = {head, sizeof(head)};
    struct ends e;

    (void)state;
    open_ends(&e, false);
    assert_int_equal(flow_write(&e.flow, &piece, 1), 0);
    make(&record, entries, 2);
    assert_int_equal(flow_write(&e.flow, record.vector, record.pieces), 0);
    assert_int_equal(e.flow.bytes, FLOW_BEFORE + sizeof(bytes));
    assert_int_equal(e.flow.pages, 2);
    read_all(e.pair[1], bytes, sizeof(bytes));
    assert_memory_equal(bytes, head, sizeof(head));
    assert_memory_equal(bytes + 40 + 16, entries, 16);
    assert_int_equal(bytes[40 + 32], 1);
    assert_int_equal(bytes[40 + 32 + BATCH_PAGE], 2);
    close_ends(&e);
}

static void test_a_ring_takes_the_pages(void **state)
{
    const uint64_t entries[] = {RAW | 7, HOLE | 8, RAW | 9};
    uint8_t marker[FLOW_MARKER];
    struct ha_err err = {0};
    struct ring_batch taken;
    struct ends e;
    int fd = -1;

    (void)state;
    open_ends(&e, true);
    struct ring *consumer = ring_create(2, BATCH_PAGES_MAX, &fd, &err);
    assert_non_null(consumer);
    e.flow.ring = ring_map(fd, &err);
    assert_non_null(e.flow.ring);
    for (uint32_t n = 0; n < 5; n++) {
        make(&record, entries, 3);
        assert_int_equal(flow_write(&e.flow, record.vector, record.pieces), 0);
        read_all(e.pair[1], marker, sizeof(marker));
        struct ha_reader r = ha_reader_of(marker, sizeof(marker));
        assert_int_equal(ha_get_u32(&r), 0x80486d67);
        assert_int_equal(ha_get_u32(&r), 16);
        assert_int_equal(ha_get_u64(&r), n);
        assert_int_equal(ha_get_u32(&r), n % 2);
        assert_int_equal(ring_take(consumer, n, n % 2, &taken, &err), 0);
        assert_int_equal(taken.count, 2); /* the hole is gone */
        assert_int_equal(taken.data_count, 2);
        assert_int_equal(taken.pages[0], 7);
        assert_int_equal(taken.pages[BATCH_PAGE], 9);
        ring_release(consumer);
    }
    /* Counted as the record it stands for: what the other end tells is of that. */
    assert_int_equal(e.flow.bytes, FLOW_BEFORE + 5 * (16 + 16 + 2 * BATCH_PAGE));
    ring_free(e.flow.ring);
    ring_free(consumer);
    close(fd);
    close_ends(&e);
}

static void test_an_abort_ends_a_write(void **state)
{
    static uint8_t bytes[64 << 20];
    struct iovec piece = {bytes, sizeof(bytes)};
    struct ends e;
    const uint64_t one = 1;

    (void)state;
    open_ends(&e, true); /* nobody reads */
    assert_int_equal(write(e.abort_fd, &one, sizeof(one)), sizeof(one));
    assert_int_equal(flow_write(&e.flow, &piece, 1), -HA_E_CANCELLED);
    assert_true(flow_is_aborted(&e.flow));
    assert_false(flow_rest(&e.flow, 60000000)); /* does not wait a minute */
    close_ends(&e);
}

static int refuse(void *user)
{
    (void)user;
    return -HA_E_TIMEOUT;
}

static void test_a_contract_ends_a_full_stream(void **state)
{
    static uint8_t bytes[64 << 20];
    struct iovec piece = {bytes, sizeof(bytes)};
    struct ends e;

    (void)state;
    open_ends(&e, true);
    e.flow.check = refuse;
    assert_int_equal(flow_write(&e.flow, &piece, 1), -HA_E_TIMEOUT);
    close_ends(&e);
}

static void test_a_reader_that_is_gone(void **state)
{
    uint8_t bytes[64] = {0};
    struct iovec piece = {bytes, sizeof(bytes)};
    struct ends e;

    (void)state;
    open_ends(&e, true);
    shutdown(e.pair[1], SHUT_RDWR);
    assert_int_equal(flow_write(&e.flow, &piece, 1), -EPIPE);
    assert_true(e.flow.err.code != 0);
    close_ends(&e);
}

static void test_what_was_taken_is_heard(void **state)
{
    uint8_t bytes[1000] = {0}, told[TAKEN_SIZE];
    struct iovec piece = {bytes, sizeof(bytes)};
    struct ends e;
    bool is_told;

    (void)state;
    open_ends(&e, true);
    assert_int_equal(flow_write(&e.flow, &piece, 1), 0);
    (void)flow_backlog(&e.flow, &is_told);
    assert_false(is_told);
    taken_encode(told, 24 + 600);
    assert_int_equal(write(e.pair[1], told, sizeof(told)), sizeof(told));
    assert_int_equal(flow_backlog(&e.flow, &is_told), 400);
    assert_true(is_told);
    close_ends(&e);
}

static void test_rings_are_named_before_the_first_page(void **state)
{
    const uint64_t entries[] = {RAW | 1}, pfns[RINGS_COUNT] = {5, 9};
    uint8_t head[40] = "heads", want[RINGS_AHEAD], bytes[RINGS_AHEAD];
    uint8_t rest[16 + 8 + BATCH_PAGE];
    struct iovec piece = {head, sizeof(head)};
    struct ends e;

    (void)state;
    open_ends(&e, false);
    rings_write(want, pfns);
    memcpy(e.flow.before_pages, want, sizeof(want));
    e.flow.before_size = sizeof(want);
    assert_int_equal(flow_write(&e.flow, &piece, 1), 0);
    for (int n = 0; n < 2; n++) {
        make(&record, entries, 1);
        assert_int_equal(flow_write(&e.flow, record.vector, record.pieces), 0);
    }
    read_all(e.pair[1], head, sizeof(head));
    assert_string_equal(head, "heads");
    read_all(e.pair[1], bytes, sizeof(bytes));
    assert_memory_equal(bytes, want, sizeof(want));
    for (int n = 0; n < 2; n++) {
        read_all(e.pair[1], rest, sizeof(rest));
        assert_int_equal(rest[0], 1);
    }
    assert_int_equal(e.flow.bytes, FLOW_BEFORE + 40 + RINGS_AHEAD + 2 * sizeof(rest));
    close_ends(&e);
}

/* ---- the link ---- */

static void test_a_contract_travels(void **state)
{
    const struct hv_save_params params = {.is_live = true,
                                          .max_downtime_ms = 300,
                                          .deadline_ms = 60000,
                                          .on_slow = HV_SLOW_THROTTLE,
                                          .switch_us = 12345};
    struct helper_link worker, helper;
    struct hv_save_params taken = {0};
    struct hv_progress progress = {0};
    struct ha_err err = {0};
    struct ha_err why = {0};
    const struct ha_err slow = {.code = HA_E_TIMEOUT, .text = "too slow"};
    const uint64_t frames[2] = {0x1234, 0x5678};
    uint64_t known[2];
    int ring_fd, own = eventfd(0, 0);

    (void)state;
    assert_int_equal(helper_link_open(&worker, &params, own, frames, &err), 0);
    assert_true(helper_link_take(&helper, &taken, &ring_fd, known));
    assert_int_equal(taken.max_downtime_ms, 300);
    assert_int_equal(taken.deadline_ms, 60000);
    assert_int_equal(taken.on_slow, HV_SLOW_THROTTLE);
    assert_int_equal(taken.switch_us, 12345);
    assert_true(ring_fd >= 0);
    assert_memory_equal(known, frames, sizeof(frames));
    assert_null(getenv(LINK_ENV)); /* not for children of the helper */
    helper_link_tell(&helper, &(struct hv_progress){.round = 1, .phase = HV_LIVE});
    helper_link_tell(&helper, &(struct hv_progress){.round = 2, .phase = HV_STOPPED});
    helper_link_done(&helper, &slow);
    assert_true(helper_link_read(&worker, &progress, &why));
    assert_int_equal(progress.round, 2);
    assert_int_equal(why.code, HA_E_TIMEOUT);
    assert_string_equal(why.text, "too slow");
    assert_false(helper_link_read(&worker, &progress, &why));
    worker.inherited = -1; /* in this test one process has both ends */
    helper_link_close(&helper);
    helper_link_close(&worker);
    close(ring_fd);
    close(own);
}

static void test_no_link_no_contract(void **state)
{
    static const char *const words[] = {"", "x", "-1", "9999", "1"};
    struct hv_save_params taken;
    struct helper_link l;
    uint64_t known[2];
    int ring_fd;

    (void)state;
    unsetenv(LINK_ENV);
    assert_false(helper_link_take(&l, &taken, &ring_fd, known));
    for (size_t n = 0; n < sizeof(words) / sizeof(words[0]); n++) {
        setenv(LINK_ENV, words[n], 1);
        assert_false(helper_link_take(&l, &taken, &ring_fd, known));
        assert_int_equal(ring_fd, -1);
    }
}

static void test_what_a_mover_says(void **state)
{
    static const struct ha_err bad = {.code = HA_E_CORRUPT, .text = "bad mfn"};
    struct helper_link worker, helper;
    struct link_mover m = {0};
    struct ha_err err = {0};
    pid_t pid = 0;

    (void)state;
    assert_int_equal(helper_link_offer(&worker, &err), 0);
    assert_true(helper_link_accept(&helper, &pid));
    assert_int_equal(pid, getpid());
    worker.inherited = -1; /* in this test one process has both ends */
    helper_link_hear(&worker, &m);
    assert_true(m.pid == 0 && !m.is_early && !m.is_done && !m.is_gone);
    helper_link_say(&helper, LINK_MOVER, 4711);
    helper_link_say(&helper, LINK_EARLY, 0);
    helper_link_hear(&worker, &m);
    assert_true(m.pid == 4711 && m.is_early && !m.is_done && !m.is_gone);
    helper_link_done(&helper, &bad);
    helper_link_close(&helper);
    helper_link_hear(&worker, &m);
    assert_true(m.is_done && m.is_gone);
    assert_int_equal(m.why.code, HA_E_CORRUPT);
    assert_string_equal(m.why.text, "bad mfn");
    helper_link_close(&worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_arguments_of_another_kind),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_long_words_are_cut),
        cmocka_unit_test(test_a_batch_is_recognised),
        cmocka_unit_test(test_a_batch_of_holes_becomes_nothing),
        cmocka_unit_test(test_pages_apart_stay_apart),
        cmocka_unit_test(test_what_is_no_batch),
        cmocka_unit_test(test_superpages),
        cmocka_unit_test(test_stops_when_nothing_is_to_be_gained),
        cmocka_unit_test(test_what_was_counted_before_does_not_count),
        cmocka_unit_test(test_gives_up_what_can_not_be_kept),
        cmocka_unit_test(test_asks_for_less_processor),
        cmocka_unit_test(test_a_switch_that_is_too_long_begins_nothing),
        cmocka_unit_test(test_waits_for_what_is_under_way),
        cmocka_unit_test(test_an_abort_ends_the_wait),
        cmocka_unit_test(test_a_hypervisor_that_does_not_count),
        cmocka_unit_test(test_a_stop_that_would_be_too_long),
        cmocka_unit_test(test_records_arrive_as_they_are),
        cmocka_unit_test(test_a_ring_takes_the_pages),
        cmocka_unit_test(test_an_abort_ends_a_write),
        cmocka_unit_test(test_a_contract_ends_a_full_stream),
        cmocka_unit_test(test_a_reader_that_is_gone),
        cmocka_unit_test(test_what_was_taken_is_heard),
        cmocka_unit_test(test_a_contract_travels),
        cmocka_unit_test(test_no_link_no_contract),
        cmocka_unit_test(test_what_a_mover_says),
        cmocka_unit_test(test_rings_are_named_before_the_first_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
