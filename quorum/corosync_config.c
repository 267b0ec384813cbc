/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/corosync_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/id.h"

/* Sticky: a key that could not be read must not pass for one that is not set. */
struct reader {
    cmap_handle_t cmap;
    cs_error_t failure; /* CS_OK so far */
};

static bool is_set(struct reader *r, cs_error_t cs)
{
    if (cs != CS_OK && cs != CS_ERR_NOT_EXIST && r->failure == CS_OK)
        r->failure = cs;
    return cs == CS_OK;
}

/* An integer key of any width; 0 when it is not set, or not a number. */
static uint64_t read_number(struct reader *r, const char *key)
{
    uint8_t raw[sizeof(uint64_t)] = {0};
    size_t size = sizeof(raw);
    cmap_value_types_t type = CMAP_VALUETYPE_STRING;
    uint64_t value = 0;

    cs_error_t cs = cmap_get(r->cmap, key, raw, &size, &type);
    if (cs == CS_ERR_INVALID_PARAM) /* longer than any number */
        return 0;
    if (!is_set(r, cs) || type < CMAP_VALUETYPE_INT8 || type > CMAP_VALUETYPE_UINT64)
        return 0;
    for (size_t i = size; i-- > 0;) /* cmap is local: this machine's order, little-endian */
        value = value << 8 | raw[i];
    return value;
}

/* A text key; "" when it is not set. False when it is longer than capacity - 1. */
static bool read_text(struct reader *r, const char *key, char *ret_text, size_t capacity)
{
    char *value = NULL;

    ret_text[0] = '\0';
    cs_error_t cs = cmap_get_string(r->cmap, key, &value);
    if (cs == CS_ERR_INVALID_PARAM || !is_set(r, cs)) /* not a text: a number */
        return true;
    bool fits = strlen(value) < capacity;
    if (fits)
        memcpy(ret_text, value, strlen(value) + 1);
    free(value);
    return fits;
}

/* on/off options are numbers in cmap, but an unknown spelling is kept as text. */
static bool read_switch(struct reader *r, const char *key)
{
    char text[8];

    if (read_number(r, key) != 0)
        return true;
    bool fits = read_text(r, key, text, sizeof(text));
    return !fits || (text[0] != '\0' && strcmp(text, "0") != 0 && strcmp(text, "no") != 0);
}

/* Node `position` of the list; its nodeid is known to be there. */
static int read_node(struct reader *r, unsigned position, uint32_t id,
                     struct transport_config *config, struct ha_err *err)
{
    char key[CMAP_KEYNAME_MAXLEN + 1];

    if (config->node_count == HA_NODES_MAX)
        return ha_err_set(err, HA_E_REFUSED,
                          "corosync.conf lists more than %u nodes: hamgr knows no more",
                          HA_NODES_MAX);
    struct transport_node *node = &config->nodes[config->node_count++];
    node->id = id;
    snprintf(key, sizeof(key), "nodelist.node.%u.name", position);
    bool fits = read_text(r, key, node->name, sizeof(node->name));
    snprintf(key, sizeof(key), "nodelist.node.%u.ring0_addr", position);
    fits = read_text(r, key, node->addr, sizeof(node->addr)) && fits;
    if (!fits)
        return ha_err_set(err, HA_E_REFUSED,
                          "corosync.conf: name or ring0_addr of node %u is longer than %u bytes",
                          id, HA_NAME_MAX - 1);
    return 0;
}

static int compare_nodes(const void *left, const void *right)
{
    const struct transport_node *a = left;
    const struct transport_node *b = right;

    return a->id < b->id ? -1 : a->id > b->id;
}

static int read_nodes(struct reader *r, struct transport_config *config, struct ha_err *err)
{
    char key[CMAP_KEYNAME_MAXLEN + 1];
    cmap_iter_handle_t iterator;
    cmap_value_types_t type;
    size_t size;
    int rc = 0;

    if (!is_set(r, cmap_iter_init(r->cmap, "nodelist.node.", &iterator)))
        return 0;
    for (;;) {
        cs_error_t cs = cmap_iter_next(r->cmap, iterator, key, &size, &type);
        if (rc < 0 || (cs != CS_ERR_NO_SECTIONS && !is_set(r, cs)) || cs != CS_OK)
            break;
        unsigned position;
        char word[16];
        if (sscanf(key, "nodelist.node.%u.%15s", &position, word) != 2 ||
            strcmp(word, "nodeid") != 0)
            continue;
        rc = read_node(r, position, (uint32_t)read_number(r, key), config, err);
    }
    cmap_iter_finalize(r->cmap, iterator);
    if (rc == 0)
        qsort(config->nodes, config->node_count, sizeof(config->nodes[0]), compare_nodes);
    return rc;
}

/* secauth is the old word for both; a cipher or a hash by name wins over it, as in corosync. */
static bool has_crypto(struct reader *r)
{
    char cipher[32];
    char hash[32];
    char secauth[8];

    read_text(r, "totem.secauth", secauth, sizeof(secauth));
    read_text(r, "totem.crypto_cipher", cipher, sizeof(cipher));
    read_text(r, "totem.crypto_hash", hash, sizeof(hash));
    bool is_default = strcmp(secauth, "on") == 0;
    bool has_cipher = cipher[0] ? strcmp(cipher, "none") != 0 : is_default;
    bool has_hash = hash[0] ? strcmp(hash, "none") != 0 : is_default;
    return has_cipher && has_hash;
}

static int fill(struct reader *r, struct transport_config *config, struct ha_err *err)
{
    if (!read_text(r, "totem.cluster_name", config->cluster_name, sizeof(config->cluster_name)))
        return ha_err_set(err, HA_E_REFUSED,
                          "corosync.conf: totem.cluster_name is longer than %u bytes",
                          HA_NAME_MAX - 1);
    config->token_ms = (uint32_t)read_number(r, "runtime.config.totem.token");
    config->consensus_ms = (uint32_t)read_number(r, "runtime.config.totem.consensus");
    config->has_two_node =
        read_switch(r, "quorum.two_node") || read_number(r, "runtime.votequorum.two_node") != 0;
    config->has_last_man_standing = read_switch(r, "quorum.last_man_standing");
    config->has_auto_tie_breaker = read_switch(r, "quorum.auto_tie_breaker");
    config->has_no_crypto = !has_crypto(r);
    return read_nodes(r, config, err);
}

int corosync_config_read(cmap_handle_t cmap, struct transport_config *ret_config,
                         struct ha_err *err)
{
    struct reader r = {.cmap = cmap, .failure = CS_OK};
    struct transport_config config;

    memset(&config, 0, sizeof(config)); /* with its padding: compared as bytes later */
    int rc = fill(&r, &config, err);
    if (r.failure == CS_ERR_TRY_AGAIN)
        return ha_err_set(err, EAGAIN, "corosync's cmap is busy");
    if (r.failure != CS_OK)
        return ha_err_set(err, HA_E_UNREACHABLE, "read corosync's cmap: %s",
                          cs_strerror(r.failure));
    if (rc == 0 && (config.token_ms == 0 || config.consensus_ms == 0))
        return ha_err_set(err, EAGAIN, "corosync's cmap has no timeouts yet");
    if (rc == 0)
        memcpy(ret_config, &config, sizeof(config));
    return rc;
}

static bool lists_node(const struct transport_config *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->node_count; i++) {
        if (config->nodes[i].id == id)
            return true;
    }
    return false;
}

static bool has_nameless_node(const struct transport_config *config)
{
    for (uint32_t i = 0; i < config->node_count; i++) {
        if (!ha_name_is_valid(config->nodes[i].name) || config->nodes[i].id == 0)
            return true;
    }
    return false;
}

static bool has_twins(const struct transport_config *config)
{
    for (uint32_t i = 0; i < config->node_count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (config->nodes[i].id == config->nodes[j].id ||
                strcmp(config->nodes[i].name, config->nodes[j].name) == 0)
                return true;
        }
    }
    return false;
}

const char *transport_config_refusal(const struct transport_config *config)
{
    if (config->has_two_node)
        return "corosync's quorum.two_node lets one node of two go on alone: both would run the "
               "guests after a split; remove two_node from corosync.conf and add a third node as "
               "witness";
    if (config->has_last_man_standing)
        return "corosync's quorum.last_man_standing lowers the quorum behind hamgr's back; remove "
               "last_man_standing from corosync.conf";
    if (config->has_auto_tie_breaker)
        return "corosync's quorum.auto_tie_breaker lets half of the nodes go on as if they were "
               "the majority; remove auto_tie_breaker from corosync.conf and add a node (a witness "
               "is enough) to make the number odd";
    if (config->has_no_crypto)
        return "corosync's traffic is not encrypted and authenticated: anybody on its network "
               "could "
               "steer the cluster; set crypto_cipher: aes256 and crypto_hash: sha256 in "
               "corosync.conf's totem section and make a key with corosync-keygen";
    if (config->cluster_name[0] == '\0')
        return "corosync.conf names no cluster; set totem.cluster_name, the same on every node";
    if (config->node_count == 0)
        return "corosync.conf has no nodelist; list every node with nodeid, name and ring0_addr";
    if (has_nameless_node(config))
        return "a node in corosync.conf's nodelist has no nodeid or no usable name; give each node "
               "a nodeid above 0 and a name of at most 63 of a-z A-Z 0-9 . _ -";
    if (has_twins(config))
        return "two nodes in corosync.conf's nodelist share a nodeid or a name; make them unique";
    if (!lists_node(config, config->self))
        return "this node's nodeid is not in corosync.conf's nodelist; add it on every node";
    return NULL;
}
