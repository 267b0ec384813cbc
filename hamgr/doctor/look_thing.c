/* SPDX-License-Identifier: Apache-2.0
 *
 * Things that guests' definitions name: is it there, is it what it should be, and a number that two
 * nodes share only if it is the same thing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "hamgr/base/digest.h"
#include "hamgr/doctor/look_internal.h"

#define READ_BYTES   65536u
#define FILE_MAX     (UINT64_C(2) << 30) /* a kernel or ramdisk is never larger */
#define SLAVES_DEPTH 4u                  /* of devices upon devices */

/* File systems that nodes share; linux/magic.h has not all of them. */
#define OCFS2_MAGIC  0x7461636f
#define GFS2_MAGIC   0x01161970
#define CEPH_MAGIC   0x00c36400
#define GLUSTER_FUSE 0x65735546

static uint64_t number_of(const void *data, size_t size)
{
    struct ha_digest digest = ha_digest_bytes((struct ha_digest){0}, data, size);

    return digest.low ? digest.low : 1;
}

static uint8_t state_of_error(void)
{
    return errno == ENOENT || errno == ENOTDIR ? LOOK_MISSING : LOOK_UNKNOWN;
}

/* ---- files ---- */

static bool read_all(int fd, uint64_t *ret_id)
{
    struct ha_digest digest = {0};
    uint8_t *buffer = malloc(READ_BYTES);
    uint64_t total = 0;
    ssize_t part = 1;

    while (buffer && part > 0 && total <= FILE_MAX) {
        size_t size = 0; /* whole parts: the chain depends on how it is cut */
        while (size < READ_BYTES && (part = read(fd, buffer + size, READ_BYTES - size)) > 0)
            size += (size_t)part;
        digest = ha_digest_bytes(digest, buffer, size);
        total += size;
    }
    free(buffer);
    *ret_id = digest.low ? digest.low : 1;
    return buffer && part == 0;
}

static void look_at_file(const char *path, struct look_found *ret)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        ret->state = state_of_error();
        return;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        ret->state = LOOK_WRONG;
    else if (read_all(fd, &ret->id))
        ret->state = LOOK_THERE;
    close(fd);
}

/* ---- disks ---- */

static bool is_shared_type(const struct statfs *fs)
{
    switch ((uint32_t)fs->f_type) {
    case NFS_SUPER_MAGIC:
    case OCFS2_MAGIC:
    case GFS2_MAGIC:
    case CEPH_MAGIC:
    case GLUSTER_FUSE:
    case SMB2_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
        return true;
    default:
        return false;
    }
}

bool look_is_shared(const char *path)
{
    struct statfs fs;

    return statfs(path, &fs) == 0 && is_shared_type(&fs);
}

/* An image: on a shared file system its inode tells it from others. */
static void look_at_image(const struct look *l, const char *path, const char *name,
                          const struct stat *st, struct look_found *ret)
{
    struct statfs fs;

    if (statfs(path, &fs) != 0)
        return;
    uint32_t type = (uint32_t)fs.f_type;
    if (type == TMPFS_MAGIC || type == RAMFS_MAGIC)
        ha_facts_add(l->facts, HA_LIST_VOLATILE, name, 0, "");
    ret->state = is_shared_type(&fs) ? LOOK_THERE : LOOK_LOCAL;
    if (ret->state == LOOK_THERE)
        ret->id = number_of(&st->st_ino, sizeof(st->st_ino));
}

/* What the device says it is: the same wherever it is seen. */
static bool read_identity(const struct look *l, const char *dir, uint64_t *ret_id)
{
    static const char *const names[] = {"dm/uuid", "wwid", "device/wwid", "device/serial", "uuid"};
    char path[LOOK_FULL_MAX], text[256];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int size = snprintf(path, sizeof(path), "%.400s/%s", dir, names[i]);
        if (size < (int)sizeof(path) && look_text(l, path, text, sizeof(text)) && text[0] != '\0' &&
            text[0] != '\n') {
            *ret_id = number_of(text, strlen(text));
            return true;
        }
    }
    return false;
}

/* The elevator in force stands in brackets. */
static void look_at_scheduler(const struct look *l, const char *dir, const char *name)
{
    char path[LOOK_FULL_MAX], text[128];

    int size = snprintf(path, sizeof(path), "%.400s/queue/scheduler", dir);
    if (size >= (int)sizeof(path) || !look_text(l, path, text, sizeof(text)))
        return;
    char *begin = strchr(text, '[');
    char *end = begin ? strchr(begin, ']') : NULL;
    if (!end)
        return;
    *end = '\0';
    if (strcmp(begin + 1, "none") == 0 || strcmp(begin + 1, "mq-deadline") == 0)
        return;
    for (uint32_t i = 0; i < l->facts->item_count; i++) {
        const struct ha_fact_item *item = &l->facts->items[i];
        if (item->list == HA_LIST_SCHEDULER && strcmp(item->subject, name) == 0)
            return;
    }
    ha_facts_add(l->facts, HA_LIST_SCHEDULER, name, 0, begin + 1);
}

/* The device's own elevator, and those of the devices below it (device mapper, MD). */
static void look_below(const struct look *l, const char *dir, const char *name, unsigned depth)
{
    char path[LOOK_FULL_MAX], full[LOOK_FULL_MAX];
    struct dirent *entry;

    look_at_scheduler(l, dir, name);
    snprintf(path, sizeof(path), "%.400s/slaves", dir);
    DIR *list = depth > 0 && look_path(l, full, "%s", path) ? opendir(full) : NULL;
    while (list && (entry = readdir(list)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/sys/class/block/%.200s", entry->d_name);
        look_below(l, path, entry->d_name, depth - 1);
    }
    if (list)
        closedir(list);
}

/* The name of the whole disk: a partition's directory lies in its disk's. */
static bool find_disk(const struct look *l, dev_t device, char *ret_dir, char *ret_name)
{
    char path[LOOK_FULL_MAX], link[LOOK_FULL_MAX];
    struct stat st;

    if (!look_path(l, path, "/sys/dev/block/%u:%u", major(device), minor(device)))
        return false;
    ssize_t size = readlink(path, link, sizeof(link) - 1);
    if (size <= 0)
        return false;
    link[size] = '\0';
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(device), minor(device));
    if (look_stat(l, path, &st) && strrchr(link, '/'))
        *strrchr(link, '/') = '\0';
    const char *name = strrchr(link, '/');
    if (!name)
        return false;
    snprintf(ret_name, HA_FACT_SUBJECT_MAX, "%.90s", name + 1);
    snprintf(ret_dir, LOOK_FULL_MAX, "/sys/class/block/%.90s", name + 1);
    return true;
}

static void look_at_device(const struct look *l, const struct stat *st, struct look_found *ret)
{
    char dir[LOOK_FULL_MAX], name[HA_FACT_SUBJECT_MAX], path[LOOK_FULL_MAX], text[32];
    uint64_t id, sectors = 0;

    ret->state = LOOK_THERE;
    if (!find_disk(l, st->st_rdev, dir, name))
        return;
    if (read_identity(l, dir, &id)) {
        /* With start and length, so that another partition of the disk is another disk. */
        uint64_t parts[3] = {id};
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/start", major(st->st_rdev),
                 minor(st->st_rdev));
        if (look_text(l, path, text, sizeof(text)))
            parts[1] = strtoull(text, NULL, 10);
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/size", major(st->st_rdev),
                 minor(st->st_rdev));
        if (look_text(l, path, text, sizeof(text)))
            sectors = strtoull(text, NULL, 10);
        parts[2] = sectors;
        ret->id = number_of(parts, sizeof(parts));
    }
    look_below(l, dir, name, SLAVES_DEPTH);
}

static void look_at_disk(const struct look *l, const char *path, const char *name,
                         struct look_found *ret)
{
    struct stat st;

    if (stat(path, &st) != 0)
        ret->state = state_of_error();
    else if (S_ISBLK(st.st_mode))
        look_at_device(l, &st, ret);
    else if (S_ISREG(st.st_mode))
        look_at_image(l, path, name, &st, ret);
    else
        ret->state = LOOK_WRONG;
}

/* ---- bridges ---- */

static void look_at_bridge(const struct look *l, const char *name, struct look_found *ret)
{
    char path[LOOK_FULL_MAX], full[LOOK_FULL_MAX];
    struct stat st;

    snprintf(path, sizeof(path), "/sys/class/net/%.100s", name);
    if (!look_path(l, full, "%s", path) || stat(full, &st) != 0) {
        ret->state = state_of_error();
        return;
    }
    /* Open vSwitch's are plain devices to the kernel: only what has a link below is refused. */
    snprintf(path, sizeof(path), "/sys/class/net/%.100s/device", name);
    ret->state = look_stat(l, path, &st) ? LOOK_WRONG : LOOK_THERE;
}

void look_thing(const struct look *l, const struct look_thing *thing, struct look_found *ret)
{
    char full[LOOK_FULL_MAX];

    *ret = (struct look_found){.state = LOOK_UNKNOWN};
    if (!look_path(l, full, "%s", thing->name))
        return;
    switch ((enum look_kind)thing->kind) {
    case LOOK_FILE:
        look_at_file(full, ret);
        break;
    case LOOK_DISK:
        look_at_disk(l, full, thing->name, ret);
        break;
    case LOOK_BRIDGE:
        look_at_bridge(l, thing->name, ret);
        break;
    case LOOK_MEDIUM:
        ret->state = access(full, F_OK) == 0 ? LOOK_THERE : state_of_error();
        break;
    }
}
