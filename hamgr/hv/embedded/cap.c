/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/cap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define QUOTA_LEAST_US  1000u /* the kernel's own */
#define PERIOD_LEAST_US 10000u
#define PERIOD_MOST_US  ((uint32_t)EMB_CAP_PERIOD_US)
/* A process that was just moved away is counted out of its group within microseconds. */
#define REMOVE_TRIES 50

struct hierarchy {
    const char *root; /* NULL: none */
    bool is_unified;  /* cgroup v2 */
};

/* What the file in the domain's directory says. */
struct place {
    char group[EMB_PATH_MAX];  /* made by us */
    char origin[EMB_PATH_MAX]; /* where the guest was */
};

/* ---- small files ---- */

static int write_at(const char *directory, const char *name, const char *text)
{
    char path[2 * EMB_PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    int rc = n < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/* At most size - 1 bytes, with a NUL. Returns the count or a negative error. */
static ssize_t read_fd(int fd, char *ret, size_t size)
{
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret, size - 1);
    n = n < 0 ? -errno : n;
    close(fd);
    ret[n < 0 ? 0 : n] = '\0';
    return n;
}

static ssize_t read_path(const char *path, char *ret, size_t size)
{
    return read_fd(open(path, O_RDONLY | O_CLOEXEC), ret, size);
}

/* ---- the hierarchy ---- */

static bool has_cpu(const char *words)
{
    size_t length = strcspn(words, " \n");

    while (length > 0 && !(length == 3 && memcmp(words, "cpu", 3) == 0)) {
        words += length + strspn(words + length, " \n");
        length = strcspn(words, " \n");
    }
    return length > 0;
}

/* The unified hierarchy gives children a quota only when its root says so. */
static bool is_unified_usable(const char *root)
{
    char words[256];
    char path[EMB_PATH_MAX];

    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", root);
    if (read_path(path, words, sizeof(words)) >= 0 && has_cpu(words))
        return true;
    return write_at(root, "cgroup.subtree_control", "+cpu") == 0;
}

static struct hierarchy find_hierarchy(void)
{
    static const char *const older[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    static const char unified[] = "/sys/fs/cgroup";
    char path[EMB_PATH_MAX], words[256];

    for (size_t i = 0; i < sizeof(older) / sizeof(older[0]); i++) {
        snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", older[i]);
        if (access(path, F_OK) == 0 && access(older[i], W_OK) == 0)
            return (struct hierarchy){older[i], false};
    }
    snprintf(path, sizeof(path), "%s/cgroup.controllers", unified);
    if (read_path(path, words, sizeof(words)) >= 0 && has_cpu(words) && is_unified_usable(unified))
        return (struct hierarchy){unified, true};
    return (struct hierarchy){NULL, false};
}

bool emb_cap_is_offered(void)
{
    return find_hierarchy().root != NULL;
}

/* The guest's present group, from the line of /proc/PID/cgroup that is about this hierarchy:
 * "0::/path", or "4:cpu,cpuacct:/path". */
static void find_origin(const struct hierarchy *h, uint32_t pid, char *ret, size_t size)
{
    char path[64], text[4096];
    char *rest = text;

    snprintf(ret, size, "%s", h->root);
    snprintf(path, sizeof(path), "/proc/%u/cgroup", pid);
    if (read_path(path, text, sizeof(text)) < 0)
        return;
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        char *names = strchr(line, ':');
        char *where = names ? strchr(names + 1, ':') : NULL;
        if (!where)
            continue;
        *where = '\0';
        bool is_it = h->is_unified ? names[1] == '\0'
                                   : strncmp(names + 1, "cpu", 3) == 0 &&
                                         (names[4] == '\0' || names[4] == ',');
        if (is_it && strcmp(where + 1, "/") != 0)
            snprintf(ret, size, "%s%s", h->root, where + 1);
    }
}

/* ---- the note in the domain's directory ---- */

/* False: the guest was never slowed down, or is no more. */
static bool read_place(const struct emb_domain *d, struct place *ret)
{
    char text[2 * EMB_PATH_MAX];
    char *rest = text;

    if (d->dir_fd < 0 || read_fd(openat(d->dir_fd, EMB_FILE_CAP, O_RDONLY | O_CLOEXEC | O_NOFOLLOW),
                                 text, sizeof(text)) <= 0)
        return false;
    char *group = strsep(&rest, "\n");
    char *origin = strsep(&rest, "\n");
    if (!group || !origin || strlen(group) >= EMB_PATH_MAX || strlen(origin) >= EMB_PATH_MAX)
        return false;
    memcpy(ret->group, group, strlen(group) + 1);
    memcpy(ret->origin, origin, strlen(origin) + 1);
    return true;
}

static int write_place(const struct emb_domain *d, const struct place *place)
{
    char text[2 * EMB_PATH_MAX];
    int fd = openat(d->dir_fd, EMB_FILE_CAP, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                    0600);

    if (fd < 0)
        return -errno;
    int size = snprintf(text, sizeof(text), "%s\n%s\n", place->group, place->origin);
    ssize_t n = write(fd, text, (size_t)size);
    close(fd);
    return n == size ? 0 : -EIO;
}

/* ---- verbs ---- */

static int set_quota(const struct hierarchy *h, const char *group, uint32_t permille)
{
    uint32_t period_us = QUOTA_LEAST_US * EMB_CAP_PERMILLES / permille;
    char text[32], period[16];

    if (period_us < PERIOD_LEAST_US)
        period_us = PERIOD_LEAST_US;
    if (period_us > PERIOD_MOST_US)
        period_us = PERIOD_MOST_US;
    uint32_t quota_us = period_us * permille / EMB_CAP_PERMILLES;
    if (quota_us < QUOTA_LEAST_US)
        quota_us = QUOTA_LEAST_US;
    if (h->is_unified) {
        snprintf(text, sizeof(text), "%u %u", quota_us, period_us);
        return write_at(group, "cpu.max", text);
    }
    /* Two files: without a quota the period may be anything. */
    snprintf(period, sizeof(period), "%u", period_us);
    snprintf(text, sizeof(text), "%u", quota_us);
    int rc = write_at(group, "cpu.cfs_quota_us", "-1");
    if (rc == 0)
        rc = write_at(group, "cpu.cfs_period_us", period);
    return rc == 0 ? write_at(group, "cpu.cfs_quota_us", text) : rc;
}

static int enter(const struct hierarchy *h, const struct emb_domain *d, struct place *place,
                 uint32_t permille)
{
    char pid[16];
    const uint8_t *id = d->record.label.guest.b;

    find_origin(h, d->record.pid, place->origin, sizeof(place->origin));
    snprintf(place->group, sizeof(place->group), "%s/hamgr-guest-%02x%02x%02x%02x-%u-%" PRIu64,
             h->root, id[0], id[1], id[2], id[3], d->record.pid, d->record.start_time);
    int rc = write_place(d, place);
    if (rc == 0 && mkdir(place->group, 0755) != 0 && errno != EEXIST)
        rc = -errno;
    if (rc == 0)
        rc = set_quota(h, place->group, permille);
    snprintf(pid, sizeof(pid), "%u", d->record.pid);
    return rc == 0 ? write_at(place->group, "cgroup.procs", pid) : rc;
}

int emb_cap_set(const struct emb_domain *d, uint32_t permille, struct ha_err *err)
{
    struct hierarchy h = find_hierarchy();
    struct place place;
    int rc;

    if (!h.root)
        return ha_err_set(err, ENOTSUP, "no control group with a processor quota can be made here");
    if (permille < EMB_CAP_LEAST)
        permille = EMB_CAP_LEAST;
    if (read_place(d, &place))
        rc = set_quota(&h, place.group, permille);
    else
        rc = enter(&h, d, &place, permille);
    if (rc == 0)
        return 0;
    emb_cap_off(d, NULL);
    return ha_err_set(err, -rc, "slow domain %u down: %s", d->record.domid, strerror(-rc));
}

void emb_cap_lift(const struct emb_domain *d)
{
    struct place place;

    if (!read_place(d, &place))
        return;
    if (write_at(place.group, "cpu.max", "max") != 0)
        (void)write_at(place.group, "cpu.cfs_quota_us", "-1");
}

static int remove_group(const char *group)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    for (int n = 0; n < REMOVE_TRIES; n++) {
        if (rmdir(group) == 0 || errno == ENOENT)
            return 0;
        if (errno != EBUSY)
            break;
        nanosleep(&nap, NULL);
    }
    return -errno;
}

int emb_cap_off(const struct emb_domain *d, struct ha_err *err)
{
    struct place place;
    char pid[16];

    if (!read_place(d, &place))
        return 0;
    emb_cap_lift(d);
    snprintf(pid, sizeof(pid), "%u", d->record.pid);
    if (d->pidfd >= 0 && write_at(place.origin, "cgroup.procs", pid) != 0) {
        /* Its group of before is gone: the one above ours is always there. */
        char *end = strrchr(place.group, '/');
        *end = '\0';
        (void)write_at(place.group, "cgroup.procs", pid);
        *end = '/';
    }
    int rc = remove_group(place.group);
    if (rc != 0)
        return ha_err_set(err, -rc, "remove %s: %s", place.group, strerror(-rc));
    unlinkat(d->dir_fd, EMB_FILE_CAP, 0);
    return 0;
}

uint64_t emb_cap_used_ns(const struct emb_domain *d)
{
    char path[64], text[128];

    snprintf(path, sizeof(path), "/proc/%u/schedstat", d->record.pid);
    if (read_path(path, text, sizeof(text)) <= 0)
        return 0;
    return strtoull(text, NULL, 10);
}
