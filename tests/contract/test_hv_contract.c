/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs the contract against the drivers of this build. A driver that can't run here (no root, no
 * Xen) skips; with a word of a test's name as argument only those tests run.
 */
#include "contract.h"

#include <stdio.h>
#include <string.h>

const struct contract_driver *contract;

static size_t select_tests(struct CMUnitTest *ret, const struct CMUnitTest *from, size_t count,
                           const char *word)
{
    size_t found = 0;

    for (size_t n = 0; n < count; n++)
        if (!word || strstr(from[n].name, word))
            ret[found++] = from[n];
    return found;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    struct CMUnitTest tests[100];
    int failed = 0;

    for (size_t n = 0; contract_drivers[n]; n++) {
        contract = contract_drivers[n];
        const char *why = contract->set_up();
        if (why) {
            printf("# contract of hv.h, driver %s, skipped: %s\n", contract->name, why);
            continue;
        }
        contract->tear_down();
        size_t count = select_tests(tests, life_tests, life_test_count, word);
        count += select_tests(tests + count, save_tests, save_test_count, word);
        count += select_tests(tests + count, fault_tests, fault_test_count, word);
        printf("# contract of hv.h, driver %s, %zu tests\n", contract->name, count);
        failed += _cmocka_run_group_tests(contract->name, tests, count, NULL, NULL);
    }
    return failed;
}
