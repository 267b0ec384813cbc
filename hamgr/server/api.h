/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgrd's shell offers to the server of operators' requests (hamgr/server), and nothing more.
 * All calls on the loop's thread.
 */
#ifndef HAMGR_SERVER_API_H
#define HAMGR_SERVER_API_H

#include <sys/types.h>

#include <qb/qbloop.h>

#include "hamgr/config/config.h"
#include "hamgr/core/plan.h"
#include "hamgr/core/runtime.h"
#include "hamgr/doctor/doctor.h"
#include "hamgr/hv/precopy.h"

struct server_forecast {
    bool is_ok;
    uint8_t rate_from; /* enum precopy_rate_from */
    uint64_t dirty_bytes_s;
    uint64_t rate_bytes_s;
    uint64_t link_bytes_s; /* as just measured, 0 = it was not */
    uint32_t link_rtt_us;  /* 0 = not known */
    const char *link_text; /* why it was not; borrowed */
    struct precopy_forecast f;
    const char *text; /* why not; borrowed */
};

/* Can a guest be started, by what its definition names? Of a new guest `guest` is zero and
 * `definition` borrowed; of a known one it is NULL. */
struct server_check {
    struct ha_uuid guest;
    const uint8_t *definition;
    size_t size;
};

enum server_check_state {
    SERVER_CHECK_ABLE,
    SERVER_CHECK_BARRED,
    SERVER_CHECK_UNKNOWN, /* it answered, but could not look */
    SERVER_CHECK_SILENT,
};

struct server_checked {
    uint32_t count; /* nodes that may run guests */
    struct server_checked_node {
        uint32_t node;
        uint8_t state;          /* enum server_check_state */
        char text[HA_TEXT_MAX]; /* why not; "" if able */
        char fix[HA_TEXT_MAX];
    } nodes[HA_NODES_MAX];
};
typedef void (*server_checked_fn)(void *user, const struct server_checked *checked);

struct server_api {
    void *user;
    const struct ha_state *(*state)(void *user);
    const struct ha_runtime *(*runtime)(void *user); /* refreshed for each call */
    const struct ha_config *(*config)(void *user);
    const struct ha_plan_limits *(*limits)(void *user);
    /* Proposes cmd (fields actor and reason already set). done is called exactly once: outcome 0 =
     * applied, and took effect; HA_E_REFUSED = applied as no-op, reason says why; HA_E_NO_QUORUM =
     * never accepted; HA_E_UNKNOWN = may or may not be applied (the view closed meanwhile, or
     * a snapshot replaced what would tell). */
    void (*propose)(void *user, const struct ha_cmd *cmd,
                    void (*done)(void *done_user, int outcome, uint16_t reason, uint64_t index),
                    void *done_user);
    /* Makes this node a voter or takes a node's vote (LOG_KIND_VOTER); same outcomes. */
    void (*propose_voter)(void *user, bool is_added, uint32_t node, struct ha_uuid store_id,
                          void (*done)(void *done_user, int outcome, uint16_t reason,
                                       uint64_t index),
                          void *done_user);
    /* What a migration of guest to node would take; done is called exactly once. */
    void (*forecast)(void *user, struct ha_uuid guest, uint32_t node, uint32_t max_downtime_ms,
                     void (*done)(void *done_user, const struct server_forecast *forecast),
                     void *done_user);
    /* Facts of all nodes, for doctor; done is called exactly once, with what could be got. */
    void (*doctor)(void *user, void (*done)(void *done_user, const struct ha_doctor_input *input),
                   void *done_user);
    /* Every node looks for what the definition names; done is called exactly once. */
    void (*check)(void *user, const struct server_check *question, server_checked_fn done,
                  void *done_user);
    /* History lines (JSON objects) with index > after, oldest first. */
    int (*history)(void *user, uint64_t after, uint32_t count,
                   void (*fn)(void *fn_user, uint64_t index, const char *json), void *fn_user);
    const uint8_t *(*definition)(void *user, struct ha_digest digest, size_t *ret_size);
    /* Host shutdown was announced (hactl node-shutdown, from the unit's ExecStop). */
    void (*shutdown_begin)(void *user);
};

struct server;

/* Serves hactl over libqb IPC (socket transport) named `name`. admin_gid: group that may use every
 * verb, -1 = root only; others may only read if they can reach the socket. */
int server_open(qb_loop_t *loop, const char *name, gid_t admin_gid, const struct server_api *api,
                struct server **ret_server, struct ha_err *err);
/* Called by the shell after each applied entry and each second: pushes events to followers. */
void server_poke(struct server *server);
void server_close(struct server *server);

#endif
