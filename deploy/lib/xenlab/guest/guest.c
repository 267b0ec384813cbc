/* SPDX-License-Identifier: Apache-2.0
 *
 * PID 1 of the lab's guest, and all there is in it: every 10 ms it goes on with a chain through its
 * memory, from time to time with a chain through its disk, and it measures how long it did not run.
 * It says so on its console (dom0: /var/log/xen/guest-NAME.log) and, with lab.ip=, in UDP packets
 * to port 7799 of its network: who runs twice is heard twice.
 *
 * Kernel command line: lab.name=NAME lab.mem=MIB (working set, 32) lab.steps=N (pages written a
 * tick, 4) lab.disk=/dev/xvda lab.write_ms=MS (500) lab.slots=N (of the disk's chain, 1024)
 * lab.gap_ms=MS (pauses worth a line, 200) lab.ip=ADDRESS
 *
 * Lines: "guest: boot NAME INCARNATION", "guest: disk ...", "guest: gap MS at REALTIME_NS",
 * "guest: WRONG ..." and once a second "guest: NAME INCARNATION step S checked C bad B disk D
 * disk_bad E gap MS".
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "deploy/lib/xenlab/guest/chain.h"
#include "deploy/lib/xenlab/guest/machine.h"

#define TICK_NS   10000000u
#define REPORT    100u /* ticks */
#define BEAT      10u  /* ticks between packets */
#define BEAT_PORT 7799u
#define MILLI_NS  1000000u
/* Read at once when the disk is looked through: a request takes 10 ms where all is emulated. */
#define SCAN_SLOTS 64u

struct guest {
    char name[64];
    uint64_t incarnation;
    struct chain_memory memory;
    uint64_t steps_per_tick;
    uint64_t checked; /* pages looked at in turn, beside those written */
    uint64_t gap_ms;  /* the longest since the last report */
    uint64_t gap_worth_ms;
    int network; /* -1: none */
    /* The disk's thread writes these. */
    _Atomic uint64_t disk_sequence;
    _Atomic uint64_t disk_bad;
    uint64_t write_ms;
    uint64_t slots;
    int disk;
};

/* --- disk ----------------------------------------------------------------------------------- */

static void disk_wrong(struct guest *guest, const char *what, uint64_t sequence)
{
    atomic_fetch_add(&guest->disk_bad, 1);
    printf("guest: WRONG disk: %s, block %" PRIu64 "\n", what, sequence);
}

/* What the chain's earlier lives left; the next block goes on from the newest. */
static bool disk_scan(struct guest *guest, uint8_t *bytes, struct chain_block *ret_block,
                      struct ha_digest *ret_digest)
{
    struct chain_scan scan = {.guest = ret_block->guest};
    for (uint64_t slot = 0; slot < guest->slots; slot += SCAN_SLOTS) {
        uint64_t left = guest->slots - slot;
        size_t count = left < SCAN_SLOTS ? (size_t)left : SCAN_SLOTS;
        ssize_t size = pread(guest->disk, bytes, count * CHAIN_PAGE, (off_t)(slot * CHAIN_PAGE));
        if (size != (ssize_t)(count * CHAIN_PAGE)) {
            printf("guest: disk: read: %s\n", size < 0 ? strerror(errno) : "it is short");
            return false;
        }
        for (size_t n = 0; n < count; n++) {
            chain_scan_slot(&scan, slot + n, guest->slots, bytes + n * CHAIN_PAGE);
        }
    }
    uint64_t lost = chain_scan_lost(&scan);
    printf("guest: disk blocks %" PRIu64 " newest %" PRIu64 " lost %" PRIu64 " bad %" PRIu64
           " unlinked %" PRIu64 "\n",
           scan.count, scan.newest.sequence, lost, scan.bad_count, scan.unlinked_count);
    atomic_fetch_add(&guest->disk_bad, lost + scan.bad_count + scan.unlinked_count);
    ret_block->sequence = scan.newest.sequence;
    *ret_digest = scan.digest;
    return true;
}

/* The slot must still hold what was written there a round ago, or nothing in the first round. */
static void disk_check_old(struct guest *guest, const struct chain_block *next,
                           const uint8_t *bytes)
{
    struct chain_block old;
    struct ha_digest digest;
    bool is_there = chain_block_read(bytes, &old, &digest);
    if (next->sequence > guest->slots) {
        if (!is_there || old.sequence != next->sequence - guest->slots ||
            old.guest != next->guest) {
            disk_wrong(guest, "not what was written a round ago", next->sequence - guest->slots);
        }
    } else if (is_there) {
        disk_wrong(guest, "somebody else wrote", next->sequence);
    }
}

static bool disk_write(struct guest *guest, struct chain_block *block, struct ha_digest *digest,
                       uint8_t *bytes)
{
    off_t at = (off_t)(block->sequence % guest->slots * CHAIN_PAGE);
    if (pread(guest->disk, bytes, CHAIN_PAGE, at) != CHAIN_PAGE) {
        printf("guest: disk: read: %s\n", strerror(errno));
        return false;
    }
    disk_check_old(guest, block, bytes);
    block->previous = *digest;
    block->boottime_ns = machine_boottime_ns();
    struct ha_digest written = chain_block_write(block, bytes);
    if (pwrite(guest->disk, bytes, CHAIN_PAGE, at) != CHAIN_PAGE) {
        printf("guest: disk: write: %s\n", strerror(errno));
        return false;
    }
    *digest = written;
    return true;
}

static void *disk_run(void *argument)
{
    struct guest *guest = argument;
    struct chain_block block = {.incarnation = guest->incarnation};
    struct ha_digest digest;
    size_t length = strlen(guest->name);
    uint8_t *bytes = aligned_alloc(CHAIN_PAGE, SCAN_SLOTS * CHAIN_PAGE);
    block.guest = ha_digest_bytes((struct ha_digest){0, 0}, guest->name, length).low;
    if (!bytes || !disk_scan(guest, bytes, &block, &digest)) {
        disk_wrong(guest, "cannot be read", 0);
        return NULL;
    }
    for (;;) {
        block.sequence++;
        while (!disk_write(guest, &block, &digest, bytes)) {
            usleep(100000);
        }
        atomic_store(&guest->disk_sequence, block.sequence);
        usleep((useconds_t)(guest->write_ms * 1000));
    }
}

static void disk_begin(struct guest *guest)
{
    char device[64];
    uint64_t bytes = 0;
    pthread_t thread;
    machine_text("disk", device, sizeof(device));
    if (device[0] == '\0') {
        return;
    }
    guest->write_ms = machine_number("write_ms", 500);
    guest->disk = machine_open_disk(device, &bytes);
    guest->slots = machine_number("slots", 1024);
    if (guest->slots > bytes / CHAIN_PAGE) {
        guest->slots = bytes / CHAIN_PAGE;
    }
    if (guest->disk < 0 || guest->slots < 2) {
        printf("guest: disk %s: %s\n", device,
               guest->disk < 0 ? strerror(-guest->disk) : "too small");
        return;
    }
    int rc = pthread_create(&thread, NULL, disk_run, guest);
    if (rc != 0) {
        printf("guest: disk: no thread: %s\n", strerror(rc));
    }
}

/* --- memory and time ------------------------------------------------------------------------ */

static void *memory_of(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        printf("guest: no memory: %s\n", strerror(errno));
        abort();
    }
    return memory;
}

static void memory_begin(struct guest *guest)
{
    uint64_t mib = machine_number("mem", 32);
    guest->memory.page_count = (size_t)(mib ? mib : 1) * (1024 * 1024 / CHAIN_PAGE);
    guest->memory.pages = memory_of(guest->memory.page_count * CHAIN_PAGE);
    guest->memory.digest = memory_of(guest->memory.page_count * sizeof(struct ha_digest));
    guest->steps_per_tick = machine_number("steps", 4);
    chain_memory_begin(&guest->memory, guest->incarnation);
}

static void wrong_page(struct guest *guest)
{
    printf("guest: WRONG memory: %" PRIu64 " pages by step %" PRIu64 "\n", guest->memory.bad_count,
           guest->memory.step);
}

/* One tick: some pages anew, and one looked at, so that all of memory is seen in turn. */
static void tick(struct guest *guest)
{
    bool is_good = true;
    for (uint64_t i = 0; i < guest->steps_per_tick; i++) {
        is_good &= chain_memory_step(&guest->memory);
    }
    size_t turn = guest->memory.page_count - 1 - guest->checked % guest->memory.page_count;
    is_good &= chain_memory_check(&guest->memory, turn);
    guest->checked++;
    if (!is_good) {
        wrong_page(guest);
    }
}

static void report(struct guest *guest)
{
    printf("guest: %s %016" PRIx64 " step %" PRIu64 " checked %" PRIu64 " bad %" PRIu64
           " disk %" PRIu64 " disk_bad %" PRIu64 " gap %" PRIu64 "\n",
           guest->name, guest->incarnation, guest->memory.step, guest->checked,
           guest->memory.bad_count, atomic_load(&guest->disk_sequence),
           atomic_load(&guest->disk_bad), guest->gap_ms);
    guest->gap_ms = 0;
}

/* Nobody has to hear it; who listens hears every living copy. */
static void beat(const struct guest *guest)
{
    char text[200];
    int n = snprintf(text, sizeof(text), "%s %016" PRIx64 " %" PRIu64 " %" PRIu64 "\n", guest->name,
                     guest->incarnation, guest->memory.step, machine_boottime_ns());
    if (n > 0 && write(guest->network, text, (size_t)n) < 0 && errno == EBADF) {
        abort();
    }
}

static void gap_note(struct guest *guest, uint64_t gap_ns)
{
    uint64_t gap_ms = gap_ns / MILLI_NS;
    if (gap_ms > guest->gap_ms) {
        guest->gap_ms = gap_ms;
    }
    if (gap_ms >= guest->gap_worth_ms) {
        printf("guest: gap %" PRIu64 " at %" PRIu64 "\n", gap_ms, machine_realtime_ns());
    }
}

static void run(struct guest *guest)
{
    const struct timespec pause = {.tv_nsec = TICK_NS};
    uint64_t last_ns = machine_boottime_ns();
    for (uint64_t count = 1;; count++) {
        nanosleep(&pause, NULL);
        uint64_t now_ns = machine_boottime_ns();
        gap_note(guest, now_ns - last_ns);
        last_ns = now_ns;
        tick(guest);
        if (guest->network >= 0 && count % BEAT == 0) {
            beat(guest);
        }
        if (count % REPORT == 0) {
            report(guest);
        }
    }
}

int main(void)
{
    static struct guest guest = {.network = -1};
    char address[32];
    machine_begin();
    machine_text("name", guest.name, sizeof(guest.name));
    if (guest.name[0] == '\0') {
        snprintf(guest.name, sizeof(guest.name), "guest");
    }
    guest.incarnation = machine_random();
    guest.gap_worth_ms = machine_number("gap_ms", 200);
    printf("guest: boot %s %016" PRIx64 "\n", guest.name, guest.incarnation);
    memory_begin(&guest);
    disk_begin(&guest);
    machine_text("ip", address, sizeof(address));
    if (address[0] != '\0') {
        guest.network = machine_open_network(address, BEAT_PORT);
        if (guest.network < 0) {
            printf("guest: network %s: %s\n", address, strerror(-guest.network));
        }
    }
    run(&guest);
    return 0;
}
