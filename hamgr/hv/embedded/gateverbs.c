/* SPDX-License-Identifier: Apache-2.0
 *
 * The verbs of the gate: a few system calls each, bounded in milliseconds, no other service.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/proc.h"

enum hv_outcome emb_run(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct emb_domain d;

    if (emb_domain_open_alive(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    int lock = emb_domain_lock(&d, EMB_FILE_LOCK, EMB_RUN_LOCK_MS, err);
    enum hv_outcome outcome = HV_FAILED;
    if (lock >= 0 && emb_domain_reread(&d, err) == 0) {
        int rc = d.record.phase == EMB_COMPLETE ? emb_proc_signal(d.pidfd, SIGCONT) : 0;
        if (d.record.phase != EMB_COMPLETE)
            hv_failed(err, HA_E_REFUSED, "domain %u is suspended or being destroyed", domid);
        else if (rc != 0)
            hv_failed(err, -rc, "continue domain %u: %s", domid, strerror(-rc));
        else
            outcome = HV_OK;
    }
    if (lock >= 0)
        close(lock);
    emb_domain_close(&d);
    return outcome;
}

/* A process without a record: the domid is its pid. It may end and another take the pid, but the
 * mark is looked at between opening the pidfd and signalling. */
static enum hv_outcome pause_unknown(struct hv_embedded *e, uint32_t domid, struct ha_err *err)
{
    pid_t pid = (pid_t)(domid & ~EMB_UNKNOWN_BIT);
    struct emb_proc proc;
    struct emb_domain d = {.dir_fd = -1, .record = {.domid = domid, .pid = (uint32_t)pid}};

    if (emb_proc_read(pid, &proc) != 0)
        return HV_OK;
    d.record.start_time = proc.start_time;
    d.pidfd = emb_proc_open(pid, proc.start_time, NULL);
    if (d.pidfd < 0)
        return HV_OK;
    if (!emb_is_marked(e, (uint32_t)pid)) {
        emb_domain_close(&d);
        return hv_failed(err, HA_E_NOT_FOUND, "no domain %u", domid);
    }
    int rc = emb_domain_stop(&d, EMB_PAUSE_MS, err);
    emb_domain_close(&d);
    return rc == 0 || rc == -HA_E_NOT_FOUND ? HV_OK : HV_UNKNOWN;
}

enum hv_outcome emb_pause(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct emb_domain d;

    if ((domid & EMB_UNKNOWN_BIT) != 0)
        return pause_unknown(emb_of(hv), domid, err);
    int rc = emb_domain_open(emb_of(hv), domid, &d, err);
    if (rc != 0)
        return rc == -HA_E_NOT_FOUND ? HV_FAILED : HV_UNKNOWN;
    /* What is being built never ran, and its builder needs it unstopped; what ended is still. */
    if (d.record.phase != EMB_BUILDING && d.pidfd >= 0)
        rc = emb_domain_stop(&d, EMB_PAUSE_MS, err);
    emb_domain_close(&d);
    return rc == 0 || rc == -HA_E_NOT_FOUND ? HV_OK : HV_UNKNOWN;
}

enum hv_quiet emb_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX])
{
    struct emb_domain d;
    struct ha_err err = {0};

    ret_why[0] = '\0';
    if ((domid & EMB_UNKNOWN_BIT) != 0) {
        if (kill((pid_t)(domid & ~EMB_UNKNOWN_BIT), 0) != 0 && errno == ESRCH)
            return HV_QUIET;
        snprintf(ret_why, HA_TEXT_MAX, "it can't be identified, so neither can its disk");
        return HV_NEVER_QUIET;
    }
    int rc = emb_domain_open(emb_of(hv), domid, &d, &err);
    if (rc == -HA_E_NOT_FOUND)
        return HV_QUIET;
    if (rc != 0) {
        memcpy(ret_why, err.text, HA_TEXT_MAX);
        return HV_BUSY;
    }
    enum hv_quiet quiet = emb_domain_quiet(emb_of(hv), &d, ret_why);
    emb_domain_close(&d);
    return quiet;
}

enum hv_outcome emb_throttle(struct hv *hv, uint32_t domid, uint32_t percent, struct ha_err *err)
{
    struct emb_domain d;

    if (percent < 1 || percent > 100)
        return hv_failed(err, HA_E_USAGE, "throttle %u: expected 1 to 100 percent", percent);
    if (!emb_cap_is_offered()) {
        hv_failed(err, ENOTSUP, "no control group with a processor quota can be made here");
        return HV_NOT_OFFERED;
    }
    if (emb_domain_open_alive(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    int rc = percent == 100 ? emb_cap_off(&d, err)
                            : emb_cap_set(&d, percent * EMB_CAP_PERMILLES / 100, err);
    emb_domain_close(&d);
    return rc == 0 ? HV_OK : HV_FAILED;
}

/* ---- memory promises ---- */

static uint64_t available_kib(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long kib = 0;

    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kib = strtoull(line + 13, NULL, 10);
    if (file)
        fclose(file);
    return kib;
}

static uint32_t promise_place(const struct hv_embedded *e, const struct hv_label *label)
{
    uint32_t n = 0;

    while (n < e->promise_count && !emb_label_equal(&e->promises[n].label, label))
        n++;
    return n;
}

enum hv_outcome emb_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                            struct ha_err *err)
{
    struct hv_embedded *e = emb_of(hv);
    int count = emb_list_records(e, e->scratch, HA_GUESTS_MAX);
    uint64_t free_kib = emb_free_kib(e, e->scratch, count, label);
    uint64_t real_kib = available_kib();
    uint32_t at = promise_place(e, label);

    if (mem_kib > free_kib)
        return hv_failed(err, HA_E_NO_MEMORY, "%llu MiB wanted, %llu of %llu MiB are free",
                         (unsigned long long)(mem_kib >> 10), (unsigned long long)(free_kib >> 10),
                         (unsigned long long)(e->mem_kib >> 10));
    if (mem_kib > real_kib)
        return hv_failed(err, HA_E_NO_MEMORY, "%llu MiB wanted, the node has %llu MiB available",
                         (unsigned long long)(mem_kib >> 10), (unsigned long long)(real_kib >> 10));
    if (at == HA_GUESTS_MAX)
        return hv_failed(err, HA_E_LIMIT, "%u memory promises", HA_GUESTS_MAX);
    e->promises[at] = (struct emb_promise){.label = *label, .mem_kib = mem_kib};
    if (at == e->promise_count)
        e->promise_count++;
    return HV_OK;
}

void emb_release(struct hv *hv, const struct hv_label *label)
{
    struct hv_embedded *e = emb_of(hv);
    uint32_t at = promise_place(e, label);

    if (at < e->promise_count)
        e->promises[at] = e->promises[--e->promise_count];
}
