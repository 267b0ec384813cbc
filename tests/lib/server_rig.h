/* SPDX-License-Identifier: Apache-2.0
 *
 * The server of operators' requests (hamgr/server) without libqb's sockets and without a cluster: a
 * few functions of libqb stand in for its own here, and proposals are applied at once to a state of
 * its own (tests/lib/builders.h). Programs that link this must not use libqb's loop or IPC.
 */
#ifndef TESTS_LIB_SERVER_RIG_H
#define TESTS_LIB_SERVER_RIG_H

#include <jansson.h>

#include "hamgr/server/request.h"
#include "tests/lib/builders.h"

struct rig_client; /* a connection of hactl */

struct server_rig {
    struct build *b;
    struct ha_runtime rt;
    struct ha_config config;
    struct ha_plan_limits limits;
    struct server *server;
    /* How proposals end: 0 = applied; else what done is told, without applying (HA_E_...). */
    int outcome;
    bool is_held; /* proposals wait until rig_release */
    uint32_t proposed_count;
    const char *definition;        /* of every guest; NULL: one that is no text */
    struct server_checked checked; /* what a check finds */
    uint32_t check_count;
    struct server_forecast forecast; /* what any forecast finds */
    struct ha_uuid checked_guest;
    struct ha_cmd last; /* the last command proposed; borrows nothing */
};

/* Three nodes that work, guests g1 (running on n1), g2 (assigned to n2), g3 (free). There is one
 * rig at a time. */
void rig_open(struct server_rig *r, gid_t admin_gid);
void rig_close(struct server_rig *r);

struct rig_client *rig_connect(uid_t uid, gid_t gid, pid_t pid);
void rig_disconnect(struct rig_client *client);
/* Sends a request of size bytes; whatever was answered before is forgotten. */
void rig_send(struct rig_client *client, const void *json, size_t size);
/* A message as libqb hands it over: its header's id and whatever follows. */
void rig_send_raw(struct rig_client *client, const void *data, size_t size);
/* The whole answer, parts and all; NULL if there is none yet. Borrowed until the next request. */
const char *rig_answer(struct rig_client *client);
/* send + answer + parse; the caller frees. Aborts without an answer or if it is no JSON. */
json_t *rig_ask(struct rig_client *client, const char *json);
/* "" or the first error's code, message or fix ("code", "message", "fix"). Borrowed from answer. */
const char *rig_error(const json_t *answer, const char *what);
/* Timers up to ms from now fire, in order. */
void rig_pass(uint64_t ms);
/* Ends proposals that are held with r->outcome. */
void rig_release(struct server_rig *r);

#endif
