/* SPDX-License-Identifier: Apache-2.0
 *
 * The xen driver under the contract, in a dom0. Guests are a kernel and the one program of
 * xen_guest.c, seen through what it writes to its own part of xenstore. Where they are is said by
 *   HAMGR_XEN_KERNEL, HAMGR_XEN_INITRAMFS   files (xen_initramfs.py makes the second)
 *   HAMGR_XEN_KIND                          pv, or pvh (default: live on hypervisors of any build)
 *   HAMGR_XEN_HELPER                        who moves memory: stock (default) or auto
 */
#include "contract.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/xen/xen.h"
#include "hamgr/hv/xen/xs.h"

#define LEAST_MIB  96u
#define GUESTS_MAX 64u
#define DOMAINS    64u

struct seen {
    uint64_t steps, damages;
    uint64_t epoch; /* of the newest copy looked at; the one it came from may be there still */
    uint32_t domid; /* of that */
    uint64_t checks_needed;
};

static char directory[64];
static char run_dir[80];
static char allow_path[80];
static struct seen guests[GUESTS_MAX];
static struct xs_client *store;

static const char *file_of(const char *name)
{
    const char *path = getenv(name);

    return path && path[0] == '/' && access(path, R_OK) == 0 ? path : NULL;
}

static const char *write_allow(const char *kernel, const char *initramfs)
{
    FILE *file = fopen(allow_path, "we");

    if (!file)
        return "no file for the list of roots";
    fprintf(file, "root = %.*s\nroot = %.*s\n", (int)(strrchr(kernel, '/') - kernel), kernel,
            (int)(strrchr(initramfs, '/') - initramfs), initramfs);
    return fclose(file) == 0 ? NULL : "no file for the list of roots";
}

static const char *set_up(void)
{
    const char *kernel = file_of("HAMGR_XEN_KERNEL"), *initramfs = file_of("HAMGR_XEN_INITRAMFS");

    if (access("/proc/xen/capabilities", R_OK) != 0)
        return "not in a dom0";
    if (!kernel || !initramfs)
        return "HAMGR_XEN_KERNEL and HAMGR_XEN_INITRAMFS name no files";
    snprintf(directory, sizeof(directory), "/dev/shm/hamgr-contract-XXXXXX");
    if (!mkdtemp(directory))
        return "no directory";
    snprintf(run_dir, sizeof(run_dir), "%s/run", directory);
    snprintf(allow_path, sizeof(allow_path), "%s/allow", directory);
    memset(guests, 0, sizeof(guests));
    store = xs_client_new(XS_SOCKET);
    return write_allow(kernel, initramfs);
}

/* Records of domains that a test left are of no use: the directory goes whole. */
static void tear_down(void)
{
    char path[160];
    DIR *names;
    struct dirent *entry;

    xs_client_close(store);
    snprintf(path, sizeof(path), "%s/domains", run_dir);
    names = opendir(path);
    while (names && (entry = readdir(names)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(names), entry->d_name, 0);
    if (names)
        closedir(names);
    snprintf(path, sizeof(path), "%s/domains", run_dir);
    rmdir(path);
    rmdir(run_dir);
    unlink(allow_path);
    rmdir(directory);
}

static struct hv *open_driver(void)
{
    const char *helper = getenv("HAMGR_XEN_HELPER");
    const struct hv_xen_options options = {.run_dir = run_dir,
                                           .allow_path = allow_path,
                                           .helper = helper && strcmp(helper, "auto") == 0 ? helper
                                                                                           : NULL,
                                           .is_verifying = getenv("HAMGR_XEN_VERIFY") != NULL};
    struct ha_err err = {0};
    struct hv *opened = hv_xen_open(&options, &err);

    if (!opened)
        fail_msg("%s", err.text);
    return opened;
}

static size_t define(const struct contract_guest *g, char *text, size_t capacity)
{
    const char *kind = getenv("HAMGR_XEN_KIND");
    unsigned long long kib = memory_kib_of(g);
    unsigned dirty = g->dirty_mib_s != 0 ? g->dirty_mib_s : 1;
    unsigned step_ms = g->step_ms > 20 ? g->step_ms : 20; /* each step asks xenstored */

    kind = kind && strcmp(kind, "pv") == 0 ? "pv" : "pvh";
    int n =
        snprintf(text, capacity,
                 "{\"c_info\":{\"type\":\"%s\",\"name\":\"%s\"},\"b_info\":{\"max_vcpus\":1,"
                 "\"avail_vcpus\":[0],\"max_memkb\":%llu,\"target_memkb\":%llu,\"kernel\":\"%s\","
                 "\"ramdisk\":\"%s\",\"cmdline\":\"console=hvc0 quiet panic=0 hamgr.mib=%u "
                 "hamgr.dirty_kib_s=%u hamgr.step_ms=%u hamgr.end=%d\",\"type.%s\":{}},"
                 "\"on_reboot\":\"restart\"}",
                 kind, g->name, kib, kib, getenv("HAMGR_XEN_KERNEL"), getenv("HAMGR_XEN_INITRAMFS"),
                 g->memory_mib != 0 ? g->memory_mib : 4, dirty * 1024, step_ms, g->end, kind);

    return (size_t)n;
}

/* ---- what a guest says of itself ---- */

static void look(struct seen *seen, uint32_t domid, uint64_t epoch)
{
    char path[64], text[96];
    unsigned long long steps, checks, damages;

    snprintf(path, sizeof(path), "/local/domain/%u/data/hamgr", domid);
    if (xs_client_read(store, path, text, sizeof(text)) < 0 ||
        sscanf(text, "%llu %llu %llu", &steps, &checks, &damages) != 3)
        return;
    if (steps > seen->steps)
        seen->steps = steps;
    if (damages > seen->damages)
        seen->damages = damages;
    if (seen->domid != domid && epoch >= seen->epoch) {
        /* The first copy has no past; of another, the pass that is going on began elsewhere. */
        seen->checks_needed = seen->domid == 0 ? 1 : checks + 2;
        seen->domid = domid;
        seen->epoch = epoch;
    }
}

/* Looks at every copy of the guest; the domid of the one with that epoch, or 0. */
static uint32_t look_at_all(uint32_t number, uint64_t epoch)
{
    struct hv_domain list[DOMAINS];
    struct contract_guest guest = {.number = number, .epoch = epoch};
    struct hv_label label = label_of(&guest);
    int count = hv->ops->list(hv, list, DOMAINS);
    uint32_t domid = 0;

    for (int n = 0; n < count; n++) {
        if (!list[n].is_labelled || !ha_uuid_equal(list[n].label.guest, label.guest))
            continue;
        look(&guests[number % GUESTS_MAX], list[n].domid, list[n].label.epoch);
        if (list[n].label.epoch == epoch)
            domid = list[n].domid;
    }
    return domid;
}

static uint64_t steps(uint32_t number)
{
    (void)look_at_all(number, 0);
    return guests[number % GUESTS_MAX].steps;
}

/* A pass may have begun in an older copy: the second one after its first word counts. */
static bool is_checked(uint32_t number, uint64_t epoch)
{
    struct seen *seen = &guests[number % GUESTS_MAX];
    uint32_t domid = look_at_all(number, epoch);
    char path[64], text[96];
    unsigned long long steps_seen, checks, damages;

    snprintf(path, sizeof(path), "/local/domain/%u/data/hamgr", domid);
    return domid != 0 && seen->domid == domid && seen->damages == 0 &&
           xs_client_read(store, path, text, sizeof(text)) > 0 &&
           sscanf(text, "%llu %llu %llu", &steps_seen, &checks, &damages) == 3 && damages == 0 &&
           checks >= seen->checks_needed;
}

static uint64_t damages_of(uint32_t number)
{
    (void)look_at_all(number, 0);
    return guests[number % GUESTS_MAX].damages;
}

/* Behind the heads of libxl's and libxc's streams and the first page records somewhere: the guest's
 * own memory is most of it, its kernel's text the beginning. */
static size_t page_byte(const uint8_t *stream, size_t size)
{
    (void)stream;
    return size / 2;
}

static const struct contract_driver contract_xen = {
    .name = "xen",
    .wait_ms = 180000, /* a guest boots in 10 s on a quiet machine that emulates everything */
    .look_ms = 200,    /* a look is a dozen hypercalls of dom0, which goes before guests */
    .least_mib = LEAST_MIB,
    .suspends_paused = false,
    .set_up = set_up,
    .tear_down = tear_down,
    .open = open_driver,
    .define = define,
    .steps = steps,
    .is_checked = is_checked,
    .damages = damages_of,
    .page_byte = page_byte,
    .refused_min = 60, /* PVH: 69 */
};

const struct contract_driver *const contract_drivers[] = {&contract_xen, NULL};
