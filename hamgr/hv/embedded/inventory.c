/* SPDX-License-Identifier: Apache-2.0
 *
 * What runs here: every record with its process, and every process that carries our mark without a
 * record that names it. Also the pidfds that tell when one of them ends.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/proc.h"

static bool read_id(const char *name, uint32_t *ret)
{
    char *end = NULL;
    unsigned long value;

    if (name[0] < '1' || name[0] > '9')
        return false;
    value = strtoul(name, &end, 10);
    if (*end != '\0' || value >= EMB_UNKNOWN_BIT)
        return false;
    *ret = (uint32_t)value;
    return true;
}

/* ---- watches ---- */

static uint32_t watch_place(const struct hv_embedded *e, uint32_t domid)
{
    uint32_t low = 0, high = e->watch_count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (e->watches[middle].domid < domid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void watch(struct hv_embedded *e, uint32_t domid, int pidfd)
{
    uint32_t at = watch_place(e, domid);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = domid};

    if (e->epoll_fd < 0)
        return;
    if (at < e->watch_count && e->watches[at].domid == domid) {
        e->watches[at].is_seen = true;
        return;
    }
    int fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0 || e->watch_count >= HA_GUESTS_MAX ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        if (fd >= 0)
            close(fd);
        return; /* the caller lists from time to time anyway */
    }
    memmove(&e->watches[at + 1], &e->watches[at], (e->watch_count - at) * sizeof(*e->watches));
    e->watches[at] = (struct emb_watch){.domid = domid, .pidfd = fd, .is_seen = true};
    e->watch_count++;
}

static void drop_watches(struct hv_embedded *e, bool (*is_wanted)(const struct emb_watch *watch))
{
    uint32_t kept = 0;

    for (uint32_t n = 0; n < e->watch_count; n++) {
        if (is_wanted && is_wanted(&e->watches[n]))
            e->watches[kept++] = e->watches[n];
        else
            close(e->watches[n].pidfd); /* and with it its place in the epoll set */
    }
    e->watch_count = kept;
}

static bool is_seen(const struct emb_watch *w)
{
    return w->is_seen;
}

static bool is_alive(const struct emb_watch *w)
{
    return !emb_proc_wait_gone(w->pidfd, 0);
}

void emb_watches_close(struct hv_embedded *e)
{
    drop_watches(e, NULL);
    free(e->watches);
    e->watches = NULL;
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    e->epoll_fd = -1;
}

int emb_event_fd(struct hv *hv)
{
    struct hv_embedded *e = emb_of(hv);

    if (e->epoll_fd >= 0)
        return e->epoll_fd;
    e->watches = calloc(HA_GUESTS_MAX, sizeof(*e->watches));
    e->epoll_fd = e->watches ? epoll_create1(EPOLL_CLOEXEC) : -1;
    if (e->epoll_fd >= 0)
        emb_list(hv, e->scratch, HA_GUESTS_MAX);
    return e->epoll_fd;
}

/* An ended process stays readable for ever: it is watched no more. */
void emb_event_clear(struct hv *hv)
{
    drop_watches(emb_of(hv), is_alive);
}

/* ---- records ---- */

/* The guest's word: a number to be shown, nothing rests on it. */
static uint32_t seen_pause_us(const struct emb_domain *d)
{
    const off_t at = offsetof(struct emb_status_page, arrived_gap_ns);
    uint64_t ns = 0;
    int fd = openat(d->dir_fd, EMB_FILE_STATUS, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return 0;
    if (pread(fd, &ns, sizeof(ns), at) != (ssize_t)sizeof(ns))
        ns = 0;
    close(fd);
    return ns / 1000 < UINT32_MAX ? (uint32_t)(ns / 1000) : UINT32_MAX;
}

static bool describe(struct hv_embedded *e, uint32_t domid, struct hv_domain *ret)
{
    struct emb_domain d;

    if (emb_domain_open(e, domid, &d, NULL) != 0)
        return false;
    *ret = (struct hv_domain){
        .domid = domid,
        .is_labelled = true,
        .label = d.record.label,
        .state = (uint8_t)emb_domain_state(&d),
        .mem_kib = d.record.mem_kib,
    };
    memcpy(ret->name, d.record.name, sizeof(ret->name));
    if (d.record.is_restored != 0 && ret->state == HV_RUNNING)
        ret->pause_us = seen_pause_us(&d);
    if (d.pidfd >= 0) {
        watch(e, domid, d.pidfd);
        if (e->pid_count < HA_GUESTS_MAX)
            e->pids[e->pid_count++] = d.record.pid;
    }
    emb_domain_close(&d);
    return true;
}

static DIR *open_again(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

    if (!dir && fd >= 0)
        close(fd);
    return dir;
}

int emb_list_records(struct hv_embedded *e, struct hv_domain *ret, uint32_t capacity)
{
    DIR *dir = open_again(e->domains_fd);
    struct dirent *entry;
    uint32_t count = 0;

    if (!dir)
        return -errno;
    e->pid_count = 0;
    for (uint32_t n = 0; n < e->watch_count; n++)
        e->watches[n].is_seen = false;
    while (count < capacity && (entry = readdir(dir)) != NULL) {
        uint32_t domid;
        if (read_id(entry->d_name, &domid) && describe(e, domid, &ret[count]))
            count++;
    }
    closedir(dir);
    drop_watches(e, is_seen);
    return (int)count;
}

/* ---- processes nobody names ---- */

/* The mark: descriptor EMB_FD_DOMAINS is our domains directory. A guest can neither close nor make
 * one, and another node's guests (same machine, other namespace) have another directory. */
bool emb_is_marked(const struct hv_embedded *e, uint32_t pid)
{
    char path[64];
    char comm[32] = "";
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%u/fd/%d", pid, EMB_FD_DOMAINS);
    if (stat(path, &st) != 0 || st.st_dev != e->domains_dev || st.st_ino != e->domains_ino)
        return false;
    snprintf(path, sizeof(path), "/proc/%u/comm", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, comm, sizeof(comm) - 1);
    close(fd);
    return n > 0 && strcmp(comm, EMB_COMM "\n") == 0;
}

static int compare_pids(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static bool describe_unknown(uint32_t pid, struct hv_domain *ret)
{
    struct emb_proc proc;

    if (emb_proc_read((pid_t)pid, &proc) != 0 || !emb_proc_is_alive(&proc))
        return false;
    *ret = (struct hv_domain){
        .domid = EMB_UNKNOWN_BIT | pid,
        .state = emb_proc_is_stopped((pid_t)pid) ? HV_PAUSED : HV_RUNNING,
    };
    snprintf(ret->name, sizeof(ret->name), "unknown-%u", pid);
    return true;
}

static uint32_t list_unknown(const struct hv_embedded *e, struct hv_domain *ret, uint32_t capacity)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    uint32_t count = 0;

    while (dir && count < capacity && (entry = readdir(dir)) != NULL) {
        uint32_t pid;
        if (!read_id(entry->d_name, &pid) ||
            bsearch(&pid, e->pids, e->pid_count, sizeof(pid), compare_pids))
            continue;
        if (emb_is_marked(e, pid) && describe_unknown(pid, &ret[count]))
            count++;
    }
    if (dir)
        closedir(dir);
    return count;
}

/* A guest built between the two passes looks unknown: then both are made once more, and what is
 * still unknown was there before the second reading of the records. */
int emb_list(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity)
{
    struct hv_embedded *e = emb_of(hv);
    int count = 0;

    for (int pass = 0; pass < 3; pass++) {
        count = emb_list_records(e, ret_domains, capacity);
        if (count < 0)
            return count;
        qsort(e->pids, e->pid_count, sizeof(e->pids[0]), compare_pids);
        uint32_t unknown = list_unknown(e, ret_domains + count, capacity - (uint32_t)count);
        if (unknown == 0 || pass == 2)
            return count + (int)unknown;
    }
    return count;
}

uint64_t emb_free_kib(const struct hv_embedded *e, const struct hv_domain *domains, int count,
                      const struct hv_label *except)
{
    uint64_t held_kib = 0;

    for (int n = 0; n < count; n++)
        if (!domains[n].is_labelled || !emb_label_equal(&domains[n].label, except))
            held_kib += domains[n].mem_kib;
    for (uint32_t p = 0; p < e->promise_count; p++) {
        bool is_held = emb_label_equal(&e->promises[p].label, except);
        for (int n = 0; n < count && !is_held; n++)
            is_held =
                domains[n].is_labelled && emb_label_equal(&domains[n].label, &e->promises[p].label);
        held_kib += is_held ? 0 : e->promises[p].mem_kib;
    }
    return held_kib < e->mem_kib ? e->mem_kib - held_kib : 0;
}
