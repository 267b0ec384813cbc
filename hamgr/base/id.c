/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/id.h"

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"

static const char hex_digits[] = "0123456789abcdef";

static bool dash_before(unsigned byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void ha_uuid_format(struct ha_uuid id, char *ret_text)
{
    char *p = ret_text;

    for (unsigned i = 0; i < sizeof(id.b); i++) {
        if (dash_before(i))
            *p++ = '-';
        *p++ = hex_digits[id.b[i] >> 4];
        *p++ = hex_digits[id.b[i] & 15];
    }
    *p = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int ha_uuid_parse(const char *text, struct ha_uuid *ret_id)
{
    struct ha_uuid id;

    for (unsigned i = 0; i < sizeof(id.b); i++) {
        if (dash_before(i) && *text++ != '-')
            return -HA_E_USAGE;
        int high = hex_value(*text);
        int low = high < 0 ? -1 : hex_value(text[1]);
        if (low < 0)
            return -HA_E_USAGE;
        id.b[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    if (*text != '\0')
        return -HA_E_USAGE;
    *ret_id = id;
    return 0;
}

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool ha_name_is_valid(const char *name)
{
    size_t length = strnlen(name, HA_NAME_MAX);

    if (length == 0 || length == HA_NAME_MAX || !is_alnum(name[0]))
        return false;
    for (size_t i = 1; i < length; i++) {
        if (!is_alnum(name[i]) && name[i] != '.' && name[i] != '_' && name[i] != '-')
            return false;
    }
    return true;
}
