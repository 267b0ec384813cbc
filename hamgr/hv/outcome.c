/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "hamgr/hv/hv.h"

__attribute__((format(printf, 3, 0))) static void say(struct ha_err *err, int code, const char *fmt,
                                                      va_list args)
{
    if (!err)
        return;
    err->code = code < 0 ? -code : code;
    vsnprintf(err->text, sizeof(err->text), fmt, args);
}

enum hv_outcome hv_failed(struct ha_err *err, int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(err, code, fmt, args);
    va_end(args);
    return HV_FAILED;
}

enum hv_outcome hv_unknown(struct ha_err *err, int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(err, code, fmt, args);
    va_end(args);
    return HV_UNKNOWN;
}
