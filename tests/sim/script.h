/* SPDX-License-Identifier: Apache-2.0
 *
 * Scripts of simulated worlds: what is in them, and their reader.
 *
 *   nodes N                          2 to SIM_NODES; all are off at first
 *   shutdown stop|migrate            what hosts that shut down do with their guests
 *   fencing none|strip               whether a power strip that all reach switches every node
 *   guest NAME WANT FAILURES STARTS MIGRATIONS STOPS
 *                                    WANT: started, stopped, absent (until `add`); FAILURES: of its
 *                                    restart limit; then how many starts, migrations and stops fail
 *   at MS VERB [WORD [WORD]]         see VERBS in script_read.c
 *   story MS                         before that no migration fails
 *   end MS
 *
 * Nodes are numbers. A line that is none of these ends the program with its number and the reason.
 */
#ifndef TESTS_SIM_SCRIPT_H
#define TESTS_SIM_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "hamgr/base/limits.h"

#define SIM_NODES    9u
#define SIM_GUESTS   24u
#define SCRIPT_LINES 512u
#define SCRIPT_WORD  32u /* bytes with the final NUL */

struct script_line {
    uint64_t at_ns;
    uint32_t number;
    char word[3][SCRIPT_WORD]; /* verb and its words; "": none */
    int guest;                 /* index of the one the verb is for; -1: it is for a node, or all */
};

struct script_guest {
    char name[HA_NAME_MAX];
    uint8_t want; /* enum ha_want */
    bool is_absent;
    uint16_t restart_max;
    uint32_t fails[3]; /* still to fail: starts, migrations, stops */
};

struct script {
    struct script_line lines[SCRIPT_LINES];
    uint32_t line_count;
    uint32_t node_count, guest_count;
    bool is_migrating; /* shutdown migrate */
    bool has_strip;    /* fencing strip */
    struct script_guest guests[SIM_GUESTS];
    uint64_t story_ns; /* from then on migrations fail that are to */
    uint64_t end_ns;
};

/* Reads and checks all of a file. NULL, or why it can't be played: a text of its own, or `text` of
 * `size` bytes; then *ret holds rubbish. */
const char *script_read(FILE *file, struct script *ret, char *text, size_t size);

/* The index of a guest by its name, or -1. */
int script_guest(const struct script *script, const char *name);

#endif
