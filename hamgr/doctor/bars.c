/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands against each guest on each node, by things, processors and paging.
 */
#include "hamgr/doctor/bars.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/base/digest.h"
#include "hamgr/hv/xen/rules.h"

#define ALLOWED_MAX_S 600u /* hactl migrate takes no longer --max-downtime */

struct bars {
    const struct ha_bars_node *nodes;
    uint32_t node_count;
    struct ha_bar *out;
    uint32_t count, capacity;
};

uint64_t ha_thing_key(const struct look_thing *thing)
{
    struct ha_digest digest =
        ha_digest_bytes((struct ha_digest){thing->kind, 0}, thing->name, strlen(thing->name));

    return digest.low ? digest.low : 1;
}

static const struct ha_found *find(const struct ha_bars_node *node, uint64_t key)
{
    uint32_t low = 0, high = node->found_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (node->found[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < node->found_count && node->found[low].key == key ? &node->found[low] : NULL;
}

static const struct ha_bars_node *node_of(const struct bars *b, uint32_t id)
{
    for (uint32_t i = 0; i < b->node_count; i++) {
        if (b->nodes[i].node == id)
            return &b->nodes[i];
    }
    return NULL;
}

static struct ha_bar *add(struct bars *b, const struct ha_bars_guest *guest, uint32_t node)
{
    if (b->count == b->capacity)
        return NULL;
    struct ha_bar *bar = &b->out[b->count++];
    memset(bar, 0, sizeof(*bar));
    bar->guest = guest->id;
    bar->node = node;
    return bar;
}

/* ---- things ---- */

/* The node whose thing is the guest's own: where it runs or ran, else the first that has one. */
static const struct ha_bars_node *reference(const struct bars *b, const struct ha_bars_guest *guest,
                                            uint64_t key)
{
    const struct ha_bars_node *home = guest->home ? node_of(b, guest->home) : NULL;
    const struct ha_found *found = home ? find(home, key) : NULL;

    if (guest->home)
        return found && (found->state == LOOK_THERE || found->state == LOOK_LOCAL) ? home : NULL;
    for (uint32_t i = 0; i < b->node_count; i++) {
        found = find(&b->nodes[i], key);
        if (found && found->state == LOOK_THERE && found->id != 0)
            return &b->nodes[i];
    }
    return NULL;
}

static bool is_another(const struct ha_found *found, const struct ha_found *own)
{
    if (found->state == LOOK_LOCAL || own->state == LOOK_LOCAL)
        return true;
    return found->id != 0 && own->id != 0 && found->id != own->id;
}

static void say_missing(struct ha_bar *bar, const struct ha_bars_node *node,
                        const struct look_thing *thing, bool is_wrong)
{
    const char *what = thing->kind == LOOK_BRIDGE ? "bridge " : "";

    if (!bar)
        return;
    snprintf(bar->text, sizeof(bar->text), is_wrong ? "%s%.150s is no %s" : "no %s%.150s%s", what,
             thing->name,
             !is_wrong                    ? " there"
             : thing->kind == LOOK_BRIDGE ? "bridge"
             : thing->kind == LOOK_DISK   ? "disk"
                                          : "file");
    if (thing->kind == LOOK_BRIDGE)
        snprintf(bar->fix, sizeof(bar->fix), "make the bridge %.60s on %s", thing->name,
                 node->name);
    else if (thing->kind == LOOK_DISK)
        snprintf(bar->fix, sizeof(bar->fix), "connect the shared storage with %.120s to %s",
                 thing->name, node->name);
    else
        snprintf(bar->fix, sizeof(bar->fix), "copy %.120s to %s", thing->name, node->name);
}

static void say_another(struct ha_bar *bar, const struct ha_bars_node *node,
                        const struct look_thing *thing, const struct ha_bars_node *home)
{
    if (!bar)
        return;
    snprintf(bar->text, sizeof(bar->text), "%.120s is not the same as on %s", thing->name,
             home->name);
    if (thing->kind == LOOK_FILE)
        snprintf(bar->fix, sizeof(bar->fix), "copy %.120s from %.40s to %.40s", thing->name,
                 home->name, node->name);
    else
        snprintf(bar->fix, sizeof(bar->fix), "put it on storage that %.60s and %.60s share",
                 home->name, node->name);
}

/* One bar a node is enough: the first thing that stands against it. */
static bool bar_by_thing(struct bars *b, const struct ha_bars_guest *guest,
                         const struct ha_bars_node *node, const struct look_thing *thing)
{
    uint64_t key = ha_thing_key(thing);
    const struct ha_found *found = find(node, key);
    const struct ha_bars_node *home = reference(b, guest, key);

    if (!found || found->state == LOOK_UNKNOWN)
        return false;
    if (found->state == LOOK_MISSING || found->state == LOOK_WRONG) {
        say_missing(add(b, guest, node->node), node, thing, found->state == LOOK_WRONG);
        return true;
    }
    if (thing->kind == LOOK_BRIDGE || !home || home == node || !is_another(found, find(home, key)))
        return false;
    say_another(add(b, guest, node->node), node, thing, home);
    return true;
}

/* ---- moves ---- */

static struct ha_bar *add_move(struct bars *b, const struct ha_bars_guest *guest,
                               const struct ha_bars_node *from, const struct ha_bars_node *to)
{
    struct ha_bar *bar = add(b, guest, to->node);

    if (bar)
        bar->from = from->node;
    return bar;
}

static bool may_move(uint8_t kind, const struct ha_bars_cpu *from, const struct ha_bars_cpu *to,
                     char *ret_missing, size_t capacity)
{
    bool is_pv = kind == HA_KIND_PV;
    const char *own = is_pv ? to->pv : to->hvm, *most = is_pv ? to->pv_max : to->hvm_max;

    return ha_cpu_may_move(is_pv ? from->pv : from->hvm, most[0] ? most : own, ret_missing,
                           capacity);
}

static bool bar_by_cpu(struct bars *b, const struct ha_bars_guest *guest,
                       const struct ha_bars_node *from, const struct ha_bars_node *to)
{
    char missing[96];

    if (guest->kind == HA_KIND_UNKNOWN ||
        may_move(guest->kind, &from->cpu, &to->cpu, missing, sizeof(missing)))
        return false;
    struct ha_bar *bar = add_move(b, guest, from, to);
    if (!bar)
        return true;
    snprintf(bar->text, sizeof(bar->text),
             "its processor lacks %s, which the guest may use since it started on %s", missing,
             from->name);
    snprintf(bar->fix, sizeof(bar->fix),
             "level the processors (hactl doctor), or stop the guest and start it on %s", to->name);
    return true;
}

static void say_pause_fix(struct ha_bar *bar, uint8_t kind)
{
    uint32_t allow_s = bar->pause_ms / 1000 + 1;
    const char *other = kind == HA_KIND_PV ? "make the guest PVH" : "switch on VT-x or SVM there";

    if (allow_s > ALLOWED_MAX_S)
        snprintf(bar->fix, sizeof(bar->fix), "%s", other);
    else
        snprintf(bar->fix, sizeof(bar->fix),
                 "allow it: hactl migrate --max-downtime %" PRIu32 "s; or %s", allow_s, other);
}

/* A guest that can't be moved live stands still for the whole move: its contract decides. */
static void bar_by_pause(struct bars *b, const struct ha_bars_guest *guest,
                         const struct ha_bars_node *from, const struct ha_bars_node *to)
{
    static const uint8_t kinds[] = {0, XEN_KIND_PV, XEN_KIND_PVH, XEN_KIND_HVM};

    if (!from->is_paging_known || guest->kind == HA_KIND_UNKNOWN ||
        !xen_live_refusal(kinds[guest->kind], from->has_shadow, from->has_hap))
        return;
    struct ha_bar *bar = add_move(b, guest, from, to);
    if (!bar)
        return;
    bar->pause_ms = guest->pause_ms > 0 ? guest->pause_ms : 1;
    bar->contract_ms = guest->contract_ms;
    snprintf(bar->text, sizeof(bar->text),
             "it can't move live, Xen on %s %s: it would stand still for about %" PRIu32 ".%" PRIu32
             " s%s",
             from->name,
             guest->kind == HA_KIND_PV ? "can't log what a PV guest writes"
                                       : "has neither HAP nor shadow paging",
             bar->pause_ms / 1000, bar->pause_ms % 1000 / 100,
             guest->is_pause_guess ? " (a guess, nothing moved yet)" : "");
    say_pause_fix(bar, guest->kind);
}

/* Its memory would be copied, and its hand-over refused then: the source can't prove that nothing
 * it wrote is still on its way. */
static bool bar_by_quiet(struct bars *b, const struct ha_bars_guest *guest,
                         const struct ha_bars_node *from, const struct ha_bars_node *to)
{
    if (!guest->never_quiet)
        return false;
    struct ha_bar *bar = add_move(b, guest, from, to);
    if (!bar)
        return true;
    snprintf(bar->text, sizeof(bar->text),
             "%s can't prove that its disks are quiet, so it would not be handed over: %.100s",
             from->name, guest->never_quiet);
    snprintf(bar->fix, sizeof(bar->fix),
             "give it raw block devices below /dev (phy:), or stop the guest and start it on %s",
             to->name);
    return true;
}

static void judge(struct bars *b, const struct ha_bars_guest *guest,
                  const struct ha_bars_node *node)
{
    const struct ha_bars_node *from = guest->owner ? node_of(b, guest->owner) : NULL;

    for (uint32_t i = 0; i < guest->thing_count; i++) {
        if (bar_by_thing(b, guest, node, guest->things[i]))
            return;
    }
    if (!from || from == node || bar_by_quiet(b, guest, from, node) ||
        bar_by_cpu(b, guest, from, node))
        return;
    bar_by_pause(b, guest, from, node);
}

uint32_t ha_bars_make(const struct ha_bars_node *nodes, uint32_t node_count,
                      const struct ha_bars_guest *guests, uint32_t guest_count,
                      struct ha_bar *ret_bars, uint32_t capacity)
{
    struct bars b = {
        .nodes = nodes, .node_count = node_count, .out = ret_bars, .capacity = capacity};

    for (uint32_t g = 0; g < guest_count; g++) {
        for (uint32_t n = 0; n < node_count; n++)
            judge(&b, &guests[g], &nodes[n]);
    }
    return b.count;
}
