/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr/core/entry.c of the next version: TUNE has the common head and four bytes.
 */
#include "hamgr/core/entry.h"

static const char *built_cmd_name(uint8_t type);
static void built_cmd_encode(struct ha_writer *w, const struct ha_cmd *cmd);
static int built_cmd_decode(const uint8_t *body, size_t size, struct ha_cmd *ret_cmd);

#define ha_cmd_name   built_cmd_name
#define ha_cmd_encode built_cmd_encode
#define ha_cmd_decode built_cmd_decode
#include "hamgr/core/entry.c"
#undef ha_cmd_name
#undef ha_cmd_encode
#undef ha_cmd_decode

const char *ha_cmd_name(uint8_t type)
{
    return type == NEXT_CMD_TUNE ? "TUNE" : built_cmd_name(type);
}

void ha_cmd_encode(struct ha_writer *w, const struct ha_cmd *cmd)
{
    if (cmd->type != NEXT_CMD_TUNE) {
        built_cmd_encode(w, cmd);
        return;
    }
    put_head(w, cmd);
    ha_put_u32(w, cmd->u.guest_set.policy.restart_window_s);
}

int ha_cmd_decode(const uint8_t *body, size_t size, struct ha_cmd *ret_cmd)
{
    struct ha_reader r = ha_reader_of(body, size);

    if (size < 2 || body[1] != NEXT_CMD_TUNE)
        return built_cmd_decode(body, size, ret_cmd);
    if (ha_get_u8(&r) != BODY_FORM)
        return -HA_E_VERSION;
    memset(ret_cmd, 0, sizeof(*ret_cmd));
    ret_cmd->type = ha_get_u8(&r);
    get_head(&r, ret_cmd);
    ret_cmd->u.guest_set.policy.restart_window_s = ha_get_u32(&r);
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}
