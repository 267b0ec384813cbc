/* SPDX-License-Identifier: Apache-2.0
 *
 * What this node's hamgrd knows of itself that doctor judges: its connections, its watchdog, its
 * corosync, its fence devices. What lies on the host beside it is looked at by hamgr-hv.
 */
#include "hamgr/shell/shell.h"

static void fill_keeper(const struct hamgrd *d, struct ha_facts *facts)
{
    ha_facts_set(facts, HA_FACT_IS_KEEPER_KNOWN, d->is_keeper_known);
    if (!d->is_keeper_known)
        return;
    ha_facts_set(facts, HA_FACT_IS_ARMED, d->keeper_status.is_armed);
    ha_facts_set(facts, HA_FACT_WATCHDOG_MS, d->keeper_status.watchdog_ms);
    ha_facts_say(facts, HA_TEXT_KEEPER, d->keeper_status.text);
}

static void fill_corosync(const struct hamgrd *d, struct ha_facts *facts)
{
    if (d->corosync.self == 0)
        return; /* it was not reached yet */
    const char *refusal = transport_config_refusal(&d->corosync);
    ha_facts_set(facts, HA_FACT_TOKEN_MS, d->corosync.token_ms);
    ha_facts_set(facts, HA_FACT_CONSENSUS_MS, d->corosync.consensus_ms);
    ha_facts_set(facts, HA_FACT_LEASE_MS, d->rt.lease_ms);
    if (refusal)
        ha_facts_say(facts, HA_TEXT_COROSYNC_WHY, refusal);
}

/* " n1 n2 ", cut between names. */
static void add_device(const struct fencep_device *device, struct ha_facts *facts)
{
    char nodes[HA_FACT_TEXT_MAX] = " ";
    size_t used = 1;

    for (uint32_t i = 0; i < device->node_count; i++) {
        size_t length = strlen(device->nodes[i]);
        if (used + length + 2 > sizeof(nodes))
            break;
        used += (size_t)snprintf(nodes + used, sizeof(nodes) - used, "%s ", device->nodes[i]);
    }
    const char *text = device->is_for_all ? "*" : nodes;
    ha_facts_add(facts, HA_LIST_DEVICE, device->name, device->proven_wall_ms, text);
    ha_facts_add(facts, HA_LIST_FENCE_LEVEL, device->name, device->level, text);
}

/* What other facts tell already is not told again. */
static void fill_alarm(const struct hamgrd *d, struct ha_facts *facts)
{
    bool is_guarded = (d->is_keeper_known && d->keeper_status.is_armed) || d->config.is_witness ||
                      d->state.is_disarmed;
    bool is_told = !d->is_hv_welcomed || !is_guarded || facts->text[HA_TEXT_COROSYNC_WHY][0];

    if (!is_told || d->is_stopped || d->rt.is_store_failed)
        ha_facts_say(facts, HA_TEXT_ALARM, d->rt.alarm);
}

void ownfacts_fill(const struct hamgrd *d, struct ha_facts *facts)
{
    char text[HA_FACT_TEXT_MAX];

    ha_facts_set(facts, HA_FACT_WALL_MS, shell_wall_ms());
    ha_facts_set(facts, HA_FACT_IS_XEN_WANTED, strcmp(d->config.hypervisor, "xen") == 0);
    ha_facts_set(facts, HA_FACT_IS_WITNESS, d->config.is_witness);
    if (!d->config.is_witness || d->is_hv_welcomed)
        ha_facts_set(facts, HA_FACT_IS_HV_READY, d->is_hv_welcomed);
    ha_facts_say(facts, HA_TEXT_VERSION, HA_VERSION);
    if (d->is_hv_welcomed) {
        snprintf(text, sizeof(text), "%s: %s", d->hv_welcome.caps.driver,
                 d->hv_welcome.caps.version);
        ha_facts_say(facts, HA_TEXT_HYPERVISOR, text);
    }
    fill_keeper(d, facts);
    fill_corosync(d, facts);
    for (uint32_t i = 0; i < d->own_devices.count; i++)
        add_device(&d->own_devices.list[i], facts);
    fill_alarm(d, facts);
}

void ownfacts_ask(const struct hamgrd *d, struct look_ask *ret_ask)
{
    memset(ret_ask, 0, sizeof(*ret_ask));
    ret_ask->is_xen = strcmp(d->config.hypervisor, "xen") == 0;
    snprintf(ret_ask->node, sizeof(ret_ask->node), "%s", d->config.name);
    snprintf(ret_ask->ca_path, sizeof(ret_ask->ca_path), "%s", d->config.ca_path);
    snprintf(ret_ask->cert_path, sizeof(ret_ask->cert_path), "%s", d->config.cert_path);
    snprintf(ret_ask->key_path, sizeof(ret_ask->key_path), "%s", d->config.key_path);
    snprintf(ret_ask->watchdog, sizeof(ret_ask->watchdog), "%s", d->config.watchdog_device);
}
