/* SPDX-License-Identifier: Apache-2.0
 *
 * The handle of the embedded driver: options, opening, capabilities, and the verb table.
 */
#include "hamgr/hv/embedded/embedded.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/hv/embedded/disk.h"
#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/observer.h"
#include "hamgr/hv/embedded/uffd.h"

static uint64_t meminfo_kib(const char *key)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long kib = 0;

    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtoull(line + strlen(key), NULL, 10);
    if (file)
        fclose(file);
    return kib;
}

static int emb_caps(struct hv *hv, struct hv_caps *ret_caps)
{
    struct hv_embedded *e = emb_of(hv);

    *ret_caps = (struct hv_caps){
        .driver = "embedded",
        .mem_kib = e->mem_kib,
        .has_live_migration = e->tracking != EMB_TRACK_NONE,
        .has_throttle = emb_cap_is_offered(),
        .has_ring_restore = true,
    };
    snprintf(ret_caps->version, sizeof(ret_caps->version), "%s, %s", HA_VERSION,
             hv_embedded_tracking(hv));
    return 0;
}

/* Nothing doctor asks for: its checks of Xen do not apply. */
static void emb_tell(struct hv *hv, struct ha_facts *facts)
{
    (void)hv, (void)facts;
}

const char *hv_embedded_tracking(struct hv *hv)
{
    switch (emb_of(hv)->tracking) {
    case EMB_TRACK_ASYNC:
        return "asynchronous dirty tracking";
    case EMB_TRACK_SYNC:
        return "synchronous dirty tracking";
    case EMB_TRACK_NONE:
    default:
        return "no dirty tracking";
    }
}

void emb_release_kept(struct hv_embedded *e)
{
    if (e->kept_child > 0)
        waitpid(e->kept_child, NULL, 0);
    e->kept_child = 0;
    if (e->kept_memory)
        munmap(e->kept_memory, e->kept_size);
    e->kept_memory = NULL;
}

static void emb_close(struct hv *hv)
{
    struct hv_embedded *e = emb_of(hv);

    emb_release_kept(e);
    emb_watches_close(e);
    if (e->domains_fd >= 0)
        close(e->domains_fd);
    if (e->run_fd >= 0)
        close(e->run_fd);
    free(e->promises);
    free(e->scratch);
    free(e->pids);
    free(e);
}

static const struct hv_ops OPS = {
    .name = "embedded",
    .caps = emb_caps,
    .list = emb_list,
    .run = emb_run,
    .pause = emb_pause,
    .quiet = emb_quiet,
    .throttle = emb_throttle,
    .event_fd = emb_event_fd,
    .event_clear = emb_event_clear,
    .reserve = emb_reserve,
    .release = emb_release,
    .create = emb_create,
    .shutdown = emb_shutdown,
    .destroy = emb_destroy,
    .suspend = emb_suspend,
    .drain = emb_drain,
    .save = emb_save,
    .restore = emb_restore,
    .resume_prepare = emb_resume_prepare,
    .dirty_sample = emb_dirty_sample,
    .log_dirty_off = emb_log_dirty_off,
    .tell = emb_tell,
    .checkpoint = emb_checkpoint,
    .close = emb_close,
};

static int copy_path(char *to, const char *from, const char *what, struct ha_err *err)
{
    if (!from || from[0] != '/' || strlen(from) >= EMB_PATH_MAX)
        return ha_err_set(err, HA_E_USAGE,
                          "%s '%.80s': expected an absolute path, at most %u bytes", what,
                          from ? from : "", EMB_PATH_MAX - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int open_dir(int at, const char *path, struct ha_err *err)
{
    if (mkdirat(at, path, 0700) != 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", path, strerror(errno));
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : ha_err_set(err, errno, "open %s: %s", path, strerror(errno));
}

static int open_dirs(struct hv_embedded *e, struct ha_err *err)
{
    struct stat st;

    e->run_fd = open_dir(AT_FDCWD, e->run_dir, err);
    if (e->run_fd < 0)
        return e->run_fd;
    e->domains_fd = open_dir(e->run_fd, "domains", err);
    if (e->domains_fd < 0)
        return ha_err_prefix(err, "%s", e->run_dir);
    if (fstat(e->domains_fd, &st) != 0)
        return ha_err_set(err, errno, "stat %s/domains: %s", e->run_dir, strerror(errno));
    e->domains_dev = st.st_dev;
    e->domains_ino = st.st_ino;
    if (access(e->guest_binary, X_OK) != 0)
        return ha_err_set(err, errno, "guest program %s: %s", e->guest_binary, strerror(errno));
    return 0;
}

static int take_options(struct hv_embedded *e, const struct hv_embedded_options *o,
                        struct ha_err *err)
{
    const char *observer = o->observer_path ? o->observer_path : HV_OBSERVER_PATH;
    int rc = copy_path(e->run_dir, o->run_dir, "run directory", err);

    if (rc == 0)
        rc = copy_path(e->guest_binary, o->guest_binary, "guest program", err);
    if (rc == 0)
        rc = copy_path(e->observer_path, observer, "observer page", err);
    if (rc == 0)
        rc =
            copy_path(e->disk_dir, o->disk_dir ? o->disk_dir : EMB_DISK_DIR, "disk directory", err);
    if (rc == 0 && o->node_id > 255)
        rc = ha_err_set(err, HA_E_USAGE, "node id %u: expected 0 to 255", o->node_id);
    e->mem_kib = o->mem_kib != 0 ? o->mem_kib : meminfo_kib("MemTotal:") / 2;
    e->node_id = o->node_id;
    e->guest_uid = o->guest_uid;
    e->is_sync_wp = o->is_sync_wp;
    return rc;
}

/* A pidfd per guest, and some for the daemon itself. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

struct hv *hv_embedded_open_with(const struct hv_embedded_options *options, struct ha_err *err)
{
    struct hv_embedded *e = calloc(1, sizeof(*e));
    int uffd;

    if (!e) {
        ha_err_set(err, HA_E_NO_MEMORY, "embedded driver");
        return NULL;
    }
    e->hv.ops = &OPS;
    e->run_fd = e->domains_fd = e->epoll_fd = -1;
    e->promises = calloc(HA_GUESTS_MAX, sizeof(*e->promises));
    e->scratch = calloc(HA_GUESTS_MAX, sizeof(*e->scratch));
    e->pids = calloc(HA_GUESTS_MAX, sizeof(*e->pids));
    if (!e->promises || !e->scratch || !e->pids)
        ha_err_set(err, HA_E_NO_MEMORY, "embedded driver");
    else if (take_options(e, options, err) == 0 && open_dirs(e, err) == 0) {
        uffd = emb_uffd_open(e->is_sync_wp, &e->tracking);
        if (uffd >= 0)
            close(uffd);
        raise_file_limit();
        return &e->hv;
    }
    ha_err_prefix(err, "embedded hypervisor");
    emb_close(&e->hv);
    return NULL;
}

static uint64_t env_number(const char *name)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : 0;
}

void hv_embedded_options_from_env(struct hv_embedded_options *ret_options)
{
    const char *sync = getenv(HV_EMBEDDED_ENV_SYNC);

    *ret_options = (struct hv_embedded_options){
        .observer_path = getenv(HV_EMBEDDED_ENV_OBSERVER),
        .disk_dir = getenv(HV_EMBEDDED_ENV_DISKS),
        .mem_kib = env_number(HV_EMBEDDED_ENV_MEM_MIB) * 1024,
        .node_id = (uint32_t)env_number(HV_EMBEDDED_ENV_NODE),
        .guest_uid = (uid_t)env_number(HV_EMBEDDED_ENV_UID),
        .is_sync_wp = sync && strcmp(sync, "1") == 0,
    };
}

struct hv *hv_embedded_open(const char *run_dir, const char *guest_binary, struct ha_err *err)
{
    struct hv_embedded_options options;

    hv_embedded_options_from_env(&options);
    options.run_dir = run_dir;
    options.guest_binary = guest_binary;
    return hv_embedded_open_with(&options, err);
}

static size_t clean_text(const char *data, uint64_t from, uint64_t to, char *ret, size_t capacity)
{
    size_t size = 0;

    for (uint64_t n = from; n < to && size + 1 < capacity; n++) {
        char c = data[n % HV_CONSOLE_DATA];
        ret[size++] = c == '\n' || c == '\t' || (c >= ' ' && c <= '~') ? c : '?';
    }
    ret[size] = '\0';
    return size;
}

int hv_embedded_console(struct hv *hv, uint32_t domid, char *ret_text, size_t capacity)
{
    struct emb_domain d;
    struct hv_console console;
    int rc;

    if (capacity == 0)
        return -EINVAL;
    ret_text[0] = '\0';
    rc = emb_domain_open(emb_of(hv), domid, &d, NULL);
    if (rc != 0)
        return rc;
    int fd = openat(d.dir_fd, EMB_FILE_CONSOLE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : pread(fd, &console, sizeof(console), 0);
    if (fd >= 0)
        close(fd);
    emb_domain_close(&d);
    if (n != (ssize_t)sizeof(console))
        return -HA_E_NOT_FOUND;
    uint64_t written = console.written;
    uint64_t room = capacity - 1 < HV_CONSOLE_DATA ? capacity - 1 : HV_CONSOLE_DATA;
    uint64_t from = written > room ? written - room : 0;
    /* Cut in the middle: go on to the next line. */
    while (from != 0 && from < written && console.data[(from - 1) % HV_CONSOLE_DATA] != '\n')
        from++;
    return (int)clean_text(console.data, from, written, ret_text, capacity);
}
