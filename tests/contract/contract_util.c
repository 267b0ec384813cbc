/* SPDX-License-Identifier: Apache-2.0 */
#include "contract.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct hv *hv;

uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void sleep_ms(uint32_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

struct hv_label label_of(const struct contract_guest *guest)
{
    struct hv_label label = {.generation = 3, .epoch = guest->epoch};

    memset(label.cluster_id.b, 0xc1, sizeof(label.cluster_id.b));
    memcpy(label.guest.b, &guest->number, sizeof(guest->number));
    label.guest.b[15] = 0x9e;
    return label;
}

uint64_t memory_kib_of(const struct contract_guest *guest)
{
    uint64_t mib = guest->memory_mib != 0 ? guest->memory_mib : 4;

    return (mib > contract->least_mib ? mib : contract->least_mib) * 1024;
}

static bool same_label(const struct hv_label *a, const struct hv_label *b)
{
    return ha_uuid_equal(a->cluster_id, b->cluster_id) && a->generation == b->generation &&
           ha_uuid_equal(a->guest, b->guest) && a->epoch == b->epoch;
}

static uint32_t domid_of(const struct hv_label *label)
{
    struct hv_domain list[64];
    int count = hv->ops->list(hv, list, 64);

    for (int n = 0; n < count; n++)
        if (list[n].is_labelled && same_label(&list[n].label, label))
            return list[n].domid;
    fail_msg("the domain is not listed");
    return 0;
}

uint32_t create(const struct contract_guest *guest)
{
    char text[DEFINITION_MAX];
    size_t size = contract->define(guest, text, sizeof(text));
    struct hv_label label = label_of(guest);
    struct ha_err err = {0};

    if (hv->ops->create(hv, &label, guest->name, (const uint8_t *)text, size, &err) != HV_OK)
        fail_msg("create %s: %s", guest->name, err.text);
    return domid_of(&label);
}

uint32_t start(const struct contract_guest *guest)
{
    uint32_t domid = create(guest);

    run(domid);
    await_checked(guest->number, guest->epoch);
    return domid;
}

bool find(uint32_t domid, struct hv_domain *ret)
{
    struct hv_domain list[64];
    int count = hv->ops->list(hv, list, 64);

    assert_true(count >= 0);
    for (int n = 0; n < count; n++)
        if (list[n].domid == domid) {
            *ret = list[n];
            return true;
        }
    return false;
}

enum hv_domain_state state_of(uint32_t domid)
{
    struct hv_domain d;

    return find(domid, &d) ? (enum hv_domain_state)d.state : 0;
}

int domain_count(void)
{
    struct hv_domain list[64];

    return hv->ops->list(hv, list, 64);
}

void assert_state(uint32_t domid, enum hv_domain_state state)
{
    assert_int_equal(state_of(domid), state);
}

void await_state(uint32_t domid, enum hv_domain_state state)
{
    uint64_t end_ms = now_ms() + WAIT_MS;

    while (state_of(domid) != state) {
        if (now_ms() > end_ms)
            fail_msg("state %d instead of %d", (int)state_of(domid), (int)state);
        sleep_ms(contract->look_ms);
    }
}

void await_steps(uint32_t number, uint64_t more)
{
    uint64_t end_ms = now_ms() + WAIT_MS;
    uint64_t until = contract->steps(number) + more;

    while (contract->steps(number) < until) {
        if (now_ms() > end_ms)
            fail_msg("guest %u makes no steps", number);
        sleep_ms(contract->look_ms);
    }
}

static bool has_crashed(void)
{
    struct hv_domain list[64];
    int count = hv->ops->list(hv, list, 64);

    for (int n = 0; n < count; n++)
        if (list[n].state == HV_CRASHED)
            return true;
    return false;
}

void await_checked(uint32_t number, uint64_t epoch)
{
    uint64_t end_ms = now_ms() + WAIT_MS;

    while (!contract->is_checked(number, epoch)) {
        if (now_ms() > end_ms || has_crashed())
            fail_msg("guest %u did not pass its self-check at epoch %u", number, (unsigned)epoch);
        sleep_ms(contract->look_ms);
    }
}

/* Ten steps' time without a step. */
void assert_still(uint32_t number)
{
    uint64_t steps = contract->steps(number);

    sleep_ms(60);
    assert_int_equal(contract->steps(number), steps);
}

void run(uint32_t domid)
{
    struct ha_err err = {0};

    if (hv->ops->run(hv, domid, &err) != HV_OK)
        fail_msg("run %u: %s", domid, err.text);
}

void pause_domain(uint32_t domid)
{
    uint64_t end_ms = now_ms() + WAIT_MS;
    struct ha_err err = {0};
    enum hv_outcome outcome;

    while ((outcome = hv->ops->pause(hv, domid, &err)) == HV_UNKNOWN && now_ms() < end_ms)
        ;
    if (outcome != HV_OK)
        fail_msg("pause %u: %s", domid, err.text);
}

void destroy(uint32_t domid)
{
    struct ha_err err = {0};

    if (hv->ops->destroy(hv, domid, &err) != HV_OK)
        fail_msg("destroy %u: %s", domid, err.text);
}

void assert_untouched(uint32_t domid, uint32_t number)
{
    struct ha_err err = {0};
    uint64_t pages_s = 0;

    assert_state(domid, HV_RUNNING);
    await_steps(number, 3);
    if (hv->ops->dirty_sample(hv, domid, 50, &pages_s, &err) != HV_OK)
        fail_msg("sample: %s", err.text);
    assert_true(pages_s > 0);
    await_steps(number, 3);
    assert_int_equal(contract->damages(number), 0);
}

static void make_pair(int *ret_write, int *ret_read)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *ret_write = pair[0];
    *ret_read = pair[1];
}

static void *sink_run(void *argument)
{
    struct sink *s = argument;

    while (s->size < s->limit) {
        if (s->size == s->capacity) {
            s->capacity = s->capacity == 0 ? 1u << 20 : s->capacity * 2;
            s->data = realloc(s->data, s->capacity);
        }
        size_t room = s->capacity - s->size;
        if (room > s->limit - s->size)
            room = s->limit - s->size;
        ssize_t n = read(s->read_fd, s->data + s->size, room);
        if (n <= 0)
            break;
        s->size += (size_t)n;
    }
    close(s->read_fd);
    return NULL;
}

void sink_begin(struct sink *s, size_t limit)
{
    memset(s, 0, sizeof(*s));
    s->limit = limit;
    make_pair(&s->fd, &s->read_fd);
    assert_int_equal(pthread_create(&s->thread, NULL, sink_run, s), 0);
}

void sink_end(struct sink *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    pthread_join(s->thread, NULL);
}

static void *arrival_run(void *argument)
{
    struct arrival *a = argument;
    struct hv_label label = label_of(&a->guest);
    char text[DEFINITION_MAX];
    size_t size = contract->define(&a->guest, text, sizeof(text));
    struct hv *other = contract->open();

    a->outcome = other->ops->restore(other, &label, a->guest.name, (const uint8_t *)text, size,
                                     a->read_fd, -1, NULL, NULL, &a->domid, &a->err);
    close(a->read_fd);
    other->ops->close(other);
    return NULL;
}

void arrival_begin(struct arrival *a, const struct contract_guest *guest)
{
    memset(a, 0, sizeof(*a));
    a->guest = *guest;
    make_pair(&a->fd, &a->read_fd);
    assert_int_equal(pthread_create(&a->thread, NULL, arrival_run, a), 0);
}

void arrival_end(struct arrival *a)
{
    close(a->fd);
    pthread_join(a->thread, NULL);
}

struct hv_save_params save_to(int fd)
{
    return (struct hv_save_params){
        .fd = fd, .is_live = true, .max_downtime_ms = 300, .on_slow = HV_SLOW_PAUSE};
}

struct pour {
    int fd;
    const uint8_t *data;
    size_t size;
};

static void *pour_run(void *argument)
{
    struct pour *p = argument;

    while (p->size > 0) {
        ssize_t n = send(p->fd, p->data, p->size, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        p->data += n;
        p->size -= (size_t)n;
    }
    close(p->fd);
    return NULL;
}

enum hv_outcome restore_bytes(const struct contract_guest *guest, const uint8_t *data, size_t size,
                              uint32_t *ret_domid, struct ha_err *err)
{
    struct pour p = {.data = data, .size = size};
    struct hv_label label = label_of(guest);
    char text[DEFINITION_MAX];
    size_t text_size = contract->define(guest, text, sizeof(text));
    pthread_t thread;
    int read_fd;

    make_pair(&p.fd, &read_fd);
    assert_int_equal(pthread_create(&thread, NULL, pour_run, &p), 0);
    enum hv_outcome outcome = hv->ops->restore(hv, &label, guest->name, (const uint8_t *)text,
                                               text_size, read_fd, -1, NULL, NULL, ret_domid, err);
    close(read_fd);
    pthread_join(thread, NULL);
    return outcome;
}

int set_up_test(void **state)
{
    const char *why = contract->set_up();

    (void)state;
    if (why) {
        print_message("skipped: %s\n", why);
        skip();
    }
    hv = contract->open();
    return 0;
}

int tear_down_test(void **state)
{
    struct hv_domain list[64];
    int count = hv->ops->list(hv, list, 64);

    (void)state;
    for (int n = 0; n < count; n++)
        hv->ops->destroy(hv, list[n].domid, NULL);
    hv->ops->close(hv);
    contract->tear_down();
    return count < 0;
}
