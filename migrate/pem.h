/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's identity as hamgr-stream gets it: one sealed memfd that holds CA, certificate chain
 * and private key, and its parsed form. hamgrd makes it (stream_spawn.h), hamgr-stream takes it
 * apart.
 *
 * Contents: the line "hamgr-pem 1 <ca bytes> <cert bytes> <key bytes>\n", then the three PEM texts.
 */
#ifndef HAMGR_MIGRATE_PEM_H
#define HAMGR_MIGRATE_PEM_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "hamgr/base/err.h"

#define PEM_PART_MAX 65536u /* bytes of each of the three files */

struct identity {
    X509_STORE *store;      /* trusts the CA given, nothing else */
    STACK_OF(X509) * chain; /* what comes behind the certificate; may be empty */
    X509 *cert;
    EVP_PKEY *key;
    int64_t expires_s; /* the earliest end among CA and certificate, seconds since 1970 */
};

/* Makes OpenSSL wipe every block it frees: its decoders leave copies of a key behind otherwise.
 * Must come before anything else of OpenSSL in the process. Returns 0, or -HA_E_USAGE if it comes
 * late. */
int pem_wipe_what_is_freed(void);

/* Parses a memfd of pem_seal (borrowed). The bytes read are wiped. Does not judge validity. Returns
 * 0 or a negative error; fini on success. */
int identity_load(int memfd, struct identity *ret, struct ha_err *err);
/* Checks what a migration needs of our own certificate: valid now, signed by the CA, both usages,
 * the key fits. Returns 0 or a negative error naming what is wrong. */
int identity_check(const struct identity *identity, struct ha_err *err);
/* Frees all, wiping the key. Idempotent. */
void identity_fini(struct identity *identity);

/* Writes the three PEM texts into a new sealed CLOEXEC memfd. Returns it or a negative error. */
int pem_seal(const char *ca, size_t ca_size, const char *cert, size_t cert_size, const char *key,
             size_t key_size, struct ha_err *err);

/* Does the certificate allow both TLS server and TLS client authentication, explicitly? */
bool pem_has_usages(X509 *cert);
/* Does a SAN dNSName equal name, exactly? */
bool pem_has_name(X509 *cert, const char *name);
/* The first SAN dNSName, or "?" in ret_name[HA_NAME_MAX]; unprintable bytes become '?'. */
void pem_first_name(X509 *cert, char *ret_name);

#endif
