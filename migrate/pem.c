/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/pem.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define HEAD_MAX  64u
#define WANTED    (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define CHAIN_MAX 4

static void *plain_malloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return malloc(size);
}

static void wiping_free(void *block, const char *file, int line)
{
    (void)file;
    (void)line;
    if (block)
        explicit_bzero(block, malloc_usable_size(block));
    free(block);
}

/* A block that moves leaves its old place wiped. */
static void *wiping_realloc(void *block, size_t size, const char *file, int line)
{
    size_t old_size = block ? malloc_usable_size(block) : 0;

    if (block && size <= old_size && size > 0)
        return block;
    void *moved = size > 0 ? malloc(size) : NULL;
    if (size > 0 && !moved)
        return NULL;
    if (moved && block)
        memcpy(moved, block, old_size < size ? old_size : size);
    wiping_free(block, file, line);
    return moved;
}

int pem_wipe_what_is_freed(void)
{
    return CRYPTO_set_mem_functions(plain_malloc, wiping_realloc, wiping_free) == 1 ? 0
                                                                                    : -HA_E_USAGE;
}

bool pem_has_usages(X509 *cert)
{
    /* UINT32_MAX means "no extension": anything is allowed, which is not explicit. */
    uint32_t usage = X509_get_extended_key_usage(cert);
    uint32_t wanted = XKU_SSL_SERVER | XKU_SSL_CLIENT;

    return usage != UINT32_MAX && (usage & wanted) == wanted;
}

bool pem_has_name(X509 *cert, const char *name)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;

    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type != GEN_DNS)
            continue;
        const unsigned char *text = ASN1_STRING_get0_data(n->d.dNSName);
        size_t length = (size_t)ASN1_STRING_length(n->d.dNSName);
        if (length == strlen(name) && memcmp(text, name, length) == 0)
            found = true;
    }
    GENERAL_NAMES_free(names);
    return found;
}

void pem_first_name(X509 *cert, char *ret_name)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);

    memcpy(ret_name, "?", sizeof("?")); /* ret_name holds HA_NAME_MAX bytes */
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type != GEN_DNS)
            continue;
        const unsigned char *text = ASN1_STRING_get0_data(n->d.dNSName);
        size_t length = (size_t)ASN1_STRING_length(n->d.dNSName);
        length = length < HA_NAME_MAX - 1 ? length : HA_NAME_MAX - 1;
        for (size_t k = 0; k < length; k++)
            ret_name[k] = text[k] > 0x20 && text[k] < 0x7f ? (char)text[k] : '?';
        ret_name[length] = '\0';
        break;
    }
    GENERAL_NAMES_free(names);
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t r = write(fd, data, size);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        data += r;
        size -= (size_t)r;
    }
    return 0;
}

int pem_seal(const char *ca, size_t ca_size, const char *cert, size_t cert_size, const char *key,
             size_t key_size, struct ha_err *err)
{
    char head[HEAD_MAX];
    int fd = memfd_create("hamgr-pem", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return ha_err_set(err, errno, "memfd: %s", strerror(errno));
    int length =
        snprintf(head, sizeof(head), "hamgr-pem 1 %zu %zu %zu\n", ca_size, cert_size, key_size);
    int rc = write_all(fd, head, (size_t)length);
    if (rc == 0)
        rc = write_all(fd, ca, ca_size);
    if (rc == 0)
        rc = write_all(fd, cert, cert_size);
    if (rc == 0)
        rc = write_all(fd, key, key_size);
    if (rc == 0 && fcntl(fd, F_ADD_SEALS, WANTED) < 0)
        rc = -errno;
    if (rc < 0) {
        close(fd);
        return ha_err_set(err, rc, "memfd for the certificates: %s", strerror(-rc));
    }
    return fd;
}

/* Everything the memfd holds, into data[capacity]; its size or a negative error. */
static ssize_t read_memfd(int fd, char *data, size_t capacity, struct ha_err *err)
{
    size_t size = 0;

    if ((fcntl(fd, F_GET_SEALS) & WANTED) != WANTED)
        return ha_err_set(err, HA_E_USAGE, "certificates: not a sealed memfd");
    while (size < capacity) {
        ssize_t r = pread(fd, data + size, capacity - size, (off_t)size);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return ha_err_set(err, errno, "certificates: %s", strerror(errno));
        if (r == 0)
            return (ssize_t)size;
        size += (size_t)r;
    }
    return ha_err_set(err, HA_E_LIMIT, "certificates: too large");
}

static int64_t end_of(X509 *cert)
{
    struct tm tm = {0};

    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
        return 0;
    return (int64_t)timegm(&tm);
}

static void note_end(struct identity *identity, X509 *cert)
{
    int64_t end = end_of(cert);

    if (end < identity->expires_s)
        identity->expires_s = end;
}

static int no_password(char *buffer, int size, int is_writing, void *user)
{
    (void)buffer;
    (void)size;
    (void)is_writing;
    (void)user;
    return -1;
}

static int parse_ca(struct identity *identity, BIO *bio, struct ha_err *err)
{
    unsigned count = 0;
    X509 *ca;

    identity->store = X509_STORE_new();
    if (!identity->store)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    while (count < CHAIN_MAX && (ca = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL) {
        note_end(identity, ca);
        X509_STORE_add_cert(identity->store, ca);
        X509_free(ca);
        count++;
    }
    ERR_clear_error();
    return count > 0 ? 0 : ha_err_set(err, HA_E_CORRUPT, "CA: no certificate in PEM form");
}

static int parse_cert(struct identity *identity, BIO *bio, struct ha_err *err)
{
    X509 *next;

    identity->cert = PEM_read_bio_X509(bio, NULL, no_password, NULL);
    identity->chain = sk_X509_new_null();
    if (!identity->cert || !identity->chain)
        return ha_err_set(err, HA_E_CORRUPT, "certificate: no certificate in PEM form");
    note_end(identity, identity->cert);
    while (sk_X509_num(identity->chain) < CHAIN_MAX &&
           (next = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL)
        if (sk_X509_push(identity->chain, next) == 0)
            X509_free(next);
    ERR_clear_error();
    return 0;
}

static int parse_key(struct identity *identity, BIO *bio, struct ha_err *err)
{
    identity->key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    ERR_clear_error();
    if (!identity->key)
        return ha_err_set(err, HA_E_CORRUPT, "key: no private key in PEM form without password");
    return 0;
}

/* Splits what the memfd holds and parses the three parts. */
static int parse_parts(struct identity *identity, const char *data, size_t size, struct ha_err *err)
{
    typedef int (*part_fn)(struct identity *, BIO *, struct ha_err *);
    static const part_fn parts[3] = {parse_ca, parse_cert, parse_key};
    unsigned sizes[3];
    const char *line_end = memchr(data, '\n', size);
    int rc = 0;

    if (!line_end || sscanf(data, "hamgr-pem 1 %7u %7u %7u", &sizes[0], &sizes[1], &sizes[2]) != 3)
        return ha_err_set(err, HA_E_CORRUPT, "certificates: unknown format");
    size_t position = (size_t)(line_end - data) + 1;
    if ((uint64_t)sizes[0] + sizes[1] + sizes[2] != size - position)
        return ha_err_set(err, HA_E_CORRUPT, "certificates: sizes disagree");
    for (unsigned i = 0; i < 3 && rc == 0; i++) {
        BIO *bio = BIO_new_mem_buf(data + position, (int)sizes[i]);
        rc = bio ? parts[i](identity, bio, err) : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        BIO_free(bio);
        position += sizes[i];
    }
    return rc;
}

int identity_load(int memfd, struct identity *ret, struct ha_err *err)
{
    size_t capacity = 3 * (size_t)PEM_PART_MAX + HEAD_MAX + 1;
    char *data = OPENSSL_zalloc(capacity);

    memset(ret, 0, sizeof(*ret));
    ret->expires_s = INT64_MAX;
    if (!data)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    ssize_t size = read_memfd(memfd, data, capacity - 1, err);
    int rc = size < 0 ? (int)size : parse_parts(ret, data, (size_t)size, err);
    OPENSSL_clear_free(data, capacity);
    if (rc < 0)
        identity_fini(ret);
    return rc;
}

static int verify_own(const struct identity *identity, struct ha_err *err)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    int rc = 0;

    if (!ctx || X509_STORE_CTX_init(ctx, identity->store, identity->cert, identity->chain) != 1)
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    else if (X509_verify_cert(ctx) != 1) {
        int code = X509_STORE_CTX_get_error(ctx);
        const char *whose = X509_STORE_CTX_get_error_depth(ctx) > 0 ? "CA" : "certificate";
        rc = ha_err_set(err, HA_E_AUTH, "%s: %s", whose, X509_verify_cert_error_string(code));
    }
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
    return rc;
}

int identity_check(const struct identity *identity, struct ha_err *err)
{
    if (X509_check_private_key(identity->cert, identity->key) != 1) {
        ERR_clear_error();
        return ha_err_set(err, HA_E_AUTH, "the key does not belong to the certificate");
    }
    if (!pem_has_usages(identity->cert))
        return ha_err_set(err, HA_E_AUTH,
                          "certificate: extended key usage lacks serverAuth or clientAuth");
    return verify_own(identity, err);
}

void identity_fini(struct identity *identity)
{
    X509_STORE_free(identity->store);
    sk_X509_pop_free(identity->chain, X509_free);
    X509_free(identity->cert);
    EVP_PKEY_free(identity->key); /* clears the private number */
    memset(identity, 0, sizeof(*identity));
}
