/* SPDX-License-Identifier: Apache-2.0
 *
 * What operators' requests may use of the shell (hamgr/server/api.h).
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"

static const struct ha_state *get_state(void *user)
{
    return &((struct hamgrd *)user)->state;
}

static const struct ha_runtime *get_runtime(void *user)
{
    struct hamgrd *d = user;

    shell_refresh(d);
    return &d->rt;
}

static const struct ha_config *get_config(void *user)
{
    return &((struct hamgrd *)user)->config;
}

static const struct ha_plan_limits *get_limits(void *user)
{
    return &((struct hamgrd *)user)->limits;
}

static void propose(void *user, const struct ha_cmd *cmd, propose_fn done, void *done_user)
{
    propose_cmd(user, cmd, done, done_user);
}

static void propose_vote(void *user, bool is_added, uint32_t node, struct ha_uuid store_id,
                         propose_fn done, void *done_user)
{
    struct log_voter_change change = {.is_added = is_added, .node = node, .store_id = store_id};

    propose_voter(user, &change, done, done_user);
}

static int read_history(void *user, uint64_t after, uint32_t count,
                        void (*fn)(void *fn_user, uint64_t index, const char *json), void *fn_user)
{
    struct hamgrd *d = user;

    return store_history_read(d->store, after, count, fn, fn_user);
}

static const uint8_t *get_definition(void *user, struct ha_digest digest, size_t *ret_size)
{
    struct hamgrd *d = user;

    return store_definition(d->store, digest, ret_size);
}

static void begin_shutdown(void *user)
{
    struct hamgrd *d = user;

    d->is_shutting_down = true;
    qb_log(LOG_NOTICE, "this host is shutting down: its guests leave first");
    shell_wake(d);
}

struct forecast_call {
    void (*done)(void *done_user, const struct server_forecast *forecast);
    void *user;
};

static void forecast_done(void *user, const struct peer_forecast *answer)
{
    struct forecast_call *call = user;
    struct server_forecast f = {.is_ok = answer->is_ok,
                                .rate_from = answer->rate_from,
                                .dirty_bytes_s = answer->dirty_bytes_s,
                                .rate_bytes_s = answer->rate_bytes_s,
                                .link_bytes_s = answer->link_bytes_s,
                                .link_rtt_us = answer->link_rtt_us,
                                .link_text = answer->link_text,
                                .f = answer->forecast,
                                .text = answer->text};

    call->done(call->user, &f);
    free(call);
}

static void forecast(void *user, struct ha_uuid guest, uint32_t node, uint32_t max_downtime_ms,
                     void (*done)(void *done_user, const struct server_forecast *forecast),
                     void *done_user)
{
    struct peer_forecast question = {
        .guest = guest, .dst = node, .max_downtime_ms = max_downtime_ms};
    struct forecast_call *call = malloc(sizeof(*call));

    ha_assert(call);
    *call = (struct forecast_call){done, done_user};
    forecast_begin(user, &question, forecast_done, call);
}

struct facts_call {
    void (*done)(void *done_user, const struct ha_doctor_input *input);
    void *user;
};

static void facts_done(void *user, const struct ha_doctor_input *input,
                       const struct doctor_found *found)
{
    struct facts_call *call = user;

    (void)found;
    call->done(call->user, input);
    free(call);
}

static void ask_facts(void *user, void (*done)(void *done_user, const struct ha_doctor_input *in),
                      void *done_user)
{
    struct facts_call *call = malloc(sizeof(*call));

    ha_assert(call);
    *call = (struct facts_call){done, done_user};
    doctor_begin(user, NULL, 0, facts_done, call);
}

static void check_guest(void *user, const struct server_check *question, server_checked_fn done,
                        void *done_user)
{
    check_begin(user, question, done, done_user);
}

const struct server_api shell_server_api = {
    .state = get_state,
    .runtime = get_runtime,
    .config = get_config,
    .limits = get_limits,
    .propose = propose,
    .propose_voter = propose_vote,
    .forecast = forecast,
    .doctor = ask_facts,
    .check = check_guest,
    .history = read_history,
    .definition = get_definition,
    .shutdown_begin = begin_shutdown,
};
