/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/err.h"

#include <stdio.h>
#include <string.h>

const char *ha_err_name(int code)
{
    switch (code < 0 ? -code : code) {
#define X(symbol, number, name, text)                                                              \
    case number:                                                                                   \
        return name;
        HA_ERRORS(X)
#undef X
    default:
        return "errno";
    }
}

const char *ha_err_text(int code)
{
    switch (code < 0 ? -code : code) {
#define X(symbol, number, name, text)                                                              \
    case number:                                                                                   \
        return text;
        HA_ERRORS(X)
#undef X
    default:
        return "system error";
    }
}

int ha_err_set(struct ha_err *err, int code, const char *fmt, ...)
{
    va_list args;

    if (code < 0)
        code = -code;
    if (err) {
        err->code = code;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, args);
        va_end(args);
    }
    return -code;
}

int ha_err_prefix(struct ha_err *err, const char *fmt, ...)
{
    char words[HA_TEXT_MAX];
    char old[HA_TEXT_MAX];
    va_list args;

    if (!err)
        return -HA_E_UNKNOWN;
    va_start(args, fmt);
    vsnprintf(words, sizeof(words), fmt, args);
    va_end(args);
    memcpy(old, err->text, sizeof(old));
    old[sizeof(old) - 1] = '\0';
    size_t room = sizeof(err->text) - 1;
    size_t head = strnlen(words, room > 2 ? room - 2 : 0);
    memcpy(err->text, words, head);
    memcpy(err->text + head, ": ", 2);
    size_t tail = strnlen(old, room - head - 2);
    memcpy(err->text + head + 2, old, tail);
    err->text[head + 2 + tail] = '\0';
    return -err->code;
}
