/* SPDX-License-Identifier: Apache-2.0
 *
 * Two versions of hamgrd in one program: the product, and a second build of the same sources that
 * speaks one protocol more and says things in it that the product can't read (next/). Which of them
 * a process is, is settled when it starts. And I12: nothing of the next version reaches who has to
 * read it and can't.
 */
#include <string.h>

#include "hamgr/base/err.h"
#include "tests/sim/sim.h"

/* The second build's, under names of their own; all others of it are local to it (CMakeLists.txt).
 */
int next_shell_start(struct hamgrd *d, struct ha_err *err);
void next_shell_refresh(struct hamgrd *d);
uint64_t next_propose_cmd(struct hamgrd *d, const struct ha_cmd *cmd, propose_fn done, void *user);
uint64_t next_propose_voter(struct hamgrd *d, const struct log_voter_change *change,
                            propose_fn done, void *user);
void next_moves_child(struct hamgrd *d);
extern const struct server_api next_shell_server_api;
uint16_t next_ha_refusal(const struct ha_state *state, const struct ha_runtime *rt,
                         const struct ha_cmd *cmd, char ret_text[HA_TEXT_MAX],
                         char ret_fix[HA_TEXT_MAX]);
struct log *next_log_init(void *memory, const struct log_config *config,
                          const struct log_loaded *loaded);
int next_ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                        struct ha_applied *ret_applied);

struct log *__real_log_init(void *memory, const struct log_config *config,
                            const struct log_loaded *loaded);
struct log *__wrap_log_init(void *memory, const struct log_config *config,
                            const struct log_loaded *loaded);
int __real_ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                          struct ha_applied *ret_applied);
int __real_peer_report_decode(struct ha_reader *r, struct ha_report *ret);
int __wrap_peer_report_decode(struct ha_reader *r, struct ha_report *ret);

static uint64_t covered[SIM_COVERS];

const struct sim_build *sim_build_of(const struct sim_node *node)
{
    static const struct sim_build built = {shell_start,   shell_refresh, propose_cmd,
                                           propose_voter, moves_child,   &shell_server_api,
                                           ha_refusal};
    static const struct sim_build next = {
        next_shell_start, next_shell_refresh,     next_propose_cmd, next_propose_voter,
        next_moves_child, &next_shell_server_api, next_ha_refusal};

    return node->runs_next ? &next : &built;
}

/* The next version still speaks the product's protocol; a later one does not. */
struct log *__wrap_log_init(void *memory, const struct log_config *config,
                            const struct log_loaded *loaded)
{
    struct log_config later = *config;

    if (!sim.running->node->runs_next)
        return __real_log_init(memory, config, loaded);
    if (sim.running->node->version == SIM_VERSION_LATER)
        later.self.proto_min = later.self.proto_max;
    return next_log_init(memory, &later, loaded);
}

/* ---- I12 ---------------------------------------------------------------------------------------
 */

/* It is in the newest view that was committed: what is said there is for it. */
static bool is_member(const struct sim_node *node)
{
    const struct ha_node *n = ha_state_node(sim_truth(), node->id);

    return node->d && n && n->status == HA_NODE_MEMBER && n->nonce == node->d->nonce;
}

void sim_version_unreadable(const char *what, enum sim_version version)
{
    const struct sim_node *node = sim.running->node;

    if (version != SIM_VERSION_BUILT || is_member(node))
        sim_violation("I12", node->id, "a %s comes that it can't read", what);
    else
        sim_version_cover(SIM_COVER_DROPPED);
}

int __wrap_peer_report_decode(struct ha_reader *r, struct ha_report *ret)
{
    int rc = __real_peer_report_decode(r, ret);

    if (rc < 0)
        sim_version_unreadable("PEER_REPORT", SIM_VERSION_BUILT);
    return rc;
}

int sim_version_apply_truth(struct ha_state *truth, const struct log_entry *entry,
                            struct ha_applied *ret_applied, uint16_t proto)
{
    int rc = __real_ha_state_apply(truth, entry, ret_applied);

    if (rc != -HA_E_VERSION)
        return rc;
    if (proto <= LOG_PROTO_MAX)
        sim_violation("I12", entry->origin,
                      "entry %llu of the next version is committed where protocol %u is spoken",
                      (unsigned long long)entry->index, proto);
    sim_version_cover(SIM_COVER_ENTRY);
    return next_ha_state_apply(truth, entry, ret_applied);
}

int sim_version_apply(struct ha_state *state, const struct log_entry *entry,
                      struct ha_applied *ret_applied)
{
    const struct sim_node *node = sim.running ? sim.running->node : NULL;

    if (node && node->runs_next)
        return next_ha_state_apply(state, entry, ret_applied);
    int rc = __real_ha_state_apply(state, entry, ret_applied);
    if (rc == -HA_E_VERSION)
        sim_violation("I12", node ? node->id : 0, "it is to apply entry %llu, which it can't read",
                      (unsigned long long)entry->index);
    return rc;
}

bool sim_version_is_refused(const struct sim_node *node)
{
    return node->d && !node->runs_next && node->d->state.proto > LOG_PROTO_MAX &&
           strstr(node->d->alarm, "the log needs protocol ");
}

/* Behind its start an answer to a heartbeat, a view, L between two refusals, a second to the next
 * report. */
#define NAMED_MS 20000u

void sim_version_check_named(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct sim_node *node = sim_node(id);
        const struct hamgrd *d = node->d;
        if (!d || !d->log || node->runs_next || sim_truth()->proto <= LOG_PROTO_MAX ||
            sim_raw_ns(node) / NS_MS < d->started_ms + NAMED_MS)
            continue;
        if (!strstr(d->rt.alarm, " protocol ") || sim_has_plant("refused-silently"))
            sim_violation("I12", id, "it is too old for the log and does not say so: \"%.100s\"",
                          d->rt.alarm);
    }
}

void sim_version_cover(enum sim_cover_version what)
{
    covered[what]++;
}

uint64_t sim_version_covered(enum sim_cover_version what)
{
    return covered[what];
}
