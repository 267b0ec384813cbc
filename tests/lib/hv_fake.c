/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/hv_fake.h"

#include "hamgr/doctor/facts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct handle {
    struct hv hv;
    struct hv_fake *fake;
};

static struct hv_fake *fake_of(struct hv *hv)
{
    return ((struct handle *)hv)->fake;
}

static void lock(struct hv_fake *fake)
{
    if (pthread_mutex_lock(&fake->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&fake->lock);
}

static void unlock(struct hv_fake *fake)
{
    pthread_mutex_unlock(&fake->lock);
}

static void wait_ms(uint32_t ms)
{
    const struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    if (ms > 0)
        nanosleep(&t, NULL);
}

/* True if the verb is to fail. */
static bool begin(struct hv_fake *fake, enum hv_fake_verb verb)
{
    int manner = atomic_load(&fake->manner[verb]);

    if (verb < HV_FAKE_RUN)
        atomic_store(&fake->worker_pid, (int)getpid());
    atomic_fetch_add(&fake->begun[verb], 1);
    if (manner == HV_FAKE_DIE)
        _exit(7);
    while (manner == HV_FAKE_HANG)
        pause();
    return manner == HV_FAKE_FAIL;
}

static struct hv_fake_domain *find(struct hv_fake *fake, uint32_t domid)
{
    for (unsigned i = 0; i < HV_FAKE_DOMAINS; i++)
        if (fake->domains[i].is_used && fake->domains[i].d.domid == domid)
            return &fake->domains[i];
    return NULL;
}

/* Moves domid to `to`; HV_FAILED if it does not exist. */
static enum hv_outcome move(struct hv_fake *fake, uint32_t domid, enum hv_domain_state to,
                            struct ha_err *err)
{
    lock(fake);
    struct hv_fake_domain *d = find(fake, domid);
    if (d)
        d->d.state = (uint8_t)to;
    unlock(fake);
    if (!d)
        ha_err_set(err, HA_E_NOT_FOUND, "no domain %u", domid);
    return d ? HV_OK : HV_FAILED;
}

static enum hv_outcome failed(struct ha_err *err)
{
    ha_err_set(err, HA_E_REFUSED, "told to fail");
    return HV_FAILED;
}

/* ---- gate verbs --------------------------------------------------------------------------------
 */

static int fake_caps(struct hv *hv, struct hv_caps *ret)
{
    (void)hv;
    *ret = (struct hv_caps){.driver = "fake", .version = "1", .mem_kib = 1048576};
    return 0;
}

static int fake_list(struct hv *hv, struct hv_domain *ret, uint32_t capacity)
{
    struct hv_fake *fake = fake_of(hv);
    uint32_t count = 0;

    if (begin(fake, HV_FAKE_LIST))
        return -EIO;
    lock(fake);
    for (unsigned i = 0; i < HV_FAKE_DOMAINS && count < capacity; i++)
        if (fake->domains[i].is_used)
            ret[count++] = fake->domains[i].d;
    unlock(fake);
    return (int)count;
}

static enum hv_outcome fake_run(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_fake *fake = fake_of(hv);

    if (begin(fake, HV_FAKE_RUN))
        return failed(err);
    wait_ms(atomic_load(&fake->run_delay_ms));
    uint8_t state = hv_fake_state(fake, domid);
    if (state != HV_PAUSED && state != HV_RUNNING) {
        ha_err_set(err, HA_E_REFUSED, "domain %u is not paused", domid);
        return HV_FAILED;
    }
    atomic_fetch_add(&fake->run_count, 1);
    return move(fake, domid, HV_RUNNING, err);
}

static enum hv_outcome fake_pause(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_fake *fake = fake_of(hv);

    if (begin(fake, HV_FAKE_PAUSE))
        return failed(err);
    atomic_fetch_add(&fake->pause_count, 1);
    return move(fake, domid, HV_PAUSED, err);
}

static enum hv_quiet fake_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX])
{
    struct hv_fake *fake = fake_of(hv);
    enum hv_quiet quiet = HV_QUIET;

    lock(fake);
    const struct hv_fake_domain *d = find(fake, domid);
    if (d && d->is_write_back)
        quiet = HV_NEVER_QUIET;
    else if (d && d->outstanding > 0)
        quiet = HV_BUSY;
    snprintf(ret_why, HA_TEXT_MAX, "%s", quiet == HV_BUSY ? "I/O outstanding" : "write-back");
    unlock(fake);
    return quiet;
}

static enum hv_outcome fake_throttle(struct hv *hv, uint32_t domid, uint32_t percent,
                                     struct ha_err *err)
{
    (void)hv, (void)domid, (void)percent, (void)err;
    return HV_NOT_OFFERED;
}

static int fake_event_fd(struct hv *hv)
{
    (void)hv;
    return -1;
}

static void fake_event_clear(struct hv *hv)
{
    (void)hv;
}

static enum hv_outcome fake_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                                    struct ha_err *err)
{
    (void)hv, (void)label;
    return mem_kib <= 1048576 ? HV_OK : failed(err);
}

static void fake_release(struct hv *hv, const struct hv_label *label)
{
    (void)hv, (void)label;
}

/* ---- worker verbs ------------------------------------------------------------------------------
 */

static uint32_t add(struct hv_fake *fake, const struct hv_label *label, const char *name,
                    enum hv_domain_state state)
{
    uint32_t domid = 0;

    lock(fake);
    for (unsigned i = 0; i < HV_FAKE_DOMAINS && domid == 0; i++) {
        struct hv_fake_domain *d = &fake->domains[i];
        if (d->is_used)
            continue;
        domid = ++fake->next_domid;
        *d = (struct hv_fake_domain){.is_used = true};
        d->d = (struct hv_domain){.domid = domid, .state = (uint8_t)state, .mem_kib = 8192};
        d->d.is_labelled = label != NULL;
        if (label)
            d->d.label = *label;
        snprintf(d->d.name, sizeof(d->d.name), "%s", name);
    }
    unlock(fake);
    return domid;
}

static void note_building(struct hv_fake *fake)
{
    uint32_t now = atomic_fetch_add(&fake->building_now, 1) + 1;
    uint32_t most = atomic_load(&fake->building_most);

    while (now > most && !atomic_compare_exchange_weak(&fake->building_most, &most, now))
        ;
}

static enum hv_outcome fake_create(struct hv *hv, const struct hv_label *label, const char *name,
                                   const uint8_t *definition, size_t size, struct ha_err *err)
{
    struct hv_fake *fake = fake_of(hv);

    (void)definition, (void)size;
    if (begin(fake, HV_FAKE_CREATE))
        return failed(err);
    note_building(fake);
    wait_ms(atomic_load(&fake->create_delay_ms));
    uint32_t domid = add(fake, label, name, HV_PAUSED);
    atomic_fetch_sub(&fake->building_now, 1);
    return domid ? HV_OK : failed(err);
}

static enum hv_outcome fake_shutdown(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                                     struct ha_err *err)
{
    (void)timeout_ms;
    if (begin(fake_of(hv), HV_FAKE_SHUTDOWN))
        return failed(err);
    return move(fake_of(hv), domid, HV_POWEROFF, err);
}

static enum hv_outcome fake_destroy(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_fake *fake = fake_of(hv);

    if (begin(fake, HV_FAKE_DESTROY))
        return failed(err);
    lock(fake);
    struct hv_fake_domain *d = find(fake, domid);
    if (d)
        d->is_used = false;
    unlock(fake);
    return HV_OK;
}

static enum hv_outcome fake_suspend(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    return move(fake_of(hv), domid, HV_SUSPENDED, err);
}

static enum hv_outcome fake_drain(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                                  struct ha_err *err)
{
    (void)domid, (void)timeout_ms;
    return begin(fake_of(hv), HV_FAKE_DRAIN) ? failed(err) : HV_OK;
}

static void set_tracking(struct hv_fake *fake, uint32_t domid, bool is_on)
{
    lock(fake);
    struct hv_fake_domain *d = find(fake, domid);
    if (d)
        d->is_tracking = is_on;
    unlock(fake);
}

/* Of the last save or restore that had one. */
static void note_ring(struct hv_fake *fake, int ring_fd)
{
    struct stat ring = {0};

    if (ring_fd > 0 && fstat(ring_fd, &ring) == 0)
        atomic_store(&fake->ring_size, (uint64_t)ring.st_size);
}

/* Writes 4096 bytes at a time for ever or until save_bytes_max; paused when the stream breaks, as a
 * driver whose save failed while the guest was stopped leaves it. */
static enum hv_outcome fake_save(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                                 hv_progress_fn progress, void *user, struct ha_err *err)
{
    static const char page[4096];
    struct hv_fake *fake = fake_of(hv);
    struct hv_progress p = {.phase = HV_LIVE};
    uint32_t most = atomic_load(&fake->save_bytes_max);

    note_ring(fake, params->ring_fd);
    set_tracking(fake, domid, true);
    if (begin(fake, HV_FAKE_SAVE))
        return failed(err);
    while (most == 0 || p.bytes < most) {
        if (write(params->fd, page, sizeof(page)) < 0 && errno != EINTR) {
            set_tracking(fake, domid, false);
            (void)move(fake, domid, HV_PAUSED, err);
            ha_err_set(err, EIO, "stream: %s", strerror(errno));
            return HV_FAILED;
        }
        p.bytes += sizeof(page);
        progress(user, &p);
        wait_ms(1);
    }
    set_tracking(fake, domid, false);
    return move(fake, domid, HV_SUSPENDED, err);
}

static enum hv_outcome fake_restore(struct hv *hv, const struct hv_label *label, const char *name,
                                    const uint8_t *definition, size_t size, int fd, int ring_fd,
                                    hv_progress_fn progress, void *user, uint32_t *ret_domid,
                                    struct ha_err *err)
{
    char bytes[4096];
    ssize_t r;

    (void)definition, (void)size, (void)progress, (void)user;
    note_ring(fake_of(hv), ring_fd);
    if (begin(fake_of(hv), HV_FAKE_RESTORE))
        return failed(err);
    while ((r = read(fd, bytes, sizeof(bytes))) > 0 || (r < 0 && errno == EINTR))
        if (r > 0 && bytes[r - 1] == '.') {
            *ret_domid = add(fake_of(hv), label, name, HV_PAUSED);
            return HV_OK;
        }
    ha_err_set(err, EPIPE, "stream ended early");
    return HV_FAILED;
}

static enum hv_outcome fake_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    return move(fake_of(hv), domid, HV_PAUSED, err);
}

static enum hv_outcome fake_dirty_sample(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                         uint64_t *ret_pages_s, struct ha_err *err)
{
    (void)domid, (void)sample_ms;
    *ret_pages_s = 1234;
    return begin(fake_of(hv), HV_FAKE_SAMPLE) ? failed(err) : HV_OK;
}

static enum hv_outcome fake_log_dirty_off(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    (void)err;
    set_tracking(fake_of(hv), domid, false);
    atomic_fetch_add(&fake_of(hv)->tracking_off_count, 1);
    return HV_OK;
}

static void fake_tell(struct hv *hv, struct ha_facts *facts)
{
    (void)begin(fake_of(hv), HV_FAKE_TELL);
    ha_facts_set(facts, HA_FACT_HAS_HAP, 1);
}

static enum hv_outcome fake_checkpoint(struct hv *hv, uint32_t domid, int fd, struct ha_err *err)
{
    (void)hv, (void)domid, (void)fd, (void)err;
    return HV_NOT_OFFERED;
}

static void fake_close(struct hv *hv)
{
    free(hv);
}

static const struct hv_ops fake_ops = {
    .name = "fake",
    .caps = fake_caps,
    .list = fake_list,
    .run = fake_run,
    .pause = fake_pause,
    .quiet = fake_quiet,
    .throttle = fake_throttle,
    .event_fd = fake_event_fd,
    .event_clear = fake_event_clear,
    .reserve = fake_reserve,
    .release = fake_release,
    .create = fake_create,
    .shutdown = fake_shutdown,
    .destroy = fake_destroy,
    .suspend = fake_suspend,
    .drain = fake_drain,
    .save = fake_save,
    .restore = fake_restore,
    .resume_prepare = fake_resume_prepare,
    .dirty_sample = fake_dirty_sample,
    .log_dirty_off = fake_log_dirty_off,
    .tell = fake_tell,
    .checkpoint = fake_checkpoint,
    .close = fake_close,
};

/* ---- the test's side ---------------------------------------------------------------------------
 */

struct hv_fake *hv_fake_new(void)
{
    pthread_mutexattr_t attributes;
    struct hv_fake *fake =
        mmap(NULL, sizeof(*fake), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (fake == MAP_FAILED)
        return NULL;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&fake->lock, &attributes);
    return fake;
}

void hv_fake_free(struct hv_fake *fake)
{
    munmap(fake, sizeof(*fake));
}

struct hv *hv_fake_open(void *user, struct ha_err *err)
{
    struct handle *handle = calloc(1, sizeof(*handle));

    if (!handle) {
        ha_err_set(err, ENOMEM, "no memory");
        return NULL;
    }
    handle->hv.ops = &fake_ops;
    handle->fake = user;
    return &handle->hv;
}

uint32_t hv_fake_add(struct hv_fake *fake, const struct hv_label *label, enum hv_domain_state state)
{
    return add(fake, label, label ? "labelled" : "foreign", state);
}

uint8_t hv_fake_state(struct hv_fake *fake, uint32_t domid)
{
    lock(fake);
    const struct hv_fake_domain *d = find(fake, domid);
    uint8_t state = d ? d->d.state : 0;
    unlock(fake);
    return state;
}

uint32_t hv_fake_find(struct hv_fake *fake, struct ha_uuid guest)
{
    uint32_t domid = 0;

    lock(fake);
    for (unsigned i = 0; i < HV_FAKE_DOMAINS; i++)
        if (fake->domains[i].is_used && ha_uuid_equal(fake->domains[i].d.label.guest, guest))
            domid = fake->domains[i].d.domid;
    unlock(fake);
    return domid;
}

void hv_fake_set_io(struct hv_fake *fake, uint32_t domid, uint32_t outstanding, bool is_write_back)
{
    lock(fake);
    struct hv_fake_domain *d = find(fake, domid);
    if (d) {
        d->outstanding = outstanding;
        d->is_write_back = is_write_back;
    }
    unlock(fake);
}
