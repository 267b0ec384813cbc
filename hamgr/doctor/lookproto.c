/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of a look and its answer; decoders refuse short, long and out-of-range ones alike.
 */
#include "hamgr/doctor/lookproto.h"

#include <string.h>

#include "hamgr/base/err.h"

void look_ask_encode(struct ha_writer *w, const struct look_ask *m)
{
    ha_put_text(w, m->node);
    ha_put_u8(w, m->is_xen);
    ha_put_text(w, m->ca_path);
    ha_put_text(w, m->cert_path);
    ha_put_text(w, m->key_path);
    ha_put_text(w, m->watchdog);
    ha_put_u32(w, m->thing_count);
    for (uint32_t i = 0; i < m->thing_count; i++) {
        ha_put_u8(w, m->things[i].kind);
        ha_put_text(w, m->things[i].name);
    }
}

int look_ask_decode(const uint8_t *body, size_t size, struct look_ask *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    memset(ret, 0, sizeof(*ret));
    ha_get_text(&r, ret->node, sizeof(ret->node));
    ret->is_xen = ha_get_u8(&r) != 0;
    ha_get_text(&r, ret->ca_path, sizeof(ret->ca_path));
    ha_get_text(&r, ret->cert_path, sizeof(ret->cert_path));
    ha_get_text(&r, ret->key_path, sizeof(ret->key_path));
    ha_get_text(&r, ret->watchdog, sizeof(ret->watchdog));
    ret->thing_count = ha_get_u32(&r);
    if (ret->thing_count > LOOK_THINGS_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->thing_count && !r.failed; i++) {
        struct look_thing *thing = &ret->things[i];
        thing->kind = ha_get_u8(&r);
        ha_get_text(&r, thing->name, sizeof(thing->name));
        r.failed = r.failed || thing->kind < LOOK_FILE || thing->kind > LOOK_MEDIUM;
    }
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}

void look_tell_encode(struct ha_writer *w, const struct look_tell *m)
{
    ha_facts_encode(w, &m->facts);
    ha_put_u32(w, m->found_count);
    for (uint32_t i = 0; i < m->found_count; i++) {
        ha_put_u8(w, m->found[i].state);
        ha_put_u64(w, m->found[i].id);
    }
}

int look_tell_decode(const uint8_t *body, size_t size, struct look_tell *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    memset(ret, 0, sizeof(*ret));
    ha_facts_decode(&r, &ret->facts);
    ret->found_count = ha_get_u32(&r);
    if (ret->found_count > LOOK_THINGS_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->found_count && !r.failed; i++) {
        ret->found[i].state = ha_get_u8(&r);
        ret->found[i].id = ha_get_u64(&r);
        r.failed = r.failed || ret->found[i].state > LOOK_LOCAL;
    }
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}
