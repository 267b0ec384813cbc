/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at best, for the ratios of tests/bench/stream: GB (1e9 bytes) per second
 * of processor time of one thread, medians of RUNS.
 *
 *   probe --pem DIR --image FILE [--mib N]
 *       prints memcpy_gbps, tls_send_gbps, tls_recv_gbps, zstd1_gbps, socketpair_gbps, one a line
 *   probe --copy IN OUT
 *       a plain copy between two inherited descriptors: both ends of the plain TCP baseline
 *
 * memcpy: pages copied into a private buffer of 256 KiB and scanned for zeros there. tls: OpenSSL,
 * TLS 1.3 with AES-128-GCM over TCP loopback, 256 KiB writes. zstd1: groups of 256 KiB of the
 * image. socketpair: what a reader of an AF_UNIX stream spends.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>
#include <zstd.h>

#define RUNS  5
#define GROUP (256u << 10)
#define PAGE  4096u

struct memory {
    uint8_t *data;
    size_t size;
};

/* One run of a pair of threads: each does its side over fd and notes its processor time. */
struct side {
    SSL_CTX *context; /* NULL: no TLS */
    bool is_sender;
    int fd;
    const struct memory *memory;
    double cpu_s;
};

static volatile uint64_t found; /* so that no scan is optimized away */

static double thread_cpu_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report(const char *name, double *gbps)
{
    qsort(gbps, RUNS, sizeof(gbps[0]), compare);
    printf("%s %.3f\n", name, gbps[RUNS / 2]);
    fflush(stdout);
}

static struct memory memory_new(size_t size)
{
    struct memory memory = {.size = size};

    memory.data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.data == MAP_FAILED)
        err(1, "memory");
    memset(memory.data, 1, size);
    memset(memory.data, 0, size);
    return memory;
}

static void copy_group(uint8_t *to, const uint8_t *from, size_t size)
{
    memcpy(to, from, size);
}

#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
static uint64_t
scan_group(const uint64_t *words, size_t count)
{
    uint64_t all = 0;

    for (size_t i = 0; i < count; i++)
        all |= words[i];
    return all;
}

static void probe_memcpy(const struct memory *memory)
{
    static uint64_t private[GROUP / 8];
    double gbps[RUNS];

    for (unsigned run = 0; run < RUNS; run++) {
        double start = thread_cpu_s();
        for (size_t at = 0; at + GROUP <= memory->size; at += GROUP) {
            copy_group((uint8_t *)private, memory->data + at, GROUP);
            for (size_t page = 0; page < GROUP; page += PAGE)
                found += scan_group(private + page / 8, PAGE / 8);
        }
        gbps[run] = (double)memory->size / 1e9 / (thread_cpu_s() - start);
    }
    report("memcpy_gbps", gbps);
}

static void probe_zstd(const char *path, size_t most)
{
    struct stat info;
    double gbps[RUNS];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t capacity = ZSTD_compressBound(GROUP);
    void *to = malloc(capacity);
    ZSTD_CCtx *context = ZSTD_createCCtx();

    if (fd < 0 || fstat(fd, &info) < 0 || !to || !context)
        err(1, "%s", path);
    size_t whole = (size_t)info.st_size;
    const uint8_t *data = mmap(NULL, whole, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED)
        err(1, "%s: mmap", path);
    /* Spread over the whole image: its parts differ. */
    size_t step = whole / most > 1 ? whole / most * GROUP : GROUP;
    for (unsigned run = 0; run < RUNS; run++) {
        double start = thread_cpu_s();
        size_t done = 0;
        for (size_t at = 0; at + GROUP <= whole; at += step, done += GROUP)
            found += ZSTD_compressCCtx(context, to, capacity, data + at, GROUP, 1);
        gbps[run] = (double)done / 1e9 / (thread_cpu_s() - start);
    }
    report("zstd1_gbps", gbps);
    munmap((void *)(uintptr_t)data, whole);
    ZSTD_freeCCtx(context);
    free(to);
    close(fd);
}

/* ---- pairs of threads ---- */

static ssize_t move_bytes(const struct side *side, SSL *ssl, uint8_t *at, size_t size)
{
    if (ssl)
        return side->is_sender ? SSL_write(ssl, at, (int)size) : SSL_read(ssl, at, (int)size);
    return side->is_sender ? write(side->fd, at, size) : read(side->fd, at, size);
}

static SSL *greet(const struct side *side)
{
    SSL *ssl = SSL_new(side->context);

    if (!ssl || SSL_set_fd(ssl, side->fd) != 1 ||
        (side->is_sender ? SSL_connect(ssl) : SSL_accept(ssl)) != 1)
        errx(1, "tls: the handshake failed");
    return ssl;
}

static void *run_side(void *user)
{
    struct side *side = user;
    static __thread uint8_t buffer[GROUP];
    SSL *ssl = side->context ? greet(side) : NULL;
    double start = thread_cpu_s();
    size_t done = 0;

    while (done < side->memory->size) {
        size_t left = side->memory->size - done;
        ssize_t r = move_bytes(side, ssl, buffer, left < GROUP ? left : GROUP);
        if (r <= 0 && errno == EINTR)
            continue;
        if (r <= 0)
            errx(1, "the other side of a probe has gone");
        done += (size_t)r;
    }
    side->cpu_s = thread_cpu_s() - start;
    SSL_free(ssl);
    return NULL;
}

static void run_pair(struct side sides[2])
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, run_side, &sides[1]) != 0)
        errx(1, "no thread");
    run_side(&sides[0]);
    pthread_join(thread, NULL);
    close(sides[0].fd);
    close(sides[1].fd);
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(in);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || fds[0] < 0 || bind(listener, (struct sockaddr *)&in, size) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&in, &size) < 0 ||
        connect(fds[0], (struct sockaddr *)&in, size) < 0)
        err(1, "loopback");
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fds[1] < 0)
        err(1, "accept");
    close(listener);
}

static SSL_CTX *tls_context(const char *pem)
{
    char path[PATH_MAX];
    SSL_CTX *context = SSL_CTX_new(TLS_method());

    if (!context || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1)
        errx(1, "no TLS 1.3 with AES-128-GCM");
    (void)snprintf(path, sizeof(path), "%s/node.pem", pem);
    if (SSL_CTX_use_certificate_chain_file(context, path) != 1)
        errx(1, "%s can't be used", path);
    (void)snprintf(path, sizeof(path), "%s/node.key", pem);
    if (SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) != 1)
        errx(1, "%s can't be used", path);
    return context;
}

static void probe_tls(const struct memory *memory, const char *pem)
{
    SSL_CTX *context = tls_context(pem);
    double sent[RUNS], received[RUNS];

    for (unsigned run = 0; run < RUNS; run++) {
        int fds[2];
        tcp_pair(fds);
        struct side sides[2] = {
            {.context = context, .is_sender = true, .fd = fds[0], .memory = memory},
            {.context = context, .fd = fds[1], .memory = memory},
        };
        run_pair(sides);
        sent[run] = (double)memory->size / 1e9 / sides[0].cpu_s;
        received[run] = (double)memory->size / 1e9 / sides[1].cpu_s;
    }
    report("tls_send_gbps", sent);
    report("tls_recv_gbps", received);
    SSL_CTX_free(context);
}

static void probe_socketpair(const struct memory *memory)
{
    double gbps[RUNS];

    for (unsigned run = 0; run < RUNS; run++) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
            err(1, "socketpair");
        int size = 512 << 10; /* as hamgrd makes it */
        (void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        struct side sides[2] = {{.is_sender = true, .fd = fds[0], .memory = memory},
                                {.fd = fds[1], .memory = memory}};
        run_pair(sides);
        gbps[run] = (double)memory->size / 1e9 / sides[1].cpu_s;
    }
    report("socketpair_gbps", gbps);
}

static int copy_all(int in, int out)
{
    static uint8_t buffer[GROUP];

    for (;;) {
        ssize_t got = read(in, buffer, sizeof(buffer));
        if (got == 0)
            return 0;
        if (got < 0)
            err(1, "copy: read");
        for (ssize_t done = 0; done < got;) {
            ssize_t r = write(out, buffer + done, (size_t)(got - done));
            if (r < 0)
                err(1, "copy: write");
            done += r;
        }
    }
}

int main(int argc, char **argv)
{
    const char *pem = NULL, *image = NULL;
    size_t mib = 512;

    if (argc == 4 && strcmp(argv[1], "--copy") == 0)
        return copy_all((int)strtol(argv[2], NULL, 10), (int)strtol(argv[3], NULL, 10));
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--pem") == 0)
            pem = argv[i + 1];
        else if (strcmp(argv[i], "--image") == 0)
            image = argv[i + 1];
        else if (strcmp(argv[i], "--mib") == 0)
            mib = strtoul(argv[i + 1], NULL, 10);
        else
            errx(2, "probe: unknown option %s", argv[i]);
    }
    if (!pem || !image || mib == 0 || mib > 65536)
        errx(2, "probe --pem DIR --image FILE [--mib N] | --copy IN OUT");
    struct memory memory = memory_new(mib << 20);
    probe_memcpy(&memory);
    probe_tls(&memory, pem);
    probe_zstd(image, (size_t)256 << 20);
    probe_socketpair(&memory);
    return 0;
}
