/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates and corosync's files. The private key is never read: its mode is enough.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "hamgr/doctor/look_internal.h"
#include "migrate/pem.h"

static X509 *read_certificate(const struct look *l, const char *path)
{
    char full[LOOK_FULL_MAX];
    FILE *file = look_path(l, full, "%s", path) ? fopen(full, "re") : NULL;
    X509 *cert = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;

    if (file)
        fclose(file);
    ERR_clear_error();
    return cert;
}

static void tell_end(const struct look *l, enum ha_fact_number fact, const X509 *cert)
{
    struct tm end;

    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &end) == 1) {
        time_t end_s = timegm(&end);
        ha_facts_set(l->facts, fact, end_s > 0 ? (uint64_t)end_s : 0);
    }
}

static void look_at_certificate(const struct look *l)
{
    X509 *cert = read_certificate(l, l->ask->cert_path);
    X509 *ca = read_certificate(l, l->ask->ca_path);
    char why[HA_FACT_TEXT_MAX];

    if (!cert || !ca) {
        snprintf(why, sizeof(why), "%.80s is missing or no PEM",
                 cert ? l->ask->ca_path : l->ask->cert_path);
        ha_facts_say(l->facts, HA_TEXT_CERT_WHY, why);
    } else {
        EVP_PKEY *key = X509_get0_pubkey(ca);
        ha_facts_set(l->facts, HA_FACT_IS_CERT_TRUSTED, key && X509_verify(cert, key) == 1);
        ha_facts_set(l->facts, HA_FACT_IS_CERT_NAMED, pem_has_name(cert, l->ask->node));
        ha_facts_set(l->facts, HA_FACT_IS_CERT_BOTH, pem_has_usages(cert));
        tell_end(l, HA_FACT_CERT_END_S, cert);
        tell_end(l, HA_FACT_CA_END_S, ca);
    }
    X509_free(cert);
    X509_free(ca);
    ERR_clear_error();
}

/* ringN_addr of the first node: links that are configured. */
static uint64_t count_links(const char *conf)
{
    const char *list = strstr(conf, "nodelist");
    const char *node = list ? strstr(list, "node {") : NULL;
    const char *end = node ? strchr(node, '}') : NULL;
    uint64_t count = 0;

    for (const char *at = node ? strstr(node, "ring") : NULL; at && end && at < end;
         at = strstr(at + 1, "ring")) {
        bool is_address = at[4] >= '0' && at[4] <= '7' && strncmp(at + 5, "_addr", 5) == 0;
        count += is_address;
    }
    return count;
}

static void look_at_corosync(const struct look *l)
{
    char conf[32768];
    struct stat st;

    if (look_text(l, "/etc/corosync/corosync.conf", conf, sizeof(conf))) {
        uint64_t links = count_links(conf);
        if (links > 0)
            ha_facts_set(l->facts, HA_FACT_LINK_COUNT, links);
    }
    if (look_stat(l, "/etc/corosync/authkey", &st))
        ha_facts_set(l->facts, HA_FACT_AUTHKEY_MODE, st.st_mode & 0777);
}

void look_trust(const struct look *l)
{
    struct stat st;

    look_at_certificate(l);
    if (look_stat(l, l->ask->key_path, &st))
        ha_facts_set(l->facts, HA_FACT_KEY_MODE, st.st_mode & 0777);
    look_at_corosync(l);
}
