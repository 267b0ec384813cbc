/* SPDX-License-Identifier: Apache-2.0
 *
 * What a restarted gate must know before hamgrd speaks to it again: whose guests these are, whether
 * pausing is owed, and how long the machine has slept. Root only, in a directory that a power-off
 * empties.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/hv/gate_parts.h"

#define STATE_MAGIC   0x54535648u /* "HVST" */
#define STATE_VERSION 2u
#define STATE_MAX     128u

static bool make_path(const struct gate *gate, const char *name, char *path)
{
    int length = snprintf(path, GATE_PATH_MAX, "%s/%s", gate->options.dir, name);

    return length > 0 && length < (int)GATE_PATH_MAX;
}

static void encode(const struct gate *gate, struct ha_writer *w)
{
    ha_put_u32(w, STATE_MAGIC);
    ha_put_u16(w, STATE_VERSION);
    ha_put_u8(w, gate->has_hello);
    ha_put_uuid(w, gate->hello.cluster_id);
    ha_put_u64(w, gate->hello.generation);
    ha_put_u8(w, gate->hello.is_disarmed);
    ha_put_u8(w, gate->hello.is_frozen);
    ha_put_u8(w, gate->fsm.was_armed);
    ha_put_u8(w, gate->fsm.has_slept);
    ha_put_u64(w, (uint64_t)gate->fsm.slept_ns);
    ha_put_u64(w, gate->fsm.void_end_ns);
    ha_put_u64(w, gate->fsm.woke_ns);
}

static bool decode(struct gate *gate, const uint8_t *bytes, size_t size)
{
    struct ha_reader r = ha_reader_of(bytes, size);
    uint32_t magic = ha_get_u32(&r);
    uint16_t version = ha_get_u16(&r);
    bool has_hello = ha_get_u8(&r) != 0;
    struct hvp_hello hello = {.cluster_id = ha_get_uuid(&r)};

    hello.generation = ha_get_u64(&r);
    hello.is_disarmed = ha_get_u8(&r) != 0;
    hello.is_frozen = ha_get_u8(&r) != 0;
    bool was_armed = ha_get_u8(&r) != 0;
    bool has_slept = ha_get_u8(&r) != 0;
    int64_t slept_ns = (int64_t)ha_get_u64(&r);
    /* Version 1 had neither. */
    uint64_t void_end_ns = version == 1 ? 0 : ha_get_u64(&r);
    uint64_t woke_ns = version == 1 ? 0 : ha_get_u64(&r);
    if (!ha_reader_is_done(&r) || magic != STATE_MAGIC || version < 1 || version > STATE_VERSION)
        return false;
    gate->has_hello = has_hello;
    gate->hello = hello;
    gate->fsm.was_armed = was_armed;
    gate->fsm.has_slept = has_slept;
    gate->fsm.slept_ns = slept_ns;
    gate->fsm.void_end_ns = void_end_ns;
    gate->fsm.woke_ns = woke_ns;
    return true;
}

void gate_state_load(struct gate *gate)
{
    char path[GATE_PATH_MAX];
    uint8_t bytes[STATE_MAX];

    if (!make_path(gate, "hv.state", path))
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return; /* the first start of this boot */
    ssize_t size = fd < 0 ? -1 : read(fd, bytes, sizeof(bytes));
    if (fd >= 0)
        close(fd);
    if (size >= 0 && decode(gate, bytes, (size_t)size))
        return;
    /* Unreadable is not "never armed": without the keeper's page the guests are paused. */
    gate->fsm.was_armed = true;
    qb_log(LOG_ERR, "gate: %s is damaged; pausing is taken to be owed", path);
}

void gate_state_save(const struct gate *gate)
{
    char path[GATE_PATH_MAX], temporary[GATE_PATH_MAX];
    uint8_t bytes[STATE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    encode(gate, &w);
    if (!make_path(gate, "hv.state", path) || !make_path(gate, "hv.state.new", temporary))
        return;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool is_written = fd >= 0 && write(fd, bytes, w.position) == (ssize_t)w.position;
    if (fd >= 0)
        close(fd);
    if (!is_written || rename(temporary, path) < 0)
        qb_log(LOG_ERR, "gate: can't write %s: %s", path, strerror(errno));
}
