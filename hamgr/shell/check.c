/* SPDX-License-Identifier: Apache-2.0
 *
 * Can a guest be started, and where? What its definition names is looked for on every node, now and
 * on request: before a guest is added or started, and for operators. What nodes find from time to
 * time by themselves is in things.c.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"
#include "hamgr/doctor/bars.h"
#include "hamgr/hv/xen/definition.h"

struct check {
    struct hamgrd *d;
    server_checked_fn done;
    void *user;
    bool is_xen; /* the definition is one for Xen */
    uint32_t home;
    uint32_t thing_count;
    struct look_thing things[PEER_LOOK_MAX];
};

/* What is beyond the limit is not looked for: the node that builds the guest will see. */
static void add_thing(void *user, enum xen_thing kind, const char *name)
{
    static const uint8_t kinds[] = {[XEN_THING_FILE] = LOOK_FILE,
                                    [XEN_THING_DISK] = LOOK_DISK,
                                    [XEN_THING_BRIDGE] = LOOK_BRIDGE,
                                    [XEN_THING_MEDIUM] = LOOK_MEDIUM};
    struct check *c = user;
    struct look_thing *thing = &c->things[c->thing_count];

    if (c->thing_count == PEER_LOOK_MAX || strlen(name) >= sizeof(thing->name))
        return;
    thing->kind = kinds[kind];
    memcpy(thing->name, name, strlen(name) + 1);
    c->thing_count++;
}

/* ---- the answers -------------------------------------------------------------------------------
 */

static int compare_found(const void *left, const void *right)
{
    const struct ha_found *a = left, *b = right;

    return a->key < b->key ? -1 : a->key > b->key;
}

/* list has room for PEER_LOOK_MAX. */
static uint32_t key_found(const struct check *c, const struct doctor_found *found,
                          struct ha_found *list)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < found->count && i < c->thing_count; i++)
        list[count++] = (struct ha_found){.key = ha_thing_key(&c->things[i]),
                                          .state = found->list[i].state,
                                          .id = found->list[i].id};
    qsort(list, count, sizeof(*list), compare_found);
    return count;
}

static bool may_run_guests(const struct hamgrd *d, uint32_t id)
{
    const struct ha_node *node = ha_state_node(&d->state, id);

    return node && !node->is_witness;
}

/* What stands against the guest by its things; ascending by node. Returns how many. */
static uint32_t make_bars(const struct check *c, const struct ha_doctor_input *in,
                          const struct doctor_found *found, struct ha_bar *ret_bars)
{
    static struct ha_bars_node nodes[HA_NODES_MAX];
    static struct ha_found lists[HA_NODES_MAX][PEER_LOOK_MAX];
    const struct look_thing *things[PEER_LOOK_MAX];
    struct ha_bars_guest guest = {.home = c->home, .thing_count = c->thing_count, .things = things};
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->thing_count; i++)
        things[i] = &c->things[i];
    for (uint32_t i = 0; i < in->node_count; i++) {
        if (!in->nodes[i].facts || !may_run_guests(c->d, in->nodes[i].id))
            continue;
        struct ha_bars_node *node = &nodes[count];
        *node = (struct ha_bars_node){.node = in->nodes[i].id,
                                      .found_count = key_found(c, &found[i], lists[count]),
                                      .found = lists[count]};
        memcpy(node->name, in->nodes[i].name, sizeof(node->name));
        count++;
    }
    return ha_bars_make(nodes, count, &guest, 1, ret_bars, HA_NODES_MAX);
}

static bool is_of_other_hypervisor(const struct check *c, const struct ha_facts *facts)
{
    const char *driver = facts->text[HA_TEXT_HYPERVISOR];

    return driver[0] != '\0' && (strncmp(driver, "xen:", 4) == 0) != c->is_xen;
}

static void judge(const struct check *c, const struct ha_doctor_node *node,
                  const struct ha_bar *bar, struct server_checked_node *ret)
{
    ret->node = node->id;
    ret->text[0] = ret->fix[0] = '\0';
    if (!node->facts) {
        ret->state = SERVER_CHECK_SILENT;
        snprintf(ret->text, sizeof(ret->text), "%s", node->silence);
        snprintf(ret->fix, sizeof(ret->fix), "start hamgrd on %s", node->name);
    } else if (bar) {
        ret->state = SERVER_CHECK_BARRED;
        snprintf(ret->text, sizeof(ret->text), "%s", bar->text);
        snprintf(ret->fix, sizeof(ret->fix), "%s", bar->fix);
    } else if (is_of_other_hypervisor(c, node->facts)) {
        ret->state = SERVER_CHECK_BARRED;
        snprintf(ret->text, sizeof(ret->text), "its hypervisor is %.40s, the definition is %s",
                 node->facts->text[HA_TEXT_HYPERVISOR], c->is_xen ? "one of Xen" : "none of Xen");
        snprintf(ret->fix, sizeof(ret->fix), "%s",
                 c->is_xen ? "add it with --memory instead of --config, or to a cluster on Xen"
                           : "add it with --config and an xl.cfg");
    } else if (node->facts->text[HA_TEXT_LOOK_WHY][0] && c->thing_count > 0) {
        ret->state = SERVER_CHECK_UNKNOWN;
        snprintf(ret->text, sizeof(ret->text), "it could not look: %s",
                 node->facts->text[HA_TEXT_LOOK_WHY]);
        snprintf(ret->fix, sizeof(ret->fix), "look at hamgr-hv on %s", node->name);
    } else {
        ret->state = SERVER_CHECK_ABLE;
    }
}

static void on_facts(void *user, const struct ha_doctor_input *in, const struct doctor_found *found)
{
    static struct server_checked checked;
    static struct ha_bar bars[HA_NODES_MAX];
    struct check *c = user;
    uint32_t bar_count = make_bars(c, in, found, bars);

    checked.count = 0;
    for (uint32_t i = 0; i < in->node_count; i++) {
        const struct ha_bar *bar = NULL;
        if (!may_run_guests(c->d, in->nodes[i].id))
            continue;
        for (uint32_t n = 0; n < bar_count; n++)
            bar = bars[n].node == in->nodes[i].id ? &bars[n] : bar;
        judge(c, &in->nodes[i], bar, &checked.nodes[checked.count++]);
    }
    c->done(c->user, &checked);
    free(c);
}

/* ---- the question ------------------------------------------------------------------------------
 */

void check_begin(struct hamgrd *d, const struct server_check *question, server_checked_fn done,
                 void *user)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, question->guest);
    struct check *c = calloc(1, sizeof(*c));
    const uint8_t *text = question->definition;
    size_t size = question->size;

    ha_assert(c);
    *c = (struct check){.d = d, .done = done, .user = user};
    if (guest && !text)
        text = store_definition(d->store, guest->definition, &size);
    if (guest)
        c->home = guest->phase == HA_PHASE_FREE ? guest->last_node : guest->node;
    c->is_xen = text && xen_definition_is_json(text, size);
    if (c->is_xen)
        xen_definition_things(text, size, add_thing, c);
    doctor_begin(d, c->things, c->thing_count, on_facts, c);
}
