/* SPDX-License-Identifier: Apache-2.0
 *
 * What is left to whoever takes hamgr-stream over: each forbidden act is tried in a child of its
 * own. And the private key: after the handshake no copy of it is in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "migrate/chan_tls.h"
#include "migrate/pem.h"
#include "migrate/sandbox.h"

enum { KILLED = -1 };

/* A data connection's thread: made before the filter, tries its act after it. */
struct intruder {
    int (*act)(void);
    int go[2], result[2];
};

static void *intrude(void *user)
{
    struct intruder *i = user;
    uint8_t byte = 0;

    (void)!write(i->result[1], &byte, 1); /* here: what its start had to do is done */
    if (read(i->go[0], &byte, 1) == 1) {
        byte = (uint8_t)i->act();
        (void)!write(i->result[1], &byte, 1);
    }
    (void)!read(i->go[0], &byte, 1); /* a thread's end makes calls of its own, as its start does */
    return NULL;
}

/* The act, by the thread that set the filter or by another one. */
static int act_out(struct intruder *i, bool is_other)
{
    uint8_t byte = 1;

    if (!is_other)
        return i->act();
    return write(i->go[1], &byte, 1) == 1 && read(i->result[0], &byte, 1) == 1 ? byte : 205;
}

static bool is_other_thread; /* of the children below */

/* Runs act in a sandboxed child. Returns its result (0..200), KILLED by the filter, or fails. */
static int inside(int stage, int (*act)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        char missing[HA_TEXT_MAX];
        if (sandbox_early(NULL) < 0 || sandbox_enter(missing, NULL) < 0)
            _exit(201);
        if (missing[0] != '\0')
            _exit(202);
        struct intruder i = {.act = act};
        pthread_t thread;
        if (pipe(i.go) < 0 || pipe(i.result) < 0 ||
            (is_other_thread && pthread_create(&thread, NULL, intrude, &i) != 0))
            _exit(206);
        uint8_t here;
        if (is_other_thread && read(i.result[0], &here, 1) != 1)
            _exit(207);
        if (stage > 0 && sandbox_filter(SANDBOX_HANDSHAKE, NULL) < 0)
            _exit(203);
        if (stage > SANDBOX_HANDSHAKE && sandbox_filter((enum sandbox_stage)stage, NULL) < 0)
            _exit(204);
        _exit(act_out(&i, is_other_thread));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return KILLED;
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 200)
        fail_msg("child ended with %#x", (unsigned)status);
    return WEXITSTATUS(status);
}

static int do_nothing(void)
{
    return 0;
}

static int do_open(void)
{
    return open("/etc/passwd", O_RDONLY) < 0 ? errno : 0;
}

static int do_list(void)
{
    return open("/proc/self/status", O_RDONLY) < 0 ? errno : 0;
}

static int do_create(void)
{
    return open("/x", O_WRONLY | O_CREAT, 0600) < 0 ? errno : 0;
}

static int do_connect(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(22)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        return 99;
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
}

static int do_user(void)
{
    return geteuid() == 0 ? 1 : setuid(0) == 0 ? 2 : 0;
}

static int do_exec(void)
{
    char *arguments[] = {(char *)"/bin/true", NULL};

    execv("/bin/true", arguments);
    return errno;
}

static int do_fork(void)
{
    return fork() < 0 ? errno : 0;
}

static int do_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0;
}

static int do_ptrace(void)
{
    return ptrace(PTRACE_ATTACH, getppid(), 0, 0) < 0 ? errno : 0;
}

static int do_kill(void)
{
    return kill(getppid(), 0) < 0 ? errno : 0;
}

static int do_exec_memory(void)
{
    void *p =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? errno : 0;
}

static int do_make_exec(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED || mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0 ? errno : 0;
}

static void *nothing(void *user)
{
    return user;
}

static int do_thread(void)
{
    pthread_t thread;

    return pthread_create(&thread, NULL, nothing, NULL);
}

static int do_option(void)
{
    int on = 1;

    return setsockopt(0, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ? errno : 0;
}

static int do_ktls(void)
{
    return setsockopt(0, IPPROTO_TCP, TCP_ULP, "tls", 3) < 0 ? 1 : 0;
}

static int do_bind(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};

    return bind(0, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
}

static int do_accept(void)
{
    return accept4(0, NULL, NULL, 0) < 0 ? 1 : 0;
}

static int do_work(void)
{
    struct pollfd fd = {.fd = -1};
    char *p = malloc(10u << 20);

    if (!p || poll(&fd, 1, 1) != 0)
        return 1;
    memset(p, 1, 10u << 20);
    free(p);
    return write(1, "", 0) == 0 ? 0 : 2;
}

static int do_limits(void)
{
    struct rlimit core, files;

    getrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_NOFILE, &files);
    return core.rlim_max != 0 ? 1 : files.rlim_max > 64 ? 2 : 0;
}

static void empty_view(void **state)
{
    (void)state;
    assert_int_equal(inside(0, do_nothing), 0);
    assert_int_equal(inside(0, do_open), ENOENT);
    assert_int_equal(inside(0, do_list), ENOENT);
    int rc = inside(0, do_create);
    assert_true(rc == EROFS || rc == EACCES);
    assert_int_equal(inside(0, do_connect), ENETUNREACH);
    assert_int_equal(inside(0, do_exec), ENOENT);
    assert_int_equal(inside(0, do_user), 0);
    assert_int_equal(inside(0, do_limits), 0);
    assert_int_equal(inside(0, do_ptrace), EPERM);
}

static void as_ordinary_user(void **state)
{
    int status;

    (void)state;
    if (geteuid() != 0)
        skip();
    pid_t pid = fork();
    if (pid == 0) {
        char missing[HA_TEXT_MAX];
        if (setgid(65534) < 0 || setuid(65534) < 0 || sandbox_early(NULL) < 0 ||
            sandbox_enter(missing, NULL) < 0)
            _exit(201);
        /* Where unprivileged namespaces are forbidden, it must say so. */
        _exit(missing[0] != '\0' ? (do_open() == 0 ? 7 : 8) : do_open());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == ENOENT || WEXITSTATUS(status) == 7);
}

static void filtered(void **state)
{
    static int (*const forbidden[])(void) = {
        do_open, do_exec,   do_fork, do_socket, do_ptrace,      do_kill,      do_connect,
        do_user, do_thread, do_bind, do_create, do_exec_memory, do_make_exec, do_limits};

    (void)state;
    for (int stage = SANDBOX_HANDSHAKE; stage <= SANDBOX_DOOR; stage++) {
        for (unsigned i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
            if (inside(stage, forbidden[i]) != KILLED)
                fail_msg("act %u was allowed in stage %d", i, stage);
        assert_int_equal(inside(stage, do_nothing), 0);
        assert_int_equal(inside(stage, do_work), 0);
    }
    assert_int_equal(inside(SANDBOX_HANDSHAKE, do_accept), 1);
    assert_int_equal(inside(SANDBOX_STREAM, do_accept), KILLED);
    assert_int_equal(inside(SANDBOX_DOOR, do_accept), 1);
    for (int stage = SANDBOX_STREAM; stage <= SANDBOX_DOOR; stage++) {
        assert_int_equal(inside(stage, do_option), KILLED);
        assert_int_equal(inside(stage, do_ktls), 1); /* allowed, though not a socket here */
    }
}

/* A thread made before the filter is under it too: a data connection taken over gets nowhere. */
static void filtered_threads(void **state)
{
    (void)state;
    is_other_thread = true;
    filtered(state);
    is_other_thread = false;
}

/* ---- the private key ---- */

#define PIECE 16u
#define MASK  0x5a

struct secret {
    uint8_t masked[3][PIECE]; /* big-endian, little-endian, base64: never whole in this memory */
};

static void add_extension(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(e);
    assert_int_equal(X509_add_ext(cert, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* A self-signed certificate for "peer": CA and node at once. Returns a sealed memfd. */
static int make_identity(struct secret *secret)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    BIO *cert_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());
    BIGNUM *number = NULL;
    uint8_t big[32];
    char *cert_text, *key_text;

    assert_true(key && cert && cert_bio && key_bio);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                               (const unsigned char *)"peer", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    add_extension(cert, NID_subject_alt_name, "DNS:peer");
    add_extension(cert, NID_ext_key_usage, "serverAuth,clientAuth");
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    PEM_write_bio_X509(cert_bio, cert);
    PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL);
    long cert_size = BIO_get_mem_data(cert_bio, &cert_text);
    long key_size = BIO_get_mem_data(key_bio, &key_text);
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &number), 1);
    assert_int_equal(BN_bn2binpad(number, big, sizeof(big)), 32);
    char *line = strchr(key_text, '\n');
    assert_non_null(line);
    for (unsigned i = 0; i < PIECE; i++) {
        secret->masked[0][i] = big[8 + i] ^ MASK;
        secret->masked[1][i] = big[31 - 8 - i] ^ MASK;
        secret->masked[2][i] = (uint8_t)line[1 + 56 + i] ^ MASK; /* inside the private number */
    }
    int memfd = pem_seal(cert_text, (size_t)cert_size, cert_text, (size_t)cert_size, key_text,
                         (size_t)key_size, NULL);
    assert_true(memfd >= 0);
    OPENSSL_cleanse(key_text, (size_t)key_size);
    OPENSSL_cleanse(big, sizeof(big));
    BN_clear_free(number);
    BIO_free(cert_bio);
    BIO_free(key_bio);
    X509_free(cert);
    EVP_PKEY_free(key);
    return memfd;
}

static unsigned find_piece(const uint8_t *data, size_t size, const uint8_t *masked)
{
    unsigned found = 0;

    for (size_t i = 0; i + PIECE <= size; i++) {
        unsigned k = 0;
        while (k < PIECE && (data[i + k] ^ MASK) == masked[k])
            k++;
        found += k == PIECE ? 1u : 0u;
    }
    return found;
}

/* How often any form of the key is in writable memory of this process. */
static unsigned search_memory(const struct secret *secret)
{
    static uint8_t chunk[1 << 20];
    FILE *maps = fopen("/proc/self/maps", "re");
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    unsigned found = 0;
    char line[512];

    assert_true(maps && memory >= 0);
    while (fgets(line, sizeof(line), maps)) {
        unsigned long from, to;
        char rights[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) != 3 || rights[0] != 'r' ||
            rights[1] != 'w' || to - from > (64ul << 20))
            continue;
        for (unsigned long at = from; at < to; at += sizeof(chunk) - PIECE) {
            if (at <= (unsigned long)(uintptr_t)chunk + sizeof(chunk) &&
                (unsigned long)(uintptr_t)chunk <= at + sizeof(chunk))
                continue; /* the chunk itself */
            size_t size = to - at < sizeof(chunk) ? to - at : sizeof(chunk);
            ssize_t r = pread(memory, chunk, size, (off_t)at);
            for (unsigned form = 0; form < 3 && r > 0; form++)
                found += find_piece(chunk, (size_t)r, secret->masked[form]);
            OPENSSL_cleanse(chunk, sizeof(chunk));
        }
    }
    fclose(maps);
    close(memory);
    return found;
}

static void key_is_gone(void **state)
{
    struct secret secret;
    struct identity identity;
    struct ha_err err = {0};
    struct chan *ends[2];
    int pair[2], done[2] = {-EAGAIN, -EAGAIN};

    (void)state;
    int memfd = make_identity(&secret);
    unsigned before = search_memory(&secret);
    assert_int_equal(identity_load(memfd, &identity, &err), 0);
    close(memfd);
    struct tls_context *context = tls_context_new(&identity, "peer", &err);
    assert_non_null(context);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = chan_tls_new(context, &identity, pair[i], i == 1, &err);
        assert_non_null(ends[i]);
    }
    assert_true(search_memory(&secret) > before); /* the search finds it while it is there */
    for (unsigned turn = 0; turn < 100 && (done[0] != 1 || done[1] != 1); turn++)
        for (int i = 0; i < 2; i++)
            if (done[i] == -EAGAIN)
                done[i] = chan_tls_handshake(ends[i], &err);
    if (done[0] != 1 || done[1] != 1)
        fail_msg("handshake: %s", err.text);
    for (int i = 0; i < 2; i++)
        chan_tls_forget_key(ends[i]);
    identity_fini(&identity);
    assert_int_equal(search_memory(&secret), 0);
    /* And the channel still works, with keys of its own. */
    char text[6] = "";
    assert_int_equal(ends[0]->ops->write(ends[0], "hello", 5, &err), 5);
    assert_int_equal(ends[0]->ops->renew(ends[0], &err), 0);
    assert_int_equal(ends[0]->ops->write(ends[0], "again", 5, &err), 5);
    assert_int_equal(ends[1]->ops->read(ends[1], text, 5, &err), 5);
    assert_int_equal(ends[1]->ops->read(ends[1], text, 5, &err), 5);
    assert_string_equal(text, "again");
    uint8_t binding[2][CHAN_BINDING_SIZE];
    for (int i = 0; i < 2; i++)
        assert_int_equal(ends[i]->ops->bind(ends[i], binding[i]), 0);
    assert_memory_equal(binding[0], binding[1], CHAN_BINDING_SIZE);
    for (int i = 0; i < 2; i++)
        ends[i]->ops->close(ends[i]);
    tls_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_view),  cmocka_unit_test(as_ordinary_user),
        cmocka_unit_test(filtered),    cmocka_unit_test(filtered_threads),
        cmocka_unit_test(key_is_gone),
    };

    (void)mallopt(M_ARENA_MAX, 1); /* as hamgr-stream: a thread's own heap would ask for the CPUs */
    if (pem_wipe_what_is_freed() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
