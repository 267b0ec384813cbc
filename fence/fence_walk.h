/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices that can switch a node off, and the members that can run them: as members announced
 * them, one by one, by levels (levels are tried in turn, all devices of one level together). Pure.
 */
#ifndef FENCE_FENCE_WALK_H
#define FENCE_FENCE_WALK_H

#include "fence/fence_fsm.h"

/* Begins as all zero: the distinct devices for a target that a member can be asked for, each seen
 * at the first such member, whose word on its level counts. Or with a level: all that anybody, also
 * who is gone, ever named for it on that level. What is off only with them all is not off without
 * one that nobody left can drive (I7). */
struct fence_walk {
    uint8_t level;
    const struct fence_member *member;
    const struct fence_device *device;
    uint32_t position; /* of member */
    uint32_t index;    /* of the next device */
};

/* The next one is w->device, borrowed from in; false: there are no more. */
bool fence_walk_next(const struct fence_input *in, struct fence_walk *w, uint32_t target);
/* The lowest level above `above` with a device for the target that can be asked for; 0: none. */
uint8_t fence_walk_level(const struct fence_input *in, uint32_t target, uint8_t above);
/* Who runs the device at attempt 1, 2...: the first that knows it, at the next attempt the next
 * one. NULL: nobody can be asked. */
const struct fence_member *fence_walk_member(const struct fence_input *in, uint32_t target,
                                             const char *name, uint32_t attempt);

#endif
