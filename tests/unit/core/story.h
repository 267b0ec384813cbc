/* SPDX-License-Identifier: Apache-2.0
 *
 * What the stories about states share: a beginning with guest 1 in some phase (owner or source n1,
 * destination n2), its owner record, an end that must hold together.
 */
#ifndef TESTS_UNIT_CORE_STORY_H
#define TESTS_UNIT_CORE_STORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/builders.h"

static inline struct build *story(uint32_t nodes, uint8_t phase)
{
    struct build *b = build_new(8);

    build_ready(b, nodes);
    assert_int_equal(build_guest(b, 1, HA_WANT_STARTED), 0);
    build_phase(b, 1, phase, 1, 2);
    return b;
}

static inline void end(struct build *b)
{
    const char *violation = ha_state_violation(&b->state);

    if (violation)
        fail_msg("violation: %s", violation);
    build_free(b);
}

static inline void assert_owner(const struct build *b, uint8_t phase, uint32_t node, uint64_t epoch)
{
    const struct ha_guest *guest = build_guest_of(b, 1);

    assert_string_equal(ha_phase_name(guest->phase), ha_phase_name(phase));
    assert_int_equal(guest->node, node);
    assert_int_equal(guest->epoch, epoch);
    if (node != 0)
        assert_int_equal(guest->incarnation, build_node_of(b, node)->incarnation);
    else
        assert_int_equal(guest->incarnation, 0);
}

#endif
