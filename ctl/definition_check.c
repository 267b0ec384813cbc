/* SPDX-License-Identifier: Apache-2.0
 *
 * Before a guest is added: is what its definition names on this host? The nodes of a cluster are
 * asked through hamgrd (guest-check), if one answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/definition.h"
#include "hamgr/doctor/look.h"
#include "hamgr/hv/xen/definition.h"

static void add_thing(void *user, enum xen_thing kind, const char *name)
{
    static const uint8_t kinds[] = {[XEN_THING_FILE] = LOOK_FILE,
                                    [XEN_THING_DISK] = LOOK_DISK,
                                    [XEN_THING_BRIDGE] = LOOK_BRIDGE,
                                    [XEN_THING_MEDIUM] = LOOK_MEDIUM};
    struct look_ask *ask = user;
    struct look_thing *thing = &ask->things[ask->thing_count];

    if (ask->thing_count == LOOK_THINGS_MAX || strlen(name) >= sizeof(thing->name))
        return;
    thing->kind = kinds[kind];
    memcpy(thing->name, name, strlen(name) + 1);
    ask->thing_count++;
}

static const char *words_of(uint8_t state)
{
    static const char *const words[] = {[LOOK_MISSING] = "is not there",
                                        [LOOK_WRONG] = "is not what it should be",
                                        [LOOK_LOCAL] = "is on a file system of this host alone"};

    return state <= LOOK_LOCAL ? words[state] : NULL;
}

json_t *definition_lacks(const struct guest_definition *d)
{
    struct look_ask *ask = calloc(1, sizeof(*ask));
    struct look_tell *tell = calloc(1, sizeof(*tell));
    json_t *list = json_array();

    if (ask && tell) {
        xen_definition_things((const uint8_t *)d->text, d->size, add_thing, ask);
        look_host("", ask, tell);
    }
    for (uint32_t i = 0; tell && i < tell->found_count; i++) {
        const char *words = words_of(tell->found[i].state);
        if (words)
            json_array_append_new(
                list, json_pack("{s:s, s:s}", "name", ask->things[i].name, "text", words));
    }
    free(ask);
    free(tell);
    return list;
}
