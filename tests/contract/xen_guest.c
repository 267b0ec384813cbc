/* SPDX-License-Identifier: Apache-2.0
 *
 * The first and only program of a Xen guest under the contract: memory that changes all the time
 * and is checked all the time, told to the outside through the guest's own part of xenstore
 * (data/hamgr: "STEPS CHECKS DAMAGES", CHECKS = passes over all memory that found no damage). What
 * it does is said on the kernel's command line: hamgr.dirty_kib_s, hamgr.step_ms, hamgr.mib and
 * hamgr.end (1 power off, 2 reboot, 3 crash, a second after it began). Linked statically.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE       4096u
#define WORDS      (PAGE / 8)
#define TYPE_WRITE 11u /* XS_WRITE of xs_wire.h */

struct load {
    uint64_t *memory;
    uint32_t *version; /* of each page */
    uint64_t pages;
    uint64_t next;
    uint64_t steps, checks, damages;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 29);
}

static uint64_t word_of(uint64_t page, uint32_t version, uint64_t word)
{
    return mix(page * 512 + word + ((uint64_t)version << 40));
}

static void write_page(struct load *l, uint64_t page)
{
    uint64_t *at = l->memory + page * WORDS;

    l->version[page]++;
    for (uint64_t n = 0; n < WORDS; n++)
        at[n] = word_of(page, l->version[page], n);
}

static void check_all(struct load *l)
{
    uint64_t damages = 0;

    for (uint64_t page = 0; page < l->pages; page++)
        for (uint64_t n = 0; n < WORDS; n += 7)
            damages += l->memory[page * WORDS + n] != word_of(page, l->version[page], n);
    l->damages += damages > 0;
    l->checks += damages == 0;
}

static uint64_t option(const char *name, uint64_t usual)
{
    static char line[2048];
    char key[64];

    if (line[0] == '\0') {
        int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
        ssize_t size = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
        line[size > 0 ? size : 0] = '\0';
        close(fd);
    }
    snprintf(key, sizeof(key), "hamgr.%s=", name);
    const char *at = strstr(line, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : usual;
}

/* One question at a time; the answer is read, whatever it says. */
static void tell(int fd, const struct load *l)
{
    static uint32_t request;
    struct {
        uint32_t type, request, transaction, size;
        char body[96];
    } m = {.type = TYPE_WRITE, .request = ++request};
    char answer[4096];
    int name = snprintf(m.body, sizeof(m.body), "data/hamgr") + 1;
    int value = snprintf(m.body + name, sizeof(m.body) - (size_t)name, "%llu %llu %llu",
                         (unsigned long long)l->steps, (unsigned long long)l->checks,
                         (unsigned long long)l->damages);

    m.size = (uint32_t)(name + value);
    if (write(fd, &m, 16 + m.size) < 0)
        printf("xenstore: %s\n", strerror(errno));
    else if (read(fd, answer, 16) == 16) {
        uint32_t size;
        memcpy(&size, answer + 12, sizeof(size));
        for (ssize_t n; size > 0 && (n = read(fd, answer, size)) > 0;)
            size -= (uint32_t)n;
    }
}

static void end_as(uint64_t how)
{
    int fd;

    if (how == 1)
        reboot(RB_POWER_OFF);
    if (how == 2)
        reboot(RB_AUTOBOOT);
    fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
    if (write(fd, "c", 1) < 0)
        printf("crash: %s\n", strerror(errno));
    pause();
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void fill(struct load *l)
{
    l->pages = option("mib", 16) * 256;
    l->memory =
        mmap(NULL, l->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    l->version = calloc(l->pages, sizeof(*l->version));
    if (l->memory == MAP_FAILED || !l->version) {
        printf("no memory\n");
        end_as(3);
    }
    for (uint64_t page = 0; page < l->pages; page++)
        write_page(l, page);
}

static void live(struct load *l, int fd)
{
    uint64_t step_ms = option("step_ms", 20), end = option("end", 0), begin_ms = now_ms();
    uint64_t pages = option("dirty_kib_s", 1024) * step_ms / 4 / 1000, checked_ms = 0;

    for (;;) {
        for (uint64_t n = 0; n < pages; n++)
            write_page(l, l->next++ % l->pages);
        l->steps++;
        if (now_ms() > checked_ms + 250) {
            check_all(l);
            checked_ms = now_ms();
        }
        tell(fd, l);
        if (l->damages > 0 || (end > 0 && l->checks > 0 && now_ms() > begin_ms + 1000))
            end_as(l->damages > 0 ? 3 : end);
        usleep((useconds_t)step_ms * 1000);
    }
}

int main(int argc, char **argv)
{
    struct load l = {0};

    if (argc > 0 && strstr(argv[0], "poweroff"))
        return reboot(RB_POWER_OFF);
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    fill(&l);
    int fd = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        printf("/dev/xen/xenbus: %s\n", strerror(errno));
        end_as(3);
    }
    live(&l, fd);
    return 0;
}
