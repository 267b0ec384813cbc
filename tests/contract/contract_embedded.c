/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded driver under the contract: a node in a directory of its own, guests seen through
 * their observer page.
 */
#include "contract_embedded.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 64u

static char directory[64];
struct hv_observer_slot *embedded_slots;

const char *embedded_dir(void)
{
    return directory;
}

static const char *path_in(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static const char *set_up(void)
{
    if (geteuid() != 0)
        return "needs root";
    snprintf(directory, sizeof(directory), "/dev/shm/hamgr-contract-XXXXXX");
    if (!mkdtemp(directory))
        return "no directory";
    int fd = open(path_in("page"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(SLOTS * HV_OBSERVER_SLOT)) != 0)
        return "no observer page";
    embedded_slots =
        mmap(NULL, SLOTS * HV_OBSERVER_SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return embedded_slots == MAP_FAILED ? "no observer page" : NULL;
}

/* Only what the tests make: two levels are enough. */
static void remove_tree(const char *at)
{
    static const char *const files[] = {"run/next-domid", "run/lock", "run/domains", "run", "page"};

    for (size_t n = 0; n < sizeof(files) / sizeof(files[0]); n++) {
        const char *path = path_in(files[n]);
        if (unlink(path) != 0)
            rmdir(path);
    }
    rmdir(at);
}

static void tear_down(void)
{
    munmap(embedded_slots, SLOTS * HV_OBSERVER_SLOT);
    remove_tree(directory);
}

struct hv *embedded_open_as(uint32_t node_id, uint32_t uid)
{
    struct hv_embedded_options options;
    struct ha_err err = {0};
    char run_dir[96], page[96], disks[96];

    snprintf(run_dir, sizeof(run_dir), "%s/run", directory);
    snprintf(page, sizeof(page), "%s/page", directory);
    snprintf(disks, sizeof(disks), "%s/disks", directory);
    hv_embedded_options_from_env(&options);
    options.run_dir = run_dir;
    options.guest_binary = getenv("HAMGR_GUEST");
    options.observer_path = page;
    options.disk_dir = disks;
    options.mem_kib = 2u << 20;
    options.node_id = node_id;
    options.guest_uid = uid;
    struct hv *opened = hv_embedded_open_with(&options, &err);
    if (!opened)
        fail_msg("%s", err.text);
    return opened;
}

static struct hv *open_driver(void)
{
    return embedded_open_as(1, 0);
}

static size_t define(const struct contract_guest *g, char *text, size_t capacity)
{
    static const char *const ends[] = {"", "poweroff_after_s = 1\n", "reboot_after_s = 1\n",
                                       "crash_after_s = 1\n"};
    int n = snprintf(text, capacity,
                     "memory_mib = %u\ndirty_mib_s = %u\nstep_ms = %u\nobserver_slot = %u\n"
                     "seed = %u\n%s",
                     g->memory_mib ? g->memory_mib : 4, g->dirty_mib_s ? g->dirty_mib_s : 1,
                     g->step_ms ? g->step_ms : 5, g->number, g->number, ends[g->end]);

    return (size_t)n;
}

static uint64_t steps(uint32_t number)
{
    return hv_observer_step(embedded_slots[number].word);
}

static bool is_checked(uint32_t number, uint64_t epoch)
{
    return hv_observer_epoch(embedded_slots[number].first_check_word) == epoch;
}

static uint64_t damages(uint32_t number)
{
    return embedded_slots[number].corrupt + embedded_slots[number].violations;
}

/* Page data of the first record begins behind head, record header and 1024 entries. The first data
 * page that is not zero follows the 16 pages of state; its content begins at its 32nd byte. */
static size_t page_byte(const uint8_t *stream, size_t size)
{
    size_t at = 72 + 8 + 8 + 8 * 1024 + 16 * 4096;

    while (at + 4096 < size && stream[at + 32] == 0 && stream[at + 100] == 0)
        at += 4096;
    return at + 1000;
}

const struct contract_driver contract_embedded = {
    .name = "embedded",
    .wait_ms = 20000,
    .look_ms = 1,
    .least_mib = 4,
    .suspends_paused = true,
    .set_up = set_up,
    .tear_down = tear_down,
    .open = open_driver,
    .define = define,
    .steps = steps,
    .is_checked = is_checked,
    .damages = damages,
    .page_byte = page_byte,
    .refused_min = 80,
};

const struct contract_driver *const contract_drivers[] = {&contract_embedded, NULL};
