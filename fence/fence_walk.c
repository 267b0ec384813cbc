/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices that can switch a node off, and the members that can run them.
 */
#include "fence/fence_walk.h"

#include <string.h>

#define LEVEL_MAX 9u

static bool covers(const struct fence_device *device, uint32_t node)
{
    if (device->is_for_all)
        return true;
    for (uint32_t i = 0; i < device->target_count && i < HA_NODES_MAX; i++) {
        if (device->targets[i] == node)
            return true;
    }
    return false;
}

/* Members in the order in which they are asked: this node, then ascending. NULL: none left. */
static const struct fence_member *member_at(const struct fence_input *in, uint32_t position)
{
    const struct fence_member *self = NULL;
    uint32_t others = 0;

    for (uint32_t i = 0; i < in->member_count; i++) {
        if (in->members[i].node == in->rt->self)
            self = &in->members[i];
    }
    if (self && position-- == 0)
        return self;
    for (uint32_t i = 0; i < in->member_count; i++) {
        const struct fence_member *member = &in->members[i];
        if (member != self && others++ == position)
            return member;
    }
    return NULL;
}

/* A node is never asked to switch itself off. */
static bool can_be_asked(const struct fence_input *in, const struct fence_member *member,
                         uint32_t target)
{
    const struct ha_node *node = ha_state_node(in->state, member->node);

    return member->node != target && !member->is_mute && node && node->status == HA_NODE_MEMBER;
}

/* Who cannot be asked still knows what a level consists of. */
static bool counts(const struct fence_input *in, const struct fence_walk *w,
                   const struct fence_member *member, uint32_t target)
{
    return w->level != 0 || can_be_asked(in, member, target);
}

/* level 0: whatever its level is. */
static const struct fence_device *device_of(const struct fence_member *member, const char *name,
                                            uint32_t target, uint8_t level)
{
    for (uint32_t i = 0; i < member->device_count && i < HA_DEVICES_MAX; i++) {
        const struct fence_device *device = &member->devices[i];
        if (covers(device, target) && (level == 0 || device->level == level) &&
            strncmp(device->name, name, HA_NAME_MAX) == 0)
            return device;
    }
    return NULL;
}

static bool is_seen_before(const struct fence_input *in, const struct fence_walk *w,
                           const char *name, uint32_t target)
{
    for (uint32_t i = 0; i < w->position; i++) {
        const struct fence_member *member = member_at(in, i);
        if (counts(in, w, member, target) && device_of(member, name, target, w->level))
            return true;
    }
    return device_of(w->member, name, target, w->level) != w->device;
}

static bool is_wanted(const struct fence_walk *w, uint32_t target)
{
    return covers(w->device, target) && (w->level == 0 || w->device->level == w->level);
}

bool fence_walk_next(const struct fence_input *in, struct fence_walk *w, uint32_t target)
{
    for (;;) {
        if (!w->member) {
            w->member = member_at(in, w->position);
            w->index = 0;
            if (!w->member)
                return false;
        }
        if (!counts(in, w, w->member, target) || w->index >= w->member->device_count ||
            w->index >= HA_DEVICES_MAX) {
            w->member = NULL;
            w->position++;
            continue;
        }
        w->device = &w->member->devices[w->index++];
        if (is_wanted(w, target) && !is_seen_before(in, w, w->device->name, target))
            return true;
    }
}

uint8_t fence_walk_level(const struct fence_input *in, uint32_t target, uint8_t above)
{
    struct fence_walk w = {0};
    uint8_t level = LEVEL_MAX + 1;

    while (fence_walk_next(in, &w, target)) {
        if (w.device->level > above && w.device->level < level)
            level = w.device->level;
    }
    return level > LEVEL_MAX ? 0 : level;
}

const struct fence_member *fence_walk_member(const struct fence_input *in, uint32_t target,
                                             const char *name, uint32_t attempt)
{
    const struct fence_member *member;
    uint32_t able = 0;

    for (uint32_t i = 0; (member = member_at(in, i)) != NULL; i++)
        able += can_be_asked(in, member, target) && device_of(member, name, target, 0);
    uint32_t wanted = able ? (attempt - 1) % able : 0;
    for (uint32_t i = 0; (member = member_at(in, i)) != NULL; i++) {
        if (can_be_asked(in, member, target) && device_of(member, name, target, 0) && wanted-- == 0)
            return member;
    }
    return NULL;
}
