/* SPDX-License-Identifier: Apache-2.0
 *
 * The words for reasons, generated from the one table in reason.h.
 */
#include "hamgr/core/reason.h"

const char *ha_reason_name(uint16_t reason)
{
    switch (reason) {
#define X(symbol, number, name, text, fix)                                                         \
    case number:                                                                                   \
        return name;
        HA_REASONS(X)
#undef X
    default:
        return "unknown";
    }
}

const char *ha_reason_text(uint16_t reason)
{
    switch (reason) {
#define X(symbol, number, name, text, fix)                                                         \
    case number:                                                                                   \
        return text;
        HA_REASONS(X)
#undef X
    default:
        return "";
    }
}

const char *ha_reason_fix(uint16_t reason)
{
    switch (reason) {
#define X(symbol, number, name, text, fix)                                                         \
    case number:                                                                                   \
        return fix;
        HA_REASONS(X)
#undef X
    default:
        return "";
    }
}
