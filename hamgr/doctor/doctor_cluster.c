/* SPDX-License-Identifier: Apache-2.0
 *
 * Findings about the cluster as a whole: who can fence whom, voters, versions, memory promised, and
 * guests that can't run or can't be proven quiet.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/core/plan.h"
#include "hamgr/doctor/doctor_internal.h"

#define DAY_MS        UINT64_C(86400000)
#define PROOF_DAYS    90u /* a device that worked last quarter */
#define VOTERS_ENOUGH 3u

/* ---- fencing ---- */

/* Is name one of " n1 n2 "? */
static bool has_word(const char *words, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = strstr(words, name); at; at = strstr(at + 1, name)) {
        if (at > words && at[-1] == ' ' && at[length] == ' ')
            return true;
    }
    return false;
}

static bool is_for(const struct ha_fact_item *item, uint16_t list, const char *name)
{
    return item->list == list && (strcmp(item->text, "*") == 0 || has_word(item->text, name));
}

/* A device of another node's: what a node can do to itself helps nobody when it is lost. */
static bool is_fenceable(const struct doctor *d, const struct ha_node *node)
{
    for (uint32_t i = 0; i < d->in->node_count; i++) {
        const struct ha_doctor_node *other = &d->in->nodes[i];
        for (uint32_t n = 0; other->facts && n < other->facts->item_count; n++) {
            if (other->id != node->id &&
                is_for(&other->facts->items[n], HA_LIST_DEVICE, node->name))
                return true;
        }
    }
    return false;
}

static void judge_proof(struct doctor *d, const struct ha_doctor_node *node,
                        const struct ha_fact_item *item)
{
    uint64_t age_ms = d->in->wall_ms > item->value ? d->in->wall_ms - item->value : 0;

    if (item->list != HA_LIST_DEVICE || (item->value != 0 && age_ms < PROOF_DAYS * DAY_MS))
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_FENCE_UNPROVEN, HA_SEVERITY_WARNING, node->id);
    if (item->value == 0)
        snprintf(f->what, sizeof(f->what), "%s: fence device %.60s has never answered", node->name,
                 item->subject);
    else
        snprintf(f->what, sizeof(f->what),
                 "%s: fence device %.60s answered last %" PRIu64 " days ago", node->name,
                 item->subject, age_ms / DAY_MS);
    snprintf(f->fix, sizeof(f->fix),
             "journalctl -u hamgr-fence on %s says why; then hactl fence a node of it, looking at "
             "the machine",
             node->name);
}

/* Longer lists of nodes may have been cut. */
#define NODES_WHOLE (HA_FACT_TEXT_MAX - HA_NAME_MAX - 2u)

/* Does its file name a device for target on the level; that of `item`, if item is given? */
static bool names(const struct ha_facts *facts, uint64_t level, const char *target,
                  const struct ha_fact_item *item)
{
    for (uint32_t i = 0; i < facts->item_count; i++) {
        const struct ha_fact_item *own = &facts->items[i];
        if (own->list != HA_LIST_FENCE_LEVEL || own->value != level)
            continue;
        bool is_whole = strlen(own->text) < NODES_WHOLE;
        if (item ? strcmp(own->subject, item->subject) == 0 &&
                       (!is_whole || is_for(own, HA_LIST_FENCE_LEVEL, target))
                 : is_for(own, HA_LIST_FENCE_LEVEL, target))
            return true;
    }
    return false;
}

/* Whom node could switch off by a part of a level only that this item of another's file is in. Not
 * itself: nobody asks it to. */
static const struct ha_node *halved_target(const struct doctor *d,
                                           const struct ha_doctor_node *node,
                                           const struct ha_fact_item *item)
{
    for (uint32_t i = 0; i < d->in->state->node_count; i++) {
        const struct ha_node *target = &d->in->state->nodes[i];
        if (target->id != node->id && is_for(item, HA_LIST_FENCE_LEVEL, target->name) &&
            names(node->facts, item->value, target->name, NULL) &&
            !names(node->facts, item->value, target->name, item))
            return target;
    }
    return NULL;
}

/* The first difference to another's file: with its mending the next is told. */
static void judge_levels(struct doctor *d, const struct ha_doctor_node *node)
{
    for (uint32_t i = 0; i < d->in->node_count; i++) {
        const struct ha_doctor_node *other = &d->in->nodes[i];
        for (uint32_t n = 0; other->facts && n < other->facts->item_count; n++) {
            const struct ha_fact_item *item = &other->facts->items[n];
            const struct ha_node *target = halved_target(d, node, item);
            if (!target)
                continue;
            struct ha_finding *f =
                doctor_find(d, HA_FINDING_FENCES_DIFFER, HA_SEVERITY_WARNING, node->id);
            snprintf(f->what, sizeof(f->what),
                     "%s: its fence.conf names a part of level %" PRIu64
                     " for %s only: %s's names %.60s, too",
                     node->name, item->value, target->name, other->name, item->subject);
            snprintf(f->fix, sizeof(f->fix),
                     "name %.60s with level %" PRIu64 " in /etc/hamgr/fence.conf of %s, or, if no "
                     "power comes through it, take it out of %s's",
                     item->subject, item->value, node->name, other->name);
            return;
        }
    }
}

void doctor_fencing(struct doctor *d)
{
    const struct ha_state *state = d->in->state;

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        if (node->is_witness || is_fenceable(d, node))
            continue;
        struct ha_finding *f = doctor_find(d, HA_FINDING_NO_FENCE, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: no other node has a fence device for it",
                 node->name);
        snprintf(
            f->fix, sizeof(f->fix),
            "name one in /etc/hamgr/fence.conf of the other nodes (deploy/examples/fence.conf)");
    }
    for (uint32_t i = 0; i < d->in->node_count; i++) {
        const struct ha_doctor_node *node = &d->in->nodes[i];
        for (uint32_t n = 0; node->facts && n < node->facts->item_count; n++)
            judge_proof(d, node, &node->facts->items[n]);
        if (node->facts)
            judge_levels(d, node);
    }
}

/* ---- nodes against each other ---- */

static bool differs(const struct ha_facts *a, const struct ha_facts *b, enum ha_fact_number fact)
{
    return a->is_known[fact] && b->is_known[fact] && a->number[fact] != b->number[fact];
}

static void judge_version(struct doctor *d, const struct ha_doctor_node *node,
                          const struct ha_doctor_node *first)
{
    const char *own = node->facts->text[HA_TEXT_VERSION];
    const char *other = first->facts->text[HA_TEXT_VERSION];

    if (own[0] == '\0' || other[0] == '\0' || strcmp(own, other) == 0)
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_VERSIONS_DIFFER, HA_SEVERITY_ERROR, node->id);
    snprintf(f->what, sizeof(f->what), "%s runs hamgr %.30s, %s runs %.30s", node->name, own,
             first->name, other);
    snprintf(f->fix, sizeof(f->fix), "install the same on all nodes, restart hamgrd on each");
}

static void judge_tokens(struct doctor *d, const struct ha_doctor_node *node,
                         const struct ha_doctor_node *first)
{
    const struct ha_facts *own = node->facts, *other = first->facts;

    if (!differs(own, other, HA_FACT_TOKEN_MS) && !differs(own, other, HA_FACT_CONSENSUS_MS))
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_TOKENS_DIFFER, HA_SEVERITY_ERROR, node->id);
    snprintf(f->what, sizeof(f->what),
             "%s: token %" PRIu64 " ms, consensus %" PRIu64 " ms; on %s %" PRIu64 " and %" PRIu64,
             node->name, own->number[HA_FACT_TOKEN_MS], own->number[HA_FACT_CONSENSUS_MS],
             first->name, other->number[HA_FACT_TOKEN_MS], other->number[HA_FACT_CONSENSUS_MS]);
    snprintf(f->fix, sizeof(f->fix),
             "the same corosync.conf on all nodes, then corosync-cfgtool -R");
}

static void judge_all_same(struct doctor *d)
{
    const struct ha_doctor_node *first = NULL;

    for (uint32_t i = 0; i < d->in->node_count; i++) {
        const struct ha_doctor_node *node = &d->in->nodes[i];
        if (!node->facts)
            continue;
        if (!first)
            first = node;
        judge_version(d, node, first);
        judge_tokens(d, node, first);
    }
}

/* ---- what the log says ---- */

static void judge_voters(struct doctor *d)
{
    uint32_t count = 0;
    struct ha_finding *f;

    for (uint32_t i = 0; i < d->in->state->node_count; i++)
        count += d->in->state->nodes[i].is_voter;
    if (count >= VOTERS_ENOUGH && count % 2 == 1)
        return;
    bool is_few = count < VOTERS_ENOUGH;
    f = doctor_find(d, is_few ? HA_FINDING_FEW_VOTERS : HA_FINDING_EVEN_VOTERS,
                    is_few ? HA_SEVERITY_WARNING : HA_SEVERITY_NOTE, 0);
    snprintf(f->what, sizeof(f->what), "the cluster has %u voter%s", (unsigned)count,
             count == 1 ? "" : "s");
    snprintf(f->fix, sizeof(f->fix),
             "add a node: hactl cluster add-node; a small machine is enough as --witness");
}

static void judge_promises(struct doctor *d)
{
    for (uint32_t i = 0; i < d->in->state->node_count; i++) {
        const struct ha_node *node = &d->in->state->nodes[i];
        uint64_t used_kib = ha_state_mem_used_kib(d->in->state, node->id);
        if (node->mem_kib == 0 || used_kib <= node->mem_kib)
            continue;
        struct ha_finding *f = doctor_find(d, HA_FINDING_OVERCOMMIT, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what),
                 "%s: %" PRIu64 " MiB are promised to guests, it has %" PRIu64, node->name,
                 used_kib / 1024, node->mem_kib / 1024);
        snprintf(f->fix, sizeof(f->fix),
                 "hactl migrate a guest away from %s, or give it back the memory", node->name);
    }
}

static void judge_bars(struct doctor *d)
{
    const struct ha_runtime *rt = d->in->rt;

    for (uint32_t i = 0; i < rt->bar_count; i++) {
        const struct ha_bar *bar = &rt->bars[i];
        const struct ha_guest *guest = ha_state_guest(d->in->state, bar->guest);
        const struct ha_node *node = ha_state_node(d->in->state, bar->node);
        if (!guest || !node || bar->from != 0)
            continue; /* of moves: the findings about processors and paging tell it */
        struct ha_finding *f = doctor_find(d, HA_FINDING_CANT_RUN, HA_SEVERITY_WARNING, node->id);
        memcpy(f->guest, guest->name, sizeof(f->guest));
        snprintf(f->what, sizeof(f->what), "%s can't run on %s: %.120s", guest->name, node->name,
                 bar->text);
        snprintf(f->fix, sizeof(f->fix), "%s", bar->fix);
    }
}

/* What stands against a start of the guest on every node that runs guests; NULL: one has all. */
static const struct ha_bar *barred_everywhere(const struct doctor *d, const struct ha_guest *guest)
{
    const struct ha_bar *first = NULL;

    for (uint32_t i = 0; i < d->in->state->node_count; i++) {
        const struct ha_node *node = &d->in->state->nodes[i];
        if (node->is_witness)
            continue;
        const struct ha_bar *bar = ha_bar_against(d->in->rt, guest->id, 0, node->id, 0);
        if (!bar)
            return NULL;
        first = first ? first : bar;
    }
    return first;
}

static void judge_admission(struct doctor *d)
{
    for (uint32_t i = 0; i < d->in->state->guest_count; i++) {
        const struct ha_guest *guest = &d->in->state->guests[i];
        const struct ha_bar *bar = barred_everywhere(d, guest);
        if (!bar)
            continue;
        const struct ha_node *node = ha_state_node(d->in->state, bar->node);
        struct ha_finding *f = doctor_find(
            d, HA_FINDING_RUNS_NOWHERE,
            guest->want == HA_WANT_STARTED ? HA_SEVERITY_ERROR : HA_SEVERITY_WARNING, 0);
        memcpy(f->guest, guest->name, sizeof(f->guest));
        snprintf(f->what, sizeof(f->what), "%s is refused by every node; %s: %.120s", guest->name,
                 node ? node->name : "", bar->text);
        snprintf(f->fix, sizeof(f->fix), "%s", bar->fix);
    }
}

static void judge_elevators(struct doctor *d)
{
    for (uint32_t i = 0; i < d->in->guest_count; i++) {
        const struct ha_doctor_guest *guest = &d->in->guests[i];
        if (!guest->elevator)
            continue;
        struct ha_finding *f = doctor_find(d, HA_FINDING_GUEST_ELEVATOR, HA_SEVERITY_NOTE, 0);
        snprintf(f->guest, sizeof(f->guest), "%s", guest->name);
        snprintf(f->what, sizeof(f->what), "%s: its kernel is told elevator=%.30s", guest->name,
                 guest->elevator);
        snprintf(f->fix, sizeof(f->fix),
                 "take it off the definition's command line; in the guest a udev rule: "
                 "KERNEL==\"xvd*\", ATTR{queue/scheduler}=\"none\" (kernels before 5.0: "
                 "elevator=noop)");
    }
}

static void judge_isolation(struct doctor *d)
{
    for (uint32_t i = 0; i < d->in->guest_count; i++) {
        const struct ha_doctor_guest *guest = &d->in->guests[i];
        if (!guest->never_quiet)
            continue;
        struct ha_finding *f = doctor_find(d, HA_FINDING_ISOLATION, HA_SEVERITY_NOTE, 0);
        snprintf(f->guest, sizeof(f->guest), "%s", guest->name);
        snprintf(f->what, sizeof(f->what), "%s: isolation resets the host: %.150s", guest->name,
                 guest->never_quiet);
        snprintf(f->fix, sizeof(f->fix),
                 "give it raw block devices below /dev (phy:), no files and no emulated disks");
    }
}

void doctor_cluster(struct doctor *d)
{
    judge_all_same(d);
    judge_voters(d);
    judge_promises(d);
    judge_bars(d);
    judge_admission(d);
    judge_elevators(d);
    judge_isolation(d);
}
