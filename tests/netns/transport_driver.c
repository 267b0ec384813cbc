/* SPDX-License-Identifier: Apache-2.0
 *
 * One member of a CPG group over quorum/transport.h, steered by lines on stdin, reporting JSON
 * lines on stdout. Measures what the tests assert: the longest gap of its loop, beside that of a
 * thread that only sleeps (the machine's own noise), and the time of a multicast round.
 *
 *   transport_driver GROUP
 *     beat MS        a heartbeat every MS ms (0: stop)
 *     load MS SIZE   an ordinary message of SIZE bytes every MS ms (0: stop)
 *     send SIZE      one message; every member reports it with its checksum
 *     burst COUNT SIZE  so many ordinary messages in one turn of the loop
 *     round COUNT    COUNT rounds: multicast, every member answers by multicast, all answers heard
 *     refuse         refuse the next configurations;  accept: accept them again
 *     stat           report gaps and counts, and start counting anew
 *     quit
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/digest.h"
#include "quorum/transport.h"

#define TICK_MS 2u

enum kind { KIND_BEAT = 1, KIND_LOAD, KIND_DATA, KIND_ASK, KIND_ANSWER };

struct header {
    uint32_t kind;
    uint32_t round;
};

struct driver {
    qb_loop_t *loop;
    struct transport *transport;
    uint32_t self;
    uint32_t members[HA_NODES_MAX];
    uint32_t member_count;
    bool refuses;
    uint32_t beat_ms;
    uint32_t load_ms;
    uint32_t load_size;
    qb_loop_timer_handle beat_timer;
    qb_loop_timer_handle load_timer;
    uint64_t tick_ns;
    uint64_t delay_ns;    /* time this thread waited for a processor, as of the last tick */
    uint64_t gap_ns;      /* longest time between two ticks of the loop, less the tick */
    uint64_t held_ns;     /* the same less the waiting for a processor */
    uint64_t beats_heard; /* own */
    uint64_t heard;
    uint32_t rounds_left;
    uint32_t round;
    uint32_t answers;
    uint64_t round_start_ns;
    uint32_t time_count;
    uint32_t times_us[10000];
    char line[256];
    size_t line_size;
};

static int schedstat_fd;
static uint8_t buffer[TRANSPORT_MESSAGE_MAX];

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Second field of schedstat: ns spent runnable but not running. */
static uint64_t wait_ns(void)
{
    char text[128] = "";
    unsigned long long run = 0;
    unsigned long long wait = 0;

    if (pread(schedstat_fd, text, sizeof(text) - 1, 0) <= 0 ||
        sscanf(text, "%llu %llu", &run, &wait) != 2)
        return 0;
    return wait;
}

static void on_tick(void *data)
{
    struct driver *d = data;
    uint64_t delay = wait_ns();
    uint64_t now = now_ns();
    qb_loop_timer_handle timer;
    const uint64_t tick = TICK_MS * 1000000u;

    if (d->tick_ns != 0 && now - d->tick_ns > tick) {
        uint64_t gap = now - d->tick_ns - tick;
        uint64_t waited = delay - d->delay_ns;
        uint64_t held = gap > waited ? gap - waited : 0;
        d->gap_ns = gap > d->gap_ns ? gap : d->gap_ns;
        d->held_ns = held > d->held_ns ? held : d->held_ns;
    }
    d->delay_ns = delay;
    d->tick_ns = now;
    qb_loop_timer_add(d->loop, QB_LOOP_HIGH, tick, d, on_tick, &timer);
}

static void say_time(const char *event)
{
    printf("{\"at\": %llu, \"event\": \"%s\"", (unsigned long long)(now_ns() / 1000), event);
}

static void send_kind(struct driver *d, enum kind kind, uint32_t round, size_t size)
{
    struct header header = {.kind = kind, .round = round};

    memcpy(buffer, &header, sizeof(header));
    transport_send(d->transport, buffer, size < sizeof(header) ? sizeof(header) : size,
                   kind == KIND_BEAT);
}

static void on_beat(void *data)
{
    struct driver *d = data;

    if (d->beat_ms == 0)
        return;
    send_kind(d, KIND_BEAT, 0, 64);
    qb_loop_timer_add(d->loop, QB_LOOP_MED, d->beat_ms * 1000000ull, d, on_beat, &d->beat_timer);
}

static void on_load(void *data)
{
    struct driver *d = data;

    if (d->load_ms == 0)
        return;
    send_kind(d, KIND_LOAD, 0, d->load_size);
    qb_loop_timer_add(d->loop, QB_LOOP_MED, d->load_ms * 1000000ull, d, on_load, &d->load_timer);
}

static void start_round(struct driver *d)
{
    d->round++;
    d->answers = 0;
    d->round_start_ns = now_ns();
    send_kind(d, KIND_ASK, d->round, 200);
}

static int compare_times(const void *left, const void *right)
{
    const uint32_t *a = left;
    const uint32_t *b = right;

    return *a < *b ? -1 : *a > *b;
}

static void end_round(struct driver *d)
{
    if (d->time_count < sizeof(d->times_us) / sizeof(d->times_us[0]))
        d->times_us[d->time_count++] = (uint32_t)((now_ns() - d->round_start_ns) / 1000);
    if (--d->rounds_left > 0) {
        start_round(d);
        return;
    }
    qsort(d->times_us, d->time_count, sizeof(d->times_us[0]), compare_times);
    say_time("rounds");
    printf(", \"count\": %u, \"min_us\": %u, \"median_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
           d->time_count, d->times_us[0], d->times_us[d->time_count / 2],
           d->times_us[d->time_count * 99 / 100], d->times_us[d->time_count - 1]);
    d->time_count = 0;
}

static void on_members(void *user, const uint32_t *nodes, uint32_t count)
{
    struct driver *d = user;

    memcpy(d->members, nodes, count * sizeof(nodes[0]));
    d->member_count = count;
    say_time("members");
    printf(", \"nodes\": [");
    for (uint32_t i = 0; i < count; i++)
        printf("%s%u", i > 0 ? ", " : "", nodes[i]);
    printf("]}\n");
}

static void on_message(void *user, uint32_t from, const uint8_t *data, size_t size)
{
    struct driver *d = user;
    struct header header;

    d->heard++;
    if (size < sizeof(header))
        return;
    memcpy(&header, data, sizeof(header));
    if (header.kind == KIND_BEAT && from == d->self)
        d->beats_heard++;
    if (header.kind == KIND_ASK)
        send_kind(d, KIND_ANSWER, header.round, 200);
    if (header.kind == KIND_ANSWER && d->rounds_left > 0 && header.round == d->round &&
        ++d->answers == d->member_count)
        end_round(d);
    if (header.kind == KIND_DATA) {
        struct ha_digest digest = ha_digest_bytes((struct ha_digest){0}, data, size);
        say_time("message");
        printf(", \"from\": %u, \"size\": %zu, \"digest\": \"%016llx\"}\n", from, size,
               (unsigned long long)digest.low);
    }
}

static void on_down(void *user, const char *why)
{
    (void)user;
    say_time("down");
    printf(", \"why\": \"%s\"}\n", why);
}

static bool on_config(void *user, const struct transport_config *c)
{
    struct driver *d = user;
    const char *refusal = transport_config_refusal(c);

    d->self = c->self;
    say_time("config");
    printf(", \"cluster\": \"%s\", \"self\": %u, \"token_ms\": %u, \"consensus_ms\": %u, "
           "\"two_node\": %d, \"last_man_standing\": %d, \"auto_tie_breaker\": %d, "
           "\"no_crypto\": %d, \"refusal\": \"%s\", \"nodes\": [",
           c->cluster_name, c->self, c->token_ms, c->consensus_ms, c->has_two_node,
           c->has_last_man_standing, c->has_auto_tie_breaker, c->has_no_crypto,
           refusal ? refusal : "");
    for (uint32_t i = 0; i < c->node_count; i++)
        printf("%s[%u, \"%s\", \"%s\"]", i > 0 ? ", " : "", c->nodes[i].id, c->nodes[i].name,
               c->nodes[i].addr);
    printf("]}\n");
    return !refusal && !d->refuses;
}

static void on_health(void *user, enum transport_health health, const char *why)
{
    static const char *const names[] = {"ok", "down", "hangs", "congested"};

    (void)user;
    say_time("health");
    printf(", \"health\": \"%s\", \"why\": \"%s\"}\n", names[health], why);
}

static void stat_and_reset(struct driver *d)
{
    bool is_quorate = false;
    uint32_t votes = 0;
    bool is_known = transport_votequorum(d->transport, &is_quorate, &votes);

    say_time("stat");
    printf(", \"gap_us\": %llu, \"held_us\": %llu, \"beats_heard\": %llu, \"heard\": %llu, "
           "\"votes\": %d, \"quorate\": %d}\n",
           (unsigned long long)(d->gap_ns / 1000), (unsigned long long)(d->held_ns / 1000),
           (unsigned long long)d->beats_heard, (unsigned long long)d->heard,
           is_known ? (int)votes : -1, is_quorate);
    d->gap_ns = 0;
    d->held_ns = 0;
    d->beats_heard = 0;
    d->heard = 0;
}

static void obey(struct driver *d, const char *line)
{
    unsigned a = 0;
    unsigned b = 0;

    if (sscanf(line, "beat %u", &a) == 1) {
        d->beat_ms = a;
        on_beat(d);
    } else if (sscanf(line, "load %u %u", &a, &b) == 2 && b <= sizeof(buffer)) {
        d->load_ms = a;
        d->load_size = b;
        on_load(d);
    } else if (sscanf(line, "send %u", &a) == 1 && a <= sizeof(buffer)) {
        for (uint32_t i = 0; i < a; i++)
            buffer[i] = (uint8_t)(i * 31u + i / 256u);
        send_kind(d, KIND_DATA, 0, a);
    } else if (sscanf(line, "burst %u %u", &a, &b) == 2 && b <= sizeof(buffer)) {
        for (uint32_t i = 0; i < a; i++)
            send_kind(d, KIND_LOAD, i, b);
    } else if (sscanf(line, "round %u", &a) == 1 && a > 0) {
        d->rounds_left = a;
        start_round(d);
    } else if (strcmp(line, "refuse") == 0 || strcmp(line, "accept") == 0) {
        d->refuses = line[0] == 'r';
    } else if (strcmp(line, "stat") == 0) {
        stat_and_reset(d);
    } else {
        qb_loop_stop(d->loop);
    }
}

static int32_t on_stdin(int32_t fd, int32_t revents, void *data)
{
    struct driver *d = data;
    char c;

    (void)revents;
    ssize_t r = read(fd, &c, 1);
    if (r <= 0) {
        qb_loop_stop(d->loop);
        return -1;
    }
    if (c == '\n') {
        d->line[d->line_size] = '\0';
        d->line_size = 0;
        obey(d, d->line);
    } else if (d->line_size < sizeof(d->line) - 1) {
        d->line[d->line_size++] = c;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct driver d;
    const struct transport_callbacks callbacks = {.members = on_members,
                                                  .message = on_message,
                                                  .down = on_down,
                                                  .config = on_config,
                                                  .health = on_health};
    struct ha_err err = {0};

    if (argc != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    d.loop = qb_loop_create();
    schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (!d.loop || transport_open(d.loop, argv[1], &callbacks, &d, &d.transport, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    qb_loop_poll_add(d.loop, QB_LOOP_MED, STDIN_FILENO, POLLIN, &d, on_stdin);
    on_tick(&d);
    qb_loop_run(d.loop);
    uint64_t start = now_ns();
    transport_close(d.transport);
    say_time("closed");
    printf(", \"took_us\": %llu}\n", (unsigned long long)((now_ns() - start) / 1000));
    qb_loop_destroy(d.loop);
    return 0;
}
