/* SPDX-License-Identifier: Apache-2.0
 *
 * Findings about what nodes trust each other by: certificates, corosync's keys and links.
 */
#include <inttypes.h>
#include <stdio.h>

#include "hamgr/doctor/doctor_internal.h"

#define DAY_S       86400u
#define ENDS_SOON_S (30u * DAY_S)
#define MODE_KEY    0640u /* root's, and hamgrd's to read */
#define MODE_ROOT   0600u

/* ---- certificates ---- */

static void judge_end(struct doctor *d, const struct ha_doctor_node *node, enum ha_fact_number fact)
{
    uint64_t now_s = d->in->wall_ms / 1000, end_s = node->facts->number[fact];

    if (!node->facts->is_known[fact] || end_s > now_s + ENDS_SOON_S)
        return;
    bool is_ca = fact == HA_FACT_CA_END_S, has_ended = end_s <= now_s;
    uint64_t days = (has_ended ? now_s - end_s : end_s - now_s) / DAY_S;
    struct ha_finding *f =
        doctor_find(d, has_ended ? HA_FINDING_CERT_ENDED : HA_FINDING_CERT_ENDS,
                    has_ended ? HA_SEVERITY_ERROR : HA_SEVERITY_WARNING, node->id);
    snprintf(f->what, sizeof(f->what), "%s: %s %s %" PRIu64 " days%s", node->name,
             is_ca ? "the CA" : "its certificate", has_ended ? "ended" : "ends in", days,
             has_ended ? " ago" : "");
    if (is_ca)
        snprintf(f->fix, sizeof(f->fix),
                 "deploy/pki init DIR --renew, deploy/pki all DIR with every node, copy them all");
    else
        snprintf(f->fix, sizeof(f->fix),
                 "deploy/pki node DIR %s --renew, then copy DIR/%s to its /etc/hamgr/pki",
                 node->name, node->name);
}

static void judge_key(struct doctor *d, const struct ha_doctor_node *node)
{
    uint64_t mode = node->facts->number[HA_FACT_KEY_MODE];

    if (!node->facts->is_known[HA_FACT_KEY_MODE] || (mode & 0777u & ~MODE_KEY) == 0)
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_KEY_MODE, HA_SEVERITY_ERROR, node->id);
    snprintf(f->what, sizeof(f->what), "%s: the key of its certificate has mode %04o", node->name,
             (unsigned)mode);
    snprintf(f->fix, sizeof(f->fix),
             "on %s: chown root:hamgr /etc/hamgr/pki/node.key; chmod 0640 /etc/hamgr/pki/node.key",
             node->name);
}

static void judge_certificate(struct doctor *d, const struct ha_doctor_node *node)
{
    static const struct {
        enum ha_fact_number fact;
        enum ha_finding_code code;
        const char *what;
    } rules[] = {
        {HA_FACT_IS_CERT_NAMED, HA_FINDING_CERT_NAME, "its certificate names another node"},
        {HA_FACT_IS_CERT_TRUSTED, HA_FINDING_CERT_TRUST,
         "its certificate is not signed by the CA beside it"},
        {HA_FACT_IS_CERT_BOTH, HA_FINDING_CERT_USE,
         "its certificate is not for both, TLS server and client"},
    };
    struct ha_finding *f;

    if (node->facts->text[HA_TEXT_CERT_WHY][0]) {
        f = doctor_find(d, HA_FINDING_CERT_NONE, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: no usable certificate: %s", node->name,
                 node->facts->text[HA_TEXT_CERT_WHY]);
        snprintf(f->fix, sizeof(f->fix),
                 "deploy/pki node DIR %s, then copy DIR/%s to its /etc/hamgr/pki", node->name,
                 node->name);
    }
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if (!ha_facts_is_not(node->facts, rules[i].fact))
            continue;
        f = doctor_find(d, rules[i].code, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: %s", node->name, rules[i].what);
        snprintf(f->fix, sizeof(f->fix),
                 "deploy/pki node DIR %s --renew, then copy DIR/%s to its /etc/hamgr/pki",
                 node->name, node->name);
    }
    judge_end(d, node, HA_FACT_CERT_END_S);
    judge_end(d, node, HA_FACT_CA_END_S);
    judge_key(d, node);
}

/* ---- corosync ---- */

static void judge_corosync(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (facts->text[HA_TEXT_COROSYNC_WHY][0]) {
        f = doctor_find(d, HA_FINDING_COROSYNC, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: %s", node->name, facts->text[HA_TEXT_COROSYNC_WHY]);
        snprintf(f->fix, sizeof(f->fix),
                 "mend corosync.conf (deploy/examples/corosync.conf), then corosync-cfgtool -R");
    }
    if (facts->is_known[HA_FACT_LINK_COUNT] && facts->number[HA_FACT_LINK_COUNT] == 1) {
        f = doctor_find(d, HA_FINDING_ONE_LINK, HA_SEVERITY_NOTE, node->id);
        snprintf(f->what, sizeof(f->what), "%s: corosync has one link", node->name);
        snprintf(f->fix, sizeof(f->fix),
                 "give each node of corosync.conf a ring1_addr in a second network");
    }
    uint64_t mode = facts->number[HA_FACT_AUTHKEY_MODE];
    if (facts->is_known[HA_FACT_AUTHKEY_MODE] && (mode & 0777u & ~MODE_ROOT) != 0) {
        f = doctor_find(d, HA_FINDING_AUTHKEY_MODE, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: corosync's key has mode %04o", node->name,
                 (unsigned)mode);
        snprintf(f->fix, sizeof(f->fix), "on %s: chmod 0400 /etc/corosync/authkey", node->name);
    }
}

void doctor_trust(struct doctor *d, const struct ha_doctor_node *node)
{
    if (!ha_facts_is(node->facts, HA_FACT_IS_WITNESS)) /* it moves no guests */
        judge_certificate(d, node);
    judge_corosync(d, node);
}
