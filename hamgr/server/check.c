/* SPDX-License-Identifier: Apache-2.0
 *
 * The verb behind `hactl guest check` and `guest add --dry-run`, and what it guards: a guest that
 * no node could run is not added to be started, nor started, and the operator is told of each node
 * what it lacks and what to do.
 */
#include <stdio.h>
#include <string.h>

#include "hamgr/server/request.h"

static const char *name_of(struct request *r, uint32_t id)
{
    const struct ha_node *node = ha_state_node(request_state(r), id);

    return node ? node->name : "";
}

static json_t *checked_json(struct request *r, const struct server_checked *checked)
{
    static const char *const words[] = {[SERVER_CHECK_ABLE] = "able",
                                        [SERVER_CHECK_BARRED] = "barred",
                                        [SERVER_CHECK_UNKNOWN] = "unknown",
                                        [SERVER_CHECK_SILENT] = "silent"};
    json_t *list = json_array();

    for (uint32_t i = 0; i < checked->count; i++) {
        const struct server_checked_node *node = &checked->nodes[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o}", "node",
                                              name_of(r, node->node), "state", words[node->state],
                                              "text", request_string(node->text), "fix",
                                              request_string(node->fix)));
    }
    return list;
}

static void on_checked(void *user, const struct server_checked *checked)
{
    struct request *r = request_find((uint64_t)(uintptr_t)user);

    if (r)
        request_reply(r, json_pack("{s:o}", "nodes", checked_json(r, checked)));
}

static void run_check(struct request *r)
{
    const struct server_api *api = request_api(r);
    const char *text = request_text(r, "definition");
    struct server_check question = {.definition = (const uint8_t *)text};

    if (text && (text[0] == '\0' || strlen(text) > HA_DEFINITION_MAX)) {
        request_refuse(r, HA_E_USAGE, "the definition is empty or longer than 64 KiB", NULL);
        return;
    }
    if (text) {
        question.size = strlen(text);
    } else {
        const struct ha_guest *guest = request_guest(r, "guest");
        if (!guest)
            return;
        question.guest = guest->id;
    }
    uint64_t number = request_wait(r);
    api->check(api->user, &question, on_checked, (void *)(uintptr_t)number);
}

bool check_is_nowhere(const struct server_checked *checked)
{
    uint32_t barred = 0;

    for (uint32_t i = 0; i < checked->count; i++) {
        if (checked->nodes[i].state == SERVER_CHECK_ABLE ||
            checked->nodes[i].state == SERVER_CHECK_UNKNOWN)
            return false;
        barred += checked->nodes[i].state == SERVER_CHECK_BARRED;
    }
    return barred > 0;
}

/* Appends, cut at the end of the buffer. */
static void say(char *text, size_t size, const char *between, const char *name, const char *words)
{
    size_t used = strlen(text);

    if (words[0] != '\0')
        snprintf(text + used, size - used, "%s%s%s%s", used > 0 ? between : "", name,
                 name[0] ? ": " : "", words);
}

void check_refuse(struct request *r, const struct server_checked *checked, const char *or_else)
{
    char message[2048] = "", reasons[2000] = "", fix[2048] = "";

    for (uint32_t i = 0; i < checked->count; i++) {
        const struct server_checked_node *node = &checked->nodes[i];
        bool is_known = strstr(fix, node->fix) != NULL;
        say(reasons, sizeof(reasons), "; ", name_of(r, node->node), node->text);
        if (node->state == SERVER_CHECK_BARRED && !is_known)
            say(fix, sizeof(fix), ", or ", "", node->fix);
    }
    snprintf(message, sizeof(message), "no node can run it now: %s", reasons);
    say(fix, sizeof(fix), "; ", "", or_else);
    request_refuse(r, HA_E_REFUSED, message, fix);
}

static const char *const check_keys[] = {"guest", "definition", NULL};

const struct verb check_verbs[] = {
    {"guest-check", true, run_check, check_keys},
    {NULL, false, NULL, NULL},
};
