/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/lines.h"

#include <string.h>

int ha_long_line(const char *text)
{
    int number = 1;

    for (;; number++) {
        const char *end = strchr(text, '\n');
        size_t length = end ? (size_t)(end - text) : strlen(text);
        if (length > HA_LINE_MAX)
            return number;
        if (!end)
            return 0;
        text = end + 1;
    }
}
