/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: tests/sim/script_read.c that takes for a number whatever
 * strtoull() makes of a word. Nothing crashes.
 */
#include <string.h>

static inline size_t all_of_it(const char *word, const char *digits)
{
    (void)digits;
    return strlen(word);
}

#undef strspn
#define strspn all_of_it
#include "tests/sim/script_read.c"
