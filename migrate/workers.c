/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/workers.h"

#include <sched.h>

#include "migrate/pipeline.h"

unsigned workers_for(unsigned wanted)
{
    cpu_set_t set;
    unsigned count = 1;

    if (wanted > 0)
        return wanted < PIPELINE_WORKERS_MAX ? wanted : PIPELINE_WORKERS_MAX;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = (unsigned)CPU_COUNT(&set);
    return count < WORKERS_DEFAULT_MAX ? count : WORKERS_DEFAULT_MAX;
}
